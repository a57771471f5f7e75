"""Rows of conversations, and files of them, for tests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from tutelage.data.dataset import LoadedData, load_dataset
from tutelage.recipe.sections import DataConfig


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: Any) -> dict[str, Any]:
    return {"role": "system", "content": text}


def row(n: int, **more: Any) -> dict[str, Any]:
    return {"messages": [user(f"q{n}"), assistant(f"a{n}")], **more}


def write(path: Path, *rows: Any) -> Path:
    """Write rows as JSON lines; a text is written unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def load(folder: Path, path: str | list[str] = "x.jsonl", require_response: bool = True, **config: Any) -> LoadedData:
    return load_dataset("gold", DataConfig(path=path, **config), folder, require_response)


def replies(data: LoadedData) -> list[str | None]:
    return [c.response for c in data.conversations]
