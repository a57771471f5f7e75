"""A study that is killed again and again ends in the results of an unbroken one, and no finished run starts twice.

As a script (`test_study_run.py STUDY FOLDER`) this file is the drivers: it imports once and forks each of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes_fixture import Workshop
from test_study import TEMPLATE, write_study

from tutelage import stage
from tutelage.cli import main as command
from tutelage.recipe import Run
from tutelage.study import StudyPlan, plan_study
from tutelage.study_run import run_study, status_lines, study_status
from tutelage.types import TutelageError

KILLS = int(os.environ.get("TUTELAGE_KILLS", "10"))


def results(runs: Path) -> dict[str, Any]:
    """Everything that results say but the clock, and hashes of weights and examples, by folder."""
    out: dict[str, Any] = {}
    for file in sorted(runs.glob("*/result.json")):
        result = json.loads(file.read_text())
        result.pop("seconds")
        last = result.get("last") or {}
        result["last"] = {k: v for k, v in last.items() if "seconds" not in k and "per_s" not in k}
        made = [*file.parent.glob("model/*.safetensors"), *file.parent.glob("examples.jsonl")]
        assert made, file
        out[file.parent.name] = result, [hashlib.sha256(one.read_bytes()).hexdigest() for one in made]
    return out


def held(workshop: Workshop) -> Path:
    """A study of 15 runs, the loss on held-out rows among them."""
    file = write_study(workshop)
    study = yaml.safe_load(file.read_text())
    grids = study["grids"]
    grids.append(grids[0] | {"sizes": [8], "tasks": ["held_out"]})
    file.write_text(yaml.safe_dump(study))
    return file


# --- killed ---------------------------------------------------------------------------------------------------------


def drive(study: Path, runs: Path, log: Path) -> None:
    """One driver, in this process: every run that starts is written down, and whether it was done already."""
    real = stage.do_run

    def watched(run: Run) -> dict[str, Any]:
        with log.open("a") as handle:
            handle.write(f"{run.folder.name} {run.done}\n")
        return real(run)

    stage.do_run = watched
    run_study(plan_study(study, runs))


def fork(study: Path, runs: Path, log: Path, mid_write: int | None = None) -> int:
    """Start a driver. With `mid_write` it kills itself in the middle of that atomic write."""
    process = os.fork()
    if process:
        return process
    try:
        if mid_write is not None:
            left, real = [mid_write], os.replace

            def stopping(source: Any, target: Any) -> None:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(source, target)

            os.replace = stopping  # type: ignore[assignment]
        drive(study, runs, log)
        os._exit(0)
    except BaseException as error:
        print(type(error), error, file=sys.stderr, flush=True)
        os._exit(1)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(study: Path, folder: Path) -> None:
    import torch
    import transformers  # noqa: F401

    import tutelage.workers  # noqa: F401

    torch.set_num_threads(1)
    began = time.monotonic()
    assert ended(fork(study, folder / "unbroken", folder / "unbroken.log")) == 0
    whole = time.monotonic() - began
    chance = random.Random(6)
    codes = []
    for number in range(KILLS):
        if number % 3 == 2:  # in a write
            codes.append(ended(fork(study, folder / "broken", folder / "broken.log", chance.randint(3, 12))))
            continue
        process = fork(study, folder / "broken", folder / "broken.log")
        time.sleep(whole * chance.uniform(0.05, 0.3))
        os.kill(process, signal.SIGKILL)
        codes.append(ended(process))
    codes.append(ended(fork(study, folder / "broken", folder / "broken.log")))
    two = [fork(study, folder / "two", folder / "two.log") for _ in range(2)]
    codes += [ended(process) for process in two]
    (folder / "codes.json").write_text(json.dumps(codes))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Path:
    folder = tmp_path_factory.mktemp("study")
    workshop = Workshop(folder, tiny_models, {})
    from recipes_fixture import ROWS

    workshop.rows("train", ROWS)
    workshop.rows("test", ROWS[:4])
    study = held(workshop)
    paths = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TUTELAGE_CACHE": str(folder / "cache")}
    subprocess.run([sys.executable, __file__, str(study), str(folder)], env=environment, check=True, timeout=200)
    return folder


def starts(file: Path) -> list[tuple[str, bool]]:
    return [(line.split()[0], line.split()[1] == "True") for line in file.read_text().splitlines()]


def test_ten_kills_change_nothing_and_repeat_nothing(killed: Path):
    codes = json.loads((killed / "codes.json").read_text())
    assert codes[KILLS:] == [0, 0, 0]
    assert codes[:KILLS].count(-signal.SIGKILL) >= KILLS - 1  # a study that is over before its kill counts once at most
    unbroken = results(killed / "unbroken")
    assert len(unbroken) == 15
    assert results(killed / "broken") == unbroken
    started = starts(killed / "broken.log")
    assert not any(done for _, done in started)
    # Each kill costs at most the one run that it hits.
    assert 15 < len(started) <= 15 + KILLS
    assert len({name for name, _ in started}) == 15
    assert not list((killed / "broken").glob("*/lock"))


def test_two_drivers_share_the_work(killed: Path):
    assert results(killed / "two") == results(killed / "unbroken")
    assert Counter(name for name, _ in starts(killed / "two.log")) == Counter(results(killed / "two").keys())


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    real = stage.do_run

    def watched(run: Run) -> dict[str, Any]:
        names.append(run.stage)
        return real(run)

    monkeypatch.setattr(stage, "do_run", watched)
    return names


def failing(workshop: Workshop) -> StudyPlan:
    """The SFT of the students diverges; the teachers are well."""
    template = json.loads(json.dumps(TEMPLATE))
    template["stages"][1]["training"] = {"learning_rate": 1e30}
    file = write_study(workshop, template=template)
    file.write_text(file.read_text().replace("- 4\n", "- 12\n"))  # a single step cannot diverge
    return plan_study(file, workshop.runs)


def test_a_failure_stops_what_builds_on_it_and_is_tried_again_on_request(workshop: Workshop, done: list[str]):
    plan = failing(workshop)
    with pytest.raises(TutelageError, match=r"^sft: loss .*2 runs failed, 6 wait for them \(--retry"):
        run_study(plan)
    assert Counter(done) == {"teacher_sft": 2, "teacher_sft on test": 2, "sft": 2}
    states = study_status(plan)
    assert Counter(state.state for state in states) == {"done": 4, "failed": 2, "waiting": 6}
    said = "\n".join(status_lines(plan, states))
    assert "study: 4 of 12 runs done, 0 running, 2 failed, 6 waiting for failed ones, 0 to do" in said
    assert said.count(": sft: loss ") == 2
    done.clear()
    with pytest.raises(TutelageError, match=r"^sft: loss"):
        run_study(plan)
    assert done == []
    with pytest.raises(TutelageError, match=r"^sft: loss"):
        run_study(plan, retry=True)
    assert done == ["sft", "sft"]


def test_a_failure_mended_outside_goes_on(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    from tutelage import train_stage

    plan = plan_study(write_study(workshop), workshop.runs)
    real = train_stage.save_model

    def full(*arguments: Any) -> None:
        if "gkd_sft" in str(arguments[2]):
            raise OSError("disk full")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_stage, "save_model", full)
        with pytest.raises(TutelageError, match=r"gkd_sft: OSError: disk full \(the whole traceback: "):
            run_study(plan)
    (log,) = list(workshop.runs.glob("gkd_sft-s0-*/error.log"))[:1]
    assert "disk full" in log.read_text()
    run_study(plan, retry=True)
    assert all(state.state == "done" for state in study_status(plan))
    assert not list(workshop.runs.glob("*/error.txt"))


def test_status_of_what_runs(workshop: Workshop):
    plan = plan_study(write_study(workshop), workshop.runs)
    assert {state.state for state in study_status(plan)} == {"todo"}
    run = next(run for run in plan.runs if run.stage == "sft")
    run.folder.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as holder:
        (run.folder / "lock").write_text(str(holder.pid))
        (run.folder / "data.json").write_text(json.dumps({"train": {"rows": 12}}))
        (run.folder / "metrics.jsonl").write_text('{"step": 1, "seconds": 7.0}\n')
        state = next(state for state in study_status(plan) if state.run is run)
        assert (state.state, state.done, state.total, state.eta) == ("running", 1, 3, 14.0)
        assert f"  running  {run.folder.name} step 1 of 3, about 14 s left" in status_lines(plan, study_status(plan))
        holder.communicate(b"\n")
    assert {state.state for state in study_status(plan)} == {"todo"}


def test_the_commands(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    file, runs = str(write_study(workshop)), str(workshop.runs)
    command(["study", "run", file, "--runs", runs])
    assert "study: 12 of 12 runs done" in capsys.readouterr().out
    command(["study", "status", file, "--runs", runs, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["counts"] == {"done": 12}
    listed = json.loads((workshop.runs / "study.study.json").read_text())
    assert all((workshop.runs / cell["folder"] / "examples.jsonl").is_file() for cell in listed["cells"])


# --- executors ------------------------------------------------------------------------------------------------------


def kill_a_worker(runs: Path, killed: list[int], after: str) -> None:
    """SIGKILL the process that holds the first lock of a run of that stage."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        for lock in runs.glob(f"{after}-s*/lock"):
            try:
                process = int(lock.read_text().split()[0])
            except (OSError, ValueError, IndexError):
                continue
            if process != os.getpid():
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                return
        time.sleep(0.002)


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_killed_worker_costs_its_run_alone(
    workshop: Workshop, killed: Path, executor: str, monkeypatch: pytest.MonkeyPatch
):
    if executor == "ray":
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'tutelage[ray]'")
        monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    file, dead = held(workshop), []
    killer = threading.Thread(target=kill_a_worker, args=(workshop.runs, dead, "sft"), daemon=True)
    killer.start()
    run_study(plan_study(file, workshop.runs), jobs=2, executor=executor)
    killer.join(timeout=1)
    assert len(dead) == 1
    assert results(workshop.runs) == results(killed / "unbroken")
    assert list(workshop.runs.glob("teacher_sft-s0-*/log.txt"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
