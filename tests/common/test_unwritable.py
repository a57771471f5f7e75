"""Places where nothing can be written are told before any work, by every command and call that would write there."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes_fixture import ROWS, Workshop

import tutelage
from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.common.files import unwritable, write_atomically
from tutelage.evaluation.replies import RESPONSES_FILE
from tutelage.runs.stages.earlier import rescore_runs


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that this process may not write, whoever runs the tests."""
    with tempfile.TemporaryDirectory() as name:
        folder, user = Path(name), os.geteuid()
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


def test_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    assert [unwritable(Path(name)) for name in (".", "a/b/c", tmp_path, "../x")] == [None] * 4
    assert unwritable(Path("file")) == unwritable(Path("file/a/b")) == "file is a file"
    assert unwritable(tmp_path / "link" / "a") == f"{tmp_path / 'link'} is a link to nothing"
    assert str(unwritable(Path("a" * 300))).endswith("File name too long")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]  # nothing was written


def test_a_folder_that_may_not_be_written(locked: Path) -> None:
    for folder in (locked, locked / "a" / "b"):
        assert unwritable(folder) == (
            "its permissions forbid it" if folder == locked else f"the permissions of {locked} forbid it"
        )


WORK = (
    "runs.run_recipe:run_recipe",
    "runs.recipe_results:recipe_results",
    "forecasting.forecast:make_forecast",
    "evaluation.run_benchmarks:load_answerer",
    "evaluation.run_benchmarks:data_folder",
    "evaluation.replies:score_file",
    "delivery.export:_check_folders",
    "runs.preflight.machine:look_at_machine",
)


def work(*_: Any, **__: Any) -> None:
    raise AssertionError("work was begun")


def nothing_new(*_: Any, dir: Path, **__: Any) -> None:
    raise FileNotFoundError(2, "No such file or directory", str(dir))


COMMANDS = {
    "run --runs": ["run", "recipe.yaml", "--runs", "BAD"],
    "forecast --runs": ["forecast", "recipe.yaml", "--runs", "BAD"],
    "demo --runs": ["demo", "--runs", "BAD"],
    "evaluate recipe --runs": ["evaluate", "recipe.yaml", "--model", "student", "--tasks", "test", "--runs", "BAD/x"],
    "run --report": ["run", "recipe.yaml", "--report", "BAD"],
    "report --out": ["report", "recipe.yaml", "--out", "BAD"],
    "forecast --out": ["forecast", "recipe.yaml", "--out", "BAD"],
    "evaluate --out": ["evaluate", "--model", "student", "--tasks", "ifeval", "--out", "BAD"],
    "evaluate --runs": ["evaluate", "--model", "student", "--tasks", "ifeval", "--runs", "BAD"],
    "responses --out": ["evaluate", "--tasks", "ifeval", "--responses", "rows.jsonl", "--out", "BAD"],
    "export --out": ["export", "student", "--out", "BAD/x"],
    "init --out": ["init", "train.jsonl", "--out", "BAD/x.yaml", "--yes"],
}


BAD = {
    "a file": "a file is a file",
    "locked": "forbid it",
    "odd": "odd takes nothing new (No such file or directory)",  # as /proc, whose permissions say nothing of it
}


