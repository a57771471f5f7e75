"""What several commands have: options, and how tables are printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tutelage.common.progress import print_lines

if TYPE_CHECKING:
    from tutelage.evaluation.judges.endpoint import JudgeEndpoint

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def no_url(place: Path) -> Path:
    """Refuse URLs: `Path` turns `s3://x` into `s3:/x`, which would become a local folder."""
    if re.match(r"\w+:/", str(place)):
        raise typer.BadParameter("a URL works for studies only (tutelage study run): give a folder")
    return place


def visible(text: str) -> str:
    """The text with control characters written out: texts of data may try to steer the terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def print_markdown(text: str) -> None:
    """Print Markdown as it is, or in a terminal: tables drawn, one with no room for it as a block of lines per row."""
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    for part in re.split(r"\n(?:\s*\n)+", text):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]
        if rows and sum(max(map(len, column)) + 2 for column in zip(*rows, strict=False)) > console.width:
            head, _, *body = rows
            for name, *cells in body:
                lines: list[str] = []
                for title, cell in zip(head[1:], cells, strict=False):
                    said = f"{title}: {cell}"
                    beside = bool(lines) and (title[:1] == "Δ" or len(title) == 1)  # it belongs to the cell before it
                    if cell and beside and len(lines[-1]) + len(said) + 2 <= console.width:
                        lines[-1] += f"; {said}"
                    elif cell:
                        lines.append(f"  {said}")
                print_lines(["", name, *lines])
            print()
        else:
            console.print(Markdown(part))


RunsFolder = Annotated[
    Path,
    typer.Option("--runs", callback=no_url, help="Folder of all runs; finished stages there are reused."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
TensorParallel = Annotated[
    int, typer.Option(min=1, help="GPUs that hold the model together, through vLLM; 1: one, without it.")
]
Revision = Annotated[str | None, typer.Option(help="Commit, tag or branch of the model on the hub.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code from the model's repository.")
]
JudgeUrl = Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint that judges InFoBench.")]
JudgeModel = Annotated[str | None, typer.Option(help="The judge's name at that endpoint.")]
JudgeRequests = Annotated[int, typer.Option(min=1, help="Replies judged at the same time.")]
JudgeMaxTokens = Annotated[
    int | None, typer.Option(min=1, help="The judge's longest answer.", show_default="the endpoint's own")
]
JudgeRules = Annotated[
    str,
    typer.Option(help="What the judge is told: tutelage, official (fetched from its repository), or a file."),
]
JudgeDecision = Annotated[
    Literal["tutelage", "official"] | None,
    typer.Option(help="How its answers are read; default: official with official rules, else tutelage."),
]


def judge_from(
    url: str | None,
    model: str | None,
    requests: int = 8,
    max_tokens: int | None = None,
    rules: str = "tutelage",
    decision: Literal["tutelage", "official"] | None = None,
) -> JudgeEndpoint | None:
    """The judge that the options name; None without any. Raises TutelageError for options that do not fit."""
    from tutelage.common.errors import TutelageError

    if (url is None) != (model is None):
        raise TutelageError("--judge-url and --judge-model go together")
    if url is None:
        if rules != "tutelage" or decision is not None:
            raise TutelageError("--judge-rules and --judge-decision need a judge: give --judge-url and --judge-model")
        return None
    from tutelage.evaluation.judges.endpoint import judge_of
    from tutelage.recipe.study import JudgeConfig

    return judge_of(
        JudgeConfig(model=model, url=url, requests=requests, max_tokens=max_tokens, rules=rules, decision=decision)
    )


Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Keys of the recipe, as key=value with dots: training.epochs=3 stages.gkd.beta=0.1"),
]
Only = Annotated[
    list[str] | None, typer.Option(help="Of a recipe: this evaluate stage and what it builds on; may be repeated.")
]
Text = Annotated[bool, typer.Option(help="Show the data's and the models' texts in the report.")]
