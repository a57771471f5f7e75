"""The first recipe of the README is a recipe: it loads, and is planned on a folder with `train.jsonl`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tutelage.data.dataset import load_dataset
from tutelage.recipe import load_recipe
from tutelage.runs.planner import Planner
from tutelage.runs.run import with_parents

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = [{"prompt": f"What is {i} and {i}?", "completion": f"It is {2 * i}."} for i in range(300)]


def first_recipe(folder: Path) -> Path:
    """Write the README's recipe into `folder`."""
    (recipe,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (folder / "mine.yaml").write_text(recipe, encoding="utf-8")
    return folder / "mine.yaml"


def test_the_first_recipe_is_planned_on_a_folder_with_train_jsonl(tmp_path: Path) -> None:
    file = first_recipe(tmp_path)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    config = load_recipe(file)
    planner = Planner(config, tmp_path, tmp_path / "runs", declared=True, auto_device="cpu")  # asks no hub
    subjects = config.stages[-1].models  # type: ignore[union-attr]
    runs = with_parents([planner.evaluation(subject, "test", 0) for subject in subjects])
    assert sorted(run.stage for run in runs) == sorted([*subjects, *(f"{subject} on test" for subject in subjects)])
    gkd = planner.stage_run("gkd", 0)
    assert [parent.stage for parent in gkd.parents] == ["student_sft", "teacher_sft"]
    train, test = (
        {row.id for row in load_dataset(name, config.data[name], tmp_path).conversations} for name in ("train", "test")
    )
    assert (len(train), len(test), train & test) == (200, 100, set())


def test_its_forms_of_a_row_are_read(tmp_path: Path) -> None:
    rows = [ROWS[0], {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = load_recipe(first_recipe(tmp_path)).data["train"].model_copy(update={"skip": 0})
    assert len(load_dataset("train", config, tmp_path).conversations) == 2


def test_the_readme_and_its_recipe_are_short(tmp_path: Path) -> None:
    assert README.count("\n") <= 110
    assert first_recipe(tmp_path).read_text(encoding="utf-8").count("\n") <= 14


@pytest.mark.parametrize("command", re.findall(r"^make ([\w-]+)", README, re.MULTILINE))
def test_its_make_targets_exist(command: str) -> None:
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
