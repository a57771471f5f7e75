"""The recipes of recipes/mini, end to end on tiny models and few rows, and their plan at full size."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recipes_fixture import Workshop
from synthesize_recipe import OFF

from tutelage.recipe.load import load_recipe
from tutelage.recipe.stages import SynthesizeStage, TrainStage
from tutelage.report.recipe.page import build_report
from tutelage.report.recipe.synthetic_sizes import size_curves
from tutelage.report.recipe.tables import build_tables
from tutelage.runs.planner import Planner
from tutelage.runs.run_recipe import run_recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TASKS = ("dialogsum", "arc", "flores")
EVERY_REASON_OFF = f"[{', '.join(OFF.split())}, near_duplicate_of_earlier, contamination]"


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data sets as the recipes expect it, with a few short rows each."""
    folder = tmp_path / "data"
    for part, count in (("train.jsonl.gz", 12), ("dev.jsonl", 3)):
        rows = [
            {"fname": f"{part}{i}", "dialogue": f"A: cat {i}?\nB: dog", "summary": f"Dog {i}."} for i in range(count)
        ]
        lines(folder / "dialogsum" / f"dialogsum.{part}", rows)
    summaries = {f"summary{n}": f"The dog {n}." for n in (1, 2, 3)}
    rows = [{"fname": f"t{i}", "dialogue": f"A: bird {i}?\nB: fish", **summaries} for i in range(3)]
    lines(folder / "dialogsum" / "dialogsum.test.jsonl", rows)
    for part, count in (("train", 12), ("dev", 3), ("test", 3)):
        choices = {"text": ["cat", "dog"], "label": ["A", "B"]}
        rows = [
            {"id": f"{part}{i}", "question": f"Which {part} {i}?", "choices": choices, "answerKey": "AB"[i % 2]}
            for i in range(count)
        ]
        lines(folder / "arc_challenge" / f"ARC-Challenge-{part}.jsonl", rows)
    for part, count in (("dev", 12), ("devtest", 503)):
        for code, text in (("asm_Beng", "মই {}"), ("eng_Latn", "I {}")):
            path = folder / "flores" / part / f"{code}.{part}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(text.format(i) + "\n" for i in range(count)))
    script = [sys.executable, str(ROOT / "scripts" / "flores_rows.py"), str(folder / "flores"), str(folder / "flores")]
    subprocess.run(script, check=True, capture_output=True)
    lines(
        folder / "flores" / "dev.jsonl", [{"id": f"d{i}", "assamese": f"মই {i}", "english": f"I {i}"} for i in range(3)]
    )
    turns = [[{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"{i}"}] for i in range(24)]
    for name in ("alpaca", "cot", "evol", "flan_x", "gsm", "lima", "oasst_val_en", "rasbt_1100", "sharegpt"):
        lines(folder / "instruct" / f"{name}.jsonl.gz", [{"messages": turns[len(name)]}])
    lines(folder / "instruct" / "t0_train_sample.jsonl.gz", [{"messages": one} for one in turns])
    monkeypatch.setenv("TUTELAGE_DATA", str(folder))
    return folder


def small(workshop: Workshop, name: str) -> tuple[Any, list[str]]:
    """The recipe with tiny models and sizes, and the names of its synthesize stages."""
    file = ROOT / "recipes" / "mini" / f"{name}.yaml"
    stages = load_recipe(file).stages
    overrides = [
        f"teacher.path={workshop.folder / 'teacher'}",
        "device=cpu",
        "seeds=[0]",
        "stages.cut.prune={keep: [0, 3], method: listed}",
        "stages.heal.training={epochs: 1, learning_rate: 0.001}",
        "stages.general.training={epochs: 1, learning_rate: 0.001}",
        "training={batch_size: 4, epochs: 1, max_length: 256}",
        "search.grid={learning_rate: [0.01]}",
        "data.heal.size=8",
        "data.general={size: 4, skip: 8, path: $TUTELAGE_DATA/instruct/t0*.jsonl.gz}",
    ]
    overrides += [f"tasks.{task}.sampling.max_new_tokens=8" for task in load_recipe(file).tasks]
    overrides += [f"data.{name}.size=null" for name in ("train", "train_dialogsum") if name in load_recipe(file).data]
    for stage in stages:
        if isinstance(stage, SynthesizeStage):
            key = f"stages.{stage.name}"
            # The untrained tiny model never ends a text.
            overrides += [f"{key}.generator={stage.annotator}", f"{key}.rows=8", f"{key}.demonstrations=2"]
            overrides += [f"{key}.filters={{skip: {EVERY_REASON_OFF}}}", f"{key}.min_acceptance=0.001"]
            overrides += [f"{key}.{part}={{max_new_tokens: 40, batch_size: 16}}" for part in ("inputs", "answers")]
        elif isinstance(stage, TrainStage) and stage.name.startswith("teacher"):
            overrides.append(f"stages.{stage.name}.training={{epochs: 12}}")  # so that it ends its texts
        elif isinstance(stage, TrainStage) and hasattr(stage, "sampling"):
            overrides.append(f"stages.{stage.name}.sampling={{max_new_tokens: 4}}")
    overrides += [f"data.new_{size}.size={n}" for n, size in enumerate((500, 1000, 2500), 2) if name == "figure5"]
    return load_recipe(file, overrides), [s.name for s in stages if isinstance(s, SynthesizeStage)]


