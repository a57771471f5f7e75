"""What a command that has run a recipe prints at the end: the table, what it says, and the models."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.cli.options import print_markdown
from tutelage.common.planned import at_work
from tutelage.common.progress import print_lines, print_note

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults


def say_at_once(name: str, runs: Path) -> None:
    """Say that a command has begun, for the imports that it needs take seconds, and which processes do the recipe or
    study `name` in `runs` already. Ranks but the first say nothing."""
    if {os.environ.get(variable, "0") for variable in ("RANK", "SLURM_PROCID")} == {"0"}:
        for process in at_work(runs, name):
            print(
                f"{name}: {process} is running it already: this command waits for what both need, and does the rest; "
                "Ctrl-C stops this one alone",
                flush=True,
            )
        print(f"{name}: loading torch, then checking models and data", flush=True)


def say_notes(notes: Iterable[str]) -> None:
    """Print notes beside the results."""
    for note in notes:
        print_note(note)


def report_folder(name: str, runs: str | Path) -> Path:
    """Where the report of a recipe or study goes by default: beside its runs, or here if they are at a URL."""
    return Path("" if re.match(r"\w+:/", str(runs)) else runs) / f"{name}-report"


def show(page: Path, results: RecipeResults, folders: Sequence[Path] = ()) -> None:
    """Print the table beside a recipe's page, what the page says of it, the notices that were not printed while the
    runs went on, where page and models (`folders`) are and, last, which model to use and what to do next."""
    from tutelage.report.recipe.choice import choose
    from tutelage.report.recipe.new_rows import new_rows
    from tutelage.report.recipe.tables import build_tables
    from tutelage.report.recipe.verdicts import verdicts

    print()
    print_markdown((page.parent / "table.md").read_text(encoding="utf-8").strip())
    tables = build_tables(results)
    said, choice = [one.text for one in verdicts(results, tables)], choose(results, tables)
    unused = () if results.said else results.left_out  # runs that the call did have told them
    others = [notice for notice in (*results.row_notes, *results.notices) if notice not in results.said]
    new = [one.note for one in new_rows(results, tables)]
    notes = [f"note: {notice}" for notice in (*unused, *others, *new)]
    changed = [f"Changed in the command: {', '.join(results.overrides)}"] if results.overrides else []
    models = [f"{'' if n else 'Models:':8}{folder}" for n, folder in enumerate(folders)]
    # None is scored, so none is chosen.
    last = [f"Talk to the last one: tutelage chat {folders[-1]}"] if folders else []
    if choice is not None:
        steps = [f"→ {command}    {what}" for what, command in choice.commands]
        last = ["", f"{choice.use} {choice.why}", *filter(None, [choice.next]), *steps]
    print_lines(["", *said, *notes, "", *changed, f"Report: {page}", *models, *last])


def deliver(results: RecipeResults, runs: Path, command: Sequence[str], file: Path | None = None) -> tuple[Path, ...]:
    """Give the trained models their readable folders, and return these."""
    from tutelage.delivery import deliver_models

    made = deliver_models(results, runs, ["tutelage", *command], file)
    say_notes(made.notes)
    return made.folders
