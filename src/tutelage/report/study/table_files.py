"""The study's tables as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import math

from tutelage.report.study.tables import StudyTable, TableCell


def csv_of(table: StudyTable) -> str:
    """One line a cell, numbers in full; empty where there is none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["student", "size", "method", "teacher", "task", "metric", "value", "stderr", "seeds", "seeds_missing",
         "examples", "difference_to_sft", "low", "high", "p_value", "significant", "paper"]
    )  # fmt: skip
    for line in table.lines:
        writer.writerows(_csv_line(cell) for cell in line.cells if cell.result is not None)
    return buffer.getvalue()


def _csv_line(cell: TableCell) -> list[object]:
    result, versus = cell.result, cell.versus
    assert result is not None
    arm = result.arm
    compared = [versus.difference, versus.low, versus.high, versus.p_value] if versus else [math.nan] * 4
    numbers = [result.value, result.stderr]
    return [
        arm.student, arm.size if arm.size is not None else "", arm.method, arm.teacher or "", result.task,
        result.metric, *("" if math.isnan(one) else one for one in numbers),
        " ".join(map(str, result.seeds)), " ".join(map(str, sorted(set(result.missing)))), result.examples or "",
        *("" if math.isnan(one) else one for one in compared), cell.mark,
        "" if cell.paper is None else round(cell.paper, 2),
    ]  # fmt: skip


def markdown_of(table: StudyTable) -> str:
    if table.absent:
        return f"**{table.title}**\n\n{table.absent}\n"
    columns = [cell.column for cell in table.lines[0].cells] if table.groups else list(table.columns)
    rows = [[*table.heads, *columns], ["---"] * (len(table.heads) + len(columns))]
    rows += [[*line.heads, *(_markdown_cell(cell) for cell in line.cells)] for line in table.lines]
    text = "\n".join("| " + " | ".join(_markdown_escape(one) for one in row) + " |" for row in rows)
    return f"**{table.title}**\n\n{text}\n\n{_legend(table)}\n"


def _markdown_cell(cell: TableCell) -> str:
    text = f"{cell.text}{' ' if cell.mark else ''}{cell.mark.replace('*', '∗')}"
    return text if cell.paper is None else f"{text} [{cell.paper:.2f}]"


def _markdown_escape(text: str) -> str:
    flat = " ".join(text.split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")


def latex_of(table: StudyTable) -> str:
    """A `tabular` for the booktabs package, inside a `table`."""
    if table.absent:
        return f"% {table.title}: {table.absent}\n"
    width = len(table.heads)
    spec = "l" * width + "r" * len(table.columns)
    lines = ["\\begin{table}", "\\centering", f"\\begin{{tabular}}{{{spec}}}", "\\toprule"]
    if table.groups:
        head = " & ".join(f"\\multicolumn{{{n}}}{{c}}{{{_latex(name)}}}" for name, n in table.groups)
        lines.append(f"{' & ' * width}{head} \\\\")
    lines += [" & ".join(_latex(one) for one in (*table.heads, *table.columns)) + " \\\\", "\\midrule"]
    for number, line in enumerate(table.lines):
        if line.opens and number:
            lines.append("\\addlinespace")
        cells = [_latex(one) for one in line.heads] + [_latex_cell(cell) for cell in line.cells]
        lines.append(" & ".join(cells) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\\caption{{{_latex(table.title)}. {_latex(_legend(table))}}}", "\\end{table}", ""]
    return "\n".join(lines)


def _latex_cell(cell: TableCell) -> str:
    if cell.result is None:
        return "--"
    if cell.result.is_missing or math.isnan(cell.result.value):
        return f"\\textit{{{_latex(cell.text)}}}"
    value, _, error = cell.text.partition(" ± ")
    value = f"\\textbf{{{value}}}" if cell.best else value
    mark = f"$^{{{cell.mark.replace('*', chr(92) + 'ast')}}}$" if cell.mark else ""
    paper = "" if cell.paper is None else f" {{\\scriptsize [{cell.paper:.2f}]}}"
    return f"{value}{mark}" + (f" {{\\scriptsize $\\pm$ {error}}}" if error else "") + paper


def _latex(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "±": "$\\pm$", "∗": "$\\ast$", "<": "$<$", ">": "$>$", "–": "--",
               "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}  # fmt: skip
    special |= {one: f"\\{one}" for one in "&%$#_{}"}
    return "".join(special.get(one, one) for one in " ".join(text.split()))


def _legend(table: StudyTable) -> str:
    text = "Mean ± standard error over seeds and examples; ∗ p < 0.05 against SFT on the same data, paired bootstrap; "
    text += "∗∗ after Holm's correction for all comparisons of the report too; – not in the study."
    return text + (" In brackets: the paper." if table.has_paper else "")
