"""The loss of distilling over training, one line per size. The paper says that it starts low and stays flat if the
teacher was trained on the same data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tutelage.common.metrics_log import read_metrics
from tutelage.common.run_folder import METRICS
from tutelage.report.drawing import DASHES, PALETTE, Look
from tutelage.report.labels import method_name, short, size_text
from tutelage.report.study.figures import StudyFigure
from tutelage.report.study.results import Study
from tutelage.report.training_curves import Curve, CurvePanel, logged

DISTILLED = ("gkd_base", "gkd_sft", "gkd_it")


def training_logs(made_from: Iterable[tuple[Path, Sequence[Path]]]) -> dict[Path, Path]:
    """From pairs of an evaluation's folder and its parents' folders: {evaluation: the first parent with a log}."""
    logs = {folder: next((p for p in parents if (p / METRICS).is_file()), None) for folder, parents in made_from}
    return {folder: trained for folder, trained in logs.items() if trained is not None}


def loss_figures(study: Study, logs: Mapping[Path, Path]) -> list[StudyFigure]:
    """One figure, or none where no log was found: one panel per student and method, one line per size and seed."""
    panels = []
    for student in study.students:
        for method in DISTILLED:
            curves = _curves(study, student, method, logs)
            if curves:
                title = f"{short(student)}, {method_name(method)}"
                panels.append(CurvePanel(title, "share of training", curves, "loss"))
    note = (
        "The logged loss of each run, from its first step to its last; labels at the right name the training rows, in "
        "the order of the lines' ends. Where 40 steps or more were logged, the pale line is the log and the full one "
        "its moving mean. Losses of methods with different teachers are not comparable."
    )
    return [StudyFigure("losses", "The loss of distilling over training", note, tuple(panels))] if panels else []


def _curves(study: Study, student: str, method: str, logs: Mapping[Path, Path]) -> tuple[Curve, ...]:
    folders = {
        (arm.size or 0, logs[cell.folder])
        for (arm, _), result in study.results.items()
        if (arm.student, arm.method) == (student, method)
        for cell in result.cells
        if cell.folder in logs
    }
    sizes = sorted({size for size, _ in folders})
    curves = []
    for size, folder in sorted(folders, key=lambda one: (one[0], str(one[1]))):
        place = sizes.index(size)
        look = Look(size_text(size or None), PALETTE[place % len(PALETTE)], DASHES[place % len(DASHES)])
        losses = [loss for _, loss in logged(read_metrics(folder / METRICS), "loss", "step")]
        if len(losses) > 1:
            shares = tuple(n / (len(losses) - 1) for n in range(len(losses)))
            curves.append(Curve(look, shares, tuple(losses)))
    return tuple(curves)
