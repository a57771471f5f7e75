"""The study of situations: its plan, and a tiny version of all of it, from rows to the table that ships."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes_fixture import Workshop

from tutelage.forecasting.prior import predict
from tutelage.forecasting.situations import read_situations
from tutelage.recipe.study import StudyConfig
from tutelage.study.grid import load_study, plan_study
from tutelage.study.run_study import run_study

ROOT = Path(__file__).parents[2]
MINI = ROOT / "recipes" / "mini"
TASKS = ("creak", "qasc", "gsm8k", "dialogsum", "code", "general")
TABLE = runpy.run_path(str(ROOT / "scripts" / "situations_table.py"))
ROWS = runpy.run_path(str(ROOT / "scripts" / "situation_rows.py"))


def rows(task: str, count: int, start: int) -> str:
    made = [{"id": f"{task}{i}", "prompt": f"The cat {i}?", "completion": f"The dog ran. The answer is {i % 3}.",
             "references": [f"{i % 3}"]} for i in range(start, start + count)]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in made)


def wanted(config: StudyConfig) -> set[tuple[str, int, str]]:
    """Student, rows and teacher of the situations of one task's study."""
    return {
        (student, int(size), method)
        for grid in config.grids
        for student in grid.students
        for size in grid.sizes
        for method in grid.methods
        if "test" in grid.tasks and method.startswith("gkd_")
    }


def test_there_are_sixty_situations_of_every_kind_and_all_have_an_opponent() -> None:
    found = {task: wanted(load_study(MINI / "situations" / f"{task}.yaml")) for task in TASKS}
    assert load_study(MINI / "situations.yaml").include == [f"situations/{task}.yaml" for task in TASKS]
    assert sum(map(len, found.values())) >= 60
    assert {kind for one in found.values() for _, _, kind in one} == {
        f"gkd_{kind}" for kind in ("same", "more", "untouched", "weaker", "other", "spoiled")
    }
    sizes = [size for one in found.values() for _, size, _ in one]
    assert (min(sizes), max(sizes)) == (125, 15_000)
    for task in TASKS:
        config = load_study(MINI / "situations" / f"{task}.yaml")
        assert all("sft_again" in grid.methods for grid in config.grids if "test" in grid.tasks)


def test_no_answer_of_the_spoiled_rows_is_its_own() -> None:
    made = [{"id": str(i), "prompt": f"p{i}", "completion": f"c{i}", "references": [f"c{i}"]} for i in range(50)]
    moved = ROWS["shuffled"](made, "seed")
    assert sorted(row["completion"] for row in moved) == sorted(row["completion"] for row in made)
    assert all(row["completion"] != f"c{row['id']}" for row in moved)


