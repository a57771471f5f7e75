"""The words of the field that pages use, each in a sentence; docs/glossary.md has these and more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults

WORDS = {
    "SFT": "supervised fine-tuning: the model learns to write the rows' own answers.",
    "SFT again": "SFT once more on the same rows: the fair opponent of a method that trains further after SFT.",
    "GKD": "generalised knowledge distillation: the student learns, for each next token, the probabilities that the "
    "teacher gives, on the rows and on answers that it writes itself; λ is the share of the latter.",
    "GKD-IT": "GKD from a teacher that was tuned for instructions on other data (an instruct model).",
    "SeqKD": "sequence-level knowledge distillation: the student is fine-tuned on answers that the teacher wrote.",
    "Base-S, SFT-S": "where the student of GKD begins: as it is, or after SFT.",
    "Mix": "GKD on the rows and on rows that a model made up, mixed.",
    "Two-stage": "SFT on rows that a model made up, then GKD on the rows.",
    "heal": "to train a model that lost layers until it writes again.",
    "nat": "the unit of a loss: a token to which the model gave the probability p costs −ln p nats; 0 where it was "
    "certain, 0.69 where it gave one half.",
    "KL": "Kullback-Leibler divergence, in nats per token: how far one model's probabilities for the next token are "
    "from another's; 0 where they are equal.",
}
_OF_KINDS = {"sft": "SFT", "distill": "GKD", "seqkd": "SeqKD"}
_OF_METHODS = {
    "sft": ("SFT",),
    "sft_again": ("SFT", "SFT again"),
    "gkd_sft": ("GKD", "Base-S, SFT-S"),
    "gkd_base": ("GKD", "Base-S, SFT-S"),
    "gkd_it": ("GKD", "GKD-IT"),
    "seqkd": ("SeqKD",),
    "mix": ("GKD", "Mix"),
    "two_stage": ("SFT", "GKD", "Two-stage"),
}


def words_of_recipe(results: RecipeResults, titles: Iterable[str]) -> list[tuple[str, str]]:
    """Those that a recipe's page uses. `titles`: of its curves."""
    drawn = " ".join(titles)
    found = {_OF_KINDS.get(row.kind, "") for row in results.rows}
    found |= {"SFT again"} if any(row.control for row in results.rows) else set()
    found |= {"heal"} if any("layers kept" in fact for fact in results.facts) else set()
    found |= {word for word, written in (("nat", "nats"), ("KL", "KL(")) if written in drawn}
    return list(_explained(found))


def words_of_study(methods: Iterable[str], in_nats: bool) -> list[tuple[str, str]]:
    """Those that a study's page uses, which compares these methods; `in_nats`: whether by losses too."""
    found = {word for method in methods for word in _OF_METHODS.get(method, ())}
    return list(_explained(found | ({"nat", "KL"} if in_nats else set())))


def _explained(found: set[str]) -> Iterator[tuple[str, str]]:
    return ((word, text) for word, text in WORDS.items() if word in found)
