"""The study's figures as data: which panels, which series, which points. `draw.py` draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tutelage.evaluation.statistics import significant
from tutelage.report.drawing import DASHES, PALETTE, Look
from tutelage.report.labels import AVERAGE, method_name, metric_label, short, size_text, task_label
from tutelage.report.study.paper_values import paper_values
from tutelage.report.study.results import SYNTHETIC, Result, Study, headline_task, largest, paper_value
from tutelage.report.training_curves import CurvePanel

MARKERS = ("o", "s", "^", "D", "v", "P", "p", "X")
HATCHES = ("", "////", "..", "xxxx", "\\\\\\\\", "++++")
ADDED = ("gkd_sft", "gkd_base", "gkd_it", "seqkd", "sft_long")  # on general tasks, compared with SFT in the answer
ORDER = ("sft", "gkd_sft", "gkd_base", "gkd_it", "seqkd", "mix", "two_stage", "sft_long")
# Places in PALETTE. Methods that share a colour differ in marker and hatching.
COLORS = {"sft": 0, "gkd_sft": 1, "gkd_base": 2, "gkd_it": 3, "seqkd": 5, "mix": 4, "two_stage": 2, "sft_long": 4}


@dataclass(frozen=True)
class Point:
    """A value and its error bar."""

    x: float
    y: float  # nan: no score
    low: float
    high: float
    shown: bool = False  # a difference was shown, p < 0.05


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
    zero: bool = False  # a line at 0, hollow points where no difference was shown


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
    """The answer, then the paper's five figures; a figure without cells says so."""
    figures = [_answer(study), _figure_1(study), _figure_2(study), _figure_3(study), _figure_4(study), _figure_5(study)]
    return [*figures, _held_out(study)] if study.held_out else figures


def look_of(method: str, faint: bool = False) -> Look:
    """The look of a method, the same in every figure; `faint`: of the paper's values."""
    place = ORDER.index(method) if method in ORDER else len(ORDER)
    color = PALETTE[COLORS.get(method, 4)]
    label = method_name(method)
    return Look(f"{label}, the paper" if faint else label, color, DASHES[place % 4], MARKERS[place % 8],
                HATCHES[place % 6], faint)  # fmt: skip


def _answer(study: Study) -> StudyFigure:
    """What each method adds to SFT on the same data, 95 % intervals."""
    panels = []
    task = headline_task(study)
    methods = [m for m in ADDED if task and any(a.method == m and t == task for a, t in study.results)]
    for student in study.students if task and methods else ():
        sizes = study.sizes(task or "", methods, student)
        if sizes:
            series = [Series(look_of(m), tuple(_gain(study, study.find(student, m, s, task or ""), s) for s in sizes
                                               if study.find(student, m, s, task or ""))) for m in methods]  # fmt: skip
            series = _apart([one for one in series if one.points])
            ticks = tuple((float(size), size_text(size)) for size in sizes)
            panels.append(Panel(short(student), "training rows", f"{_general_label(study)} − SFT", ticks, tuple(series),
                                     log=True, zero=True))  # fmt: skip
    for domain in study.domain:
        used = [m for m in ORDER[1:] if any(a.method == m and t == domain for a, t in study.results)]
        students = [s for s in study.students if any(largest(study, s, m, domain) for m in used)]
        ticks = tuple((float(n), short(student)) for n, student in enumerate(students))
        series = [Series(look_of(m), tuple(_gain(study, r, n) for n, s in enumerate(students)
                                           if (r := largest(study, s, m, domain)))) for m in used]  # fmt: skip
        if students:
            panels.append(Panel(task_label(domain), "student", f"{_metric(study, domain)} − SFT", ticks,
                                     tuple(_beside(series)), zero=True))  # fmt: skip
    note = (
        "Above the line: better than SFT on the same data. Bars: 95 % intervals of the paired difference. "
        "Filled: a difference was shown (p < 0.05). Hollow: not shown. ×: no score."
    )
    absent = "" if panels else "Nothing in the study can be compared with SFT."
    return StudyFigure("answer", "What each method adds to SFT", note, tuple(panels), absent)


