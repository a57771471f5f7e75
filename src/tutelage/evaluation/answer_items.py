"""Answer a benchmark's items: prompts sorted by length, sampled in batches, replies written as they end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tutelage.common.checksums import seal, unseal
from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.hashing import example_seed, fingerprint
from tutelage.common.progress import progress
from tutelage.common.time_left import elapsed
from tutelage.common.types import Sample
from tutelage.data.columns import BadRowError, fill_template
from tutelage.evaluation.benchmarks.base import NO_ROOM, Benchmark, Item, Prompt, Reply, user
from tutelage.evaluation.benchmarks.lm_eval import encode, encode_pair
from tutelage.evaluation.readers.thoughts import ReplyText, cut_answer
from tutelage.evaluation.replies import read_replies

if TYPE_CHECKING:
    from tutelage.data.chat_template import ChatTemplate
    from tutelage.sampling.sampler import Sampler

# Raised by hand when sampling changes, so that old replies are not used as new ones. In version 1 a base model's reply
# that a stop ended may count as cut.
REPLIES_VERSION = 2
ENCODED_AT_ONCE = 256  # prompts per call of the tokenizer


@dataclass(frozen=True)
class Asking:
    """How a model is asked."""

    chat: bool  # prompts go through the chat template
    prompt: str | None = None  # template of the question, zero-shot; None: the benchmark's own prompt
    version: int = REPLIES_VERSION  # of the replies that are there

    def shots(self, bench: Benchmark) -> int:
        """The most solved examples in a prompt."""
        return 0 if self.prompt is not None else bench.shots

    def prompt_of(self, bench: Benchmark, item: Item, shots: int) -> Prompt:
        """What the model is asked. A template's columns are those of the item's row, and `prompt`, its text.

        Raises TutelageError for a column that the row does not have.
        """
        if self.prompt is None:
            return bench.prompt(item, self.chat, shots)
        try:
            text = fill_template(self.prompt, {"prompt": item.prompt, **item.row})
        except BadRowError as error:
            raise TutelageError(f"`prompt` of a task on {bench.name}: {error}") from None
        return Prompt(messages=user(text)) if self.chat else Prompt(text=f"{text}\n\n")

    def fingerprint_of(self, bench: Benchmark, item: Item, shots: int | None) -> str:
        """The fingerprint of an item's prompt: a reply to another prompt is not its own."""
        prompt = self.prompt_of(bench, item, self.shots(bench) if shots in (None, NO_ROOM) else shots)
        return fingerprint([[one.role, one.content] for one in prompt.messages], prompt.text, prompt.prefix)


@dataclass(frozen=True)
class Answerer:
    """A loaded model and how it is asked."""

    template: ChatTemplate
    sampler: Sampler
    fingerprint: str  # of the model
    chat: bool  # prompts go through the chat template
    context: int | None = None  # the most tokens the model takes; None: unknown
    seed: int = 0
    batch_tokens: int | None = None  # tokens per call of the sampler, prompts and new ones; None: one call
    prompt: str | None = None  # template of the question, zero-shot; None: the benchmark's own prompt
    max_new_tokens: int | None = None  # per reply; None: the benchmark's own limit

    @property
    def asking(self) -> Asking:
        """How it is asked."""
        return Asking(self.chat, self.prompt)


@dataclass(frozen=True)
class Question:
    """An item as the model is asked it: token ids of the prompt, with `shots` solved examples."""

    item: Item
    ids: list[int]
    shots: int


