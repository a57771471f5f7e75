"""A SeqKD teacher is asked what the student reads: decided before sampling, by the student's tokens and context."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jobs
import pytest
from chat_templates import CHATML, tokenizer
from recipes_fixture import ROWS, Workshop, save_tiny

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.common.types import Message, TokenSequence
from tutelage.data.chat_template import ChatTemplate
from tutelage.models.load import load_template
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.do_run import do_run
from tutelage.runs.fingerprints import stage_fingerprint
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run
from tutelage.training.teacher_answers import read_answers
from tutelage.training.trainer import Trainer

SEQKD: dict[str, Any] = {"name": "kd", "kind": "seqkd", "student": "base", "data": "train", "samples_per_prompt": 2}
SEQKD |= {"sampling": {"max_new_tokens": 6}}
TURNS = ["The cat sat?", "The dog ran.", "Hello there, how are you? " * 4, "Fine, thank you."]
WORDS = "{% for m in messages %}{{ m.content }} </s> {% endfor %}"


def turns(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


def planned(workshop: Workshop, declared: bool = False, **changes: Any) -> tuple[Planner, Run, Run]:
    """The runs of the answers and of the training on them."""
    options = {"stages": [SEQKD], "data__train__max_bad_rows": 0.6, "data__train__path": "train.jsonl"} | changes
    recipe = load_recipe(workshop.write(**options))
    plan = Planner(recipe, workshop.folder, workshop.runs, declared=declared)
    run = plan.stage_run("kd", 0)
    return plan, run.parents[0], run


def copied(workshop: Workshop, name: str, role: str = "student", **config: Any) -> str:
    """A copy of a model, with another config.json."""
    folder = workshop.folder / name
    shutil.copytree(workshop.models / role, folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | config))
    return str(folder)


def of_words(workshop: Workshop, name: str = "words") -> str:
    """A teacher of another tokenizer: few tokens, one per word."""
    words = jobs.words()
    words.chat_template = WORDS
    save_tiny(workshop.folder / name, layers=1, seed=4, tokens=words)
    return str(workshop.folder / name)


def done(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Any, Any, list[Any], list[Any]]:
    """Results of the answers and of the training on them, the answers, and the sequences trained on."""
    seen: list[TokenSequence] = []
    monkeypatch.setattr(Trainer, "run", lambda self: seen.extend(self.job.examples) or {})
    _, answers, run = planned(workshop, **changes)
    return do_run(answers), do_run(run), read_answers(answers.folder), seen


def prompt(template: ChatTemplate, *texts: str) -> list[int]:
    return template.encode_prompt([Message(m["role"], m["content"]) for m in turns(*texts)["messages"]])


def asked(answers: list[Any]) -> set[tuple[int, int]]:
    return {(answer.row, answer.asked) for answer in answers}


STUDENT = ChatTemplate(tokenizer(CHATML))
ROOM = len(prompt(STUDENT, *TURNS[:3])) - 2  # the student's, which the second question does not fit


def test_what_the_tokens_of_another_student_leave_is_asked(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """All of it fits the teacher, whose tokens are words: one row loses a turn of the student's, another all."""
    workshop.rows("train", [turns(*TURNS), turns(TURNS[2] * 9, "1"), *ROWS[:1]])
    made, trained, answers, seen = done(
        workshop, monkeypatch, teacher__path=of_words(workshop), training__max_length=ROOM
    )
    assert (made["prompts"], made["samples"]) == (2, 4)
    assert asked(answers) == {(0, 1), (2, 1)}
    assert (made["too_long"], made["last_turns_cut"]) == (["train.jsonl:2"], ["train.jsonl:1"])
    assert trained["data"]["train"]["too_long"] == ["train.jsonl:2"]
    assert trained["data"]["answers"]["too_long"] == []  # nothing was sampled in vain
    first = [s for s in seen if s.index == 0]
    assert {tuple(s.ids[: s.prompt_length].tolist()) for s in first} == {tuple(prompt(STUDENT, TURNS[0]))}
    assert (
        f"kd-answers: data.train: `max_length` is {ROOM}: 1 rows are cut, 1 left out (train.jsonl:2)"
        in capsys.readouterr().out
    )