@pytest.mark.long
def test_table_2_from_end_to_end(long_context: Workshop, data: Path, undrawn: None):
    recipe, made = small(long_context, "table2")
    assert made == [f"new_{task}" for task in TASKS]
    part = run_recipe(recipe, ROOT / "recipes" / "mini", long_context.runs, only=["scores_arc"])
    assert list(part.tasks) == ["test_arc"]
    made_for_arc = {folder.name for folder in long_context.runs.iterdir() if folder.is_dir()}
    assert not any("dialogsum" in name or "flores" in name for name in made_for_arc)
    results = run_recipe(recipe, ROOT / "recipes" / "mini", long_context.runs)
    of_arc = {row.stage: row.runs for row in results.rows if row.stage.endswith("_arc")}
    assert {row.stage: row.runs for row in part.rows if row.stage in of_arc} == of_arc
    assert results.search is not None
    for task in TASKS:
        (folder,) = long_context.runs.glob(f"new_{task}-s0-*")
        assert json.loads((folder / "result.json").read_text())["rows"] == 8
        points = [p for p in results.search.points if p.stage.endswith(f"_{task}")]
        searched = {p.stage.removesuffix(f"_{task}") for p in points}
        control = ["gkd_long"] if task == "dialogsum" else []
        assert searched == {"teacher", "sft", "sft_again", "warm", "gkd", "mix", "two_stage", *control}
        assert all(list(long_context.runs.glob(f"{p.stage}-on-dev_{task}-s0-*")) for p in points)
        measured = results.tasks[f"test_{task}"]
        assert measured.reference == f"sft_again_{task}"
        assert [row.removesuffix(f"_{task}") for row in measured.rows or ()] == [
            "teacher", "teacher", "general", "sft", "sft_again", "gkd", "mix", "warm", "two_stage", *control
        ]  # fmt: skip
    assert "synthetic" in {label.partition(": ")[2].partition(" ")[0] for label in results.facts}
    build_report(results, long_context.folder / "report")
    table = (long_context.folder / "report" / "table.md").read_text()
    assert table.count("| Two-stage |") == table.count("| Mix |") == 3
    assert "missing" not in table


@pytest.mark.long
def test_figure_5_from_end_to_end(long_context: Workshop, data: Path):
    recipe, _ = small(long_context, "figure5")
    results = run_recipe(recipe, ROOT / "recipes" / "mini", long_context.runs)
    rows = {}
    for size in ("500", "1000", "2500", "dialogsum"):
        folders = list(long_context.runs.glob(f"warm_{size}-s*-*/result.json"))
        assert len(folders) == 1
        rows[size] = next(iter(json.loads(folders[0].read_text())["data"].values()))["rows"]
    assert rows == {"500": 2, "1000": 3, "2500": 4, "dialogsum": 8}
    assert len(list(long_context.runs.glob("new_dialogsum-s*"))) == 1
    stages = [row.stage for row in results.rows]
    assert stages[-5:] == ["gkd_dialogsum", *(f"two_stage_{size}" for size in rows)]
    (curve,) = size_curves(results, build_tables(results))
    assert [(point.rows, point.row.stage) for point in curve.points] == list(
        zip((0, *rows.values()), stages[-5:], strict=True)
    )


def planned(file: Path, root: Path) -> dict[str, str]:
    """The folder of the run of every stage, with one learning rate for the searched ones."""
    planner = Planner(load_recipe(file), file.parent, root)
    rate = {"learning_rate": 1e-4}
    for stage in planner.recipe.stages:
        if isinstance(stage, TrainStage) and stage.search:
            planner.choices[stage.name] = rate
    stages = [stage.name for stage in planner.recipe.stages if stage.kind != "evaluate"]
    return {name: planner.stage_run(name, 0).folder.name for name in stages}


@pytest.mark.parametrize("name", ["table2", "figure5"])
def test_the_plan_at_full_size(name: str, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On the real data every stage can be planned, and the student is that of recipes/dialogsum.yaml."""
    monkeypatch.setenv("TUTELAGE_DATA", str(data_folder))
    if not (data_folder / "flores" / "train.jsonl").is_file():
        pytest.skip("scripts/flores_rows.py has not been run in $TUTELAGE_DATA/flores")
    runs = planned(ROOT / "recipes" / "mini" / f"{name}.yaml", tmp_path)
    other = planned(ROOT / "recipes" / "dialogsum.yaml", tmp_path)
    assert {stage: other[stage] for stage in ("cut", "heal", "general")}.items() <= runs.items()


def test_figure_5_goes_on_from_table_2(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(data_folder))
    if not (data_folder / "flores" / "train.jsonl").is_file():
        pytest.skip("scripts/flores_rows.py has not been run in $TUTELAGE_DATA/flores")
    table, figure = (planned(ROOT / "recipes" / "mini" / f"{name}.yaml", tmp_path) for name in ("table2", "figure5"))
    assert {stage for stage in figure if figure[stage] == table.get(stage)} == {
        *("cut", "heal", "general", "teacher_dialogsum", "new_dialogsum", "sft_dialogsum", "gkd_dialogsum"),
        *("warm_dialogsum", "two_stage_dialogsum"),
    }
