"""Runs in a store: two machines (two cache folders) repeat no run, and half an upload does not count."""

from __future__ import annotations

import json
import os
import pickle
import signal
import uuid
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from recipes_fixture import Workshop
from tiny_study import write_study

from tutelage.cli.main import main as command
from tutelage.common.errors import TutelageError
from tutelage.runs.run import Run
from tutelage.runs.scheduler import Resources, Scheduler
from tutelage.runs.store import Store, open_runs

pytestmark = pytest.mark.slow

stage = import_module("tutelage.runs.do_run")  # the package has a function of this name


class Elsewhere(LocalFileSystem):
    """A folder as a store of another protocol, where a file appears before it is complete."""

    protocol = "elsewhere"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("elsewhere://"))


@pytest.fixture(params=["file", "memory", "elsewhere"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
    return f"memory://{uuid.uuid4().hex}/runs" if request.param == "memory" else f"{request.param}://{tmp_path}/store"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that are really done, in order. A fake run reads its parents' weights and writes its own."""
    names: list[str] = []

    def fake(run: Run) -> dict[str, Any]:
        if run.done:
            return {}
        names.append(run.stage)
        if run.stage == "bad":
            raise TutelageError("no luck")
        weights = [parent.folder.joinpath("model", "weights").read_text() for parent in run.parents]
        for place in ("model", "checkpoints"):
            (run.folder / place).mkdir()
            (run.folder / place / "weights").write_text(f"{run.stage}({','.join(weights)})")
        (run.folder / "metrics.jsonl").write_text('{"step": 1}\n')
        (run.folder / "result.json").write_text(json.dumps({"stage": run.stage}))
        return {}

    monkeypatch.setattr(stage, "do_run", fake)
    return names


def family(root: Path, bad: bool = False) -> list[Run]:
    """teacher → student → scores; a second student of the same teacher; perhaps one that fails."""

    def run(name: str, *parents: Run) -> Run:
        return Run(
            stage=name,
            kind="sft",
            seed=0,
            folder=root / name,
            fingerprint=name,
            recipe_folder=root,
            device="cpu",
            config=None,
            training=None,
            data={},
            models={},
            parents=parents,
        )

    teacher = run("teacher")
    student = run("student", teacher)
    return [teacher, student, run("scores", student), run("other", teacher), *([run("bad", teacher)] if bad else [])]


def work(store: Store, names: list[str], **options: Any) -> list[Run]:
    runs = family(store.local, "bad" in names)
    chosen = [run for run in runs if run.stage in names]
    store.settle(runs, push=True)
    with Scheduler(Resources(), patient=True, store=store, **options) as scheduler:
        scheduler.execute(chosen)
    return runs


def machine(url: str, name: str, tmp_path: Path) -> Store:
    return Store(url, tmp_path / name / "cache")


def test_a_second_machine_repeats_nothing(url: str, tmp_path: Path, started: list[str]):
    a, b = machine(url, "a", tmp_path), machine(url, "b", tmp_path)
    work(a, ["student"])
    assert started == ["teacher", "student"]
    runs = work(b, ["student", "scores", "other"])
    assert started == ["teacher", "student", "scores", "other"]
    assert all(run.done for run in runs)
    # The first machine's weights were fetched where they were needed.
    assert (b.local / "scores" / "model" / "weights").read_text() == "scores(student(teacher()))"
    assert (b.local / "teacher" / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert not list(b.local.rglob(".fetched"))
    there = {path.rpartition("/runs/")[2].rpartition("/store/")[2] for path in a.files.find(a.root)}
    names = ["model/weights", "metrics.jsonl", "result.json"]
    assert there == {f"{run.stage}/{name}" for run in runs for name in names}
    # The first machine knows what the second has done, without its weights. A store can be pickled.
    a = pickle.loads(pickle.dumps(a))
    assert all(run.done for run in work(a, ["scores", "other"]))
    assert len(started) == 4
    assert not (a.local / "other" / "model").exists()


def test_half_an_upload_is_no_run(url: str, tmp_path: Path, started: list[str]):
    a, b = machine(url, "a", tmp_path), machine(url, "b", tmp_path)
    a.files.makedirs(f"{a.root}/teacher/model")
    a.files.pipe(f"{a.root}/teacher/model/weights", b"teach")
    a.files.pipe(f"{a.root}/teacher/.result.json.partial", b"{")
    assert not a.is_done(family(a.local)[0])
    work(b, ["student"])
    assert started == ["teacher", "student"]
    assert a.files.cat(f"{a.root}/teacher/model/weights") == b"teacher()"


def test_killed_in_its_upload_a_run_goes_up_later(tmp_path: Path, started: list[str]):
    a, b = (machine(f"file://{tmp_path}/store", name, tmp_path) for name in "ab")
    process = os.fork()
    if not process:
        a.files.mv = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # all is uploaded but the name of result.json
        work(a, ["student"])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    teacher = family(a.local)[0]
    assert teacher.done
    assert not a.is_done(teacher)
    work(a, ["student"])
    assert started == ["student"]
    work(b, ["scores"])
    assert started == ["student", "scores"]


def test_a_run_that_another_machine_did_meanwhile(url: str, tmp_path: Path, started: list[str]):
    a, b = machine(url, "a", tmp_path), machine(url, "b", tmp_path)
    b.settle(family(b.local))
    work(a, ["teacher"])
    with Scheduler(Resources(), patient=True, store=b) as scheduler:  # settled before the other machine did it
        scheduler.execute(family(b.local)[1:2])
    assert started == ["teacher", "student"]


def test_failures_are_known_everywhere_and_tried_again_on_request(url: str, tmp_path: Path, started: list[str]):
    a, b = machine(url, "a", tmp_path), machine(url, "b", tmp_path)
    with pytest.raises(TutelageError, match=r"^bad: no luck"):
        work(a, ["bad"])
    with pytest.raises(TutelageError, match=r"^bad: no luck"):
        work(b, ["bad"])
    assert started == ["teacher", "bad"]
    with pytest.raises(TutelageError, match=r"^bad: no luck"):
        work(b, ["bad"], retry=True)
    assert started == ["teacher", "bad", "bad"]


def test_a_file_of_no_run_is_fetched_where_it_is_there(tmp_path: Path):
    (tmp_path / "a.json").write_text("1")
    Store(f"file://{tmp_path}/store", tmp_path).put(tmp_path / "a.json")
    there = Store(f"file://{tmp_path}/store", tmp_path / "local")
    for name in ("a.json", "b.json"):
        there.get(name)
    assert [path.read_text() for path in (tmp_path / "local").iterdir()] == ["1"]


def test_mistakes_are_one_line(tmp_path: Path):
    with pytest.raises(TutelageError, match=r"^--runs nothing://x: Protocol not known: nothing"):
        Store("nothing://x", tmp_path).settle(family(tmp_path))
    with pytest.raises(TutelageError, match="no password in a URL"):
        open_runs("ftp://me:secret@host/runs")
    (tmp_path / "file").write_text("")
    with pytest.raises(TutelageError, match=rf"^file://{tmp_path}/file: \w+Error: "):
        Store(f"file://{tmp_path}/file", tmp_path).put(tmp_path / "file")
    assert open_runs("some/folder") == (Path("some/folder"), None)


def test_recipes_want_a_folder(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        command(["run", str(workshop.write()), "--runs", "s3://bucket/runs"])
    assert "a URL works for studies only" in capsys.readouterr().err


def test_the_commands(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], undrawn: None
):
    study, place = write_study(workshop), f"file://{workshop.folder}/store"

    def call(cache: str, *words: str) -> str:
        monkeypatch.setenv("TUTELAGE_CACHE", str(workshop.folder / cache))
        command([*words, "--runs", place])
        return capsys.readouterr().out

    assert "study: 12 of 12 runs done" in call("a", "study", "run", str(study))
    assert json.loads(call("b", "study", "status", str(study), "--json"))["counts"] == {"done": 12}
    out = call("c", "report", str(study), "--out", str(workshop.folder / "report"))
    assert "0 of 6 cells are missing" in out
    made = Counter(file.name for file in (workshop.folder / "c").rglob("*") if file.is_file())
    assert made["result.json"] == 12
    assert made["model.safetensors"] == 0
    assert (workshop.folder / "store" / "study.study.json").is_file()
