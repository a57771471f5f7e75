"""The files of a run's folder: their names, and how they are read and written.

A run is done when `result.json` exists; it is written last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tutelage.common.files import write_atomically

CONFIG = "config.json"  # the planned run: stage, settings, data, models, fingerprints of its parents
ENVIRONMENT = "environment.json"  # versions and device
DATA = "data.json"  # rows read, cut and left out, per data section
METRICS = "metrics.jsonl"  # one line per optimizer step
EXAMPLES = "examples.jsonl"  # one line per example of an evaluation
RESULT = "result.json"
ERROR = "error.txt"  # one line: why the run failed
ERROR_LOG = "error.log"  # the traceback
LOG = "log.txt"  # what the run printed
MODEL = "model"  # folder of the trained model
CHECKPOINTS = "checkpoints"  # folder; removed when the run is done


def is_done(folder: Path) -> bool:
    """Whether the run of this folder is done."""
    return (folder / RESULT).is_file()


def read_json(folder: Path, name: str) -> Any:
    """The content of a JSON file of the folder. Raises OSError when it is absent, ValueError when it is broken."""
    return json.loads((folder / name).read_text(encoding="utf-8"))


def write_json(folder: Path, name: str, content: Any) -> Path:
    """Write `content` as indented JSON, atomically; makes the folder. Returns the file's path.

    Raises TutelageError when the file cannot be written.
    """
    return write_atomically(folder / name, json.dumps(content, indent=2) + "\n")
