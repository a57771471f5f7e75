"""`tutelage doctor`: what of the environment works. Heavy imports stay inside functions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from tutelage.cli.options import AsJson, Debug, RunsFolder
from tutelage.common.progress import print_lines


def doctor(runs: RunsFolder = Path("runs"), as_json: AsJson = False, debug: Debug = False) -> None:
    """Show what works here and what is missing, with the command that mends it; exit code 1 if training cannot run.

    tutelage doctor

    tutelage doctor --json
    """
    from tutelage.start.doctor import core_works, examine, table

    checks = examine(runs)
    works = core_works(checks)
    if as_json:
        print(json.dumps({"core_works": works, "checks": [asdict(check) for check in checks]}, ensure_ascii=False))
    else:
        print_lines(table(checks), 24)
        wrong = ", ".join(check.name for check in checks if check.core and check.state != "ok")
        print_lines(["", "The core works." if works else f"The core does not work: {wrong}."], 0)
    if not works:
        raise typer.Exit(1)
