"""A study that is killed again and again ends in the results of an unbroken one, and no finished run starts twice.

As a script (`test_study_run.py FOLDER`) this file is the drivers: it imports once and forks each of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes_fixture import ROWS, Workshop
from tiny_study import TEMPLATE, write_study
from waiting import HANG, wait_for

from tutelage.cli.main import main as command
from tutelage.common.errors import TutelageError
from tutelage.runs import scheduler as workers
from tutelage.runs.run import Run
from tutelage.study.grid import plan_study
from tutelage.study.plan import StudyPlan
from tutelage.study.run_study import run_study
from tutelage.study.status import status_lines, study_status

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


def counting(log: Path, deaths: Path | None, mid_write: int | None) -> Callable[..., str | None]:
    """`attempt`, which writes down every run that starts, and whether it was done already. With `mid_write` the first
    process that comes to that atomic write is killed in the middle of it. A closure of a script goes to Ray whole."""

    from tutelage.runs.worker import attempt

    def watched(run: Run, *options: Any) -> str | None:
        stage = import_module("tutelage.runs.do_run")  # the package has a function of this name
        real, replace = getattr(stage.do_run, "real", stage.do_run), getattr(os.replace, "real", os.replace)
        left = [mid_write or 0]

        def noted(run: Run) -> dict[str, Any]:
            with log.open("a") as handle:
                handle.write(f"{run.folder.name} {run.done} {os.getpid()}\n")
            return real(run)

        def stopping(source: Any, target: Any) -> None:
            left[0] -= 1
            if left[0] == 0 and deaths is not None and not deaths.exists():
                deaths.write_text(str(target))
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        noted.real, stopping.real = real, replace  # type: ignore[attr-defined]
        stage.do_run, os.replace = noted, stopping  # type: ignore[assignment]
        return attempt(run, *options)

    return watched


def fork(folder: Path, name: str, mid_write: int | None = None, **options: Any) -> int:
    """Start a driver for the study in `folder/name`."""
    process = os.fork()
    if process:
        return process
    try:
        deaths = folder / f"{name}-{time.time_ns()}.death"
        watched = counting(folder / f"{name}.log", deaths, mid_write)
        workers.attempt = import_module("tutelage.runs.worker").attempt = watched
        forking = multiprocessing.get_context("fork")  # a pool's workers need not import anything either
        multiprocessing.get_context = lambda method=None: forking  # type: ignore[assignment]
        run_study(plan_study(folder / "study.yaml", folder / name), **options)
        os._exit(0)
    except BaseException as error:
        print(type(error), error, file=sys.stderr, flush=True)
        os._exit(1)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_after(process: int, log: Path, starts: int, seconds: float) -> int:
    """Kill a driver some time after it has started so many runs, unless it has ended by then."""
    goal = len(log.read_text().splitlines()) + starts if log.exists() else starts
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if log.exists() and len(log.read_text().splitlines()) >= goal:
            time.sleep(seconds)
            os.kill(process, signal.SIGKILL)
            break
        time.sleep(0.005)
    return ended(process)


def kill_a_worker(driver: int, runs: Path, stage: str) -> None:
    """SIGKILL the process that holds the first lock of a run of that stage."""

    def holder() -> int | None:
        assert os.waitid(os.P_PID, driver, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, "the driver has ended"
        for lock in runs.glob(f"{stage}-s*/lock"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                return int(lock.read_text().split()[0])
        return None

    os.kill(wait_for(holder, f"a worker of {stage}"), signal.SIGKILL)


def locally(folder: Path) -> dict[str, Any]:
    """How drivers ended: an unbroken one, those that were killed and the one after them, two at a time."""
    chance, broken = random.Random(6), []
    began = time.monotonic()
    ends = [ended(fork(folder, "unbroken"))]
    mean = (time.monotonic() - began) / 15  # no kill comes so late that the study is over before the last of them
    for number in range(KILLS):
        if number % 3 == 2:  # in a write
            broken.append(ended(fork(folder, "broken", chance.randint(1, 6))))
        else:
            starts, seconds = chance.randint(1, 2), chance.uniform(0, mean)
            broken.append(killed_after(fork(folder, "broken"), folder / "broken.log", starts, seconds))
    ends.append(ended(fork(folder, "broken")))
    two = [fork(folder, "two") for _ in range(2)]
    ends += map(ended, two)
    pool = fork(folder, "pool", jobs=2)
    kill_a_worker(pool, folder / "pool", "sft")
    return {"broken": broken, "ends": ends, "pool": ended(pool)}


def on_ray(folder: Path) -> dict[str, list[int]]:
    """The same on a cluster that outlives its drivers. Every third of them, and the last, loses a worker in a write."""
    import ray  # noqa: F401

    chance, broken = random.Random(7), []
    for number in range(KILLS):
        process = fork(folder, "ray", chance.randint(1, 6) if number % 3 == 2 else None, executor="ray")
        starts, seconds = chance.randint(1, 3), chance.uniform(0, 0.2)
        broken.append(killed_after(process, folder / "ray.log", starts, seconds))
    return {"broken": broken, "ends": [ended(fork(folder, "ray", 1, executor="ray"))]}


def main(folder: Path) -> None:
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    beside = os.fork() if "RAY_ADDRESS" in os.environ else -1
    if not beside:
        (folder / "ray.json").write_text(json.dumps(on_ray(folder)))
        os._exit(0)
    (folder / "broken.json").write_text(json.dumps(locally(folder)))
    assert beside < 0 or ended(beside) == 0


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
    subprocess.run([python, __file__, str(folder)], env=given, check=True, timeout=HANG)
    return folder


def starts(file: Path) -> list[tuple[str, bool]]:
    return [(line.split()[0], line.split()[1] == "True") for line in file.read_text().splitlines()]


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
    from tutelage.runs.stages import train as train_stage

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
    (workshop.runs / "file").touch()
    with pytest.raises(SystemExit):
        command(["study", "run", file, "--runs", str(workshop.runs / "file" / "runs")])
    assert "cannot make the folder" in capsys.readouterr().err.splitlines()[-1]
    command(["study", "status", file, "--runs", runs, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["counts"] == {"done": 12}
    listed = json.loads((workshop.runs / "study.study.json").read_text())
    assert all((workshop.runs / cell["folder"] / "examples.jsonl").is_file() for cell in listed["cells"])


def test_a_killed_worker_costs_its_run_alone(killed: Path):
    """Of a pool of processes; `on_ray` loses workers too, its last driver among them."""
    assert json.loads((killed / "broken.json").read_text())["pool"] == 0
    assert results(killed / "pool") == results(killed / "unbroken")
    started = Counter(name for name, _ in starts(killed / "pool.log"))
    assert len(started) == 15
    assert sum(started.values()) > 15
    assert list((killed / "pool").glob("teacher_sft-s0-*/log.txt"))


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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
