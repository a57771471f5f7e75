"""Stages and models for recipes that synthesize rows."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from recipes_fixture import Workshop

OFF = "form script language preamble carries_answer duplicate_of_gold duplicate_of_earlier near_duplicate_of_gold"

LENIENT = {"skip": [*OFF.split(), "near_duplicate_of_earlier"]}

# Overfitted, so that its texts end soon.
TEACHER: dict[str, Any] = {"name": "tsft", "kind": "sft", "student": "teacher", "data": "train", "shared": True}
TEACHER |= {"training": {"epochs": 12, "learning_rate": 0.01}}

MADE: dict[str, Any] = {
    "name": "new",
    "kind": "synthesize",
    "gold": "train",
    "rows": 10,
    "generator": "tsft",
    "annotator": "tsft",
    "demonstrations": 2,
    "inputs": {"max_new_tokens": 40, "batch_size": 4},
    "answers": {"max_new_tokens": 40, "batch_size": 4},
    "filters": LENIENT,
}
ARMS: list[dict[str, Any]] = [
    {"name": "sft", "kind": "sft", "data": "train"},
    {"name": "mix", "kind": "distill", "teacher": "tsft", "data": ["train", "new"], "sampling": {"max_new_tokens": 6}},
    {"name": "warm", "kind": "sft", "data": "new"},
    {"name": "two", "kind": "distill", "student": "warm", "teacher": "tsft", "data": "train"},
    {"name": "few", "kind": "sft", "data": "new_4"},
    {"name": "scores", "kind": "evaluate", "models": ["mix", "two", "few"], "tasks": ["test"]},
]
ARMS[3]["sampling"] = {"max_new_tokens": 6}


@pytest.fixture
def long_context(workshop: Workshop) -> Workshop:
    """A workshop whose teacher has a long context: the prompt is ten lines, one token per byte."""
    shutil.copytree(workshop.models / "teacher", workshop.folder / "teacher")
    config = workshop.folder / "teacher" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 4096}))
    workshop.recipe["teacher"] = {"path": str(workshop.folder / "teacher")}
    workshop.recipe["data"]["new_4"] = {"path": "stage:new", "size": 4}
    workshop.recipe["stages"] = [TEACHER, MADE, *ARMS]
    workshop.rows("test", [{"prompt": f"Was it bird number {i}?", "completion": f"Bird {i}."} for i in range(4)])
    return workshop