@pytest.mark.parametrize("case", COMMANDS)
@pytest.mark.parametrize(("bad", "reason"), BAD.items())
def test_commands_refuse_before_they_work(
    case: str, bad: str, reason: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    workshop.write()
    workshop.rows("train", ROWS)
    monkeypatch.chdir(workshop.folder)
    for name in WORK:
        module, _, attribute = name.partition(":")
        monkeypatch.setattr(importlib.import_module(f"tutelage.{module}"), attribute, work)
    Path("a file").write_text("mine")
    Path("rows.jsonl").touch()
    Path("locked").mkdir()
    Path("odd").mkdir()
    monkeypatch.setattr("tempfile.mkdtemp", nothing_new)
    monkeypatch.setattr("os.access", lambda path, mode, **_: mode & os.W_OK == 0 or Path(path) != Path("locked"))
    student = str(workshop.models / "student")
    with pytest.raises(SystemExit) as caught:
        main([word.replace("BAD", bad).replace("student", student) for word in COMMANDS[case]])
    assert caught.value.code == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"tutelage: {bad}")
    named = "--out" if case == "evaluate --runs" else case.split()[-1]  # which names a folder outside the runs
    mend = "allow it (chmod u+w)" if bad == "locked" else "mend that"
    assert f"{reason}: choose another folder by {named}, or {mend}" in said[-1]
    assert " cannot be written: " in said[-1]
    assert Path("a file").read_text() == "mine"
    assert not any((*Path("locked").iterdir(), *Path("odd").iterdir()))


def test_a_report_without_the_option_names_its_own_folder(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    workshop.write()
    monkeypatch.chdir(workshop.folder)
    Path("runs").mkdir()
    Path("runs", "tiny-report").write_text("mine")
    with pytest.raises(SystemExit):
        main(["run", "recipe.yaml"])
    wrong = "runs/tiny-report, where the report goes by default, cannot be written: runs/tiny-report is a file: choose"
    assert f"tutelage: {wrong} another folder by --report, or mend that\n" in capsys.readouterr().err


def test_replies_that_are_absent_are_told_before_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()
    with pytest.raises(SystemExit):
        main(["evaluate", "--tasks", "ifeval", "--responses", "nowhere.jsonl", "--out", "a file/x"])
    assert "nowhere.jsonl does not exist" in capsys.readouterr().err


def test_a_folder_where_a_file_is_wanted(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(workshop.folder)
    for more in ([], ["--force"]):
        with pytest.raises(SystemExit):
            main(["init", "train.jsonl", "--out", ".", "--yes", *more])
        assert ". is a folder: give the file to write, such as --out mine.yaml" in capsys.readouterr().err


def test_runs_that_wait_need_a_folder_that_can_be_written(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workshop.write()
    workshop.runs.mkdir()
    monkeypatch.setattr("os.access", lambda path, *_, **__: Path(path) != workshop.runs)
    (problem,) = tutelage.plan(file, runs=workshop.runs).problems
    assert problem.startswith(f"{workshop.runs} cannot be written: its permissions forbid it: choose another")
    no = workshop.folder / "train.jsonl"
    for call in (
        lambda: tutelage.run(file, runs=workshop.folder / "r", report=no),
        lambda: tutelage.forecast(file, runs=workshop.folder / "r", out=no),
    ):
        with pytest.raises(TutelageError, match=r"cannot be written: .*train\.jsonl is a file"):
            call()
    assert not (workshop.folder / "r").exists()


def test_replies_are_not_scored_again_where_that_cannot_be_written(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "ifeval").mkdir()
    (tmp_path / "ifeval" / RESPONSES_FILE).touch()
    monkeypatch.setattr("os.access", lambda path, mode, **_: mode & os.W_OK == 0 or Path(path) == tmp_path)
    with pytest.raises(TutelageError, match=r"permissions( of .*ifeval)? forbid it"):
        next(rescore_runs(tmp_path))


def test_a_trainer_of_models_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        TutelageError, match=r"file cannot be written: .*file is a file: choose another folder by `folder`, or"
    ):
        tutelage.Trainer(torch.nn.Linear(1, 1), None, ROWS, folder=tmp_path / "file")


def test_a_file_that_cannot_be_written_says_what_mends_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TutelageError, match=r"x cannot be written: File exists; mend that, or choose another folder$"):
        write_atomically(tmp_path / "file" / "x", "")
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(TutelageError, match=r"mend that, or set TUTELAGE_CACHE to another folder$"):
        write_atomically(tmp_path / "file" / "x", "")
