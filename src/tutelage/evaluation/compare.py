"""Compare two evaluations of the same examples: the difference a − b, its 95 % interval and p.

Examples are resampled, with their parts (an IFEval prompt with its instructions). Where a benchmark has tasks of its
own (BBH, MMLU-Pro), they stay as they are, and examples vary within them (`clusters.py`).
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.common.errors import TutelageError
from tutelage.common.run_folder import CONFIG, EXAMPLES, MODEL, RESULT, read_if_whole
from tutelage.evaluation.benchmarks import benchmark_metrics
from tutelage.evaluation.chance import CHANCE, chance_warning
from tutelage.evaluation.clusters import Metric, cluster_values, unit_weights, units_of
from tutelage.evaluation.metrics import lower_is_better
from tutelage.evaluation.records import ExampleRecord, aligned, read_records, read_result
from tutelage.evaluation.statistics import Paired, Scores, paired_bootstrap
from tutelage.recipe.owner import OWNER

MetricsOf = Callable[[str], Mapping[str, Metric]]  # task → its metrics; others are plain means over examples


@dataclass(frozen=True)
class MetricComparison:
    """One metric on the examples that both sides have a score for; 0..100, losses and divergences in nats; nan where
    undefined."""

    metric: str
    a: float
    b: float
    difference: float  # a − b
    low: float  # ends of the 95 % interval
    high: float
    p_value: float  # two-sided
    stderr: float  # of the difference
    examples: int  # scored on both sides; each of IFEval's instructions and InFoBench's questions counts
    clusters: int  # the independent draws among them
    dropped: int  # unscored on at least one side


@dataclass(frozen=True)
class TaskComparison:
    task: str
    examples: int
    metrics: tuple[MetricComparison, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    a: str
    b: str
    tasks: tuple[TaskComparison, ...]
    only_a: tuple[str, ...]  # tasks that the other folder lacks
    only_b: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The comparison for `--json`; undefined numbers are None."""
        return _without_nan(asdict(self))


def compare_folders(a: Path, b: Path, metrics_of: MetricsOf | None = None, samples: int = 10_000) -> Comparison:
    """Compare two folders: evaluations of one task, or folders that hold one evaluation per task.

    `metrics_of`: how a task's metrics are averaged, by default as for the benchmarks. `samples`: of the bootstrap.
    Several evaluations of one task are told apart by their folders' names, and paired by them. Raises TutelageError
    when a folder holds no evaluation, when the two have no task in common, or when a task was not evaluated on the same
    examples (the first id that differs is named). Of one folder with itself all differences are 0.
    """
    left, right = _evaluations(a), _evaluations(b)
    if len(left) == len(right) == 1:  # of one task each: the folders' names do not matter
        pairs = [(next(iter(left.values())), next(iter(right.values())))]
        first, second = (read_result(folder)["task"] for folder in pairs[0])
        if first != second:
            raise TutelageError(f"{a} is an evaluation of {first} and {b} of {second}; compare evaluations of one task")
    else:
        pairs = [(left[name], right[name]) for name in left if name in right]
    if not pairs:
        raise TutelageError(f"{a} ({', '.join(left)}) and {b} ({', '.join(right)}) have no task in common")
    tasks = _told_apart([_compare_task(*pair, metrics_of or benchmark_metrics, samples) for pair in pairs], pairs)
    all_paired = len(pairs) == len(left) == len(right)
    only_a = () if all_paired else tuple(name for name in left if name not in right)
    only_b = () if all_paired else tuple(name for name in right if name not in left)
    return Comparison(str(a), str(b), tasks, only_a, only_b)


