"""A study of tiny models, written as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes_fixture import Workshop

TEMPLATE: dict[str, Any] = {
    "name": "template",
    "device": "cpu",
    "data": {"train": {"path": "train.jsonl", "size": "<size>"}, "test": {"path": "test.jsonl"}},
    "teacher": "<teacher>",
    "student": "<student>",
    "training": {"batch_size": 4, "epochs": 1, "max_length": 96, "learning_rate": 0.001, "checkpoint_every": 1},
    "tasks": {"test": {"data": "test", "metrics": ["rouge_l"], "sampling": {"max_new_tokens": 6}}},
    "stages": [
        {"name": "teacher_sft", "kind": "sft", "student": "teacher", "data": "train"},
        {"name": "sft", "kind": "sft", "data": "train", "label": "SFT of <student>, <size> rows"},
        {
            "name": "gkd_sft",
            "kind": "distill",
            "student": "sft",
            "teacher": "teacher_sft",
            "data": "train",
            "sampling": {"max_new_tokens": 6},
        },
    ],
}


def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a run that loads a model fails."""

    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("tutelage.evaluation.run_benchmarks.load_answerer", loaded)
    monkeypatch.setattr("tutelage.runs.stages.evaluate.load_to_write", loaded)


def write_study(workshop: Workshop, **changes: Any) -> Path:
    """Write a study of two sizes: SFT of 2 teachers, 2 SFT, 2 GKD, 6 evaluations. Returns its file."""
    template = workshop.folder / "template.yaml"
    template.write_text(yaml.safe_dump(changes.pop("template", TEMPLATE), sort_keys=False))
    study = {
        "name": "study",
        "models": {
            "small": {"path": str(workshop.models / "student")},
            "large": {"path": str(workshop.models / "teacher")},
        },
        "tasks": {"held_out": {"data": "test", "teacher": "teacher"}},
        "grids": [
            {
                "template": "template.yaml",
                "sizes": [4, 8],
                "students": ["small"],
                "teachers": ["large"],
                "methods": {"teacher": "teacher_sft", "sft": "sft", "gkd_sft": "gkd_sft"},
                "tasks": ["test"],
            }
        ],
    } | changes
    file = workshop.folder / "study.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return file
