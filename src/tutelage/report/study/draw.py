"""Draws the study's figures: whole as files, and one panel at a time for the page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.report.drawing import INK, LINE, MUTED, PAGE, Draw, Look, inline_svgs, write_panels
from tutelage.report.study.figures import Panel, Point, Series, StudyFigure
from tutelage.report.training_curves import CurvePanel, draw_curves

PANEL_INCHES = (3.7, 2.7)
FAINT = 0.4


def panel_svgs(figure: StudyFigure) -> list[str]:
    """One inline SVG per panel."""
    return inline_svgs(PANEL_INCHES, f"{figure.name}p", _drawn(figure))


def legend_svgs(figure: StudyFigure) -> list[str]:
    """A sample of each series, for the page's legend."""

    def draw(axes: Any, look: Look) -> None:
        axes.set_axis_off()
        if figure.bars and not look.faint:
            axes.bar(0, 1, facecolor=look.color, alpha=_fill(look))
            axes.bar(0, 1, fill=False, edgecolor=look.color, hatch=look.hatch)
            return
        dash = "-" if figure.bars else look.dash
        axes.plot([0, 1], [0, 0], color=look.color, linestyle=dash, linewidth=1.6, alpha=_alpha(look))
        if not figure.bars:
            axes.plot([0.5], [0], color=look.color, marker=look.marker, markersize=6, alpha=_alpha(look))

    samples: list[Draw] = [lambda axes, look=look: draw(axes, look) for look in figure.looks]
    return inline_svgs((0.45, 0.2), f"{figure.name}l", samples)


def write_files(figure: StudyFigure, out: Path) -> list[Path]:
    """NAME.png and NAME.svg: all panels, a legend, or why there are none. Returns their paths."""
    columns = 2 if len(figure.panels) in (2, 4) else min(3, max(1, len(figure.panels)))
    lines = math.ceil(len(figure.looks) / 3)

    def finish(canvas: Any) -> None:
        canvas.suptitle(figure.title, x=0.01, ha="left", fontsize=11, color=INK)
        _legend(canvas, figure, columns)

    stem, absent = out / figure.name, textwrap.fill(figure.absent, 40)
    write_panels(stem, _drawn(figure), PANEL_INCHES, columns, 0.35 + 0.22 * lines, finish, absent)
    return [stem.with_suffix(".png"), stem.with_suffix(".svg")]


def draw_panel(axes: Any, panel: Panel) -> None:
    """Lines with error bars, or bars; × at the bottom where a planned cell has no score."""
    if panel.zero:
        axes.axhline(0, color=INK, linewidth=1, zorder=1)
        axes.annotate("\n".join(textwrap.wrap(panel.zero, 10)), (1, 0), xycoords=axes.get_yaxis_transform(),
                      xytext=(3, 0), textcoords="offset points", va="center", fontsize=8, color=MUTED)  # fmt: skip
    solid = [one for one in panel.series if not (panel.bars and one.look.faint)]
    for series in panel.series:
        if panel.bars:
            _bars(axes, series, _own_place(series, solid), len(solid))
        else:
            _line(axes, panel, series)
    _axes(axes, panel)
    _missing(axes, panel, len(solid))


def _own_place(series: Series, solid: Sequence[Series]) -> int:
    """Where a series' bars are: the paper's values are over the bars of the same method."""
    method = (series.look.color, series.look.hatch)
    return next(n for n, one in enumerate(solid) if (one.look.color, one.look.hatch) == method)


def _drawn(figure: StudyFigure) -> list[Draw]:
    return [
        (lambda axes, panel=panel: draw_panel(axes, panel))
        if isinstance(panel, Panel)
        else (lambda axes, panel=panel: _draw_losses(axes, panel))
        for panel in figure.panels
    ]


def _draw_losses(axes: Any, panel: CurvePanel) -> None:
    """The curves, each named at its end."""
    draw_curves(axes, replace(panel, title=_short(panel.title, 34)))
    axes.set_ylabel(panel.y_label, fontsize=8.5)
    last = {curve.look: curve.y[-1] for curve in panel.curves}
    for place, look in enumerate(sorted(last, key=lambda look: last[look])):
        # spread over the height, in the order of the lines' ends, so that labels of equal losses can be read
        at = (place + 0.5) / len(last)
        axes.annotate(look.label, (1.01, at), xycoords="axes fraction", fontsize=8, color=look.color, va="center")


def _line(axes: Any, panel: Panel, series: Series) -> None:
    look = series.look
    joined = "none" if panel.zero and not panel.log else look.dash
    x, y = [p.x for p in series.points], [p.y for p in series.points]  # nan breaks the line
    axes.plot(x, y, color=look.color, linestyle=joined, linewidth=0.9 if look.faint else 1.3, alpha=_alpha(look))
    for p in series.points:
        if math.isnan(p.y):
            continue
        if not look.faint:
            axes.plot([p.x, p.x], [p.low, p.high], color=look.color, linewidth=1)
        hollow = look.faint or (panel.zero and not p.shown)
        axes.plot([p.x], [p.y], marker=look.marker, markersize=3.5 if look.faint else 5.5, linestyle="none",
                  color=look.color, markerfacecolor=PAGE if hollow else look.color, alpha=_alpha(look),
                  zorder=3)  # fmt: skip
        if p.shown and not panel.zero:
            _star(axes, p, look.color)


