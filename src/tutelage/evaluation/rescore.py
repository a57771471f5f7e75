"""Score the kept replies of a benchmark again, by today's reading. No model is loaded, nothing is sampled."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.common.errors import TutelageError
from tutelage.common.run_folder import EXAMPLES
from tutelage.evaluation.answer_items import Asking, count_replies, prompt_notices, resume
from tutelage.evaluation.benchmarks import BENCHMARKS, JUDGED, WITH_COMET
from tutelage.evaluation.benchmarks.base import Benchmark, Item, Reply
from tutelage.evaluation.benchmarks.data import data_folder
from tutelage.evaluation.judges.comet import MODEL
from tutelage.evaluation.readers.thoughts import read_reply
from tutelage.evaluation.records import read_records, read_result
from tutelage.evaluation.replies import (
    GIVEN,
    RESPONSES_FILE,
    Evaluation,
    id_notices,
    score,
    scored_by,
    was_given,
    with_chance,
)
from tutelage.evaluation.run_benchmarks import SETTINGS_FILE

if TYPE_CHECKING:
    from tutelage.evaluation.judges.endpoint import JudgeEndpoint

# What a result keeps: how the model was asked, and which run it belongs to.
_KEPT = ("model", "seed", "limit", "group", "prompt", "chat", "shots", "max_new_tokens", "context", "speed")
_KEPT += ("kind", "stage", "missing", "unknown", "doubled")
BEFORE = GIVEN | {"model": "a judge that was not recorded"}  # of results from before `judge` was a part of them


@dataclass(frozen=True)
class Kept:
    """The kept replies of a finished benchmark."""

    folder: Path
    bench: Benchmark
    items: list[Item]
    replies: dict[str, Reply]
    before: dict[str, Any]  # its result
    asking: Asking


def kept_replies(folder: Path, data_dir: Path | None = None) -> Kept:
    """The replies in a benchmark's folder (`responses.jsonl`).

    Raises TutelageError where they cannot be scored again: some are missing, were made with other prompts, or the
    folder has no result to be replaced.
    """
    before = read_result(folder)
    bench = BENCHMARKS.get(str(before["task"]))
    if bench is None:
        raise TutelageError(f"{before['task']} is scored by lm-eval itself; run it again")
    items = bench.load(data_folder(data_dir), before.get("limit"), before.get("seed") or 0, before.get("group"))
    file = folder / RESPONSES_FILE
    if not count_replies(file):
        again = "score their file again" if was_given(before) else "run the benchmark again"
        raise TutelageError(f"{file}: no replies were kept; {again}")
    asking = _asking(folder, before)
    replies = resume(file, bench, items, asking, rewrite=False)
    never = {*before.get("missing", ()), *before.get("doubled", ())}  # of a file that was given
    missing = sum(item.id not in replies and item.id not in never for item in items)
    if missing:
        raise TutelageError(
            f"{file}: {missing} of {len(items)} replies are missing or were made with other prompts, or with an "
            "earlier version that counted replies of base models as cut; run the benchmark again"
        )
    return Kept(folder, bench, items, replies, before, asking)


def rescore(kept: Kept, judge: JudgeEndpoint | None = None, comet: bool | None = None, keep: bool = True) -> Evaluation:
    """Score kept replies by today's reading; nothing is sampled or written.

    `judge` is asked about all that it has not judged itself. Without one, what another judge said is kept if `keep`.
    `comet` is as in `score`; scores of COMET are kept unless it is False.
    Raises TutelageError when the judge, or COMET where it is needed, gives no scores.
    """
    bench, before = kept.bench, kept.before
    judged = before.get("judge") or BEFORE
    same = keep if judge is None else judged["fingerprint"] == judge.fingerprint
    replies = kept.replies
    if same if bench.name == JUDGED else bench.name == WITH_COMET and comet is not False:
        replies = _with_outside_scores(kept)
    records, notices = score(bench, kept.items, replies, judge, comet)
    chance, warnings = with_chance(bench, kept.items, records)
    result = bench.summarise(records) | chance | scored_by(bench, records, judge, judged)
    result |= {key: before[key] for key in _KEPT if key in before}
    about_prompts = prompt_notices(bench, kept.replies, before.get("context"), kept.asking.shots(bench))
    result |= {
        "cut": sum(not record.finished for record in records),
        "mean_tokens": sum(record.tokens for record in records) / len(records) if records else None,
        "reading": bench.reading,
        "notices": [*about_prompts, *notices, *id_notices(before, len(kept.items)), *warnings],
    }
    return Evaluation(result, records)


def _asking(folder: Path, before: dict[str, Any]) -> Asking:
    """How the model was asked, from the folder's settings, else from its result."""
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        return Asking(bool(settings["chat"]), settings.get("prompt"), int(settings["method_version"]))
    except (OSError, ValueError, KeyError):
        return Asking(True) if was_given(before) else Asking(bool(before.get("chat")), version=1)


def _with_outside_scores(kept: Kept) -> dict[str, Reply]:
    """The replies with what a judge or COMET said of them, from the folder's records."""
    out = dict(kept.replies)
    if not (kept.folder / EXAMPLES).is_file():
        return out
    for record in read_records(kept.folder):
        if record.id not in out:
            continue
        if "unended_thoughts" not in kept.before and read_reply(out[record.id].text).thinks:
            continue  # they were shown the thought too
        answers = tuple(part.get("answer") for part in record.parts)
        if kept.bench.name == WITH_COMET:
            if kept.before.get("comet", MODEL) != MODEL:
                continue  # another model's scores
            out[record.id] = replace(out[record.id], comet=record.scores.get("comet"))
        elif any(answer is not None for answer in answers):
            empty = not read_reply(out[record.id].text).answer.strip()  # meets no condition, whatever was said once
            out[record.id] = replace(out[record.id], judgements=("no",) * len(answers) if empty else answers)
    return out
