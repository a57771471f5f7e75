from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_run import make_run, row_of, with_row
from pages import do_not_draw

from tutelage.evaluation.records import ExampleRecord
from tutelage.report.recipe.figures import looks_of
from tutelage.report.recipe.page import build_report
from tutelage.report.recipe.synthetic_sizes import SizeCurve, draw_curve, size_curves, synthetic_rows, tick_labels
from tutelage.report.recipe.tables import build_tables
from tutelage.runs.recipe_results import RecipeResults

pytestmark = pytest.mark.slow

SIZES = {"sft": 0, "teacher": 500, "gkd": 1000, "off_policy": 2500, "gkd_base": 5000}
ELSEWHERE = "/another/machine/runs"  # where the runs were made


def mark_of(name: str) -> str:
    """A fingerprint for a fake folder."""
    return name.encode().hex()[:12].ljust(12, "0")


def write(folder: Path, config: dict[str, Any], result: dict[str, Any] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps(result or {}))


def synthesized(root: Path, name: str = "new", kind: str = "synthesize") -> str:
    """A stage that made data, and the path of its rows."""
    folder = f"{name}-s0-{mark_of(name)}"
    write(root / folder, {"kind": kind, "spec": {}, "data": {}, "models": {}, "parents": []})
    return f"{ELSEWHERE}/{folder}/accepted/*.jsonl"


def trained(
    root: Path,
    folder: str,
    data: Mapping[str, tuple[str | list[str], int]],
    student: str = "package:small",
    validation: str | None = None,
    skip: Mapping[str, int] | None = None,
) -> str:
    """A run's folder as training leaves it; `data`: section -> (path, rows). Returns the path of its model."""
    inputs = [student, *(path for path, _ in data.values() if isinstance(path, str))]
    made = [part for path in inputs for part in path.split("/") if "-s0-" in part]
    names = [name for name in data if name != validation]
    sections = {name: {"path": path, "seed": 0, "skip": (skip or {}).get(name, 0)} for name, (path, _) in data.items()}
    config = {
        "kind": "distill",
        "spec": {"data": names[0] if len(names) == 1 else names},
        "data": sections,
        "models": {"student": {"path": student}, "teacher": {"path": "package:large"}},
        "parents": [part.rpartition("-")[2] for part in made],
    }
    write(root / folder, config, {"data": {name: {"rows": rows} for name, (_, rows) in data.items()}})
    return f"{ELSEWHERE}/{folder}/model"


def folder_of(name: str) -> str:
    return f"{name}-s0-{mark_of(name)}"


def test_counts_go_through_the_chain_of_students(tmp_path: Path) -> None:
    new = synthesized(tmp_path)
    cut = f"{ELSEWHERE}/{folder_of('cut')}/model"
    config = {"kind": "prune", "spec": {}, "data": {"held_out": {"path": "x"}}, "parents": []}
    write(tmp_path / folder_of("cut"), config | {"models": {"model": {"path": "package:small"}}})
    warm = trained(tmp_path, folder_of("warm"), {"new_500": (new, 500)}, student=cut)
    trained(tmp_path, folder_of("gkd"), {"gold": ("gold.jsonl", 1000)}, student=warm)
    trained(tmp_path, folder_of("plain"), {"gold": (["a.jsonl", "b.jsonl"], 1000)}, student=cut)
    assert synthetic_rows(tmp_path / folder_of("warm")) == 500
    assert synthetic_rows(tmp_path / folder_of("gkd")) == 500
    assert synthetic_rows(tmp_path / folder_of("plain")) == 0
    parents = {"parents": [mark_of("warm")]}  # cut after it was trained
    write(tmp_path / folder_of("shorter"), config | {"models": {"model": {"path": warm}}} | parents)
    assert synthetic_rows(tmp_path / folder_of("shorter")) == 500


def test_a_mix_is_counted_and_validation_is_not(tmp_path: Path) -> None:
    new = synthesized(tmp_path)
    data = {"gold": ("gold.jsonl", 999), "new": (new, 4998), "held_out": (new, 200)}
    trained(tmp_path, "mix", data, validation="held_out", skip={"held_out": 5000})
    assert synthetic_rows(tmp_path / "mix") == 4998


def test_rows_met_twice_are_counted_once(tmp_path: Path) -> None:
    new, other = synthesized(tmp_path), synthesized(tmp_path, "other")
    warm = trained(tmp_path, folder_of("warm"), {"new_500": (new, 500)})
    trained(tmp_path, "same", {"new_500": (new, 500)}, student=warm)
    trained(tmp_path, "larger", {"new_800": (new, 800), "gold": ("gold.jsonl", 9)}, student=warm)
    trained(tmp_path, "later", {"rest": (new, 300)}, student=warm, skip={"rest": 500})
    trained(tmp_path, "others", {"new": (other, 70)}, student=warm)
    counts = [synthetic_rows(tmp_path / name) for name in ("same", "larger", "later", "others")]
    assert counts == [500, 800, 800, 570]


