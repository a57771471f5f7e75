"""What the cost model takes as given: machines, shapes of models, rows of data and their lengths.

Most of it is declared in `facts.yaml`; a local model's shape is in its config.json, and local rows are looked at.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from tutelage.common.errors import TutelageError
from tutelage.data.rows import BadRowError, convert
from tutelage.recipe.sections import DataConfig

ROWS_LOOKED_AT = 200


@dataclass(frozen=True)
class Shape:
    """A Llama-like model."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    @property
    def matrix_weights(self) -> int:
        """Weights that every token is multiplied with: all but the input embedding."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward) + self.vocab * self.hidden

    @property
    def weights(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        return self.matrix_weights + norms + (0 if self.tied else self.vocab * self.hidden)

    @property
    def cache_bytes(self) -> int:
        """Keys and values of one token, bf16."""
        return 4 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Machine:
    name: str
    gpus: int
    tflops: float
    bandwidth: float  # TB/s
    memory: float  # GiB a GPU
    price: float  # dollars a GPU and hour
    measured: bool


@dataclass(frozen=True)
class Rows:
    """Rows of a data section and their mean tokens."""

    rows: int
    tokens: float
    response: float


@cache
def facts() -> dict[str, Any]:
    return yaml.safe_load(files("tutelage.runs.cost").joinpath("facts.yaml").read_text(encoding="utf-8"))


def machine(text: str) -> Machine:
    """`H100`, `1xH100`, `8xH100`. Raises TutelageError for what is not known."""
    found = re.fullmatch(r"(?:(\d+)x)?([A-Za-z0-9]+)", text)
    known = facts()["machines"]
    if found is None or found[2] not in known or int(found[1] or 1) < 1:
        raise TutelageError(f"no machine `{text}`: write 8xH100 (known: {', '.join(known)})")
    return Machine(text, int(found[1] or 1), **known[found[2]])


def shape_of(config: dict[str, Any]) -> Shape | None:
    """The shape that a config.json tells of; None where a size is missing."""
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return Shape(
            config["num_hidden_layers"],
            hidden,
            config["intermediate_size"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or hidden // heads,
            config["vocab_size"],
            bool(config.get("tie_word_embeddings", True)),
        )
    except KeyError:
        return None


def measure_rows(name: str, config: DataConfig, base: Path, local: list[Path]) -> Rows:
    """Lines counted (where the size is not given) and the first rows of each file looked at, 4 characters a token."""
    characters, answers, seen, total = 0, 0, 0, 0
    for file in local:
        if not file.name.endswith((".jsonl", ".jsonl.gz")):
            continue
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open(encoding="utf-8") as handle:
            for number, line in enumerate(handle):
                total += 1
                if number >= ROWS_LOOKED_AT:
                    if config.size is not None:
                        break
                    continue
                try:
                    conversation, _ = convert(json.loads(line), name, config, config.text is not None)
                except (ValueError, BadRowError):
                    continue
                characters += sum(len(message.content) + 20 for message in conversation.messages)
                answers += sum(len(m.content) + 4 for m in conversation.messages if m.role == "assistant")
                seen += 1
    known = Rows(**facts()["other_data"])
    if not seen:
        return replace(known, rows=config.size or known.rows)
    return Rows(config.size or max(1, total - config.skip), characters / 4 / seen, answers / 4 / seen)
