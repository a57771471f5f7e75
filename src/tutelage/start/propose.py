"""A recipe that fits data, models and machine: slices, lengths, batch size, metrics, memory."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.data.dataset import question_slices
from tutelage.runs.cost.facts import shape_at
from tutelage.runs.rows.seen import SHORT_ANSWER
from tutelage.start.look import MOST_BAD, Lengths, Look
from tutelage.start.models import Cut, Pair
from tutelage.synthesis.words import script_counts

FEWEST_ROWS = 20
HEAL = "heal"
HEALING_FILE = "healing-rows.jsonl"  # beside the recipe; one for all recipes of a folder, which then share the healing
TEST_SHARE, DEV_SHARE = 0.2, 0.1
MOST_TEST, MOST_DEV = 500, 100
LONG_ANSWER = 25  # words of the median answer from which exact match says nothing
# Training keys that save memory and change no result, tried in order until the recipe fits; of CPUs, from the third on.
SAVINGS: tuple[Mapping[str, Any], ...] = (
    {},
    {"tokens_per_micro_batch": 4096},
    {"tokens_per_micro_batch": 2048},
    {"tokens_per_micro_batch": 2048, "gradient_checkpointing": True},
)
CPU_SAVINGS = SAVINGS[2:]


@dataclass(frozen=True)
class Proposal:
    """The content of a recipe, and why: comments by section."""

    content: dict[str, Any]
    reasons: dict[str, str]


def propose(
    name: str,
    looks: Mapping[str, Look],
    paths: Mapping[str, str | list[str]],
    lengths: Lengths,
    pair: Pair,
) -> Proposal:
    """The recipe for these data sections (`train`, perhaps `dev` and `test`), `paths` as the recipe names their files.

    Raises TutelageError for too few rows, and for models that read too little of them.
    """
    reasons: dict[str, str] = {}
    split = [role for role in ("test", "dev") if role not in looks]
    sizes = slices(len(looks["train"].rows), split)
    by_question = question_slices(looks["train"].rows, [sizes[role] for role in split]) if split else None
    counts = sizes if by_question is None else dict(zip([*split, "train"], by_question, strict=True))
    training, limits = _training(counts["train"], looks["train"], lengths, pair, reasons)
    data = _data(looks, paths, sizes, {} if by_question is None else {"order": "question"}, limits)
    if split:
        parts = [f"{counts[role]:,} for {role}" for role in ("dev", "test") if role in split]
        how = "slices of one shuffled order" + (", drawn by the questions" if by_question is not None else "")
        reasons["data"] = f"{counts['train']:,} rows to train on, {', '.join(parts)}: {how}"
    new = _round_up(1.25 * _percentile(lengths.responses, 0.99), 16)
    new = min(new, training["max_length"])
    targets = looks.get("test", looks["train"]).targets
    metrics, reasons["tasks"] = fitting_metrics(targets, max(len(r.references) for r in looks["train"].rows))
    cut = pair.student if isinstance(pair.student, Cut) else None
    stages: list[dict[str, Any]] = [dict(stage) for stage in cut.stages] if cut else []
    if cut:
        data[cut.section] = {"path": HEALING_FILE, "size": cut.healing}
        reasons |= cut.reasons
    arms: list[dict[str, Any]] = [
        {"name": "teacher_sft", "kind": "sft", "student": "teacher", "data": "train", "shared": True},
        {"name": "sft", "kind": "sft", "data": "train"},
        {"name": "sft_again", "kind": "sft", "student": "sft", "data": "train"},
        {"name": "gkd", "kind": "distill", "student": "sft", "teacher": "teacher_sft", "data": "train",
         "sampling": {"max_new_tokens": new}},
    ]  # fmt: skip
    own = cut.stage_training if cut else {}
    stages += [arm | ({"training": dict(own[arm["name"]])} if arm["name"] in own else {}) for arm in arms]
    stages += [
        {"name": "scores", "kind": "evaluate", "models": ["teacher_sft", "sft", "sft_again", "gkd"], "tasks": ["test"]},
    ]  # fmt: skip
    content = {
        "name": name,
        "data": data,
        "teacher": {"path": pair.teacher},
        "student": cut.name if cut else {"path": pair.student},
        "training": training,
        "tasks": {"test": {"data": "test", "metrics": metrics, "sampling": {"max_new_tokens": new}}},
        "stages": stages,
    }
    return Proposal(content, reasons)


def slices(rows: int, split: Sequence[str]) -> dict[str, int]:
    """The number of rows to train on, and of those split off for each of `split` (`test`, `dev`).

    Raises TutelageError where too few are left.
    """
    if rows < FEWEST_ROWS:
        many = "1 usable row is" if rows == 1 else f"{rows} usable rows are"
        raise TutelageError(f"{many} too few to train and score on: give at least {FEWEST_ROWS}, better 300")
    sizes = {"test": min(MOST_TEST, round(TEST_SHARE * rows)), "dev": min(MOST_DEV, round(DEV_SHARE * rows))}
    found = {role: sizes[role] for role in split}
    return {**found, "train": rows - sum(found.values())}


def fitting_metrics(answers: Sequence[str], references: int = 0) -> tuple[list[str], str]:
    """Metrics for such reference answers, the headline first, and why. `references`: most per row."""
    words = sorted(len(answer.split()) for answer in answers)
    median = words[len(words) // 2]
    rouge = "rouge_l_best" if references > 1 else "rouge_l"
    latin = sum(bool(re.search(r"[A-Za-z0-9]", answer)) for answer in answers)
    scripts = sum((script_counts(answer) for answer in answers[:500]), Counter[str]())
    if latin < 0.9 * len(answers) or scripts["LATIN"] < 0.5 * scripts.total():
        return ["chrf", *(["exact_match"] if median <= LONG_ANSWER else [])], "chrf reads every script, ROUGE only a-z"
    if sum("the answer is" in answer.lower() for answer in answers) >= 0.8 * len(answers):
        return ["final_answer", rouge], "the answers end in “the answer is …”"
    if median <= SHORT_ANSWER:  # ROUGE-L would hardly show one wrong name
        return ["exact_match", rouge], f"the answers are short (median {median} words): one wrong word makes them wrong"
    if median <= LONG_ANSWER:
        return [rouge, "exact_match"], f"the answers are sentences (median {median} words)"
    return [rouge], f"the answers are long (median {median} words)"


def _training(
    rows: int, look: Look, lengths: Lengths, pair: Pair, reasons: dict[str, str]
) -> tuple[dict[str, Any], float]:
    """The training section, and the share of rows that `max_bad_rows` must allow to be too long."""
    longest, usual = max(lengths.whole), _percentile(lengths.whole, 0.99)
    wanted = longest if longest <= 1.5 * usual else max(usual, _percentile(lengths.prompts, 0.995) + 32)
    limit = max(64, _round_up(wanted, 64))
    if pair.context is not None and limit > pair.context:
        limit = pair.context
    too_long = sum(prompt >= limit for prompt in lengths.prompts)
    if too_long > MOST_BAD * len(lengths.prompts):
        raise TutelageError(
            f"{too_long} of {len(lengths.prompts)} prompts have more than the {limit:,} tokens that the models read: "
            "choose other models, or shorten the prompts"
        )
    cut = sum(length > limit for length in lengths.whole) - too_long
    batch = next(size for most, size in ((1000, 8), (5000, 16), (50_000, 32), (math.inf, 128)) if rows < most)
    training: dict[str, Any] = {"batch_size": batch, "max_length": limit}
    if isinstance(pair.student, Cut):
        training |= pair.student.training
    else:
        shape = shape_at(pair.teacher)
        training["learning_rate"] = 1e-5 if shape is not None and shape.weights > 2.5e9 else 2e-5
    training["epochs"] = (3 if rows < 500 else 2) - isinstance(pair.student, Cut)  # which is made for slow machines
    training["validation"] = "dev"
    said = f"longest row {longest:,} tokens"
    said += f": {cut} {'answer is' if cut == 1 else 'answers are'} cut" if cut > 0 else ""
    said += f", {too_long} {'row is' if too_long == 1 else 'rows are'} left out" if too_long else ""
    steps = math.ceil(rows / batch) * training["epochs"]
    one_rate = "; more epochs train it better; docs/recipe.md has a search for each arm's own learning rate"
    reasons["training"] = f"{steps:,} steps per stage; {said}{one_rate if isinstance(pair.student, Cut) else ''}"
    return training, too_long / len(lengths.prompts)


def _data(
    looks: Mapping[str, Look],
    paths: Mapping[str, str | list[str]],
    sizes: Mapping[str, int],
    order: Mapping[str, str],
    too_long: float,
) -> dict[str, dict[str, Any]]:
    """The data sections; `dev` and `test` that no file is for are the first rows of the order that `train` skips.
    `order`: the key that says which."""
    data: dict[str, dict[str, Any]] = {}
    place, own = 0, {"path": paths["train"], **_form(looks["train"]), **order}
    allowed = _allowed(looks["train"], too_long)
    for role in ("test", "dev"):
        if role in looks:
            data[role] = {"path": paths[role], **_form(looks[role]), **_allowed(looks[role], too_long)}
        else:
            data[role] = {**own, **({"skip": place} if place else {}), "size": sizes[role], **allowed}
            place += sizes[role]
    return {"train": {**own, **({"skip": place} if place else {}), **allowed}, "dev": data["dev"], "test": data["test"]}


def _form(look: Look) -> dict[str, Any]:
    """The keys that say how the section's rows are read."""
    return look.form.keys | ({"distinct": True} if look.repeated else {})


def _allowed(look: Look, too_long: float) -> dict[str, float]:
    """The key that lets so many bad rows be left out, where the default does not."""
    share = max(len(look.bad) / max(1, look.total), too_long)
    return {"max_bad_rows": min(1.0, math.ceil(100 * share + 1) / 100)} if share > 0.005 else {}


def _percentile(values: Sequence[int], share: float) -> int:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def _round_up(value: float, step: int) -> int:
    return max(step, math.ceil(value / step) * step)
