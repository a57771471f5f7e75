"""A recipe's tasks: answer every prompt with the model's sampler and score the answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tutelage.common.errors import TutelageError, listed
from tutelage.common.hashing import example_seed
from tutelage.common.types import Conversation, Message
from tutelage.evaluation.metrics import ADVICE, SCORERS, Score
from tutelage.evaluation.readers.thoughts import NO_ANSWER, ReplyText, answer_of, read_reply, unended_notice
from tutelage.evaluation.records import ExampleRecord, summarise
from tutelage.models.limits import refuse_unknown_token
from tutelage.recipe.sections import TaskConfig

if TYPE_CHECKING:
    from tutelage.data.chat_template import ChatTemplate
    from tutelage.models.load import LoadedModel
    from tutelage.sampling.sampler import Sampler

Progress = Callable[[int, int], None]  # (examples done, examples in all)

CUT_SHARE, FEW_CUT = 0.1, 5  # the share of replies cut at their limit from which it is told, and the least number
ENDLESS = 0.9  # of a model before any training, whose replies often do not end
UNTRAINED = ("base", "teacher", "lead_1")

# "#Person1#: ", "Anna: ", "Dr. Smith: ", "Person 1: ", but not "She then said: " (a Latin name starts with a capital)
_NAME = r"[^\W\d_a-zß-öø-ÿ][\w.'-]*"
_SPEAKER = re.compile(rf"^(?:#[^#\n:]{{1,40}}#|{_NAME}(?: (?:{_NAME}|\d+)){{0,2}})[:：]\s+")


def evaluate_generation(
    task_name: str,
    task: TaskConfig,
    conversations: Sequence[Conversation],
    template: ChatTemplate,
    sampler: Sampler,
    seed: int,
    progress: Progress | None = None,
    reader: LoadedModel | None = None,
) -> list[ExampleRecord]:
    """Answer and score the prompts of the conversations; return the records in the order of the conversations.

    Prompts are decoded in batches of `task.sampling.batch_size`, the longest first: a batch then holds prompts of
    similar length, and memory runs out in the first batch if at all. Each example is sampled with a seed of its own
    (from `seed` and its id), so answers do not depend on each other. `task_name` is for messages. `reader`: the model
    that answers, if its limits are to be checked: a prompt that fills its context counts as answered with nothing, and
    all of them are listed in one line.

    Raises TutelageError when there is nothing to evaluate, two rows share an id, no prompt fits into the model's
    context, or one has a token that the model does not know.
    """
    _check(task_name, task, conversations)
    prompts = template.encode_prompts([row.prompt for row in conversations], [row.source for row in conversations])
    records = _too_long(task_name, task, conversations, prompts, reader)
    order = [place for place in range(len(prompts)) if place not in records]
    order.sort(key=lambda place: (-len(prompts[place]), place))
    as_text = ReplyText(template)
    told = len(records)

    def tell(ended: Mapping[int, object]) -> None:
        nonlocal told
        told += len(ended)
        if progress is not None:
            progress(told, len(prompts))

    for start in range(0, len(order), task.sampling.batch_size):
        places = order[start : start + task.sampling.batch_size]
        samples = sampler.sample(
            [prompts[place] for place in places],
            max_new_tokens=task.sampling.max_new_tokens,
            temperature=task.sampling.temperature,
            top_p=task.sampling.top_p,
            seeds=[example_seed(seed, conversations[place].id) for place in places],
            ended=tell,
        )
        for place, sample in zip(places, samples, strict=True):
            response = as_text(prompts[place], sample.tokens)
            records[place] = score_response(
                conversations[place], response, task.metrics, finished=sample.finished, tokens=len(sample.tokens)
            )
        told = len(records)  # also of a sampler that tells nothing on the way
        tell({})
    return [records[place] for place in range(len(prompts))]


def _too_long(
    task_name: str,
    task: TaskConfig,
    conversations: Sequence[Conversation],
    prompts: Sequence[Sequence[int]],
    reader: LoadedModel | None,
) -> dict[int, ExampleRecord]:
    """By place, the records of prompts that the model cannot read; prints how many there are, and which."""
    if reader is None:
        return {}
    for row, prompt in zip(conversations, prompts, strict=True):
        where = f"tasks.{task_name}: {row.source or row.id}"
        refuse_unknown_token(f"`{reader.name}`", reader.model, reader.tokenizer, prompt, where)
    context = reader.context
    if context is None:
        return {}
    wanted = task.sampling.max_new_tokens
    out: dict[int, ExampleRecord] = {}
    for place, (row, prompt) in enumerate(zip(conversations, prompts, strict=True)):
        if len(prompt) >= context:
            record = score_response(row, "", task.metrics, finished=False, tokens=0)
            reason = f"not asked: the prompt has {len(prompt)} tokens, the model reads {context}"
            out[place] = replace(record, reason=f"{reason}; {record.reason}")
    short = sum(context - wanted < len(prompt) < context for prompt in prompts)
    if not out and not short:
        return {}
    reads = f"tasks.{task_name}: `{reader.name}` reads {context} tokens (max_position_embeddings of its config)"
    if len(out) == len(prompts):
        raise TutelageError(f"{reads}, and no prompt fits: use shorter prompts, or a model that reads more")
    names = f" ({listed([conversations[place].source or conversations[place].id for place in out])})" if out else ""
    print(
        f"{reads}: {len(out)} prompts do not fit and count as answered with nothing{names}; {short} leave less room "
        f"than max_new_tokens ({wanted})",
        flush=True,
    )
    return out


def lead_1_records(
    task_name: str,
    task: TaskConfig,
    conversations: Sequence[Conversation],
) -> list[ExampleRecord]:
    """Records of the baseline without a model, whose answer is `lead_1`. Raises as `evaluate_generation` does."""
    _check(task_name, task, conversations)
    return [score_response(row, lead_1(row), task.metrics, finished=True, tokens=0) for row in conversations]


def lead_1(conversation: Conversation) -> str:
    """The first line of the last user message, without the speaker's name ("#Person1#: ", "Anna: ") at its beginning.

    Of several paragraphs, separated by blank lines, the first is assumed to be the instruction and skipped.
    """
    users = [message.content for message in conversation.prompt if message.role == "user"]
    paragraphs = [part for part in re.split(r"\n[^\S\n]*\n", users[-1].strip()) if part.strip()] if users else []
    text = "\n".join(paragraphs[1:] or paragraphs)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return _SPEAKER.sub("", line)


def score_response(
    conversation: Conversation, response: str, metrics: Sequence[str], *, finished: bool, tokens: int
) -> ExampleRecord:
    """The record of one response: its score by every metric, and the reasons. `tokens`: sampled tokens.

    What is scored is the answer after a thought, against references without theirs.
    """
    reading = read_reply(response)
    scores = {metric: _score(metric, response, conversation.targets) for metric in metrics}
    reasons = list(dict.fromkeys(score.reason for score in scores.values()))
    if len(reasons) > 1:
        reasons = [f"{metric}: {score.reason}" for metric, score in scores.items()]
    return ExampleRecord(
        id=conversation.id,
        prompt=prompt_text(conversation.prompt),
        response=response,
        references=conversation.targets,
        scores={metric: score.value for metric, score in scores.items()},
        answer=next((score.answer for score in scores.values() if score.answer is not None), None),
        reason="; ".join([NO_ANSWER, *reasons] if reading.unended else reasons),
        finished=finished,
        tokens=tokens,
    )


def task_result(
    task_name: str, subject: str, seed: int, task: TaskConfig, records: Sequence[ExampleRecord]
) -> dict[str, Any]:
    """The result of a task: its metrics, counts and notices. `subject`: the model's name."""
    metrics = list(task.metrics)
    result = summarise(records, metrics, task.headline_metric, task=task_name, model=subject, seed=seed)
    return result | about_replies(task_name, subject, task, records)


