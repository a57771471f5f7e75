"""Reads a study's evaluations into results.

Every score enters as values of independent draws, [S, C] for S seeds and C clusters (`evaluation/clusters.py`). The
average of K tasks is made of the same values, those of a task with C of all A clusters moved to the average and
stretched by A / (K·C): the mean is the average of the tasks, and each task's variance enters with 1 / K². So seeds and
examples cross in the average as they do in one task, and arms are compared on it in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.common.errors import TutelageError
from tutelage.common.run_folder import RESULT
from tutelage.evaluation.benchmarks import WITH_COMET, benchmark_metrics
from tutelage.evaluation.chance import MATCHES, commonest_share
from tutelage.evaluation.clusters import Metric, cluster_scores
from tutelage.evaluation.metrics import lower_is_better
from tutelage.evaluation.records import read_result
from tutelage.evaluation.statistics import Scores, crossed_standard_error
from tutelage.report.labels import AVERAGE, task_label
from tutelage.report.scores import SeedScores, is_evaluated, read_seeds
from tutelage.report.study.results import DOMAIN_TASKS, SYNTHETIC, UNSCORED, Arm, Result, Study

if TYPE_CHECKING:
    from tutelage.evaluation.records import ExampleRecord
    from tutelage.study.plan import Cell


def build_study(cells: Sequence[Cell]) -> Study:
    """Read the evaluations of all cells that have one.

    Raises TutelageError for a cell given twice, and for evaluations of one task that are not of the same examples.
    """
    grouped: dict[tuple[Arm, str], list[Cell]] = {}
    for cell in cells:
        members = grouped.setdefault((Arm(cell.size, cell.student, cell.method, cell.teacher), cell.task), [])
        if any(other.seed == cell.seed for other in members):
            raise TutelageError(f"the study has a cell twice: {cell_name(cell)}; give each cell one folder")
        members.append(cell)
    first: dict[str, SeedScores] = {}
    without_comet: dict[str, tuple[int, int]] = {}
    metrics = _metrics(cells, without_comet)
    results: dict[tuple[Arm, str], Result] = {}
    for (arm, task), members in sorted(grouped.items(), key=lambda item: _rank(item[0], cells)):
        for metric in metrics.get(task, ("",)):
            name = task if len(metrics.get(task, ())) < 2 else f"{task}: {metric}"
            results[arm, name] = _read(f"c{len(results)}", arm, name, metric, members, first)
    general, held_out, domain = _kinds(results)
    study = Study(results, general, held_out, domain, tuple(cells), without_comet)
    if len(study.averaged) > 1:
        _add_averages(study, "a", AVERAGE, study.averaged, study.arms)
    for place, student in enumerate(study.students):
        study.headlines[student] = _headline(study, student, place)
    return study


def _headline(study: Study, student: str, place: int) -> str:
    """Makes the student's own average where it is not that of all students; see `Study.headline`."""
    left_out = study.left_out(student)
    kept = tuple(task for task in study.general if task not in left_out)
    if len(kept) < 2:
        unscored = [task for task in study.general if left_out.get(task) == UNSCORED]
        return next(iter([*kept, *unscored]), "")
    if kept == study.averaged:
        return AVERAGE
    name = f"average of {', '.join(map(task_label, kept))}"
    _add_averages(study, f"k{place}-", name, kept, [arm for arm in study.arms if arm.student == student])
    return name


def _add_averages(study: Study, prefix: str, name: str, tasks: Sequence[str], arms: Sequence[Arm]) -> None:
    made = [_average(f"{prefix}{n}", arm, study, name, tasks) for n, arm in enumerate(arms)]
    study.results.update({(one.arm, name): one for one in made if one is not None})


def cell_name(cell: Cell) -> str:
    """A cell in words, for messages."""
    size = f" at {cell.size}" if cell.size is not None else ""
    return f"{cell.method} of {cell.student}{size} on {cell.task}, seed {cell.seed}"


