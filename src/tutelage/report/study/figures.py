"""The study's figures as data: which panels, which series, which points. `draw.py` draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tutelage.evaluation.statistics import significant
from tutelage.report.drawing import DASHES, PALETTE, Look
from tutelage.report.labels import AVERAGE, method_name, metric_label, short, size_text, task_label
from tutelage.report.study.paper_values import paper_values
from tutelage.report.study.results import CONTROLS, SYNTHETIC, Arm, Result, Study, largest, paper_value
from tutelage.report.study.synthetic import synthetic_sizes
from tutelage.report.training_curves import CurvePanel

MARKERS = ("o", "s", "^", "D", "v", "P", "p", "X")
HATCHES = ("", "////", "..", "xxxx", "\\\\\\\\", "++++")
ADDED = ("gkd_sft", "gkd_base", "gkd_it", "seqkd", "sft_long")  # on general tasks, compared in the answer
ORDER = ("sft", "gkd_sft", "gkd_base", "gkd_it", "seqkd", "mix", "two_stage", "sft_long", "sft_again")
COMPARED = tuple(method for method in ORDER if method not in CONTROLS)
# Places in PALETTE. Methods that share a colour differ in marker and hatching.
COLORS = {"sft": 0, "sft_again": 0, "gkd_sft": 1, "gkd_base": 2, "gkd_it": 3, "seqkd": 5, "mix": 4, "two_stage": 0,
          "sft_long": 4}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A value and its error bar."""

    x: float
    y: float  # nan: no score
    low: float
    high: float
    shown: bool = False  # a difference was shown, p < 0.05
    of: str = ""  # anchor of the result


@dataclass(frozen=True)
class Series:
    """Points that look alike; they are joined unless they are bars."""

    look: Look
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """Axes with their series."""

    title: str
    x_label: str
    y_label: str
    ticks: tuple[tuple[float, str], ...]
    series: tuple[Series, ...]
    log: bool = False
    bars: bool = False
    zero: str = ""  # the name of the line at 0; points are hollow where no difference was shown


@dataclass(frozen=True)
class StudyFigure:
    """A figure of the page, which is also written as NAME.png and NAME.svg."""

    name: str
    title: str
    note: str
    panels: tuple[Panel | CurvePanel, ...]
    absent: str = ""  # why it has no panels

    @property
    def bars(self) -> bool:
        """Whether all panels have bars."""
        return all(isinstance(panel, Panel) and panel.bars for panel in self.panels)

    @property
    def looks(self) -> list[Look]:
        """The looks of all series, each once: the legend."""
        panels = [panel for panel in self.panels if isinstance(panel, Panel)]
        return list(dict.fromkeys(series.look for panel in panels for series in panel.series))


def build_figures(study: Study) -> list[StudyFigure]:
    """The answer, then the paper's five figures; one without cells says so. `undrawn` names what none shows."""
    figures = [_answer(study), _figure_1(study), _figure_2(study), _figure_3(study), _figure_4(study), _figure_5(study)]
    return [*figures, _held_out(study)] if study.held_out else figures


def undrawn(study: Study, figures: Sequence[StudyFigure]) -> list[Result]:
    """One result of each arm, evaluated or not, that no figure has a point of; the teacher and the untrained student
    belong in none."""
    panels = [panel for figure in figures for panel in figure.panels if isinstance(panel, Panel)]
    drawn = {point.of for panel in panels for series in panel.series for point in series.points}
    arms: dict[tuple[Arm, bool], Result] = {}
    for (arm, task), result in study.results.items():
        if arm.method not in ("teacher", "base"):
            arms.setdefault((arm, task in study.domain), result)
    seen = {(r.arm, task in study.domain) for (_, task), r in study.results.items() if r.anchor in drawn}
    return [result for key, result in arms.items() if key not in seen]


def look_of(method: str, faint: bool = False) -> Look:
    """The look of a method, the same in every figure; `faint`: of the paper's values."""
    place = ORDER.index(method) if method in ORDER else len(ORDER)
    color, label = PALETTE[COLORS.get(method, 4)], method_name(method)
    # by their place, SFT again would have SFT's dashes and marker too
    dash, marker, hatch = (2, 7, 2) if method == "sft_again" else (place % 4, place % 8, place % 6)
    return Look(f"{label}, the paper" if faint else label, color, DASHES[dash], MARKERS[marker], HATCHES[hatch], faint)


