"""The page of a synthesis: its numbers, and that texts by models cannot run as code."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from random import Random

import pytest
from synthetic_author import FRAME, GOLD, Author, make, sentence

from tutelage.synthesis.blocks import answer_of, input_of, read_rows
from tutelage.synthesis.page import REASONS, _histogram, build_page
from tutelage.synthesis.variety import hashes_of, nearest, self_bleu, variety_of


def test_distinct_n_counts_different_runs_of_words():
    found = variety_of(["a b a b", "a b c"])
    # words: a b a b a b c; pairs: ab ba ab / ab bc; triples: aba bab / abc
    assert (found["distinct_1"], found["distinct_2"], found["distinct_3"]) == (3 / 7, 3 / 5, 1.0)
    assert variety_of(["a"])["distinct_2"] is None


def test_self_bleu_is_high_for_copies_and_low_for_unrelated_texts():
    copies = ["the cat sat on the mat today"] * 3
    unrelated = ["the cat sat on the mat today", "we never walk along rivers at night", "please send me your book"]
    assert self_bleu(copies) == pytest.approx(100.0)
    low = self_bleu(unrelated)
    assert low is not None
    assert low < 15
    assert self_bleu(copies[:1]) is None


def test_self_bleu_is_the_mean_of_sacrebleus_sentence_scores():
    from sacrebleu.metrics.bleu import BLEU

    random, metric = Random(3), BLEU(effective_order=True, tokenize="none")
    texts = [" ".join(random.choices("abcdefg", k=random.randint(0, 25))) for _ in range(9)]
    scores = [metric.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)]
    assert max(scores) > 50 > min(scores)
    assert self_bleu(texts) == pytest.approx(sum(scores) / 9, rel=1e-12)


def test_nearest_is_about_the_jaccard_similarity():
    texts = ["the cat sat on the mat today", "the cat sat on the mat again", "we never walk along rivers"]

    def jaccard(a: str, b: str) -> float:
        left, right = ({x[i : i + 5] for i in range(len(x) - 4)} for x in (a, b))
        return len(left & right) / len(left | right)

    hashes = hashes_of(texts)
    got = nearest(hashes, None)
    assert got[0] == pytest.approx(jaccard(texts[0], texts[1]), abs=0.12)
    assert got[2] < 0.1
    assert nearest(hashes, hashes).tolist() == [1.0, 1.0, 1.0]
    assert len(nearest(hashes_of([]), None)) == len(nearest(hashes[:1], None)) == len(nearest(hashes, hashes[:0])) == 0


def test_histograms_count_all_rows():
    bars = _histogram([" ".join("x" * n) for n in range(1, 40)], ["a b c"] * 10 + ["w " * 500])
    assert len(bars) == 12
    assert sum(bar.gold for bar in bars) == pytest.approx(1.0)
    assert sum(bar.new for bar in bars) == pytest.approx(1.0)
    assert bars[-1].new == pytest.approx(1 / 11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict]:
    folder = tmp_path_factory.mktemp("page")

    def wild(random: Random) -> str:
        return sentence(random) + (" <script>alert(1)</script> & <b>" if random.random() < 0.3 else "")

    result = make(folder, rows=80, by=Author(wild)).run()
    path, variety = build_page(folder, "new & rows", GOLD, FRAME, result)
    assert path == folder / "sample.html"
    return folder, path.read_text(), {"result": result, "variety": variety}


def test_the_page_shows_fifty_rows_and_each_reason(folder: tuple[Path, str, dict]):
    where, html, made = folder
    shown = re.findall(r"synthetic-\d{7}", html.partition("50 of the 80 accepted rows, drawn at random")[2])
    accepted = {row["id"]: row for row in read_rows(where, "accepted")}
    assert len(shown) == len(set(shown)) == 50
    assert set(shown) <= set(accepted)
    plain = unescape(html)
    for id in shown:
        assert input_of(accepted[id], FRAME) in plain
        assert str(answer_of(accepted[id])) in plain
    for reason, count in made["result"]["rejected"].items():
        assert re.search(
            rf"{reason.replace('_', ' ')}</span> {count} <small>[\d.]+ % · {REASONS[reason]}</small>", html
        ), reason
    assert f"<b>{made['result']['attempts']:,}</b>attempts" in html
    assert "Who did what?" in html
    for side in ("gold", "synthetic"):
        assert f"{made['variety'][side]['distinct_2']:.3f}" in html
        assert f"{made['variety'][side]['self_bleu']:.1f}" in html


def test_every_reason_of_the_documentation_is_explained_in_words():
    text = (Path(__file__).parents[2] / "docs" / "synthetic.md").read_text(encoding="utf-8")
    table = text[text.index("| reason | rejected is |") :].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z_]+)`", "".join(line.split("|")[1] for line in table.splitlines()))) == set(REASONS)


def test_the_page_has_no_scripts_and_loads_nothing(folder: tuple[Path, str, dict]):
    _, html, _ = folder
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;" in html
    assert "<script" not in html
    assert not re.search(r"(src|href)=", html)
    assert "default-src 'none'" in html
    assert "<title>new &amp; rows" in html
    assert "prefers-color-scheme: dark" in html
    assert re.search(r'<div class="scroll"><table>', html)  # wider than a phone


def test_equal_seeds_give_equal_pages(folder: tuple[Path, str, dict]):
    where, html, made = folder
    build_page(where, "new & rows", GOLD, FRAME, made["result"], seed=0)
    assert (where / "sample.html").read_text() == html
    build_page(where, "new & rows", GOLD, FRAME, made["result"], seed=1)
    assert (where / "sample.html").read_text() != html
