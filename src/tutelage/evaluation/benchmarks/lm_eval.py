"""lm-evaluation-harness underneath: its task files over our data, and our samplers behind its `LM` interface.

`HarnessTask` takes one of lm-eval's task files, puts our rows in the place of its data set, and is asked for prompts
and for lm-eval's own score of a reply. `sampler_lm` makes an `lm_eval.api.model.LM`, so that any of lm-eval's tasks
runs on any of our backends. lm-eval is only imported when one of the two is made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.types import Message
from tutelage.evaluation.benchmarks.base import Prompt


class HarnessTask:
    """One of lm-eval's tasks over rows of ours. `file` is relative to lm-eval's tasks folder."""

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
        """The prompt as the task file makes it. In a chat the solved examples are turns, and the description opens the
        first turn instead of being a system message, which some templates refuse."""
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
        """`scores` of many, which some of lm-eval's filters (GPQA's takes 0.1 s to start) need to be quick."""
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
        """(context, continuation) of every option of a multiple choice."""
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
    """Keeps lm-eval's notes about settings (it logs several a task) to itself."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger("lm_eval")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)


def encode(template: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Prompts' token ids: chat messages through the template, plain text as the tokenizer does by itself."""
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
            out[place] += _continue(template, prompts[place].prefix)
    return [out[place] for place in range(len(prompts))]


def _continue(template: Any, text: str) -> list[int]:
    return template.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def encode_pair(template: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of a context and what follows it, tokenised as one text and parted where the context's tokens end."""
    stripped = context.rstrip()
    context, continuation = stripped, context[len(stripped) :] + continuation
    whole = list(template.tokenizer(context + continuation, verbose=False)["input_ids"])
    start = len(template.tokenizer(context, verbose=False)["input_ids"])
    return whole[:start], whole[start:]


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops; a stop at the very beginning counts too."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


class _Rendered(str):
    """A rendered chat that remembers what it was made of: lm-eval passes texts, but a prompt's tokens end where the
    assistant's turn begins, as in training, and no token may reach over that border."""

    prompt: Prompt

    def __new__(cls, text: str, prompt: Prompt) -> _Rendered:
        made = super().__new__(cls, text)
        made.prompt = prompt
        return made


def sampler_lm(template: Any, sampler: Any, *, seed: int = 0, max_new_tokens: int = 1024) -> Any:
    """An `lm_eval.api.model.LM` over a sampler and a chat template, for `lm_eval.simple_evaluate(model=…)`.

    Greedy unless a task asks for sampling. Stop texts are cut off afterwards. Rolling log-likelihoods take the whole
    text behind the tokenizer's own beginning, so a text longer than the model's context is an error.
    """
    from lm_eval.api.model import LM

    class SamplerLM(LM):
        @property
        def tokenizer_name(self) -> str:
            return template.fingerprint

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            messages = tuple(Message(turn["role"], turn["content"]) for turn in chat_history)
            prefix = "" if add_generation_prompt else messages[-1].content
            prompt = Prompt(messages if add_generation_prompt else messages[:-1], prefix=prefix)
            return _Rendered(template.render(prompt.messages, True) + prefix, prompt)

        def chat_template(self, chat_template: bool | str = False) -> str:
            return template.text if chat_template else ""

        def generate_until(self, requests: list[Any]) -> list[str]:
            out: dict[int, str] = {}
            for settings, places in _by_settings(requests, max_new_tokens).items():
                limit, temperature, top_p, stops = settings
                contexts = [requests[place].args[0] for place in places]
                prompts = encode(template, [getattr(text, "prompt", Prompt(text=text)) for text in contexts])
                samples = sampler.sample(
                    prompts,
                    max_new_tokens=limit,
                    temperature=temperature,
                    top_p=top_p,
                    seeds=[seed + place for place in places],
                )
                for place, sample in zip(places, samples, strict=True):
                    out[place] = cut_at(template.decode(sample.tokens), stops)
            return [out[place] for place in range(len(requests))]

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            pairs = [encode_pair(template, *request.args) for request in requests]
            values = sampler.score([pair[0] for pair in pairs], [pair[1] for pair in pairs])
            # Whether greedy decoding would write it cannot be told from likelihoods; no task of ours asks.
            return [(float(value.sum()), False) for value in values]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            ids = [list(template.tokenizer(request.args[0], verbose=False)["input_ids"]) for request in requests]
            if any(len(one) < 2 for one in ids):
                raise TutelageError("a rolling likelihood needs texts of at least two tokens; drop the empty ones")
            return [float(v.sum()) for v in sampler.score([one[:1] for one in ids], [one[1:] for one in ids])]

    return SamplerLM()


def _by_settings(requests: Sequence[Any], max_new_tokens: int) -> dict[tuple[Any, ...], list[int]]:
    """Positions of requests that can be sampled together: same limit, temperature, top-p and stop texts."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, request in enumerate(requests):
        wanted = request.args[1]
        stops = wanted.get("until") or ()
        greedy = not wanted.get("do_sample", False)
        key = (
            int(wanted.get("max_gen_toks", max_new_tokens)),
            0.0 if greedy else float(wanted.get("temperature", 1.0)),
            float(wanted.get("top_p", 1.0)),
            (stops,) if isinstance(stops, str) else tuple(stops),
        )
        groups.setdefault(key, []).append(place)
    return groups
