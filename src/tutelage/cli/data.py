"""`tutelage data`: look at data before any training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tutelage.cli.narrow_help import Commands
from tutelage.cli.options import Debug, visible
from tutelage.common.progress import print_lines

if TYPE_CHECKING:
    from rich.console import Console

    from tutelage.runs.stages.inspect_data import SequenceText

data = typer.Typer(cls=Commands, help="Look at data before any training.", no_args_is_help=True)
_MARKS = ("⟦", "⟧")


@data.callback()
def _group() -> None:
    """Look at data before any training."""


@data.command()
def inspect(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Keys of the recipe, as key=value with dots: training.max_length=512")
    ] = None,
    section: Annotated[
        list[str] | None, typer.Option(help="Name of a data section; may be repeated. Default: all.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows to show of each section.")] = 3,
    model: Annotated[
        Literal["student", "teacher"], typer.Option(help="Whose tokenizer and chat template to use.")
    ] = "student",
    debug: Debug = False,
) -> None:
    """Show a few rows as the model will see them, with the tokens it learns marked, and count what is cut or left out.

    Nothing is trained and no weights are loaded. What is learnt is green on a terminal and between ⟦ and ⟧ elsewhere;
    everything else is only read. Look for: the system turn and tools are there, each answer is learnt up to its end of
    turn (such as <|im_end|>), thoughts are where the model will think, and nothing is "left out or changed" that you
    need.

    tutelage data inspect recipe.yaml --section train --rows 5

    tutelage data inspect recipe.yaml data.train.path=other.jsonl student.thinking=false
    """
    from rich.console import Console

    from tutelage.common.errors import TutelageError
    from tutelage.recipe.load import load_recipe, made_by
    from tutelage.runs.stages.inspect_data import inspect_section, notes_between

    config = load_recipe(recipe, overrides)
    for name in section or []:
        if name not in config.data:
            raise TutelageError(f"--section {name}: no data section is called so (there are: {', '.join(config.data)})")
    names = section or [name for name, one in config.data.items() if made_by(one.path) is None]
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    told: set[str] = set()
    for name in names:
        found = inspect_section(config, name, recipe.resolve().parent, model, rows, told)
        print_lines(map(visible, found.lines))
        for sequence in found.sequences:
            _show(console, sequence)
        console.print()
    if not section:
        print_lines(visible(f"note: {note}") for note in notes_between(config, recipe.resolve().parent))


def _show(console: Console, sequence: SequenceText) -> None:
    """Print one sequence, what is learnt in colour or between marks."""
    from rich.text import Text

    from tutelage.common.errors import first_of

    coloured = console.is_terminal and console.color_system is not None
    text = Text()
    for learnt, piece in sequence.pieces:
        shown = visible(piece)
        if learnt and not coloured:
            shown = f"{_MARKS[0]}{shown}{_MARKS[1]}"
        text.append(shown, style="black on green" if learnt and coloured else None)
    console.print(f"\n--- {visible(sequence.title)}", markup=False)
    console.print(text)
    if sequence.expected:
        shown, left = first_of(sequence.expected)
        more = f" (and {left:,} more)" if left else ""
        console.print(f"expected: {visible(' | '.join(shown))}{more}", markup=False)
