"""Rows that a stage would refuse when it begins are told before the first run, in the stage's own words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest
import yaml
from chat_templates import CHATML
from recipes_fixture import ROWS, Workshop
from tiny_study import write_study
from transformers import AutoTokenizer

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.common.types import Message
from tutelage.data.chat_template import ChatTemplate
from tutelage.models.load import load_shape
from tutelage.recipe.load import load_recipe
from tutelage.runs.planner import Planner
from tutelage.runs.preflight import find_problems, rows
from tutelage.runs.run import Run, with_parents
from tutelage.runs.run_recipe import run_recipe
from tutelage.runs.stages.encode import encoded
from tutelage.study.grid import plan_study

SFT: dict[str, Any] = {"name": "sft", "kind": "sft", "data": "train"}
KEPT = {"sampling": {"max_new_tokens": 6}}
LONG = {"id": "long", "prompt": "x" * 120, "completion": "The dog ran."}
TOO_LONG = (
    "data.more: 1 of 4 rows are bad (25.0%, allowed 1.0%): more.jsonl:4: prompt has 128 tokens, max_length is 96: "
)


@pytest.fixture
def more(workshop: Workshop) -> Workshop:
    """With rows of which one has a long prompt."""
    workshop.rows("more", [*ROWS[:3], LONG])
    return workshop


def runs_of(workshop: Workshop, *stages: dict[str, Any], **changes: Any) -> list[Run]:
    """The runs of stages, and of evaluations of the first."""
    data = workshop.recipe["data"] | {"more": {"path": "more.jsonl"}} | changes.pop("data", {})
    plan = Planner(
        load_recipe(workshop.write(stages=list(stages), data=data, **changes)), workshop.folder, workshop.runs
    )
    made = [plan.stage_run(stage["name"], seed) for stage in stages for seed in plan.recipe.seeds]
    return with_parents([*made, plan.evaluation(stages[0]["name"], "test", 0)])


def told(workshop: Workshop, *stages: dict[str, Any], look: bool = True, **changes: Any) -> list[str]:
    found = find_problems(runs_of(workshop, *stages, **changes), workshop.runs, network=False, here=False, data=look)
    return [problem.text for problem in found if problem.stops]


LATE = [
    {**SFT, "name": "late", "student": "sft", "data": "more"},
    {"name": "late", "kind": "distill", "student": "sft", "data": ["train", "more"], **KEPT},
    {"name": "late", "kind": "seqkd", "student": "sft", "data": "more", **KEPT},
    {**SFT, "name": "late", "student": "sft", "training": {"validation": "more"}},
]


@pytest.mark.parametrize("late", LATE, ids=["sft", "distill", "seqkd", "validation"])
def test_prompts_beyond_max_length(more: Workshop, late: dict[str, Any]):
    runs = runs_of(more, SFT, late)
    with pytest.raises(TutelageError) as said:
        encoded(runs[-2], "more", load_shape(runs[0].models["student"]), 96)
    (text,) = told(more, SFT, late)
    assert text == f"stage `late`: {said.value}"
    assert TOO_LONG in text
    assert told(more, SFT, late, look=False) == [text]  # as a recipe's rows, which the plan has read
    assert told(more, SFT, late, data={"more": {"path": "more.jsonl", "max_bad_rows": 0.25}}) == []
    assert told(more, SFT, late, training__max_length=140) == []


def test_nothing_is_trained_before(more: Workshop, done: list[str], capsys: pytest.CaptureFixture[str]):
    runs_of(more, SFT, LATE[2])
    file = more.folder / "recipe.yaml"
    with pytest.raises(TutelageError, match=r"^stage `late`: data\.more: 1 of 4 rows are bad"):
        run_recipe(load_recipe(file), more.folder, more.runs)
    assert done == []
    main(["run", str(file), "--plan", "--runs", str(more.runs)])
    assert f"stage `late`: {TOO_LONG}" in " ".join(capsys.readouterr().out.split())


def test_a_study(workshop: Workshop, done: list[str], capsys: pytest.CaptureFixture[str]):
    """Its plan reads no rows, so those that are bad by themselves are told by this check too."""
    file = write_study(workshop)
    workshop.rows("train", [LONG | {"id": i} for i in range(12)])
    main(["study", "plan", str(file), "--runs", str(workshop.runs)])
    told = "data.train: 4 of 4 rows are bad (100.0%, allowed 1.0%): train.jsonl:"
    assert f"missing here: stage `teacher_sft`: {told}" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        main(["study", "run", str(file), "--runs", str(workshop.runs)])
    assert "4 of 4 rows are bad" in capsys.readouterr().err
    workshop.rows("train", ["no JSON"] * 12)
    problems = find_problems(plan_study(file, workshop.runs).runs, workshop.runs, network=False)
    assert any(one.text.startswith("data.train: no usable row among the 12") for one in problems)
    assert done == []


def test_the_tokens_are_those_of_the_base_and_the_teacher(more: Workshop):
    """A context shorter than `max_length`, of the student's base or of a teacher, is theirs after all stages."""
    short = more.folder / "short"
    shutil.copytree(more.models / "student", short)
    config = json.loads((short / "config.json").read_text()) | {"max_position_embeddings": 96}
    (short / "config.json").write_text(json.dumps(config))
    cut = {"name": "cut", "kind": "prune", "model": "base", "prune": {"layers": 1, "method": "even"}}
    chain = [cut, {**SFT, "student": "cut"}, *LATE[:1]]
    (text,) = told(more, *chain, student__path=str(short), training__max_length=200)
    assert text.startswith(
        f"stage `late`: `{short}` reads 96 tokens (max_position_embeddings of its config), fewer than "
    )
    assert text.endswith(TOO_LONG + "drop the row, or raise training.max_length if the model reads more; fix them or "
                         "raise `data.more.max_bad_rows` to 0.25")  # fmt: skip
    (text,) = told(more, SFT, LATE[1], teacher__path=str(short), training__max_length=200)
    assert text.startswith(f"stage `late`: `{short}` reads 96 tokens")
    assert told(more, SFT, LATE[0], teacher__path=str(short), training__max_length=200) == []


