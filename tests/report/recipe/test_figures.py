from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_run import make_run, row_of, with_row

from tutelage.report.drawing import Look
from tutelage.report.recipe.figures import (
    legend_of,
    looks_of,
    loss_panels,
    loss_svgs,
    score_svgs,
    write_loss_files,
    write_score_files,
)
from tutelage.report.recipe.tables import build_tables
from tutelage.report.training_curves import Curve, CurvePanel, draw_curves
from tutelage.runs.recipe_results import RecipeResults, ResultRow

pytestmark = pytest.mark.slow


@pytest.fixture
def results(tmp_path: Path) -> RecipeResults:
    return make_run(tmp_path, count=4)


def test_losses_of_different_kinds_do_not_share_a_panel(results: RecipeResults) -> None:
    panels = {panel.title: panel for panel in loss_panels(results)}
    assert {curve.look.label for curve in panels["Loss, fine-tuning"].curves} == {"SFT", "Teacher (SFT)"}
    assert len(panels["Loss, fine-tuning"].curves) == 4  # one of the teacher, three of SFT
    assert len(panels["Loss, distilling"].curves) == 9
    assert [len(curve.x) for curve in panels["Validation loss, distilling"].curves] == [4] * 9
    assert panels["KL(teacher ‖ student), nats per token"].curves[0].x[-1] == pytest.approx(3.0)
    assert "Student's entropy, nats per token" not in panels  # nobody logged it
    assert all("Good: " in panel.caption for panel in panels.values())
    assert "may begin near 0 and rise first" in panels["Loss, distilling"].caption  # not a sign of a wrong rate
    assert "rise first" not in panels["Loss, fine-tuning"].caption
    losses = [panels[f"Loss, {kind}"].caption.partition(".")[0] for kind in ("fine-tuning", "distilling")]
    assert losses[0].endswith("each token of the rows' answers")
    assert losses[1].endswith("are from the teacher's")


def test_a_student_that_a_stage_trained_is_no_curve_of_an_arm(results: RecipeResults) -> None:
    """`student: heal` in a recipe that evaluates `base`: its run has a log, and it is a model as given."""
    base = ResultRow("base", "Base-S", "model", row_of(results, "sft").runs)
    assert loss_panels(replace(results, rows=(*results.rows, base))) == loss_panels(results)


def test_nulls_and_broken_values_in_logs(tmp_path: Path, results: RecipeResults) -> None:
    lines = [
        {"step": 1, "loss": 2.0, "forward_kl": None},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": 1.0},
    ]
    (tmp_path / "sft-0" / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    row = row_of(results, "sft")
    only = replace(results, rows=(replace(row, runs=row.runs[:1]),))
    (loss,) = loss_panels(only)
    assert (loss.curves[0].x, loss.curves[0].y, loss.x_label) == ((1.0, 3.0), (2.0, 1.0), "optimizer step")


def test_a_moving_mean_keeps_the_level_at_both_ends() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    look = Look("a", "#0072b2")
    draw_curves(axes, CurvePanel("t", "step", (Curve(look, tuple(range(100)), (3.0,) * 100),)))
    raw, smooth = axes.lines
    assert raw.get_alpha() == 0.3
    np.testing.assert_allclose(np.asarray(smooth.get_ydata(), dtype=float), 3.0)


def test_each_trained_row_keeps_its_own_look(results: RecipeResults) -> None:
    many = replace(results, rows=tuple(ResultRow(f"s{n}", f"s{n}", "distill", ()) for n in range(14)))
    assert len({(look.color, str(look.dash)) for look in looks_of(many).values()}) == 14
    assert looks_of(results)["lead_1"].color == "#7d848d"
    assert [look.label for look in legend_of(loss_panels(results))][:2] == ["Teacher (SFT)", "SFT"]


def test_inline_svgs_are_well_formed_repeatable_and_safe(results: RecipeResults) -> None:
    hostile = "</text><script>alert(1)</script> $x^2$ --> &amp;"
    results = with_row(results, "gkd", label=hostile)
    tables = build_tables(results)
    drawn = score_svgs(tables, looks_of(results))
    assert [task for task, _ in drawn] == [table.task for table in tables]
    svgs = [svg for _, svg in drawn] + loss_svgs(loss_panels(results))
    assert drawn == score_svgs(tables, looks_of(results))
    assert svgs[len(drawn) :] == loss_svgs(loss_panels(results))
    ids: list[str] = []
    for svg in svgs:
        root = ElementTree.fromstring(svg)
        assert not [e for e in root.iter() if e.tag.endswith("script")]
        assert "width" not in root.attrib
        assert "var(--ink)" in svg
        ids += [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    text = " ".join(ElementTree.fromstring(svgs[0]).itertext())
    assert "</text><script>aler" in text  # shown as text, wrapped


def test_files_are_written_even_when_everything_is_missing(tmp_path: Path, results: RecipeResults) -> None:
    empty = replace(results, rows=tuple(replace(row, runs=()) for row in results.rows))
    out = tmp_path / "out"
    write_loss_files(loss_panels(empty), out)
    write_score_files(build_tables(empty), looks_of(empty), out)
    assert sorted(path.name for path in out.iterdir()) == ["loss.png", "loss.svg", "scores.png", "scores.svg"]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "No training log was found." in (out / "loss.svg").read_text()
    assert (out / "scores.svg").read_text().count(">missing<") == 12
