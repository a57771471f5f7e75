"""Folders of runs as they are while training goes on, for tests of what watches them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tutelage.common.checksums import seal
from tutelage.common.locks import own_mark


def begin(root: Path, name: str, running: bool = True, **config: Any) -> Path:
    """A run that has begun; `running`: this process holds its lock."""
    folder = root / name
    folder.mkdir(parents=True)
    content = {"stage": name, "kind": "distill", "seed": 0, "training": {"epochs": 2, "max_steps": None}, **config}
    (folder / "config.json").write_text(json.dumps(content))
    if running:
        (folder / "lock").write_text(own_mark())
    return folder


def steps(folder: Path, first: int, last: int, per_epoch: int = 10, **more: Any) -> None:
    """Append the lines of optimizer steps `first` to `last`."""
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(first, last + 1):
            line = {"step": step, "epoch": step / per_epoch, "loss": 4.0 / step, "learning_rate": 1e-5 * step}
            file.write(seal({**line, "sampled_tokens_per_s": 100.0 + step, "seconds": 3.0, **more}))


def sample(folder: Path, step: int, prompt: str, answer: str) -> None:
    with (folder / "samples.jsonl").open("a") as file:
        file.write(seal({"step": step, "row": 0, "prompt": prompt, "answer": answer, "cut": False}))


def finish(folder: Path, **result: Any) -> None:
    (folder / "lock").unlink(missing_ok=True)
    (folder / "result.json").write_text(json.dumps({"seconds": 75.0, **result}))


def replace_metrics(folder: Path, keep: int) -> None:
    """What a resumed run does: it keeps the first lines, in a new file."""
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:keep]
    (folder / "new").write_text("".join(lines))
    os.replace(folder / "new", folder / "metrics.jsonl")