def _metrics(cells: Sequence[Cell], without_comet: dict[str, tuple[int, int]]) -> dict[str, tuple[str, ...]]:
    """Each task's metric: the headline, or COMET where every evaluation of FLORES has it; every one of losses.
    Tasks with evaluations that COMET has not scored are added to `without_comet`.

    Raises TutelageError for evaluations of one task with different headlines or judges.
    """
    metrics: dict[str, str] = {}
    by_comet: dict[str, tuple[int, int]] = {}  # evaluations without COMET's score, of all of FLORES
    judges: dict[str, dict[str, Any]] = {}
    losses: dict[str, dict[str, None]] = {}
    for cell in cells:
        if not is_evaluated(cell.folder):
            continue
        result = read_result(cell.folder)
        headline = str(result.get("headline"))
        if headline not in result.get("metrics", {}):
            raise TutelageError(f"{cell.folder / RESULT} lacks its headline `{headline}`; run that evaluation again")
        if metrics.setdefault(cell.task, headline) != headline:
            raise TutelageError(
                f"{cell.folder / RESULT} is headed by `{headline}`, other evaluations of {cell.task} by "
                f"`{metrics[cell.task]}`; evaluate all with one version"
            )
        if result.get("task") == WITH_COMET or "comet" in result["metrics"]:
            lacking, count = by_comet.get(cell.task, (0, 0))
            by_comet[cell.task] = (lacking + ("comet" not in result["metrics"]), count + 1)
        judge = result.get("judge")
        if judge and judges.setdefault(cell.task, judge) != judge:
            raise TutelageError(
                f"{cell.folder / RESULT} is judged by {judge['model']} ({judge['fingerprint'] or 'unknown'}), other "
                f"evaluations of {cell.task} by {judges[cell.task]['model']} ({judges[cell.task]['fingerprint']}), and "
                "such scores cannot be compared: name one `judge` and run the study again, which only judges"
            )
        if lower_is_better(headline):
            losses.setdefault(cell.task, {}).update(dict.fromkeys(result["metrics"]))
    without_comet.update({task: counts for task, counts in by_comet.items() if counts[0]})
    headlines = {t: "comet" if t in by_comet and t not in without_comet else m for t, m in metrics.items()}
    return {task: tuple(losses.get(task, (metric,))) for task, metric in headlines.items()}


def _read(anchor: str, arm: Arm, task: str, metric: str, cells: list[Cell], first: dict[str, SeedScores]) -> Result:
    cells = sorted(cells, key=lambda cell: cell.seed)
    evaluated = [cell for cell in cells if is_evaluated(cell.folder)]
    there = [cell for cell in evaluated if _reported(cell, metric) is not None]
    unscored = tuple(cell.seed for cell in evaluated if cell not in there)
    if not there:
        return Result(anchor=anchor, arm=arm, task=task, metric=metric, cells=tuple(cells), unscored_seeds=unscored)
    planned = cells[0].task
    runs = read_seeds(((cell.seed, cell.folder) for cell in there), first.get(planned))
    first.setdefault(planned, runs[0])
    benchmark = str(read_result(there[0].folder).get("task"))  # the study may have another name for it
    averaged = benchmark_metrics(benchmark).get(metric, Metric())
    scale = 1 if lower_is_better(metric) else 100
    scores_SC = scale * np.stack([cluster_scores(run.records, metric, averaged) for run in runs])
    error = crossed_standard_error(scores_SC)
    by_seed = tuple(_value(cell, metric, scores) for cell, scores in zip(there, scores_SC, strict=True))
    return Result(
        anchor=anchor,
        arm=arm,
        task=task,
        metric=metric,
        value=float(np.mean(by_seed)),
        stderr=error,
        by_seed=by_seed,
        scores=scores_SC,
        cells=tuple(cells),
        seeds=tuple(cell.seed for cell in there),
        unscored_seeds=unscored,
        examples=len(runs[0].records),
        chance=_chance(there, metric, runs[0].records),
    )


def _chance(cells: Sequence[Cell], metric: str, records: Sequence[ExampleRecord]) -> float | None:
    """The score of guessing that the evaluations report for their headline, or that of the commonest reference given
    always, for a recipe's own task that has a match as its headline; None where neither is known."""
    results = [result for cell in cells if (result := read_result(cell.folder)).get("headline") == metric]
    known = [float(result["chance"]) for result in results if result.get("chance") is not None]
    if known:
        return sum(known) / len(known)
    return 100 * commonest_share([one.references for one in records]) if results and metric in MATCHES else None


