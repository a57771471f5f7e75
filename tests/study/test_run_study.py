"""A study that is killed again and again ends in the results of an unbroken one, and no finished run starts twice."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import study_drivers
import yaml
from forked_workers import forked
from recipes_fixture import ROWS, Workshop
from study_drivers import KILLS
from tiny_study import TEMPLATE, write_study
from waiting import HANG, wait_for

from tutelage.cli.main import main as command
from tutelage.common.errors import TutelageError
from tutelage.study.grid import plan_study
from tutelage.study.plan import StudyPlan
from tutelage.study.run_study import run_study
from tutelage.study.status import status_lines, study_status

pytestmark = pytest.mark.slow


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


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join(filter(None, sys.path))
    return {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TUTELAGE_CACHE": str(folder / "cache")}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str | None]:
    """The address of a Ray cluster of two CPUs that all tests here use, None without Ray. It closes with its head."""
    if importlib.util.find_spec("ray") is None:
        yield None
        return
    with pytest.MonkeyPatch.context() as patch:
        # A token of its own: neither open to others on this machine, nor dependent on a token that somebody has.
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        with subprocess.Popen(
            [sys.executable, "-c", HEAD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as head:
            assert head.stdout is not None
            yield head.stdout.readline().strip()
            head.communicate(timeout=HANG)


HEAD = """
import sys, ray
context = ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(scope="module")
def killed(python: str, tmp_path_factory: pytest.TempPathFactory, tiny_models: Path, cluster: str | None) -> Path:
    folder = tmp_path_factory.mktemp("study")
    workshop = Workshop(folder, tiny_models, {})
    workshop.rows("train", ROWS)
    workshop.rows("test", ROWS[:4])
    held(workshop)
    given = os.environ | environment(folder) | ({} if cluster is None else {"RAY_ADDRESS": cluster})
    subprocess.run([python, study_drivers.__file__, str(folder)], env=given, check=True, timeout=HANG)
    return folder


def starts(file: Path) -> list[tuple[str, bool]]:
    return [(line.split()[0], line.split()[1] == "True") for line in file.read_text().splitlines()]


