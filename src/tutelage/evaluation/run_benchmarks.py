"""Run benchmarks on a model: read the data, sample, score, write the evidence, and print the paper's Table 3.

Every benchmark has a folder in --out: `responses.jsonl` grows as replies end, so that a killed run continues where it
stopped; `speed.json` has the speed of the last call that sampled; `examples.jsonl` and `result.json` come at the end. A
reply depends on the model, the seed and the settings in `settings.json`, not on the other questions, so a later run
with another --limit keeps the replies that exist.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tutelage.common.errors import TutelageError
from tutelage.common.files import alone_in, refuse_unwritable, write_atomically
from tutelage.common.progress import print_note
from tutelage.evaluation.answer_items import (
    REPLIES_VERSION,
    Answerer,
    Asking,
    answer,
    count_replies,
    new_token_limit,
    prompt_notices,
    resume,
)
from tutelage.evaluation.benchmarks import JUDGED, LM_EVAL, TABLE_3, benchmark
from tutelage.evaluation.benchmarks.base import Benchmark, Item, Reply
from tutelage.evaluation.benchmarks.data import data_folder
from tutelage.evaluation.compare import edge_text
from tutelage.evaluation.lm_eval_tasks import load_lm_eval_task, run_lm_eval_task
from tutelage.evaluation.replies import RESPONSES_FILE, Evaluation, score, scored_by, with_chance, write_evaluation

if TYPE_CHECKING:
    from tutelage.evaluation.judges.endpoint import JudgeEndpoint
    from tutelage.recipe.sections import ModelConfig

SETTINGS_FILE = "settings.json"
SPEED_FILE, SUMMARY_FILE = "speed.json", "summary.json"


@dataclass(frozen=True)
class Settings:
    """What to run and how: the options of `tutelage evaluate`."""

    tasks: tuple[str, ...]  # names of benchmarks, or of tasks of lm-eval with "lm-eval:" before them
    model: str  # as the user wrote it, for the results
    out: Path
    data_dir: Path | None = None
    limit: int | None = None  # examples per benchmark
    seed: int = 0
    batch_tokens: int | None = None  # tokens per call of the sampler, prompts and new ones; None: one call
    batch_size: int = 128  # replies written at the same time
    chat: bool | None = None  # None: where the tokenizer has a chat template
    sampler: Literal["engine", "vllm"] = "engine"
    judge: JudgeEndpoint | None = None
    comet: bool | None = None  # for FLORES: needed, not used, or (None) where it is set up
    prompt: str | None = None  # template of the question instead of the benchmark's own prompt; see `answer_items`
    group: str | None = None  # only the examples of this group
    loading: ModelConfig | None = None  # where the model comes from and how it is loaded; None: `model` by its defaults
    max_new_tokens: int | None = None  # per reply; None: the benchmark's own limit
    device: str | None = None  # "cpu" or "cuda"; None: a GPU if there is one


def run_benchmarks(settings: Settings, answerer: Answerer | None = None) -> list[dict[str, Any]]:
    """Answer and score all tasks; return their results in order.

    `summary.json` and one folder per task are written to `settings.out`. All data are read, and what scores is tried,
    before the model is loaded, unless `answerer` gives a loaded one. Raises TutelageError for data, models, judges and
    folders that cannot be used.
    """
    for place in (settings.out, *(settings.out / name for name in settings.tasks if not name.startswith(LM_EVAL))):
        refuse_unwritable(place, "--out")
    folder = data_folder(settings.data_dir)
    loaded = {
        name: load_lm_eval_task(name)
        if name.startswith(LM_EVAL)
        else benchmark(name).load(folder, settings.limit, settings.seed, settings.group)
        for name in settings.tasks
    }
    _check_tasks(settings, loaded)
    answerer = answerer or load_answerer(settings)
    about = {"model": settings.model, "seed": settings.seed, "limit": settings.limit, "chat": answerer.chat}
    results = []
    for name, items in loaded.items():
        if name.startswith(LM_EVAL):
            results += run_lm_eval_task(name, items, answerer, settings.out, settings.limit, about)
        else:
            results.append(run_one(settings, benchmark(name), items, answerer))
    content = json.dumps(summary(settings, results), indent=2, ensure_ascii=False)
    write_atomically(settings.out / SUMMARY_FILE, content + "\n")
    return results


def _check_tasks(settings: Settings, loaded: Mapping[str, Any]) -> None:
    """Raise TutelageError where what asks or scores cannot be used here, such as solved examples that are not there,
    before any reply is sampled."""
    for name, items in loaded.items():
        if not name.startswith(LM_EVAL) and items:
            bench, asking = benchmark(name), Asking(chat=True, prompt=settings.prompt)
            for item in {item.group: item for item in items}.values():  # each group may have examples of its own
                asking.prompt_of(bench, item, asking.shots(bench))
            bench.score(items[:1], {items[0].id: Reply("")})
    if settings.judge is not None and JUDGED in loaded:
        from tutelage.evaluation.judges.chat_client import ChatClient

        ChatClient(settings.judge)
        _ = settings.judge.wording  # raises where the benchmark's own rules cannot be had
        if count_replies(settings.out / JUDGED / RESPONSES_FILE) < len(loaded[JUDGED]):  # else it may have judged them
            _refuse_absent(settings.judge)


def _refuse_absent(judge: JudgeEndpoint) -> None:
    """Raise TutelageError for a judge that does not answer; a line for one of which that is not known."""
    from tutelage.evaluation.judges.reachable import judge_problem

    found = judge_problem(judge)
    if found is not None and found[1]:
        raise TutelageError(found[0])
    if found is not None:
        print_note(found[0])


def summary(settings: Settings, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of `summary.json`."""
    about = {"model": settings.model, "seed": settings.seed, "limit": settings.limit}
    return {**about, "table_3": table_3(results), "results": list(results)}


