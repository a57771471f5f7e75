"""A stage as two ranks: the results of one rank; killed in any way, it leaves no process behind, and can go on."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ranks_recipe import GKD, STEPS, TWO, planned
from recipes_fixture import Workshop
from safetensors.torch import load_file, save_file
from tiny_study import write_study
from two_ranks import DEVICE
from waiting import wait_for

from tutelage.cli.main import main as command
from tutelage.common.errors import TutelageError
from tutelage.common.interrupt import Interrupted
from tutelage.common.metrics_log import CLOCK_KEYS, read_metrics
from tutelage.recipe.load import load_recipe
from tutelage.runs import ranks
from tutelage.runs.planner import Planner
from tutelage.runs.ranks import Share, _failure, gpu_ids
from tutelage.runs.run import Run
from tutelage.runs.scheduler import Resources, Scheduler
from tutelage.runs.worker import attempt

pytestmark = pytest.mark.slow

WORKER = "import pickle, sys; from tutelage.runs.worker import attempt; attempt(*pickle.load(open(sys.argv[1], 'rb')))"


@pytest.fixture
def processes(python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """The living ranks by file name, found by the process ids that they write into the temporary folder."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHON_EXEC", python)  # with which the launcher starts ranks
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # or the old folder stays in use

    def living() -> dict[str, int]:
        notes = [(file.name, int(file.read_text() or 0)) for file in folder.glob("tutelage-*/pid-*")]
        return {name: process for name, process in notes if process and alive(process)}

    return living