def _value(cell: Cell, metric: str, scores_C: Scores) -> float:
    """The evaluation's own number, which for a corpus score is not the mean of its examples."""
    reported = _reported(cell, metric)
    return float(np.nanmean(scores_C)) if reported is None else reported


def _reported(cell: Cell, metric: str) -> float | None:
    """The number in an evaluation's result; None where nothing is scored."""
    value = read_result(cell.folder)["metrics"].get(metric, {}).get("value")
    return None if value is None else float(value)


def _kinds(results: dict[tuple[Arm, str], Result]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Tasks in three kinds. A domain task has synthetic arms, or is one of the paper's three trained at one size."""
    general, held_out, domain = [], [], []
    for task in dict.fromkeys(task for _, task in results):
        own = [(arm, result) for (arm, t), result in results.items() if t == task]
        sizes = {arm.size for arm, _ in own if arm.method == "sft"}
        if any(arm.method in SYNTHETIC for arm, _ in own) or (task in DOMAIN_TASKS and len(sizes) < 2):
            domain.append(task)
        elif any(lower_is_better(name) for name in {result.metric for _, result in own if result.metric} or {task}):
            held_out.append(task)
        else:
            general.append(task)
    return tuple(general), tuple(held_out), tuple(domain)


def _average(anchor: str, arm: Arm, study: Study, name: str, tasks: Sequence[str]) -> Result | None:
    """The mean of tasks, over the seeds that have them all; None for an arm that none is planned for."""
    of = tuple(result for task in tasks if (result := study.get(arm, task)) is not None)
    if not of:
        return None
    cells = tuple(cell for result in of for cell in result.cells)
    whole = len(of) == len(tasks)
    seeds = tuple(s for s in of[0].seeds if whole and all(s in one.seeds for one in of))
    evaluated = [s for s in dict.fromkeys(cell.seed for cell in cells) if whole and not any(s in r.missing for r in of)]
    unscored = tuple(s for s in evaluated if s not in seeds)
    if not seeds:
        return Result(anchor=anchor, arm=arm, task=name, metric=AVERAGE, cells=cells, of=of, unscored_seeds=unscored)
    total = sum(one.scores.shape[1] for one in of)
    by_seed = np.mean([[one.by_seed[one.seeds.index(s)] for s in seeds] for one in of], axis=0)
    columns = []
    for one in of:
        scores_SC = one.scores[[one.seeds.index(s) for s in seeds]]
        middle = scores_SC if np.isnan(scores_SC).all() else np.nanmean(scores_SC, axis=1, keepdims=True)
        off = (scores_SC - middle) * total / (len(of) * scores_SC.shape[1])
        columns.append(by_seed[:, None] + off)
    return Result(
        anchor=anchor,
        arm=arm,
        task=name,
        metric=AVERAGE,
        value=float(by_seed.mean()),
        stderr=crossed_standard_error(np.hstack(columns)),
        by_seed=tuple(float(one) for one in by_seed),
        scores=np.hstack(columns),
        cells=cells,
        seeds=seeds,
        unscored_seeds=unscored,
        examples=sum(one.examples for one in of),
        of=of,
    )


def _rank(key: tuple[Arm, str], cells: Sequence[Cell]) -> tuple[int, float, int, int, int]:
    """Students and tasks in the study's order, sizes ascending, methods from base to the strongest teacher."""
    arm, task = key
    order = (
        "teacher",
        "base",
        "sft",
        "sft_again",
        "sft_long",
        "gkd_base",
        "gkd_sft",
        "seqkd",
        "gkd_it",
        "mix",
        "two_stage",
    )
    students = list(dict.fromkeys(cell.student for cell in cells))
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    teachers = list(dict.fromkeys(cell.teacher for cell in cells))
    method = order.index(arm.method) if arm.method in order else len(order)
    of_teacher = arm.method == "teacher"
    size = -1.0 if arm.size is None else float(arm.size)
    return (-1 if of_teacher else students.index(arm.student), size, method, teachers.index(arm.teacher),
            tasks.index(task))  # fmt: skip