def table(comparison: Comparison, columns: int = 0) -> str:
    """The comparison as aligned lines of text, with notes and warnings below; in a terminal whose `columns` do not hold
    them, as a block of lines per row."""
    lines = [f"a: {comparison.a}", f"b: {comparison.b}", ""]
    rows: list[tuple[str, ...]] = [("task", "metric", "a", "b", "a − b", "95 % interval", "p", "n")]
    for task in comparison.tasks:
        for one in task.metrics:
            counted = str(one.examples) if one.clusters == one.examples else f"{one.examples} in {one.clusters}"
            digits = digits_of(one.metric)
            interval = "unknown" if math.isnan(one.low) else f"{one.low:+.{digits}f} to {one.high:+.{digits}f}"
            means = (f"{one.a:.{digits}f}", f"{one.b:.{digits}f}", f"{one.difference:+.{digits}f}")
            values = (*means, interval, _p(one.p_value), counted)
            rows.append(
                (task.task, one.metric, *("unscored" if value in ("nan", "+nan") else value for value in values))
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    narrow = 0 < columns < sum(widths) + 2 * len(widths) - 2
    for task, metric, *values in rows[1:] if narrow else ():
        lines += [f"{task} {metric}", *(f"  {name}: {value}" for name, value in zip(rows[0][2:], values, strict=True))]
    for row in () if narrow else rows:
        padded = zip(row, widths, "<<>>>>>>", strict=True)
        lines.append("  ".join(f"{cell:{side}{width}}" for cell, width, side in padded).rstrip())
    lines.append("")
    for task in comparison.tasks:
        lines += [
            f"note: {task.task} {one.metric}: {one.dropped} without a score in a or b left out"
            for one in task.metrics
            if one.dropped
        ]
        lines += [f"warning: {task.task}: {text}" for text in task.warnings]
    for side, names in (("a", comparison.only_a), ("b", comparison.only_b)):
        if names:
            lines.append(f"only in {side}: {', '.join(names)}")
    count = sum(not math.isnan(one.p_value) for task in comparison.tasks for one in task.metrics)
    if count > 1:
        lines.append(f"{count} comparisons, not corrected for their number: by chance, one in 20 has p < 0.05")
    return "\n".join(lines).rstrip()


def _evaluations(folder: Path) -> dict[str, Path]:
    """{folder name: folder} of the evaluations in a folder, or of the folder itself."""
    if (folder / EXAMPLES).is_file():
        return {folder.name: folder}
    found = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{EXAMPLES}"))}
    if not found:
        raise TutelageError(f"{folder} holds no evaluation: give a folder with {EXAMPLES}, or one with such folders")
    return found


def _told_apart(tasks: Sequence[TaskComparison], pairs: Sequence[tuple[Path, Path]]) -> tuple[TaskComparison, ...]:
    """The comparisons; those of one task get the names of their folders."""
    often = {name for name, count in Counter(one.task for one in tasks).items() if count > 1}
    return tuple(
        replace(one, task=f"{one.task} ({a.name})") if one.task in often else one
        for one, (a, _) in zip(tasks, pairs, strict=True)
    )


def _compare_task(a: Path, b: Path, metrics_of: MetricsOf, samples: int) -> TaskComparison:
    results = read_result(a), read_result(b)
    left, right = _same_examples(a, b)
    task = str(results[0]["task"])
    known = metrics_of(task)
    metrics, warnings = [], [*_read_otherwise(*results), *_scored_otherwise(*results)]
    if a.resolve() == b.resolve():
        warnings.append("a and b are one evaluation, so all differences are 0")
    for name in results[0]["metrics"]:
        if name not in results[1]["metrics"]:
            warnings.append(f"{name} is only in {a.name}")
            continue
        metrics.append(_compare_metric(name, known.get(name, Metric()), left, right, samples))
    warnings += [f"{name} is only in {b.name}" for name in results[1]["metrics"] if name not in results[0]["metrics"]]
    for side, result, records in (("a", results[0], left), ("b", results[1], right)):
        warnings += _at_chance(side, result, known, records)
    return TaskComparison(task, len(left), tuple(metrics), tuple(warnings))


def _read_otherwise(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """A warning where the replies of the two were scored by different readings, or asked for by different prompts."""
    found = []
    one, two = (r.get("reading") or str(r.get("fingerprint", "")).partition("_")[2] for r in (a, b))
    if one != two:
        found.append("a and b were scored by different readings: `tutelage rescore` both folders first")
    for name, what in (("prompt", "prompts"), ("shots", "numbers of solved examples"), ("chat", "forms of chat")):
        if name in a and name in b and a[name] != b[name]:
            found.append(f"a and b were asked with different {what}")
    return found


def _scored_otherwise(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Warnings where a judge, or COMET, has scored one side only, or another judge or model each side."""
    judges = [result.get("judge") for result in (a, b)]
    if all(judges):
        if judges[0] == judges[1]:
            return []
        one, two = (f"{judge['model']} ({judge['rules']} rules)" for judge in judges if judge)
        return [f"a is judged by {one}, b by {two}: their scores cannot be compared"]
    sides = dict(zip("ab", (a, b), strict=True))
    found = [f"{side} has no judge, so it is unscored" for side, one in sides.items() if one.get("judge", "") is None]
    by_comet = [side for side, result in sides.items() if result.get("comet")]
    if len(by_comet) == 1:
        other = "b" if by_comet == ["a"] else "a"
        found.append(
            f"COMET has scored only {by_comet[0]}: compare them by chrF, or run `tutelage setup comet` and score "
            f"{other} again"
        )
    elif len(by_comet) == 2 and a["comet"] != b["comet"]:
        found.append(f"COMET scored a by {a['comet']}, b by {b['comet']}: compare them by chrF, or score one again")
    return found


def _at_chance(
    side: str, result: Mapping[str, Any], known: Mapping[str, Metric], records: Sequence[ExampleRecord]
) -> list[str]:
    """A warning if the headline score is at chance level, where the score of guessing is known."""
    chance, headline = result.get("chance", CHANCE.get(str(result.get("task")))), result.get("headline")
    if chance is None or headline is None:
        return []
    source = known.get(headline, Metric()).source or headline
    scores = [score for record in records if (score := record.scores.get(source)) is not None]
    warning = chance_warning(f"{side} ({headline})", scores, chance / 100)
    return [warning] if warning else []


def _same_examples(a: Path, b: Path) -> tuple[list[ExampleRecord], list[ExampleRecord]]:
    """Both folders' records in a's order. Raises TutelageError unless ids, targets and parts are the same."""
    left = read_records(a)
    try:
        right = aligned(read_records(b), left, b, a)
        for one, two in zip(left, right, strict=True):
            if one.references != two.references or _part_names(one) != _part_names(two):
                raise TutelageError(
                    f"{a} and {b} were not made from the same examples (`{one.id}` has different targets in the two); "
                    "evaluate both with the same data and --seed"
                )
    except TutelageError as error:
        raise TutelageError(f"{error}{_scored_anew(a, b)}") from error
    return left, right


def _scored_anew(a: Path, b: Path) -> str:
    """The command that scores the model of the older of two evaluations of a recipe's task on today's rows; empty for
    others."""
    older = min(a, b, key=lambda folder: (folder / RESULT).stat().st_mtime)
    one, two = (read_if_whole(folder, CONFIG) for folder in (a, b))
    plan, task = (one if older == a else two), read_result(older)["task"]
    model = Path(plan.get("models", {}).get("model", {}).get("path", ""))
    if not plan.get("recipe") or one.get("recipe") != two.get("recipe") or not model.name:
        return ""
    report = older.parent / f"{plan['recipe']}-report"
    file = read_if_whole(report, OWNER).get("file")
    recipe = os.path.relpath(report / file) if file else f"{plan['recipe']}.yaml"
    command = f"tutelage evaluate {recipe} --model {model.parent if model.name == MODEL else model} --tasks {task}"
    return f": `{command}` scores the older model on today's rows; compare the folder that it names"


def _part_names(record: ExampleRecord) -> list[Any]:
    return [part.get("name") for part in record.parts]


def _compare_metric(
    name: str, metric: Metric, left: Sequence[ExampleRecord], right: Sequence[ExampleRecord], samples: int
) -> MetricComparison:
    units = list(zip(units_of(left, name, metric), units_of(right, name, metric), strict=True))
    scored = [(one, two) for one, two in units if one.score is not None and two.score is not None]
    pairs_U2 = np.array([(one.score, two.score) for one, two in scored], dtype=np.float64).reshape(-1, 2)
    weights_U2 = unit_weights([one.group for one, _ in scored], metric.equal_groups)[:, None].repeat(2, 1)
    scale = 100
    if lower_is_better(name):  # a mean over tokens, as in the evaluation's own result
        weights_U2, scale = weights_U2 * [(one.tokens, two.tokens) for one, two in scored], 1
    clusters = [one.cluster for one, _ in scored]
    means, paired = _paired(pairs_U2, weights_U2, clusters, [one.stratum for one, _ in scored], samples)
    return MetricComparison(
        metric=name,
        a=scale * means[0],
        b=scale * means[1],
        difference=scale * (means[0] - means[1]),
        low=scale * paired.low,
        high=scale * paired.high,
        p_value=paired.p_value,
        stderr=scale * paired.stderr,
        examples=len(scored),
        clusters=len(set(clusters)),
        dropped=len(units) - len(scored),
    )


def _paired(
    pairs_U2: Scores, weights_U2: Scores, clusters: Sequence[str], strata: Sequence[str], samples: int
) -> tuple[tuple[float, float], Paired]:
    """Weighted means of both sides, and the paired bootstrap of their clusters' values."""
    if not len(pairs_U2):
        nan = float("nan")
        return (nan, nan), Paired(nan, nan, nan, nan, nan, 0, 0)
    sides = zip(pairs_U2.T, weights_U2.T, strict=True)
    (left, left_C), (right, right_C) = (cluster_values(one_U, own_U, clusters, strata) for one_U, own_U in sides)
    return (left, right), paired_bootstrap(left_C, right_C, samples=samples)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def digits_of(metric: str) -> int:
    """After the decimal point of a metric's comparison."""
    return 4 if lower_is_better(metric) else 2


def _p(value: float) -> str:
    if math.isnan(value):
        return "unknown"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def edge_bound(mean: float, stderr: float | None, examples: int) -> tuple[str, float] | None:
    """("≥", 95.1) for a mean of 100 on 60 examples, ("≤", 4.9) for one of 0: the 95 % bound of a mean of scores 0..100
    that are all at the same edge, whose standard error of 0 says nothing; None for any other.

    At most a share u of all examples scores otherwise, with (1 − u)^n = 5 %: the exact form of the rule of three.
    Examples that depend on each other know less.
    """
    if stderr != 0.0 or mean not in (0.0, 100.0) or examples < 1:
        return None
    low = 100.0 * 0.05 ** (1.0 / examples)
    return ("≥", low) if mean else ("≤", 100.0 - low)


def edge_text(metric: str, mean: float, stderr: float | None, examples: int, digits: int = 2) -> str:
    """ "100.00 (≥ 95.13)" for a score whose examples are all at the same edge of 0..100, with a 95 % bound in the place
    of an error; "" for any other."""
    bound = None if lower_is_better(metric) else edge_bound(mean, stderr, examples)
    return "" if bound is None else f"{mean:.{digits}f} ({bound[0]} {bound[1]:.{digits}f})"
