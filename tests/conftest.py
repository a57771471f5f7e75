"""Settings of this process and its children, the order of tests, and what the processes that run them load."""

import gc
import os
import sys
from pathlib import Path

import pytest

gc.disable()  # until all tests are collected: a fourth of the time of importing torch and its like
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; for child processes too
HELPERS = [
    str(Path(__file__).parent / name) for name in ("helpers", "helpers/rows", "helpers/endpoints", "helpers/processes")
]
sys.path[:0] = HELPERS
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*HELPERS, os.environ.get("PYTHONPATH")]))  # of child processes
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_configure(config: pytest.Config) -> None:
    """The process that shares tests out among others runs none: it loads neither torch nor its like, 3 s."""
    if not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("every_process")


# Longest first: of two processes that share the files out, none is left with the last long one.
LONGEST = (
    "test_sharding",
    "test_compiled",
    "test_paper_end_to_end",
    "test_main",
    "test_study_page",
    "test_run_recipe",
    "test_ranks",
    "test_joined",
    "test_triton_programs",
    "test_triton",
    "test_forecast",
    "test_mini_study",
    "test_mini_recipes",
    "test_page",
    "test_run_study",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> int:
        if item.path.stem in LONGEST:
            return LONGEST.index(item.path.stem)
        return len(LONGEST) + (item.path not in slow)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries complain of objects that are left at the end