def test_a_student_of_a_shorter_context_is_asked_no_more_than_it_reads(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    workshop.rows("train", [turns(*TURNS), turns(TURNS[2] * 9, "1"), *ROWS[:1]])
    short = copied(workshop, "short", max_position_embeddings=ROOM)
    made, trained, answers, _ = done(workshop, monkeypatch, student__path=short, training__max_length=4096)
    assert asked(answers) == {(0, 1), (2, 1)}
    assert (made["too_long"], made["last_turns_cut"]) == (["train.jsonl:2"], ["train.jsonl:1"])
    assert trained["data"]["answers"]["too_long"] == []
    assert f"kd-answers: data.train: `{short}` reads {ROOM} tokens" in capsys.readouterr().out


def test_a_question_must_fit_both_each_by_its_own_tokens(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The teacher's template has a long system turn: beyond `max_length`, which is the student's, within its context
    for the first question of row 0 and for row 1."""
    template = workshop.folder / "long.jinja"
    template.write_text("<|im_start|>system\n" + "Hello there, how are you? " * 20 + "<|im_end|>\n" + CHATML)
    own, _ = load_template(ModelConfig(path=str(workshop.models / "teacher"), chat_template=str(template)))
    context = len(prompt(own, *TURNS[:3])) - 2
    workshop.rows("train", [turns(*TURNS), *ROWS[:1], turns(TURNS[2] * 2, "1")])
    length = len(prompt(STUDENT, TURNS[2] * 2)) + 20
    assert len(prompt(STUDENT, *TURNS[:3])) < length < len(prompt(own, TURNS[0]))
    teacher = {"path": copied(workshop, "longer", "teacher", max_position_embeddings=context)}
    teacher["chat_template"] = str(template)
    made, trained, answers, seen = done(workshop, monkeypatch, teacher=teacher, training__max_length=length)
    assert asked(answers) == {(0, 1), (1, 1)}
    assert (made["too_long"], made["last_turns_cut"]) == (["train.jsonl:3"], ["train.jsonl:1"])
    assert trained["data"]["answers"]["too_long"] == ["train.jsonl:3"]  # which the student could read
    assert {tuple(s.ids[: s.prompt_length].tolist()) for s in seen if s.index == 0} == {
        tuple(prompt(STUDENT, TURNS[0]))
    }
    assert f"kd-answers: data.train: `{teacher['path']}` reads {context} tokens (max_pos" in capsys.readouterr().out


def test_students_of_the_teachers_family_share_one_run_which_does_not_depend_on_them(workshop: Workshop):
    """Another model of the family, a trained one, a cut one, and one with a longer context."""
    others = [SEQKD | {"name": f"kd-{student}", "student": student} for student in ("sft", "cut")]
    made = [{"name": "sft", "kind": "sft", "data": "train"}]
    made += [{"name": "cut", "kind": "prune", "model": "base", "prune": {"keep": [0]}}]
    found = set[str]()
    for path in (str(workshop.models / "student"), copied(workshop, "long", max_position_embeddings=9999)):
        plan, answers, _ = planned(workshop, stages=[SEQKD, *made, *others], student__path=path)
        assert all(plan.stage_run(one["name"], 0).parents[0] is answers for one in others)
        assert answers.answers_for is None
        found.add(answers.fingerprint)
    teacher, data = plan.recipe.teacher, [plan.section("train", 0)[1]]
    models = {"teacher": fingerprint(teacher, plan.inputs.model(teacher))}
    # as when the student was not looked at
    assert found == {stage_fingerprint(plan.stages["kd"], None, 0, models, data, "cpu", ["answers", "max_length 96"])}


def test_students_of_another_family_share_one_run_of_their_own(workshop: Workshop):
    teacher = of_words(workshop)
    runs = [
        planned(workshop, teacher__path=teacher, student__path=path, **more)[1]
        for path, more in (
            (str(workshop.models / "student"), {}),
            (copied(workshop, "wide", "teacher"), {}),
            (copied(workshop, "short", max_position_embeddings=48), {}),
            (copied(workshop, "tulu"), {"student__chat_template": "tulu"}),
            (of_words(workshop, "like"), {}),
        )
    ]
    one, two, short, tulu, like = (run.fingerprint for run in runs)
    assert one == two
    assert len({one, short, tulu, like}) == 4
    assert runs[4].answers_for is None
    assert [run.answers_for is not None for run in runs[:4]] == [True] * 4
    lower = planned(workshop, student__path=str(workshop.folder / "short"))[1]
    assert lower.fingerprint == planned(workshop, training__max_length=48)[1].fingerprint  # the same questions


def test_a_plan_that_does_not_ask_the_hub_takes_its_models_for_one_family(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
):
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("loaded")

    monkeypatch.setattr("tutelage.runs.preflight.hub.cached", lambda *_: True)  # its fingerprint is the same before
    monkeypatch.setattr("tutelage.models.load.load_template", never)
    shared = planned(workshop, declared=True, student__path="some/model")[1]
    assert shared.answers_for is None
    own = [SEQKD | {"own_answers": True}]
    runs = [
        planned(workshop, declared=True, stages=own, student__path=f"some/{name}")[1] for name in ("model", "other")
    ]
    assert [run.answers_for is not None and run.answers_for.path for run in runs] == ["some/model", "some/other"]
    assert len({shared.fingerprint, *(run.fingerprint for run in runs)}) == 3


def test_a_student_that_reads_otherwise_since_the_plan_is_told(workshop: Workshop):
    template = workshop.folder / "own.jinja"
    template.write_text("\n" + CHATML)
    _, answers, _ = planned(workshop, student__chat_template=str(template))
    template.write_text("\n\n" + CHATML)
    with pytest.raises(TutelageError, match=r"^student `.*student`: its files changed after this run was planned"):
        do_run(answers)


@pytest.mark.slow
def test_answers_for_another_student_go_on_where_they_stopped(workshop: Workshop):
    workshop.rows("train", [turns(TURNS[2] * 9, "1"), turns(*TURNS), *ROWS[:3]])
    _, answers, _ = planned(workshop, teacher__path=of_words(workshop), training__max_length=ROOM)
    do_run(answers)
    file = answers.folder / "answers.jsonl"
    whole = file.read_bytes()
    Path(answers.folder / "result.json").unlink()
    file.write_bytes(whole[: len(whole) // 2])
    assert do_run(answers)["prompts"] == 4
    assert file.read_bytes() == whole
