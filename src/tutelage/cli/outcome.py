"""What a command that has run a recipe prints at the end: the table, what it says, and the models."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.cli.options import print_lines, print_markdown

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults


def say_at_once(name: str) -> None:
    """Say that a command has begun, for the imports that it needs take seconds. Ranks but the first say nothing."""
    if {os.environ.get(variable, "0") for variable in ("RANK", "SLURM_PROCID")} == {"0"}:
        print(f"{name}: loading torch, then checking models and data", flush=True)


def report_folder(name: str, runs: str | Path) -> Path:
    """Where the report of a recipe or study goes by default: beside its runs, or here if they are at a URL."""
    return Path("" if re.match(r"\w+:/", str(runs)) else runs) / f"{name}-report"


def show(page: Path, results: RecipeResults) -> None:
    """Print the table beside a recipe's page, what the page says of it, the notices that were not printed while the
    runs went on, and where the page is."""
    from tutelage.report.recipe.tables import build_tables
    from tutelage.report.recipe.verdicts import verdicts

    print()
    print_markdown((page.parent / "table.md").read_text(encoding="utf-8").strip())
    said = [one.text for one in verdicts(results, build_tables(results))]
    notes = [f"note: {notice}" for notice in results.notices if notice not in results.said]
    changed = [f"Changed in the command: {', '.join(results.overrides)}"] if results.overrides else []
    print_lines(["", *said, *notes, "", *changed, f"Report: {page}"])


def deliver(results: RecipeResults, runs: Path, command: Sequence[str], file: Path | None = None) -> None:
    """Give the trained models their readable folders, and print those."""
    from tutelage.delivery import deliver_models

    made = deliver_models(results, runs, ["tutelage", *command], file)
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    if made.folders:
        print("Models: " + "\n        ".join(map(str, made.folders)))
        first, *second = _to_talk_to(results, made.folders)
        beside = f"    or to two: tutelage chat {first} {second[0]}" if second else ""
        print(f"Talk to it: tutelage chat {first}{beside}")


def _to_talk_to(results: RecipeResults, folders: Sequence[Path]) -> list[Path]:
    """The model with the best score, and beside it the distilled one, its opponent or the last made."""
    from tutelage.report.recipe.tables import build_tables

    table = next((one for one in build_tables(results) if any(row.runs for row in one.rows)), None)
    scored = [] if table is None else [(row, row.value(table.headline)) for row in table.rows]
    distilled = [row.stage for row in results.rows if row.teacher is not None]
    teachers = {row.teacher for row in results.rows}
    ranked = sorted((value.value, row.stage in distilled, row.stage) for row, value in scored if value is not None)
    wanted = [stage for *_, stage in reversed(ranked) if stage not in teachers][:1]
    wanted += [stage for stage in (*reversed(distilled), results.reference) if stage and stage not in wanted]
    found = []
    for stage in wanted:
        named = re.compile(re.escape(f"{results.name}-{stage}") + r"(-s\d+)?")
        found += [folder for folder in reversed(folders) if named.fullmatch(folder.name)][:1]
    return list(dict.fromkeys([*found, folders[-1]]))[:2]
