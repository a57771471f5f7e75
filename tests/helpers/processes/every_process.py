"""What each process that runs tests loads: fixtures of all tests, and libraries as the tests want them."""

import gc
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():  # before Triton is first imported: its kernels then run in Python, on CPU tensors
    os.environ.setdefault("TRITON_INTERPRET", "1")

import datasketch.lsh
import lm_eval.filters.extraction
import typer.main
import warm_python
from jinja2 import Environment, MemcachedBytecodeCache, PackageLoader
from nltk.stem.porter import PorterStemmer
from pages import do_not_draw
from recipes_fixture import done, tiny_models, workshop  # noqa: F401
from synthesize_recipe import long_context  # noqa: F401

# No test cuts the power, without which nothing is lost that was written; each call waits for the disk.
os.fsync = lambda _: None  # type: ignore[assignment]
# The tests ask libraries for the same thing thousands of times: commands, bands of an index, stems of words.
for library, pure in ((typer.main, "get_command"), (datasketch.lsh, "_optimal_param"), (PorterStemmer, "stem")):
    setattr(library, pure, cache(getattr(library, pure)))
# GPQA's filter looks at each character there is, 0.25 s per score. No test's reply has one above these.
lm_eval.filters.extraction.sys = SimpleNamespace(maxunicode=0x10000)  # type: ignore[attr-defined]

compiled: dict[str, bytes] = {}
kept = MemcachedBytecodeCache(SimpleNamespace(get=compiled.get, set=compiled.__setitem__))  # type: ignore[arg-type]
load_template = PackageLoader.load


def load_compiled(self: PackageLoader, environment: Environment, *names: Any) -> Any:
    """The pages' templates are compiled once."""
    environment.bytecode_cache = kept
    return load_template(self, environment, *names)


PackageLoader.load = load_compiled  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _one_thread():
    """Fixed threads: sums come out bit for bit the same, and two cores can run two tests."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _frozen_imports():
    """A run ends with a garbage collection, which would look at all that torch and its like have imported: 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    """A Python for child processes that has imported torch, transformers and the project (warm_python.py)."""
    with warm_python.started() as path:
        yield path


@pytest.fixture
def warm_children(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the project starts by `sys.executable` or `multiprocessing`, launchers and their ranks among it, runs on the
    warm Python."""
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setattr("multiprocessing.spawn._python_exe", os.fsencode(python))
    monkeypatch.setenv("PYTHON_EXEC", python)  # with which torchrun starts ranks
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are laid out but not drawn, for tests of what else a report says."""
    do_not_draw(monkeypatch)


@pytest.fixture
def data_folder() -> Path:
    """The folder of real data sets, or a skip that says how to get it."""
    folder = os.environ.get("TUTELAGE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TUTELAGE_DATA is not set to a folder of data sets")
    return Path(folder)
