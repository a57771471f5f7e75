"""Builders of malformed inputs for tests/test_malformed_inputs.py: each reads one input in a folder of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from chat_templates import tokenizer
from tiny_benchmarks import write_data

from tutelage.data.chat_template import ChatTemplate
from tutelage.data.dataset import load_dataset
from tutelage.evaluation.answer_items import Asking, resume
from tutelage.evaluation.benchmarks import benchmark
from tutelage.evaluation.judges.endpoint import JudgeEndpoint
from tutelage.evaluation.records import read_records, read_result
from tutelage.evaluation.replies import score_file
from tutelage.models.files import model_fingerprint
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import DataConfig, ModelConfig
from tutelage.study.grid import load_study, plan_study


@dataclasses.dataclass(frozen=True)
class Case:
    """`read`: what is done, in an empty folder. `words`: must be in the one line."""

    id: str
    read: Callable[[Path], Any]
    words: tuple[str, ...]


def written(folder: Path, name: str, content: Any) -> Path:
    """The file `name` with a text, bytes, or rows as JSON lines."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in content)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


# --- recipes and studies ---

RECIPE: dict[str, Any] = {
    "name": "r",
    "data": {"train": {"path": "a.jsonl"}},
    "teacher": {"path": "t"},
    "student": {"path": "s"},
    "tasks": {"test": {"data": "train", "metrics": ["rouge_l"]}},
    "stages": [{"name": "sft", "kind": "sft", "data": "train"}],
}
STUDY: dict[str, Any] = {
    "name": "s",
    "models": {"m": {"path": "m"}},
    "grids": [{"template": "r.yaml", "students": ["m"], "teachers": ["m"], "methods": ["sft"], "tasks": ["test"]}],
}