def _bars(axes: Any, series: Series, place: int, count: int) -> None:
    """Hatched bars side by side; the paper's values as faint strokes over them."""
    look, width = series.look, 0.8 / max(1, count)
    for p in series.points:
        x = p.x + (place - (count - 1) / 2) * width
        if math.isnan(p.y):
            continue
        if look.faint:
            ends = [x - 0.4 * width, x + 0.4 * width]
            axes.plot(ends, [p.y, p.y], color=PAGE, linewidth=3.5, zorder=4)
            axes.plot(ends, [p.y, p.y], color=look.color, linewidth=1.5, alpha=0.6, zorder=4)
            continue
        axes.bar(x, p.y, width * 0.92, facecolor=look.color, alpha=_fill(look), zorder=2)
        axes.bar(x, p.y, width * 0.92, fill=False, edgecolor=look.color, hatch=look.hatch, linewidth=0.8, zorder=2)
        axes.errorbar(x, p.y, yerr=[[p.y - p.low], [p.high - p.y]], fmt="none", ecolor=INK, elinewidth=1, zorder=3)
        if p.shown and place:
            _star(axes, Point(x, p.y, p.low, p.high), INK)


def _star(axes: Any, point: Point, color: str) -> None:
    axes.annotate("∗", (point.x, point.high), xytext=(0, 0), textcoords="offset points", ha="center", va="bottom",
                  fontsize=9, color=color)  # fmt: skip


def _missing(axes: Any, panel: Panel, count: int) -> None:
    """× in the series' colour at the bottom of the axes; "no scores" where there are none at all."""
    every = [p for series in panel.series for p in series.points if not series.look.faint]
    if every and all(math.isnan(p.y) for p in every):
        axes.set_yticks([])
        axes.text(
            0.5, 0.62, "no scores", transform=axes.transAxes, ha="center", fontsize=10, style="italic", color=MUTED
        )
    width = 0.8 / max(1, count)
    for place, series in enumerate([one for one in panel.series if not one.look.faint]):
        for p in series.points:
            if math.isnan(p.y):
                x = p.x + (place - (count - 1) / 2) * width if panel.bars else p.x
                axes.text(x, 0.02 + (0 if panel.bars else 0.055 * place), "×", transform=axes.get_xaxis_transform(),
                          ha="center", va="bottom", fontsize=9, color=series.look.color)  # fmt: skip


def _axes(axes: Any, panel: Panel) -> None:
    axes.set_title(_short(panel.title, 34), loc="left", fontsize=10, color=INK)
    axes.set_ylabel(_short(panel.y_label, 30), fontsize=8.5)
    axes.set_xlabel(panel.x_label, fontsize=8.5)
    axes.grid(axis="y", color=LINE, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    places = [x for x, _ in panel.ticks]
    if panel.log and places:
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xlim(min(places) / 1.25, max(places) * 1.25)
        axes.set_xticks(places, _spaced(panel.ticks))
    else:
        axes.set_xticks(places, ["\n".join(textwrap.wrap(label, 12)[:3]) for _, label in panel.ticks])
        axes.set_xlim(-0.6, max([0.0, *places]) + 0.6)
    if panel.bars:
        axes.tick_params(axis="x", length=0, labelsize=7 if len(places) > 4 else 8.5)
        if len(places) > 4:
            axes.set_xticks(places, ["\n".join(_broken(label)) for _, label in panel.ticks], rotation=35, ha="right",
                            rotation_mode="anchor")  # fmt: skip


def _spaced(ticks: Sequence[tuple[float, str]]) -> list[str]:
    """Labels that have room on a logarithmic axis; the first and the last always do."""
    span = math.log(ticks[-1][0] / ticks[0][0]) if len(ticks) > 1 else 1.0
    labels, last = [], -math.inf
    for n, (x, label) in enumerate(ticks):
        at = math.log(x / ticks[0][0]) / span if span else 0.0
        ends = n in (0, len(ticks) - 1)
        fits = ends or (at - last > 0.13 and 1 - at > 0.13)
        labels.append(label if fits else "")
        last = at if fits else last
    return labels


def _broken(label: str) -> list[str]:
    return textwrap.wrap(label, 14)[:2] or [""]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _legend(canvas: Any, figure: StudyFigure, columns: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for look in figure.looks:
        if figure.bars and not look.faint:
            handles.append(Patch(facecolor=(look.color, _fill(look)), edgecolor=look.color, hatch=look.hatch))
        else:
            marker = None if figure.bars else look.marker
            handles.append(Line2D([], [], color=look.color, linestyle="-" if figure.bars else look.dash, marker=marker,
                                  linewidth=1.3, markersize=5, alpha=_alpha(look)))  # fmt: skip
    if handles:
        labels = [_short(look.label, 60) for look in figure.looks]
        canvas.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=8.5)


def _fill(look: Look) -> float:
    return 0.45 if look.hatch else 0.8  # so that hatching stands out


def _alpha(look: Look) -> float:
    return FAINT if look.faint else 1.0
