"""One prompt that the student answers now and then while it trains, so that one watches it learn.

Nothing of the training depends on it. On a CPU the student answers greedily; on a GPU a sampler would need memory that
was planned for training, so what is shown there is a response that the step sampled anyway, if it did.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.common.progress import current_whole
from tutelage.common.types import TokenSequence
from tutelage.models.load import LoadedModel
from tutelage.sampling.torch_sampler import TorchSampler

_SECONDS = 15.0  # at least, between two answers
_COST = 30.0  # and at least as many times what the last answer took
NEW_TOKENS = 48


def pause(seconds: float) -> float:
    """Seconds until the next answer, after one that took so many."""
    return max(_SECONDS, _COST * seconds)


@dataclass(frozen=True)
class Asked:
    """A row of the training data, as text for people."""

    prompt: tuple[int, ...]
    question: str
    wanted: str


class ShownAnswers:
    """Shows the student's answers. `asked`: the row; None: there is none to show."""

    def __init__(self, student: LoadedModel, asked: Asked | None, total: int, *, may_sample: bool) -> None:
        work = current_whole()
        self.work = work if work is not None and work.texts else None
        self.student, self.total = student, total
        self.asked = asked if may_sample else None
        self.next, self.shown = time.monotonic() + _SECONDS, ""

    def look(self, step: int, sequences: Sequence[TokenSequence]) -> None:
        """Show an answer after `step` steps, if one is due. `sequences`: those of this step."""
        now = time.monotonic()
        if self.work is None or (now < self.next and step < self.total):
            return
        if self.asked is not None:
            if not self.shown:
                self._say("asked", self.asked.question)
                self._say("wanted", self.asked.wanted)
            answer = self._answer(self.asked)
            if not self.shown or answer != self.shown or step == self.total:
                self._say(f"step {step}", answer)
            self.shown = answer or " "
        else:
            sampled = next((one for one in sequences if one.author == "student"), None)
            if sampled is None:
                return
            self._say(f"step {step}", self.student.template.decode(sampled.ids[sampled.prompt_length :].tolist()))
        self.next = time.monotonic() + pause(time.monotonic() - now)

    def _answer(self, asked: Asked) -> str:
        sampler = TorchSampler(self.student.model, self.student.template.end_of_turn_ids, self.student.packed, 1)
        room = None if self.student.context is None else self.student.context - len(asked.prompt)
        new = NEW_TOKENS if room is None else min(room, NEW_TOKENS)
        if new < 1:
            return ""
        (sample,) = sampler.sample([asked.prompt], max_new_tokens=new, temperature=0.0, seeds=[0])
        return self.student.template.decode(sample.tokens)

    def _say(self, what: str, text: str) -> None:
        assert self.work is not None
        seen = "".join(one for one in " ".join(text.split()) if one.isprintable())[:400]
        self.work.say(f"    {what:<10} {seen or '(nothing to see)'}")
