"""Recipes that fit into a GPU's memory, and what is said of models that cannot be had."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from tutelage.recipe.load import parse_yaml
from tutelage.runs.cost.facts import machine
from tutelage.runs.preflight.machine import Here
from tutelage.start.draft import Draft, _needs, _shows, draft, shown_points
from tutelage.start.estimate import Estimate
from tutelage.start.look import look_at
from tutelage.start.models import PAIRS, look_at_models


@pytest.fixture
def drafted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with Path("x.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("question", "answer"), *((f"Q {i} " * 200, "yes") for i in range(100))])

    def make(gib: float, pair: tuple[str, str]) -> Draft:
        here = Here("cuda", replace(machine("H100"), memory=gib), "a GPU")
        looks = {"train": look_at("train", ["x.csv"], None, None)}
        return draft("x", looks, Path("x.yaml"), look_at_models(*pair), here, "init", Path("runs"), False)

    return make


@pytest.mark.slow
def test_memory_settings_and_models_fit_the_gpu(drafted) -> None:
    large, small = PAIRS
    roomy = drafted(79.0, large)
    assert roomy.fits
    assert "tokens_per_micro_batch" not in roomy.text
    tight = drafted(36.0, large)
    assert tight.fits
    assert parse_yaml(tight.text)["training"]["tokens_per_micro_batch"] < 8192
    assert not drafted(20.0, large).fits  # 18 bytes for each of 1.7 billion weights
    assert drafted(20.0, small).fits


@pytest.mark.slow
def test_few_rows_are_said(drafted) -> None:
    assert drafted(79.0, PAIRS[0]).warnings[0].startswith("100 rows are few")
    with Path("x.csv").open("a", newline="") as handle:
        csv.writer(handle).writerows((f"Another {i} " * 200, "no") for i in range(100))
    assert not any("are few" in warning for warning in drafted(79.0, PAIRS[0]).warnings)


def test_what_so_many_test_rows_can_show_is_said_once(drafted) -> None:
    assert [shown_points(rows) for rows in (10, 59, 500, 10**6)] == [31, 13, 4, 1]
    made = drafted(79.0, PAIRS[0])
    own = [line for line in (*made.seen, *made.warnings) if " points " in line]
    assert own == ["  test: 20 rows of these, which show differences of about 22 points and more (a rule of thumb)"]
    train, test = look_at("train", ["x.csv"], None, None), look_at("test", ["x.csv"], None, None)
    assert list(_shows({"train": train, "test": test})) == [
        "  test: 100 rows, which show differences of about 10 points and more (a rule of thumb)"
    ]
    assert list(_shows({"train": train, "test": replace(test, rows=test.rows[:29])})) == []  # a warning says it


def test_models_that_cannot_be_had_are_said(drafted) -> None:
    made = drafted(79.0, PAIRS[0])
    assert made.seen[0].startswith("teacher: HuggingFaceTB/SmolLM2-1.7B-Instruct, 1.7B weights; cannot be looked at: `")
    assert "a guess, by characters" in made.seen[-2]
    assert sum("HF_HUB_OFFLINE is set: unset it" in warning for warning in made.warnings) == 2
    assert not Path("x.yaml").exists()


def test_the_time_is_said_beside_other_programs_and_without_them(tmp_path: Path) -> None:
    here = Here("cpu", machine("H100"), "")
    quiet = _needs(Estimate(0.2, 2.0, (), 1.1, disk=3.14), here, tmp_path)
    assert quiet.startswith("about 11 minutes here, 2.0 GiB")
    assert ", 3.1 GiB of disk at most (" in quiet
    busy = _needs(Estimate(0.2, 2.0, (), 2.4), here, tmp_path)
    assert busy.startswith(
        "about 5 minutes here on quiet cores (12 minutes while other programs keep them as busy as now), 2.0 GiB"
    )
