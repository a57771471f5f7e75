"""The mini study: its rows, its settings, and all of it on tiny models."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import yaml
from recipes_fixture import Workshop

from tutelage.recipe.load import load_recipe
from tutelage.runs.planner import Planner
from tutelage.study.grid import plan_study
from tutelage.study.plan import cells
from tutelage.study.run_study import run_study

MINI = Path(__file__).parents[2] / "recipes" / "mini"


def test_the_mini_study_heals_on_plain_text_that_no_subset_shares(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TUTELAGE_DATA", str(data_folder))
    places: dict[str, set[int]] = {}
    for run in plan_study(MINI / "study.yaml", tmp_path).runs:
        for name, section in run.data.items():
            assert (section.text is not None) == (name == "heal")
            places.setdefault(name, set()).update(range(section.skip, section.skip + (section.size or 0)))
    assert len(places["heal"]) == 52_000
    assert not places["heal"] & (places["train"] | places["held_out"])
    assert not places["train"] & places["held_out"]


def test_the_mini_studys_settings_are_found_on_its_own_student(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TUTELAGE_DATA", str(data_folder))
    study = plan_study(MINI / "study.yaml", tmp_path)
    search = Planner(load_recipe(MINI / "settings.yaml"), MINI, tmp_path, declared=True)
    assert search.stage_run("heal", 0) in study.runs
    searched = {stage.name for stage in search.recipe.stages if getattr(stage, "search", None)}
    assert searched == {"teacher_sft", *yaml.safe_load((MINI / "study.yaml").read_text())["grids"][0]["methods"]}


@pytest.mark.slow
def test_the_mini_study_from_end_to_end(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    """All its arms on tiny models and a handful of rows, held-out loss and one task of the template."""
    folder = workshop.folder / "instruct"
    folder.mkdir()
    flan = [f"flan_cot_{name}" for name in ("aqua", "creak", "ecqa", "strategyqa", "qasc", "sensemaking")]
    names = ("alpaca", "cot", "evol", "gsm", "lima", "oasst_val_en", "rasbt_1100", "sharegpt")
    for place, name in enumerate([*names, "t0_train_sample", *flan]):
        turns = [(("user", f"Say {place} {i}"), ("assistant", f"The cat {i}.")) for i in range(3)]
        rows = [{"messages": [{"role": role, "content": text} for role, text in row], "answer": "a"} for row in turns]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.setenv("TUTELAGE_DATA", str(workshop.folder))
    template = yaml.safe_load((MINI / "general.yaml").read_text())
    template["device"] = "cpu"
    template["data"]["heal"]["size"] = 10
    template["data"]["qasc"]["size"] = template["data"]["sensemaking"]["size"] = 3
    template["data"]["train"]["skip"], template["data"]["held_out"] = (
        10,
        template["data"]["held_out"]
        | {
            "skip": 20,
            "size": 4,
        },
    )
    template["training"] |= {"batch_size": 4, "epochs": 1, "max_length": 96}
    for stage in template["stages"]:
        if "sampling" in stage:
            stage["sampling"] = {"max_new_tokens": 4}
    for task in template["tasks"].values():
        task["sampling"] = {"max_new_tokens": 4}
    study = yaml.safe_load((MINI / "study.yaml").read_text())
    study["seeds"] = [0]
    study["models"] = {
        "ten-layers": {"layers": 3},
        "six-layers": {"layers": 2},
        "smollm2-135m-instruct": {"path": str(workshop.models / "teacher")},
    }
    for grid in study["grids"]:
        grid |= {"tasks": ["held_out", "qasc"], "sizes": [4, 8]}
        grid["exclude"] = [{"method": "seqkd", "size": 8}, *grid["exclude"][1:]]
    (workshop.folder / "general.yaml").write_text(yaml.safe_dump(template))
    file = workshop.folder / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    plan = plan_study(file, workshop.runs)
    run_study(plan)
    found = cells(plan, workshop.runs)
    metrics = {
        (cell.task, cell.size, cell.student, cell.method): json.loads((cell.folder / "result.json").read_text())[
            "metrics"
        ]
        for cell in found
    }
    methods = {"sft", "sft_again", "gkd_base", "gkd_sft", "gkd_it", "seqkd", "teacher", "base"}
    assert {method for *_, method in metrics} == methods
    held_out = {key: one for key, one in metrics.items() if key[0] == "held_out"}
    assert all(one["kl"]["value"] > 0 for key, one in held_out.items() if key[-1] != "teacher")
    assert held_out["held_out", 4, "smollm2-135m-instruct", "teacher"]["kl"]["value"] == pytest.approx(0, abs=1e-6)
    assert all(one["final_answer"]["value"] == 0 for key, one in metrics.items() if key[0] == "qasc")
