"""The report's figures: training curves as small multiples, scores as points with error bars.

Each figure is drawn twice from the same functions: whole, as PNG and SVG files, and as one small SVG a panel for the
page, whose grid then suits any screen.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tutelage.common.metrics_log import read_metrics
from tutelage.common.run_folder import METRICS
from tutelage.report.drawing import (
    GREY,
    INK,
    LINE,
    MUTED,
    PAGE,
    PALETTE,
    Curve,
    Panel,
    Style,
    draw_panel,
    inline_svg,
    new_figure,
    write_figure,
)
from tutelage.report.labels import KIND_NAMES, TRAINED, metric_label
from tutelage.report.recipe.tables import TableRow, TaskTable, mean_text

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.6, 1.2)))

PANEL_INCHES = (4.4, 2.7)

# metrics.jsonl key -> title; beside these, each kind of stage has its losses, which are different quantities
QUANTITIES = {
    "forward_kl": "KL(teacher ‖ student), nats a token",
    "reverse_kl": "KL(student ‖ teacher), nats a token",
    "student_entropy": "Student's entropy, nats a token",
    "agreement": "Same most likely token as the teacher",
    "sampled_length": "Length of the student's own samples, tokens",
    "grad_norm": "Gradient norm",
}


def styles_of(manifest: dict[str, Any]) -> dict[str, Style]:
    """A colour a trained row, the same in every figure; baselines and given models are grey."""
    styles: dict[str, Style] = {}
    count = 0
    for row in manifest["rows"]:
        label = row.get("label") or row["stage"]
        if row.get("kind") in TRAINED:
            dash = DASHES[(count // len(PALETTE)) % len(DASHES)]
            styles[row["stage"]] = Style(label, PALETTE[count % len(PALETTE)], dash)
            count += 1
        else:
            styles[row["stage"]] = Style(label, GREY, "-")
    return styles


def loss_panels(manifest: dict[str, Any]) -> list[Panel]:
    """Every quantity that any run logged; lines of one row's seeds share its style. Missing folders are passed over."""
    styles, logs = styles_of(manifest), list(_logs(manifest))
    by_epoch = all("epoch" in line for _, lines in logs for line in lines)
    x_key, x_label = ("epoch", "epoch") if by_epoch else ("step", "optimizer step")
    wanted: list[tuple[str, str, str | None]] = []  # title, key, kind
    for kind in dict.fromkeys(row.get("kind") for row, _ in logs):
        name = KIND_NAMES.get(str(kind), str(kind))
        wanted += [(f"Loss, {name}", "loss", kind), (f"Validation loss, {name}", "validation_loss", kind)]
    wanted += [(title, key, None) for key, title in QUANTITIES.items()]
    panels = []
    for title, key, kind in wanted:
        curves = []
        for row, lines in logs:
            points = _points(lines, x_key, key) if kind in (None, row.get("kind")) else []
            if points:
                x, y = zip(*points, strict=True)
                curves.append(Curve(styles[row["stage"]], x, y))
        if curves:
            panels.append(Panel(title, x_label, tuple(curves)))
    return panels


def legend_of(panels: Sequence[Panel]) -> list[Style]:
    return list(dict.fromkeys(curve.style for panel in panels for curve in panel.curves))


def panel_svgs(panels: Sequence[Panel]) -> list[str]:
    """One inline SVG a panel."""
    return [
        inline_svg(PANEL_INCHES, f"panel{n}", lambda axes, panel=panel: draw_panel(axes, panel))
        for n, panel in enumerate(panels)
    ]


def score_svgs(tables: Sequence[TaskTable], styles: dict[str, Style]) -> list[str]:
    """One inline SVG a task."""
    return [
        inline_svg(
            (PANEL_INCHES[0], _score_height(table)), f"score{n}", lambda axes, t=table: draw_scores(axes, t, styles)
        )
        for n, table in enumerate(tables)
    ]


def write_loss_files(panels: Sequence[Panel], out: Path) -> None:
    """loss.png and loss.svg: all panels and a legend."""
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    with new_figure((PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.5), "loss", rows, columns) as (figure, axes):
        for panel, ax in zip(panels, axes, strict=False):
            draw_panel(ax, panel)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        if not panels:
            axes[0].text(0.5, 0.5, "No training log was found.", ha="center", color=MUTED)
        _draw_legend(figure, legend_of(panels))
        write_figure(figure, out / "loss")


