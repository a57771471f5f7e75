"""The files of an evaluation: `examples.jsonl`, one record per example, and `result.json`, the numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.common.checksums import DamagedError, read_checked
from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.run_folder import EXAMPLES, RESULT
from tutelage.evaluation.statistics import estimate


@dataclass(frozen=True)
class ExampleRecord:
    """The evidence of one example. Scores are 0..1, or None where unscored."""

    id: str
    prompt: str
    response: str
    references: tuple[str, ...]
    scores: dict[str, float | None]
    answer: str | None  # what the scorers compared with the references
    reason: str  # why the scores are what they are, one clause per metric
    finished: bool  # the response ended by itself, not by the length limit
    tokens: int  # sampled tokens, the end-of-turn token included
    group: str = ""  # the part of the benchmark it belongs to: a BBH task, an MMLU-Pro category
    # Where an example is scored in parts (IFEval's instructions, InFoBench's questions), one entry per part:
    # {"name": …, "scores": {metric: 0..1 or None}, …}. Such a metric is the mean over the parts of all examples, and
    # the example's own score is the mean over its scored parts.
    parts: tuple[dict[str, Any], ...] = ()


def write_records(folder: Path, records: Iterable[ExampleRecord]) -> Path:
    """Write `examples.jsonl` into the folder, which is made if it is absent; atomically."""
    lines = (json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
    return write_atomically(folder / EXAMPLES, "".join(lines))


def read_records(folder: Path) -> list[ExampleRecord]:
    """The records of an evaluation's folder. Raises TutelageError, naming file and line, for any other line."""
    path = folder / EXAMPLES
    names = {field.name for field in fields(ExampleRecord)}
    records: list[ExampleRecord] = []
    try:
        content = read_checked(folder, EXAMPLES)
    except DamagedError as error:
        raise TutelageError(f"no evaluation can be read: {error}") from None
    lines = content.split(b"\n")  # not splitlines(), which would also split at U+2028 within a text
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, 1):
        try:
            row: Any = json.loads(line.decode("utf-8"))
            if not isinstance(row, dict) or set(row) != names:
                raise ValueError(f"expected exactly the keys {', '.join(sorted(names))}")
            if not all(isinstance(part, dict) and _are_scores(part.get("scores")) for part in (row, *row["parts"])):
                raise ValueError("`scores` must be numbers or null, by metric")
            lists = {key: tuple(row[key]) for key in ("references", "parts")}
            records.append(ExampleRecord(**{**row, **lists}))
        except (ValueError, TypeError, RecursionError) as error:
            raise TutelageError(f"{path}:{number} is not a record ({error}); run that evaluation again") from None
    return records


def example_name(id: str, data: str = "") -> str:
    """An example's id for people: "line 17 of test.jsonl" of `test.jsonl:17`, "id 248 of test.jsonl" of a bare number.
    `data`: what the id's column is a column of, where that is known."""
    place = re.fullmatch(r"(.+):(\d+)", id)
    if place:
        by_line = re.search(r"\.(csv|tsv|jsonl?|ndjson)(\.\w+)?$", place[1])
        return f"{'line' if by_line else 'row'} {place[2]} of {place[1]}"
    return f"id {id}{f' of {data}' if data else ''}" if id.isdecimal() else id


def folder_name(name: str) -> str:
    """A model's or task's name as the name of a folder: everything but letters, digits, - and . becomes -."""
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in name).strip("-.") or "model"


def aligned(
    records: Sequence[ExampleRecord], order: Sequence[ExampleRecord], folder: Path, order_folder: Path
) -> list[ExampleRecord]:
    """The `records` of `folder` in the order of those of `order_folder`, by id; where no id is in both, since the same
    rows came from another file or from memory, by place, if questions and references are the same in this order.

    Raises TutelageError, naming the folders, when one holds an id twice or they do not hold the same examples.
    """
    by_id, wanted = {record.id: record for record in records}, {record.id for record in order}
    for where, ids, count in ((folder, by_id, len(records)), (order_folder, wanted, len(order))):
        if len(ids) != count:
            raise TutelageError(f"{where / EXAMPLES} holds an example id twice; run that evaluation again")
    missing = [record.id for record in order if record.id not in by_id]
    extra = [record.id for record in records if record.id not in wanted]
    asked = [[(record.prompt, record.references) for record in side] for side in (records, order)]
    if (
        order
        and len(missing) == len(order)
        and asked[0] == asked[1]
        and all(prompt and targets for prompt, targets in asked[0])
    ):
        return list(records)
    if missing or extra:
        first, owner, other = (missing[0], order_folder, folder) if missing else (extra[0], folder, order_folder)
        raise TutelageError(
            f"{folder} and {order_folder} were not made from the same examples (`{first}` is in {owner} but not in "
            f"{other}; {len(missing) + len(extra)} differ); evaluate both with the same data, --limit and --seed"
        )
    return [by_id[record.id] for record in order]


def summarise(
    records: Sequence[ExampleRecord],
    metrics: Sequence[str],
    headline: str,
    *,
    task: str,
    model: str,
    seed: int | None,
) -> dict[str, Any]:
    """The content of `result.json`. Values and standard errors (over examples) are 0..100, None where undefined.

    `headline`: the metric that comparisons and choices use. In the result, `unscored` counts the examples without a
    score of it, and `cut` the responses that reached the length limit.
    """
    values: dict[str, dict[str, float | None]] = {}
    for metric in metrics:
        found = estimate(score_array(records, metric)) if records else None
        values[metric] = {
            "value": _percent(found.mean if found else math.nan),
            "stderr": _percent(found.stderr if found else math.nan),
        }
    return {
        "task": task,
        "model": model,
        "seed": seed,
        "n": len(records),
        "unscored": sum(record.scores[headline] is None for record in records),
        "headline": headline,
        "metrics": values,
        "cut": sum(not record.finished for record in records),
        "mean_tokens": sum(record.tokens for record in records) / len(records) if records else None,
    }


def write_result(folder: Path, result: dict[str, Any]) -> Path:
    """Write `result.json` into the folder, which is made if it is absent; atomically."""
    return write_atomically(folder / RESULT, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def read_result(folder: Path) -> dict[str, Any]:
    """The content of a folder's `result.json`. Raises TutelageError when it is absent or broken."""
    path = folder / RESULT
    try:
        result = json.loads(read_checked(folder, RESULT))
    except DamagedError as error:
        raise TutelageError(f"no result can be read: {error}") from None
    except ValueError as error:
        raise TutelageError(f"no result can be read: {path}: {error}; run that evaluation again") from None
    if not isinstance(result, dict) or not {"task", "metrics"} <= result.keys():
        raise TutelageError(
            f"no result can be read: {path} is not the result of an evaluation; run that evaluation again"
        )
    return result


def score_array(records: Sequence[ExampleRecord], metric: str) -> np.ndarray:
    """The scores of a metric, [N] in 0..1, nan where unscored. Raises TutelageError where a record lacks the metric."""
    for record in records:
        if metric not in record.scores:
            known = ", ".join(record.scores) or "none"
            raise TutelageError(f"example {record.id} has no score `{metric}` (it has: {known}); evaluate again")
    return np.array([np.nan if (v := record.scores[metric]) is None else v for record in records], dtype=np.float64)


def _are_scores(scores: object) -> bool:
    return isinstance(scores, dict) and all(isinstance(one, int | float | None) for one in scores.values())


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else 100 * value
