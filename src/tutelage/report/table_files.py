"""Tables as CSV, Markdown and LaTeX text, with whatever models, data or users wrote escaped."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from tutelage.evaluation.statistics import Paired


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with the names of the columns in its first line; None and nan become empty fields."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow(["" if isinstance(one, float) and math.isnan(one) else _no_formula(one) for one in row])
    return buffer.getvalue()


def _no_formula(value: object) -> object:
    """The value; a text that a spreadsheet would compute gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def compared_fields(versus: Paired | None) -> list[float | None]:
    """Difference, both ends of its interval, and p; None where nothing was compared."""
    return [None] * 4 if versus is None else [versus.difference, versus.low, versus.high, versus.p_value]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the cells are plain text, which is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(markdown_escape(cell) for cell in line) + " |" for line in lines)


def markdown_escape(text: str) -> str:
    """One line of plain text: no markup, and no end of a table's cell."""
    flat = " ".join(text.split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")


def latex_table(
    heads: Sequence[str],
    columns: Sequence[str],
    lines: Sequence[tuple[bool, Sequence[str]]],
    caption: str,
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """A `tabular` for the booktabs package, inside a `table`.

    `heads` are the titles of the left-aligned columns, `columns` of the others; `groups`, (title, width), are above
    the latter. `lines`: whether a group of rows begins, and its cells as LaTeX.
    """
    alignment = "l" * len(heads) + "r" * len(columns)
    parts = ["\\begin{table}", "\\centering", f"\\begin{{tabular}}{{{alignment}}}", "\\toprule"]
    if groups:
        over = " & ".join(f"\\multicolumn{{{n}}}{{c}}{{{latex_escape(name)}}}" for name, n in groups)
        parts.append(f"{' & ' * len(heads)}{over} \\\\")
    parts += [" & ".join(latex_escape(one) for one in (*heads, *columns)) + " \\\\", "\\midrule"]
    for number, (opens, cells) in enumerate(lines):
        if opens and number:
            parts.append("\\addlinespace")
        parts.append(" & ".join(cells) + " \\\\")
    parts += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{latex_escape(caption)}}}", "\\end{table}", ""]
    return "\n".join(parts)


def latex_escape(text: str) -> str:
    """One line of plain text, with LaTeX's special characters escaped."""
    special = {"\\": "\\textbackslash{}", "±": "$\\pm$", "∗": "$\\ast$", "<": "$<$", ">": "$>$", "–": "--",
               "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}  # fmt: skip
    special |= {one: f"\\{one}" for one in "&%$#_{}"}
    return "".join(special.get(one, one) for one in " ".join(text.split()))
