"""The mini study: its rows, its settings, and all of it on tiny models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from recipes_fixture import Workshop

from tutelage.evaluation.benchmarks.dialogsum import INSTRUCTION
from tutelage.recipe.load import load_recipe
from tutelage.runs.planner import Planner
from tutelage.study.grid import plan_study
from tutelage.study.plan import cells
from tutelage.study.run_study import run_study

MINI = Path(__file__).parents[2] / "recipes" / "mini"
SCRIPTS = Path(__file__).parents[2] / "scripts"
# The files of the mixture, and the rows of each in the test on tiny models.
PARTS = {"heal": 10, "train": 8, "dev": 6, "held_out": 4, "qasc.test": 3, "creak.test": 3, "sensemaking.test": 3}


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def key(*texts: str) -> str:
    return " ".join(" ".join(texts).lower().split())


@pytest.mark.slow
def test_the_rows_of_the_mixture_are_in_one_part_each(data_folder: Path, tmp_path: Path):
    """No prompt is in two parts, none is of DialogSum's test; the largest subset and the healing find their rows."""
    command = [sys.executable, str(SCRIPTS / "mixture_rows.py"), str(data_folder), str(tmp_path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    prompts = {name: [key(row["prompt"]) for row in read(tmp_path / "mixture" / f"{name}.jsonl")] for name in PARTS}
    everything = [prompt for part in prompts.values() for prompt in part]
    assert len(everything) == len(set(everything))
    tested = read(data_folder / "dialogsum" / "dialogsum.test.jsonl")
    assert not {key(INSTRUCTION, row["dialogue"]) for row in tested} & set(everything)
    assert len(prompts["train"]) == 15_000
    assert len(prompts["heal"]) > 52_000
    summaries = sum(prompt.startswith(INSTRUCTION.lower()) for prompt in prompts["train"])
    assert 0.19 < summaries / 15_000 < 0.22


def write_few_rows(folder: Path) -> None:
    """Files of a few rows in place of the mixture's."""
    folder.mkdir()
    for place, (name, count) in enumerate(PARTS.items()):
        rows = [
            {"id": str(i), "prompt": f"Say {place} {i}", "completion": f"The cat {i}.", "references": ["a"]}
            for i in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_mini_studys_settings_are_found_on_its_own_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_few_rows(tmp_path / "mixture")
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    study = plan_study(MINI / "study.yaml", tmp_path)
    search = Planner(load_recipe(MINI / "settings.yaml"), MINI, tmp_path, declared=True)
    assert search.stage_run("heal", 0) in study.runs
    searched = {stage.name for stage in search.recipe.stages if getattr(stage, "search", None)}
    grids = yaml.safe_load((MINI / "study.yaml").read_text())["grids"]
    assert searched == {"teacher_sft", *grids[0]["methods"], *grids[4]["methods"]}
    assert grids[0]["sizes"] == [search.recipe.data["train"].size]
    assert grids[0]["values"]["epochs"] == search.recipe.training.epochs


@pytest.mark.long
def test_the_mini_study_from_end_to_end(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    """All its arms on tiny models and a handful of rows, held-out loss and one task of the template."""
    write_few_rows(workshop.folder / "mixture")
    monkeypatch.setenv("TUTELAGE_DATA", str(workshop.folder))
    template = yaml.safe_load((MINI / "general.yaml").read_text())
    template["device"] = "cpu"
    template["data"]["heal"]["size"] = 10
    template["training"] |= {"batch_size": 4, "max_length": 96}
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
    few = {250: 2, 1000: 4, 4000: 6, 15_000: 8}
    for grid in study["grids"]:
        grid |= {"tasks": ["held_out", "qasc"], "sizes": [few[size] for size in grid["sizes"]]}
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
    steps = {(cell.student, cell.size, cell.method): cell.steps or 0 for cell in found}
    base = steps["ten-layers", None, "base"]  # of its healing
    once, again, gkd = (steps["ten-layers", 2, method] for method in ("sft", "sft_again", "gkd_sft"))
    assert 0 < base < once < again == gkd == 2 * once - base
    methods = {"sft", "sft_again", "gkd_base", "gkd_sft", "gkd_it", "seqkd", "teacher", "base"}
    assert {method for *_, method in metrics} == methods
    held_out = {key: one for key, one in metrics.items() if key[0] == "held_out"}
    assert all(one["kl"]["value"] > 0 for key, one in held_out.items() if key[-1] != "teacher")
    assert held_out["held_out", 4, "smollm2-135m-instruct", "teacher"]["kl"]["value"] == pytest.approx(0, abs=1e-6)
    assert all(one["final_answer"]["value"] == 0 for key, one in metrics.items() if key[0] == "qasc")
