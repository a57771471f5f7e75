"""The study's tables as data: which rows, which columns, which cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tutelage.evaluation.statistics import Paired, significant
from tutelage.report.labels import AVERAGE, method_name, short, size_text
from tutelage.report.numbers import difference_and_interval, score_text
from tutelage.report.study.results import CONTROLS, Arm, Result, Study, largest, paper_value
from tutelage.report.study.sentences import method_label
from tutelage.report.study.synthetic import SyntheticSizes, synthetic_sizes

TABLE_2 = (*CONTROLS[::-1], "gkd_base", "gkd_sft", "seqkd", "gkd_it", "mix", "two_stage")
NO_RESULT = "–"  # not in the study, which is not the same as missing


@dataclass(frozen=True)
class TableCell:
    """One result in a table, and how it compares with its reference."""

    result: Result | None  # None: not in the study
    versus: Paired | None
    mark: str  # "*" p < 0.05; "**" after Holm's correction too
    best: bool
    paper: float | None
    column: str
    reference: Result | None = None  # what `versus` is against

    @property
    def text(self) -> str:
        return NO_RESULT if self.result is None else score_text(self.result)

    @property
    def is_missing(self) -> bool:
        return self.result is not None and self.result.is_missing

    @property
    def difference(self) -> str:
        """`versus` with its interval; empty where there is none."""
        return "" if self.versus is None else difference_and_interval(self.versus)


@dataclass(frozen=True)
class TableLine:
    """A row of a table: its left-aligned titles, then its cells."""

    heads: tuple[str, ...]
    cells: tuple[TableCell, ...]
    opens: bool  # the first line of a group, above which there is a rule


@dataclass(frozen=True)
class StudyTable:
    """A table of the page, which is also written as files."""

    name: str  # of the files, without ending
    title: str
    heads: tuple[str, ...]  # titles of the columns on the left, which name a row
    columns: tuple[str, ...]  # titles of the columns of scores
    lines: tuple[TableLine, ...]
    absent: str = ""  # why it is empty
    groups: tuple[tuple[str, int], ...] = ()  # (title, width) above the columns
    legend: str = ""  # what marks mean, where it is not what they mean in the other tables

    @property
    def has_paper(self) -> bool:
        """Whether the paper has a value for any cell."""
        return any(cell.paper is not None for line in self.lines for cell in line.cells)


def build_tables(study: Study) -> list[StudyTable]:
    """Tables 1 to 3, one of figure 5's comparisons, and one of the held-out measures, these two if there are any.

    Makes every comparison with a reference first, so that Holm's correction counts them all.
    """
    for result in study.results.values():
        study.versus(result)
    after_holm = study.after_holm()
    tables = [_table_1(study, after_holm), _table_2(study, after_holm), _table_3(study, after_holm)]
    tables += [_figure_5(study, families) for families in [synthetic_sizes(study)] if families]
    return [*tables, _held_out(study, after_holm)] if study.held_out else tables


def _table_1(study: Study, after_holm: set[tuple[str, str]]) -> StudyTable:
    columns = _columns(study)
    lines: list[TableLine] = []
    sizes: list[int | None] = []
    for student in study.students:
        own = [arm for arm in study.arms if arm.student == student and any((arm, t) in study.results for t in columns)]
        planned = [arm.size for arm in own if arm.method == "seqkd"]
        for size in [max(planned, key=lambda one: math.inf if one is None else one)] if planned else []:
            arms = [arm for arm in own if arm.size == size and arm.method in (*CONTROLS, "gkd_sft", "seqkd")]
            sizes.append(size)
            lines += _group(
                [_line(study, arm, columns, after_holm, (short(student), method_label(arm, study))) for arm in arms]
            )
    where = f", {size_text(sizes[0])} rows" if len(set(sizes)) == 1 else ""
    title = f"SFT, GKD and SeqKD at the largest size with SeqKD{where}"
    absent = "" if lines else "The study has no SeqKD cells."
    return StudyTable("table1", title, ("student", "method"), _titles(study, columns), tuple(lines), absent)


def _table_3(study: Study, after_holm: set[tuple[str, str]]) -> StudyTable:
    columns = _columns(study)
    arms = [arm for arm in study.arms if any((arm, task) in study.results for task in study.general)]
    lines: list[TableLine] = []
    for key in dict.fromkeys((arm.student, arm.size) for arm in arms):
        own = [arm for arm in arms if (arm.student, arm.size) == key]
        heads = [(short(arm.student), size_text(arm.size) if arm.size else "", method_label(arm, study)) for arm in own]
        lines += _group([_line(study, arm, columns, after_holm, head) for arm, head in zip(own, heads, strict=True)])
    absent = "" if lines else "The study has no general tasks."
    title = "All students, sizes and methods"
    return StudyTable("table3", title, ("student", "size", "method"), _titles(study, columns), tuple(lines), absent)


def _held_out(study: Study, after_holm: set[tuple[str, str]]) -> StudyTable:
    arms = [arm for arm in study.arms if any((arm, task) in study.results for task in study.held_out)]
    lines = [
        _line(study, arm, study.held_out, after_holm, (short(arm.student), size_text(arm.size) if arm.size else "",
              method_label(arm, study)))
        for arm in arms
    ]  # fmt: skip
    title = "Held-out measures, where lower is better"
    return StudyTable("held_out", title, ("student", "size", "method"), _titles(study, study.held_out), tuple(lines))


def _table_2(study: Study, after_holm: set[tuple[str, str]]) -> StudyTable:
    """Each method at its largest size: synthetic rows for Mix and two stages."""
    used = {arm.method for arm, task in study.results if task in study.domain}
    methods = [m for m in TABLE_2 if m in used]
    columns = [(task, method) for task in study.domain for method in methods]
    lines = [_teacher_line(study, columns)] if any(arm.method == "teacher" for arm in study.arms) else []
    for student in study.students:
        results = {(task, m): largest(study, student, m, task) for task, m in columns}
        if not any(results.values()):
            continue
        best = {task: max(_values(results[task, m] for m in methods), default=None) for task in study.domain}
        cells = tuple(
            _cell(study, result, after_holm, f"{study.label(task)}, {method_name(method)}",
                  best=result is not None and result.value == best[task])
            for (task, method), result in results.items()
        )  # fmt: skip
        lines.append(TableLine((short(student),), cells, opens=False))
    titles = tuple(method_name(method) for _, method in columns)
    groups = tuple((study.label(task), len(methods)) for task in study.domain)
    absent = "" if study.domain else "The study has no domain tasks."
    title = "Domain tasks: SFT, GKD, synthetic data mixed in, and in two stages"
    return StudyTable("table2", title, ("student",), titles, tuple(lines) if study.domain else (), absent, groups)


def _figure_5(study: Study, families: Sequence[SyntheticSizes]) -> StudyTable:
    """Synthetic arms by the number of synthetic rows; the column 0 is GKD, with which they are compared."""
    sizes = (0, *sorted({r.arm.size or 0 for one in families for r in one.arms}))
    lines: list[TableLine] = []
    for family in families:
        own = []
        for student, method in dict.fromkeys((r.arm.student, r.arm.method) for r in family.arms):
            cells = tuple(_synthetic_cell(study, family, student, method, size) for size in sizes)
            own.append(TableLine((study.label(family.task), short(student), method_name(method)), cells, opens=False))
        lines += _group(own)
    legend = (
        "Mean ± standard error over seeds and examples; 0 is GKD on the gold rows alone; ∗ p < 0.05 against it, paired "
        "bootstrap; ∗∗ after Holm's correction for all sizes and students of the task too."
    )
    title = "Figure 5 as numbers: by synthetic rows, against GKD without"
    titles = tuple(size_text(size) if size else "0 (GKD)" for size in sizes)
    return StudyTable("figure5", title, ("task", "student", "method"), titles, tuple(lines), legend=legend)


def _synthetic_cell(study: Study, family: SyntheticSizes, student: str, method: str, size: int) -> TableCell:
    column, gold = size_text(size) if size else "0 (GKD)", family.gold.get(student)
    if not size:
        return TableCell(gold, None, "", False, paper_value(study, gold), column)
    result = study.find(student, method, size, family.task)
    versus = study.compare(result, gold)
    mark = "*" if significant(versus) else ""
    if mark and result is not None and gold is not None and (result.anchor, gold.anchor) in family.after_holm:
        mark = "**"
    return TableCell(result, versus, mark, False, paper_value(study, result), column, gold)


def _teacher_line(study: Study, columns: Sequence[tuple[str, str]]) -> TableLine:
    cells = []
    for task, method in columns:
        own = [r for (arm, t), r in study.results.items() if t == task and arm.method == "teacher"]
        result = own[0] if own and method == columns[0][1] else None
        cells.append(_cell(study, result, set(), f"{study.label(task)}, {method_name(method)}"))
    return TableLine(("Teacher",), tuple(cells), opens=False)


def every_cell(study: Study) -> StudyTable:
    """All results, one per line; written as CSV only."""
    after_holm = study.after_holm()
    cells = [_cell(study, result, after_holm, study.label(task)) for (_, task), result in study.results.items()]
    return StudyTable("cells", "Every cell", (), (), tuple(TableLine((), (cell,), opens=False) for cell in cells))


def _columns(study: Study) -> tuple[str, ...]:
    return (*study.general, AVERAGE) if len(study.averaged) > 1 else study.general


def _titles(study: Study, tasks: Iterable[str]) -> tuple[str, ...]:
    return tuple(study.label(task) for task in tasks)


def _values(results: Iterable[Result | None]) -> list[float]:
    return [r.value for r in results if r is not None and not math.isnan(r.value)]


def _group(lines: list[TableLine]) -> list[TableLine]:
    return [TableLine(line.heads, line.cells, opens=n == 0) for n, line in enumerate(lines)]


def _line(
    study: Study, arm: Arm, columns: Sequence[str], after_holm: set[tuple[str, str]], heads: tuple[str, ...]
) -> TableLine:
    cells = tuple(_cell(study, study.get(arm, task), after_holm, study.label(task)) for task in columns)
    return TableLine(heads, cells, opens=False)


def _cell(
    study: Study, result: Result | None, after_holm: set[tuple[str, str]], column: str, best: bool = False
) -> TableCell:
    reference = study.reference(result) if result is not None else None
    versus = study.versus(result)
    mark = ""
    if result is not None and reference is not None and significant(versus):
        mark = "**" if (result.anchor, reference.anchor) in after_holm else "*"
    return TableCell(result, versus, mark, best, paper_value(study, result), column, reference)
