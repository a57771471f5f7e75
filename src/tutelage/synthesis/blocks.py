"""The rows of a synthesis on their way and on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tutelage.common.files import write_atomically
from tutelage.common.types import Sample
from tutelage.recipe.sections import SamplingConfig
from tutelage.synthesis.filters import FilterResult
from tutelage.synthesis.prompts import Demonstration, Frame


@dataclass(frozen=True)
class SynthesisPlan:
    rows: int
    demonstrations: int
    form: Literal["chat", "continuation"]
    inputs: SamplingConfig
    answers: SamplingConfig
    seed: int
    generator: str  # names for the rows' provenance
    annotator: str
    min_acceptance: float = 0.02
    batches: int = 8  # sampler batches a block: the fewer ends a sampler meets, the fuller its batches stay

    @property
    def block(self) -> int:
        """Attempts of a full block."""
        return max(1, min(self.batches * self.batch, 2 * self.rows))

    def most(self, number: int) -> int:
        """Attempts of this block at most. The first has few: the sampler waits for its prompts."""
        return self.block if number else min(self.block, 2 * self.batch)

    @property
    def batch(self) -> int:
        return max(self.inputs.batch_size, self.answers.batch_size)


@dataclass
class Attempt:
    """One row on its way."""

    number: int
    shown: tuple[Demonstration, ...]
    prompt: list[int]
    prompt_hash: str
    input: str = ""
    input_tokens: int = 0
    answer: str | None = None
    answer_tokens: int = 0
    verdict: FilterResult = field(default_factory=FilterResult)
    nearest: float = 0.0  # estimated similarity to the most similar input known, where it is high

    @property
    def id(self) -> str:
        return f"synthetic-{self.number:07d}"

    @property
    def passed(self) -> bool:
        return self.verdict.reason is None


@dataclass
class Block:
    number: int
    attempts: list[Attempt]
    samples: list[Sample] = field(default_factory=list)  # the inputs as they were written
    asked: list[list[int]] = field(default_factory=list)  # the annotator's prompts, for those that passed
    sampled: int = 0  # tokens
    sampling: float = 0.0  # seconds

    @property
    def passed(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.passed]


def write_block(folder: Path, block: Block, plan: SynthesisPlan, frame: Frame) -> None:
    """Two files, each whole or not at all; the one of the accepted rows comes last and says that the block is done."""
    for kind, rows in (("rejected", [a for a in block.attempts if not a.passed]), ("accepted", block.passed)):
        write_atomically(shard(folder, kind, block.number), "".join(_line(row, plan, frame) for row in rows))


def shard(folder: Path, kind: str, number: int) -> Path:
    return folder / kind / f"{number:05d}.jsonl"


def read_block(folder: Path, number: int) -> list[dict[str, Any]] | None:
    """All rows of a block in the order of their attempts; None when it is not done."""
    if not shard(folder, "accepted", number).is_file():
        return None
    rows = [row for kind in ("accepted", "rejected") for row in _read(shard(folder, kind, number))]
    return sorted(rows, key=lambda row: row["id"])


def read_rows(folder: Path, kind: Literal["accepted", "rejected"]) -> list[dict[str, Any]]:
    """All accepted or all rejected rows, in the order of their attempts."""
    return [row for path in sorted((folder / kind).glob("*.jsonl")) for row in _read(path)]


def input_of(row: dict[str, Any], frame: Frame) -> str:
    """The input of a row that was read back, without the frame."""
    return frame.content(row["messages"][-2]["content"]) if "messages" in row else row["input"]


def answer_of(row: dict[str, Any]) -> str | None:
    return row["messages"][-1]["content"] if "messages" in row else row["answer"]


def _read(path: Path) -> Sequence[dict[str, Any]]:
    # Not `splitlines`, which also parts lines at characters that a model may write.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _line(attempt: Attempt, plan: SynthesisPlan, frame: Frame) -> str:
    verdict = attempt.verdict
    row: dict[str, Any] = {"id": attempt.id}
    if attempt.passed:
        prompt = [vars(message) for message in frame.messages(attempt.input)]
        row["messages"] = [*prompt, {"role": "assistant", "content": attempt.answer}]
    else:
        row |= {"input": attempt.input, "answer": attempt.answer}
    row["provenance"] = {
        "generator": plan.generator,
        "annotator": plan.annotator,
        "demonstrations": [one.id for one in attempt.shown],
        "prompt_hash": attempt.prompt_hash,
        "seed": plan.seed,
        "attempt": attempt.number,
        "temperatures": {"input": plan.inputs.temperature, "answer": plan.answers.temperature},
        "top_p": {"input": plan.inputs.top_p, "answer": plan.answers.top_p},
        "tokens": {"input": attempt.input_tokens, "answer": attempt.answer_tokens},
    }
    row["verdict"] = {
        "accepted": attempt.passed,
        "reason": verdict.reason,
        "detail": verdict.detail,
        "nearest": round(attempt.nearest, 3),
    }
    return json.dumps(row, ensure_ascii=False) + "\n"
