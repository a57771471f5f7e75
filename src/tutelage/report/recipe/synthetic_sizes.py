"""Scores against the number of synthetic rows, as in the paper's figure 5, where a recipe has rows enough for a curve.

How many synthetic rows a model has seen is read from its run's folder and from those of the students before it; nothing
depends on what stages or rows are called.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.common.run_folder import CONFIG, MODEL, RESULT, read_json
from tutelage.report.drawing import INK, LINE, MUTED, Draw, Look, inline_svgs, write_panels
from tutelage.report.labels import KIND_NAMES, TRAINED, metric_label
from tutelage.report.recipe.figures import PANEL_INCHES
from tutelage.report.recipe.tables import TableRow, TableValue, TaskTable

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults

FEWEST_SIZES = 3  # two sizes are a comparison, which the tables have
SLANTED_BELOW, DROPPED_BELOW = 0.14, 0.05  # gaps between ticks, as shares of the axis, at which labels would overlap


@dataclass(frozen=True)
class SizePoint:
    """One row of a task's table, as a point of a curve."""

    rows: int  # distinct synthetic rows, not how often they were seen
    row: TableRow
    value: TableValue  # of the task's headline metric


@dataclass(frozen=True)
class SizeCurve:
    """One task's rows of one kind by their number of synthetic rows, each number once."""

    task: str
    metric: str
    kind: str
    points: tuple[SizePoint, ...]

    @property
    def base(self) -> SizePoint | None:
        """The row that saw no synthetic rows."""
        return next((point for point in self.points if point.rows == 0), None)

    @property
    def title(self) -> str:
        return f"{self.task}, {KIND_NAMES[self.kind]}"


