"""Any task of lm-evaluation-harness by name, answered by this project's samplers: `--tasks NAME`, or
`lm-eval:NAME` where a benchmark of this project has the same name.

NAME is a task, a group or a tag of lm-eval, or the path of a task file. lm-eval makes the prompts and scores the
replies; every task leaves the evidence that a benchmark leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.common.errors import TutelageError, did_you_mean
from tutelage.common.hashing import example_seed
from tutelage.common.types import Sample
from tutelage.data.sources import UNREACHABLE, hub_asked_once, is_unreachable
from tutelage.evaluation.benchmarks import BENCHMARKS, LM_EVAL
from tutelage.evaluation.benchmarks.gpqa import seal
from tutelage.evaluation.benchmarks.lm_eval import quiet
from tutelage.evaluation.page import write_page
from tutelage.evaluation.readers.fingerprint import reading_fingerprint
from tutelage.evaluation.readers.thoughts import read_reply, unended_notice
from tutelage.evaluation.records import ExampleRecord, folder_name, write_records, write_result
from tutelage.evaluation.sampler_lm import sampler_lm

if TYPE_CHECKING:
    from tutelage.evaluation.answer_items import Answerer

_FEW_SHOT_SEED = 1234  # lm-eval's own
Samples = Sequence[Mapping[str, Any]]  # lm-eval's logged samples: one per example and filter


def load_lm_eval_task(name: str) -> Any:
    """lm-eval's `TaskDict` of `name` ("lm-eval:…"), its data read.

    Raises TutelageError where lm-eval is not installed, has no such task, or cannot get the task's data.
    """
    asked = name.removeprefix(LM_EVAL)
    is_file = asked.endswith((".yaml", ".yml"))
    try:
        manager = _task_manager(not is_file)
    except ImportError:
        raise TutelageError(f"{name}: lm-eval is not installed: pip install 'lm-eval>=0.4.13,<0.5'") from None
    if not is_file and asked not in manager.all_tasks:
        hint = did_you_mean(asked, [*BENCHMARKS, *manager.all_tasks], "`lm-eval ls tasks` lists lm-eval's")
        raise TutelageError(f"no benchmark and no task of lm-eval is called `{asked}`: {hint}")
    try:
        with quiet(), hub_asked_once():
            loaded = manager.load([asked])
    except Exception as error:  # no network, a gated set, a broken file: each its own class of several libraries
        if is_unreachable(error):
            raise TutelageError(f"{name}: its data cannot be loaded from the hub, {UNREACHABLE}") from None
        raise TutelageError(f"{name}: lm-eval cannot load it: {' '.join(str(error).split())[:300]}") from None
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_FEW_SHOT_SEED)
    return loaded


def run_lm_eval_task(
    name: str, loaded: Any, answerer: Answerer, out: Path, limit: int | None, about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Answer and score a loaded task; return one result per task in it, and per group that has scores of its own.

    Each is written to a folder of its own in `out`. `limit`: examples per task, drawn by the answerer's seed. `about`
    is added to every result. Raises TutelageError where lm-eval cannot run the task here.
    """
    from lm_eval.evaluator import evaluate

    tasks: dict[str, Any] = loaded["tasks"]
    drawn = None
    if limit is not None:
        drawn = {task: _drawn(len(one.eval_docs), limit, answerer.seed) for task, one in tasks.items()}
    lm = sampler_lm(
        answerer.template,
        answerer.sampler,
        seed=answerer.seed,
        max_new_tokens=answerer.max_new_tokens,
        context=answerer.context,
        greedy=any(_asks_whether_greedy(task) for task in tasks.values()),
    )
    try:
        with quiet():
            found: Any = evaluate(
                lm, loaded, samples=drawn, apply_chat_template=answerer.chat, fewshot_as_multiturn=answerer.chat
            )
    except ValueError as error:  # code that a model wrote, images, a temperature that the sampler does not know
        raise TutelageError(f"{name}: lm-eval cannot run it here: {' '.join(str(error).split())}") from None
    notices = [f"{name}: {lm.cut} prompts were cut at their beginning to fit the model"] if lm.cut else []
    about = {**about, "reading": reading_fingerprint(__name__)}
    results: list[dict[str, Any]] = []
    shares: set[str] = set()  # metrics whose scores are 0..1
    for task, samples in found["samples"].items():
        own = _shares(samples)
        shares |= own
        result = _result(task, found["results"][task], own, len({sample["doc_id"] for sample in samples}))
        written = {place: sample for (of, place), sample in lm.samples.items() if of == task}
        records = _records(samples, own, written)
        unended = sum(read_reply(record.response).unended for record in records)
        notes = [*notices, *unended_notice(result["task"], unended, len(records))]
        result |= {**about, "shots": found["n-shot"].get(task), "unended_thoughts": unended, "notices": notes}
        _write(out / folder_name(result["task"]), result, records, sealed="gpqa" in task)
        results.append(result)
    for group, values in found.get("groups", {}).items():
        result = _result(group, values, shares, sum(found["n-samples"][task]["effective"] for task in tasks))
        result |= {**about, "notices": []}
        write_result(out / folder_name(result["task"]), result)
        results.append(result)
    return results