def _figure_1(study: Study) -> StudyFigure:
    panels = []
    task = headline_task(study)
    methods = ("sft", "gkd_base", "gkd_sft")
    for student in study.students if task else ():
        sizes = study.sizes(task or "", ("gkd_base",), student)
        if sizes:
            panels.append(_by_size(study, student, task or "", methods, paper=False))
            if len(study.averaged) > 1:
                panels.append(_by_task(study, student, sizes[-1], methods[1:]))
    note = f"{SCORES} ∗ GKD differs from SFT on the same data."
    return _figure("figure1", "Figure 1: where the student starts, Base-S and SFT-S", note, panels, "Base-S")


def _figure_2(study: Study) -> StudyFigure:
    task = headline_task(study)
    students = [s for s in study.students if task and study.sizes(task, ("gkd_sft",), s)]
    panels = [_by_size(study, student, task or "", ("sft", "gkd_sft"), paper=True) for student in students]
    if students and not any(paper_values().student(student) for student in students):
        panels.append(_paper_panel())
    note = f"{SCORES} ∗ GKD differs from SFT. Faint: {paper_values().source}."
    return _figure("figure2", "Figure 2: SFT and GKD by data size and student", note, panels, "GKD (SFT-S)")


def _figure_3(study: Study) -> StudyFigure:
    task = headline_task(study)
    panels = [
        _by_task(study, student, size, ("gkd_sft", "gkd_it"), against="gkd_sft")
        for student in (study.students if task else ())
        for size in study.sizes(task or "", ("gkd_it",), student)[-1:]
    ]
    note = f"{SCORES} ∗ GKD-IT differs from GKD."
    return _figure("figure3", "Figure 3: a stronger teacher, GKD and GKD-IT", note, panels, "GKD-IT")


def _figure_4(study: Study) -> StudyFigure:
    panels = []
    for task in study.domain:
        results = {(s, m): largest(study, s, m, task) for s in study.students for m in ("sft", "gkd_sft")}
        students = [s for s in study.students if results[s, "sft"] or results[s, "gkd_sft"]]
        series = [Series(look_of(m), tuple(_point(study, r, n) for n, s in enumerate(students) if (r := results[s, m])))
                  for m in ("sft", "gkd_sft")]  # fmt: skip
        paper = [Series(look_of(m, faint=True), tuple(_paper_point(study, results[s, m], n)
                                                     for n, s in enumerate(students)))
                 for m in ("sft", "gkd_sft")]  # fmt: skip
        paper = [one for one in paper if any(not math.isnan(point.y) for point in one.points)]
        ticks = tuple((float(n), short(student)) for n, student in enumerate(students))
        panels.append(Panel(task_label(task), "student", _metric(study, task), ticks, (*series, *paper), bars=True))
    note = f"{SCORES} ∗ GKD differs from SFT. Faint lines: {paper_values().source}."
    return _figure("figure4", "Figure 4: domain tasks by student", note, panels, "a domain task")


def _figure_5(study: Study) -> StudyFigure:
    panels = []
    for task in study.domain:
        series = []
        for place, student in enumerate(study.students):
            for method in ("two_stage", "mix"):
                sizes = study.sizes(task, (method,), student)
                points = [_point(study, study.find(student, method, size, task), size) for size in sizes]
                look = Look(f"{short(student)}, {method_name(method).lower()}", PALETTE[place % 6],
                            DASHES[0 if method == "two_stage" else 1], MARKERS[place % 6])  # fmt: skip
                if points:
                    series.append(Series(look, tuple(points)))
        series = _apart(series)
        ticks = tuple((float(size), size_text(size)) for size in study.sizes(task, SYNTHETIC))
        if ticks:
            panels.append(Panel(task_label(task), "synthetic rows", _metric(study, task), ticks, tuple(series),
                                     log=True))  # fmt: skip
    note = f"{SCORES} ∗ differs from SFT on the gold rows."
    return _figure("figure5", "Figure 5: how much synthetic data", note, panels, "synthetic data")


