from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_run import make_run

from tutelage.report.drawing import Curve, Panel, Style, draw_panel
from tutelage.report.recipe.figures import (
    legend_of,
    loss_panels,
    panel_svgs,
    score_svgs,
    styles_of,
    write_loss_files,
    write_score_files,
)
from tutelage.report.recipe.tables import build_tables


@pytest.fixture
def manifest(tmp_path: Path) -> dict:
    return make_run(tmp_path, count=4)


def test_losses_of_different_kinds_do_not_share_a_panel(manifest: dict) -> None:
    panels = {panel.title: panel for panel in loss_panels(manifest)}
    assert {curve.style.label for curve in panels["Loss, fine-tuning"].curves} == {"SFT", "Teacher (SFT)"}
    assert len(panels["Loss, fine-tuning"].curves) == 4  # one of the teacher, three of SFT
    assert len(panels["Loss, distilling"].curves) == 9
    assert [len(curve.x) for curve in panels["Validation loss, distilling"].curves] == [4] * 9
    assert panels["KL(teacher ‖ student), nats a token"].curves[0].x[-1] == pytest.approx(3.0)
    assert "Student's entropy, nats a token" not in panels  # nobody logged it


def test_nulls_and_broken_values_in_logs(tmp_path: Path, manifest: dict) -> None:
    lines = [
        {"step": 1, "loss": 2.0, "forward_kl": None},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": 1.0},
    ]
    (tmp_path / "sft-0" / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    only = manifest | {"rows": [row | {"runs": row["runs"][:1]} for row in manifest["rows"] if row["stage"] == "sft"]}
    (loss,) = loss_panels(only)
    assert (loss.curves[0].x, loss.curves[0].y, loss.x_label) == ((1.0, 3.0), (2.0, 1.0), "optimizer step")


def test_a_moving_mean_keeps_the_level_at_both_ends() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    style = Style("a", "#0072b2", "-")
    draw_panel(axes, Panel("t", "step", (Curve(style, tuple(range(100)), (3.0,) * 100),)))
    raw, smooth = axes.lines
    assert raw.get_alpha() == 0.3
    np.testing.assert_allclose(smooth.get_ydata(), 3.0)


def test_each_trained_row_keeps_its_own_look(manifest: dict) -> None:
    many = manifest | {"rows": [{"stage": f"s{n}", "kind": "distill", "runs": []} for n in range(14)]}
    assert len({(style.color, str(style.dash)) for style in styles_of(many).values()}) == 14
    assert styles_of(manifest)["lead_1"].color == "#7d848d"
    assert [style.label for style in legend_of(loss_panels(manifest))][:2] == ["Teacher (SFT)", "SFT"]


def test_inline_svgs_are_well_formed_repeatable_and_safe(manifest: dict) -> None:
    hostile = "</text><script>alert(1)</script> $x^2$ --> &amp;"
    manifest["rows"][3]["label"] = hostile
    tables = build_tables(manifest)
    svgs = score_svgs(tables, styles_of(manifest)) + panel_svgs(loss_panels(manifest))
    assert svgs == score_svgs(tables, styles_of(manifest)) + panel_svgs(loss_panels(manifest))
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


def test_files_are_written_even_when_everything_is_missing(tmp_path: Path, manifest: dict) -> None:
    empty = manifest | {"rows": [row | {"runs": []} for row in manifest["rows"]]}
    out = tmp_path / "out"
    write_loss_files(loss_panels(empty), out)
    write_score_files(build_tables(empty), styles_of(empty), out)
    assert sorted(path.name for path in out.iterdir()) == ["loss.png", "loss.svg", "scores.png", "scores.svg"]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "No training log was found." in (out / "loss.svg").read_text()
    assert (out / "scores.svg").read_text().count(">missing<") == 12
