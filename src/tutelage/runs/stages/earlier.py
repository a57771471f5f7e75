"""Evaluations whose answers were scored by an earlier reading or judge: found, and scored again without a model."""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tutelage.common import run_folder
from tutelage.common.errors import TutelageError
from tutelage.common.files import refuse_unwritable, write_bytes_atomically
from tutelage.common.types import Conversation, Message
from tutelage.evaluation.benchmarks import BENCHMARKS, JUDGED, WITH_COMET
from tutelage.evaluation.benchmarks.base import Benchmark
from tutelage.evaluation.judges.comet import comet_ready
from tutelage.evaluation.readers.fingerprint import reading_fingerprint
from tutelage.evaluation.records import read_records, write_records
from tutelage.evaluation.replies import RESPONSES_FILE, Evaluation, was_given, write_evaluation
from tutelage.evaluation.rescore import kept_replies, rescore
from tutelage.evaluation.run_benchmarks import SETTINGS_FILE, SPEED_FILE, SUMMARY_FILE, table_3
from tutelage.evaluation.tasks import score_response, task_result
from tutelage.recipe.base import first_message
from tutelage.recipe.sections import TaskConfig
from tutelage.runs.fingerprints import sampling_of

if TYPE_CHECKING:
    from tutelage.evaluation.judges.endpoint import JudgeEndpoint
    from tutelage.runs.run import Run

BENCHMARK = "benchmark"  # folder of a benchmark run's replies and scores


def earlier_folders(run: Run) -> list[Path]:
    """Folders of runs that sampled what `run` would, and scored it by another reading or other metrics; the newest
    first."""
    root, samplings = glob.escape(str(run.folder.parent)), [sampling_of(run.fingerprint), *run.also]
    ends = [f"{sampling}{end}" for sampling in samplings for end in ("", "_*")]
    found = {Path(path) for end in ends for path in glob.glob(f"{root}/*-{end}")} - {run.folder}
    return sorted(found, key=lambda folder: (folder.stat().st_mtime, folder.name), reverse=True)


def with_other_metrics(task: TaskConfig, root: Path, name: str) -> list[TaskConfig]:
    """The tasks of the finished runs `name`-… in `root` that differ from `task` in what scores the answers alone."""
    found = []
    for file in sorted(root.glob(f"{glob.escape(name)}-*/{run_folder.CONFIG}")):
        try:
            other = TaskConfig(**json.loads(file.read_text(encoding="utf-8"))["spec"])
        except (OSError, ValueError, KeyError, TypeError):  # of another version, or damaged
            continue
        scored = {"metrics": task.metrics, "headline": task.headline}
        if other != task and other.model_copy(update=scored) == task and other not in found:
            found.append(other)
    return found


def reading_note(runs: Iterable[Run]) -> list[str]:
    """A line for evaluations that are there, and were scored by an earlier reading alone; none where there are none."""
    missing = [replace(run, also=()) for run in runs if not run.done]  # other metrics: `tutelage run` scores them
    old = [run for run in missing if any(run_folder.is_done(one) for one in earlier_folders(run))]
    if not old:
        return []
    root = old[0].folder.parent
    return [f"{len(old)} evaluations are scored by an earlier reading, and count as missing: `tutelage rescore {root}`"]


def reuse_replies(run: Run, task: str, judge: JudgeEndpoint | None) -> dict[str, Any] | None:
    """Score the replies of an earlier run of the benchmark `task` again, into `run`'s folder; returns the result.

    None where there are none, or not all of them; those that there are then lie in `run`'s folder. Raises TutelageError
    when the judge or COMET gives no scores.
    """
    inner, partly = run.folder / BENCHMARK / task, ""
    for folder in earlier_folders(run):
        before = folder / BENCHMARK / task
        if not (before / RESPONSES_FILE).is_file():
            continue
        try:
            if run_folder.is_done(folder):
                run_folder.check(folder)
            kept = kept_replies(before)
        except TutelageError as error:
            if not (inner / RESPONSES_FILE).is_file():
                _copy_replies(before, inner)
                partly = f"{run.stage}: the replies of {folder.name} go on: {error}"
            continue
        found = rescore(kept, judge, run.comet, keep=False)
        _copy_replies(before, inner)
        write_evaluation(inner, BENCHMARKS[task], found)
        print(f"{run.stage}: the replies of {folder.name} were scored again, nothing was sampled", flush=True)
        return found.result
    if partly:
        print(partly, flush=True)
    return None