def _held_out(study: Study) -> StudyFigure:
    """Losses by data size, every method; lower is better."""
    panels = []
    for student in study.students:
        for task in study.held_out:
            methods = [m for m in ORDER if study.sizes(task, (m,), student)]
            if methods:
                panel = _by_size(study, student, task, methods, paper=False)
                panels.append(replace(panel, title=f"{panel.title}, {task_label(task)}", y_label=_metric(study, task)))
    note = f"Lower is better. {SCORES} ∗ differs from SFT."
    return _figure("held_out", "Held-out rows", note, panels, "held-out measures by size")


SCORES = "Bars: ± 1 standard error over seeds and examples. ×: no score."


def _figure(name: str, title: str, note: str, panels: Sequence[Panel], lacking: str) -> StudyFigure:
    return StudyFigure(name, title, note, tuple(panels), "" if panels else f"The study has no cells of {lacking}.")


def _by_size(study: Study, student: str, task: str, methods: Sequence[str], paper: bool) -> Panel:
    sizes = study.sizes(task, methods, student)
    series = []
    for method in methods:
        found = [(size, r) for size in sizes if (r := study.find(student, method, size, task)) is not None]
        series.append(Series(look_of(method), tuple(_point(study, r, size) for size, r in found)))
        faint = tuple(_paper_point(study, r, size) for size, r in found) if paper else ()
        if any(not math.isnan(point.y) for point in faint):
            series.append(Series(look_of(method, faint=True), tuple(p for p in faint if not math.isnan(p.y))))
    ticks = tuple((float(size), size_text(size)) for size in sizes)
    return Panel(short(student), "training rows", _general_label(study), ticks, tuple(_apart(series)), log=True)


def _by_task(study: Study, student: str, size: int, methods: Sequence[str], against: str | None = None) -> Panel:
    tasks = (*study.general, AVERAGE) if len(study.averaged) > 1 else study.general
    series = []
    for method in methods:
        points = []
        for n, task in enumerate(tasks):
            result = study.find(student, method, size, task)
            other = study.find(student, against, size, task) if against and method != against else None
            versus = study.compare(result, other) if against else study.versus(result)
            point = _point(study, result, n)
            points.append(Point(point.x, point.y, point.low, point.high, significant(versus)))
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


def _point(study: Study, result: Result | None, x: float) -> Point:
    if result is None or result.is_missing or math.isnan(result.value):
        return Point(float(x), math.nan, math.nan, math.nan)
    error = 0.0 if math.isnan(result.stderr) else result.stderr
    value = result.value
    return Point(float(x), value, value - error, value + error, significant(study.versus(result)))


def _gain(study: Study, result: Result | None, x: float) -> Point:
    versus = study.versus(result)
    if versus is None:
        return Point(float(x), math.nan, math.nan, math.nan)
    return Point(float(x), versus.difference, versus.low, versus.high, significant(versus))


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
    return Series(series.look, tuple(Point(move(p.x), p.y, p.low, p.high, p.shown) for p in series.points))


def _general_label(study: Study) -> str:
    """What a score of the general tasks is: "average of 5 tasks", or the metric of the only one."""
    count = len(study.averaged)
    if count > 1:
        return (
            f"average of {count} tasks"
            if study.averaged == study.general
            else f"average{study.label(AVERAGE).removeprefix(task_label(AVERAGE))}"
        )
    return _metric(study, study.averaged[0]) if count else "score"


def _metric(study: Study, task: str) -> str:
    metric = next((r.metric for (_, t), r in study.results.items() if t == task and r.metric), "")
    return metric_label(metric) if metric else "score"