@cache
def _task_manager(all_tasks: bool) -> Any:
    """lm-eval's index of its own tasks, which takes some 10 s to build, or an empty one for a task file."""
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager(include_defaults=all_tasks)


def _asks_whether_greedy(task: Any) -> bool:
    """Whether a task may use the second value of `loglikelihood`; most multiple choices do not."""
    metrics = [str(one.get("metric")) for one in task.get_config("metric_list") or ()]
    return task.OUTPUT_TYPE != "multiple_choice" or "exact_match" in metrics


def _drawn(count: int, limit: int, seed: int) -> list[int]:
    """`limit` of `count` examples, in their order, drawn by the seed."""
    return sorted(sorted(range(count), key=lambda place: example_seed(seed, str(place)))[:limit])


def _shares(samples: Samples) -> set[str]:
    """The metrics whose score is a number in 0..1 for every example."""
    scores: dict[str, list[Any]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            scores.setdefault(_metric_name(metric, sample["filter"]), []).append(sample[metric])
    return {name for name, values in scores.items() if all(_is_number(v) and 0 <= v <= 1 for v in values)}


def _result(task: str, values: Mapping[str, Any], shares: Iterable[str], n: int) -> dict[str, Any]:
    """The content of `result.json`: scores of 0..1 become 0..100, others keep lm-eval's unit."""
    metrics: dict[str, dict[str, float | None]] = {}
    for key, value in values.items():  # "acc,none": 0.5, "acc_stderr,none": 0.1 or "N/A", "alias": …
        metric, comma, chosen_by = key.partition(",")
        if comma and not metric.endswith("_stderr") and _is_number(value):
            name, error = _metric_name(metric, chosen_by), values.get(f"{metric}_stderr,{chosen_by}")
            factor = 100 if name in shares else 1
            found = {"value": value, "stderr": error}
            metrics[name] = {key: factor * float(one) if _is_number(one) else None for key, one in found.items()}
    result = {"task": f"{LM_EVAL}{task}", "n": n, "unscored": 0, "headline": next(iter(metrics), None)}
    return {**result, "metrics": metrics, "groups": {}}


def _metric_name(metric: str, filter_name: str) -> str:
    return metric if filter_name == "none" else f"{metric}_{filter_name}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _records(samples: Samples, shares: set[str], written: Mapping[int, tuple[Sample, str]]) -> list[ExampleRecord]:
    by_example: dict[int, list[Mapping[str, Any]]] = {}
    for sample in samples:  # an example comes again for every filter
        by_example.setdefault(sample["doc_id"], []).append(sample)
    return [
        _record(number, by_filter, shares, written.get(place))
        for place, (number, by_filter) in enumerate(by_example.items())
    ]


def _record(number: int, by_filter: Samples, shares: set[str], written: tuple[Sample, str] | None) -> ExampleRecord:
    """One example's evidence. The response to a choice is its likeliest option."""
    first = by_filter[0]
    reply, options = first["resps"][0][0], [str(arguments[-1]) for arguments in first["arguments"]]
    if isinstance(reply, str):
        response, answer = written[1] if written else str(reply), first["filtered_resps"][0]
    else:
        totals = [one[0][0] if isinstance(one[0], tuple) else one[0] for one in first["resps"]]
        response = answer = options[totals.index(max(totals))].strip() if len(options) > 1 else ""
    target = first["target"]
    if isinstance(target, int) and not isinstance(reply, str) and 0 <= target < len(options):
        target = options[target].strip()
    named = [(_metric_name(metric, one["filter"]), one[metric]) for one in by_filter for metric in one["metrics"]]
    return ExampleRecord(
        id=str(number),
        prompt=str(first["arguments"][0][0]),
        response=response,
        references=tuple(map(str, target)) if isinstance(target, list | tuple) else (str(target),),
        scores={name: float(score) for name, score in named if name in shares},
        answer=str(answer) if answer else None,
        reason="scored by lm-eval",
        finished=written is None or written[0].finished,
        tokens=len(written[0].tokens) if written else 0,
    )


def _write(folder: Path, result: dict[str, Any], records: Sequence[ExampleRecord], sealed: bool) -> None:
    """Records, result and page. `sealed`: not in plain text where a crawler may find it, as GPQA's authors ask."""
    if sealed:
        records = [replace(record, prompt=seal(record.prompt), response=seal(record.response)) for record in records]
    write_records(folder, records)
    write_result(folder, result)
    write_page(folder, include_text=not sealed)
