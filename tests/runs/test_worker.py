"""What `attempt` makes of disks, folders and files that are broken."""

from __future__ import annotations

import errno
import os
import platform
from pathlib import Path
from typing import Any

import pytest
from recipes_fixture import Workshop

from tutelage.common.interrupt import Interrupted
from tutelage.recipe.load import load_recipe
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run
from tutelage.runs.scheduler import Resources, Scheduler
from tutelage.runs.worker import attempt, work

pytestmark = pytest.mark.slow


def planned(workshop: Workshop) -> Run:
    return Planner(load_recipe(workshop.write()), workshop.folder, workshop.runs).stage_run("sft", 0)


def test_a_disk_that_is_full_is_one_line_and_the_run_goes_on(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    run, real = planned(workshop), os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name in ("data.json", "error.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        said = attempt(run)
    assert said == f"sft: {run.folder / 'data.json'} cannot be written: No space left on device; free some space, or " \
                   "choose another folder"  # fmt: skip
    assert not (run.folder / "lock").exists()
    assert attempt(run) is None


def test_a_folder_that_cannot_be_made_is_one_line(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "runs/sft")

    run = planned(workshop)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refused)
        said = attempt(run)
    assert said is not None
    assert said.startswith("sft: runs/sft: Read-only file system; mend that, or choose another folder")


def test_a_damaged_model_is_not_built_upon(workshop: Workshop):
    planner = Planner(load_recipe(workshop.write()), workshop.folder, workshop.runs)
    first, then = planner.stage_run("sft", 0), planner.evaluation("sft", "test", 0)
    assert attempt(first) is None
    path = first.folder / "model" / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    said = attempt(then)
    assert said is not None
    assert said.startswith(f"sft on test: {path} is damaged: its checksum is not the one in checksums.json; restore it")


def test_what_a_kill_after_the_result_left_is_removed(workshop: Workshop):
    run = planned(workshop)
    assert attempt(run) is None
    (run.folder / "checkpoints" / "checkpoint-00000001").mkdir(parents=True)
    (run.folder / "lock").write_text("999999999 1 " + platform.node())
    Scheduler(Resources()).execute([run])
    assert not {"checkpoints", "lock"} & {path.name for path in run.folder.iterdir()}


def test_a_worker_that_nobody_asked_to_stop_reports_what_its_ranks_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank alone was sent a signal: the command then says that it was stopped, not that a worker died."""

    def stopped(*_: Any) -> None:
        raise Interrupted("stopped after step 3")

    monkeypatch.setattr("tutelage.runs.worker.attempt", stopped)
    monkeypatch.setattr("tutelage.runs.worker.asked_to_stop", lambda: False)
    with pytest.raises(Interrupted, match="stopped after step 3"):
        work("run")
