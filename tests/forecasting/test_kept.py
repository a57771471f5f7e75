"""Forecasts of a study: made once and before its runs, and shown beside what came out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_study import STUDENTS, TEACHER, make_study
from pages import Page
from recipes_fixture import ROWS, Workshop
from tiny_study import TEMPLATE, write_study

from tutelage.cli.main import main
from tutelage.evaluation.statistics import paired_bootstrap
from tutelage.report.forecasts import forecast_rows
from tutelage.report.study.page import write_study_report
from tutelage.report.study.read import build_study

pytestmark = pytest.mark.slow

GAIN = {"mean": 1.0, "low": -20.0, "high": 22.0}
KEPT = {"key": "k", "tasks": ["bbh"], "measured": False, "answer": "distil", "metric": "accuracy", "gain": GAIN,
        "loss_gain": GAIN, "pilots": [62.0]}  # fmt: skip


@pytest.mark.usefixtures("undrawn")
@pytest.mark.long
def test_a_study_forecasts_first_and_shows_both(workshop: Workshop, done: list[str]) -> None:
    """The forecast of a method that is no distillation is a reason; a second run makes none anew."""
    workshop.rows("train", [ROWS[i % 12] | {"id": f"m{i}"} for i in range(160)])
    stages = [*TEMPLATE["stages"], {"name": "seqkd", "kind": "seqkd", "teacher": "teacher", "data": "train",
                                    "samples_per_prompt": 1, "sampling": {"max_new_tokens": 6}}]  # fmt: skip
    template = TEMPLATE | {"stages": stages, "training": TEMPLATE["training"] | {"batch_size": 64}}
    grid = {"template": "template.yaml", "sizes": [128], "students": ["small"], "teachers": ["large"],
            "methods": ["sft_again", "gkd_sft", "seqkd"], "tasks": ["test", "held_out"]}  # fmt: skip
    file = write_study(workshop, template=template, grids=[grid], forecast={"pilot": "short", "budget": 0.1})
    kept = workshop.runs / "study.forecasts.json"
    main(["study", "run", str(file), "--runs", str(workshop.runs)])
    first = next(n for n, name in enumerate(done) if "on test" in name)
    assert any("forecast_dev" in name for name in done[:first])
    assert not any("forecast_dev" in name for name in done[first:])
    gkd, seqkd = sorted(json.loads(kept.read_text()), key=lambda one: one["method"])
    assert (gkd["size"], gkd["student"], gkd["teacher"], gkd["tasks"]) == (128, "small", "large", ["test"])
    assert gkd["gain"]["low"] < gkd["gain"]["mean"] < gkd["gain"]["high"]
    assert (gkd["pilots"], gkd["measured"]) == ([24.0], False)
    assert "no `distill` stage" in seqkd["error"]
    before = gkd
    main(["study", "run", str(file), "--runs", str(workshop.runs)])
    assert next(one for one in json.loads(kept.read_text()) if one["method"] == "gkd_sft") == before
    main(["report", str(file), "--runs", str(workshop.runs), "--out", str(workshop.folder / "out")])
    text = Page((workshop.folder / "out" / "report.html").read_text(encoding="utf-8")).text
    assert "Forecasts and what came out" in text
    assert "No forecast: `seqkd` is no `distill` stage" in text


def test_what_the_study_needs_is_checked_before_its_forecasts(
    workshop: Workshop, done: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A benchmark without data, on which no forecast is made, is told before any pilot is trained."""
    monkeypatch.setenv("TUTELAGE_DATA", str(workshop.folder))
    grid = {"template": "template.yaml", "sizes": [8], "students": ["small"], "teachers": ["large"],
            "methods": ["sft_again", "gkd_sft"], "tasks": ["test", "arc_challenge"]}  # fmt: skip
    file = write_study(workshop, grids=[grid], forecast={})
    with pytest.raises(SystemExit):
        main(["study", "run", str(file), "--runs", str(workshop.runs)])
    assert "arc_challenge: its data are not in" in capsys.readouterr().err
    assert done == []
    assert not (workshop.runs / "study.forecasts.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_rows_are_the_pages_own_comparisons_with_sft_again(tmp_path: Path) -> None:
    """`sft` of the made-up study plays SFT again. A result on another task has no forecast."""
    cells = [
        c if c.method != "sft" else type(c)(**(vars(c) | {"method": "sft_again"})) for c in make_study(tmp_path, 40)
    ]
    study, file = build_study(cells), tmp_path / "kept.json"
    names = {"size": 10_000, "student": STUDENTS[0], "method": "gkd_sft", "teacher": TEACHER}
    file.write_text(json.dumps([KEPT | names, KEPT | names | {"method": "gkd_base", "error": "no rows to try it on"}]))
    rows = forecast_rows(study, file)
    bbh = next(row for row in rows if row.result.task == "bbh" and row.result.arm.method == "gkd_sft")
    again = study.find(STUDENTS[0], "sft_again", 10_000, "bbh")
    assert again is not None
    truth = paired_bootstrap(bbh.result.scores, again.scores, paired_seeds=True)
    assert bbh.measured == f"+{truth.difference:.1f} ± {truth.stderr:.1f}"
    assert (bbh.expected, bbh.inside, bbh.why) == ("+1.0 (−20.0 to 22.0)", "inside", "")
    assert [(row.result.arm.method, row.why) for row in rows] == [("gkd_sft", ""), ("gkd_base", "no rows to try it on")]
    file.write_text(json.dumps([KEPT | names | {"tasks": ["other"]}]))
    assert ["another task" in row.why for row in forecast_rows(study, file)] == [True]
    file.write_text(json.dumps([KEPT | names | {"gain": {"mean": 90.0, "low": 80.0, "high": 99.0}}]))
    assert next(row for row in forecast_rows(study, file) if row.result.task == "bbh").inside == "below"
    file.write_text("{")
    assert forecast_rows(study, file) == []
    page = write_study_report("tiny", cells, tmp_path / "out", False, None, file).page
    assert "has none yet" in Page(page.read_text(encoding="utf-8")).text
