"""The command line, one file per group of verbs."""

from tutelage.cli.main import main

__all__ = ["main"]
