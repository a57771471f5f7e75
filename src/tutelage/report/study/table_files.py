"""The study's tables as files."""

from __future__ import annotations

import math

from tutelage.report.numbers import edge_note
from tutelage.report.study.tables import StudyTable, TableCell
from tutelage.report.table_files import compared_fields, csv_text, latex_escape, latex_table, markdown_table


def study_csv(table: StudyTable) -> str:
    """One line per cell, numbers in full; empty where there is none."""
    head = ["student", "size", "method", "teacher", "task", "metric", "value", "stderr", "seeds", "seeds_missing",
            "seeds_unscored", "examples", "reference", "difference", "low", "high", "p_value", "significant",
            "paper"]  # fmt: skip
    return csv_text(head, (_csv_line(cell) for line in table.lines for cell in line.cells if cell.result is not None))


def _csv_line(cell: TableCell) -> list[object]:
    result = cell.result
    assert result is not None
    arm = result.arm
    return [
        *(arm.student, arm.size, arm.method, arm.teacher),
        *(result.task, result.metric, result.value, result.stderr),
        *(" ".join(map(str, one)) for one in (result.seeds, sorted(result.missing), result.unscored_seeds)),
        result.examples or None,
        cell.reference.arm.method if cell.reference is not None else "",
        *(*compared_fields(cell.versus), cell.mark, None if cell.paper is None else round(cell.paper, 2)),
    ]


def study_markdown(table: StudyTable) -> str:
    """Title, table and legend; with groups of columns, each column's title has the group's name too."""
    if table.absent:
        return f"**{table.title}**\n\n{table.absent}\n"
    columns = [cell.column for cell in table.lines[0].cells] if table.groups else table.columns
    rows = [[*line.heads, *(_markdown_cell(cell) for cell in line.cells)] for line in table.lines]
    return f"**{table.title}**\n\n{markdown_table([*table.heads, *columns], rows)}\n\n{_legend(table)}\n"


def _markdown_cell(cell: TableCell) -> str:
    text = f"{cell.text}{' ' if cell.mark else ''}{cell.mark.replace('*', '∗')}"
    return text if cell.paper is None else f"{text} [{cell.paper:.2f}]"


def study_latex(table: StudyTable) -> str:
    """A `tabular` for the booktabs package, inside a `table`."""
    if table.absent:
        return f"% {table.title}: {table.absent}\n"
    lines = [
        (line.opens, [*(latex_escape(one) for one in line.heads), *(_latex_cell(cell) for cell in line.cells)])
        for line in table.lines
    ]
    return latex_table(table.heads, table.columns, lines, f"{table.title}. {_legend(table)}", table.groups)


def _latex_cell(cell: TableCell) -> str:
    if cell.result is None:
        return "--"
    if cell.result.is_missing or math.isnan(cell.result.value):
        return f"\\textit{{{latex_escape(cell.text)}}}"
    value, _, error = cell.text.partition(" ± ")
    value = value.replace("≥", "$\\geq$").replace("≤", "$\\leq$")
    value = f"\\textbf{{{value}}}" if cell.best else value
    mark = f"$^{{{cell.mark.replace('*', chr(92) + 'ast')}}}$" if cell.mark else ""
    paper = "" if cell.paper is None else f" {{\\scriptsize [{cell.paper:.2f}]}}"
    return f"{value}{mark}" + (f" {{\\scriptsize $\\pm$ {error}}}" if error else "") + paper


def _legend(table: StudyTable) -> str:
    text = table.legend or (
        "Mean ± standard error over seeds and examples; ∗ p < 0.05 against SFT again on the same data (SFT where the "
        "study has no SFT again, GKD on the gold rows where it has neither), paired bootstrap; ∗∗ after Holm's "
        "correction for all comparisons of the report too; – not in the study."
    )
    note = edge_note(cell.text for line in table.lines for cell in line.cells)
    return text + note + (" In brackets: the paper." if table.has_paper else "")
