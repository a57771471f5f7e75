"""SeqKD on conversations of several turns that `max_length` cuts: the answer follows the question it was given to."""

from __future__ import annotations

from typing import Any

import pytest
from chat_templates import CHATML, tokenizer
from recipes_fixture import Workshop

from tutelage.common.types import Conversation, Message, TokenSequence
from tutelage.data.chat_template import ChatTemplate, PromptTooLongError
from tutelage.data.encode_rows import messages_asked
from tutelage.recipe.load import load_recipe
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.training.teacher_answers import Answer, answer_examples, read_answers, retokenise
from tutelage.training.trainer import Trainer

END = 2
TEMPLATE = ChatTemplate(tokenizer(CHATML))
SEQKD: dict[str, Any] = {"name": "kd", "kind": "seqkd", "student": "base", "data": "train"}
SEQKD |= {"sampling": {"max_new_tokens": 6}, "samples_per_prompt": 2}
TURNS = ["The cat sat?", "The dog ran.", "Hello there, how are you?", "Fine, thank you."]


def turns(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)], **more}


def length_of(*texts: str) -> int:
    """Tokens of these turns and the generation prompt."""
    return len(TEMPLATE.encode_prompt([Message(m["role"], m["content"]) for m in turns(*texts)["messages"]]))


ROOM = length_of(*TURNS[:3]) - 2  # the second question does not fit
LONG = turns("The cat sat on the mat. " * 40, "1", "Hello", "2", id="long")


def made_on(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, *rows: Any, **keys: Any) -> tuple[Any, list[Any]]:
    """Results of the answers and of the training on them, and the sequences trained on, of these rows."""
    workshop.rows("train", list(rows))
    seen: list[TokenSequence] = []
    monkeypatch.setattr(Trainer, "run", lambda self: seen.extend(self.job.examples) or {})
    options = {"training__max_length": ROOM, "data__train__max_bad_rows": 0.6} | keys
    file = workshop.write(stages=[SEQKD], **options)
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run("kd", 0)
    return (do_run(run.parents[0]), do_run(run)), seen


def test_a_cut_conversation_trains_on_the_answer_to_the_question_before_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
):
    """The last question does not fit; the teacher is asked the first, and its answer follows the first."""
    (answers, trained), seen = made_on(workshop, monkeypatch, turns(*TURNS, id="cut"), turns(*TURNS[:2], id="whole"))
    first = TEMPLATE.encode_prompt([Message("user", TURNS[0])])
    assert {tuple(s.ids[: s.prompt_length].tolist()) for s in seen} == {tuple(first)}
    folder = next(workshop.runs.glob("kd-answers-*"))
    assert {(a.row, a.asked) for a in read_answers(folder)} == {(0, 1), (1, 1)}
    assert answers["last_turns_cut"] == trained["data"]["train"]["last_turns_cut"] == ["train.jsonl:1"]
    assert answers["samples"] == trained["data"]["answers"]["samples"] == 4


def test_a_row_without_room_for_any_answer_is_not_asked_but_listed(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    (answers, trained), seen = made_on(workshop, monkeypatch, LONG, turns(*TURNS[:2], id="whole"))
    assert (answers["prompts"], answers["samples"], answers["too_long"]) == (1, 2, ["train.jsonl:1"])
    assert trained["data"]["train"]["too_long"] == ["train.jsonl:1"]
    assert {s.index for s in seen} == {1}


def test_a_student_with_longer_tokens_is_given_the_question_that_was_answered():
    """Its own sequence is cut after the first turn; the teacher, with a shorter rendering, answered the second."""
    conversation = Conversation(
        "r", tuple(Message(m["role"], m["content"]) for m in turns(*TURNS)["messages"]), (), "f:1"
    )
    cut = TEMPLATE.encode(conversation, 0, ROOM)
    assert messages_asked(conversation, cut) == conversation.messages[:1]
    second = [Answer(0, 0, 3, (5, END), "", True)]
    (example,), left_out = answer_examples([cut], [0], [conversation], second, TEMPLATE, [END], ROOM + 10)
    asked = TEMPLATE.encode_prompt(conversation.messages[:3])
    assert (example.ids[: example.prompt_length].tolist(), left_out) == (asked, [])
    assert example.ids[example.prompt_length :].tolist() == [5, TEMPLATE.end_of_turn_id]
    assert int(example.loss_mask.sum()) == 2
    assert answer_examples([cut], [0], [conversation], second, TEMPLATE, [END], ROOM) == ([], ["f:1"])
    assert answer_examples([cut], [0], [conversation], [], TEMPLATE, [END], ROOM) == ([], ["f:1"])


def test_answers_by_text_follow_the_question_that_was_asked():
    conversation = Conversation("r", tuple(Message(m["role"], m["content"]) for m in turns(*TURNS)["messages"]))
    (first,) = retokenise([Answer(0, 0, 1, (1, 2), "The dog", True)], TEMPLATE, [conversation])
    ids = TEMPLATE.tokenizer("The dog", add_special_tokens=False)["input_ids"]
    assert list(first.tokens) == [*ids, TEMPLATE.end_of_turn_id]


@pytest.mark.parametrize("limit", range(12, 90, 3))
def test_an_on_policy_student_is_asked_what_the_cut_conversation_asks(limit: int):
    conversation = Conversation("r", tuple(Message(m["role"], m["content"]) for m in turns(*TURNS)["messages"]))
    try:
        cut = TEMPLATE.encode(conversation, 0, limit)
    except PromptTooLongError:
        return
    prompt = TEMPLATE.encode_prompt(messages_asked(conversation, cut))
    assert cut.ids[: cut.prompt_length].tolist() == prompt
