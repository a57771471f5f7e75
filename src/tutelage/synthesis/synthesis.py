"""Synthesis: new inputs from demonstrations, answers by the teacher, filters, and shards that survive any kill.

Attempts are numbered. All about attempt n (demonstrations, prompt, the seeds of its input and its answer) follows from
the stage's seed and n, and rows are judged in that order. Attempts are made in blocks, and a block is written as
`rejected/00007.jsonl`, then `accepted/00007.jsonl`, each whole or not at all. The second says that the block is done.
So a run that was killed goes on after the last whole block, and ends in the set that an unbroken one makes. The first
block is small, and towards the end blocks are only as large as what is missing wants.

Prompts, filters and writing have a thread beside the sampler: while inputs are sampled, the block before is judged.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import keyed_integer
from tutelage.common.metrics_log import MetricsFile, read_metrics
from tutelage.common.progress import Progress
from tutelage.common.run_folder import METRICS
from tutelage.common.types import Message, Sample
from tutelage.data.chat_template import ChatTemplate
from tutelage.recipe.sections import SamplingConfig
from tutelage.sampling.sampler import Sampler
from tutelage.synthesis.blocks import Attempt, Block, SynthesisPlan, answer_of, input_of, read_block, write_block
from tutelage.synthesis.filters import FilterResult, Filters
from tutelage.synthesis.prompts import Demonstration, Frame, chat_prompt, continuation_input, continuation_prompt

_PATIENCE = 1000  # attempts before a low acceptance is believed


@dataclass(frozen=True)
class Writer:
    """A model that writes inputs or answers; `context`: the tokens that it can read and write together."""

    template: ChatTemplate
    sampler: Sampler
    context: int


class Synthesis:
    """Makes `plan.rows` accepted rows in `folder`."""

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
        self.attempts = self.answered = self.accepted = 0
        self.sizes: list[int] = []  # attempts of each block that was begun
        self.gains: list[int] = []  # accepted rows of each block that is done
        self.reasons: Counter[str] = Counter()
        self.sampling = 0.0  # seconds of this call

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Go on to the end. Returns the counts for the result file.

        Raises TutelageError when too few attempts are accepted, or when a prompt leaves no room for what is asked.
        """
        began, number = time.monotonic(), self._resume()
        before, waiting = self.accepted, None
        if progress is not None:
            progress.restore(before)
        with (
            contextlib.closing(MetricsFile(self.folder / METRICS, number)) as log,
            ThreadPoolExecutor(1) as worker,
        ):
            prepared = worker.submit(self._prepare, number, sum(self.sizes))
            while self.accepted < self.plan.rows:
                fresh = None
                if waiting is None or not self._may_suffice(waiting):
                    fresh = prepared.result()
                    del fresh.attempts[self._attempts_wanted(number) :]
                    self.sizes.append(len(fresh.attempts))
                    self._sample_inputs(fresh)
                    number += 1
                    prepared = worker.submit(self._prepare, number, sum(self.sizes))
                if waiting is not None:
                    block = self._sample_answers(waiting.result())
                    line = worker.submit(self._finish, block).result()
                    log.write(line | {"seconds": time.monotonic() - began})
                    self._refuse_hopeless()
                    if progress is not None:
                        progress.advance(line["accepted"], self._note(before, began))
                waiting = None if fresh is None else worker.submit(self._judge_inputs, fresh)
        return self._summary(before, time.monotonic() - began)

    # --- the steps of a block ----------------------------------------------------------------------------------------

    def _prepare(self, number: int, first: int) -> Block:
        """The prompts of a block, as large as may be, from attempt `first` on: fresh demonstrations for each."""
        plan, numbers = self.plan, range(first, first + self.plan.most(number))
        draws = [Random(keyed_integer("demonstrations", plan.seed, attempt)) for attempt in numbers]
        shown = [tuple(random.sample(self.gold, plan.demonstrations)) for random in draws]
        texts = [(chat_prompt if plan.form == "chat" else continuation_prompt)(rows) for rows in shown]
        digests = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
        return Block(number, [Attempt(*row) for row in zip(numbers, shown, self._tokens(texts), digests, strict=True)])

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        template = self.generator.template
        if self.plan.form == "chat":
            return template.encode_prompts([(Message("user", text),) for text in texts])
        # with a begin token, where the model knows one
        return template.tokenizer(texts, return_attention_mask=False)["input_ids"]

    def _sample_inputs(self, block: Block) -> None:
        prompts = [attempt.prompt for attempt in block.attempts]
        keys = [keyed_integer("input", self.plan.seed, attempt.number) for attempt in block.attempts]
        block.samples = self._sample(block, self.generator, self.plan.inputs, prompts, keys)

    def _judge_inputs(self, block: Block) -> Block:
        for attempt, sample in zip(block.attempts, block.samples, strict=True):
            text, whole = self.generator.template.decode(sample.tokens), sample.finished
            if self.plan.form == "continuation":
                ended = whole and sample.tokens[-1] in self.generator.template.end_of_turn_ids
                text, found = continuation_input(text)
                whole = ended or found
            attempt.input, attempt.input_tokens = self.frame.content(text.strip()).strip(), len(sample.tokens)
            attempt.verdict = self.filters.check_input(attempt.input, whole, attempt.id)
            attempt.nearest = attempt.verdict.nearest
        asked = [self.frame.messages(attempt.input) for attempt in block.passed]
        block.asked = self.annotator.template.encode_prompts(asked)
        return block

    def _sample_answers(self, block: Block) -> Block:
        passed = block.passed
        keys = [keyed_integer("answer", self.plan.seed, attempt.number) for attempt in passed]
        samples = self._sample(block, self.annotator, self.plan.answers, block.asked, keys)
        for attempt, sample in zip(passed, samples, strict=True):
            attempt.answer = self.annotator.template.decode(sample.tokens).strip()
            attempt.answer_tokens = len(sample.tokens)
            attempt.verdict = FilterResult() if sample.finished else FilterResult("cut")
        return block

    def _finish(self, block: Block) -> dict[str, Any]:
        """Judge the answers and write the block. Returns its line of metrics."""
        room = self.plan.rows - self.accepted
        for attempt in block.attempts:
            if attempt.answer is None:
                continue
            self.answered += 1
            attempt.verdict = self.filters.check_answer(attempt.input, attempt.answer, attempt.passed)
            if attempt.passed and room == 0:
                attempt.verdict = FilterResult("surplus", "all rows asked for were there already")
            room -= attempt.passed
        write_block(self.folder, block, self.plan, self.frame)
        gained = len(block.passed)
        self.attempts += len(block.attempts)
        self.accepted += gained
        self.gains.append(gained)
        self.reasons.update(attempt.verdict.reason for attempt in block.attempts if attempt.verdict.reason)
        return {
            "step": block.number + 1,
            "attempts": len(block.attempts),
            "answered": len(block.asked),
            "accepted": gained,
            "sampled_tokens": block.sampled,
            "sampling_seconds": block.sampling,
        }

    # --- sampling ----------------------------------------------------------------------------------------------------

    def _sample(
        self, block: Block, writer: Writer, config: SamplingConfig, prompts: list[list[int]], seeds: list[int]
    ) -> list[Sample]:
        if not prompts:
            return []
        longest = max(map(len, prompts))
        if longest >= writer.context:
            name = self.plan.generator if writer is self.generator else self.plan.annotator
            raise TutelageError(
                f"a prompt of {longest} tokens fills the {writer.context} that {name} can read: lower "
                f"`demonstrations`, or take shorter gold rows"
            )
        began = time.monotonic()
        samples = writer.sampler.sample(
            prompts,
            max_new_tokens=min(config.max_new_tokens, writer.context - longest),
            temperature=config.temperature,
            top_p=config.top_p,
            seeds=seeds,
        )
        spent = time.monotonic() - began
        self.sampling += spent
        block.sampling += spent
        block.sampled += sum(len(sample.tokens) for sample in samples)
        return samples

    def _attempts_wanted(self, number: int) -> int:
        """The size of a block, from what is known when it begins: of the block before only how large it is.

        A run that goes on after a kill knows more, but must cut where the unbroken one does.
        """
        known = max(0, number - 1)
        accepted, tried = sum(self.gains[:known]), sum(self.sizes[:known])
        if not accepted:
            return self.plan.most(number)
        rate = accepted / tried
        missing = self.plan.rows - accepted - rate * sum(self.sizes[known:number])
        batches = math.ceil(1.1 * missing / rate / self.plan.batch)  # a tenth more, since the rate is an estimate
        return min(self.plan.block, max(1, batches) * self.plan.batch)

    def _may_suffice(self, waiting: Future[Block]) -> bool:
        """Near the end: whether the block that waits for its answers will probably hold all rows still wanted."""
        missing = self.plan.rows - self.accepted
        if missing > self.plan.block:
            return False
        rate = self.accepted / self.answered if self.accepted else 1.0
        return len(waiting.result().passed) * rate >= missing

    # --- around ------------------------------------------------------------------------------------------------------

    def _resume(self) -> int:
        """Take up what stands in the folder; returns the number of the block to make next."""
        number = 0
        while (rows := read_block(self.folder, number)) is not None:
            self.sizes.append(len(rows))
            self.gains.append(sum(row["verdict"]["accepted"] for row in rows))
            for row in rows:
                reason = row["verdict"]["reason"]
                self.attempts += 1
                self.accepted += reason is None
                self.reasons.update([reason] if reason else [])
                if answer_of(row) is not None:
                    self.answered += 1
                    self.filters.remember(input_of(row, self.frame), row["id"])
            number += 1
        return number

    def _refuse_hopeless(self) -> None:
        tried_enough = self.attempts >= min(_PATIENCE, self.plan.rows / self.plan.min_acceptance)
        if self.accepted >= self.plan.rows or not tried_enough:
            return
        if self.accepted < self.plan.min_acceptance * self.attempts:
            most, count = self.reasons.most_common(1)[0]
            raise TutelageError(
                f"only {self.accepted} of {self.attempts} attempts were accepted, {count} were rejected as `{most}`: "
                f"read {self.folder / 'rejected'}, then mend the gold rows, the generator or `filters`, or lower "
                f"`min_acceptance`"
            )

    def _note(self, before: int, began: float) -> str:
        speed = (self.accepted - before) / max(1e-9, time.monotonic() - began)
        return f"{speed:.1f} rows/s, {self.accepted / max(1, self.attempts):.0%} accepted"

    def _summary(self, before: int, seconds: float) -> dict[str, Any]:
        """Counts over all attempts; `rows_per_s` and `sampler_share` (of the time) are of this call."""
        lines = read_metrics(self.folder / METRICS)
        sampled, sampling = (sum(line[key] for line in lines) for key in ("sampled_tokens", "sampling_seconds"))
        return {
            "rows": self.accepted,
            "attempts": self.attempts,
            "answered": self.answered,
            "acceptance": self.accepted / self.attempts,
            "rejected": dict(self.reasons.most_common()),
            "rows_per_s": (self.accepted - before) / seconds,
            "sampler_share": self.sampling / seconds,
            "sampled_tokens": sampled,
            "sampling_seconds": sampling,
            "sampler_tokens_per_s": sampled / sampling if sampling else None,
        }