@pytest.fixture
def _late_requests_do_not_end_pytest() -> Iterator[None]:
    """A SIGTERM that comes when the run has ended already fails the test, and not the whole session."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def steps(run: Run) -> int:
    lines = read_metrics(run.folder / "metrics.jsonl")
    return int(lines[-1]["step"]) if lines else 0


def later(run: Run, step: int, action: Callable[[], None]) -> None:
    """Do `action` in the background once the run is beyond a step."""
    threading.Thread(target=lambda: (wait_for(lambda: steps(run) > step, "a step"), action()), daemon=True).start()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="ranks end with their worker on Linux only")
@pytest.mark.usefixtures("_late_requests_do_not_end_pytest")
def test_two_ranks_killed_in_three_ways_end_as_one(
    workshop: Workshop, processes: Callable[[], dict[str, int]], monkeypatch: pytest.MonkeyPatch
):
    run, alone = (planned(workshop, root, device=DEVICE) for root in (workshop.runs, workshop.folder / "alone"))
    assert run.fingerprint == alone.fingerprint
    # The worker is killed: no rank outlives it.
    packed = workshop.folder / "run.pickle"
    packed.write_bytes(pickle.dumps((run, False, True, TWO)))
    with monkeypatch.context() as patch:
        patch.delenv("PYTHON_EXEC")  # worker, launcher and ranks as they really are
        worker = subprocess.Popen([sys.executable, "-c", WORKER, str(packed)])
    with worker:
        wait_for(lambda: steps(run) > 4, "the fifth step")
        assert sorted(processes()) == ["pid-0", "pid-1"]
        worker.kill()
    wait_for(lambda: not processes(), "the ranks to end")
    # A rank is killed: the run fails, in one line that names the log.
    before = steps(run)
    later(run, before, lambda: os.kill(processes()["pid-1"], signal.SIGKILL))
    message = attempt(run, share=TWO)
    assert message is not None
    assert "rank 1 died without an error message (killed" in message
    assert message.endswith(f"(whole output: {run.folder / 'log.txt'})")
    assert "\n" not in message
    assert (run.folder / "error.txt").read_text() == message + "\n"
    assert not processes()
    # The worker is asked to stop: the ranks save first.
    before = steps(run)
    assert 4 < before < STEPS
    later(run, before, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match=r"stopped after step \d+ of \d+ of gkd \(seed 0\); the same command goes on"):
        attempt(run, share=TWO)
    (saved,) = (run.folder / "checkpoints").glob("checkpoint-*")
    assert int(saved.name.rpartition("-")[2]) == steps(run)
    assert not processes()
    assert not (run.folder / "lock").exists()
    # Again: now it ends, as one rank does.
    assert attempt(run, share=TWO) is None
    assert attempt(alone) is None
    one, two = (read_metrics(r.folder / "metrics.jsonl") for r in (alone, run))
    assert [line["step"] for line in two] == [*range(1, STEPS + 1)]
    for a, b in zip(one, two, strict=True):
        for key in a.keys() - set(CLOCK_KEYS):
            assert b[key] == (None if a[key] is None else pytest.approx(a[key], rel=1e-4, abs=1e-6)), key
    results = [json.loads((r.folder / "result.json").read_text()) for r in (alone, run)]
    assert results[1]["perplexity_after"] == pytest.approx(results[0]["perplexity_after"], rel=1e-4)
    assert {p.name for p in run.folder.iterdir()} == {p.name for p in alone.folder.iterdir()} | {"log.txt"}


@pytest.mark.long
def test_a_mistake_is_said_as_one_rank_says_it(
    workshop: Workshop, processes: Callable[[], dict[str, int]], capsys: pytest.CaptureFixture[str]
):
    file = workshop.write(stages=[GKD | {"training": {"learning_rate": 1e30}}], device=DEVICE)
    with pytest.raises(SystemExit):
        command(["run", str(file), "--runs", str(workshop.runs), "--gpus-per-run", "2"])
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tutelage: ")]
    assert message.startswith("tutelage: gkd: loss ")
    assert "Lower `learning_rate`" in message
    assert not processes()


@pytest.mark.long
@pytest.mark.parametrize("fault", ["missing", "NaN"])
def test_a_model_that_is_not_whole_is_refused_on_sharded_ranks(
    workshop: Workshop, processes: Callable[[], dict[str, int]], fault: str
):
    """Only the first rank reads the weights; the others must not wait for it."""
    folder, name = workshop.folder / "broken", "model.layers.3.mlp.down_proj.weight"
    shutil.copytree(workshop.models / "teacher", folder)
    weights = load_file(folder / "model.safetensors")
    if fault == "missing":
        del weights[name]
    else:
        weights[name][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    run = planned(workshop, workshop.runs, training__shard=True, teacher__path=str(folder), device=DEVICE)
    message = str(attempt(run, share=TWO))
    assert f"`{folder}`: " in message
    assert name in message
    assert "\n" not in message
    assert not processes()


def test_vllm_is_one_process(workshop: Workshop):
    run = planned(workshop, workshop.runs, stages__0__sampling__backend="vllm")
    assert "set it to torch, or use --gpus-per-run 1" in str(attempt(run, share=TWO))


# --- GPUs -----------------------------------------------------------------------------------------------------------


def test_gpus_are_named_as_the_environment_names_them(monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_ids(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 3")
    assert gpu_ids(1) == ["5", "3"]
    with pytest.raises(TutelageError, match=r"^--gpus-per-run 3: torch sees 2 GPUs here"):
        gpu_ids(3)


def test_a_part_of_a_gpu_is_rays_alone(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    file, runs = str(write_study(workshop)), str(workshop.runs)
    for number, message in (("0.5", "only with --executor ray"), ("2.5", "give a whole number")):
        with pytest.raises(SystemExit):
            command(["study", "run", file, "--runs", runs, "--gpus-per-run", number])
        assert message in capsys.readouterr().err
    assert not list(workshop.runs.glob("*/config.json"))


class Pool:
    """An executor that records the share of each run, and does nothing."""

    def __init__(self) -> None:
        self.shares: list[tuple[str, Share]] = []

    def submit(self, function: Any, run: Run, debug: bool, log: bool, share: Share, store: None) -> Any:
        from concurrent.futures import Future

        self.shares.append((run.stage, share))
        future: Any = Future()
        future.set_result(None)
        return future

    def shutdown(self, cancel_futures: bool = True) -> None:
        pass


def test_runs_side_by_side_get_gpus_of_their_own(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    """Training runs get two of four GPUs each, so the third of them waits; evaluations get one."""
    monkeypatch.setattr("tutelage.runs.planner.resolve_device", lambda _: "cuda")
    sfts = [{"name": f"sft{n}", "kind": "sft", "data": "train", "training": {"epochs": n}} for n in (1, 2, 3)]
    scores = {"name": "scores", "kind": "evaluate", "models": ["sft1", "sft2"], "tasks": ["test"]}
    planner = Planner(load_recipe(workshop.write(stages=[*sfts, scores])), workshop.folder, workshop.runs)
    runs = [planner.stage_run(f"sft{n}", 0) for n in (1, 2, 3)]
    runs += [planner.evaluation(f"sft{n}", "test", 0) for n in (1, 2)]
    pool = Pool()
    resources = Resources(8, ranks=2, gpus=["0", "1", "2", "3"])
    with Scheduler(resources, pool=pool) as scheduler:
        scheduler.execute(runs)
    assert sorted(resources.free_gpus or []) == ["0", "1", "2", "3"]
    shares = dict(pool.shares)
    assert [name for name, _ in pool.shares][:2] == ["sft1", "sft2"]
    assert {*shares["sft1"].gpus} | {*shares["sft2"].gpus} == {"0", "1", "2", "3"}
    assert shares["sft3"].ranks == 2
    assert all(shares[f"sft{n} on test"].ranks == len(shares[f"sft{n} on test"].gpus) == 1 for n in (1, 2))


def test_a_run_with_gpus_sees_no_others(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    monkeypatch.setattr(
        ranks, "_command", lambda *_: [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    )
    run = planned(workshop, workshop.runs)
    assert "the launcher failed" not in str(attempt(run, share=Share(gpus=("7",))))
    seen += (run.folder / "log.txt").read_text().split()
    assert seen == ["7"]


def test_ranks_that_the_launcher_ended_are_not_called_dead(tmp_path: Path):
    def report(**codes: int) -> str:
        each = "[{0}]:\n  rank      : {0} (local_rank: {0})\n  exitcode  : {1} (pid: 7{0})\n  error_file: <N/A>\n"
        return "Failures:\n" + "".join(each.format(name[1:], code) for name, code in codes.items())

    log = tmp_path / "log.txt"
    log.write_text(report(_1=-9))
    before = log.stat().st_size  # from an earlier attempt
    reports = [{"rank": 0, "kind": "RuntimeError", "line": "boom", "time": 1.0}]
    forced = "W1128 api.py:1031] Unable to shutdown process 70 via 15, forcefully exiting via 9\n"
    boom, dead = "rank 0: RuntimeError: boom", "rank 1 died without an error message (killed, perhaps out of memory)"
    for now, expected in (
        ("", f"{boom}; {dead}"),  # the launcher prints no summary
        (report(_0=1), boom),
        (report(_0=1, _1=-15), boom),
        (report(_1=-9, _0=1), f"{boom}; {dead}"),  # its connection broke as the other died
    ):
        log.write_text(report(_1=-9) + now)
        assert _failure(reports, range(2), log, before) == f"{expected} (whole output: {log})"
    for now in (report(_1=-9), forced + report(_0=-9, _1=-9)):  # as under gloo and under NCCL
        log.write_text(now)
        assert _failure([], range(2), log, 0) == f"{dead} (whole output: {log})"
    reports = [{"rank": 1, "kind": "OutOfMemoryError", "line": "CUDA out of memory", "time": 1.0}]
    log.write_text(forced + report(_0=-9, _1=1))
    assert _failure(reports, range(2), log, 0) == f"rank 1: OutOfMemoryError: CUDA out of memory (whole output: {log})"
