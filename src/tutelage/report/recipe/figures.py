"""The report's figures: training curves as small multiples, scores as points with error bars.

Each figure is drawn twice from the same functions: whole, as PNG and SVG files, and as one small SVG per panel for the
page, whose grid then suits any screen.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.common.metrics_log import read_metrics
from tutelage.common.run_folder import METRICS
from tutelage.report.drawing import (
    DASHES,
    GREY,
    INK,
    LINE,
    MUTED,
    PAGE,
    PALETTE,
    Draw,
    Look,
    inline_svg,
    inline_svgs,
    write_panels,
)
from tutelage.report.labels import KIND_NAMES, TRAINED, metric_label
from tutelage.report.numbers import score_text
from tutelage.report.recipe.tables import TableRow, TaskTable
from tutelage.report.recipe.verdicts import DISTILLED
from tutelage.report.training_curves import Curve, CurvePanel, draw_curves, logged

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults

PANEL_INCHES = (4.4, 2.7)

# Kind of stage → what its loss is. Those of different kinds are different quantities.
LOSSES = {
    "sft": "How surprised the model is by each token of the rows' answers.",
    "seqkd": "How surprised the model is by each token of the teacher's answers.",
    "distill": "How far the student's probabilities for the next token are from the teacher's.",
    "method": "The method's own loss.",
}
FALLS = (
    "Good: it falls, then levels off. Level from the start: nothing is learnt. Rising: the learning rate is too large."
)
TAUGHT = (
    "Good: it falls, then levels off. After SFT it may begin near 0 and rise first; on answers that the student "
    "writes, which change as it trains, it goes up and down. Rising to the end: the learning rate is too large."
)
VALIDATED = (
    "The same on the validation rows, which are not trained on. Good: it falls too. Rising again: the model learns its "
    "rows by heart; take fewer epochs or more rows."
)
# Key of metrics.jsonl → title and caption.
QUANTITIES = {
    "forward_kl": (
        "KL(teacher ‖ student), nats per token",
        "How much of what the teacher would write the student finds unlikely; 0: none. Good: it falls.",
    ),
    "reverse_kl": (
        "KL(student ‖ teacher), nats per token",
        "How much of what the student would write the teacher finds unlikely; 0: none. Good: it falls.",
    ),
    "student_entropy": (
        "Student's entropy, nats per token",
        "How undecided the student is about the next token; 0: not at all. Good: it levels off above 0.",
    ),
    "agreement": (
        "Same most likely token as the teacher",
        "Share of tokens at which both would write the same; 1: always. Good: it rises.",
    ),
    "sampled_length": (
        "Length of the student's own samples, tokens",
        "How long the answers are that the student writes while it trains. Good: it comes near the length of the rows' "
        "answers. Stuck at the limit: the student does not end its answers.",
    ),
    "grad_norm": (
        "Gradient norm",
        "How strongly a step would change the model, before clipping. Good: it falls or stays level; single peaks do "
        "no harm. Ever larger: take a smaller learning rate.",
    ),
}


def looks_of(results: RecipeResults) -> dict[str, Look]:
    """One colour per trained row, by stage, the same in every figure; baselines and given models are grey."""
    looks: dict[str, Look] = {}
    count = 0
    for row in results.rows:
        if row.kind in TRAINED:
            dash = DASHES[(count // len(PALETTE)) % len(DASHES)]
            looks[row.stage] = Look(row.label, PALETTE[count % len(PALETTE)], dash)
            count += 1
        else:
            looks[row.stage] = Look(row.label, GREY)
    return looks


def loss_panels(results: RecipeResults) -> list[CurvePanel]:
    """Every quantity that any trained row logged; a row's seeds share its look. Runs without a log are left out, and
    `base`, whose run is the healing of the student that all arms begin with."""
    looks = looks_of(results)
    logs = [
        (row, lines)
        for row in results.rows
        if row.kind in TRAINED
        for run in row.runs
        if run.trained is not None and (lines := read_metrics(run.trained / METRICS))
    ]
    by_epoch = all("epoch" in line for _, lines in logs for line in lines)
    x_key, x_label = ("epoch", "epoch") if by_epoch else ("step", "optimizer step")
    wanted: list[tuple[str, str, str, str | None]] = []  # title, caption, key, kind
    for kind in dict.fromkeys(row.kind for row, _ in logs):
        name = KIND_NAMES.get(kind, kind)
        good = TAUGHT if kind in DISTILLED else FALLS
        wanted.append((f"Loss, {name}", f"{LOSSES[kind]} {good}", "loss", kind))
        wanted.append((f"Validation loss, {name}", VALIDATED, "validation_loss", kind))
    wanted += [(title, caption, key, None) for key, (title, caption) in QUANTITIES.items()]
    panels = []
    for title, caption, key, kind in wanted:
        curves = []
        for row, lines in logs:
            points = logged(lines, key, x_key) if kind in (None, row.kind) else []
            if points:
                x, y = zip(*points, strict=True)
                curves.append(Curve(looks[row.stage], x, y))
        if curves:
            panels.append(CurvePanel(title, x_label, tuple(curves), caption=caption))
    return panels


def legend_of(panels: Sequence[CurvePanel]) -> list[Look]:
    """The looks of all curves, each once."""
    return list(dict.fromkeys(curve.look for panel in panels for curve in panel.curves))


def loss_svgs(panels: Sequence[CurvePanel]) -> list[str]:
    """One inline SVG per panel."""
    return inline_svgs(PANEL_INCHES, "panel", _drawn(panels))


def score_svgs(tables: Sequence[TaskTable], looks: dict[str, Look]) -> list[tuple[str, str]]:
    """Each task that has scores, and an inline SVG of them."""
    tables = [table for table in tables if any(row.value(table.headline) is not None for row in table.rows)]
    sizes = [(PANEL_INCHES[0], _score_height(table)) for table in tables]
    drawn = _drawn_scores(tables, looks)
    return [(table.task, inline_svg(sizes[n], f"score{n}", drawn[n])) for n, table in enumerate(tables)]


def write_loss_files(panels: Sequence[CurvePanel], out: Path) -> None:
    """loss.png and loss.svg: all panels and a legend."""
    absent = "" if panels else "No training log was found."
    looks = legend_of(panels)
    write_panels(out / "loss", _drawn(panels), PANEL_INCHES, 3, 0.5, lambda figure: _draw_legend(figure, looks), absent)


def write_score_files(tables: Sequence[TaskTable], looks: dict[str, Look], out: Path) -> None:
    """scores.png and scores.svg: every task's headline scores."""
    height = max([1.5, *(_score_height(table) for table in tables)])
    write_panels(out / "scores", _drawn_scores(tables, looks), (PANEL_INCHES[0], height), 2)


