"""Pages explain the words that they use."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fake_run import make_run
from pages import Page

from tutelage.report.recipe.page import build_report
from tutelage.report.words import words_of_recipe, words_of_study


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_recipes_page_explains_its_words_at_its_end_and_links_there(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=4)
    facts = {"cut: layers kept": "0, 1 (of 4)"}
    found = [word for word, _ in words_of_recipe(dataclasses.replace(results, facts=facts), ["KL(a ‖ b), nats"])]
    assert found == ["SFT", "GKD", "heal", "nat", "KL"]
    assert [word for word, _ in words_of_recipe(dataclasses.replace(results, rows=results.rows[:3]), [])] == ["SFT"]
    html = build_report(results, tmp_path / "report").read_text(encoding="utf-8")
    page = Page(html)
    assert page.text.index("Words and metrics are explained at the end") < page.text.index("GKD generalised knowledge")
    assert html.count('href="#words"') == html.count('id="words"') == 1
    assert html.index('id="words"') < html.index("<dt>SFT</dt>")


def test_a_studys_words_are_those_of_its_methods() -> None:
    assert [word for word, _ in words_of_study(["sft", "teacher", "seqkd"], False)] == ["SFT", "SeqKD"]
    assert [word for word, _ in words_of_study(["gkd_sft"], True)] == ["GKD", "Base-S, SFT-S", "nat", "KL"]
