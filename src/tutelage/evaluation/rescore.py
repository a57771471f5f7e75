"""Score the kept replies of a benchmark again, by today's reading. No model is loaded, nothing is sampled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.common.errors import TutelageError
from tutelage.common.run_folder import EXAMPLES
from tutelage.evaluation.answer_items import Asking, count_replies, prompt_notices, resume
from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.base import Reply
from tutelage.evaluation.benchmarks.data import data_folder
from tutelage.evaluation.records import read_records, read_result
from tutelage.evaluation.replies import Evaluation, score, with_chance
from tutelage.evaluation.run_benchmarks import RESPONSES_FILE, SETTINGS_FILE

if TYPE_CHECKING:
    from tutelage.evaluation.judges.endpoint import JudgeEndpoint

# What a result keeps: how the model was asked, and which run it belongs to.
_KEPT = ("model", "seed", "limit", "group", "prompt", "chat", "shots", "max_new_tokens", "context", "speed")
_KEPT += ("kind", "stage")


def rescore(folder: Path, data_dir: Path | None = None, judge: JudgeEndpoint | None = None) -> Evaluation:
    """Score the replies in a benchmark's folder (`responses.jsonl`) again; nothing is written.

    What a judge or COMET said is kept; `judge` is asked where none was. Raises TutelageError where the replies cannot
    be scored again: some are missing, were made with other prompts, or the folder has no result to be replaced.
    """
    before = read_result(folder)
    bench = BENCHMARKS.get(str(before["task"]))
    if bench is None:
        raise TutelageError(f"{before['task']} is scored by lm-eval itself; run it again")
    items = bench.load(data_folder(data_dir), before.get("limit"), before.get("seed") or 0, before.get("group"))
    file = folder / RESPONSES_FILE
    kept = count_replies(file)
    if not kept:
        raise TutelageError(f"{file}: no replies were kept; run the benchmark again")
    asking = _asking(folder, before)
    replies = resume(file, bench, items, asking, rewrite=False)
    missing = sum(item.id not in replies for item in items)
    if missing:
        raise TutelageError(
            f"{file}: {missing} of {len(items)} replies are missing or were made with other prompts; run the benchmark "
            "again"
        )
    records, notices = score(bench, items, _with_outside_scores(folder, bench.name, replies), judge)
    chance, warnings = with_chance(bench, items, records)
    result = bench.summarise(records) | chance
    result |= {key: before[key] for key in _KEPT if key in before}
    result |= {
        "cut": sum(not record.finished for record in records),
        "mean_tokens": sum(record.tokens for record in records) / len(records) if records else None,
        "reading": bench.reading,
        "notices": [*prompt_notices(bench, replies, before.get("context"), asking.shots(bench)), *notices, *warnings],
    }
    return Evaluation(result, records)


def _asking(folder: Path, before: dict[str, Any]) -> Asking:
    """How the model was asked, from the folder's settings, else from its result."""
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        return Asking(bool(settings["chat"]), settings.get("prompt"))
    except (OSError, ValueError, KeyError):
        return Asking(bool(before.get("chat")))


def _with_outside_scores(folder: Path, task: str, replies: dict[str, Reply]) -> dict[str, Reply]:
    """The replies with what a judge or COMET said of them, from the folder's records."""
    if task not in ("infobench", "flores") or not (folder / EXAMPLES).is_file():
        return replies
    out = dict(replies)
    for record in read_records(folder):
        if record.id not in out:
            continue
        answers = tuple(part.get("answer") for part in record.parts)
        if task == "infobench" and any(answer is not None for answer in answers):
            out[record.id] = replace(out[record.id], judgements=answers)
        elif task == "flores":
            out[record.id] = replace(out[record.id], comet=record.scores.get("comet"))
    return out
