"""Tiny recipes: two saved models with one tokenizer, a few rows, and a recipe that runs on them in a second."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tutelage.runs.run import Run

ROWS = [
    {"id": f"r{i}", "prompt": f"The {'cat' if i % 2 else 'dog'} sat?\n{i % 4}", "completion": f"The dog ran. {i % 3}"}
    for i in range(12)
]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `teacher` (4 layers) and `student` (2 layers), both with one byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny(folder / "teacher", layers=4, seed=1)
    save_tiny(folder / "student", layers=2, seed=0)
    return folder


def save_tiny(folder: Path, layers: int, seed: int, tokens: Any = None, padding: int = 0) -> None:
    """Save a tiny Llama with its tokenizer. Its head has `padding` more rows than the tokenizer has tokens."""
    import tiny
    from chat_templates import CHATML, tokenizer

    tokens = tokens or tokenizer(CHATML)
    model = tiny.llama(layers=layers, vocab=len(tokens) + padding, seed=seed, packed=False)
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokens.eos_token_id
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)


@dataclass
class Workshop:
    """A test's folder with data, models, and a recipe that the test can change before it is written."""

    folder: Path
    models: Path
    recipe: dict[str, Any]

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def rows(self, name: str, rows: list[Any]) -> None:
        """Write `name`.jsonl: texts unchanged, other rows as JSON."""
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (self.folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))

    def write(self, **changes: Any) -> Path:
        """Write the recipe to a file. `changes`: keys with `__` for dots; numbers are indices of lists."""
        content = copy.deepcopy(self.recipe)
        for key, value in changes.items():
            *path, last = key.split("__")
            node: Any = content
            for part in path:
                node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
            node[int(last) if isinstance(node, list) else last] = copy.deepcopy(value)
        file = self.folder / "recipe.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file

    def result(self, stage: str) -> dict[str, Any]:
        """The only result of a stage, of any seed."""
        (file,) = self.runs.glob(f"{stage}-s*/result.json")
        return json.loads(file.read_text())


@pytest.fixture
def workshop(tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tiny_models / "cache"))
    made = Workshop(
        tmp_path,
        tiny_models,
        {
            "name": "tiny",
            "device": "cpu",
            "data": {"train": {"path": "train.jsonl"}, "test": {"path": "test.jsonl"}},
            "teacher": {"path": str(tiny_models / "teacher")},
            "student": {"path": str(tiny_models / "student")},
            "training": {"batch_size": 4, "epochs": 1, "max_length": 96, "learning_rate": 0.001},
            "tasks": {
                "test": {"data": "test", "metrics": ["rouge_l"], "sampling": {"temperature": 0.0, "max_new_tokens": 6}}
            },
            "stages": [
                {"name": "sft", "kind": "sft", "data": "train"},
                {"name": "gkd", "kind": "distill", "data": "train", "sampling": {"max_new_tokens": 6}},
                {"name": "scores", "kind": "evaluate", "models": ["lead_1", "sft", "gkd"], "tasks": ["test"]},
            ],
        },
    )
    made.rows("train", ROWS)
    made.rows("test", ROWS[:4])
    return made


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages whose runs are really done, in order."""
    stage = import_module("tutelage.runs.do_run")  # the package has a function of this name

    names: list[str] = []
    real = stage.do_run

    def watched(run: Run) -> dict[str, Any]:
        names.append(run.stage)
        return real(run)

    monkeypatch.setattr(stage, "do_run", watched)
    return names
