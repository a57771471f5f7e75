"""COMET in an environment of its own: it pins transformers < 5 and numpy < 2, so it runs as a separate program.

`setup_comet` makes the environment (`tutelage setup comet`), `comet_scores` runs its `comet-score`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.common.files import cache_folder, write_atomically

MODEL = "Unbabel/wmt22-comet-da"
# Two bounds that COMET's own dependencies lack: setuptools 81 removed pkg_resources, which its torchmetrics imports,
# and sentencepiece 0.2.1 needs a newer protobuf than COMET allows.
PACKAGES = ("unbabel-comet>=2.2.7,<3", "setuptools<81", "sentencepiece<0.2.1")
NEWEST_PYTHON = (3, 12)  # numpy < 2 has no wheels for later ones
READY = "ready.json"  # written last: a folder without it is an unfinished environment
ABSENT = (  # in the output of comet-score where the model cannot be found or downloaded
    "not supported by COMET",
    "LocalEntryNotFound",
    "couldn't connect",
    "Can't load",
    "offline mode",
    "resolve host",
)
LOAD = "import sys, comet; comet.load_from_checkpoint(comet.download_model(sys.argv[1]))"


def comet_folder() -> Path:
    """The folder of the environment."""
    return cache_folder() / "comet"


def comet_ready() -> bool:
    """Whether `setup_comet` has made the environment."""
    return (comet_folder() / READY).is_file()


def setup_comet(
    python: str | None = None, model: str | None = None, say: Callable[[str], None] = lambda text: None
) -> Path:
    """Make COMET's environment, unless it exists already, and return its folder.

    `python`: the interpreter of the environment, by default this one. `model`: also download this model's weights, for
    machines that have no network later. `say` gets progress messages; pip's output goes to the terminal.
    The environment gets the release of torch that is installed here, which is known to run on this machine. An
    unfinished environment, or one made from other packages, is made again. Raises TutelageError when that fails.
    """
    folder, python = comet_folder(), python or sys.executable
    packages = [f"torch=={version('torch').partition('+')[0]}", *PACKAGES]
    with _locked(folder.with_suffix(".lock")):
        if _made_from(folder) == packages:
            say(f"COMET's environment exists already: {folder}")
        else:
            _check_python(python)
            if folder.exists():
                say(f"the environment in {folder} is unfinished or out of date; it is made again")
                shutil.rmtree(folder)
            say(f"making COMET's environment in {folder}: this takes minutes and 1.4 GB, or several GB with CUDA")
            _run([python, "-m", "venv", str(folder)], "an environment cannot be made")
            _run([str(folder / "bin" / "pip"), "install", *packages], "COMET cannot be installed")
            _run([str(folder / "bin" / "comet-score"), "--help"], "COMET does not start", quiet=True)
            write_atomically(folder / READY, json.dumps({"packages": packages}) + "\n")
    if model is not None:
        say(f"downloading {model}")
        _run([str(folder / "bin" / "python"), "-c", LOAD, model], f"{model} cannot be downloaded")
    return folder


def comet_scores(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    model: str = MODEL,
    batch_size: int = 16,
) -> list[float]:
    """One score per segment, in the given order: about 0..1, higher is better; nan where COMET gives nan.

    `model`: a name on the hub, a `.ckpt` file, or a folder that holds `checkpoints/*.ckpt`. `comet-score` computes in
    half precision, on an accelerator where there is one. It reads one text per line, so line breaks within a text
    become spaces, as COMET's tokenizers treat them anyway.
    Raises TutelageError when there is no environment, no model, or no score.
    """
    if not len(sources) == len(hypotheses) == len(references):
        counts = f"{len(sources)} sources, {len(hypotheses)} hypotheses and {len(references)} references"
        raise TutelageError(f"COMET needs equally many texts of each kind, not {counts}")
    if not comet_ready():
        raise TutelageError(
            "COMET is not set up: run `tutelage setup comet`, or continue without it (chrF needs nothing)"
        )
    if not sources:
        return []
    with tempfile.TemporaryDirectory(prefix="comet-") as name:
        folder = Path(name)
        for kind, texts in (("src", sources), ("mt", hypotheses), ("ref", references)):
            lines = "".join(" ".join(text.split()) + "\n" for text in texts)
            (folder / kind).write_text(lines, encoding="utf-8", errors="replace")
        command = [str(comet_folder() / "bin" / "comet-score"), "-s", "src", "-t", "mt", "-r", "ref", "--quiet"]
        command += ["--only_system", "--batch_size", str(batch_size), "--to_json", "scores.json"]
        done = _comet_score([*command, "--model", _model_argument(model)], folder)
        if done.returncode:
            raise _explained(done.stderr, model)
        return _read_scores(folder / "scores.json", len(sources))


def _comet_score(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, env=_clean_environment(), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise TutelageError(
            f"COMET's environment is broken ({command[0]}: {error.strerror}); remove {comet_folder()} and run "
            "`tutelage setup comet`"
        ) from None


def _model_argument(model: str) -> str:
    """The argument of `comet-score --model`. Paths become absolute, since it runs in a folder of its own."""
    path = Path(model).expanduser()
    if path.is_dir():
        found = sorted(path.glob("checkpoints/*.ckpt"))
        if not found:
            raise TutelageError(f"no COMET model in {path}: it holds no checkpoints/*.ckpt")
        path = found[-1]
    if path.suffix == ".ckpt":
        if not path.is_file():
            raise TutelageError(f"no COMET model at {path}: there is no such file")
        return str(path.resolve())
    return model


def _read_scores(path: Path, wanted: int) -> list[float]:
    try:
        (segments,) = json.loads(path.read_text(encoding="utf-8")).values()
        scores = [float(segment["COMET"]) for segment in segments]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TutelageError(f"comet-score wrote no scores that can be read ({error}); set it up again") from None
    if len(scores) != wanted:
        raise TutelageError(f"comet-score gave {len(scores)} scores for {wanted} segments; set it up again")
    return scores


def _explained(stderr: str, model: str) -> TutelageError:
    """The error for the output of a failed comet-score."""
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "no message")[:300]
    if any(sign in stderr for sign in ABSENT):
        return TutelageError(
            f"COMET's model {model} is not on this machine and cannot be downloaded: run `tutelage setup comet --model "
            f"{model}` where there is a network, or name a checkpoint file ({last})"
        )
    if "out of memory" in stderr:
        return TutelageError(f"COMET ran out of memory: use a smaller batch_size ({last})")
    return TutelageError(f"comet-score failed: {last}")


def _made_from(folder: Path) -> list[str] | None:
    """The packages that the environment was made from; None where it is absent or unfinished."""
    try:
        return json.loads((folder / READY).read_text())["packages"]
    except (OSError, ValueError, KeyError):
        return None


def _check_python(python: str) -> None:
    command = [python, "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        version_here = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise TutelageError(f"{python} does not run ({error}); name another interpreter with --python") from None
    if (int(version_here[0]), int(version_here[1])) > NEWEST_PYTHON:
        newest, found = ".".join(map(str, NEWEST_PYTHON)), ".".join(version_here)
        raise TutelageError(
            f"COMET needs numpy < 2, which has no builds for Python {found}; name an interpreter up to "
            f"{newest}: tutelage setup comet --python python{newest}"
        )


def _run(command: list[str], failure: str, quiet: bool = False) -> None:
    output = subprocess.DEVNULL if quiet else None
    try:
        done = subprocess.run(command, env=_clean_environment(), stdout=output, stderr=output, check=False)
    except OSError as error:
        raise TutelageError(f"{failure}: {command[0]}: {error.strerror}") from None
    if done.returncode:
        where = f"run {' '.join(command)} to see why" if quiet else "its output is above"
        raise TutelageError(f"{failure}: {Path(command[0]).name} ended with {done.returncode}; {where}")


def _clean_environment() -> dict[str, str]:
    """This process's environment variables without those that would add packages to COMET's environment."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "PYTHONNOUSERSITE": "1"}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock: a second setup at the same time, which would remove the first one's folder, waits."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
