"""ARC-Challenge (Clark et al., 2018): all 1,172 test questions, answered with a generated letter and by likelihood.

The paper's text mentions 672 questions, but its scores are multiples of 1/1,172. Generated: lm-eval's
`arc_challenge_chat` prompt (Meta's for Llama 3), whose reply begins "The best answer is"; its task file omits the fifth
option of the three questions that have one, so the options are listed in full here. By likelihood, where a model is
loaded: lm-eval's `arc_challenge`, `accuracy_likelihood` (its acc) and `accuracy_likelihood_norm` (its acc_norm, per
character).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks.base import Benchmark, Item, Prompt, Reply, Scored
from tutelage.evaluation.benchmarks.data import Hub, read_rows
from tutelage.evaluation.benchmarks.lm_eval import HarnessTask, cut_at
from tutelage.evaluation.clusters import Metric
from tutelage.evaluation.readers.find_letter import find_letter
from tutelage.evaluation.readers.next_question import find_before_next

_LETTERS = "ABCDE"
_TEXT = (
    "Given the following question and {{ ['three', 'four', 'five'][choices.text|length - 3] }} candidate answers "
    "({{ letters[:-1]|join(', ') }} and {{ letters[-1] }}), choose the best answer.\nQuestion: {{question.strip()}}\n"
    "{% for text in choices.text %}{{ letters[loop.index0] }}. {{ text }}\n{% endfor %}"
    'Your response should end with "The best answer is [the_answer_letter]" where the [the_answer_letter] is one of '
    "{{ letters[:-1]|join(', ') }} or {{ letters[-1] }}."
)


@dataclass(frozen=True)
class ARC(Benchmark):
    files: ClassVar[tuple[str, ...]] = ("arc_challenge/ARC-Challenge-test.jsonl",)
    hub: ClassVar[str] = "allenai/ai2_arc"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric(),
        "accuracy_lm_eval": Metric(),
        "accuracy_likelihood": Metric(),
        "accuracy_likelihood_norm": Metric(),
    }
    headline: ClassVar[str] = "accuracy"
    max_new_tokens: ClassVar[int] = 100
    stop: ClassVar[tuple[str, ...]] = ("\n\n", "Question:")

    def items(self, data_dir: Path | None, seed: int) -> list[Item]:
        needed = ("id", "question", "choices", "answerKey")
        hub = Hub(self.hub, "test", "ARC-Challenge")
        return [_item(row) for row in read_rows(data_dir, "arc_challenge/ARC-Challenge-test.jsonl", hub, needed)]

    def prompt(self, item: Item, chat: bool, shots: int) -> Prompt:
        return self._task("arc_challenge_chat", item).prompt(item.row, chat, shots)

    def options(self, item: Item) -> list[tuple[str, str]]:
        return self._task("arc_challenge", item).pairs(item.row)

    def score_reply(self, item: Item, reply: Reply) -> Scored:
        target, texts = item.targets[0], item.row["choices"]["text"]
        read = partial(find_letter, letters=_LETTERS[: len(texts)], options=texts)
        found = find_before_next(read, reply.text, reply.finished, self.stop)
        by_lm_eval = self._task("arc_challenge_chat", item).scores(item.row, cut_at(reply.text, ("\n\n", ".")))
        scores: dict[str, float | None] = {
            "accuracy": float(found.answer == target),
            "accuracy_lm_eval": by_lm_eval["remove_whitespace"],
        }
        if reply.likelihoods is not None:
            if len(reply.likelihoods) != len(texts):
                raise TutelageError(
                    f"arc_challenge: `{item.id}` has {len(texts)} options but {len(reply.likelihoods)} likelihoods; "
                    "give one per option, or leave them out"
                )
            chosen = self._task("arc_challenge", item).choose(item.row, reply.likelihoods)
            scores["accuracy_likelihood"] = float(chosen["acc"])
            scores["accuracy_likelihood_norm"] = float(chosen["acc_norm"])
        return Scored(scores, found.answer, found.how)

    def _task(self, name: str, item: Item) -> HarnessTask:
        if name not in self._cache:
            overrides: dict[str, Any] = {"fewshot_split": None}
            if name.endswith("chat"):
                overrides |= {"doc_to_text": _TEXT, "doc_to_target": "{{answerKey}}"}
            self._cache[name] = HarnessTask(f"arc/{name}.yaml", [item.row], **overrides)
        return self._cache[name]


def _item(row: Mapping[str, Any]) -> Item:
    """The item of a row. Labels 1..5, which a few rows have, become letters."""
    texts, labels = list(row["choices"]["text"]), [str(label) for label in row["choices"]["label"]]
    letters = list(_LETTERS[: len(texts)])
    key = letters[labels.index(str(row["answerKey"]))]
    asked = {
        "question": row["question"],
        "choices": {"text": texts, "label": letters},
        "letters": letters,
        "answerKey": key,
    }
    prompt = "\n".join([row["question"], *(f"{one}. {text}" for one, text in zip(letters, texts, strict=True))])
    return Item(str(row["id"]), prompt, (key,), asked, "", 1 / len(texts))
