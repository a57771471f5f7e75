"""Figures as files and as SVG elements of a page, all with the same colours, fonts and axes.

The palette is that of Okabe and Ito, whose colours colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.common.files import write_bytes_atomically

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY, INK, MUTED, LINE, PAGE = "#7d848d", "#1c2127", "#646c76", "#dde1e6", "#fefefe"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.6, 1.2)), (0, (5, 1.4, 1.4, 1.4)))

Draw = Callable[[Any], None]  # draws into matplotlib axes


@dataclass(frozen=True)
class Look:
    """How a series is told apart: by colour, by dash and marker, and by hatching where it is bars."""

    label: str
    color: str
    dash: Any = "-"
    marker: str = "o"
    hatch: str = ""
    faint: bool = False


@contextmanager
def new_figure(
    size: tuple[float, float], salt: str, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Any, list[Any]]]:
    """A figure of `size` inches and its axes, row by row. `salt` keeps the ids of SVGs that share a page apart, and
    the same in every run."""
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


def write_panels(
    stem: Path,
    panels: Sequence[Draw],
    size: tuple[float, float],
    columns: int,
    extra_height: float = 0.0,
    finish: Callable[[Any], None] | None = None,
    absent: str = "",
) -> None:
    """STEM.png and STEM.svg: panels of `size` inches each in a grid of at most `columns`.

    `finish` adds a legend or title to the whole figure, in `extra_height` inches. `absent` is written where there are
    no panels.
    """
    columns = min(columns, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    inches = (size[0] * columns, size[1] * rows + extra_height)
    with new_figure(inches, stem.name, rows, columns) as (figure, axes):
        for draw, one in zip(panels, axes, strict=False):
            draw(one)
        for one in axes[len(panels) :]:
            one.set_axis_off()
        if absent:
            axes[0].text(0.5, 0.5, absent, ha="center", va="center", color=MUTED)
        if finish is not None:
            finish(figure)
        write_figure(figure, stem)


def inline_svgs(size: tuple[float, float], salt: str, panels: Sequence[Draw]) -> list[str]:
    """One SVG element per panel."""
    return [inline_svg(size, f"{salt}{n}", draw) for n, draw in enumerate(panels)]


def inline_svg(size: tuple[float, float], salt: str, draw: Draw) -> str:
    """An SVG element for the page: as wide as its container, in the page's colours, which dark mode changes."""
    with new_figure(size, salt) as (figure, axes):
        draw(axes[0])
        text = _svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", text)
    text = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", text)
    text = re.sub(r'(<g|<path) id="[A-Za-z0-9.]+_\d+"', r"\1", text)  # matplotlib's names, equal in all figures
    for color, name in ((INK, "ink"), (MUTED, "muted"), (LINE, "line"), (PAGE, "page")):
        text = text.replace(color, f"var(--{name})")
    return " ".join(text.split())  # matplotlib breaks the line after every point of a path


def write_figure(figure: Any, stem: Path) -> None:
    """STEM.png, 160 dots per inch on white, and STEM.svg, transparent; each is written atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    write_bytes_atomically(stem.with_suffix(".png"), buffer.getvalue())
    write_bytes_atomically(stem.with_suffix(".svg"), _svg(figure).encode())


def _svg(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    # text stays text, in the reader's own fonts
    return buffer.getvalue().decode().replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
