"""What comes from outside cannot run code, leave its folder, load anything into a page, or learn a key.

docs/security.md says what is trusted. Refused inputs are also in test_malformed_inputs.py (templates, YAML, archives,
pickled weights), hostile pages in the tests of each page, a judge that repeats the key in evaluation/test_judge.py.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_run import make_run
from fake_study import STUDENTS, evaluate, plan
from judge_endpoint import Endpoint
from pages import HOSTILE, Page
from recipes_fixture import Workshop

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks.gpqa import SEAL, unseal
from tutelage.evaluation.judges.endpoint import JudgeEndpoint
from tutelage.evaluation.judges.judge import JudgeItem, judge_questions
from tutelage.evaluation.page import render_page
from tutelage.evaluation.records import ExampleRecord, folder_name
from tutelage.models.load import load_model
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import ModelConfig
from tutelage.report.recipe.page import build_report
from tutelage.report.study.page import write_study_report
from tutelage.report.table_files import csv_text
from tutelage.runs.planner import Planner
from tutelage.runs.recipe_results import RecipeResults
from tutelage.runs.run import with_parents
from tutelage.runs.search import Search
from tutelage.runs.store import Store
from tutelage.training.checkpoint import load_checkpoint

KEY = "sk-do-not-tell-0123456789"


# --- paths ---


@pytest.mark.parametrize("name", ["..", "../x", "/etc/passwd", "a/../../b", "", ".", "a\\..\\b", "~/x", "a\nb", "C:x"])
def test_names_of_models_and_tasks_of_lm_eval_are_one_folder(name: str) -> None:
    made = folder_name(name)
    assert made not in ("", ".", "..")
    assert not set("/\\\n:~") & set(made)
    assert not made.startswith(".")


def test_every_run_is_a_folder_of_the_runs_folder(workshop: Workshop) -> None:
    tasks = {"a test. of..dots": workshop.recipe["tasks"]["test"]}
    stages = [*workshop.recipe["stages"]]
    stages[0] = stages[0] | {"name": "a..b-.."}
    stages[2] = stages[2] | {"tasks": list(tasks), "models": ["lead_1", "a..b-.."]}
    file = workshop.write(tasks=tasks, stages=stages)
    search = Search(Planner(load_recipe(file), workshop.folder, workshop.runs))
    for run in with_parents(search.known()):
        assert run.folder.resolve().parent == workshop.runs.resolve()


def test_a_store_cannot_write_outside_a_run(tmp_path: Path, workshop: Workshop) -> None:
    class Hostile:
        def find(self, place: str) -> list[str]:
            return [f"{place}/{name}" for name in ("result.json", "../evil", "a/../../evil", "..\\evil", "x/.hidden")]

        def _strip_protocol(self, place: str) -> str:
            return place

        def get(self, remote: list[str], local: list[str]) -> None:
            for file in local:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                Path(file).write_text("{}")

    run = Search(Planner(load_recipe(workshop.write()), workshop.folder, workshop.runs)).known()[0]
    store = Store("memory://bucket", workshop.runs)
    store.__dict__["_opened"] = (Hostile(), "bucket")
    store.pull(run)
    assert sorted(file.name for file in workshop.runs.rglob("*") if file.is_file()) == ["result.json"]


@pytest.mark.slow
def test_a_sealed_reply_unpacks_to_a_bound() -> None:
    import base64
    import zlib

    small, huge = (base64.b64encode(zlib.compress(bytes(size))).decode() for size in (1000, 60_000_000))
    assert unseal(SEAL + small) == "\0" * 1000
    with pytest.raises(TutelageError, match="longer than 50000000 bytes"):
        unseal(SEAL + huge)


# --- code ---


def test_a_model_folder_cannot_run_its_own_code(workshop: Workshop, tmp_path: Path) -> None:
    folder, mark = tmp_path / "own", tmp_path / "it-ran"
    shutil.copytree(workshop.models / "student", folder)
    code = f"open({str(mark)!r}, 'w')\nclass Own:\n    pass\nclass OwnConfig(Own):\n    pass\n"
    (folder / "own.py").write_text(code)
    auto = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "own.Own")
    for file, content in (
        ("config.json", {"model_type": "own", "auto_map": auto}),
        ("tokenizer_config.json", {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}),
    ):
        before = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(before | content))
    with pytest.raises(TutelageError, match="cannot load"):
        load_model(ModelConfig(path=str(folder)))
    shutil.copy(workshop.models / "student" / "config.json", folder / "config.json")
    with pytest.raises(TutelageError, match="cannot load"):
        load_model(ModelConfig(path=str(folder)))  # the tokenizer alone
    assert not mark.exists()
    assert ModelConfig(path="x").trust_remote_code is False


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (open, (str(self.mark), "w"))


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    torch.save({"model": Bomb(mark)}, tmp_path / "state.pt")
    model = torch.nn.Linear(1, 1)
    with pytest.raises(Exception, match="weights_only"):
        load_checkpoint(tmp_path, model, torch.optim.SGD(model.parameters()))
    assert not mark.exists()


def test_a_package_path_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile_package").mkdir()
    (tmp_path / "hostile_package" / "__init__.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("hostile_package", "hostile_package.inner"):
        with pytest.raises(TutelageError, match="package"):
            load_model(ModelConfig(path=f"package:{name}"))
    assert "hostile_package" not in sys.modules


# --- pages, tables, terminals ---


def thinking(*records: ExampleRecord) -> list[ExampleRecord]:
    """Replies whose thoughts and answers try to break out, and every other one without an end."""
    texts = [f"<think>{HOSTILE}</think>{HOSTILE}", f"<think>{HOSTILE}"]
    return [dataclasses.replace(record, response=texts[n % 2], prompt=HOSTILE) for n, record in enumerate(records)]


def checked(html: str, scripts: int = 0) -> Page:
    page = Page(html)
    assert page.tags.count("script") == scripts
    assert "img" not in page.tags
    assert page.handlers == []
    assert [one for one in page.addresses if not one.startswith("#")] == []
    assert "default-src 'none'" in html
    return page


def with_notice(results: RecipeResults) -> RecipeResults:
    return dataclasses.replace(results, notices=(HOSTILE,))


@pytest.mark.slow
@pytest.mark.long
def test_thoughts_and_notices_stay_text_on_every_page(tmp_path: Path) -> None:
    results = with_notice(make_run(tmp_path / "r", count=4, change=lambda stage, records: thinking(*records)))
    page = checked(build_report(results, tmp_path / "report").read_text(encoding="utf-8"))
    assert page.text.count(HOSTILE) > 20
    assert f"thought of {len(HOSTILE) + 15} characters" in page.text
    assert "that does not end: no answer" in page.text
    cells = [c for c in plan(tmp_path / "s", seeds=(0,), general=("ifeval",)) if c.size == 10_000]
    cells = [cell for cell in cells if cell.student == STUDENTS[0]]
    for cell in cells:
        evaluate(cell, 6, lambda cell, records: thinking(*records))
    study = write_study_report("s", cells, tmp_path / "out", include_text=True).page.read_text(encoding="utf-8")
    page = Page(study)
    assert not {"script", "img"} & set(page.tags)
    assert page.handlers == []
    assert f"thought of {len(HOSTILE) + 15} characters" in page.text
    record = thinking(ExampleRecord("a", "", "", (), {"x": 1.0}, None, "", True, 1))
    result = {"task": HOSTILE, "metrics": {}, "n": 1, "unscored": 0, "headline": "x", "notices": [HOSTILE]}
    checked(render_page(result, record), scripts=2)


def test_tables_hold_no_formulas() -> None:
    texts = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "fine", "a=b"]
    rows = csv_text(["=head"], [[text] for text in texts] + [[-1.5]]).splitlines()[1:]
    assert rows == ["'=HYPERLINK(1)", "'+1", "'-1", "'@SUM(1)", "'\t=1", "fine", "a=b", "-1.5"]


def test_an_error_cannot_change_the_terminal(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.rows("train", [{"\x1b]0;owned\x07column\u202e": "b"}])
    with pytest.raises(SystemExit):
        main(["run", str(workshop.write()), "--runs", str(workshop.runs)])
    line = capsys.readouterr().err
    assert not {"\x1b", "\x07", "\u202e"} & set(line)
    assert "\\x1b]0;owned\\x07column\\u202e" in line


# --- keys ---


def leaks(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


def test_a_judges_key_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai", reason="the judge needs the openai client (the extra `judge`)")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Endpoint()
    endpoint = JudgeEndpoint(server.url, "j", cache_folder=tmp_path)
    judge_questions(endpoint, [JudgeItem("a", "do", "", "done", ("Is it?",))])
    server.server.shutdown()
    server.server.server_close()
    assert server.keys == [f"Bearer {KEY}"]
    assert list(tmp_path.iterdir())
    assert leaks(tmp_path) == []
    assert KEY not in repr(endpoint)
    with pytest.raises(TutelageError, match=r"holds a password.*\$OPENAI_API_KEY") as error:
        JudgeEndpoint(f"https://me:{KEY}@example.org/v1", "j")
    assert KEY not in str(error.value)


@pytest.mark.slow
def test_no_key_is_in_the_files_of_a_run(workshop: Workshop, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, KEY)
    good = {"name": "sft", "kind": "sft", "data": "train"}
    bad = good | {"name": "bad", "training": {"learning_rate": 1e30, "epochs": 3}}
    scores = {"name": "scores", "kind": "evaluate", "models": ["sft"], "tasks": ["test"]}
    file = workshop.write(stages=[good, scores, bad])
    command = [python, "-m", "tutelage", "run", str(file), "--runs", str(workshop.runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert list(workshop.runs.glob("bad-*/error.txt"))
    assert leaks(workshop.folder) == []
    assert KEY not in done.stdout + done.stderr
