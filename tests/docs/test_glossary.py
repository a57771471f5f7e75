"""The glossary has the words of pages, as pages explain them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.report.words import WORDS

TEXT = " ".join((Path(__file__).parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_a_page_is_in_the_glossary(word: str) -> None:
    assert f"**{word}**: {WORDS[word].rstrip('.')}" in TEXT


def test_what_newcomers_did_not_know_is_in_it() -> None:
    for word in ("heal", "nat", "λ", "perplexity", "ROUGE-L", "SFT", "GKD", "SeqKD"):
        assert f"- **{word}**" in TEXT