def test_what_other_stages_made_is_not_synthetic_rows(tmp_path: Path) -> None:
    new = synthesized(tmp_path)
    trained(tmp_path, "seqkd", {"gold": ("gold.jsonl", 1000)})
    config = json.loads((tmp_path / "seqkd" / "config.json").read_text())
    answers = {"kind": "answers", "spec": {"data": "gold"}, "data": {}, "models": {}, "parents": []}
    write(tmp_path / folder_of("seqkd-answers"), answers)
    parents = {"kind": "seqkd", "parents": [mark_of("seqkd-answers"), mark_of("new")]}
    result = {"data": {"gold": {"rows": 1000}, "answers": {"rows": 4000}}}
    write(tmp_path / "seqkd", config | parents, result)
    assert synthetic_rows(tmp_path / "seqkd") == 0
    trained(tmp_path, "odd", {"made": (synthesized(tmp_path, "gather", kind="answers"), 40), "new": (new, 5)})
    assert synthetic_rows(tmp_path / "odd") == 5
    user = f"/home/me/{folder_of('new')}/accepted/*.jsonl"  # called alike, but no stage of this run made it
    trained(tmp_path, "user", {"mine": (user, 70)})
    config = json.loads((tmp_path / "user" / "config.json").read_text())
    write(tmp_path / "user", config | {"parents": []}, {"data": {"mine": {"rows": 70}}})
    assert synthetic_rows(tmp_path / "user") == 0


def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    new = synthesized(tmp_path)
    warm = trained(tmp_path, folder_of("warm"), {"new": (new, 500)})
    trained(tmp_path, "gkd", {"gold": ("gold.jsonl", 1000)}, student=warm)
    assert synthetic_rows(tmp_path / "nowhere") is None
    (tmp_path / folder_of("warm") / "result.json").write_text('{"data": {"new": {')
    assert synthetic_rows(tmp_path / "gkd") is None
    (tmp_path / folder_of("warm") / "result.json").write_text("[]")
    assert synthetic_rows(tmp_path / "gkd") is None
    write(tmp_path / folder_of("warm"), {"parents": []})
    assert synthetic_rows(tmp_path / "gkd") is None
    (tmp_path / folder_of("warm") / "config.json").unlink()
    assert synthetic_rows(tmp_path / "gkd") is None
    trained(tmp_path, folder_of("warm"), {"new": (new, 500)})
    assert synthetic_rows(tmp_path / "gkd") == 500
    (tmp_path / folder_of("new") / "config.json").unlink()
    assert synthetic_rows(tmp_path / "gkd") is None


def study(root: Path, sizes: Mapping[str, int | None], change: Any = None) -> RecipeResults:
    """The fake run as if its rows were distilled after a warm-up on so many synthetic rows; None: folders are gone."""
    results = make_run(root, count=6, change=change)
    new = synthesized(root)
    for row in results.rows:
        if row.stage not in sizes:
            continue
        size, warm = sizes[row.stage], "package:small"
        results = with_row(results, row.stage, kind="distill")
        if size:
            warm = trained(root, folder_of(f"w{size}"), {"new": (new, size)})
        for run in row.runs:
            if size is not None and run.trained is not None:
                trained(root, run.trained.name, {"gold": ("gold.jsonl", 1000)}, student=warm)
    return replace(results, tasks={"test": results.tasks["test"]})


def curves_of(root: Path, sizes: Mapping[str, int | None]) -> list[SizeCurve]:
    results = study(root, sizes)
    return size_curves(results, build_tables(results))


def without_evaluations(results: RecipeResults, stage: str) -> RecipeResults:
    return with_row(results, stage, runs=tuple(replace(run, evaluations={}) for run in row_of(results, stage).runs))


def places(curve: SizeCurve) -> list[tuple[int, str]]:
    return [(point.rows, point.row.stage) for point in curve.points]