def _answer(study: Study) -> StudyFigure:
    """What each method adds to the reference, 95 % intervals; tasks that say nothing about a student are left out."""
    panels = []
    for student in study.students:
        task = study.headline(student)
        found = [r for m in ADDED for size in study.sizes(task, (m,), student)
                 if (r := study.find(student, m, size, task)) and study.reference(r)]  # fmt: skip
        sizes = study.sizes(task, {r.arm.method for r in found}, student)
        if found:
            at, zero = _places(sizes), _zero(study, found)
            series = [Series(look_of(m), tuple(_gain(study, r, at[r.arm.size]) for r in found if r.arm.method == m))
                      for m in dict.fromkeys(r.arm.method for r in found)]  # fmt: skip
            panels.append(Panel(short(student), "training rows", f"{_what(study, task)} − {zero}", _ticks(sizes),
                                     tuple(_apart(series)), log=True, zero=zero))  # fmt: skip
    for domain in study.domain:
        kept = [s for s in study.students if domain not in study.left_out(s)]
        found = [r for s in kept for m in COMPARED if (r := largest(study, s, m, domain)) and study.reference(r)]
        students, zero = list(dict.fromkeys(r.arm.student for r in found)), _zero(study, found)
        ticks = tuple((float(n), short(student)) for n, student in enumerate(students))
        used = [m for m in COMPARED if any(r.arm.method == m for r in found)]
        series = [Series(look_of(m), tuple(_gain(study, r, students.index(r.arm.student)) for r in found
                                           if r.arm.method == m)) for m in used]  # fmt: skip
        if students:
            panels.append(Panel(task_label(domain), "student", f"{_metric(study, domain)} − {zero}", ticks,
                                     tuple(_beside(series)), zero=zero))  # fmt: skip
    note = (
        "Above the line: better than the method named at it, of the same student on the same data. Bars: 95 % "
        "intervals of the paired difference. Filled: p < 0.05 in this comparison alone. Hollow: not shown. ×: no score."
    )
    absent = "" if panels else "Nothing in the study can be compared with SFT."
    zeros = " or ".join(dict.fromkeys(name for panel in panels for name in panel.zero.split(" or ")))
    return StudyFigure("answer", f"What each method adds to {zeros or 'SFT'}", note, tuple(panels), absent)


def _zero(study: Study, results: Sequence[Result]) -> str:
    """The names of what results are compared with: the line at 0."""
    references = [reference for one in results if (reference := study.reference(one)) is not None]
    return " or ".join(dict.fromkeys(method_name(one.arm.method) for one in references)) or "SFT"


def _places(sizes: Sequence[int | None]) -> dict[int | None, float]:
    """Where sizes are on the axis. All rows of data whose number is not known are to the right of the largest."""
    known = [size for size in sizes if size is not None]
    return {size: float(size) if size is not None else 2.0 * max(known, default=1) for size in sizes}


def _ticks(sizes: Sequence[int | None]) -> tuple[tuple[float, str], ...]:
    return tuple((x, size_text(size)) for size, x in _places(sizes).items())


def _figure_1(study: Study) -> StudyFigure:
    panels = []
    task = _average(study)
    methods = (*CONTROLS, "gkd_base", "gkd_sft")
    for student in study.students:
        sizes = _any_sizes(study, student, "gkd_base")
        if sizes:
            panels.append(_by_size(study, student, task, methods, paper=False))
            if len(study.averaged) > 1:
                panels.append(_by_task(study, student, sizes[-1], methods[2:]))
    note = f"{SCORES} {STAR}"
    return _figure("figure1", "Figure 1: where the student starts, Base-S and SFT-S", note, panels, "Base-S")


def _figure_2(study: Study) -> StudyFigure:
    task = _average(study)
    students = [s for s in study.students if _any_sizes(study, s, "gkd_sft")]
    panels = [_by_size(study, student, task, (*CONTROLS, "gkd_sft"), paper=True) for student in students]
    if students and not any(paper_values().student(student) for student in students):
        panels.append(_paper_panel())
    note = f"{SCORES} {STAR} Faint: {paper_values().source}."
    return _figure("figure2", "Figure 2: SFT and GKD by data size and student", note, panels, "GKD (SFT-S)")


def _figure_3(study: Study) -> StudyFigure:
    panels = [
        _by_task(study, student, size, ("gkd_sft", "gkd_it"), against="gkd_sft")
        for student in study.students
        for size in _any_sizes(study, student, "gkd_it")[-1:]
    ]
    note = f"{SCORES} ∗ GKD-IT differs from GKD."
    return _figure("figure3", "Figure 3: a stronger teacher, GKD and GKD-IT", note, panels, "GKD-IT")


