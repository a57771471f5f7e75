"""The blocks of a synthesis, in memory and on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
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
    """The settings of a synthesis."""

    rows: int  # accepted rows to make
    demonstrations: int  # per prompt
    form: Literal["chat", "continuation"]
    inputs: SamplingConfig
    answers: SamplingConfig
    seed: int
    generator: str  # name, for the rows' provenance
    annotator: str  # name, for the rows' provenance
    min_acceptance: float = 0.02
    batches_per_block: int = 8  # more keep the sampler's batches full for longer

    @property
    def block_size(self) -> int:
        """Attempts of a full block."""
        return max(1, min(self.batches_per_block * self.batch_size, 2 * self.rows))

    def largest_block(self, number: int) -> int:
        """The largest number of attempts of block `number`. The first is small: the sampler waits for its prompts."""
        return self.block_size if number else min(self.block_size, 2 * self.batch_size)

    @property
    def batch_size(self) -> int:
        """The larger batch size of the two samplers."""
        return max(self.inputs.batch_size, self.answers.batch_size)


@dataclass
class Attempt:
    """One attempt at a row; it becomes one if its verdict has no reason to reject it."""

    number: int
    shown: tuple[Demonstration, ...]  # the demonstrations in its prompt
    prompt: list[int]  # token ids
    prompt_hash: str
    input: str = ""
    input_tokens: int = 0
    answer: str | None = None
    answer_tokens: int = 0
    verdict: FilterResult = field(default_factory=FilterResult)
    nearest: float = 0.0  # estimated similarity to the most similar known input, if high

    @property
    def id(self) -> str:
        """The id of its row."""
        return f"synthetic-{self.number:07d}"

    @property
    def passed(self) -> bool:
        """Whether no filter has rejected it so far."""
        return self.verdict.reason is None


@dataclass
class Block:
    """Attempts that are sampled, judged and written together."""

    number: int
    attempts: list[Attempt]
    samples: list[Sample] = field(default_factory=list)  # the generator's, one per attempt
    questions: list[list[int]] = field(default_factory=list)  # the annotator's prompts, one per input that passed
    sampled_tokens: int = 0
    sampling_seconds: float = 0.0

    @property
    def passed(self) -> list[Attempt]:
        """The attempts that no filter has rejected so far."""
        return [attempt for attempt in self.attempts if attempt.passed]


def block_texts(block: Block, plan: SynthesisPlan, frame: Frame) -> dict[str, str]:
    """The content of a block's two files."""
    kinds = {"rejected": [a for a in block.attempts if not a.passed], "accepted": block.passed}
    return {kind: "".join(_line(row, plan, frame) for row in rows) for kind, rows in kinds.items()}


def write_block(folder: Path, number: int, texts: dict[str, str]) -> None:
    """Write a block's files, each atomically; the accepted rows come last and mark the block as done."""
    for kind, text in texts.items():
        write_atomically(_block_file(folder, kind, number), text)


def checksum(texts: Iterable[str]) -> str:
    """The SHA-256 of a block's texts, for its line of metrics."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "backslashreplace")).hexdigest()


def _block_file(folder: Path, kind: str, number: int) -> Path:
    return folder / kind / f"{number:05d}.jsonl"


def read_block(folder: Path, number: int, wanted: str | None = None) -> list[dict[str, Any]] | None:
    """All rows of a block in the order of their attempts; None if the block is not done, or if its checksum is not
    `wanted` (None: from before there were checksums)."""
    files = {kind: _block_file(folder, kind, number) for kind in ("rejected", "accepted")}
    if not all(file.is_file() for file in files.values()):
        return None
    try:
        if wanted not in (None, checksum(file.read_text(encoding="utf-8") for file in files.values())):
            return None
        rows = [row for file in files.values() for row in _read(file)]
    except ValueError:
        return None
    return sorted(rows, key=lambda row: row["id"])


def remove_blocks(folder: Path, first: int) -> bool:
    """Remove the blocks from `first` on; returns whether there were rows that counted as accepted."""
    found = False
    for kind in ("accepted", "rejected"):
        for file in (folder / kind).glob("*.jsonl"):
            if int(file.stem) >= first:
                file.unlink()
                found |= kind == "accepted"
    return found


def read_rows(folder: Path, kind: Literal["accepted", "rejected"]) -> list[dict[str, Any]]:
    """All accepted or all rejected rows in `folder`, in the order of their attempts."""
    return [row for path in sorted((folder / kind).glob("*.jsonl")) for row in _read(path)]


def input_of(row: dict[str, Any], frame: Frame) -> str:
    """The input of a row read from disk, without the frame."""
    return frame.content(row["messages"][-2]["content"]) if "messages" in row else row["input"]


def answer_of(row: dict[str, Any]) -> str | None:
    """The answer of a row read from disk; None if its input was rejected before it was answered."""
    return row["messages"][-1]["content"] if "messages" in row else row["answer"]


def _read(path: Path) -> Sequence[dict[str, Any]]:
    # Not `splitlines`, which also splits at characters that a model may write.
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
