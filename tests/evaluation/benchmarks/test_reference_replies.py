"""InFoBench, DialogSum and FLORES: replies that are judged or compared with references."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_benchmarks import scored

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.base import Item, Reply
from tutelage.evaluation.benchmarks.flores import corpus_chrf
from tutelage.evaluation.records import ExampleRecord


def test_infobench_numbers(data: Path) -> None:
    bench = BENCHMARKS["infobench"]
    items = bench.load(data)
    replies = {
        "easy_1": Reply("Hello", judgements=("yes", None)),
        "hard_1": Reply("3", judgements=("yes", "yes", "no")),
    }
    result = bench.summarise(bench.score(items, replies))
    assert (result["n"], result["questions"], result["unscored"]) == (2, 5, 1)
    assert {name: entry["value"] for name, entry in result["metrics"].items()} == {
        "drfr": pytest.approx(75.0),
        "drfr_easy": pytest.approx(100.0),
        "drfr_hard": pytest.approx(200 / 3),
    }
    assert result["groups"]["Content"]["value"] == pytest.approx(50.0)
    assert result["groups"]["Format"]["value"] == pytest.approx(100.0)
    assert result["groups"]["Content"]["unscored"] == 1
    assert (result["groups"]["Mail"]["value"], result["groups"]["Mail"]["questions"]) == (100.0, 2)
    assert result["groups"]["Hard_set"]["value"] == pytest.approx(200 / 3)
    assert bench.prompt(items[1], chat=True, shots=0).messages[0].content == "Add the numbers.\n\n1 2"


def test_infobench_without_a_judge_is_unscored(data: Path) -> None:
    bench = BENCHMARKS["infobench"]
    result = bench.summarise(bench.score(bench.load(data), {"easy_1": Reply("Hello")}))
    assert (result["n"], result["unscored"], result["metrics"]["drfr"]["value"]) == (1, 2, None)


def test_infobench_needs_one_judgement_per_question(data: Path) -> None:
    with pytest.raises(TutelageError, match="`easy_1` has 2 questions but 1 judgements"):
        BENCHMARKS["infobench"].score(BENCHMARKS["infobench"].load(data), {"easy_1": Reply("", judgements=("yes",))})


def test_dialogsum_scores_three_references(data: Path) -> None:
    record = scored("dialogsum", data, "test_0", "They greet.")
    # F of "they greet" with: itself, "two people greet", "a short talk"
    values = [1.0, 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3), 0.0]
    assert record.scores["rouge_l"] == pytest.approx(sum(values) / 3)
    assert record.scores["rouge_l_best"] == 1
    assert scored("dialogsum", data, "test_0", "").scores["rouge_l"] == 0


def test_flores_is_a_corpus_score_with_its_parts(data: Path) -> None:
    from sacrebleu.metrics.chrf import CHRF

    bench = BENCHMARKS["flores"]
    items = bench.load(data)
    replies = {"0": Reply("Assam is green."), "1": Reply("Coffee grows here."), "2": Reply("")}
    records = bench.score(items, replies)
    result = bench.summarise(records)
    texts, references = [reply.text for reply in replies.values()], [[item.targets[0] for item in items]]
    assert result["metrics"]["chrf"]["value"] == pytest.approx(CHRF().corpus_score(texts, references).score)
    assert "comet" not in result["metrics"]
    assert records[0].scores["chrf"] == pytest.approx(1.0)
    assert result["groups"]["dev"]["value"] == result["metrics"]["chrf"]["value"]
    assert corpus_chrf(records[:1])["stderr"] is None
    scored = bench.summarise(bench.score(items, {"0": Reply("x", comet=0.5), "1": Reply("y", comet=0.7)}))
    assert scored["metrics"]["comet"]["value"] == pytest.approx(60.0)
    assert scored["metrics"]["comet"]["stderr"] == pytest.approx(10.0)


def test_an_empty_translation_scores_nothing_whatever_comet_says(data: Path) -> None:
    bench = BENCHMARKS["flores"]
    item = bench.load(data)[0]
    for text, comet in (("", 0.0), ("<think>\nIt may be", 0.0), ("A cat.", 0.4)):
        (record,) = bench.score([item], {item.id: Reply(text, comet=0.4)})
        assert record.scores["comet"] == comet
    assert bench.score([item], {item.id: Reply("")})[0].scores["comet"] is None


@pytest.mark.slow
def test_flores_bootstrap_error_is_near_the_jackknife(data: Path) -> None:
    """Two estimates of the same standard error agree within a fifth."""
    bench = BENCHMARKS["flores"]
    items = bench.load(data)
    many = [Item(str(k), "", items[k % 3].targets, {}) for k in range(90)]
    words = ["Assam", "is", "green", "tea", "river", "wide", "grows"]
    replies = {str(k): Reply(" ".join(words[(k * k + j) % 7] for j in range(k % 5))) for k in range(90)}
    records = bench.score(many, replies)
    found = corpus_chrf(records)
    left_out = [corpus_chrf_value(records[:k] + records[k + 1 :]) for k in range(90)]
    mean = sum(left_out) / 90
    jackknife = (89 / 90 * sum((value - mean) ** 2 for value in left_out)) ** 0.5
    assert found["stderr"] == pytest.approx(jackknife, rel=0.2)


def corpus_chrf_value(records: list[ExampleRecord]) -> float:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF().corpus_score([r.response for r in records], [[r.references[0] for r in records]]).score