def load_answerer(settings: Settings) -> Answerer:
    """Load the model: in bfloat16 on a GPU, in float32 on the CPU."""
    import torch

    from tutelage.recipe.sections import ModelConfig, SamplingConfig
    from tutelage.sampling.make_sampler import load_to_write, make_sampler

    config = settings.loading or ModelConfig(path=settings.model)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if settings.sampler == "vllm" and device == "cpu":
        raise TutelageError("--sampler vllm needs a CUDA device; leave it out")
    model = load_to_write(config, device, settings.batch_size)
    backend = "torch" if settings.sampler == "engine" else "vllm"
    sampling = SamplingConfig(backend=backend, batch_size=settings.batch_size, memory=0.7)
    sampler = make_sampler(model, sampling, cache_share=0.8)
    templated = config.chat_template != "auto" or model.tokenizer.chat_template is not None
    chat = templated if settings.chat is None else settings.chat
    return Answerer(
        model.template,
        sampler,
        model.fingerprint,
        chat,
        model.context,
        settings.seed,
        settings.batch_tokens,
        settings.prompt,
        settings.max_new_tokens,
    )


def run_one(settings: Settings, bench: Benchmark, items: Sequence[Item], answerer: Answerer) -> dict[str, Any]:
    """Answer the items without a reply, score all of them, write the benchmark's folder; return its result.

    Raises TutelageError while another process does so.
    """
    with alone_in(settings.out / bench.name) as folder:
        return _run_one(settings, bench, items, answerer, folder)


def _run_one(
    settings: Settings, bench: Benchmark, items: Sequence[Item], answerer: Answerer, folder: Path
) -> dict[str, Any]:
    current, version = _check_settings(folder, settings, bench, answerer)
    replies = resume(folder / RESPONSES_FILE, bench, items, replace(answerer.asking, version=version))
    write_atomically(folder / SETTINGS_FILE, json.dumps(current, indent=2) + "\n")
    missing = [item for item in items if item.id not in replies]
    if missing:
        new, measured = answer(bench, missing, answerer, folder / RESPONSES_FILE)
        write_atomically(folder / SPEED_FILE, json.dumps(measured, indent=1) + "\n")
        replies |= new
    records, about_scores = score(bench, items, replies, settings.judge, settings.comet)
    about_prompts = prompt_notices(bench, replies, answerer.context, answerer.asking.shots(bench))
    result = bench.summarise(records)
    chance, warnings = with_chance(bench, items, records)
    result |= {
        **chance,
        **scored_by(bench, records, settings.judge),
        "model": settings.model,
        "seed": settings.seed,
        "limit": settings.limit,
        "group": settings.group,
        "prompt": answerer.prompt,
        "chat": answerer.chat,
        "shots": answerer.asking.shots(bench),
        "max_new_tokens": new_token_limit(bench, answerer),
        "context": answerer.context,
        "reading": bench.reading,
        "cut": sum(not record.finished for record in records),
        "mean_tokens": sum(record.tokens for record in records) / len(records) if records else None,
        "speed": _speed(folder),
        "notices": [*about_prompts, *about_scores, *warnings],
    }
    write_evaluation(folder, bench, Evaluation(result, records))
    return result