@pytest.mark.long
@pytest.mark.parametrize(("name", "side_by_side"), [("broken", 1), ("ray", 2)])
def test_ten_kills_change_nothing_and_repeat_nothing(killed: Path, cluster: str | None, name: str, side_by_side: int):
    if name == "ray" and cluster is None:
        pytest.skip("Ray is not installed: pip install 'tutelage[ray]'")
    codes = json.loads((killed / f"{name}.json").read_text())
    assert {*codes["ends"]} == {0}
    kills = codes["broken"].count(-signal.SIGKILL)
    assert kills >= KILLS - 1  # a study that is over before its kill counts once at most
    deaths = [*killed.glob(f"{name}-*.death")]
    assert len(deaths) >= (1 if name == "ray" else KILLS // 3 - 1)
    unbroken = results(killed / "unbroken")
    assert len(unbroken) == 15
    assert results(killed / name) == unbroken
    started = starts(killed / f"{name}.log")
    assert not any(done for _, done in started)
    # Each kill costs at most the runs that it hits.
    lost = kills * side_by_side + (len(deaths) if name == "ray" else 0)
    assert 15 < len(started) <= 15 + lost
    assert len({run for run, _ in started}) == 15
    assert not list((killed / name).glob("*/lock"))


@pytest.mark.long
def test_two_drivers_share_the_work(killed: Path):
    assert results(killed / "two") == results(killed / "unbroken")
    assert Counter(name for name, _ in starts(killed / "two.log")) == Counter(results(killed / "two").keys())


# --- failures -------------------------------------------------------------------------------------------------------


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
    text = "\n".join(status_lines(plan, states))
    assert "study: 4 of 12 runs done, 0 running, 2 failed, 6 waiting for failed ones, 0 to do" in text
    assert text.count(": sft: loss ") == 2
    done.clear()
    with pytest.raises(TutelageError, match=r"^sft: loss"):
        run_study(plan)
    assert done == []
    with pytest.raises(TutelageError, match=r"^sft: loss"):
        run_study(plan, retry=True)
    assert done == ["sft", "sft"]


def test_a_failure_mended_outside_goes_on(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    from tutelage.runs.stages import students as train_stage

    plan = plan_study(write_study(workshop), workshop.runs)
    real = train_stage.save_model

    def full(*arguments: Any) -> None:
        if "gkd_sft" in str(arguments[2]):
            raise OSError("disk full")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_stage, "save_model", full)
        with pytest.raises(TutelageError, match=r"gkd_sft: OSError: disk full \(traceback: "):
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
        line = {"step": 1, "epoch": 1 / 3, "seconds": 7.0}
        (run.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        state = next(state for state in study_status(plan) if state.run is run)
        assert (state.state, state.done, state.total, state.eta) == ("running", 1, 3, 14.0)
        assert f"  running  {run.folder.name} step 1 of 3, about 14 s left" in status_lines(plan, study_status(plan))
        holder.communicate(b"\n")
    assert {state.state for state in study_status(plan)} == {"todo"}


def test_the_commands(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    file, runs = str(write_study(workshop)), str(workshop.runs)
    command(["study", "run", file, "--runs", runs])
    assert "study: 12 of 12 runs done" in capsys.readouterr().out
    (workshop.runs / "file").touch()
    with pytest.raises(SystemExit):
        command(["study", "run", file, "--runs", str(workshop.runs / "file" / "runs")])
    assert "choose another folder by --runs" in capsys.readouterr().err.splitlines()[-1]
    command(["study", "status", file, "--runs", runs, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["counts"] == {"done": 12}
    listed = json.loads((workshop.runs / "study.study.json").read_text())
    assert all((workshop.runs / cell["folder"] / "examples.jsonl").is_file() for cell in listed["cells"])


def kill_a_worker(runs: Path, killed: list[int], after: str) -> None:
    """SIGKILL the process that holds the first lock of a run of that stage."""

    def holder() -> int:
        for lock in runs.glob(f"{after}-s*/lock"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                process = int(lock.read_text().split()[0])
                if process != os.getpid():
                    return process
        return 0

    killed.append(wait_for(holder, "a worker to train"))
    os.kill(killed[0], signal.SIGKILL)


@pytest.mark.long
def test_a_killed_worker_costs_its_run_alone(workshop: Workshop, killed: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a pool of processes; `on_ray` loses workers too, its last driver among them."""
    for name, value in environment(workshop.folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tutelage.runs.scheduler._processes", forked)
    file, dead = held(workshop), []
    killer = threading.Thread(target=kill_a_worker, args=(workshop.runs, dead, "sft"), daemon=True)
    killer.start()
    run_study(plan_study(file, workshop.runs), jobs=2)
    killer.join(timeout=1)
    assert len(dead) == 1
    assert results(workshop.runs) == results(killed / "unbroken")
    assert list(workshop.runs.glob("teacher_sft-s0-*/log.txt"))


def test_a_driver_that_is_killed_takes_its_own_ray_cluster_along(workshop: Workshop, cluster: str | None):
    if cluster is None:
        pytest.skip("Ray is not installed: pip install 'tutelage[ray]'")
    import psutil

    file, code = held(workshop), "import sys; from tutelage.cli import main; main(sys.argv[1:])"
    given = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | environment(workshop.folder)
    words = ["study", "run", str(file), "--runs", str(workshop.runs), "--executor", "ray"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", code, *words], env=given, **quiet) as driver:
        wait_for(lambda: list(workshop.runs.glob("*/metrics.jsonl")), "a run to begin")
        started = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    try:
        workers = [one for one in started if one.is_running() and one.name().startswith("ray::attempt")]
        assert workers
        psutil.wait_procs(workers, timeout=HANG)
        # What is left of them is locks that count for nothing.
        states = {state.state for state in study_status(plan_study(file, workshop.runs))}
        assert "running" not in states
        assert "todo" in states
    finally:  # Ray's own agents would end too, within a minute
        for one in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
