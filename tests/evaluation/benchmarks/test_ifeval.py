"""IFEval's 25 kinds of instructions, each with replies checked by hand, read strictly and loosely.

Read loosely, a reply also counts without its first line, its last line, both, and without asterisks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks import BENCHMARKS, ifeval
from tutelage.evaluation.benchmarks.base import Item, Reply
from tutelage.evaluation.benchmarks.ifeval import check

PROMPT = "Tell me about rain."
ENGLISH = "the rain in spain falls mainly on the plain and the people there are very happy about it"
GERMAN = "Der Regen fällt heute auf das ganze Land und die Menschen freuen sich darüber sehr."
FOLLOWS, BREAKS, LOOSELY = (True, True), (False, False), (False, True)

# kind → (arguments, [(reply, (strict, loose)), …])
CASES: dict[str, tuple[dict[str, Any], list[tuple[str, tuple[bool, bool]]]]] = {
    "keywords:existence": (
        {"keywords": ["rain", "cloud"]},
        [("Rain falls from a CLOUD.", FOLLOWS), ("Rain falls.", BREAKS), ("ra*in and clo*ud", LOOSELY)],
    ),
    "keywords:frequency": (
        {"keyword": "rain", "frequency": 2, "relation": "less than"},
        [("One rain.", FOLLOWS), ("rain and Rain", BREAKS), ("About rain:\nrain is wet", LOOSELY)],
    ),
    "keywords:forbidden_words": (
        {"forbidden_words": ["rain"]},
        [("It trains a lot.", FOLLOWS), ("Rain!", BREAKS), ("On rain:\nIt is wet.", LOOSELY)],
    ),
    "keywords:letter_frequency": (
        {"letter": "q", "let_frequency": 2, "let_relation": "less than"},
        [("A quiet day", FOLLOWS), ("Quiet queue", BREAKS), ("Quick:\na queen", LOOSELY)],
    ),
    "language:response_language": (
        {"language": "de"},
        [(GERMAN, FOLLOWS), (ENGLISH, BREAKS), (f"{ENGLISH} {ENGLISH} {ENGLISH}\n{GERMAN}", LOOSELY)],
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": "less than"},
        [
            ("It rains. It pours.", FOLLOWS),
            ("It rains. It pours. It stops.", BREAKS),
            ("Here you are.\nIt rains. It pours.", LOOSELY),
        ],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        [
            ("One.\n***\nTwo.", FOLLOWS),
            ("One.\n***\nTwo.\n***\nThree.", LOOSELY),
            ("One.\n\nTwo.", BREAKS),
            ("Sure\n***\nOne.\n***\nTwo.", LOOSELY),
        ],
    ),
    "length_constraints:number_words": (
        {"num_words": 4, "relation": "less than"},
        [("It rains often.", FOLLOWS), ("It rains often here.", BREAKS), ("Sure, here:\nIt rains.", LOOSELY)],
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "rain"},
        [
            ("It is wet.\n\nRain, again.", FOLLOWS),
            ("It is wet.\n\nNo rain.", BREAKS),
            ("Rain.", BREAKS),
            ("It is wet.\n\n*Rain* again.", LOOSELY),
        ],
    ),
    "detectable_content:number_placeholders": (
        {"num_placeholders": 2},
        [("From [name] to [city].", FOLLOWS), ("From [name].", BREAKS), ("From (name) to (city).", BREAKS)],
    ),
    "detectable_content:postscript": (
        {"postscript_marker": "P.S."},
        [("It rains.\nP.S. Take a coat.", FOLLOWS), ("It rains.\nPS take a coat.", BREAKS), ("It rains.", BREAKS)],
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        [("* one\n* two", FOLLOWS), ("- one\n- two", FOLLOWS), ("* one", BREAKS), ("* intro\n* one\n* two", LOOSELY)],
    ),
    "detectable_format:constrained_response": (
        {},
        [("My answer is yes.", FOLLOWS), ("Yes.", BREAKS), ("My answer is *maybe*.", LOOSELY)],
    ),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        [("*wet* and **cold**", FOLLOWS), ("*wet* and cold", BREAKS), ("** and *wet*", BREAKS)],
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        [("Section 1\nwet\nSection 2\ncold", FOLLOWS), ("Section 1\nwet", BREAKS), ("Sect*ion 1 Sect*ion 2", LOOSELY)],
    ),
    "detectable_format:json_format": (
        {},
        [
            ('{"rain": "wet"}', FOLLOWS),
            ('```json\n{"rain": "wet"}\n```', FOLLOWS),
            ("{rain: wet}", BREAKS),
            ('Here it is:\n{"rain": "wet"}', LOOSELY),
        ],
    ),
    "detectable_format:title": (
        {},
        [("<<Rain>>\nIt is wet.", FOLLOWS), ("<Rain>\nIt is wet.", BREAKS), ("<< >> It is wet.", BREAKS)],
    ),
    "combination:two_responses": (
        {},
        [
            ("It rains.\n******\nIt pours.", FOLLOWS),
            ("It rains.", BREAKS),
            ("It rains.\n******\nIt rains.", BREAKS),
            ("Two:\n******\nIt rains.\n******\nIt pours.", LOOSELY),
        ],
    ),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": PROMPT},
        [
            ("Tell me about rain. It is wet.", FOLLOWS),
            ("It is wet. Tell me about rain.", BREAKS),
            ("Sure:\nTell me about rain. It is wet.", LOOSELY),
        ],
    ),
    "startend:end_checker": (
        {"end_phrase": "That is all."},
        [
            ("It is wet. That is all.", FOLLOWS),
            ("That is all. It is wet.", BREAKS),
            ("It is wet. That is all.\nBye!", LOOSELY),
        ],
    ),
    "startend:quotation": (
        {},
        [('"It is wet."', FOLLOWS), ("It is wet.", BREAKS), ('Sure:\n"It is wet."', LOOSELY)],
    ),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "less than"},
        [("RAIN is wet", FOLLOWS), ("RAIN is WET", BREAKS), ("RAIN:\nIt is WET", LOOSELY)],
    ),
    "change_case:english_capital": (
        {},
        [(ENGLISH.upper(), FOLLOWS), (ENGLISH, BREAKS), (f"Sure:\n{ENGLISH.upper()}", LOOSELY)],
    ),
    "change_case:english_lowercase": (
        {},
        [(ENGLISH, FOLLOWS), (ENGLISH.capitalize(), BREAKS), (f"Sure:\n{ENGLISH}", LOOSELY)],
    ),
    "punctuation:no_comma": (
        {},
        [("Wet and cold.", FOLLOWS), ("Wet, cold.", BREAKS), ("Sure, here:\nWet and cold.", LOOSELY)],
    ),
}


@pytest.fixture(autouse=True)
def _punkt() -> None:
    try:
        ifeval.find_punkt()
    except TutelageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kind", CASES)
def test_replies_checked_by_hand(kind: str) -> None:
    arguments, replies = CASES[kind]
    row = {"key": 1, "prompt": PROMPT, "instruction_id_list": [kind], "kwargs": [arguments]}
    assert {FOLLOWS, BREAKS} <= {expected for _, expected in replies}
    for reply, expected in replies:
        found = check(row, reply)
        assert (found["strict"][0], found["loose"][0]) == expected, reply
    assert check(row, " ") == {"strict": [False], "loose": [False]}  # an empty reply follows nothing


def test_signs_that_are_no_letters_are_counted_themselves() -> None:
    arguments = {"letter": "!", "let_frequency": 2, "let_relation": "at least"}
    row = {"key": 1129, "prompt": PROMPT, "instruction_id_list": ["keywords:letter_frequency"], "kwargs": [arguments]}
    for _ in range(5):  # lm-eval's check draws a random letter each time
        assert check(row, "Wet! Cold!") == {"strict": [True], "loose": [True]}
        assert check(row, "abcdefghijklmnopqrstuvwxyz" * 3 + "!") == {"strict": [False], "loose": [False]}


def test_the_table_has_every_kind(data_folder: Path) -> None:
    lines = (data_folder / "ifeval/input_data.jsonl").read_text(encoding="utf-8").splitlines()
    kinds = {kind for line in lines for kind in json.loads(line)["instruction_id_list"]}
    assert kinds == set(CASES)
    assert len(CASES) == 25


def item(key: int, *kinds: str) -> Item:
    arguments = [CASES[kind][0] for kind in kinds]
    row = {"key": key, "prompt": PROMPT, "instruction_id_list": list(kinds), "kwargs": arguments}
    return Item(str(key), PROMPT, kinds, row)


def test_prompts_and_instructions_are_counted_apart() -> None:
    items = [
        item(1, "punctuation:no_comma", "startend:quotation"),
        item(2, "punctuation:no_comma"),
        item(3, "startend:quotation"),
    ]
    replies = {"1": Reply("No comma."), "2": Reply("Sure, here:\nwet"), "3": Reply('"wet"')}
    records = BENCHMARKS["ifeval"].score(items, replies)
    metrics = BENCHMARKS["ifeval"].summarise(records)["metrics"]
    assert metrics["prompt_strict"]["value"] == pytest.approx(100 / 3)
    assert metrics["prompt_loose"]["value"] == pytest.approx(200 / 3)
    assert metrics["instruction_strict"]["value"] == pytest.approx(50.0)
    assert metrics["instruction_loose"]["value"] == pytest.approx(75.0)
    # clusters: deviations from 0.5 sum to 0, −0.5 and 0.5: √(3/2 · 0.5) / 4
    assert metrics["instruction_strict"]["stderr"] == pytest.approx(100 * (1.5 * 0.5) ** 0.5 / 4)
    assert records[0].reason == "broken: startend:quotation; read loosely: startend:quotation"


def test_groups_are_kinds_of_instructions() -> None:
    items = [item(1, "punctuation:no_comma", "startend:quotation"), item(2, "punctuation:no_comma")]
    records = BENCHMARKS["ifeval"].score(items, {"1": Reply('"a, b"'), "2": Reply("a b")})
    groups = BENCHMARKS["ifeval"].summarise(records)["groups"]
    assert groups["punctuation:no_comma"]["n"] == 2
    assert groups["punctuation:no_comma"]["metrics"]["instruction_strict"]["value"] == pytest.approx(50.0)
    assert groups["startend:quotation"]["value"] == pytest.approx(100.0)


def test_an_unknown_instruction_is_an_error() -> None:
    row = {"key": 7, "prompt": PROMPT, "instruction_id_list": ["detectable_format:rhyme"], "kwargs": [{}]}
    with pytest.raises(TutelageError, match="prompt 7 has the unknown instruction `detectable_format:rhyme`"):
        check(row, "x")


def test_punkt_is_looked_for_in_the_data_folder_and_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    (tmp_path / "nltk_data" / ifeval.PUNKT / "english").mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(ifeval, "_packaged", list)
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    with pytest.raises(TutelageError, match=r"punkt_tab is missing: .* or offline `pip install") as raised:
        ifeval.find_punkt()
    assert "\n" not in str(raised.value)
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    ifeval.find_punkt()
    assert str(tmp_path / "nltk_data") in nltk.data.path
