"""A run's data sections as token sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tutelage.common.types import Conversation, TokenSequence
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.dataset import load_dataset
from tutelage.data.encode_rows import encode_all, notes
from tutelage.runs.run import Run


@dataclass(frozen=True)
class Encoded:
    """A data section as token sequences."""

    sequences: list[TokenSequence]  # `index` is the position in `conversations`
    conversations: tuple[Conversation, ...]
    report: dict[str, Any]  # rows used, cut, left out, split, and those that lost their last turns


def encoded(run: Run, name: str, template: ChatTemplate, max_length: int) -> Encoded:
    """Read data section `name` and encode it with a chat template, at most `max_length` tokens per sequence.

    Prints what the rows carry and no sequence has. Raises TutelageError when more rows are bad than the section allows.
    """
    config = run.data[name]
    data = load_dataset(name, config, run.recipe_folder)
    sequences, report = encode_all(template, data, max_length, config.max_bad_rows, f"data.{name}")
    for note in notes(report):
        print(f"{run.stage}: data.{name}: {note}", flush=True)
    counts = {
        "rows": len({sequence.index for sequence in sequences}),
        "cut": report.cut,
        "too_long": list(report.too_long),
        "last_turns_cut": list(report.last_turns_cut),
        "bad_rows": [[bad.source, bad.reason] for bad in (*data.bad_rows, *report.refused)],
    }
    if report.split[0]:
        counts |= {"split_rows": report.split[0], "sequences": len(sequences)}
    counts |= {key: getattr(report, key) for key in ("rendered", "left_out") if getattr(report, key)}
    return Encoded(sequences, data.conversations, counts)
