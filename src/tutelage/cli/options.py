"""Options that several commands have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer


def no_url(place: Path) -> Path:
    """Refuse URLs: `Path` turns `s3://x` into `s3:/x`, which would become a local folder."""
    if re.match(r"\w+:/", str(place)):
        raise typer.BadParameter("a URL works for studies only (tutelage study run): give a folder")
    return place


RunsFolder = Annotated[
    Path,
    typer.Option("--runs", callback=no_url, help="Folder of all runs; finished stages there are reused."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