def synthetic_rows(folder: Path) -> int | None:
    """How many synthetic rows the model in a run's folder was trained on, it and the students before it.

    None where that cannot be known, as when one of the folders is not there.
    """
    try:
        return sum(_sets(folder).values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # absent, cut short, or of another form
        return None


def size_curves(results: RecipeResults, tables: Sequence[TaskTable]) -> list[SizeCurve]:
    """Every curve that the rows allow: one per task and kind of stage, and none where two rows have the same size."""
    counts: dict[str, int | None] = {}
    for row in results.rows:
        folder = next((run.trained for run in row.runs if run.trained), None)  # all seeds have the same sizes
        counts[row.stage] = synthetic_rows(folder) if folder and row.kind in TRAINED else None
    found = [_curve(table, kind, counts) for table in tables for kind in TRAINED]
    return [curve for curve in found if curve is not None]


def size_svgs(curves: Sequence[SizeCurve], looks: dict[str, Look]) -> list[str]:
    """One inline SVG per curve."""
    return inline_svgs(PANEL_INCHES, "synthetic", _drawn(curves, looks))


def write_size_files(curves: Sequence[SizeCurve], looks: dict[str, Look], out: Path) -> None:
    """synthetic.png and synthetic.svg with all curves. Without curves, those of an earlier report are removed."""
    if curves:
        write_panels(out / "synthetic", _drawn(curves, looks), PANEL_INCHES, 2)
        return
    for kind in ("png", "svg"):
        (out / f"synthetic.{kind}").unlink(missing_ok=True)


def _drawn(curves: Sequence[SizeCurve], looks: dict[str, Look]) -> list[Draw]:
    return [lambda axes, curve=curve: draw_curve(axes, curve, looks) for curve in curves]


def draw_curve(axes: Any, curve: SizeCurve, looks: dict[str, Look]) -> None:
    """Means ± 1 standard error in the rows' colours, joined by a thin line; beside each, the means of its seeds."""
    sizes = [point.rows for point in curve.points]
    axes.plot(sizes, [point.value.value for point in curve.points], color=MUTED, linewidth=0.9, zorder=1)
    if curve.base is not None:
        level = curve.base.value.value
        axes.axhline(level, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    for point in curve.points:
        mean, color, seeds = point.value.value, looks[point.row.stage].color, point.value.by_seed
        error = 0.0 if math.isnan(point.value.stderr) else point.value.stderr
        axes.errorbar(point.rows, mean, yerr=error, fmt="o", color=color, markersize=6, elinewidth=1.6, capsize=0)
        if len(seeds) > 1:
            beside = point.rows + 0.022 * sizes[-1]  # else they would be on the bar
            axes.scatter([beside] * len(seeds), seeds, s=8, color=color, alpha=0.55, linewidths=0)
    _axes(axes, curve, sizes)


def _axes(axes: Any, curve: SizeCurve, sizes: list[int]) -> None:
    axes.set_xlim(-0.04 * sizes[-1], 1.06 * sizes[-1])
    slanted = any(right - left < SLANTED_BELOW * sizes[-1] for left, right in pairwise(sizes))
    look = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(sizes, tick_labels(sizes), **look)
    axes.set_xlabel("synthetic rows", fontsize=9)
    axes.set_ylabel(metric_label(curve.metric), fontsize=9)
    axes.set_title(curve.title, loc="left", fontsize=10, color=INK)
    axes.grid(axis="y", color=LINE, linewidth=0.7)


def tick_labels(sizes: Sequence[int]) -> list[str]:
    """Each size as text, empty where it is too close to a larger one whose label is shown."""
    labels: list[str] = []
    shown = math.inf
    for size in reversed(sizes):
        room = shown - size >= DROPPED_BELOW * sizes[-1]
        labels.insert(0, f"{size:,}" if room else "")
        shown = size if room else shown
    return labels


def _curve(table: TaskTable, kind: str, counts: dict[str, int | None]) -> SizeCurve | None:
    rows = [(count, row) for row in table.rows if row.kind == kind and (count := counts[row.stage]) is not None]
    often = Counter(count for count, _ in rows if count)
    if any(times > 1 for times in often.values()):
        return None  # rows of one size differ in something else too: which belongs to the curve would be a guess
    none_seen = [row for count, row in rows if not count]
    base = next((row for row in none_seen if row.is_reference), none_seen[0] if len(none_seen) == 1 else None)
    wanted = [*([(0, base)] if base else []), *((count, row) for count, row in rows if count)]
    points = []
    for count, row in sorted(wanted, key=lambda one: one[0]):
        value = row.value(table.headline)
        if value is not None and not math.isnan(value.value):
            points.append(SizePoint(count, row, value))
    enough = sum(point.rows > 0 for point in points) >= FEWEST_SIZES
    return SizeCurve(table.task, table.headline, kind, tuple(points)) if enough else None


def _sets(folder: Path) -> dict[tuple[Any, ...], int]:
    """Numbers of synthetic rows by the set they are from, for a run and the students before it."""
    config, result = read_json(folder, CONFIG), read_json(folder, RESULT)
    models = config["models"]
    student = Path((models.get("student") or models["model"])["path"])  # `model`: what a prune stage cuts
    before = student.parent.name if student.name == MODEL else ""
    sets = _sets(folder.parent / before) if _is_parent(before, config) else {}
    trained = config["spec"].get("data") or []  # without the validation section, which `data` holds too
    for name in [trained] if isinstance(trained, str) else trained:
        section = config["data"][name]
        # `<root>/<folder of the stage>/accepted/*.jsonl`; the root may be that of another machine
        maker = Path(section["path"]).parent.parent.name if isinstance(section["path"], str) else ""
        if not _is_parent(maker, config):
            continue
        if read_json(folder.parent / maker, CONFIG)["kind"] == "synthesize":
            # parts of one set after the same `skip` contain each other: rows read twice are counted once
            part = (maker, section["seed"], section["skip"])
            sets[part] = max(sets.get(part, 0), result["data"][name]["rows"])
    return sets


def _is_parent(folder: str, config: dict[str, Any]) -> bool:
    """Whether a stage made the folder for this run; the user may have one of the same name."""
    return folder.rpartition("-")[2] in config["parents"]
