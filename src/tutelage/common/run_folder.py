"""The files of a run's folder: their names, and how they are read and written.

A run is done when `result.json` exists; it is written last, after the checksums of all other files.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from tutelage.common.checksums import CHECKSUMS, DamagedError, check_files, read_checked, write_checksums
from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically

CONFIG = "config.json"  # the planned run: stage, settings, data, models, fingerprints of its parents
ENVIRONMENT = "environment.json"  # versions and device
DATA = "data.json"  # rows read, cut and left out, per data section
QUESTIONS = "questions.json"  # training: numbers per section trained on, equal for equal questions
METRICS = "metrics.jsonl"  # one line per optimizer step
SAMPLES = "samples.jsonl"  # training: some of the student's own answers, to look at
EXAMPLES = "examples.jsonl"  # one line per example of an evaluation
RESULT = "result.json"
ERROR = "error.txt"  # one line: why the run failed
ERROR_LOG = "error.log"  # the traceback
LOG = "log.txt"  # what the run printed
MODEL = "model"  # folder of the trained model
CHECKPOINTS = "checkpoints"  # folder; removed when the run is done
LOCK = "lock"  # process id, start time and machine of who works on the run
MODELS = "models"  # folder beside that of the runs: each trained model under a name that people can read
WHERE = "where.txt"  # in such a model's folder, instead of links: the path of the run's model from there

_UNCHECKED = {RESULT, ERROR, ERROR_LOG, LOG, CHECKPOINTS, LOCK, CHECKSUMS}


def is_done(folder: Path) -> bool:
    """Whether the run of this folder is done."""
    return (folder / RESULT).is_file()


def what_is(folder: Path) -> str:
    """What of this project's a folder is, or is full of, in words; "" for any other."""
    kinds = {"run": _is_run, "model": _is_model}
    one = next((f"a {kind}" for kind, is_one in kinds.items() if is_one(folder)), "")
    inside = list(folder.glob("*/"))
    return one or next((f"a folder of {kind}s" for kind, is_one in kinds.items() if any(map(is_one, inside))), "")


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / ENVIRONMENT).is_file()


def _is_model(folder: Path) -> bool:
    config = any((folder / name).exists() for name in (CONFIG, "adapter_config.json"))
    return (folder / WHERE).is_file() or (config and any(folder.glob("*.safetensors")))


def models_folder(runs: Path) -> Path:
    """The folder `models` beside the folder of runs."""
    return (runs if runs.name not in ("", "..") else runs.resolve()).parent / MODELS


def read_json(folder: Path, name: str) -> Any:
    """The content of a JSON file of the folder. Raises DamagedError, one line, when it is absent or damaged."""
    try:
        return json.loads(read_checked(folder, name))
    except DamagedError:  # a ValueError too, which says what to remove
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedError(
            f"{folder / name} is damaged ({error}); remove that file and run the same command again"
        ) from None


def read_if_whole(folder: Path, name: str) -> dict[str, Any]:
    """The mapping in a JSON file of the folder; empty where the file is absent, damaged or something else."""
    with suppress(OSError, ValueError, TutelageError):
        if (folder / name).is_file():
            found = read_json(folder, name)
            return found if isinstance(found, dict) else {}
    return {}


def write_json(folder: Path, name: str, content: Any) -> Path:
    """Write `content` as indented JSON, atomically; makes the folder. Returns the file's path.

    Raises TutelageError when the file cannot be written.
    """
    return write_atomically(folder / name, json.dumps(content, indent=2) + "\n")


def finish(folder: Path, result: dict[str, Any]) -> None:
    """Write the checksums of all files, then `result.json`: the run is done. Raises TutelageError when it cannot."""
    text = json.dumps(result, indent=2) + "\n"
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    names = [file.as_posix() for file in files if file.parts[0] not in _UNCHECKED and not _is_hidden(file)]
    write_checksums(folder, names, RESULT, text)
    write_atomically(folder / RESULT, text)


def check(folder: Path) -> None:
    """Check the files of a finished run that another one is going to use. Raises DamagedError for a damaged one."""
    check_files(folder, MODEL)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had begun to write in the folder of a run that is not done. Only the holder of the
    run's lock may call this."""
    for path in [*folder.rglob(".*.partial"), *folder.glob(f".{MODEL}-*"), folder / CHECKSUMS]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parts)
