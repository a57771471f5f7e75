"""Options that several verbs have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer


def _no_url(place: Path) -> Path:
    """A path swallows one of the two slashes, and would then be a folder of a strange name."""
    if re.match(r"\w+:/", str(place)):
        raise typer.BadParameter("a URL is for studies (tutelage study run); here it is a folder")
    return place


RunsFolder = Annotated[
    Path,
    typer.Option("--runs", callback=_no_url, help="Where results are kept; finished stages there are reused."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