def test_calibration_rows_and_held_out_losses(more: Workshop):
    more.rows("more", [*ROWS[:3], LONG | {"prompt": "x" * 2000}])
    prune = {"layers": 1, "method": "least_damage", "calibration": "more", "calibration_rows": 2}
    (text,) = told(more, SFT, {"name": "cut", "kind": "prune", "prune": prune}, student__attention="padded")
    assert text.startswith("stage `cut`: ")
    assert "1 of 4 rows are bad" in text
    file = write_study(more)
    study = yaml.safe_load(file.read_text())
    study["tasks"]["held_out"] = {"data": "train", "max_length": 4}
    study["grids"][0]["tasks"] = ["held_out"]
    file.write_text(yaml.safe_dump(study))
    found = [one.text for one in find_problems(plan_study(file, more.runs).runs, more.runs, network=False)]
    assert any("on held_out`: data.train: " in text and "max_length is 4:" in text for text in found)


def test_turns_that_a_template_refuses(more: Workshop):
    """In training rows, by the student's template or the teacher's, and in the prompts of a task."""
    no_system = more.folder / "no_system.jinja"
    no_system.write_text("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML)
    turns = [
        {"role": "system", "content": "Hi"},
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "1"},
    ]
    more.rows("more", [{"id": i, "messages": turns[i % 2 :]} for i in range(4)])
    refused = "data.more: 2 of 4 rows are bad (50.0%, allowed 1.0%): "
    for late, who in ((LATE[0], "student"), (LATE[1], "teacher")):
        changes = {f"{who}__chat_template": str(no_system)}
        (text,) = told(more, SFT, late, **changes)
        assert text.startswith(f"stage `late`: {refused}")
        assert "no system" in text
    (text,) = told(more, SFT, tasks__test__data="more", student__chat_template=str(no_system))
    assert text.startswith("stage `sft on test`: data.more: more.jsonl:1: the chat template cannot render 2 turns (")


