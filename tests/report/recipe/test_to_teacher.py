"""What is said of a distilled student that did not get nearer to its teacher, and to do first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_run import right_on_some, row_of, with_row

from tutelage.report.numbers import NARROW
from tutelage.report.recipe.choice import choose
from tutelage.report.recipe.tables import build_tables
from tutelage.report.recipe.to_teacher import to_teacher
from tutelage.runs.recipe_results import RecipeResults

RIGHT = {"teacher": 36, "sft": 35, "off_policy": 37, "gkd": 10}
ASTRAY = (
    "GKD (SFT-S) did not get nearer to its teacher: its divergence from it on the rows of dev did not fall (0.0025 → "
    "0.0169), and it scores 65.0 below Teacher (SFT) (95 % interval −80.0 to −50.0, p = 0.001 after correction). A "
    "smaller learning rate comes first, before another teacher: add `stages.gkd.training.learning_rate=2e-4` to the "
    "command."
)


def trained(tmp_path: Path, right: dict[str, int], divergence: tuple[float, float] | None) -> RecipeResults:
    """Results whose GKD, at 6e-4, has measured this divergence from its teacher before and after."""
    results = right_on_some(tmp_path, right)
    folder = row_of(results, "gkd").runs[0].trained
    assert folder is not None
    training = {"learning_rate": 6e-4, "validation": None if divergence is None else "dev"}
    (folder / "config.json").write_text(json.dumps({"training": training}))
    measured: dict[str, Any] = {"kind": "distill"}
    if divergence is not None:
        measured |= {"divergence_before": divergence[0], "divergence_after": divergence[1]}
    (folder / "result.json").write_text(json.dumps(measured))
    return results


def said(results: RecipeResults) -> str:
    found = choose(results, build_tables(results))
    assert found is not None
    return found.next.replace(NARROW, " ")


def test_a_smaller_learning_rate_comes_before_another_teacher_where_the_divergence_did_not_fall(tmp_path: Path) -> None:
    results = trained(tmp_path, RIGHT, (0.0025, 0.0169))
    assert said(results).endswith(ASTRAY)
    assert "stronger teacher" not in said(results)
    searched = said(with_row(results, "gkd", searched=True))
    assert searched.endswith("before another teacher: let `search.grid` try one of 2e-4.")


def test_where_it_was_not_measured_a_student_below_its_teacher_says_how_it_would_be(tmp_path: Path) -> None:
    found = said(trained(tmp_path, RIGHT, None))
    assert "smaller learning rate" not in found  # its rate may as well be too small
    assert "more may be learnt from it with more `epochs` and another `learning_rate`" in found
    assert "nearer to its teacher is measured where `training.validation` names rows" in found


def test_where_it_fell_a_student_below_its_teacher_can_learn_more_from_it(tmp_path: Path) -> None:
    found = said(trained(tmp_path, RIGHT, (0.0169, 0.0025)))
    assert "did not get near" not in found
    assert "is measured where" not in found
    assert "little to learn" not in found  # it is shown to score less than this teacher
    assert "The teacher scores 90.0 and GKD (SFT-S) 25.0: more may be learnt from it with more `epochs`" in found


@pytest.mark.parametrize("divergence", [(0.0169, 0.0025), None])
def test_a_student_near_its_teacher_has_little_to_learn_from_it(
    tmp_path: Path, divergence: tuple[float, float] | None
) -> None:
    found = said(trained(tmp_path, {"teacher": 34, "sft": 36, "off_policy": 37, "gkd": 30}, divergence))
    assert "There is little to learn from the teacher on this task" in found


def test_the_rate_named_is_about_a_third(tmp_path: Path) -> None:
    results = trained(tmp_path, RIGHT, (0.01, 0.01))
    one = to_teacher(row_of(results, "gkd"))
    assert one is not None
    assert (one.is_no_nearer, one.lower_rate) == (True, "2e-4")
    assert to_teacher(row_of(results, "sft")) is None  # no run that is done
