"""A sampler behind lm-evaluation-harness's `LM` interface, so that lm-eval can ask it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tutelage.common.errors import TutelageError
from tutelage.common.types import Message, Sample
from tutelage.evaluation.benchmarks.base import Prompt
from tutelage.evaluation.benchmarks.lm_eval import continuation_ids, encode, encode_pair
from tutelage.evaluation.readers.thoughts import ReplyText, answer_of, cut_answer

if TYPE_CHECKING:
    from tutelage.data.chat_template import ChatTemplate
    from tutelage.sampling.sampler import Sampler


_NEW_TOKENS = 1024  # of a task without a limit


class _Rendered(str):
    """A rendered chat that keeps the prompt that it was rendered from.

    lm-eval passes texts, but a prompt's tokens end where the assistant's turn begins, as in training: no token may
    cross that border, so the prompt itself must be encoded.
    """

    prompt: Prompt

    def __new__(cls, text: str, prompt: Prompt) -> _Rendered:
        made = super().__new__(cls, text)
        made.prompt = prompt
        return made


def sampler_lm(
    template: ChatTemplate,
    sampler: Sampler,
    *,
    seed: int = 0,
    max_new_tokens: int | None = None,
    context: int | None = None,
    greedy: bool = False,
) -> Any:
    """An `lm_eval.api.model.LM` over a sampler and a chat template, for `lm_eval.simple_evaluate(model=…)`.

    Replies are greedy unless a task asks for sampling, have `max_new_tokens`, else the task's limit, else 1,024, and
    are cut at its stop texts. Thoughts before an answer are left out, and stop texts in them stop nothing; `samples` of
    the LM keeps each sample and its whole text by (task, position of the example in this run). `context`: the most
    tokens the model takes; longer prompts lose their beginning, as in lm-eval's own backends, and are counted in `cut`.
    `greedy`: also find out, by sampling, whether each continuation is what greedy decoding writes; else that is
    reported as False. A rolling likelihood of a text longer than the context raises TutelageError.
    """
    from lm_eval.api.model import LM

    class SamplerLM(LM):
        def __init__(self) -> None:
            super().__init__()
            self.cut = 0
            self.samples: dict[tuple[str, int], tuple[Sample, str]] = {}
            self.as_text = ReplyText(template)

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
                limit = min(limit, context // 2) if context else limit
                contexts = [requests[place].args[0] for place in places]
                prompts = encode(template, [getattr(text, "prompt", Prompt(text=text)) for text in contexts])
                prompts = [self._fitted(ids, limit) for ids in prompts]
                samples = sampler.sample(
                    prompts,
                    max_new_tokens=limit,
                    temperature=temperature,
                    top_p=top_p,
                    seeds=[seed + place for place in places],
                )
                for place, prompt, sample in zip(places, prompts, samples, strict=True):
                    whole = self.as_text(prompt, sample.tokens)
                    text = cut_answer(whole, stops)
                    out[place] = answer_of(text)
                    self.samples[requests[place].task_name, requests[place].doc_id] = (
                        replace(sample, finished=sample.finished or text != whole),
                        text,
                    )
            return [out[place] for place in range(len(requests))]

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            pairs = [_encoded_pair(template, *request.args) for request in requests]
            prompts = [self._fitted(prompt, len(continuation)) for prompt, continuation in pairs]
            continuations = [continuation for _, continuation in pairs]
            values = [float(value.sum()) for value in sampler.score(prompts, continuations)]
            if not greedy:
                return [(value, False) for value in values]
            samples = sampler.sample(
                prompts,
                max_new_tokens=max(map(len, continuations)),
                temperature=0.0,
                top_p=1.0,
                seeds=[seed] * len(prompts),
            )
            written = [list(sample.tokens[: len(one)]) for sample, one in zip(samples, continuations, strict=True)]
            return [(v, w == one) for v, w, one in zip(values, written, continuations, strict=True)]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            ids = [list(template.tokenizer(request.args[0], verbose=False)["input_ids"]) for request in requests]
            if any(len(one) < 2 for one in ids):
                raise TutelageError("a rolling likelihood needs texts of at least two tokens; drop the empty ones")
            if context and (longest := max(map(len, ids))) > context:
                raise TutelageError(
                    f"a text of {longest} tokens is longer than the model's {context}, and rolling likelihoods are not "
                    "computed in windows; take a task of shorter texts"
                )
            return [float(v.sum()) for v in sampler.score([one[:1] for one in ids], [one[1:] for one in ids])]

        def _fitted(self, ids: list[int], new_tokens: int) -> list[int]:
            if context is None or len(ids) + new_tokens <= context:
                return ids
            self.cut += 1
            return ids[max(0, len(ids) + new_tokens - context) :]

    return SamplerLM()


def _encoded_pair(template: ChatTemplate, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of a context and its continuation. An empty context is the tokenizer's beginning, else its end."""
    if isinstance(context, _Rendered):
        return encode(template, [context.prompt])[0], continuation_ids(template, continuation)
    prompt, ids = encode_pair(template, context, continuation)
    if not prompt:
        tokenizer = template.tokenizer
        prompt = [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
    return prompt, ids


def _by_settings(requests: Sequence[Any], max_new_tokens: int | None) -> dict[tuple[Any, ...], list[int]]:
    """Positions of requests that can be sampled together: same limit, temperature, top-p and stop texts."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, request in enumerate(requests):
        wanted = request.args[1]
        stops = wanted.get("until") or ()
        greedy = not wanted.get("do_sample", False)
        key = (
            max_new_tokens or int(wanted.get("max_gen_toks", _NEW_TOKENS)),
            0.0 if greedy else float(wanted.get("temperature", 1.0)),
            float(wanted.get("top_p", 1.0)),
            (stops,) if isinstance(stops, str) else tuple(stops),
        )
        groups.setdefault(key, []).append(place)
    return groups
