from __future__ import annotations

import pytest

from tutelage.evaluation.metrics import (
    SCORERS,
    exact_match,
    final_answer,
    has_word,
    lower_is_better,
    rouge_l,
    rouge_l_best,
)


def test_rouge_l_by_hand() -> None:
    # longest common subsequence "cat sat mat": 3 of 3 answer tokens, 3 of 6 reference tokens -> F = 2/3
    score = rouge_l("cat sat mat", ["the cat sat on the mat"])
    assert score.value == pytest.approx(2 / 3)
    assert score.answer == "cat sat mat"
    assert score.reason == "F mean of 1 reference: 0.667"


def test_rouge_l_stems() -> None:
    assert rouge_l("meetings planned", ["meeting planning"]).value == pytest.approx(1.0)


def test_mean_and_best_over_references() -> None:
    references = ["the cat sat on the mat", "cat sat mat", "dogs"]
    assert rouge_l("cat sat mat", references).value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert rouge_l_best("cat sat mat", references).value == pytest.approx(1.0)
    assert rouge_l_best("cat sat mat", references).reason == "F best of 3 references: 0.667, 1.000, 0.000"


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("Sex equals reproduction. The answer is (D).", 1.0),
        ("the answer is  (D)", 1.0),
        ("The answer is (A). No: the answer is (D).", 1.0),
        ("The answer is (D). No: the answer is (A).", 0.0),
        ("The answer is (D) or (A).", 0.0),
        ("(D)", 0.0),
        ("", 0.0),
    ],
)
def test_final_answer_is_what_follows_the_last_statement(response: str, value: float) -> None:
    assert final_answer(response, ["(D)"]).value == value


def test_exact_match_strips_and_collapses_but_keeps_case() -> None:
    assert exact_match("  New \n York ", ["Boston", "New York"]).value == 1.0
    assert exact_match("New York", ["Boston", "New York"]).reason == "equals reference 2 of 2"
    assert exact_match("new york", ["New York"]).value == 0.0
    assert exact_match("new york", ["New York"]).reason == "equals none of 1 reference"


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_empty_is_wrong_and_without_references_is_unscored(name: str) -> None:
    score = SCORERS[name](" \n", ["something"])
    assert (score.value, score.answer, score.reason) == (0.0, None, "empty response")
    score = SCORERS[name]("an answer", [])
    assert (score.value, score.answer, score.reason) == (None, "an answer", "no references")


def test_rouge_does_not_call_other_scripts_wrong() -> None:
    score = rouge_l("মানুহ", ["মানুহ"])
    assert score.value is None
    assert "Latin" in score.reason
    mixed = rouge_l("cat", ["মানুহ", "cat"])
    assert mixed.value == pytest.approx(1.0)
    assert mixed.reason == "F mean of 1 reference: 1.000, 1 without Latin text left out"


def test_chrf_is_sacrebleus_best_over_references() -> None:
    from sacrebleu.metrics.chrf import CHRF

    answer, references = "The cat sat on a mat.", ["A dog ran.", "The cat sat on the mat."]
    each = [CHRF().sentence_score(answer, [one]).score / 100 for one in references]
    assert SCORERS["chrf"](answer, references).value == pytest.approx(max(each))
    assert SCORERS["chrf"]("মৰিব লাগিব", ["মৰিব লাগিব।"]).value == pytest.approx(0.9, abs=0.1)
    assert SCORERS["chrf"](" ", references).value == 0.0
    assert SCORERS["chrf"]("a", []).value is None


def test_an_empty_response_is_unscored_where_every_response_is() -> None:
    """Else a search would choose the settings whose model answers with nothing."""
    for response in ("", "แมว", "cat"):
        assert SCORERS["rouge_l"](response, ["แมวนั่งบนเสื่อ"]).value is None
    assert SCORERS["rouge_l"]("", ["cat"]).value == 0


@pytest.mark.parametrize("name", ["loss", "held_out: loss", "KL", "kl_own", "forward_kl", "nll", "word_perplexity"])
def test_losses_are_lower_is_better(name: str) -> None:
    assert lower_is_better(name)


@pytest.mark.parametrize("name", ["checklist", "glossary", "weekly_notes", "likelihood", "accuracy", "quickly"])
def test_letters_inside_a_word_make_no_loss_of_it(name: str) -> None:
    assert not lower_is_better(name)
    assert not has_word(name, "kl")
