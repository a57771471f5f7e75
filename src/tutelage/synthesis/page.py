"""The HTML page of a synthesis: rows, rejected rows, lengths, similarity and variety, beside those of the gold rows.

The page has no scripts and loads nothing, and all text is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tutelage.common.files import write_atomically
from tutelage.common.html import page_template
from tutelage.synthesis.blocks import answer_of, input_of, read_rows
from tutelage.synthesis.prompts import Demonstration, Frame
from tutelage.synthesis.variety import hashes_of, nearest, variety_of
from tutelage.synthesis.words import words

SHOWN = 50  # accepted rows
_SHOWN_REJECTS = 3  # per reason
_COMPARED = 1000  # texts per side for similarity and variety, which depend on the number of texts
_BINS = 12

# What the reasons of the filters mean, in words (docs/synthetic.md has them in full).
REASONS = {
    "empty": "no word in it",
    "cut": "it ran to the length limit",
    "broken": "bytes that are no whole character",
    "preamble": "it begins with “Sure, …”, a label or the instruction",
    "carries_answer": "the input has its answer in it",
    "format": "not the options and the answer of a question of choice",
    "form": "too short, too long, or another beginning than gold texts",
    "script": "a script that gold texts hardly have",
    "language": "hardly any of the words that are frequent in gold texts",
    "contamination": "shares text with data that models are scored on",
    "duplicate_of_gold": "the words of a gold input",
    "duplicate_of_earlier": "the words of an earlier input",
    "near_duplicate_of_gold": "nearly a gold input",
    "near_duplicate_of_earlier": "nearly an earlier input",
    "surplus": "good, but more than was asked for",
}


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram with two sides."""

    label: str
    gold: float  # share of the gold texts, 0..1
    new: float  # share of the synthetic texts, 0..1


def build_page(
    folder: Path, title: str, gold: Sequence[Demonstration], frame: Frame, result: dict[str, Any], seed: int = 0
) -> tuple[Path, dict[str, Any]]:
    """Write `sample.html` into the folder of a finished synthesis. Returns its path and the numbers of its variety.

    `result`: the summary that `Synthesis.run` returned. `seed`: of the rows that are shown and compared.
    """
    accepted, rejected = read_rows(folder, "accepted"), read_rows(folder, "rejected")
    inputs = [input_of(row, frame) for row in accepted]
    answers = [answer_of(row) or "" for row in accepted]
    count = min(_COMPARED, len(gold), len(inputs))
    sides = {
        "gold": [gold[i].input for i in _draw(len(gold), count, seed)],
        "synthetic": [inputs[i] for i in _draw(len(inputs), count, seed)],
    }
    variety = {side: variety_of(texts) for side, texts in sides.items()} | {"texts_compared": count}
    hashes = {side: hashes_of(texts) for side, texts in sides.items()}
    similarity = {
        "gold to other gold": nearest(hashes["gold"], None),
        "synthetic to other synthetic": nearest(hashes["synthetic"], None),
        "synthetic to gold": nearest(hashes["synthetic"], hashes["gold"]),
    }
    page = page_template("tutelage.synthesis", "page.html.j2")
    html = page.render(
        title=title,
        result=result,
        frame=frame,
        rows=[_shown(accepted[i], frame) for i in _draw(len(accepted), SHOWN, seed)],
        reasons=_reasons(rejected, frame),
        attempts=max(1, result["attempts"]),
        lengths=[
            ("Words of an input", _histogram([row.input for row in gold], inputs)),
            ("Words of an answer", _histogram([row.output for row in gold], answers)),
        ],
        similarity=[(name, _similarity_bars(values)) for name, values in similarity.items()],
        variety=variety,
    )
    return write_atomically(folder / "sample.html", html), variety


def _draw(total: int, count: int, seed: int) -> list[int]:
    """`count` of the indices below `total`, in order, drawn by the seed."""
    return sorted(Random(seed).sample(range(total), min(count, total)))


def _shown(row: dict[str, Any], frame: Frame) -> dict[str, Any]:
    return {
        "id": row["id"],
        "input": input_of(row, frame),
        "answer": answer_of(row),
        "detail": row["verdict"]["detail"],
        "nearest": row["verdict"]["nearest"],
    }


def _reasons(rejected: list[dict[str, Any]], frame: Frame) -> list[dict[str, Any]]:
    """The reasons, most frequent first, each with its first rows."""
    counts = Counter(row["verdict"]["reason"] for row in rejected)
    return [
        {
            "reason": reason.replace("_", " "),
            "words": REASONS.get(reason, ""),
            "count": count,
            "rows": [_shown(row, frame) for row in rejected if row["verdict"]["reason"] == reason][:_SHOWN_REJECTS],
        }
        for reason, count in counts.most_common()
    ]


def _histogram(gold: Sequence[str], new: Sequence[str]) -> list[Bar]:
    """Shares of both sides by number of words; the last bar has at least the longest 1 %."""
    sides = [np.array([len(words(text)) for text in texts] or [0]) for texts in (gold, new)]
    top = max(float(np.quantile(side, 0.99)) for side in sides)
    step = max(1, round(top / _BINS))
    edges = [*range(0, step * _BINS, step)]
    shares = [np.bincount(np.minimum(side // step, _BINS - 1), minlength=_BINS) / len(side) for side in sides]
    labels = [*(f"{low}–{low + step - 1}" if step > 1 else str(low) for low in edges[:-1]), f"{edges[-1]}+"]
    return [Bar(label, float(a), float(b)) for label, a, b in zip(labels, *shares, strict=True)]


def _similarity_bars(values: np.ndarray) -> list[tuple[str, float]]:
    shares = np.histogram(values, bins=10, range=(0.0, 1.0))[0] / max(1, len(values))
    return [(f"{i / 10:.1f}–{(i + 1) / 10:.1f}", float(share)) for i, share in enumerate(shares)]
