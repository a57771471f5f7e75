"""Synthesis: new inputs from demonstrations, answers by the teacher, filters, in blocks that survive a kill.

Attempts are numbered. Everything about attempt n (demonstrations, prompt, the seeds of input and answer) follows from
the stage's seed and n, and attempts are judged in that order. A block of attempts is written as a line of metrics,
with the checksum of its rows, then `rejected/00007.jsonl`, then `accepted/00007.jsonl`, each complete or not at all;
the last file marks the block as done. So a killed run resumes after the last block that is done, a damaged block is
made again, and the rows are those of an uninterrupted run. The first block is small, and the last ones have only as
many attempts as the missing rows need.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tutelage.common.checksums import read_sealed
from tutelage.common.errors import TutelageError
from tutelage.common.hashing import keyed_integer
from tutelage.common.metrics_log import MetricsFile, read_metrics
from tutelage.common.progress import Progress
from tutelage.common.run_folder import METRICS
from tutelage.common.time_left import elapsed
from tutelage.common.types import Message, Sample
from tutelage.data.chat_template import ChatTemplate
from tutelage.recipe.sections import SamplingConfig
from tutelage.sampling.sampler import Sampler
from tutelage.synthesis.blocks import (
    Attempt,
    Block,
    SynthesisPlan,
    answer_of,
    block_texts,
    checksum,
    input_of,
    read_block,
    remove_blocks,
    write_block,
)
from tutelage.synthesis.counts import Counts
from tutelage.synthesis.filters import FilterResult, Filters
from tutelage.synthesis.prompts import Demonstration, Frame, chat_prompt, continuation_input, continuation_prompt


@dataclass(frozen=True)
class Writer:
    """A model that writes inputs or answers. `context`: the tokens that prompt and response may have together."""

    template: ChatTemplate
    sampler: Sampler
    context: int


class Synthesis:
    """Makes `plan.rows` accepted rows in `folder`.

    `gold`: the rows for demonstrations; `frame`: the lines that all prompts of the task share.
    """

    def __init__(
        self,
        folder: Path,
        plan: SynthesisPlan,
        gold: Sequence[Demonstration],
        frame: Frame,
        generator: Writer,
        annotator: Writer,
        filters: Filters,
    ) -> None:
        self.folder, self.plan, self.gold, self.frame = folder, plan, list(gold), frame
        self.generator, self.annotator, self.filters = generator, annotator, filters
        self.counts = Counts(plan)
        self.sampling_seconds = 0.0  # of this call

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Make rows until there are enough, after those in the folder. Returns the counts for the result file.

        A worker thread prepares, judges and writes while the main thread samples. For each block n, in time:

            main thread:    sample inputs n  | sample answers n-1  |                          | sample inputs n+1
            worker thread:  judge inputs n-1 | prepare prompts n+1 | judge answers n-1, write | judge inputs n

        If the block in the worker will probably complete the rows, no further inputs are sampled beside it.

        Raises TutelageError when too few attempts are accepted, or when a prompt is longer than the model's context.
        """
        began, number = time.monotonic(), self._resume()
        counts, accepted_before = self.counts, self.counts.accepted
        judged: Future[Block] | None = None  # the block whose inputs are being judged
        if progress is not None:
            progress.restore(accepted_before)
        with (
            contextlib.closing(MetricsFile(self.folder / METRICS, number)) as log,
            ThreadPoolExecutor(1) as worker,
        ):
            prepared = worker.submit(self._prepare, number, sum(counts.block_sizes))
            while counts.missing > 0:
                sampled: Block | None = None
                if judged is None or not self._will_suffice(judged):
                    sampled = prepared.result()
                    del sampled.attempts[counts.next_block_size(number) :]
                    counts.block_sizes.append(len(sampled.attempts))
                    self._sample_inputs(sampled)
                    number += 1
                    prepared = worker.submit(self._prepare, number, sum(counts.block_sizes))
                if judged is not None:
                    block = self._sample_answers(judged.result())
                    metrics = worker.submit(self._finish, block, log.write, began).result()
                    counts.refuse_low_acceptance(self.folder)
                    if progress is not None:
                        progress.advance(metrics["accepted"], self._speed(accepted_before, began))
                judged = None if sampled is None else worker.submit(self._judge_inputs, sampled)
        return self._summary(accepted_before, elapsed(began))

    # --- the steps of a block ----------------------------------------------------------------------------------------

    def _prepare(self, number: int, first: int) -> Block:
        """A block of the largest size from attempt `first` on, each attempt with its own demonstrations and prompt."""
        plan, numbers = self.plan, range(first, first + self.plan.largest_block(number))
        draws = [Random(keyed_integer("demonstrations", plan.seed, attempt)) for attempt in numbers]
        shown = [tuple(random.sample(self.gold, plan.demonstrations)) for random in draws]
        texts = [(chat_prompt if plan.form == "chat" else continuation_prompt)(rows) for rows in shown]
        hashes = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
        prompts = self._encode_prompts(texts)
        return Block(number, [Attempt(*row) for row in zip(numbers, shown, prompts, hashes, strict=True)])

    def _encode_prompts(self, texts: list[str]) -> list[list[int]]:
        template = self.generator.template
        if self.plan.form == "chat":
            return template.encode_prompts([(Message("user", text),) for text in texts])
        return template.tokenizer(texts, return_attention_mask=False)["input_ids"]  # with a begin token, if it has one

    def _sample_inputs(self, block: Block) -> None:
        prompts = [attempt.prompt for attempt in block.attempts]
        seeds = [keyed_integer("input", self.plan.seed, attempt.number) for attempt in block.attempts]
        block.samples = self._sample(block, self.generator, self.plan.inputs, prompts, seeds)

    def _judge_inputs(self, block: Block) -> Block:
        for attempt, sample in zip(block.attempts, block.samples, strict=True):
            text, complete = self.generator.template.decode(sample.tokens), sample.finished
            if self.plan.form == "continuation":
                ended = complete and sample.tokens[-1] in self.generator.template.end_of_turn_ids
                text, next_field = continuation_input(text)
                complete = ended or next_field
            attempt.input, attempt.input_tokens = self.frame.content(text.strip()).strip(), len(sample.tokens)
            if self.generator.template.is_text(sample.tokens, sample.finished):
                attempt.verdict = self.filters.check_input(attempt.input, complete, attempt.id)
            else:
                attempt.verdict = FilterResult("broken", "the input has bytes that are no text")
            attempt.nearest = attempt.verdict.nearest
        questions = [self.frame.messages(attempt.input) for attempt in block.passed]
        block.questions = self.annotator.template.encode_prompts(questions)
        return block

    def _sample_answers(self, block: Block) -> Block:
        passed = block.passed
        seeds = [keyed_integer("answer", self.plan.seed, attempt.number) for attempt in passed]
        samples = self._sample(block, self.annotator, self.plan.answers, block.questions, seeds)
        for attempt, sample in zip(passed, samples, strict=True):
            attempt.answer = self.annotator.template.decode(sample.tokens).strip()
            attempt.answer_tokens = len(sample.tokens)
            attempt.verdict = FilterResult() if sample.finished else FilterResult("cut")
            if not self.annotator.template.is_text(sample.tokens, sample.finished):
                attempt.verdict = FilterResult("broken", "the answer has bytes that are no text")
        return block

    def _finish(self, block: Block, log: Callable[[dict[str, Any]], None], began: float) -> dict[str, Any]:
        """Judge the answers and write the block, its line of metrics first. Returns that line."""
        missing = self.counts.missing
        answered = [attempt for attempt in block.attempts if attempt.answer is not None]
        for attempt in answered:
            if attempt.verdict.reason != "broken":
                attempt.verdict = self.filters.check_answer(attempt.input, attempt.answer or "", attempt.passed)
            if attempt.passed and missing == 0:
                attempt.verdict = FilterResult("surplus", "there were enough rows already")
            missing -= attempt.passed
        texts = block_texts(block, self.plan, self.frame)
        metrics = {
            "step": block.number + 1,
            "attempts": len(block.attempts),
            "answered": len(answered),
            "accepted": len(block.passed),
            "sampled_tokens": block.sampled_tokens,
            "sampling_seconds": block.sampling_seconds,
            "seconds": elapsed(began),
            "rows": checksum(texts.values()),
        }
        log(metrics)
        write_block(self.folder, block.number, texts)
        self.counts.add([attempt.verdict.reason for attempt in block.attempts], len(answered))
        return metrics

    # --- sampling ----------------------------------------------------------------------------------------------------

    def _sample(
        self, block: Block, writer: Writer, config: SamplingConfig, prompts: list[list[int]], seeds: list[int]
    ) -> list[Sample]:
        """The samples for `prompts`; their time and tokens are added to the block's."""
        if not prompts:
            return []
        longest = max(map(len, prompts))
        if longest >= writer.context:
            name = self.plan.generator if writer is self.generator else self.plan.annotator
            raise TutelageError(
                f"a prompt of {longest} tokens fills the {writer.context} that {name} can read: lower "
                f"`demonstrations`, or use shorter gold rows"
            )
        began = time.monotonic()
        samples = writer.sampler.sample(
            prompts,
            max_new_tokens=min(config.max_new_tokens, writer.context - longest),
            temperature=config.temperature,
            top_p=config.top_p,
            seeds=seeds,
        )
        seconds = elapsed(began)
        self.sampling_seconds += seconds
        block.sampling_seconds += seconds
        block.sampled_tokens += sum(len(sample.tokens) for sample in samples)
        return samples

    def _will_suffice(self, judged: Future[Block]) -> bool:
        """Near the end: whether the block that waits for its answers will probably have all rows still missing."""
        missing = self.counts.missing
        if missing > self.plan.block_size:
            return False
        return self.counts.expected_rows(len(judged.result().passed)) >= missing

    # --- counts ------------------------------------------------------------------------------------------------------

    def _resume(self) -> int:
        """Count and remember the blocks that are done, and remove those after a damaged one. Returns the number of the
        next block."""
        number = 0
        for line in read_sealed(self.folder / METRICS):
            if line is None or line.get("step") != number + 1:
                break
            rows = read_block(self.folder, number, line.get("rows"))
            if rows is None:
                break
            answered = [row for row in rows if answer_of(row) is not None]
            for row in answered:
                self.filters.remember(input_of(row, self.frame), row["id"])
            self.counts.block_sizes.append(len(rows))
            self.counts.add([row["verdict"]["reason"] for row in rows], len(answered))
            number += 1
        if remove_blocks(self.folder, number):
            print(f"{self.folder}: block {number} or its metrics are damaged; it is made again", flush=True)
        return number

    def _speed(self, accepted_before: int, began: float) -> str:
        rate = (self.counts.accepted - accepted_before) / elapsed(began)
        return f"{rate:.1f} rows/s, {self.counts.accepted / max(1, self.counts.attempts):.0%} accepted"

    def _summary(self, accepted_before: int, seconds: float) -> dict[str, Any]:
        """Counts of all attempts. `rows_per_s` and `sampler_share` (share of the time) are those of this call."""
        counts, lines = self.counts, read_metrics(self.folder / METRICS)
        tokens, sampling = (sum(line[key] for line in lines) for key in ("sampled_tokens", "sampling_seconds"))
        return {
            "rows": counts.accepted,
            "attempts": counts.attempts,
            "answered": counts.answered,
            "acceptance": counts.accepted / counts.attempts,
            "rejected": dict(counts.reasons.most_common()),
            "rows_per_s": (counts.accepted - accepted_before) / seconds,
            "sampler_share": self.sampling_seconds / seconds,
            "sampled_tokens": tokens,
            "sampling_seconds": sampling,
            "sampler_tokens_per_s": tokens / sampling if sampling else None,
        }
