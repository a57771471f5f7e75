"""What all figures are drawn on: the report's colours and look, as files and as SVG elements for a page.

The palette is that of Okabe and Ito, whose colours colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.common.files import write_bytes_atomically

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY, INK, MUTED, LINE, PAGE = "#7d848d", "#1c2127", "#646c76", "#dde1e6", "#fefefe"


@contextmanager
def new_figure(
    size: tuple[float, float], salt: str, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Any, list[Any]]]:
    """A figure and its axes in the report's look. `salt` keeps the ids of SVGs that share a page apart, and fixed."""
    import matplotlib
    from matplotlib.figure import Figure

    look: dict[Any, Any] = {
        "font.family": "DejaVu Sans", "svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False,
        "axes.edgecolor": MUTED, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
        "axes.spines.top": False, "axes.spines.right": False, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
        "axes.linewidth": 0.8}  # fmt: skip
    with matplotlib.rc_context(look):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def inline_svg(size: tuple[float, float], salt: str, draw: Callable[[Any], None]) -> str:
    """An SVG element for the page: as wide as its place, in the page's colours, which dark mode changes."""
    with new_figure(size, salt) as (figure, axes):
        draw(axes[0])
        text = _svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", text)
    text = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", text)
    text = re.sub(r'(<g|<path) id="[A-Za-z0-9.]+_\d+"', r"\1", text)  # names of matplotlib's, the same in every figure
    for color, name in ((INK, "ink"), (MUTED, "muted"), (LINE, "line"), (PAGE, "page")):
        text = text.replace(color, f"var(--{name})")
    return text


def write_figure(figure: Any, stem: Path) -> None:
    """`stem` with .png, 160 dots an inch on white, and with .svg, transparent; each whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    write_bytes_atomically(stem.with_suffix(".png"), buffer.getvalue())
    write_bytes_atomically(stem.with_suffix(".svg"), _svg(figure).encode())


def _svg(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    # text stays text, in the reader's own fonts
    return buffer.getvalue().decode().replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")


@dataclass(frozen=True)
class Style:
    label: str
    color: str
    dash: Any


@dataclass(frozen=True)
class Curve:
    style: Style
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    title: str
    x_label: str
    curves: tuple[Curve, ...]


def draw_panel(axes: Any, panel: Panel) -> None:
    """Thin lines as logged; from 40 points on they are pale behind their moving mean."""
    for curve in panel.curves:
        x, y = np.asarray(curve.x), np.asarray(curve.y)
        window = max(1, len(y) // 20)
        if window > 1:
            axes.plot(x, y, color=curve.style.color, linewidth=0.6, alpha=0.3)
            kernel = np.ones(window)  # at the ends the window is cut, not filled up with zeros
            y = np.convolve(y, kernel, "same") / np.convolve(np.ones_like(y), kernel, "same")
        marker = "o" if len(y) < 12 else None
        axes.plot(x, y, color=curve.style.color, linestyle=curve.style.dash, linewidth=1.1, marker=marker, markersize=3)
    axes.set_title(panel.title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(panel.x_label, fontsize=9)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.margins(x=0.02)