def draw_scores(axes: Any, table: TaskTable, looks: dict[str, Look]) -> None:
    """One point per row at its headline score with ± 1 standard error, each seed's mean as a faint dot below it."""
    ends: list[float] = []
    for y, row in enumerate(table.rows):
        value, color = row.value(table.headline), looks[row.stage].color
        if value is None or math.isnan(value.value):
            axes.text(0.01, y, score_text(value), transform=axes.get_yaxis_transform(),
                      va="center", fontsize=9, color=MUTED, style="italic")  # fmt: skip
            continue
        mean, error = value.value, 0.0 if math.isnan(value.stderr) else value.stderr
        axes.errorbar(mean, y, xerr=error, fmt="o", color=color, markersize=6, elinewidth=1.6, capsize=0)
        if len(value.by_seed) > 1:
            axes.scatter(value.by_seed, [y + 0.27] * len(value.by_seed), s=8, color=color, alpha=0.55, linewidths=0)
        axes.annotate(score_text(value), (mean + error, y), xytext=(6, 0), textcoords="offset points", va="center",
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


def _drawn(panels: Sequence[CurvePanel]) -> list[Draw]:
    return [lambda axes, panel=panel: draw_curves(axes, panel) for panel in panels]


def _drawn_scores(tables: Sequence[TaskTable], looks: dict[str, Look]) -> list[Draw]:
    return [lambda axes, table=table: draw_scores(axes, table, looks) for table in tables]


def _draw_legend(figure: Any, looks: Sequence[Look]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=look.color, linestyle=look.dash, linewidth=1.6) for look in looks]
    if lines:
        labels = [look.label for look in looks]
        figure.legend(lines, labels, loc="outside lower center", ncols=min(4, len(lines)), frameon=False, fontsize=9)
