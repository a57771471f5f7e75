"""What is said of questions that a finished model was trained on."""

from __future__ import annotations

import pytest
from recipes_fixture import Workshop

import tutelage


@pytest.mark.slow
def test_a_finished_model_says_which_of_todays_questions_it_was_trained_on(workshop: Workshop, undrawn: None) -> None:
    """The data have changed since: by the questions that its run kept, else by the files' fingerprint."""
    rows = [{"prompt": f"Who is {n}?", "completion": "A"} for n in range(12)]
    workshop.rows("train", rows)
    slices = {"data__train__skip": 4, "data__test": {"path": "train.jsonl", "size": 4}}
    file = workshop.write(**slices, stages=[
        {"name": "sft", "kind": "sft", "data": "train"}, {"name": "again", "kind": "sft", "student": "sft",
         "data": "train"}, {"name": "scores", "kind": "evaluate", "models": ["again"], "tasks": ["test"]}])  # fmt: skip
    tutelage.run(file, runs=workshop.runs)
    (model,) = workshop.runs.glob("again-s0-*/model")

    def notes() -> list[str]:
        found = tutelage.evaluate(model, "test", recipe=file, runs=workshop.runs).notes
        return [note for note in found if note.startswith("task `test`: ")]

    assert notes() == []
    workshop.rows("train", rows[1:])  # moves all others
    found = (
        "task `test`: the model was trained on 4 of its 4 questions (by `{}`, data.train, train.jsonl as it was then)"
    )
    assert notes() == [f"{found.format(stage)}: its score looks better than it is" for stage in ("again", "sft")]
    for kept in workshop.runs.glob("*/questions.json"):
        kept.unlink()  # as of runs from before it
    assert notes()[0].startswith("task `test`: train.jsonl has changed since `again` was trained on other rows of it: ")