def changed(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with one key, written with dots, set; a value of `...` removes it."""
    copy = json.loads(json.dumps(content))
    *path, last = key.split(".")
    node: Any = copy
    for part in path:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    place: Any = int(last) if isinstance(node, list) else last
    if value is ...:
        del node[place]
    else:
        node[place] = value
    return copy


def recipe(id: str, text: str | bytes, *words: str) -> Case:
    return Case(f"recipe: {id}", lambda folder: load_recipe(written(folder, "r.yaml", text)), ("r.yaml", *words))


def recipe_key(id: str, key: str, value: Any, *words: str) -> Case:
    return recipe(id, yaml.safe_dump(changed(RECIPE, key, value)), *words)


def override(text: str, *words: str) -> Case:
    def read(folder: Path) -> Any:
        return load_recipe(written(folder, "r.yaml", yaml.safe_dump(RECIPE)), [text])

    return Case(f"override: {text}", read, words)


def study(id: str, text: str, *words: str) -> Case:
    return Case(f"study: {id}", lambda folder: load_study(written(folder, "s.yaml", text)), ("s.yaml", *words))


def study_key(id: str, key: str, value: Any, *words: str, template: Any = None) -> Case:
    def read(folder: Path) -> Any:
        content = changed(STUDY, key, value)
        if template is not None:
            written(folder, "a.jsonl", [{"prompt": "a", "completion": "b"}])
            written(folder, "r.yaml", template if isinstance(template, str) else yaml.safe_dump(template))
        return plan_study(written(folder, "s.yaml", yaml.safe_dump(content)), folder / "runs")

    return Case(f"study: {id}", read, words)


# --- data ---


def data(id: str, content: Any, /, *words: str, name: str = "a.jsonl", **config: Any) -> Case:
    def read(folder: Path) -> Any:
        if content is not None:
            written(folder, name, content)
        return load_dataset("d", DataConfig(path=config.pop("path", name), **config), folder)

    return Case(f"data: {id}", read, words)


def row(id: str, row: Any, /, *words: str, **config: Any) -> Case:
    """One bad row after a good one."""
    good = {"prompt": "a", "completion": "b", "p": "a", "q": "b"}
    return data(f"row: {id}", [good, row], "a.jsonl:2", "`data.d.max_bad_rows`", *words, **config)


def turns(id: str, *pairs: tuple[Any, Any], words: tuple[str, ...]) -> Case:
    return row(id, {"messages": [{"role": role, "content": text} for role, text in pairs]}, *words)


# --- models, templates ---


def model(id: str, files: dict[str, Any], *words: str, path: str = "{folder}/m") -> Case:
    def read(folder: Path) -> Any:
        for name, content in files.items():
            written(folder / "m", name, content)
        return model_fingerprint(ModelConfig(path=path.format(folder=folder)))

    return Case(f"model: {id}", read, words)


def template(id: str, text: str | bytes | None, *words: str, name: str = "t.jinja") -> Case:
    def read(folder: Path) -> Any:
        file = folder / name if text is None else written(folder, name, text)
        return ChatTemplate(tokenizer(), str(file))

    return Case(f"template: {id}", read, words)


# --- run folders, benchmarks, replies, judges, variables ---

RECORD = {
    "id": "a",
    "prompt": "p",
    "response": "r",
    "references": ["r"],
    "scores": {"rouge_l": 1.0},
    "answer": "r",
    "reason": "",
    "finished": True,
    "tokens": 1,
    "group": "",
    "parts": [],
}
RESULT = {"task": "mmlu_pro", "metrics": {}, "n": 1}


def records(id: str, line: Any, *words: str) -> Case:
    rows = [RECORD, line]
    return Case(f"records: {id}", lambda f: read_records(written(f, "examples.jsonl", rows).parent), words)


def result(id: str, content: str | bytes | None, *words: str) -> Case:
    def read(folder: Path) -> Any:
        return read_result(folder if content is None else written(folder, "result.json", content).parent)

    advice = "remove the folder" if content is None else "run that evaluation again"
    return Case(f"result: {id}", read, ("result.json", advice, *words))


def kept(id: str, rows: Any, *words: str) -> Case:
    def read(folder: Path) -> Any:
        bench = benchmark("mmlu_pro")
        items = bench.load(write_data(folder / "data"))
        return resume(written(folder, "responses.jsonl", rows), bench, items, Asking(chat=True))

    return Case(f"kept replies: {id}", read, ("responses.jsonl", *words))


def replies(id: str, rows: Any, *words: str, task: str = "mmlu_pro") -> Case:
    def read(folder: Path) -> Any:
        return score_file(task, written(folder, "r.jsonl", rows), write_data(folder / "data"))

    return Case(f"replies: {id}", read, ("r.jsonl", *words))


def bench(id: str, task: str, file: str, content: Any, *words: str) -> Case:
    """A benchmark's file replaced; its row 1 or line 1 is bad."""

    def read(folder: Path) -> Any:
        place = write_data(folder / "data")
        (place / file).unlink(missing_ok=True)
        (place / file.removesuffix(".gz")).unlink(missing_ok=True)
        written(place, file, content)
        return benchmark(task).load(place)

    return Case(f"benchmark: {task}: {id}", read, (Path(file).name.removesuffix(".gz"), *words))


def bomb(folder: Path) -> Any:
    place = write_data(folder / "data")
    with zipfile.ZipFile(place / "gpqa/dataset.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dataset/gpqa_extended.csv", bytes(60_000_000))
    return benchmark("gpqa").load(place)


def judge(id: str, read: Callable[[Path], Any], *words: str) -> Case:
    return Case(f"judge: {id}", read, words)


def known(endpoint: JudgeEndpoint | None) -> JudgeEndpoint:
    assert endpoint is not None
    return endpoint


def variable(id: str, name: str, value: str | None, read: Callable[[Path], Any], *words: str) -> Case:
    def with_variable(folder: Path) -> Any:
        before = os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value.format(folder=folder)
        try:
            return read(folder)
        finally:
            os.environ.pop(name, None)
            if before is not None:
                os.environ[name] = before

    return Case(f"variable: {id}", with_variable, words)
