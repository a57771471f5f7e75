"""Messages on a recipe's keys name the line, and where an override was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.common.errors import TutelageError
from tutelage.recipe.load import load_recipe
from tutelage.study.grid import load_study

RECIPE = """\
name: mine
data:
  train: {path: train.jsonl, prompt: "{q}", completion: "{a}"}
  test:
    path: test.jsonl
teacher: {path: t}
student: {path: s}
training:
  epochs: 2
tasks:
  test: {data: test, metrics: [rouge_l]}
stages:
  - {name: sft, kind: sft, data: train}
  - name: gkd
    kind: distill
    data: train
    beta: 0.5
"""


def said(file: Path, content: str, *overrides: str, given: str = "command line") -> str:
    file.write_text(content)
    with pytest.raises(TutelageError) as caught:
        load_recipe(file, overrides, given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("name: mine", "nane: mine", 1, "unknown key `nane`: did you mean `name`?"),
        ("    path: test", "    pth: test", 5, "data.test: unknown key `pth`: did you mean `path`?"),
        ("epochs: 2", "epochs: many", 9, "training.epochs: `many` is no whole number"),
        ("{name: sft, kind: sft,", "{name: sft, kind: stf,", 13, "stages.sft.kind: `stf` is none of"),
        ("    beta:", "    betta:", 17, "stages.gkd: unknown key `betta`: did you mean `beta`?"),
        ("  - name: gkd\n", "  - label: x\n", 14, "stages (number 2).name: Field required"),
        ("    data: train\n", "    data: trian\n", 16, "stages.gkd.data: no data section"),
        ("data: test, m", "data: tets, m", 11, "tasks.test.data: no data section"),
    ],
)
def test_a_wrong_key_is_told_with_its_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    file = tmp_path / "mine.yaml"
    assert RECIPE.count(old) == 1
    assert said(file, RECIPE.replace(old, new)).startswith(f"{file}:{line}: {message}")


def test_a_study_too(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: s\nmodles: {}\n")
    with pytest.raises(TutelageError, match=r"study\.yaml:2: unknown key `modles`: did you mean `models`\?"):
        load_study(file)


def test_an_override_is_told_as_what_it_was_written_as(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert said(file, RECIPE, "training.epoch=1").startswith("command line: training: unknown key `epoch`")
    assert said(file, RECIPE, "training.epoch=1", given="overrides").startswith("overrides: training: unknown key")
    both = said(file, RECIPE.replace("beta:", "betta:"), "training.epochs=1")
    assert both.startswith(f"{file}:17: stages.gkd: unknown key `betta`")
    braces = said(file, RECIPE, "data.train.prompt={question}")
    assert braces.startswith("command line: data.train.prompt: a text that begins with a brace needs double quotes")
    file.write_text(RECIPE)
    assert load_recipe(file, ['data.train.prompt="{question}"']).data["train"].prompt == "{question}"
