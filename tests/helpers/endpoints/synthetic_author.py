"""A generator and an annotator without models: texts drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from chat_templates import CHATML, tokenizer

from tutelage.common.types import Sample
from tutelage.data.chat_template import ChatTemplate
from tutelage.recipe.sections import SamplingConfig
from tutelage.recipe.stages import FilterConfig
from tutelage.synthesis.blocks import SynthesisPlan
from tutelage.synthesis.filters import Filters
from tutelage.synthesis.prompts import Demonstration, Frame
from tutelage.synthesis.synthesis import Synthesis, Writer

TEMPLATE = ChatTemplate(tokenizer(CHATML))

NOUNS = ("cat", "dog", "bird", "fish", "horse", "mouse", "cow", "sheep")

VERBS = ("saw", "found", "liked", "missed", "followed", "heard")

FRAME = Frame("Who did what?\n", "\nIn one word:")

GOLD = [Demonstration(f"g{i}", f"The {noun} sat on the mat for {i} days.", noun) for i, noun in enumerate(NOUNS)]


def tokens(text: str) -> tuple[int, ...]:
    return tuple(TEMPLATE.tokenizer(text, add_special_tokens=False)["input_ids"])


def sentence(random: Random) -> str:
    """A new input; some are empty, labelled, repeated or in another script."""
    draw = random.random()
    if draw < 0.15:
        known = GOLD[0].input
        return ["", "Here is one: The cat ran.", "Все кошки серы", known, f"The {'cow ' * 9}mooed."][int(draw / 0.03)]
    words = [f"{random.choice(NOUNS)} {random.choice(VERBS)}" for _ in range(random.randint(1, 3))]
    return f"The {' and the '.join(words)} it {random.randint(0, 3)} times."


class Author:
    """A sampler whose text depends only on the seed: deterministic like real ones, and instant."""

    def __init__(self, text: Callable[[Random], str], tail: str = "") -> None:
        self.text, self.tail, self.calls = text, tail, []

    def sample(self, prompts: Any, **options: Any) -> list[Sample]:
        self.calls.append({"prompts": [list(p) for p in prompts], **options})
        out = []
        for seed in options["seeds"]:
            random = Random(seed)
            written = tokens(self.text(random) + self.tail)[: options["max_new_tokens"] - 1]
            cut = random.random() < 0.05
            out.append(Sample(written if cut else (*written, TEMPLATE.end_of_turn_id), (), not cut))
        return out

    def score(self, *_: Any) -> Any: ...

    def update_weights(self, *_: Any) -> None: ...


def make(folder: Path, rows: int = 60, evaluation: list[str] | None = None, **changes: Any) -> Synthesis:
    plan = SynthesisPlan(
        rows=rows,
        demonstrations=3,
        form="chat",
        inputs=SamplingConfig(temperature=0.8, max_new_tokens=200, batch_size=8),
        answers=SamplingConfig(temperature=0.6, max_new_tokens=50, batch_size=4),
        seed=5,
        generator="writer@1",
        annotator="teacher@2",
        batches_per_block=2,
    )
    plan = replace(plan, **{k: v for k, v in changes.items() if hasattr(plan, k)})
    filters = changes.get("filters", Filters(FilterConfig(near_duplicate=0.9), GOLD, evaluation or []))
    generator = changes.get("by", Author(sentence))
    annotator = changes.get("to", Author(lambda random: random.choice(["", *NOUNS, *NOUNS, "Here is: cow"])))
    writers = Writer(TEMPLATE, generator, 4096), Writer(TEMPLATE, annotator, 4096)
    return Synthesis(folder, plan, GOLD, FRAME, *writers, filters)
