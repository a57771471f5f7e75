"""A run's data sections as token sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tutelage.common.types import Conversation, TokenSequence
from tutelage.data.chat_template import ChatTemplate, encode_all, messages_asked
from tutelage.data.dataset import load_dataset
from tutelage.runs.run import Run


@dataclass(frozen=True)
class Encoded:
    """A data section as token sequences."""

    sequences: list[TokenSequence]  # `index` is the position in `conversations`
    conversations: tuple[Conversation, ...]
    report: dict[str, Any]  # rows read, cut, left out, and those that lost their last turns


def encoded(run: Run, name: str, template: ChatTemplate, max_length: int) -> Encoded:
    """Read data section `name` and encode it with a chat template, at most `max_length` tokens per row.

    Raises TutelageError when more rows are bad than the section allows.
    """
    config = run.data[name]
    data = load_dataset(name, config, run.recipe_folder)
    sequences, report = encode_all(template, data, max_length, config.max_bad_rows, f"data.{name}")
    rows = data.conversations
    counts = {
        "rows": len(sequences),
        "cut": report.cut,
        "too_long": list(report.too_long),
        "last_turns_cut": [
            rows[s.index].source
            for s in sequences
            if s.cut and messages_asked(rows[s.index], s) != rows[s.index].prompt
        ],
        "bad_rows": [[bad.source, bad.reason] for bad in data.bad_rows],
    }
    return Encoded(sequences, rows, counts)
