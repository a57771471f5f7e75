"""What is said of a recipe's rows: by `tutelage init`, before a run, and on its page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from recipes_fixture import ROWS, Workshop

from tutelage.data.dataset import load_dataset
from tutelage.data.large import kept
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import DataConfig
from tutelage.runs.recipe_results import recipe_results
from tutelage.runs.rows.notes import SectionRows, known_answers, left_out_notes, shared_notes
from tutelage.runs.rows.seen import SeenRows
from tutelage.runs.run_recipe import run_recipe


def seen(folder: Path, name: str, pairs: Sequence[tuple[str, str]], **keys: int) -> SeenRows:
    lines = [json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in pairs]
    (folder / f"{name}.jsonl").write_text("".join(lines))
    return SeenRows(load_dataset(name, DataConfig(path=f"{name}.jsonl", max_bad_rows=1.0, **keys), folder))


# --- rows of one section ----------------------------------------------------------------------------------------------


def test_the_later_of_two_equal_rows_of_a_file_is_to_be_removed_however_they_were_drawn(tmp_path: Path) -> None:
    pairs = [(f"Who is {n}?", "A") for n in range(12)]
    for seed in range(8):
        found = seen(tmp_path, "x", [*pairs, pairs[1]], size=13, seed=seed)
        assert found.repeated == [
            "1 row is an exact repetition and counts twice: remove x.jsonl:13 (it repeats x.jsonl:2), or set "
            "`distinct: true`"
        ]


def test_rows_that_cannot_be_used_are_counted_and_named(tmp_path: Path) -> None:
    found = seen(tmp_path, "x", [("Who?", "A"), ("Where?", ""), (" ", "B"), ("When?", "C")])
    assert found.left_out == [
        "2 of 4 rows are bad and left out: x.jsonl:2: the answer is empty (column `completion`); x.jsonl:3: the "
        "question is empty (column `prompt`)"
    ]


def test_rows_that_repeat_are_counted_where_they_are_left_out(tmp_path: Path) -> None:
    found = seen(tmp_path, "x", [("Who?", "A"), ("When?", "B"), ("Who?", "A")], distinct=True)
    assert (found.count, found.repeated) == (2, [])
    assert found.left_out == ["1 of 3 rows is an exact repetition and left out: x.jsonl:3 (it repeats x.jsonl:1)"]


def test_what_is_left_out_of_several_sections_of_one_file_is_said_once() -> None:
    sections = [SectionRows(name, "x.csv", "", 9, (), ("1 bad", *more)) for name, more in
                (("train", ("2 cut",)), ("dev", ()), ("test", ()))]  # fmt: skip
    assert left_out_notes(sections) == ("data.train, data.dev and data.test: 1 bad", "data.train: 2 cut")


@pytest.mark.slow
def test_what_training_cut_or_left_out_is_read_from_its_runs(workshop: Workshop) -> None:
    workshop.rows("train", [*WHO, {"prompt": "Why? " * 40, "completion": "So."}, {"prompt": "A", "completion": ""}])
    file = workshop.write(training__max_length=32, data__train__max_bad_rows=0.5)
    results = run_recipe(load_recipe(file), workshop.folder, workshop.runs)
    (train,) = (one for one in results.sections if one.name == "train")
    assert train.left_out[0].startswith("1 of 8 rows is bad and left out: train.jsonl:8: ")
    assert "1 row is too long to train on and left out: train.jsonl:7" in train.left_out


# --- rows of two sections ---------------------------------------------------------------------------------------------

TRAIN = [
    ("Where can I park my bicycle at the station?", "There."),
    ("How long is the river in the north valley?", "Long."),
    ("Which key opens the shed?", "The small one."),
]


def test_copies_equal_questions_and_near_ones_are_told_apart(tmp_path: Path) -> None:
    test = [
        TRAIN[0],
        ("Where can I park my bicycle at this station?", "There."),
        ("Which mountain is higher than all others nearby?", "That."),
        ("Which key opens the shed?", "The green one."),
    ]
    asked, train = seen(tmp_path, "test", test), seen(tmp_path, "train", TRAIN)
    assert shared_notes("task `test`", asked, "data.train", train, "scores on {them} look better than they are",
                        wrong="the reference or the training row") == [
        "1 of the 4 questions of task `test` is also in data.train: scores on it look better than they are "
        "(test.jsonl:1 repeats train.jsonl:1)",
        "1 of the 4 questions of task `test` is also in data.train, with another answer: the reference or the training "
        "row is wrong, unless both answers are right (test.jsonl:4 asks what train.jsonl:3 asks)",
        "1 of the 4 questions of task `test` is nearly one of data.train: scores on it may look better than they are "
        "(test.jsonl:2 asks nearly what train.jsonl:1 asks)",
    ]  # fmt: skip


@pytest.mark.parametrize("large", [False, True])
def test_another_answer_is_found_behind_an_equal_one_and_not_where_case_and_spaces_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    monkeypatch.setattr(kept, "LARGE", 2 if large else kept.LARGE)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    asked = seen(tmp_path, "test", [("Who?", "Ada"), ("When?", "At  noon"), ("Where?", "Here")])
    train = seen(tmp_path, "train", [("Who?", "Ada"), ("When?", "at noon"), ("Who?", "Bo")])
    assert asked.shared(train) == {
        0: ("test.jsonl:1 asks what train.jsonl:3 asks", True),
        1: ("test.jsonl:2 asks what train.jsonl:2 asks", False),
    }


def test_what_follows_from_near_questions_is_said_with_care(tmp_path: Path) -> None:
    asked = seen(tmp_path, "test", [("Where can I park my bicycle at this station?", "There.")])
    (note,) = shared_notes("a", asked, "b", seen(tmp_path, "train", TRAIN), "its loss looks better than it is")
    assert "is nearly one of b: its loss may look better than it is (" in note


def test_near_questions_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, train = (
        seen(tmp_path, "test", [("How long is the river in that north valley?", "A")]),
        seen(tmp_path, "train", TRAIN),
    )
    (first,) = shared_notes("a", asked, "b", train, "")
    monkeypatch.setattr("tutelage.synthesis.near_duplicates.NearDuplicates", None)
    assert shared_notes("a", asked, "b", train, "") == [first]


def test_answers_that_are_also_answers_to_other_training_questions_are_counted(tmp_path: Path) -> None:
    """Short ones that are no categories; one whose question is in the training rows too is told as that."""
    train = seen(tmp_path, "train", [(f"Where is the town hall of place {n}?", f"In town {n}.") for n in range(30)])
    pairs = [("Who?", "in  Town 3."), ("When?", "In no town."), ("Where is the town hall of place 5?", "In town 5.")]
    asked = seen(tmp_path, "test", pairs)
    assert known_answers("task `test`", asked, "data.train", train) == [
        "1 of the 3 questions of task `test` has the answer of another question in data.train: a high score on it does "
        "not show that a model knows what is new (test.jsonl:1 is answered as train.jsonl:4)"
    ]
    both = seen(tmp_path, "both", [*pairs, ("Why?", "In town 9.")])
    assert known_answers("a", both, "b", train)[0].startswith("2 of the 4 questions of a have the answer of another ")
    long = seen(tmp_path, "long", [(q, f"{a} {'word ' * 20}") for q, a in pairs])
    long_train = seen(tmp_path, "all", [(f"q{n}", f"In town {n}. {'word ' * 20}") for n in range(30)])
    few = seen(tmp_path, "few", [(f"q{n}", f"In town {n % 20}.") for n in range(90)])
    for one, other in ((long, long_train), (asked, few), (asked, None), (None, train)):
        assert known_answers("a", one, "b", other) == []


@pytest.mark.slow
def test_questions_that_were_trained_on_are_noted(workshop: Workshop):
    workshop.rows("test", [*ROWS[:3], {"prompt": "The cow sat?", "completion": "No."}])
    workshop.rows("other", [{"prompt": "The hen sat?", "completion": "No."}])
    config = load_recipe(workshop.write(data__other={"path": "other.jsonl"}, stages__0__data="other"))
    results = recipe_results(config, workshop.folder, workshop.runs)
    (notice,) = results.notices
    assert notice.startswith("3 of the 4 questions of task `test` are also in data.train, on which models are trained")


@pytest.mark.slow
def test_questions_that_settings_are_chosen_on_are_noted(workshop: Workshop):
    """A test task that has rows of the task of the search, under whatever name."""
    workshop.rows("test", [{"prompt": "The cow sat?", "completion": "No."}, {"prompt": "Who?", "completion": "I."}])
    workshop.rows("dev", [{"prompt": "The cow sat?", "completion": "No."}, {"prompt": "The hen?", "completion": "No."}])
    search = {"grid": {"learning_rate": [1e-3, 1e-4]}, "task": "dev"}
    dev = {"data": "dev", "metrics": ["exact_match"], "sampling": {"max_new_tokens": 4}}
    file = workshop.write(data__dev={"path": "dev.jsonl"}, tasks__dev=dev, search=search, stages__0__search=True)
    (notice,) = recipe_results(load_recipe(file), workshop.folder, workshop.runs).notices
    assert notice.startswith("1 of the 2 questions of task `test` is also in task `dev`, on which settings are chosen")


@pytest.mark.slow
def test_questions_of_a_stages_own_search_task_are_noted_too(workshop: Workshop):
    workshop.rows("test", [{"prompt": "The cow sat?", "completion": "No."}])
    workshop.rows("dev", ROWS[:2])
    file = workshop.write(
        data__dev={"path": "dev.jsonl"},
        tasks__dev={"data": "dev", "metrics": ["exact_match"], "sampling": {"max_new_tokens": 4}},
        search={"grid": {"learning_rate": [1e-3, 1e-4]}, "task": "test"},
        stages__0__search="dev",
    )
    (notice,) = recipe_results(load_recipe(file), workshop.folder, workshop.runs).notices
    assert notice.startswith("2 of the 2 questions of task `dev` are also in data.train, on which models are trained")


WHO = [{"prompt": f"Who is {n}?", "completion": f"It is {n}."} for n in range(6)]
TWICE = (
    "1 row is an exact repetition and counts twice: remove train.jsonl:7 (it repeats train.jsonl:2), or set "
    "`distinct: true`"
)
OTHERWISE = (
    "1 row answers an earlier row's question otherwise: keep the right answer: test.jsonl:3 (it asks what test.jsonl:1 "
    "asks)"
)


def written(workshop: Workshop) -> Path:
    workshop.rows("train", [*WHO, WHO[1]])
    workshop.rows("test", [{"prompt": "A?", "completion": "B."}, WHO[5], {"prompt": "A?", "completion": "C."}])
    return workshop.write(
        data__dev={"path": "train.jsonl", "size": 2},
        data__unused={"path": "train.jsonl"},
        training__validation="dev",
    )


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
def test_a_recipes_results_name_them_by_file_and_line(
    workshop: Workshop, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(workshop.folder / "cache"))
    monkeypatch.setattr(kept, "LARGE", 2 if large else 20_000)
    results = recipe_results(load_recipe(written(workshop)), workshop.folder, workshop.runs)
    assert [(one.name, one.source, one.uses, one.rows, one.notes) for one in results.sections] == [
        ("train", "train.jsonl", "trained on", 7, (TWICE,)),
        ("test", "test.jsonl", "scored on", 3, (OTHERWISE,)),
        ("dev", "train.jsonl", "loss is measured on while training", 2, ()),
    ]
    assert results.row_notes == (f"data.train: {TWICE}", f"data.test: {OTHERWISE}")
    first, second, third = results.notices
    assert first == (
        "1 of the 3 questions of task `test` is also in data.train, on which models are trained: scores on it look "
        "better than they are (test.jsonl:2 repeats train.jsonl:6)"
    )
    assert second == (
        "1 of the 3 questions of task `test` is also in data.dev, on which the loss is measured while training: keep "
        "one of each (test.jsonl:2 repeats train.jsonl:6)"
    )
    assert third.startswith(
        "2 of the 2 questions of data.dev are also in data.train, on which models are trained: its loss looks better "
    )


@pytest.mark.slow
def test_plain_text_of_a_large_set_is_not_searched(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(workshop.folder / "cache"))
    workshop.rows("train", [{"text": f"line {n}"} for n in (1, 2, 2)])
    file = workshop.write(data__train__text="{text}", stages__1__data="test")
    for large, notes in ((20_000, 1), (2, 0)):
        monkeypatch.setattr(kept, "LARGE", large)
        results = recipe_results(load_recipe(file), workshop.folder, workshop.runs)
        assert len(next(one for one in results.sections if one.name == "train").notes) == notes


@pytest.mark.slow
def test_a_run_says_it_before_it_trains(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(written(workshop))
    results = run_recipe(recipe, workshop.folder, workshop.runs, only=["scores"])
    error = capsys.readouterr().err
    for note in results.row_notes:
        assert f"note: {note}\n" in error
        assert note in results.said
    assert run_recipe(recipe, workshop.folder, workshop.runs).said == frozenset()  # nothing to do, so nothing was said


def test_the_rows_that_are_also_or_nearly_in_other_sections_are_known_by_their_ids(workshop: Workshop) -> None:
    asked = [{"id": f"q{n}", "prompt": prompt, "completion": "A"} for n, prompt in enumerate(
        [TRAIN[0][0], "Where can I park my new bicycle at the station?", "What is the time in Rome?"])]  # fmt: skip
    workshop.rows("train", [{"prompt": prompt, "completion": answer} for prompt, answer in TRAIN])
    workshop.rows("test", asked)
    results = recipe_results(load_recipe(workshop.write()), workshop.folder, workshop.runs)
    assert results.known_rows == {"test": {"q0", "q1"}}
    workshop.rows("test", asked[2:])
    results = recipe_results(load_recipe(workshop.write()), workshop.folder, workshop.runs)
    assert results.known_rows == {}