def rescore_runs(root: Path, data_dir: Path | None = None, judge: JudgeEndpoint | None = None) -> Iterator[str]:
    """Score all kept replies under `root`, to benchmarks and to tasks, by today's reading; yields lines about them.

    `judge` is asked about replies to InFoBench that it has not judged, COMET about those to FLORES, once it is set up.
    A run gets a new folder, which plans find; the old one stays. In a folder of `tutelage evaluate --out`, the old
    result and records stay beside the new ones, with the old reading in their names. Raises TutelageError where `root`
    holds no replies.
    """
    files = sorted(root.rglob(RESPONSES_FILE))
    tasks = [path.parent for path in sorted(root.glob(f"*/{run_folder.CONFIG}")) if _answers_a_task(path.parent)]
    if not files and not tasks:
        raise TutelageError(f"{root}: holds no kept replies ({RESPONSES_FILE}); give a folder of runs or of scores")
    for folder in dict.fromkeys([root, *(file.parent for file in files)]):
        refuse_unwritable(folder)  # before a judge is asked
    for file in files:
        folder = file.parent
        of_run = folder.parent.name == BENCHMARK and (folder.parents[1] / run_folder.CONFIG).is_file()
        shown = (folder.parents[1] if of_run else folder).name
        again = _rescore_run if of_run else _rescore_in_place
        try:
            yield f"{shown}: {again(folder, data_dir, judge)}"
        except TutelageError as error:
            yield f"{shown}: skipped: {error}"
    for folder in tasks:
        try:
            yield f"{folder.name}: {_rescore_task(folder)}"
        except TutelageError as error:
            yield f"{folder.name}: skipped: {error}"


def _answers_a_task(folder: Path) -> bool:
    """Whether the folder holds a finished evaluation on a task of a recipe."""
    return run_folder.is_done(folder) and run_folder.read_json(folder, run_folder.CONFIG).get("kind") == "evaluate"


def _scoring(before: dict[str, Any], bench: Benchmark, judge: JudgeEndpoint | None) -> str:
    """How an evaluation is to be scored: its reading and, after an underscore, who else scores it, as in a run's
    fingerprint (`fingerprints.py:scored_by`). Without a judge given, what one said is kept."""
    judged_by, comet = _others(before)
    if judge is not None and bench.name == JUDGED:
        judged_by = [judge.fingerprint]
    if bench.name == WITH_COMET and comet_ready():
        comet = ["comet"]
    return "_".join([bench.reading, *judged_by, *comet])


