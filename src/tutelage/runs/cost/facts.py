"""The cost model's inputs: machines, shapes of models, rows of data and their lengths.

Most of them are declared in `facts.yaml`; a local model's shape is read from its config.json, and local rows are
measured.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation
from tutelage.data.rows import BadRowError, convert
from tutelage.data.sources import read_file
from tutelage.recipe.sections import DataConfig, LoraConfig

if TYPE_CHECKING:
    from tutelage.data.chat_template import ChatTemplate

MEASURED_ROWS = 200  # per file
_NO_LIMIT = 10**8  # tokens
# Per weight: one scale per row (int8, float8), or an 8-bit scale per block of 64 and a float32 one per 256 of those.
QUANTISED_BYTES = {"int8": 1.0, "float8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-like model."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool  # one matrix for the input embedding and the head
    precision: str | None = None  # that the linear maps of its layers are held in; None: the type of the others
    idle: int = 0  # of a mixture of experts: feed-forward width of those that a token does not go through

    @property
    def matrix_weights(self) -> int:
        """Number of weights that every token is multiplied with: all but the input embedding and the norms."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward) + self.vocab * self.hidden

    @property
    def weights(self) -> int:
        """Number of all weights."""
        norms, idle = (2 * self.layers + 1) * self.hidden, 3 * self.layers * self.hidden * self.idle
        return self.matrix_weights + norms + idle + (0 if self.tied else self.vocab * self.hidden)

    def held(self, width: int) -> float:
        """Bytes of the weights, frozen, where `width` bytes are a weight's of the usual type."""
        if self.precision is None:
            return float(width * self.weights)
        layers = self.matrix_weights - self.vocab * self.hidden
        if self.idle:  # experts are no linear maps and keep their type
            layers -= 3 * self.layers * self.hidden * self.feed_forward
        return QUANTISED_BYTES[self.precision] * layers + width * (self.weights - layers)

    def adapter_weights(self, lora: LoraConfig) -> int:
        """Number of weights of an adapter; a target of an unknown name counts as the largest linear map."""
        inner, keys, h, wide = self.heads * self.head_dim, self.kv_heads * self.head_dim, self.hidden, self.feed_forward
        maps = {"q_proj": h + inner, "k_proj": h + keys, "v_proj": h + keys, "o_proj": h + inner}
        maps |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), h + wide)
        if lora.targets == "all-linear":
            return lora.r * self.layers * sum(maps.values())
        inside = [maps.get(name, max(maps.values())) for name in lora.targets if name != "lm_head"]
        head = h + self.vocab if "lm_head" in lora.targets else 0
        return lora.r * (self.layers * sum(inside) + head)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values of one token, in bf16."""
        return 4 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Machine:
    """A host with GPUs of one kind, or several such hosts."""

    name: str
    gpus: int  # of all hosts
    tflops: float  # TFLOP/s of bf16 matrix products, per GPU
    bandwidth: float  # TB/s per GPU
    memory: float  # GiB per GPU
    price: float  # dollars per GPU and hour
    measured: bool  # whether the cost model's constants were fitted on it
    network: float = 0.05  # TB/s per GPU to other hosts
    device: str = "cuda"  # or "cpu": memory is then that of one process
    hosts: int = 1

    @property
    def gpus_per_host(self) -> int:
        """GPUs that one host has."""
        return self.gpus // self.hosts


@dataclass(frozen=True)
class Rows:
    """Number of rows of a data section and their mean lengths in tokens."""

    rows: int
    tokens: float  # of a whole row
    response: float  # of its response
    answers: tuple[float, ...] = field(default=(), compare=False, repr=False)  # of the responses that were measured

    def longest(self, count: int) -> float:
        """The expected length of the longest of so many responses."""
        ranked, known = sorted(self.answers), len(self.answers)
        shares = [((place + 1) / known) ** count - (place / known) ** count for place in range(known)]
        return sum(share * length for share, length in zip(shares, ranked, strict=True)) if ranked else self.response


@cache
def facts() -> dict[str, Any]:
    """The content of `facts.yaml`."""
    return yaml.safe_load(files("tutelage.runs.cost").joinpath("facts.yaml").read_text(encoding="utf-8"))


def machine(text: str) -> Machine:
    """The machine `H100`, `8xH100`, or two hosts of it, `2x8xH100`. Raises TutelageError for a name that is not
    known."""
    found = re.fullmatch(r"(?:(\d+)x)??(?:(\d+)x)?([A-Za-z]\w*)", text)
    known = facts()["machines"]
    hosts, gpus = (int(found[place] or 1) for place in (1, 2)) if found is not None else (0, 0)
    if found is None or found[3] not in known or hosts * gpus < 1:
        raise TutelageError(f"no machine `{text}`: write for example 8xH100 or 2x8xH100 (known: {', '.join(known)})")
    return Machine(text, hosts * gpus, **known[found[3]], hosts=hosts)


def shape_at(path: str, revision: str | None = None) -> Shape | None:
    """The shape of a model by its hub name, or from its config.json in a local folder or in the hub's cache of that
    revision; of an adapter that of its base."""
    path = os.path.expandvars(path)
    if path in facts()["models"]:
        return Shape(**facts()["models"][path])
    folder = Path(path).expanduser()
    file, adapter = folder / "config.json", folder / "adapter_config.json"
    try:
        if adapter.is_file():
            base = json.loads(adapter.read_text())
            return shape_at(base["base_model_name_or_path"], base.get("revision"))
        if not file.is_file() and re.fullmatch(r"[\w.-]+/[\w.-]+", path):
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(path, "config.json", revision=revision)
            file = Path(cached) if isinstance(cached, str) else file
        return shape_of(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # loading the model says what is wrong
        return None


def shape_of(config: dict[str, Any]) -> Shape | None:
    """The shape in the content of a model's config.json; None when a size is missing or no number."""
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        used, idle = _feed_forward(config)
        return Shape(
            config["num_hidden_layers"],
            hidden,
            used,
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or hidden // heads,
            config["vocab_size"],
            bool(config.get("tie_word_embeddings", True)),
            idle=idle,
        )
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def _feed_forward(config: dict[str, Any]) -> tuple[int, int]:
    """The feed-forward width that a token goes through in a layer, and that of the experts which it does not; as if
    every layer had experts where some have."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")  # of Mixtral and gpt-oss, Qwen, DeepSeek
    experts = next((int(config[name]) for name in names if config.get(name)), 0)
    if not experts:
        return config["intermediate_size"], 0
    chosen = min(experts, int(config.get("num_experts_per_tok") or 1))
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    shared = config.get("shared_expert_intermediate_size") or (config.get("n_shared_experts") or 0) * width
    return chosen * width + shared, (experts - chosen) * width


def measure_rows(
    name: str, config: DataConfig, base: Path, local: list[Path], template: ChatTemplate | None = None
) -> Rows:
    """Rows in the files `local`, of which all are counted unless the section has a size; lengths are means over the
    first rows of each file, at 4 characters per token, or in the tokens that `template` makes of them."""
    measured, total = list[Conversation](), 0
    for file in local:
        for number, row in enumerate(_rows_of(file)):
            total += 1
            if number >= MEASURED_ROWS:
                if config.size is not None:
                    break
                continue
            try:
                content = json.loads(row) if isinstance(row, bytes) else row
                measured.append(convert(content, name, config, config.text is not None)[0])
            except (ValueError, BadRowError):
                continue
    if not measured:
        known = Rows(**facts()["other_data"])
        return replace(known, rows=config.size or max(0, total - config.skip) or known.rows)
    lengths = [_by_characters(row) for row in measured]
    if template is not None:
        with contextlib.suppress(TutelageError):  # training says what is wrong
            lengths = [_by_tokens(row, template) for row in measured]
    whole, answers = (sum(part) / len(lengths) for part in zip(*lengths, strict=True))
    return Rows(config.size or max(1, total - config.skip), whole, answers, tuple(answer for _, answer in lengths))


def _by_characters(row: Conversation) -> tuple[float, float]:
    """About how many tokens the row has, and how many of them its answers."""
    answers = sum(len(m.content) + 4 for m in row.messages if m.role == "assistant")
    return sum(len(m.content) + 20 for m in row.messages) / 4, answers / 4


def _by_tokens(row: Conversation, template: ChatTemplate) -> tuple[float, float]:
    """How many tokens the row has, and how many of them its answers; a row that several sequences are made of, in all
    of them. Raises TutelageError where the template cannot render it."""
    if row.response is None:
        return len(template.encode_prompt(row.prompt)), 0
    sequences = template.sequences(template.conversation_parts(row), row, 0, _NO_LIMIT)
    return sum(len(one.ids) for one in sequences), sum(one.response_tokens for one in sequences)


def _rows_of(file: Path) -> Iterator[Any]:
    """The rows of a file up to where it is damaged, which reading the data tells; lines of JSON as bytes, since
    most of them are only counted."""
    with contextlib.suppress(OSError, EOFError, zlib.error, TutelageError):
        if file.name.endswith((".jsonl", ".jsonl.gz")):
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
                yield from handle
        else:
            yield from (row for _, row in read_file("data", file, file.name))
