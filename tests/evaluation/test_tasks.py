from __future__ import annotations

from collections.abc import Sequence

import pytest

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import example_seed
from tutelage.common.types import Conversation, Message, Sample
from tutelage.evaluation.tasks import about_replies, evaluate_generation, lead_1, lead_1_records, score_response
from tutelage.recipe.sections import AnswerSamplingConfig, TaskConfig


class Letters:
    """A template with one token per character; 0 ends a turn and is not decoded."""

    def encode_prompts(self, prompts: Sequence[Sequence[Message]], sources: Sequence[str] = ()) -> list[list[int]]:
        return [[ord(letter) for message in messages for letter in message.content] for messages in prompts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token) for token in ids if token)


class Echo:
    """Answers with the prompt, up to the length limit, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def sample(self, prompts: list[list[int]], **settings) -> list[Sample]:
        self.calls.append({"prompts": prompts, **settings})
        limit = settings["max_new_tokens"]
        whole = [(*prompt, 0) for prompt in prompts]
        return [Sample(tokens[:limit], (0.0,) * len(tokens[:limit]), len(tokens) <= limit) for tokens in whole]


def row(id: str, prompt: str, *targets: str) -> Conversation:
    return Conversation(id, (Message("user", prompt),), references=targets, source=f"rows.jsonl:{id}")


TASK = TaskConfig(
    data="test",
    metrics=["exact_match", "rouge_l"],
    sampling=AnswerSamplingConfig(max_new_tokens=6, temperature=0.0, batch_size=2),
)
ROWS = [row("a", "cat", "cat"), row("b", "a long dog", "a long dog"), row("c", "bird", "fish"), row("d", "ox")]


def test_answers_come_in_data_order_with_their_evidence() -> None:
    records = evaluate_generation("test", TASK, ROWS, Letters(), Echo(), seed=0)
    assert [record.id for record in records] == ["a", "b", "c", "d"]
    assert [record.response for record in records] == ["cat", "a long", "bird", "ox"]
    assert [record.finished for record in records] == [True, False, True, True]
    assert [record.tokens for record in records] == [4, 6, 5, 3]
    assert [record.scores["exact_match"] for record in records] == [1.0, 0.0, 0.0, None]
    assert records[1].scores["rouge_l"] == pytest.approx(2 * (2 / 2) * (2 / 3) / (2 / 2 + 2 / 3))
    assert records[1].prompt == "a long dog"
    assert records[1].references == ("a long dog",)
    assert records[1].reason == "exact_match: equals none of 1 reference; rouge_l: F mean of 1 reference: 0.800"
    assert records[3].reason == "no references"


def test_batches_hold_prompts_of_like_length_and_settings_reach_the_sampler() -> None:
    sampler, seen = Echo(), []
    evaluate_generation("test", TASK, ROWS, Letters(), sampler, seed=7, progress=lambda *counts: seen.append(counts))
    assert [[len(prompt) for prompt in call["prompts"]] for call in sampler.calls] == [[10, 4], [3, 2]]
    assert seen == [(2, 4), (4, 4)]
    assert sampler.calls[0]["seeds"] == [example_seed(7, "b"), example_seed(7, "c")]
    assert (sampler.calls[0]["max_new_tokens"], sampler.calls[0]["temperature"], sampler.calls[0]["top_p"]) == (6, 0, 1)


def test_answers_count_as_they_end_not_batch_by_batch() -> None:
    class Telling(Echo):
        def sample(self, prompts: list[list[int]], **settings) -> list[Sample]:
            samples = super().sample(prompts, **settings)
            settings["ended"]({1: samples[1]})
            return samples

    seen = []
    evaluate_generation("test", TASK, ROWS, Letters(), Telling(), seed=7, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_example_seeds_depend_on_seed_and_id_alone() -> None:
    assert example_seed(0, "a") == 787122455340873193
    seeds = {example_seed(seed, id) for seed in range(3) for id in ("a", "b", "1a")}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_shared_ids_and_empty_data_are_errors() -> None:
    with pytest.raises(TutelageError, match=r"rows\.jsonl:a and rows\.jsonl:a share the id `a`.*data\.test\.id"):
        evaluate_generation("test", TASK, [ROWS[0], ROWS[0]], Letters(), Echo(), seed=0)
    with pytest.raises(TutelageError, match="`test` has no rows"):
        lead_1_records("test", TASK, [])


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("Summarise.\n\n#Person1#: Hello there: friend.\n#Person2#: Hi.", "Hello there: friend."),
        ("Summarise the dialogue.\n \nAnna: I am late.\n\nBob: So am I.", "I am late."),
        ("Dr. Smith: Sit down.\nAnna: Thanks.", "Sit down."),
        ("Instruction only", "Instruction only"),
        ("Sum up:\n\n\nThe report then said: all is well.", "The report then said: all is well."),
        ("", ""),
    ],
)
def test_lead_1_is_the_dialogues_first_line(prompt: str, line: str) -> None:
    assert lead_1(Conversation("x", (Message("system", "s"), Message("user", prompt)))) == line


def test_lead_1_records_are_scored() -> None:
    rows = [row("a", "Do it.\n\nAnna: yes", "yes"), row("b", "Do it.\n\nAnna: no", "yes")]
    records = lead_1_records("test", TASK, rows)
    assert [record.scores["exact_match"] for record in records] == [1.0, 0.0]
    assert [(record.response, record.tokens, record.finished) for record in records] == [
        ("yes", 0, True),
        ("no", 0, True),
    ]


@pytest.mark.slow
def test_real_dialogues(data_folder) -> None:
    import json

    with (data_folder / "dialogsum" / "dialogsum.test.jsonl").open() as handle:
        rows = [json.loads(line) for line in handle]
    conversations = [
        row(one["fname"], f"Summarize this dialogue.\n\n{one['dialogue']}", *(one[f"summary{k}"] for k in (1, 2, 3)))
        for one in rows
    ]
    records = lead_1_records("test", TaskConfig(data="test"), conversations)
    assert len(records) == 500
    assert not any(record.response.startswith("#") for record in records)
    mean = sum(record.scores["rouge_l"] or 0.0 for record in records) / 500
    assert 0.05 < mean < 0.25


def test_a_metric_that_scores_nothing_is_named_with_the_reason_and_what_fits() -> None:
    def notices(*references: str | None) -> list[str]:
        rows = [row(str(n), "Anna: hi", *([one] if one else [])) for n, one in enumerate(references)]
        task = TASK.model_copy(update={"metrics": ["rouge_l", "chrf"]})
        return about_replies("test", "m", task, lead_1_records("test", task, rows))["notices"]

    thai = "แมวนั่งบนเสื่อ"
    why = (
        "no reference has a Latin letter or digit, the only text that ROUGE sees: use `chrf`, which is for every script"
    )
    assert notices(thai, thai) == [f"tasks.test: `rouge_l` leaves every example unscored: {why}"]
    assert notices(thai, thai, "cat") == [f"tasks.test: `rouge_l` leaves 2 of 3 examples unscored: {why}"]
    assert notices(thai, "cat") == []
    none = "no references: give the rows of the data section `references`, or an assistant turn"
    assert notices(None, None, thai)[0] == f"tasks.test: `rouge_l` leaves every example unscored: {none}"
    assert notices(None, None, thai)[1] == f"tasks.test: `chrf` leaves 2 of 3 examples unscored: {none}"


def _cut_notices(subject: str, cut: int, reply: str, count: int = 50) -> list[str]:
    task = TaskConfig(data="test", metrics=["rouge_l"], sampling=AnswerSamplingConfig(max_new_tokens=7))
    records = [
        score_response(row(str(i), "Say it.", "The cat sat."), reply, ["rouge_l"], finished=i >= cut, tokens=7)
        for i in range(count)
    ]
    return about_replies("test", subject, task, records)["notices"]


@pytest.mark.parametrize(("cut", "told"), [(50, True), (16, True), (5, True), (4, False), (0, False)])
def test_a_trained_model_that_does_not_end_its_replies_is_told_and_what_to_do(cut: int, told: bool) -> None:
    notices = _cut_notices("gkd", cut, "The cat sat. The cat sat.")
    said = (
        f"gkd on test: {cut} of 50 replies ({2 * cut} %) ran to tasks.test.sampling.max_new_tokens, 7, and were scored "
        f"as they were cut; {cut} of these are longer than the right answer: the model does not end its answers. Train "
        "it for more epochs (`training.epochs`)"
    )
    assert [notice.startswith(said) for notice in notices] == [True] * told


def test_a_limit_below_the_right_answers_is_told_from_a_model_that_does_not_end() -> None:
    (notice,) = _cut_notices("gkd", 16, "The cat")
    assert notice.endswith("scored as they were cut: the right answers are about as long, so take a larger limit")


@pytest.mark.parametrize(("cut", "told"), [(45, True), (44, False)])
def test_an_untrained_model_is_told_where_hardly_any_reply_ends(cut: int, told: bool) -> None:
    notices = _cut_notices("base", cut, "The cat sat. The cat sat.")
    assert [notice.endswith("the model does not end its answers") for notice in notices] == [True] * told


def test_of_few_replies_all_are_told() -> None:
    assert [len(_cut_notices("gkd", cut, "The cat sat. The cat sat.", count=2)) for cut in (0, 1, 2)] == [0, 0, 1]
