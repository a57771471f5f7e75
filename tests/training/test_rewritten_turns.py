"""Rows that are several sequences, since the template rewrites earlier turns: SFT, GKD, SeqKD and the held-out loss."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny
import torch
from chat_templates import tokenizer
from look_alikes import LOOK_ALIKES
from recipes_fixture import Workshop

from tutelage.common.types import Conversation, Message
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.dataset import LoadedData
from tutelage.data.encode_rows import encode_all
from tutelage.models.load import LoadedModel
from tutelage.recipe.load import load_recipe
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.runs.stages.held_out import _losses
from tutelage.training.teacher_answers import Answer, answer_examples

TEMPLATE = ChatTemplate(tokenizer(LOOK_ALIKES["qwen 3"]))
ROLES = ("user", "assistant")


def conversation(*texts: str) -> Conversation:
    turns = tuple(Message(ROLES[i % 2], text) for i, text in enumerate(texts))  # type: ignore[arg-type]
    return Conversation(texts[0], turns, source=f"x:{texts[0]}")


ROWS = (conversation("a", "b"), conversation("The cat?", "1 2", "Hello", "3", "Well, " * 20, "The dog"))
SEQUENCES, REPORT = encode_all(TEMPLATE, LoadedData(ROWS, (), 2, "f"), 1000)


def test_each_sequence_is_an_example_of_its_row() -> None:
    assert [(one.index, one.part, one.turns) for one in SEQUENCES] == [
        (0, 0, (1,)),
        (1, 0, (1,)),
        (1, 1, (3,)),
        (1, 2, (5,)),
    ]
    assert REPORT.split == (1, 3)


def test_a_row_whose_last_turns_do_not_fit_loses_those_only() -> None:
    limit = len(SEQUENCES[2].ids)
    kept, report = encode_all(TEMPLATE, LoadedData(ROWS, (), 2, "f"), limit)
    assert [(one.turns, one.cut) for one in kept] == [((1,), False), ((1,), False), ((3,), True)]
    assert (report.last_turns_cut, report.too_long) == (("x:The cat?",), ())


def test_the_held_out_loss_of_a_row_is_over_all_its_sequences() -> None:
    model = tiny.llama(vocab=len(TEMPLATE.tokenizer))
    loaded = LoadedModel(model, TEMPLATE.tokenizer, TEMPLATE, True, "")
    sums = _losses(loaded, None, SEQUENCES, 60)
    plain = tiny.llama(vocab=len(TEMPLATE.tokenizer), packed=False)
    for row in (0, 1):
        tokens, loss = 0, 0.0
        for one in (s for s in SEQUENCES if s.index == row):
            with torch.no_grad():
                logits = plain(one.ids[None]).logits[0, :-1]
            losses = torch.nn.functional.cross_entropy(logits, one.ids[1:], reduction="none")[one.loss_mask[1:]]
            tokens, loss = tokens + len(losses), loss + float(losses.sum())
        assert sums[row] == pytest.approx([tokens, loss], rel=1e-4)


def test_the_teacher_answers_the_last_question_of_a_row_once() -> None:
    rows = [one.index for one in SEQUENCES]
    end = TEMPLATE.end_of_turn_id
    answers = [
        Answer(0, 0, 1, (7, end), "", True),
        Answer(1, 0, 5, (8, end), "", True),
        Answer(1, 1, 5, (8, end), "", True),
    ]
    out, left_out = answer_examples(SEQUENCES, rows, ROWS, answers, TEMPLATE, [end], 1000)
    assert left_out == []
    assert [(one.index, one.weight, one.ids[one.prompt_length :].tolist()) for one in out] == [
        (0, 1.0, [7, end]),
        (1, 2.0, [8, end]),
    ]
    assert out[1].ids[: out[1].prompt_length].tolist() == TEMPLATE.encode_prompt(ROWS[1].messages[:5])


STAGES = [
    {"name": "gkd", "kind": "distill", "data": "train", "sampling": {"max_new_tokens": 4}, "student": "base"},
    {"name": "kd", "kind": "seqkd", "data": "train", "samples_per_prompt": 1, "sampling": {"max_new_tokens": 4}},
]


@pytest.mark.parametrize("stage", STAGES, ids=["gkd", "seqkd"])
@pytest.mark.parametrize("teacher_too", [True, False], ids=["both templates", "the student's template"])
def test_stages_on_such_rows(workshop: Workshop, stage: dict[str, Any], teacher_too: bool) -> None:
    file = workshop.folder / "q.jinja"
    file.write_text(LOOK_ALIKES["qwen 3"])
    texts = [("a", "b"), ("The cat?", "1 2", "Hello", "3", "c", "The dog")]
    workshop.rows(
        "train", [{"messages": [{"role": ROLES[i % 2], "content": t} for i, t in enumerate(row)]} for row in texts]
    )
    changes = {"student__chat_template": str(file)} | ({"teacher__chat_template": str(file)} if teacher_too else {})
    recipe = load_recipe(workshop.write(stages=[stage], training__batch_size=2, **changes))
    run = Planner(recipe, workshop.folder, workshop.runs).stage_run(stage["name"], 0)
    for parent in run.parents:
        do_run(parent)
    do_run(run)
    steps = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == (2 if stage["kind"] == "distill" else 1)  # four sequences, or two questions
    report = json.loads((run.folder / "data.json").read_text())["train"]
    assert (report["rows"], report["split_rows"], report["sequences"]) == (2, 1, 4)
