"""The command line: quick help, and each command on a tiny recipe."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked_workers
import pytest
import typer
from recipes_fixture import ROWS, Workshop
from waiting import HANG, wait_for

import tutelage
from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.common.interrupt import Interrupted
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import ModelConfig

COMMANDS = ["init", "doctor", "run", "watch", "report", "data", "evaluate", "chat", "export", "compare", "rescore"]
COMMANDS += ["forecast", "setup", "demo", "schema", "serve-teacher"]
HEAVY = ["torch", "transformers", "datasets", "matplotlib", "accelerate", "numpy"]
WATCHED = """
import sys
from tutelage.cli import main
for words in {commands}:
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code in (0, None) or not words, (words, stop.code)  # no command: help, and 2
    print("heavy:", *[name for name in {heavy} if name in sys.modules])
"""


@pytest.mark.slow
def test_help_answers_without_heavy_imports():
    """In one process: what a verb imports shows in its answer and in all after it."""
    commands = [[], ["--help"], *([command, "--help"] for command in COMMANDS)]
    source = Path(tutelage.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(heavy=repr(HEAVY), commands=repr(commands))],
        env={"PYTHONPATH": str(source), "PATH": "", "TERM": "dumb", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *answers, rest = re.split(r"^heavy:", done.stdout, flags=re.MULTILINE)
    assert rest == "\n"
    for words, answer in zip(commands, answers, strict=True):
        usage = answer.partition("\n")[2] if words else answer  # before it, what the answer before has imported
        assert answer is usage or answer[: -len(usage)] == "\n", words
        assert "Usage:" in usage
        if len(words) < 2:
            assert all(command in usage for command in COMMANDS)


def test_the_module_is_the_program():
    source = Path(tutelage.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "tutelage", "rnu"], env={"PYTHONPATH": str(source)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("tutelage: No such command 'rnu'")
    assert len(done.stderr.splitlines()) == 1


def test_wrong_usage_names_the_commands_own_help(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["compare", "a"])
    assert capsys.readouterr().err == "tutelage: Missing argument 'b'. (tutelage compare --help)\n"


@pytest.mark.slow
def test_run_then_report_again(workshop: Workshop, capsys: pytest.CaptureFixture[str], undrawn: None):
    file = str(workshop.write(stages__2__models=["lead_1", "sft"]))
    main(["run", file, "name=other", "--runs", str(workshop.runs), "--report", str(workshop.folder / "page")])
    first = capsys.readouterr().out
    assert "| lead-1 (first utterance) |" in first
    assert (workshop.folder / "page" / "report.html").is_file()
    assert not list(workshop.runs.glob("*.json"))
    again = ["name=other", "--out", str(workshop.folder / "again"), "--runs"]
    main(["report", file, *again, str(workshop.runs), "--no-text"])
    second = capsys.readouterr().out
    rows = [line for line in first.splitlines() if line.startswith("|")]
    assert [line for line in second.splitlines() if line.startswith("|")] == rows
    page = (workshop.folder / "again" / "report.html").read_text()
    assert ROWS[0]["completion"] in (workshop.folder / "page" / "report.html").read_text()
    assert ROWS[0]["completion"] not in page
    moved = workshop.runs.rename(workshop.folder / "moved")
    main(["report", file, *again, str(moved)])
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")] == rows


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_note_is_printed_once_however_many_runs_have_it(
    workshop: Workshop, capfd: pytest.CaptureFixture[str], undrawn: None, jobs: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tutelage.runs.scheduler._processes", forked_workers.forked)
    workshop.rows("test", [*ROWS[:3], {"prompt": "The cow sat?", "completion": "No."}])
    search = {"task": "test", "grid": {"learning_rate": [0.1, 0.2, 0.3]}}
    changes = {"training__max_length": 18, "search": search, "stages__0__search": True, "seeds": [0, 1]}
    file = workshop.write(**changes, stages__2__models=["sft"])
    main(["run", file := str(file), "--runs", str(workshop.runs), "--jobs", jobs])
    first = "".join(capfd.readouterr())
    for note in ("rows are cut", "are also in data.train", "sft on test: 4 of 4 replies (100 %) ran to"):
        assert first.count(note) == 1, first
    assert "end as they should (as in 1 more run)\n" in first
    models = workshop.folder / "models"  # the one with a score, and the distilled one
    assert f"→ tutelage chat {models / 'tiny-sft-s0'} {models / 'tiny-gkd-s0'}    talk to gkd beside it\n" in first
    main(["run", file, "--runs", str(workshop.runs)])  # nothing is left to do, so nothing was said on the way
    again = "".join(capfd.readouterr())
    assert again.count("are also in data.train") == 1
    assert again.count("sft on test: 4 of 4 replies (100 %) ran to") == 1


def test_a_report_of_a_folder_that_is_not_there_is_refused(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["report", str(workshop.write()), "--runs", str(workshop.folder / "gone"), "--out", str(workshop.folder)])
    assert capsys.readouterr().err.endswith("/gone: give the folder of the recipe's runs by --runs\n")
    assert not (workshop.folder / "report.html").exists()


@pytest.mark.slow
def test_report_takes_what_run_takes(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    more = {"name": "more", "kind": "evaluate", "models": ["base"], "tasks": ["test"]}
    file = str(workshop.write(stages__2__models=["lead_1"], stages__1=more))
    main(["run", file, "--only", "more", "--runs", str(workshop.runs)])
    output = capsys.readouterr().out
    assert output.startswith("tiny: loading torch, then checking models and data\n")
    assert "| Base student |" in output
    assert "lead-1" not in output
    main(["report", file, "--only", "more", "--runs", str(workshop.runs), "--report", str(workshop.folder / "again")])
    table = (workshop.folder / "again" / "table.md").read_text()
    assert table == (workshop.runs / "tiny-report" / "table.md").read_text()
    (workshop.runs / "tiny-report" / "table.md").unlink()
    main(["report", file, "--only", "more", "--runs", str(workshop.runs)])  # by default where `run` writes it
    assert table == (workshop.runs / "tiny-report" / "table.md").read_text()
    main(["report", file, "--runs", str(workshop.runs), "--out", str(workshop.folder / "again")])
    assert "1 of 3 runs are done" in capsys.readouterr().out  # sft and lead-1 are not


@pytest.mark.parametrize("rows", [1, 4])
def test_evaluate_any_model(workshop: Workshop, capsys: pytest.CaptureFixture[str], rows: int):
    workshop.rows("test", ROWS[:rows])
    model = workshop.models / "student"
    arguments = ["evaluate", str(workshop.write()), "--model", str(model), "--tasks", "test", "--runs"]
    main([*arguments, str(workshop.runs)])
    scores, note, examples = capsys.readouterr().out.splitlines()
    assert note.startswith("note: student on test: ")  # it never ends a reply
    assert scores.startswith("test rouge_l: ")
    assert scores.endswith(f"(n = {rows})")
    assert scores.endswith("± unknown (n = 1)") == (rows == 1)  # one example has no standard error
    file = Path(examples.removeprefix("examples: "))
    assert len(file.read_text().splitlines()) == rows
    assert file.parent.name.startswith("student-on-test-s0-")  # the model's name, not that of a place in the recipe
    assert json.loads((file.parent / "config.json").read_text())["stage"] == "student on test"
    assert json.loads((file.parent / "result.json").read_text())["model"] == "student"
    stamp = file.stat().st_mtime_ns
    main([*arguments, str(workshop.runs)])
    assert capsys.readouterr().out.splitlines() == [scores, note, examples]
    assert file.stat().st_mtime_ns == stamp


def test_evaluate_on_other_rows_takes_keys_of_the_recipe_as_run_does(workshop: Workshop, capsys: Any):
    workshop.rows("other", ROWS[:3])
    options = ["--model", str(workshop.models / "student"), "--tasks", "test", "--runs", str(workshop.runs)]
    main(["evaluate", str(workshop.write()), "data.test.path=other.jsonl", *options])
    assert "(n = 3)\n" in capsys.readouterr().out
    file, other = str(workshop.write(data__test__size=2)), "data.test.path=other.jsonl"
    main(["evaluate", file, other, *options])
    assert "2 of 3 rows of other.jsonl are used: `data.test.size` is that of the recipe; add data.test.size=null" in (
        " ".join(capsys.readouterr().err.split())
    )
    main(["evaluate", file, other, "data.test.size=null", *options])
    assert "are used" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "data.test.path=other.jsonl", *options])
    said = "tutelage: `data.test.path=other.jsonl` is a key of a recipe, and no file: give the recipe's file before it"
    assert " ".join(capsys.readouterr().err.split()) == said


def test_a_plan_of_a_recipe_runs_nothing(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    main(["run", str(workshop.write()), "training.epochs=2", "--plan", "--runs", str(workshop.runs)])
    out = capsys.readouterr().out
    assert "gkd on test" in out
    assert " runs to do" in out
    assert not workshop.runs.exists()


def test_schema_names_every_section_of_a_stage(capsys: pytest.CaptureFixture[str]):
    main(["schema"])
    schema = json.loads(capsys.readouterr().out)
    assert {"SftStage", "DistillStage", "PruneStage", "EvaluateStage", "TrainingConfig"} <= set(schema["$defs"])
    assert schema["$defs"]["DistillStage"]["additionalProperties"] is False


def raised(error: BaseException) -> None:
    raise error


def abort(number: signal.Signals) -> None:
    """What typer makes of a signal during a question."""
    try:
        os.kill(os.getpid(), number)
    except KeyboardInterrupt:
        raise typer.Abort from None


GOES_ON = "; the same command goes on where it stopped"
SAVED = "stopped after step 3; the same command goes on from there"


@pytest.mark.parametrize(
    ("verb", "stop", "code", "line"),
    [
        ("compare", lambda: raised(KeyboardInterrupt()), 130, "stopped"),
        ("run", lambda: raised(KeyboardInterrupt()), 130, f"stopped{GOES_ON}"),
        ("run", lambda: os.kill(os.getpid(), signal.SIGTERM), 143, f"stopped{GOES_ON}"),
        ("study", lambda: raised(Interrupted(SAVED)), 130, SAVED),
        ("init", lambda: abort(signal.SIGINT), 130, "stopped; nothing was written"),
        ("init", lambda: abort(signal.SIGTERM), 143, "stopped; nothing was written"),
    ],
)
def test_a_stop_is_one_line_and_130_or_143(
    verb: str, stop: Callable[[], None], code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys.modules[main.__module__], "app", lambda *_, **__: stop())
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a script's background it is ignored
    try:
        with pytest.raises(SystemExit) as caught:
            main([verb])
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert caught.value.code == code
    assert capsys.readouterr().err == f"tutelage: {line}\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "jobs", "warm"), [(signal.SIGINT, "1", True), (signal.SIGTERM, "1", True), (signal.SIGTERM, "2", False)]
)
def test_a_stop_in_training_saves_and_says_so(
    workshop: Workshop, number: signal.Signals, jobs: str, warm: bool, python: str
):
    file, noted = workshop.write(training__epochs=100_000, training__checkpoint_every=1_000_000), workshop.folder / "id"
    program = [python, forked_workers.__file__, str(noted)] if warm else [sys.executable, "-m", "tutelage"]
    command = [*program, "run", str(file), "--runs", str(workshop.runs), "--jobs", jobs]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: any(workshop.runs.glob("sft-*/metrics.jsonl")) or process.poll() is not None, "a training")
        os.kill(int(noted.read_text()) if warm else process.pid, number)
        said = process.communicate(timeout=HANG)[1].splitlines()
    assert process.returncode == 128 + number, said
    assert said[-1].startswith("tutelage: stopped")
    assert "the same command goes on" in said[-1]
    assert not any("Traceback" in line for line in said)
    assert list(workshop.runs.glob("sft-*/checkpoints/checkpoint-*"))


def test_what_an_encoding_lacks_is_written_as_escapes(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", "strict"))
    main(["data", "inspect", str(workshop.write()), "--rows", "1"])
    sys.stdout.flush()
    assert b"\\u27e6The dog ran. 0<|im_end|>\\u27e7" in written.getvalue()  # ⟦…⟧


def test_relative_models_are_here_or_beside_the_recipe(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    folder = workshop.folder / "made"
    shutil.copytree(workshop.models / "student", folder / "s")
    file = workshop.write(student__path="s", student__tokenizer="s").rename(folder / "recipe.yaml")
    monkeypatch.chdir(workshop.folder)
    student = load_recipe(file).student
    assert isinstance(student, ModelConfig)
    assert (student.path, student.tokenizer) == (str(folder / "s"), str(folder / "s"))
    monkeypatch.chdir(folder)
    student = load_recipe(file).student
    assert isinstance(student, ModelConfig)
    assert student.path == "s"
    monkeypatch.chdir(workshop.folder)
    (workshop.folder / "s").mkdir()
    with pytest.raises(TutelageError, match=r"student\.path: `s` is in the current folder and beside the recipe"):
        load_recipe(file)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["RECIPE", "--model", "m", "--tasks", "test", "--limit", "3"], "--limit"),
        (["RECIPE", "--model", "m", "--tasks", "test", "--json"], "--json"),
        (["RECIPE", "--model", "m", "--tasks", "test", "--no-chat"], "--chat"),
        (["--tasks", "bbh", "--responses", "r.jsonl", "--max-new-tokens", "3"], "--max-new-tokens"),
        (["--task", "bbh", "--responses", "r.jsonl", "--thinking"], "--thinking"),
    ],
)
def test_an_option_that_nothing_reads_is_refused(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], arguments: list[str], option: str
):
    file = str(workshop.write())
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", *(file if word == "RECIPE" else word for word in arguments)])
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith(f"tutelage: {option} has no effect with ")


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_data_in_place_of_a_recipe_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(b"a,b: c\n1,2\n")
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path / name)])
    error = capsys.readouterr().err
    assert f"{tmp_path / name} is data, and no recipe: `tutelage init" in " ".join(error.split())


def test_a_training_key_of_a_stage_is_said_with_its_section(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["run", str(workshop.write()), "stages.gkd.epochs=3"])
    assert "unknown key `epochs`: did you mean `training.epochs`?" in " ".join(capsys.readouterr().err.split())


def test_a_misspelt_recipe_is_answered_with_what_there_is(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    file = workshop.write()
    (workshop.folder / "runs" / "tiny-report").mkdir(parents=True)
    for name, said in (
        (file.with_name("recpie.yml"), f"does not exist: did you mean `{file}`?"),
        (file.with_name("other.yaml"), f"does not exist: there are {file}"),
        ("sub/other.yaml", "does not exist: there are recipe.yaml"),
        ("runs/tiny-report", "is a folder: there are recipe.yaml"),
        ("runs", "is a folder: there are recipe.yaml"),
        (".", f"is a folder: there are {file.name}"),
    ):
        with pytest.raises(SystemExit):
            main(["run", str(name)])
        assert capsys.readouterr().err.endswith(f"tutelage: recipe {name} {said}\n")