def write_score_files(tables: Sequence[TaskTable], styles: dict[str, Style], out: Path) -> None:
    """scores.png and scores.svg: every task's headline scores."""
    columns = min(2, max(1, len(tables)))
    rows = max(1, math.ceil(len(tables) / columns))
    height = max([1.5, *(_score_height(table) for table in tables)])
    with new_figure((PANEL_INCHES[0] * columns, height * rows), "scores", rows, columns) as (figure, axes):
        for table, ax in zip(tables, axes, strict=False):
            draw_scores(ax, table, styles)
        for ax in axes[len(tables) :]:
            ax.set_axis_off()
        write_figure(figure, out / "scores")


def draw_scores(axes: Any, table: TaskTable, styles: dict[str, Style]) -> None:
    """A point a row at its headline score with ± 1 standard error, each seed's mean as a faint dot below it."""
    ends: list[float] = []
    for y, row in enumerate(table.rows):
        value, color = row.value(table.headline), styles[row.stage].color
        if value is None or math.isnan(value.mean.mean):
            axes.text(0.01, y, "missing" if value is None else "unscored", transform=axes.get_yaxis_transform(),
                      va="center", fontsize=9, color=MUTED, style="italic")  # fmt: skip
            continue
        mean, error = value.mean.mean, 0.0 if math.isnan(value.mean.stderr) else value.mean.stderr
        axes.errorbar(mean, y, xerr=error, fmt="o", color=color, markersize=6, elinewidth=1.6, capsize=0)
        if len(value.by_seed) > 1:
            axes.scatter(value.by_seed, [y + 0.27] * len(value.by_seed), s=8, color=color, alpha=0.55, linewidths=0)
        axes.annotate(mean_text(value), (mean + error, y), xytext=(6, 0), textcoords="offset points", va="center",
                      fontsize=9, color=INK, bbox={"facecolor": PAGE, "edgecolor": "none", "pad": 1})  # fmt: skip
        ends += [mean - error, mean + error, *(one for one in value.by_seed if not math.isnan(one))]
        if row.is_reference:
            axes.axvline(mean, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    _score_axes(axes, table, ends)


def _score_axes(axes: Any, table: TaskTable, ends: list[float]) -> None:
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    room = max(high - low, 1.0)
    axes.set_xlim(low - 0.08 * room, high + 0.42 * room)  # room for the numbers beside the points
    axes.set_xticks([t for t in axes.get_xticks() if low - 0.08 * room <= t <= min(100.0, high + 0.42 * room)])
    axes.set_ylim(len(table.rows) - 0.4, -0.6)
    axes.set_yticks(range(len(table.rows)), [_tick_label(row) for row in table.rows], fontsize=9, color=INK)
    axes.set_title(f"{metric_label(table.headline)} on {table.task}", loc="left", fontsize=10, color=INK)
    axes.grid(axis="x", color=LINE, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _tick_label(row: TableRow) -> str:
    return "\n".join(textwrap.wrap(row.label, 20, max_lines=2, placeholder=" …")) or row.stage


def _score_height(table: TaskTable) -> float:
    return 0.75 + 0.42 * max(1, len(table.rows))


def _logs(manifest: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for row in manifest["rows"]:
        for run in row["runs"]:
            lines = read_metrics(Path(manifest["root"]) / run["train"] / METRICS) if run.get("train") else []
            if lines:
                yield row, lines


def _points(lines: list[dict[str, Any]], x_key: str, key: str) -> list[tuple[float, float]]:
    """Finite values of one key, as (x, y)."""
    points = []
    for line in lines:
        value, x = line.get(key), line.get(x_key)
        if isinstance(value, int | float) and isinstance(x, int | float) and math.isfinite(value):
            points.append((float(x), float(value)))
    return points


def _draw_legend(figure: Any, styles: Sequence[Style]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=style.color, linestyle=style.dash, linewidth=1.6) for style in styles]
    if lines:
        labels = [style.label for style in styles]
        figure.legend(lines, labels, loc="outside lower center", ncols=min(4, len(lines)), frameon=False, fontsize=9)
