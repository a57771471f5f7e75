"""`tutelage.distill` on tiny models: what it runs, what it returns, and what it says of mistakes."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pandas
import pytest
import yaml
from datasets import Dataset
from pages import do_not_draw
from recipes_fixture import ROWS

import tutelage
from tutelage.api.distilling import _write
from tutelage.api.rows import rows_path

OPTIONS: dict[str, Any] = {
    **{"device": "cpu", "name": "tiny", "batch_size": 4, "epochs": 1, "max_length": 96, "max_new_tokens": 6},
    **{"learning_rate": 1e-3, "test": 4},
}


@dataclasses.dataclass
class Made:
    result: tutelage.RunResult
    models: Path
    folder: Path


@pytest.fixture(scope="module")
def made(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CACHE", str(tiny_models / "cache"))
        folder = tmp_path_factory.mktemp("distilled")
        patch.chdir(folder)
        do_not_draw(patch)
        result = tutelage.distill(tiny_models / "teacher", str(tiny_models / "student"), ROWS, **OPTIONS)
        yield Made(result, tiny_models, folder)


@pytest.mark.slow
def test_the_arms_of_the_readme_are_run_and_compared(made: Made) -> None:
    result = made.result
    assert list(result.models) == ["teacher_sft", "student_sft", "sft_again", "gkd"]
    assert result.reference == "sft_again"
    assert result.verdict.startswith("gkd scores ")
    by_row = {(one.model, one.metric): one for one in result.scores}
    assert len(by_row) == 8
    gkd, reference = by_row["gkd", "rouge_l"], by_row["sft_again", "rouge_l"]
    assert gkd.value is not None
    assert reference.value is not None
    assert gkd.difference == pytest.approx(gkd.value - reference.value)
    assert (reference.difference, gkd.examples, gkd.seeds) == (None, 6, 1)  # two more ask the same
    assert result.page.is_file()
    assert (made.folder / "models" / "tiny-gkd" / "model.safetensors").is_file()
    assert result.models["gkd"].folder == Path("models/tiny-gkd")
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.name = "other"  # type: ignore[misc]


@pytest.mark.slow
def test_it_is_shown_as_text_html_and_a_frame(made: Made) -> None:
    text, page = repr(made.result), made.result._repr_html_()
    assert text == str(made.result)
    for words in (made.result.verdict, "95 % interval", "Report: runs/tiny-report/report.html", "models/tiny-gkd"):
        assert words in text
        assert words in html.unescape(page)
    assert page.count("<tr>") == 9
    frame = made.result.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.shape == (8, 11)
    assert list(frame[frame.model == "gkd"].metric) == ["rouge_l", "exact_match"]


@pytest.mark.slow
def test_its_recipe_runs_again_and_does_nothing(made: Made, done: list[str]) -> None:
    assert made.result.recipe == Path("runs/tiny.yaml")
    again = tutelage.run(made.result.recipe)
    assert (again.scores, done) == (made.result.scores, [])
    plan = tutelage.plan(made.result.recipe)
    assert (len(plan.runs), plan.problems) == (8, ())
    assert all(run.done for run in plan.runs)
    content = yaml.safe_load((made.folder / "runs" / "tiny.yaml").read_text())
    path = content["data"]["train"]["path"]
    assert (path.startswith("data/data-"), (made.folder / "runs" / path).is_file()) == (True, True)
    assert content["stages"][3]["sampling"] == {"max_new_tokens": 6}


@pytest.mark.slow
def test_models_answer(made: Made) -> None:
    model = made.result.models["gkd"]
    one = model.generate(ROWS[0]["prompt"], max_new_tokens=6)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    question = {"role": "user", "content": ROWS[0]["prompt"]}
    assert model.generate([question], max_new_tokens=6) == one
    assert isinstance(model.generate([*turns, question], max_new_tokens=6, temperature=1.0), str)
    assert model.generate(ROWS[0]["prompt"], max_new_tokens=6) == one  # nothing of the conversation is kept
    with pytest.raises(tutelage.TutelageError, match="the last turn must be the user's"):
        model.generate(turns)
    with pytest.raises(tutelage.TutelageError, match=r'a turn is \{"role": "user"'):
        model.generate([{"content": "Hi"}])
    with pytest.raises(KeyError, match="no model `gkt`; there are teacher_sft, student_sft, sft_again, gkd"):
        made.result.models["gkt"]


@pytest.mark.slow
def test_models_are_evaluated_and_compared_on_rows(made: Made) -> None:
    found = [
        tutelage.evaluate(made.result.models[name], data=ROWS[:4], max_new_tokens=6) for name in ("gkd", "student_sft")
    ]
    assert [(one.task, one.metric, one.examples) for one in found[0].scores] == [
        ("data", "rouge_l", 4),
        ("data", "exact_match", 4),
    ]
    compared = tutelage.compare(*found)
    assert compared.differences[0].a == found[0].scores[0].value
    assert (compared.a, compared.b) == ("tiny-gkd", "tiny-student_sft")
    assert "a − b" in repr(compared)
    assert list(compared.frame().metric) == ["rouge_l", "exact_match"]
    folders = [next(iter(one.folders.values())) for one in found]
    assert tutelage.compare(*folders).differences == compared.differences
    scores = tutelage.evaluate("tiny-gkd", "test", recipe="runs/tiny.yaml").scores
    gkd = next(one for one in made.result.scores if one.model == "gkd")
    assert (scores[0].value, scores[0].stderr) == pytest.approx((gkd.value, gkd.stderr))


@pytest.mark.slow
def test_other_arms_and_seeds(made: Made, done: list[str]) -> None:
    options = {**OPTIONS, "name": "other", "seeds": [0, 1], "max_steps": 1, "test": ROWS[:4]}
    teacher = {"path": str(made.models / "teacher")}
    result = tutelage.distill(teacher, made.models / "student", ROWS, teacher_sft=False, metrics="rouge_l", **options)
    assert list(result.models) == [
        f"{stage}-s{seed}" for stage in ("student_sft", "sft_again", "gkd") for seed in (0, 1)
    ]
    assert [(one.model, one.seeds) for one in result.scores] == [
        ("teacher", 1),
        ("student_sft", 2),
        ("sft_again", 2),
        ("gkd", 2),
    ]
    assert "teacher_sft" not in done


MISTAKES = [
    ({"bta": 0.5}, "unknown setting `bta`: did you mean `beta`?"),
    ({"lr": 1e-3, "epoch": 3}, "unknown setting `lr`"),
    ({"learning_rate": "fast"}, "learning_rate: `fast` is no number"),
    ({"beta": 2}, r"distill: stages.gkd.beta: Input should be less than or equal to 1"),
    ({"metrics": "rouge"}, "distill: tasks.test.metrics"),
    ({"name": "a/b"}, "distill: name: "),
    ({"data": "nowhere.jsonl"}, "data.train.path: no file `nowhere.jsonl`"),
    ({"data": []}, "data: there is no row: give at least one"),
    ({"data": {"train": ROWS}}, "data: a mapping with train is no rows"),
    ({"data": ["text"]}, "data: row 0 is no dict but str"),
    ({"data": [{"prompt": object()}]}, "data: row 0: a object cannot be written as JSON"),
    ({"data": [{"question": "?"}]}, "neither `messages` nor `prompt` and `completion`"),
    ({"data": ROWS[:1]}, "test: 4 of 1 usable rows leave none"),
    ({"test": 12}, "test: 12 of 12 usable rows leave none"),
    ({"test": []}, "test: there is no row"),
    ({"teacher": "./nowhere"}, "model folder nowhere does not exist"),
    ({"teacher": {"pth": "x"}}, "unknown key `pth`: did you mean `path`"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=[message[:30] for _, message in MISTAKES])
def test_a_mistake_is_one_line(
    changes: dict[str, Any], message: str, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = {"teacher": tiny_models / "teacher", "student": tiny_models / "student", "data": ROWS, **OPTIONS}
    with pytest.raises(tutelage.TutelageError, match=message) as error:
        tutelage.distill(**(arguments | changes))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("runs/*-s0-*"))


def test_a_teacher_of_another_vocabulary_is_refused_before_anything_is_trained(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiny

    monkeypatch.chdir(tmp_path)
    tiny.llama(packed=False).save_pretrained("other")
    jobs.words().save_pretrained("other")
    with pytest.raises(tutelage.TutelageError, match="teacher and student have different tokenizers: token 0 is"):
        tutelage.distill("other", tiny_models / "student", ROWS, **OPTIONS)
    assert not list(tmp_path.glob("runs/*-s0-*"))


def test_a_call_of_the_same_name_with_other_settings_keeps_the_first_recipe(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    assert _write(file, {"name": "x", "seeds": [0]}) == _write(file, {"name": "x", "seeds": [0]}) == ""
    note = _write(file, {"name": "x", "seeds": [1]})
    (kept,) = tmp_path.glob("x-*.yaml")
    assert str(kept) in note
    assert [yaml.safe_load(one.read_text())["seeds"] for one in (kept, file)] == [[0], [1]]


def test_rows_in_memory_are_one_file_whatever_holds_them(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "n": 1}, {"prompt": "c", "completion": "d", "n": 2}]
    forms = [rows, iter(rows), pandas.DataFrame(rows), Dataset.from_list(rows)]
    (path,) = {rows_path(one, tmp_path, "data") for one in forms}
    assert [json.loads(line) for line in Path(path).read_text().splitlines()] == rows
    assert [file.name for file in tmp_path.iterdir()] == [Path(path).name]
    gap = pandas.DataFrame([{"prompt": "a", "completion": "b", "n": 1.5}, {"prompt": "c", "completion": "d"}])
    assert json.loads(Path(rows_path(gap, tmp_path, "data")).read_text().splitlines()[1])["n"] is None
    assert rows_path(path, tmp_path, "data") == path
    assert rows_path("owner/set:config", tmp_path, "data") == "owner/set:config"