def about_replies(task_name: str, subject: str, task: TaskConfig, records: Sequence[ExampleRecord]) -> dict[str, Any]:
    """What a result says of replies that could not be scored: {"unended_thoughts": count, "notices": [line, …]}.

    There is a notice about thoughts that do not end, one where many replies were cut at their limit, and one per metric
    that leaves more than half of the examples unscored, with the commonest reason and what to do. `subject`: the model.
    """
    unended = sum(read_reply(record.response).unended for record in records)
    notices = unended_notice(f"{subject} on {task_name}", unended, len(records))
    notices += _cut_notice(task_name, subject, task, records)
    for metric in task.metrics:
        unscored = [record for record in records if record.scores[metric] is None]
        if 2 * len(unscored) > len(records):
            reasons = Counter(_score(metric, record.response, record.references).reason for record in unscored)
            reason = reasons.most_common(1)[0][0]
            share = "every example" if len(unscored) == len(records) else f"{len(unscored)} of {len(records)} examples"
            notices.append(f"tasks.{task_name}: `{metric}` leaves {share} unscored: {reason}: {ADVICE[reason]}")
    return {"unended_thoughts": unended, "notices": notices}


def _cut_notice(task_name: str, subject: str, task: TaskConfig, records: Sequence[ExampleRecord]) -> list[str]:
    """That many replies were cut at their limit, and which of the two it is: the model does not end its replies, or the
    right answers are as long as the limit."""
    cut = [record for record in records if not record.finished and not read_reply(record.response).unended]
    many = subject not in UNTRAINED and len(cut) >= max(FEW_CUT, CUT_SHARE * len(records))
    if not cut or not (many or len(cut) >= ENDLESS * len(records)):
        return []
    percent = f"{100 * len(cut) / len(records):.0f} %"
    said = (
        f"{subject} on {task_name}: {len(cut)} of {len(records)} replies ({percent}) ran to "
        f"tasks.{task_name}.sampling.max_new_tokens, {task.sampling.max_new_tokens}, and were scored as they were cut"
    )
    longer = sum(len(one.response) > max(map(len, one.references), default=0) for one in cut)
    if 2 * longer <= len(cut):
        return [f"{said}: the right answers are about as long, so take a larger limit"]
    why = f"{said}; {longer} of these are longer than the right answer: the model does not end its answers"
    if subject in UNTRAINED:
        return [why]
    return [
        f"{why}. Train it for more epochs (`training.epochs`), or with a smaller `training.learning_rate` if the model "
        "that it began as did end them; `tutelage data inspect` shows whether the rows' answers end as they should"
    ]


def _score(metric: str, response: str, references: Sequence[str]) -> Score:
    """The score of the answer in a response, against references without their thoughts."""
    return SCORERS[metric](answer_of(response), [answer_of(one) or one for one in references])


def prompt_text(messages: Sequence[Message]) -> str:
    """A prompt for people: the text alone of a single user turn, else every turn below its role."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)


def _check(task_name: str, task: TaskConfig, conversations: Sequence[Conversation]) -> None:
    if not conversations:
        raise TutelageError(
            f"tasks.{task_name}: its data section `{task.data}` has no rows; there is nothing to evaluate"
        )
    seen: dict[str, Conversation] = {}
    for row in conversations:
        if row.id in seen:
            places = f"{seen[row.id].source or 'one row'} and {row.source or 'another'}"
            raise TutelageError(
                f"tasks.{task_name}: rows {places} share the id `{row.id}`; name a column of unique ids in "
                f"data.{task.data}.id"
            )
        seen[row.id] = row
