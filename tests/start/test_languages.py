"""A language is named only where it is sure."""

from __future__ import annotations

import pytest

from tutelage.start.languages import languages

pytest.importorskip("langdetect")
ENGLISH = ["the sink leaks again", "no hot water please help", "window is broken in 4B", "when does the bus leave"]
GERMAN = [
    "Wie ist das Wetter heute in Berlin? Ich möchte nämlich am Nachmittag mit meinen Kindern im Park spazieren gehen.",
    "Die Heizung ist seit gestern kaputt, bitte schicken Sie jemanden vorbei, damit wir heute Abend nicht frieren.",
]
UNSURE = {
    "codes": ["kiwi mint soda", "salami basil tuna"] * 150,
    "one word": ["positive", "negative", "neutral"] * 100,
    "names": ["Anna Kowalski", "Ivo Petrov", "John Smith", "Farid Khan"] * 50,
    "tables": [f'{{"sku": {n}, "qty": {n % 7}, "loc": "B{n}"}}' for n in range(300)],
    "code": [f"def f(x): return x+{n}  for i in range(n): print(i)" for n in range(300)],
    "sums": [f"{n} + 1 = {n + 1}" for n in range(300)],
    "nothing": [],
}


def test_short_rows_are_read_together() -> None:
    assert languages(ENGLISH * 75) == "; language probably en"


def test_two_languages() -> None:
    assert languages([*GERMAN * 30, *ENGLISH * 15]) in ("; language probably de, en", "; language probably en, de")


@pytest.mark.parametrize("texts", UNSURE.values(), ids=UNSURE.keys())
def test_what_looks_like_any_language_is_not_called_one(texts: list[str]) -> None:
    assert languages(texts) == ""