def test_only_prompts_that_may_be_too_long_are_tokenised_and_once(more: Workshop, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    tokens, verdict = ChatTemplate.tokens, rows.tokenised
    monkeypatch.setattr(ChatTemplate, "tokens", lambda self, parts: asked.append(len(parts)) or tokens(self, parts))
    verdicts: list[str] = []
    monkeypatch.setattr(rows, "tokenised", lambda *a: verdicts.append(a[2]) or verdict(*a))
    two = [SFT, LATE[0], {**LATE[1], "name": "gkd"}]
    assert len(told(more, *two, seeds=[0, 1, 2])) == 1
    assert verdicts == ["data.more", "data.more"]  # with the teacher, and without
    more.rows("more", [LONG] * 8)
    asked.clear()
    (text,) = told(more, *two[:2], training__max_length=96)
    assert "8 of 8" in text
    asked.clear()
    verdicts.clear()
    more.rows("more", [ROWS[0] | {"id": i} for i in range(9)])
    assert told(more, *two) == []
    assert not [count for count in asked if count > 1]  # of questions of one letter, for the headers
    assert verdicts == []


def test_of_many_rows_the_first_are_looked_at(more: Workshop, monkeypatch: pytest.MonkeyPatch):
    assert told(more, SFT, LATE[0]) != []
    monkeypatch.setattr(rows, "MOST_ROWS", 3)
    assert told(more, SFT, LATE[0]) == []
    monkeypatch.setattr(rows, "MOST_ROWS", 4)
    monkeypatch.setattr(rows, "MOST_BYTES", 0)
    assert told(more, SFT, LATE[0]) == []


def test_a_token_that_the_model_does_not_know(more: Workshop):
    tokens = more.folder / "tokens"
    own = AutoTokenizer.from_pretrained(more.models / "student")
    own.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    own.save_pretrained(tokens)
    assert told(more, SFT, student__tokenizer=str(tokens), teacher__tokenizer=str(tokens)) == []
    more.rows("train", [*ROWS[:3], {"prompt": "<|new|>?", "completion": "1"}])
    found = told(more, SFT, student__tokenizer=str(tokens), teacher__tokenizer=str(tokens))
    assert found[0].startswith("stage `sft`: data.train: train.jsonl:4: has token ")


def test_rows_of_a_stage_and_models_that_are_not_here_are_not_looked_at(more: Workshop):
    made = {"name": "new", "kind": "synthesize", "gold": "train", "rows": 4, "demonstrations": 2}
    assert told(more, SFT, made, {**LATE[0], "data": "new"}) == []
    runs = runs_of(more, SFT, LATE[0])
    away = [replace(run, models={"student": run.models["student"].model_copy(update={"path": "some/model"})})
            for run in runs if run.kind == "sft"]  # fmt: skip
    found = find_problems([replace(run, parents=()) for run in away], more.runs, network=False)
    assert not any("rows are bad" in one.text for one in found)


def test_too_few_gold_rows_and_too_many_kept_tokens(more: Workshop):
    made = {"name": "new", "kind": "synthesize", "gold": "train", "rows": 4, "demonstrations": 13}
    (text,) = told(more, SFT, made)
    assert text.startswith("stage `new`: `demonstrations: 13` is more than data.train has rows with one question")
    gkd = {"name": "gkd", "kind": "distill", "student": "sft", "data": "train", "on_policy": 0.0}
    (text,) = told(more, SFT, gkd | {"signal": {"cache": "top_k", "top_k": 5000}})
    assert text.startswith("stage `gkd`: signal.top_k: 5000 of ")
    assert told(more, SFT, gkd | {"signal": {"cache": "top_k", "top_k": 5}}) == []


def test_the_bytes_of_a_prompt_are_no_fewer_than_its_tokens():
    """The quick look counts calls of tools and thoughts, which templates write too."""
    plain, tool = Message("user", "ß"), Message("user", "ß", {"tool_calls": [1]}, ({"name": "f"},))
    assert rows._message_bytes(plain) == 2
    assert rows._message_bytes(tool) > len(json.dumps([tool.extra, tool.tools], indent=4))
