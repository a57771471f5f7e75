"""Measurements side by side with other tools. Run from the repository's root: `python -m bench.sampling --help`."""