def _figure_4(study: Study) -> StudyFigure:
    panels = []
    for task in study.domain:
        methods = [m for m in (*CONTROLS[::-1], "gkd_sft") if any(study.having(s, (m,), task) for s in study.students)]
        results = {(s, m): largest(study, s, m, task) for s in study.students for m in methods}
        students = [s for s in study.students if any(results[s, m] for m in methods)]
        if not students:
            continue
        series = [Series(look_of(m), tuple(_point(study, r, n) for n, s in enumerate(students) if (r := results[s, m])))
                  for m in methods]  # fmt: skip
        paper = [Series(look_of(m, faint=True), tuple(_paper_point(study, results[s, m], n)
                                                     for n, s in enumerate(students)))
                 for m in methods]  # fmt: skip
        paper = [one for one in paper if any(not math.isnan(point.y) for point in one.points)]
        ticks = tuple((float(n), short(student)) for n, student in enumerate(students))
        panels.append(Panel(task_label(task), "student", _metric(study, task), ticks, (*series, *paper), bars=True))
    note = f"{SCORES} {STAR} Faint lines: {paper_values().source}."
    return _figure("figure4", "Figure 4: domain tasks by student", note, panels, "a domain task")


def _figure_5(study: Study) -> StudyFigure:
    """Mix and Two-stage by the number of synthetic rows; both lines begin at GKD, which has none."""
    panels = []
    kept = {key for one in synthetic_sizes(study) for key in one.after_holm}
    for task in study.domain:
        sizes = sorted({r.arm.size for s in study.students for r in study.having(s, SYNTHETIC, task) if r.arm.size})
        if not sizes:
            continue
        at = {0: sizes[0] / 2.5} | {size: float(size) for size in sizes}  # a logarithmic axis has no 0
        series = []
        for place, student in enumerate(study.students):
            gold = study.on_gold(student, "gkd_sft", task)
            for method in ("two_stage", "mix"):
                found = [(r.arm.size, r) for r in study.having(student, (method,), task) if r.arm.size]
                points = [_synthetic_point(study, r, at[size], gold, kept) for size, r in found]
                start = [_point(study, gold, at[0], shown=False)] if gold is not None and points else []
                look = Look(f"{short(student)}, {method_name(method).lower()}", PALETTE[place % 6],
                            DASHES[0 if method == "two_stage" else 1], MARKERS[place % 6])  # fmt: skip
                if points:
                    series.append(Series(look, (*start, *points)))
        any_gold = any(study.on_gold(student, "gkd_sft", task) for student in study.students)
        ticks = [(at[0], "0 (GKD)")] if any_gold else []
        ticks += [(at[size], size_text(size)) for size in sizes]
        panels.append(Panel(task_label(task), "synthetic rows", _metric(study, task), tuple(ticks),
                            tuple(_apart(series)), log=True))  # fmt: skip
    note = (
        f"{SCORES} 0: GKD on the gold rows alone. ∗ differs from it, after Holm's correction for all sizes and "
        "students of the task."
    )
    return _figure("figure5", "Figure 5: how much synthetic data", note, panels, "synthetic data")


def _held_out(study: Study) -> StudyFigure:
    """Losses by data size, every method; lower is better."""
    panels = []
    for student in study.students:
        for task in study.held_out:
            methods = [m for m in ORDER if study.sizes(task, (m,), student)]
            if methods:
                panel = _by_size(study, student, task, methods, paper=False)
                panels.append(replace(panel, title=f"{panel.title}, {task_label(task)}"))
    note = f"Lower is better. {SCORES} {STAR}"
    return _figure("held_out", "Held-out rows", note, panels, "held-out measures by size")


SCORES = "Bars: ± 1 standard error over seeds and examples. ×: no score."
STAR = (
    "∗ differs from the reference (SFT again where the study has it, else SFT; SFT again from SFT), p < 0.05 in this "
    "comparison alone."
)


def _average(study: Study) -> str:
    """The task of the paper's averages, or the only general task with scores; empty without general tasks."""
    return AVERAGE if len(study.averaged) > 1 else next(iter(study.averaged or study.general), "")


def _any_sizes(study: Study, student: str, method: str) -> list[int | None]:
    """The sizes that a method has on any general task: two grids may score it on different ones."""
    found = {size for task in study.general for size in study.sizes(task, (method,), student)}
    return sorted(found, key=lambda size: math.inf if size is None else size)


def _figure(name: str, title: str, note: str, panels: Sequence[Panel], lacking: str) -> StudyFigure:
    return StudyFigure(name, title, note, tuple(panels), "" if panels else f"The study has no cells of {lacking}.")


def _by_size(study: Study, student: str, task: str, methods: Sequence[str], paper: bool) -> Panel:
    sizes = study.sizes(task, methods, student)
    at = _places(sizes)
    series = []
    for method in methods:
        found = [(at[size], r) for size in sizes if (r := study.find(student, method, size, task)) is not None]
        if not found:
            continue
        series.append(Series(look_of(method), tuple(_point(study, r, size) for size, r in found)))
        faint = tuple(_paper_point(study, r, size) for size, r in found) if paper else ()
        if any(not math.isnan(point.y) for point in faint):
            series.append(Series(look_of(method, faint=True), tuple(p for p in faint if not math.isnan(p.y))))
    return Panel(short(student), "training rows", _what(study, task), _ticks(sizes), tuple(_apart(series)), log=True)


