"""Prompts and scores of lm-evaluation-harness's task files over rows that this project reads, and prompts as token ids.

`HarnessTask` reads one of lm-eval's task files, replaces its data set by the given rows, and gives the prompts and
lm-eval's own score of a reply. lm-eval is imported only when one is made. Whole tasks of lm-eval, by name:
`evaluation/lm_eval_tasks.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.common.types import Message
from tutelage.evaluation.benchmarks.base import Prompt

if TYPE_CHECKING:
    from tutelage.data.chat_template import ChatTemplate


class HarnessTask:
    """One of lm-eval's task files over given rows.

    `file` is relative to lm-eval's tasks folder, `shots` are the rows of the solved examples, and `overrides` replace
    keys of the task file.
    """

    def __init__(
        self,
        file: str,
        rows: Sequence[Mapping[str, Any]],
        shots: Sequence[Mapping[str, Any]] = (),
        **overrides: Any,
    ) -> None:
        from datasets import Dataset
        from lm_eval.api.task import ConfigurableTask
        from lm_eval.tasks import __file__ as tasks
        from lm_eval.tasks._yaml_loader import load_yaml

        config = load_yaml(Path(str(tasks)).parent / file)
        splits = {"rows": Dataset.from_list([dict(row) for row in rows])}
        config |= {"custom_dataset": lambda **_: splits, "test_split": "rows", "dataset_path": None}
        config |= {"training_split": None, "validation_split": None, "process_docs": None, **overrides}
        if config.get("fewshot_split"):
            splits["shots"] = Dataset.from_list([dict(row) for row in shots])
            config["fewshot_split"] = "shots"
        for key in ("group", "tag", "task_alias", "metadata", "dataset_name", "dataset_kwargs"):
            config.pop(key, None)
        with quiet():
            self.task: Any = ConfigurableTask(config=config)

    def prompt(self, row: Mapping[str, Any], chat: bool, shots: int) -> Prompt:
        """The prompt that the task file makes, with `shots` solved examples.

        In a chat the solved examples are turns, and the description opens the first turn instead of being a system
        message, which some templates refuse.
        """
        prefix = self.task.doc_to_prefix(row) or ""
        if not chat:
            text = self.task.fewshot_context(dict(row), shots, gen_prefix=prefix or None)
            return Prompt(text=text)
        turns = self.task.fewshot_context(
            dict(row),
            shots,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=lambda turns, add_generation_prompt: turns,
        )
        return Prompt(messages=_merged(turns), prefix=prefix)

    def scores(self, row: Mapping[str, Any], reply: str) -> dict[str, float]:
        """lm-eval's own score of a generated reply, 0..1, by each of its answer filters."""
        return self.scores_of([row], [reply])[0]

    def scores_of(self, rows: Sequence[Mapping[str, Any]], replies: Sequence[str]) -> list[dict[str, float]]:
        """`scores` of many replies in one call: some of lm-eval's filters take 0.1 s to start (GPQA's)."""
        from lm_eval.api.instance import Instance

        pairs = zip(rows, replies, strict=True)
        instances = [Instance("generate_until", dict(row), ("", {}), 0, resps=[reply]) for row, reply in pairs]
        out: list[dict[str, float]] = [{} for _ in instances]
        for chain in self.task._filters:
            chain.apply(instances)
            for found, instance in zip(out, instances, strict=True):
                result = self.task.process_results(instance.doc, [instance.filtered_resps[chain.name]])
                found[chain.name] = float(next(iter(result.values())))
        return out

    def pairs(self, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(context, continuation) per option of a multiple choice."""
        context = self.task.fewshot_context(dict(row), 0)
        requests = self.task.construct_requests(dict(row), context, metadata=(None, None, None))
        return [request.args for request in requests]

    def choose(self, row: Mapping[str, Any], loglikelihoods: Sequence[float]) -> dict[str, float]:
        """lm-eval's `acc` and `acc_norm` of the options' log-likelihoods."""
        return self.task.process_results(dict(row), [(value, False) for value in loglikelihoods])


def _merged(turns: Sequence[Mapping[str, str]]) -> tuple[Message, ...]:
    system = "".join(turn["content"] for turn in turns if turn["role"] == "system")
    rest = [turn for turn in turns if turn["role"] != "system"]
    messages = [Message(turn["role"], turn["content"].strip()) for turn in rest]  # type: ignore[arg-type]
    if system.strip():
        messages[0] = Message("user", f"{system.strip()}\n\n{messages[0].content}")
    return tuple(messages)


class quiet:
    """A context in which lm-eval logs errors alone; it logs several notes about settings per task."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger("lm_eval")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)


def encode(template: ChatTemplate, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids per prompt: chat messages through the template, plain text as the tokenizer encodes it by default."""
    chats = [place for place, prompt in enumerate(prompts) if prompt.messages]
    texts = [place for place, prompt in enumerate(prompts) if not prompt.messages]
    out: dict[int, list[int]] = dict(
        zip(chats, template.encode_prompts([prompts[place].messages for place in chats]), strict=True)
    )
    if texts:
        encoded = template.tokenizer([prompts[place].text for place in texts], verbose=False)["input_ids"]
        out |= dict(zip(texts, map(list, encoded), strict=True))
    for place in chats:
        if prompts[place].prefix:
            out[place] += continuation_ids(template, prompts[place].prefix)
    return [out[place] for place in range(len(prompts))]


def continuation_ids(template: ChatTemplate, text: str) -> list[int]:
    """Token ids of a text that continues a prompt: without the tokenizer's own beginning."""
    return template.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def encode_pair(template: ChatTemplate, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of a context and of its continuation, tokenised as one text and split where the context's tokens end.

    Spaces at the end of the context belong to the continuation, as in lm-eval.
    """
    stripped = context.rstrip()
    context, continuation = stripped, context[len(stripped) :] + continuation
    whole = list(template.tokenizer(context + continuation, verbose=False)["input_ids"])
    start = len(template.tokenizer(context, verbose=False)["input_ids"])
    return whole[:start], whole[start:]


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops; a stop at the very beginning counts too."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
