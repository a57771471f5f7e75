"""recipes/paper from its files to its report, with a tiny stand-in for each model and a few rows for each data set."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nltk
import pytest
import yaml
from judge_endpoint import KEY, Endpoint
from recipes_fixture import ROWS, Workshop, save_tiny
from synthesize_recipe import OFF
from tiny_benchmarks import ARC_ROWS, DIALOGUES, SENTENCES, write_data

from tutelage.report.study.figures import build_figures, undrawn
from tutelage.report.study.page import write_study_report
from tutelage.report.study.read import build_study
from tutelage.study.grid import plan_study
from tutelage.study.plan import cells
from tutelage.study.run_study import run_study

pytest.importorskip("openai", reason="the judge needs the openai client (the extra `judge`)")
pytestmark = pytest.mark.slow

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
EVERY_REASON = [*OFF.split(), "near_duplicate_of_earlier", "contamination"]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


def shortened(sizes: list[Any]) -> list[Any]:
    """The smallest and the largest of several sizes, as numbers of rows that the tiny data have."""
    return sizes if len(sizes) < 2 else [4, "all"] if "all" in sizes else [2, 4]


def tiny_template(template: dict[str, Any], train: Path) -> dict[str, Any]:
    """A template of recipes/paper with few rows and steps; its stages, methods and placeholders stay."""
    template["device"] = "cpu"
    for name in ("train", "tulu"):
        if name in template["data"]:
            template["data"][name] |= {"path": str(train)}
            del template["data"][name]["split"]
    template["training"] |= {"batch_size": 4, "epochs": 1, "max_length": 256, "learning_rate": 0.001, "shard": False}
    template["training"]["gradient_checkpointing"] = False
    for stage in template["stages"]:
        if "sampling" in stage:
            stage["sampling"] = {"max_new_tokens": 4}
        if stage["kind"] == "synthesize":  # the tiny models write no dialogue: all that they write is kept
            stage |= {"rows": 4, "demonstrations": 2, "form": "continuation", "min_acceptance": 0.001}
            stage |= {part: {"max_new_tokens": 24, "batch_size": 8} for part in ("inputs", "answers")}
            stage["generator"] = stage["annotator"]
        if stage["name"].startswith("teacher"):
            stage["training"] = {"epochs": 30, "learning_rate": 0.01}  # so that it ends its texts
    return template


def tiny_study(study: dict[str, Any], models: Path, gold: dict[str, Path]) -> dict[str, Any]:
    """A study of recipes/paper with tiny models, two sizes for nine, and one example of each benchmark."""
    study["models"] = {
        name: {"path": str(models / ("teacher" if "70b" in name else "student"))} for name in study.get("models", {})
    }
    for grid in study.get("grids", []):
        sizes = grid.get("sizes") or []
        grid["sizes"] = [4] if sizes == [100_000] else shortened(sizes)
        for name in grid["tasks"]:
            study.setdefault("tasks", {}).setdefault(name, {"benchmark": name})
        if "values" in grid:
            grid["values"]["gold"] |= {"path": str(gold[grid["tasks"][0]]), "size": 4}
            grid["values"]["gold"].pop("split", None)
            grid["values"]["filters"] = {"skip": EVERY_REASON}
    for task in study.get("tasks", {}).values():
        task |= {"limit": 1, "max_new_tokens": 8}  # the tiny models never end a text
        task.pop("group", None)  # the tiny FLORES has three sentences
    return study


@pytest.fixture
def file(workshop: Workshop, judge: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Path:
    """recipes/paper/all.yaml, copied beside its templates and made tiny."""
    data = write_data(workshop.folder / "data")
    monkeypatch.setenv("TUTELAGE_DATA", str(data))
    (data / "nltk_data/tokenizers/punkt_tab/english").mkdir(parents=True)  # found, and not read by the tiny prompts
    monkeypatch.setattr(nltk.data, "path", [*nltk.data.path])  # the folder is added to it, for this test alone
    gold = {
        "flores": [{"assamese": one, "english": two} for one, two in SENTENCES * 2],
        "dialogsum": [{"dialogue": text, "summary": summaries[0]} for _, text, summaries in DIALOGUES * 3],
        "arc_challenge": [
            {"question": f"{question} {n}", "choices": {"text": texts, "label": labels}, "answerKey": key}
            for n in range(3)
            for _, question, texts, labels, key in ARC_ROWS
        ],
    }
    for name, rows in gold.items():
        workshop.rows(name, [{"id": f"g{n}"} | row for n, row in enumerate(rows)])
    workshop.rows("train", ROWS)
    save_tiny(workshop.folder / "student", layers=1, seed=0)
    save_tiny(workshop.folder / "teacher", layers=2, seed=1)
    for source in PAPER.glob("*.yaml"):
        content = yaml.safe_load(source.read_text())
        if source.stem == "judge":
            content |= {"model": "j", "url": judge.url}
        elif "stages" in content:
            content = tiny_template(content, workshop.folder / "train.jsonl")
        else:
            content = tiny_study(content, workshop.folder, {name: workshop.folder / f"{name}.jsonl" for name in gold})
        (workshop.folder / source.name).write_text(yaml.safe_dump(content, sort_keys=False))
    return workshop.folder / "all.yaml"


@pytest.mark.long
def test_the_papers_study_runs_and_draws_all_that_the_paper_shows(file: Path, workshop: Workshop):
    plan = plan_study(file, workshop.runs)
    run_study(plan)
    found = cells(plan, workshop.runs)
    report = write_study_report("paper", found, workshop.folder / "report", include_text=True)
    assert report.missing == 0
    names = {path.name for path in (*report.tables, *report.figures)}
    shown = [*(f"figure{n}.png" for n in range(1, 6)), *(f"table{n}.csv" for n in range(1, 4))]
    assert names >= {*shown, "figure5.csv", "cells.csv"}
    study = build_study(found)
    figures = {figure.name: figure for figure in build_figures(study)}
    assert all(figures[f"figure{n}"].panels for n in range(1, 6))
    assert not undrawn(study, list(figures.values()))
    rows = list(csv.DictReader((workshop.folder / "report" / "cells.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == {
        *("sft", "sft_again", "gkd_sft", "gkd_base", "gkd_it", "seqkd", "mix", "two_stage", "teacher")
    }
    assert all(row["value"] not in ("", "nan") for row in rows)
    assert not re.search(r"\bnan\b", report.page.read_text(), re.IGNORECASE)
    result = json.loads(next(workshop.runs.glob("sft-on-infobench-*/result.json")).read_text())
    assert result["judge"]["model"] == "j"