def tiny(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of two sizes and three teachers on tiny models; returns its file."""
    folder = workshop.folder / "situations"
    folder.mkdir()
    for name in ("creak", "gsm8k"):
        for part, start, count in (("train", 0, 40), ("shuffled", 3, 40), ("dev", 100, 6), ("test", 200, 8)):
            (folder / f"{name}.{part}.jsonl").write_text(rows(name, count, start))
    (folder / "heal.jsonl").write_text(rows("heal", 30, 400))
    monkeypatch.setenv("TUTELAGE_DATA", str(workshop.folder))
    template = yaml.safe_load((MINI / "situations" / "template.yaml").read_text())
    template |= {"device": "cpu"}
    template["training"] |= {"batch_size": 8, "epochs": 1, "max_length": 96}
    template["data"]["other"]["size"], template["data"]["little"]["size"] = 10, 10
    template["data"]["calibration"] |= {"skip": 20, "size": 5}
    for stage in template["stages"]:
        stage.get("training", {}).update({"epochs": 1})
        stage.update({"sampling": {"max_new_tokens": 4}} if "sampling" in stage else {})
        stage.get("prune", {}).update({"calibration_rows": 2} if "prune" in stage else {})
        if stage["name"] == "weak_cut":
            stage["prune"]["layers"] = 1
    (workshop.folder / "template.yaml").write_text(yaml.safe_dump(template))
    study: dict[str, Any] = yaml.safe_load((MINI / "situations" / "creak.yaml").read_text())
    small = {"layers": 2, "heal_rows": 20, "healed_by": "heal_ce"}
    study["models"] = {"short": small, "large": {"path": str(workshop.models / "teacher")}}
    for task in study["tasks"].values():
        task |= {"sampling": {"max_new_tokens": 4}, "max_length": 96} if "kind" in task else {}
    kinds = ["gkd_same", "gkd_spoiled"]
    common = {"template": "template.yaml", "teachers": ["large"], "students": ["short"]} | {
        "values": {"task": "creak", "more": 30, "other": "gsm8k", "metric": "final_answer", "new_tokens": 4}
    }
    dev = common | {"seeds": [0]}
    study["grids"] = [
        common | {"sizes": [32], "methods": ["sft_again", *kinds], "tasks": ["test", "test_loss"]},
        dev | {"sizes": [8], "methods": ["same", "sft_again", *kinds], "tasks": ["dev", "dev_loss"]},
        dev | {"sizes": [8], "methods": ["base"], "tasks": ["dev", "signals_untouched", "signals_spoiled"]},
        dev | {"sizes": [8], "methods": ["teacher", "spoiled"], "tasks": ["dev"]},
    ]
    file = workshop.folder / "creak.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


@pytest.mark.slow
@pytest.mark.long
def test_the_whole_chain_on_tiny_models(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    file, table = tiny(workshop, monkeypatch), workshop.folder / "table.csv"
    table.write_text("name,source,task,metric,teacher,student,rows,gain,gain_se\nold,page,a,rouge_l,same,s,10,1,1\n")
    TABLE["main"](file, workshop.runs, table)
    assert len(read_situations(table.read_text(), "table")) == 1  # nothing is finished
    run_study(plan_study(file, workshop.runs))
    TABLE["main"](file, workshop.runs, table)
    old, same, spoiled = read_situations(table.read_text(), "table")
    assert old.name == "old"
    assert [one.name for one in (same, spoiled)] == ["creak-short-32-same", "creak-short-32-spoiled"]
    for one in (same, spoiled):
        assert (one.metric, one.rows, [pilot.rows for pilot in one.pilots]) == ("final_answer", 32, [8])
        assert one.gain is not None
        assert one.loss_gain_se is not None
        assert {"kl", "kl_own", "teacher_score", "student_score", "tokens_per_weight"} <= set(one.signals)
        assert one.hours_again
        assert one.hours_gkd
        assert one.hours_both < one.hours_again + one.hours_gkd  # both begin with the same SFT
        assert one.pilots[0].hours
        assert one.pilots[0].work_share
    assert same.pilots[0].teacher is not None
    assert spoiled.pilots[0].teacher is None
    assert same.signals["teacher_loss"] != spoiled.signals["teacher_loss"]
    assert predict(same, [spoiled, old]).pilots == 1
    TABLE["main"](file, workshop.runs, table, freeing=True)
    left = {path.parent.name.split("-s0-")[0].split("-s1-")[0] for path in workshop.runs.glob("*/model")}
    assert left == {"cut", "heal_ce", "same"}
    with pytest.MonkeyPatch.context() as patch:  # a run that is not done keeps its parents' models
        plan = plan_study(file, workshop.runs)
        open_run = next(run for _, run in plan.points if run.parents and run.parents[0].stage == "heal_ce")
        patch.setitem(TABLE["free"].__globals__, "OWN", ("heal_ce", "same"))
        (open_run.folder / "result.json").unlink()
        TABLE["free"](plan_study(file, workshop.runs))
    left = {path.parent.name.split("-s0-")[0].split("-s1-")[0] for path in workshop.runs.glob("*/model")}
    assert left == {"cut", "heal_ce"}
    run_study(plan_study(file, workshop.runs))
    assert read_situations(table.read_text(), "table")[1:] == [same, spoiled]