def _by_task(study: Study, student: str, size: int | None, methods: Sequence[str], against: str | None = None) -> Panel:
    tasks = (*study.general, AVERAGE) if len(study.averaged) > 1 else study.general
    series = []
    for method in methods:
        points = []
        for n, task in enumerate(tasks):
            result = study.find(student, method, size, task)
            other = study.find(student, against, size, task) if against and method != against else None
            versus = study.compare(result, other) if against else study.versus(result)
            points.append(_point(study, result, n, significant(versus)))
        series.append(Series(look_of(method), tuple(points)))
    labels = [f"{task_label(task)}{' (unscored)' if task in study.unscored else ''}" for task in tasks]
    if tasks and tasks[-1] == AVERAGE and study.averaged != study.general:
        labels[-1] = f"{task_label(AVERAGE)} of {len(study.averaged)}"
    ticks = tuple((float(n), label) for n, label in enumerate(labels))
    return Panel(f"{short(student)}, {size_text(size)} rows", "", "score", ticks, tuple(series), bars=True)


def _paper_panel() -> Panel:
    """The paper's own figure 2, in a panel of its own: with other models, scores cannot be compared one by one."""
    paper = paper_values()
    sizes = sorted(next(iter(paper.content["table3"].values())))
    series = []
    for student, marker in zip(paper.students, MARKERS, strict=False):
        for method, dash in (("sft", DASHES[0]), ("gkd_sft", DASHES[1])):
            points = [Point(s, v, v, v) for s in sizes if (v := paper.general(student, s, method, AVERAGE)) is not None]
            label, color = f"{method_name(method)}, {student}, the paper", look_of(method).color
            look = Look(label, color, dash, marker, faint=True)
            series.append(Series(look, tuple(points)))
    ticks = tuple((float(size), size_text(size)) for size in sizes)
    return Panel("The paper's students", "training rows", "average of five", ticks, tuple(series), log=True)


def _point(study: Study, result: Result | None, x: float, shown: bool | None = None) -> Point:
    """Mean and standard error; `shown`: whether it is marked, by default if it differs from its reference."""
    anchor = result.anchor if result is not None else ""
    if result is None or result.is_missing or math.isnan(result.value):
        return Point(float(x), math.nan, math.nan, math.nan, of=anchor)
    error = 0.0 if math.isnan(result.stderr) else result.stderr
    value, marked = result.value, significant(study.versus(result)) if shown is None else shown
    return Point(float(x), value, value - error, value + error, marked, anchor)


def _synthetic_point(study: Study, result: Result, x: float, gold: Result | None, kept: set[tuple[str, str]]) -> Point:
    return _point(study, result, x, gold is not None and (result.anchor, gold.anchor) in kept)


def _gain(study: Study, result: Result | None, x: float) -> Point:
    versus, anchor = study.versus(result), result.anchor if result is not None else ""
    if versus is None:
        return Point(float(x), math.nan, math.nan, math.nan, of=anchor)
    return Point(float(x), versus.difference, versus.low, versus.high, significant(versus), anchor)


def _paper_point(study: Study, result: Result | None, x: float) -> Point:
    value = paper_value(study, result)
    value = math.nan if value is None else value
    return Point(float(x), value, value, value)


def _apart(series: Sequence[Series]) -> list[Series]:
    """On a logarithmic axis, each series a little beside the others, so that error bars do not hide each other."""
    return [_moved(one, lambda x, n=n: x * 1.03 ** (n - (len(series) - 1) / 2)) for n, one in enumerate(series)]


def _beside(series: Sequence[Series]) -> list[Series]:
    """`_apart` for a linear axis."""
    return [_moved(one, lambda x, n=n: x + 0.12 * (n - (len(series) - 1) / 2)) for n, one in enumerate(series)]


def _moved(series: Series, move: Callable[[float], float]) -> Series:
    return Series(series.look, tuple(replace(p, x=move(p.x)) for p in series.points))


def _what(study: Study, task: str) -> str:
    """What a score of the task is: "average of 5 tasks", or its metric; a task that all averages lack is named."""
    if task == AVERAGE and study.averaged != study.general:
        return study.label(task).replace(task_label(task), "average")
    of = max((len(r.of) for (_, t), r in study.results.items() if t == task), default=0)
    return f"average of {of} tasks" if of else _metric(study, task)


def _metric(study: Study, task: str) -> str:
    metric = next((r.metric for (_, t), r in study.results.items() if t == task and r.metric), "")
    return metric_label(metric) if metric else "score"