def test_points_are_the_tables_means_and_errors(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    axes: Any = Figure().subplots()
    results = study(tmp_path, SIZES)
    (table,) = build_tables(results)
    (curve,) = size_curves(results, [table])
    assert places(curve) == [(size, stage) for stage, size in SIZES.items()]
    assert (curve.task, curve.metric, curve.kind) == ("test", "rouge_l", "distill")
    draw_curve(axes, curve, looks_of(results))
    values = [value for stage in SIZES for row in table.rows if row.stage == stage and (value := row.value("rouge_l"))]
    line, level = axes.lines[:2]
    assert list(line.get_xdata()) == list(SIZES.values())
    assert list(line.get_ydata()) == [value.value for value in values]
    assert list(level.get_ydata()) == [values[0].value] * 2
    bars = [bar.get_children()[1].get_segments()[0][:, 1] for bar in axes.containers]
    for (low, high), value in zip(bars, values, strict=True):
        assert high - low == pytest.approx(2 * value.stderr)
        assert (low + high) / 2 == pytest.approx(value.value)
    dots = [one.get_offsets()[:, 1].tolist() for one in axes.collections if len(one.get_offsets()) == 3]
    assert dots == [list(value.by_seed) for value in values if len(value.by_seed) == 3]
    assert axes.get_xlim()[0] < 0
    assert axes.get_xlim()[1] > 5000
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "500", "1,000", "2,500", "5,000"]


def test_two_sizes_are_no_curve(tmp_path: Path) -> None:
    assert curves_of(tmp_path / "two", {"sft": 0, "gkd": 500, "off_policy": 1000}) == []
    (tmp_path / "kinds").mkdir()
    results = study(tmp_path / "kinds", {"gkd": 500, "off_policy": 1000, "teacher": 2000})
    assert len(size_curves(results, build_tables(results))) == 1
    results = with_row(results, "teacher", kind="method")  # three sizes, but not of one kind
    assert size_curves(results, build_tables(results)) == []


@pytest.mark.usefixtures("undrawn")
def test_an_earlier_reports_figure_does_not_stay(tmp_path: Path) -> None:
    out = tmp_path / "report"
    for name, sizes, there in (("three", SIZES, True), ("two", {"sft": 0, "gkd": 500}, False)):
        (tmp_path / name).mkdir()
        build_report(study(tmp_path / name, sizes), out)
        assert [(out / f"synthetic.{kind}").exists() for kind in ("png", "svg")] == [there, there]


def test_a_size_twice_is_no_curve(tmp_path: Path) -> None:
    results = study(tmp_path, SIZES | {"sft": 2500})
    assert size_curves(results, build_tables(results)) == []
    results = with_row(results, "sft", runs=())  # without a run nothing is known of its size
    assert len(size_curves(results, build_tables(results))) == 1


def test_the_point_without_synthetic_rows(tmp_path: Path) -> None:
    three = {"teacher": 500, "gkd": 1000, "gkd_base": 5000}
    sizes = [500, 1000, 5000]
    (reference,) = curves_of(tmp_path / "reference", three | {"sft": 0, "off_policy": 0})
    assert places(reference)[0] == (0, "sft")
    (only,) = curves_of(tmp_path / "only", three | {"off_policy": 0})
    assert places(only)[0] == (0, "off_policy")
    results = replace(study(tmp_path / "two", three | {"sft": 0, "off_policy": 0}), reference="gkd")
    (neither,) = size_curves(results, build_tables(results))
    assert [point.rows for point in neither.points] == sizes
    assert neither.base is None
    (unknown,) = curves_of(tmp_path / "unknown", three | {"sft": None})
    assert [point.rows for point in unknown.points] == sizes


def test_rows_without_scores_are_no_points(tmp_path: Path) -> None:
    def unscored(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
        return [replace(one, scores=dict.fromkeys(one.scores)) if stage == "sft" else one for one in records]

    results = study(tmp_path, SIZES, unscored)
    results = without_evaluations(results, "gkd")
    (curve,) = size_curves(results, build_tables(results))
    assert [point.rows for point in curve.points] == [500, 2500, 5000]
    results = without_evaluations(results, "off_policy")
    assert size_curves(results, build_tables(results)) == []


def test_labels_that_would_overlap_are_dropped() -> None:
    assert tick_labels([0, 500, 1000, 5000]) == ["0", "500", "1,000", "5,000"]
    assert tick_labels([0, 100, 200, 300, 5000]) == ["0", "", "", "300", "5,000"]


def test_files_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "with" / "report"
    html = build_report(study(tmp_path / "with", SIZES), out).read_text(encoding="utf-8")
    assert (out / "synthetic.png").read_bytes().startswith(b"\x89PNG")
    assert "synthetic rows" in (out / "synthetic.svg").read_text()
    section = html[html.index("<h2>Scores against synthetic rows</h2>") :].partition("</section>")[0]
    assert html.index("Pairwise comparisons") < html.index(section) < html.index("<h2>Training</h2>")
    assert section.count("<svg") == 1
    assert "± 1 standard error over seeds and examples" in section
    assert "Dashed line" in section
    do_not_draw(monkeypatch)
    out = tmp_path / "without" / "report"
    html = build_report(study(tmp_path / "without", {"sft": 0, "gkd": 500}), out).read_text(encoding="utf-8")
    assert not list(out.glob("synthetic*"))
    assert "synthetic" not in html
