"""The demo's data: one seed gives the same rows; splits share nothing; every answer follows from its note."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from random import Random

import pytest

from tutelage.cli import demo
from tutelage.cli.demo.data import INSTRUCTION, write_demo_data
from tutelage.cli.demo.exercises import PEOPLE as HEAL_PEOPLE
from tutelage.cli.demo.exercises import draw_exercises
from tutelage.cli.demo.notes import FRAMES, HELD_OUT, KINDS, PEOPLE, draw_note, draw_notes
from tutelage.recipe.load import load_recipe
from tutelage.runs.planner import Planner

RECIPE = Path(demo.__file__).parent / "recipe.yaml"
SPLITS = ("train", "dev", "test", "heal")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    paths = write_demo_data(tmp_path_factory.mktemp("demo"), seed=0)
    return {split: [json.loads(line) for line in path.read_text().splitlines()] for split, path in paths.items()}


def texts(rows: list[dict], role: str) -> list[str]:
    return [message["content"] for row in rows for message in row["messages"] if message["role"] == role]


def test_same_seed_same_bytes_other_seed_other_rows(tmp_path: Path) -> None:
    first, again, other = (write_demo_data(tmp_path / name, seed) for name, seed in [("a", 3), ("b", 3), ("c", 4)])
    for split in SPLITS:
        assert first[split].read_bytes() == again[split].read_bytes()
        assert first[split].read_bytes() != other[split].read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(
        ["README.md", *(f"{split}.jsonl" for split in SPLITS)]
    )


def test_sizes_are_arguments_and_leave_the_test_set_alone(rows: dict[str, list[dict]], tmp_path: Path) -> None:
    assert {split: len(rows[split]) for split in SPLITS} == {"train": 320, "dev": 60, "test": 120, "heal": 600}
    small = write_demo_data(tmp_path, seed=0, train=14, dev=7, heal=10)
    counts = {split: len(path.read_text().splitlines()) for split, path in small.items()}
    assert counts == {"train": 14, "dev": 7, "test": 120, "heal": 10}
    assert [json.loads(line) for line in small["test"].read_text().splitlines()] == rows["test"]


def test_the_files_say_that_they_are_free_to_use(tmp_path: Path) -> None:
    write_demo_data(tmp_path, seed=5, train=7, dev=7, test=14, heal=10)
    readme = (tmp_path / "README.md").read_text()
    assert "CC0-1.0" in readme
    assert "No line comes from a data set" in readme
    assert "seed 5" in readme
    assert "test 14, dev 7, train 7, heal 10" in readme


def test_no_row_twice_and_no_answer_in_two_splits(rows: dict[str, list[dict]]) -> None:
    for split in SPLITS:
        prompts = [json.dumps(row["messages"][:-1]) for row in rows[split]]
        assert len(set(prompts)) == len(prompts)
    ids = [row["id"] for split in SPLITS for row in rows[split]]
    assert len(set(ids)) == len(ids) == 1100
    for one, two in combinations(("train", "dev", "test"), 2):
        assert not set(texts(rows[one], "assistant")) & set(texts(rows[two], "assistant"))
        assert not set(texts(rows[one], "user")) & set(texts(rows[two], "user"))
    task = {text for split in ("train", "dev", "test") for text in texts(rows[split], "user")}
    assert not task & set(texts(rows["heal"], "user"))
    assert INSTRUCTION not in texts(rows["heal"], "system")
    assert not set(PEOPLE) & set(HEAL_PEOPLE)


def test_every_kind_is_there_in_equal_parts(rows: dict[str, list[dict]]) -> None:
    kinds = [row["id"].split("-")[2] for row in rows["train"]]
    assert {kind: kinds.count(kind) in (45, 46) for kind in KINDS} == dict.fromkeys(KINDS, True)


def test_every_fact_of_an_answer_stands_in_its_note() -> None:
    notes = draw_notes(1400, Random(1), set(), held_out_share=0.5)
    for note in notes:
        assert note.answer == note.references[0]
        assert len(set(note.references)) == 3
        for fact in note.slots:
            assert fact.casefold() in note.text.casefold(), (fact, note)
            assert all(fact in reference for reference in note.references), (fact, note)
    # who writes, and at least one thing more
    assert min(len(note.slots) for note in notes) >= 2
    assert all(any(name in note.slots for name in PEOPLE) for note in notes)


def test_small_talk_and_mended_slips_stay_out_of_the_answer() -> None:
    notes = draw_notes(1400, Random(2), set())
    with_more_people = [n for n in notes if any(p in n.text.split() and p not in n.answer for p in PEOPLE)]
    mended = [n for n in notes if any(sign in n.text for sign in ("orry, I meant", "(no, ", "Oops", " I wrote "))]
    assert 0.1 < len(with_more_people) / len(notes) < 0.6
    assert 0.1 < len(mended) / len(notes) < 0.4
    wrong = [
        note.text.split("Sorry, I meant ")[1].split(", not ")[1].split(".")[0]
        for note in notes
        if "I meant" in note.text
    ]
    answers = [note.answer for note in notes if "I meant" in note.text]
    assert len(wrong) > 20
    assert not any(value in answer for value, answer in zip(wrong, answers, strict=True))


def test_half_of_the_test_rows_are_phrased_as_no_other_row_is(rows: dict[str, list[dict]]) -> None:
    new = [row for row in rows["test"] if row["id"].endswith("-new")]
    assert len(new) == 60
    assert not any(row["id"].endswith("-new") for split in ("train", "dev", "heal") for row in rows[split])
    for held_out in (False, True):
        drawn = {draw_note(kind, Random(n), held_out).phrasing for kind in KINDS for n in range(200)}
        bodies = {
            body
            for kind in KINDS.values()
            for body in (kind.bodies[-HELD_OUT:] if held_out else kind.bodies[:-HELD_OUT])
        }
        assert {body for body, _ in drawn} == bodies
        assert {frame for _, frame in drawn} == set(FRAMES[-HELD_OUT:] if held_out else FRAMES[:-HELD_OUT])


def test_references_are_three_where_scores_are_taken(rows: dict[str, list[dict]]) -> None:
    for row in rows["dev"] + rows["test"]:
        assert row["references"][0] == row["messages"][-1]["content"]
        assert len(row["references"]) == 3
    assert not any("references" in row for row in rows["train"] + rows["heal"])


def test_rows_are_short(rows: dict[str, list[dict]]) -> None:
    """Counted in words, so that no tokenizer is needed; a row should have at most about 130 tokens."""
    assert max(len(text.split()) for split in SPLITS for text in texts(rows[split], "user")) <= 50
    assert max(len(text.split()) for split in SPLITS for text in texts(rows[split], "assistant")) <= 25


def test_exercises_are_answered_right() -> None:
    by_kind = {
        kind: [e for e in draw_exercises(600, Random(3)) if e.kind == kind] for kind in ("sort", "count", "date")
    }
    numbers = ["two", "three", "four", "five", "six"]
    assert all(e.answer.split() == sorted(e.text.split()) for e in by_kind["sort"])
    assert all(e.answer == f"There are {numbers[len(e.text.split()) - 2]} words." for e in by_kind["count"])
    assert all(e.answer.split("-")[0] in e.text and len(e.answer) == 10 for e in by_kind["date"])
    assert {kind: len(found) for kind, found in by_kind.items()} == {"sort": 60, "count": 60, "date": 60}


def test_the_student_is_healed_by_cross_entropy_and_the_opponent_is_fair(tmp_path: Path):
    """Healed by distilling, the student would have beforehand what GKD is to add."""
    planner = Planner(load_recipe(RECIPE), tmp_path, tmp_path / "runs")
    stages = planner.stages
    assert [stages[name].kind for name in ("heal", "sft", "sft_again", "gkd")] == ["sft", "sft", "sft", "distill"]
    assert (stages["sft_again"].student, stages["gkd"].student, stages["gkd"].teacher) == ("sft", "sft", "teacher_sft")
    assert planner.training("sft_again", {}) == planner.training("gkd", {}) == planner.training("sft", {})
    assert stages["sft_again"].data == stages["gkd"].data == stages["sft"].data == "train"
    assert stages["scores"].compare_to == "sft_again"
