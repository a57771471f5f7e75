"""Data sections of a run as token sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tutelage.common.types import Conversation, TokenSequence
from tutelage.data.chat_template import encode_all
from tutelage.data.dataset import load_dataset
from tutelage.models.load import LoadedModel
from tutelage.runs.run import Run


@dataclass(frozen=True)
class Encoded:
    """A data section as token sequences."""

    sequences: list[TokenSequence]  # `index` is the place in `conversations`
    conversations: tuple[Conversation, ...]
    report: dict[str, Any]  # what had to be cut or left out


def encoded(run: Run, name: str, loaded: LoadedModel, max_length: int) -> Encoded:
    """The data section `name` in the tokens of a model."""
    config = run.data[name]
    data = load_dataset(name, config, run.base)
    sequences, report = encode_all(loaded.template, data, max_length, config.max_bad_rows, f"data.{name}")
    listed = {
        "rows": len(sequences),
        "cut": report.cut,
        "too_long": list(report.too_long),
        "bad_rows": [[bad.source, bad.reason] for bad in data.bad_rows],
    }
    return Encoded(sequences, data.conversations, listed)