def table_3(results: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The columns of the paper's Table 3; None for a column without a value. The macro average needs all columns."""
    by_task = {result["task"]: result for result in results}
    columns: dict[str, float | None] = {}
    for task, title in TABLE_3.items():
        result = by_task.get(task)
        columns[title] = result["metrics"][result["headline"]]["value"] if result else None
    values = [value for value in columns.values() if value is not None]
    average = sum(values) / len(values) if len(values) == len(columns) else None
    return {**columns, "Average": average}


def lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines that the command prints per result: one per metric, the speed, the notices."""
    out = []
    for result in results:
        for name, found in result["metrics"].items():
            tasks = f"; ± {found['stderr_tasks']:.2f} over tasks" if found.get("stderr_tasks") is not None else ""
            said = score_words(name, found, result["n"])
            out.append(f"{result['task']} {name}: {said} (n = {result['n']}{tasks})")
        if result.get("speed"):
            speed = result["speed"]
            out.append(
                f"{result['task']}: {speed['examples']} examples in {speed['seconds']:.0f} s, "
                f"{speed['new_tokens_per_s']:.0f} new tokens/s, {speed['tokens_per_s']:.0f} with prompts"
            )
        if "comet" in result:
            out.append(f"{result['task']}: {'COMET by ' + result['comet'] if result['comet'] else 'chrF only'}")
        out += [f"note: {notice}" for notice in result.get("notices", [])]
    return out


def score_words(name: str, found: Mapping[str, Any], examples: int) -> str:
    """ "43.40 ± 0.51" for the metric `name` of a result, "100.00 (≥ 95.13)" with a 95 % bound where all examples score
    100; "unscored" where there is no value."""
    if found["value"] is None:
        return "unscored"
    if edge := edge_text(name, found["value"], found["stderr"], examples):
        return edge
    return f"{found['value']:.2f} ± {'unknown' if found['stderr'] is None else format(found['stderr'], '.2f')}"


def table_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The row of Table 3 in Markdown; empty where none of its benchmarks was run. – is not run."""
    row = table_3(results)
    ran = {TABLE_3[result["task"]] for result in results if result["task"] in TABLE_3}
    if not ran:
        return []
    lacking = {**dict.fromkeys(ran, "unscored"), "Average": "unscored" if ran == {*TABLE_3.values()} else "–"}
    cells = [lacking.get(name, "–") if value is None else f"{value:.2f}" for name, value in row.items()]
    return [f"| {' | '.join(row)} |", "|" + "---|" * len(row), f"| {' | '.join(cells)} |"]


def _check_settings(
    folder: Path, settings: Settings, bench: Benchmark, answerer: Answerer
) -> tuple[dict[str, Any], int]:
    """The settings that replies depend on, and the version of the replies in the folder. Raises TutelageError where
    these had other settings."""
    current: dict[str, Any] = {
        "method_version": REPLIES_VERSION,
        "model": settings.model,
        "model_fingerprint": answerer.fingerprint,
        "seed": settings.seed,
        "chat": answerer.chat,
        "max_new_tokens": new_token_limit(bench, answerer),
    }
    loading = settings.loading
    if (loading is not None and loading.tensor_parallel is not None) or settings.sampler != "engine":
        current["sampler"] = "vllm"
    if loading is not None and loading.precision is not None:  # the model's fingerprint is that of its files
        current["precision"] = loading.precision
    if answerer.prompt is not None:
        current["prompt"] = answerer.prompt
    file, version = folder / SETTINGS_FILE, REPLIES_VERSION
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        if before.get("method_version") == 1:  # `resume` leaves out what has changed since
            before["method_version"], version = REPLIES_VERSION, 1
        later = ("sampler", "prompt", "precision")
        keys = [*current, *(key for key in later if key in before and key not in current)]
        changed = [key for key in keys if before.get(key) != current.get(key) and key != "model"]
        if changed:
            key = changed[0]
            raise TutelageError(
                f"{folder} holds replies made with another `{key}` ({before.get(key)}, now {current.get(key)}): "
                "give another --out, or remove the folder"
            )
    return current, version


def _speed(folder: Path) -> dict[str, Any] | None:
    """The speed of the last call that sampled; this one, or an earlier one that was stopped while it scored."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / SPEED_FILE).read_text(encoding="utf-8"))
    return None