def _others(before: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The judge's fingerprint and the word `comet`, each alone in a list, or [] where it did not score a result."""
    known = (before.get("judge") or {}).get("fingerprint")
    return [known] if known else [], ["comet"] if "comet" in before.get("metrics", {}) else []


def _rescore_run(inner: Path, data_dir: Path | None, judge: JudgeEndpoint | None) -> str:
    old = inner.parents[1]
    if not run_folder.is_done(old):
        raise TutelageError("not finished; the run goes on by itself")
    run_folder.check(old)
    config = run_folder.read_json(old, run_folder.CONFIG)
    before, mark = run_folder.read_json(old, run_folder.RESULT), str(config["fingerprint"])
    bench = BENCHMARKS.get(inner.name)
    if bench is None:
        raise TutelageError(f"no benchmark is called `{inner.name}`")
    new_mark = f"{sampling_of(mark)}_{_scoring(before, bench, judge)}"
    new = old.with_name(old.name.removesuffix(mark) + new_mark)
    if run_folder.is_done(new):
        return "scored by today's reading" if new == old else f"scored by today's reading in {new.name}"
    found = rescore(kept_replies(inner, data_dir), judge, new_mark.endswith("_comet"))
    _copy_replies(inner, new / BENCHMARK / inner.name)
    write_evaluation(new / BENCHMARK / inner.name, bench, found)
    examples = (new / BENCHMARK / inner.name / run_folder.EXAMPLES).read_bytes()
    write_bytes_atomically(new / run_folder.EXAMPLES, examples)
    run_folder.write_json(new, run_folder.CONFIG, config | {"fingerprint": new_mark})
    if (old / run_folder.ENVIRONMENT).is_file():
        shutil.copy2(old / run_folder.ENVIRONMENT, new / run_folder.ENVIRONMENT)
    own = {key: before[key] for key in ("model", "seed", "seconds") if key in before}
    run_folder.finish(new, before | found.result | own | {"fingerprint": new_mark})
    return _change(before, found)


def _rescore_task(old: Path) -> str:
    """An evaluation's records hold all that its metrics need: what was answered, and the references."""
    run_folder.check(old)
    config = run_folder.read_json(old, run_folder.CONFIG)
    before, mark = run_folder.read_json(old, run_folder.RESULT), str(config["fingerprint"])
    new_mark = f"{sampling_of(mark)}_{reading_fingerprint('tutelage.evaluation.tasks')}"
    new = old.with_name(old.name.removesuffix(mark) + new_mark)
    if run_folder.is_done(new):
        return "scored by today's reading" if new == old else f"scored by today's reading in {new.name}"
    try:
        task = TaskConfig(**config["spec"])
    except ValidationError as error:
        raise TutelageError(f"its task is of another version: {first_message(error)}; run it again") from None
    records = [
        score_response(
            Conversation(one.id, (Message("user", one.prompt),), one.references, old.name),
            one.response,
            task.metrics,
            finished=one.finished,
            tokens=one.tokens,
        )
        for one in read_records(old)
    ]
    result = task_result(str(before["task"]), str(before["model"]), int(before["seed"]), task, records)
    write_records(new, records)
    run_folder.write_json(new, run_folder.CONFIG, config | {"fingerprint": new_mark})
    if (old / run_folder.ENVIRONMENT).is_file():
        shutil.copy2(old / run_folder.ENVIRONMENT, new / run_folder.ENVIRONMENT)
    run_folder.finish(new, before | result | {"fingerprint": new_mark})
    return _change(before, Evaluation(result, records))


def _rescore_in_place(folder: Path, data_dir: Path | None, judge: JudgeEndpoint | None) -> str:
    before = run_folder.read_json(folder, run_folder.RESULT) if run_folder.is_done(folder) else {}
    bench = BENCHMARKS.get(str(before.get("task")))
    judged_by, comet = _others(before)
    old = "_".join([before.get("reading", "before"), *judged_by, *comet])
    if bench is not None and old == _scoring(before, bench, judge):
        return "scored by today's reading"
    found = rescore(kept_replies(folder, data_dir), judge)
    assert bench is not None  # `kept_replies` refuses others
    for name in (run_folder.RESULT, run_folder.EXAMPLES):
        kept = Path(name)
        shutil.copy2(folder / name, folder / f"{kept.stem}-{old}{kept.suffix}")
    write_evaluation(folder, bench, found)
    if (folder.parent / SUMMARY_FILE).is_file() and not was_given(before):
        summary = run_folder.read_json(folder.parent, SUMMARY_FILE)
        results = [found.result if one.get("task") == bench.name else one for one in summary.get("results", [])]
        run_folder.write_json(folder.parent, SUMMARY_FILE, summary | {"table_3": table_3(results), "results": results})
    return _change(before, found)


def _copy_replies(old: Path, new: Path) -> None:
    new.mkdir(parents=True, exist_ok=True)
    for name in (SETTINGS_FILE, SPEED_FILE, RESPONSES_FILE):
        if (old / name).is_file():
            write_bytes_atomically(new / name, (old / name).read_bytes())


def _change(before: dict[str, Any], found: Evaluation) -> str:
    """ "accuracy 92.00 → 66.00 (250 replies)"."""
    name = found.result["headline"]
    values = [result.get("metrics", {}).get(name, {}).get("value") for result in (before, found.result)]
    old, new = ("unscored" if value is None else f"{value:.2f}" for value in values)
    count = len(found.records)
    return f"{found.result['task']} {name} {old} → {new} ({count} repl{'y' if count == 1 else 'ies'})"
