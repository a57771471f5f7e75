"""Curves of what training logged, over steps, epochs or the share of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage.report.drawing import INK, LINE, Look


@dataclass(frozen=True)
class Curve:
    """One line: a logged quantity of one run."""

    look: Look
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class CurvePanel:
    """Curves with common axes."""

    title: str
    x_label: str
    curves: tuple[Curve, ...]
    y_label: str = ""
    caption: str = ""  # what is drawn, and what to look for


def logged(lines: Sequence[dict[str, Any]], key: str, x_key: str) -> list[tuple[float, float]]:
    """(x, y) of the lines of a metrics file that have a finite number under `key`, and one under `x_key`."""
    points = []
    for line in lines:
        value, x = line.get(key), line.get(x_key)
        if isinstance(value, int | float) and isinstance(x, int | float) and math.isfinite(value):
            points.append((float(x), float(value)))
    return points


def draw_curves(axes: Any, panel: CurvePanel) -> None:
    """Thin lines as logged; from 40 points on they are pale behind their moving mean."""
    for curve in panel.curves:
        x, y = np.asarray(curve.x), np.asarray(curve.y)
        window = max(1, len(y) // 20)
        if window > 1:
            axes.plot(x, y, color=curve.look.color, linewidth=0.6, alpha=0.3)
            kernel = np.ones(window)  # at the ends the window is cut, not filled up with zeros
            y = np.convolve(y, kernel, "same") / np.convolve(np.ones_like(y), kernel, "same")
        marker = "o" if len(y) < 12 else None
        axes.plot(x, y, color=curve.look.color, linestyle=curve.look.dash, linewidth=1.1, marker=marker, markersize=3)
    axes.set_title(panel.title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(panel.x_label, fontsize=9)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.margins(x=0.02)