def new_token_limit(bench: Benchmark, answerer: Answerer) -> int:
    """The most new tokens of a reply: the given or the benchmark's limit, but at most half of the model's context."""
    limit = answerer.max_new_tokens or bench.max_new_tokens
    return min(limit, answerer.context // 2) if answerer.context else limit


def answer(
    bench: Benchmark, items: Sequence[Item], answerer: Answerer, file: Path
) -> tuple[dict[str, Reply], dict[str, Any]]:
    """Replies to the items by id, and the content of `speed.json`. Each reply is appended to the file when it ends."""
    questions, too_long = make_questions(bench, items, answerer)
    limit = new_token_limit(bench, answerer)
    replies = {item.id: Reply("", finished=False, shots=NO_ROOM) for item in too_long}
    file.parent.mkdir(parents=True, exist_ok=True)
    tally = getattr(answerer.sampler, "tally", None)
    shared = tally.shared if tally else 0
    with file.open("a", encoding="utf-8") as handle, progress(bench.name, len(questions), unit="answers") as bar:
        for item in too_long:
            _append(handle, bench, item, replies[item.id], answerer.asking)
        started, new_tokens = time.monotonic(), 0

        def keep(new: list[tuple[Item, Reply]]) -> None:
            nonlocal new_tokens
            for item, reply in new:
                replies[item.id] = reply
                _append(handle, bench, item, reply, answerer.asking)
                new_tokens += reply.tokens
            handle.flush()
            bar.advance(len(new), f"{new_tokens / elapsed(started):.0f} tokens/s")

        for batch in _batches(questions, limit, answerer.batch_tokens):
            _sample(bench, batch, answerer, limit, keep)
            os.fsync(handle.fileno())
        spent = elapsed(started)
    prompt_tokens = sum(len(question.ids) for question in questions)
    speed = {
        "examples": len(questions),
        "seconds": spent,
        "prompt_tokens": prompt_tokens,
        "shared_prompt_tokens": tally.shared - shared if tally else None,
        "new_tokens": new_tokens,
        "new_tokens_per_s": new_tokens / spent,
        "tokens_per_s": (prompt_tokens + new_tokens) / spent,
    }
    return replies, speed


def make_questions(bench: Benchmark, items: Sequence[Item], answerer: Answerer) -> tuple[list[Question], list[Item]]:
    """The items' prompts as token ids, with as many solved examples as fit; and the items that do not fit at all.

    Prompts of one group come together, the longest first: prompts of a batch are then of similar length, and a sampler
    can read their shared beginning once.
    """
    limit = new_token_limit(bench, answerer)
    questions, too_long = [], []
    with progress(f"{bench.name}: prompts", len(items)) as bar:
        for start in range(0, len(items), ENCODED_AT_ONCE):
            chunk = items[start : start + ENCODED_AT_ONCE]
            for item, question in zip(chunk, _fitting(bench, chunk, answerer, limit), strict=True):
                if question is None:
                    too_long.append(item)
                else:
                    questions.append(question)
            bar.advance(len(chunk))
    questions.sort(key=lambda one: (one.item.group if answerer.asking.shots(bench) else "", -len(one.ids), one.item.id))
    return questions, too_long


def prompt_notices(bench: Benchmark, replies: Mapping[str, Reply], context: int | None, most: int) -> list[str]:
    """Notices about prompts that lost solved examples, or were not asked, because of the model's context.

    `context`: the most tokens it takes; `most`: the solved examples of a whole prompt.
    """
    too_long = [name for name, reply in replies.items() if reply.shots == NO_ROOM]
    fewer = sum(reply.shots is not None and NO_ROOM < reply.shots < most for reply in replies.values())
    notices = []
    if fewer:
        notices.append(
            f"{bench.name}: {fewer} prompts were given fewer than {most} solved examples, since the model takes "
            f"{context or 'no more'} tokens"
        )
    if too_long:
        notices.append(
            f"{bench.name}: {len(too_long)} prompts leave no room for a reply in the model's {context or 'few'} tokens "
            f"and count as answered with nothing: {', '.join(too_long[:10])}"
        )
    return notices


def _fitting(bench: Benchmark, items: Sequence[Item], answerer: Answerer, limit: int) -> list[Question | None]:
    """Per item, the question with as many solved examples as fit; None where not even the bare question fits."""
    questions: list[Question | None] = [None] * len(items)
    left = list(range(len(items)))
    for shots in range(answerer.asking.shots(bench), -1, -1):
        prompts = [answerer.asking.prompt_of(bench, items[place], shots) for place in left]
        for place, ids in zip(list(left), encode(answerer.template, prompts), strict=True):
            if answerer.context is None or len(ids) + limit <= answerer.context:
                questions[place] = Question(items[place], ids, shots)
                left.remove(place)
        if not left:
            break
    return questions


def _batches(questions: Sequence[Question], limit: int, budget: int | None) -> Iterator[list[Question]]:
    """Consecutive questions whose prompts and replies fill the budget; at least one question each."""
    batch: list[Question] = []
    used = 0
    for question in questions:
        if batch and budget is not None and used + len(question.ids) + limit > budget:
            yield batch
            batch, used = [], 0
        batch.append(question)
        used += len(question.ids) + limit
    if batch:
        yield batch


def _sample(
    bench: Benchmark,
    batch: Sequence[Question],
    answerer: Answerer,
    limit: int,
    keep: Callable[[list[tuple[Item, Reply]]], None],
) -> None:
    """Sample replies and give them to `keep` as they end, so that a killed run loses none of those."""
    likelihoods = _likelihoods(bench, [question.item for question in batch], answerer)
    kept: set[int] = set()
    as_text = ReplyText(answerer.template)

    def ended(samples: Mapping[int, Sample]) -> None:
        new = []
        for place, sample in samples.items():
            question = batch[place]
            whole = text = as_text(question.ids, sample.tokens)
            if not answerer.chat:  # a base model continues with a next question of its own
                text = cut_answer(whole, bench.stop)
            likely, ended = likelihoods.get(question.item.id), sample.finished or text != whole
            reply = Reply(text, ended, len(sample.tokens), question.shots, likelihoods=likely)
            new.append((question.item, reply))
        kept.update(samples)
        keep(new)

    samples = answerer.sampler.sample(
        [question.ids for question in batch],
        max_new_tokens=limit,
        temperature=0.0,
        top_p=1.0,
        seeds=[example_seed(answerer.seed, question.item.id) for question in batch],
        ended=ended,
    )
    rest = {place: sample for place, sample in enumerate(samples) if place not in kept}
    if rest:  # of a sampler that does not call `ended`
        ended(rest)


def _likelihoods(bench: Benchmark, items: Sequence[Item], answerer: Answerer) -> dict[str, tuple[float, ...]]:
    """Summed log-probability per option by item id, where the benchmark compares them; none for an item with an option
    that the model's context does not hold."""
    owners: list[str] = []
    pairs: list[tuple[list[int], list[int]]] = []
    for item in items:
        found = [encode_pair(answerer.template, *option) for option in bench.options(item)]
        if answerer.context is None or all(len(p) + len(c) <= answerer.context for p, c in found):
            owners += [item.id] * len(found)
            pairs += found
    if not pairs:
        return {}
    values = answerer.sampler.score([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    out: dict[str, tuple[float, ...]] = {}
    for owner, value in zip(owners, values, strict=True):
        out[owner] = (*out.get(owner, ()), float(value.double().sum()))
    return out


def _append(handle: TextIO, bench: Benchmark, item: Item, reply: Reply, asking: Asking) -> None:
    row: dict[str, Any] = {"id": item.id, "response": bench.conceal(reply.text), "finished": reply.finished}
    row |= {"tokens": reply.tokens, "shots": reply.shots, "asked": asking.fingerprint_of(bench, item, reply.shots)}
    if reply.likelihoods is not None:
        row["likelihoods"] = list(reply.likelihoods)
    handle.write(seal(row))  # ASCII, so that a lone surrogate can be written


def count_replies(file: Path) -> int:
    """How many replies a file holds; 0 where there is none."""
    return sum(1 for line in file.open(encoding="utf-8") if line.strip()) if file.is_file() else 0


def resume(
    file: Path, bench: Benchmark, items: Sequence[Item], asking: Asking, rewrite: bool = True
) -> dict[str, Reply]:
    """The replies of an earlier run to today's prompts.

    Removed from the file, if `rewrite`: lines that a kill cut short or that are damaged, replies to other prompts of
    the items, and those of version 1 of which nobody knows whether they were cut. Raises TutelageError for damaged
    lines if not.
    """
    if not file.is_file():
        return {}
    kept, broken, other_prompts = [], 0, set()
    by_id = {item.id: item for item in items}
    content = file.read_bytes()
    for line in content.decode("utf-8", "replace").split("\n"):
        if not line:
            continue
        try:
            row = unseal(line)
        except (ValueError, RecursionError):
            broken += 1
            continue
        item, asked = by_id.get(str(row.get("id"))), row.get("asked")
        if item is not None and asked is not None and asked != asking.fingerprint_of(bench, item, row.get("shots")):
            other_prompts.add(item.id)
            continue
        cut = row.get("finished") is False and row.get("shots") != NO_ROOM
        if asking.version == 1 and not asking.chat and cut:
            other_prompts.add(str(row.get("id")))
            continue
        kept.append(line)
    if broken and not rewrite:
        raise TutelageError(f"{file}: {broken} replies are cut or damaged; run the benchmark again")
    if broken - (not content.endswith(b"\n")) > 0:
        print(f"{file}: {broken} replies are damaged and are asked for again", flush=True)
    if rewrite and (broken or other_prompts or not content.endswith(b"\n")):
        write_atomically(file, "".join(f"{line}\n" for line in kept))
    if not kept:
        return {}
    known = {str(row["id"]) for row in map(json.loads, kept) if "id" in row} | other_prompts
    found = read_replies(bench, file, items, known)
    if found.doubled:
        raise TutelageError(f"{file}: `{found.doubled[0]}` has two replies; did two runs write to it? remove the file")
    return {id: reply for id, reply in found.replies.items() if id not in other_prompts}
