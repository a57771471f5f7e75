"""A forecast of tiny recipes from end to end: what it runs and never runs, and each of its named answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jobs
import pytest
from recipes_fixture import ROWS, Workshop, save_tiny

import tutelage
from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.forecasting.arms import DEV, find_arms, part_of
from tutelage.forecasting.forecast import make_forecast
from tutelage.forecasting.situations import recorded_situations, shipped_situations
from tutelage.recipe.load import load_recipe

SAMPLING = {"max_new_tokens": 6}
STAGES = [
    {"name": "teacher_sft", "kind": "sft", "student": "teacher", "data": "train"},
    {"name": "sft", "kind": "sft", "data": "train"},
    {"name": "gkd", "kind": "distill", "teacher": "teacher_sft", "data": "train", "sampling": SAMPLING},
    {"name": "scores", "kind": "evaluate", "models": ["sft", "gkd"], "tasks": ["test"]},
]  # fmt: skip
WITH_PILOTS = sum(bool(one.pilots) for one in shipped_situations())
MANY = [ROWS[i % 12] | {"id": f"m{i}"} for i in range(320)]


def recipe(workshop: Workshop, rows: int = 320, **changes) -> Path:
    workshop.rows("train", MANY[:rows])
    return workshop.write(**({"stages": STAGES, "training__max_steps": 16} | changes))


def forecast(workshop: Workshop, file: Path, **options):
    return make_forecast(load_recipe(file), file.parent, workshop.runs, say=lambda _: None, **options)


def test_arms_are_found_and_the_control_is_added(workshop: Workshop) -> None:
    file = recipe(workshop)
    arms = find_arms(load_recipe(file), file.parent)
    assert (arms.sft, arms.again, arms.gkd, arms.teacher) == ("sft", "sft_again", "gkd", "teacher_sft")
    assert (arms.start, arms.given_teacher, arms.same_data, arms.rows) == ("base", "teacher", True, 320)
    given = [stage | {"teacher": "teacher"} if stage["name"] == "gkd" else stage for stage in STAGES]
    arms = find_arms(load_recipe(recipe(workshop, stages=given)), file.parent)
    assert (arms.given_teacher, arms.same_data) == ("teacher", False)
    again = {"name": "more", "kind": "sft", "student": "sft", "data": "train"}
    arms = find_arms(load_recipe(recipe(workshop, stages=[*STAGES[:3], again, STAGES[3]])), file.parent)
    assert arms.again == "more"


def test_pilots_are_nested_and_share_no_row_with_dev_rows(workshop: Workshop) -> None:
    from tutelage.data.dataset import load_dataset

    file = recipe(workshop)
    arms = find_arms(load_recipe(file), file.parent)
    ids = []
    for share in (1 / 16, 1 / 8, 1 / 4):
        part = part_of(arms, share)
        assert part.stages[1].training == {"max_steps": 16 * share}
        ids.append({row.id for row in load_dataset("train", part.data["train"], file.parent).conversations})
    dev = {row.id for row in load_dataset(DEV, arms.recipe.data[DEV], file.parent).conversations}
    assert [len(one) for one in (*ids, dev)] == [20, 40, 80, 80]
    assert ids[0] < ids[1] < ids[2]
    assert not ids[2] & dev


@pytest.mark.slow
def test_a_part_with_more_bad_rows_than_the_whole_may_have_is_used_without_them(workshop: Workshop) -> None:
    """Two rows in 320 are within 1 %, and two in the 24 of a pilot are not."""
    from tutelage.data.dataset import load_dataset

    file = recipe(workshop)
    part = part_of(find_arms(load_recipe(file), file.parent), 1 / 16)
    long = [row.id for row in load_dataset("train", part.data["train"], file.parent).conversations][:2]
    workshop.rows("train", [row | ({"prompt": "one " * 200} if row["id"] in long else {}) for row in MANY])
    found = forecast(workshop, file, pilot="short")
    assert [pilot.rows for pilot in found.known.pilots] == [24]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": [STAGES[1], STAGES[3] | {"models": ["sft"]}]}, "no `distill` stage is evaluated"),
        (
            {"stages": [STAGES[0], STAGES[2] | {"student": "base"}, STAGES[3] | {"models": ["gkd"]}]},
            "add an `sft` stage",
        ),
    ],
)
def test_a_recipe_without_two_arms_is_one_line(workshop: Workshop, changes: dict, words: str) -> None:
    file = recipe(workshop, **changes)
    with pytest.raises(TutelageError, match=words) as found:
        find_arms(load_recipe(file), file.parent)
    assert "\n" not in str(found.value)


def test_a_stage_that_is_not_there_is_named(workshop: Workshop) -> None:
    file = recipe(workshop)
    with pytest.raises(TutelageError, match=r"`gkf` \(there are: gkd\)"):
        find_arms(load_recipe(file), file.parent, "gkf")


@pytest.mark.slow
def test_what_pilots_lack_is_told_before_anything_is_asked(
    workshop: Workshop, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = recipe(workshop, training__trackers=["wandb"])
    monkeypatch.setattr("tutelage.runs.preflight.inputs.find_spec", lambda _: None)
    with pytest.raises(TutelageError, match="wandb is not installed"):
        forecast(workshop, file)
    assert not done


@pytest.mark.slow
@pytest.mark.long
def test_from_end_to_end(workshop: Workshop, done: list[str]) -> None:
    """Signals and two pilots; a second call does nothing; test rows are never read."""
    file = recipe(workshop)
    (workshop.folder / "test.jsonl").unlink()
    found = forecast(workshop, file, budget=100.0, effect=-50.0)  # an effect that no interval leaves out
    assert [pilot.rows for pilot in found.known.pilots] == [24, 40, 80]
    assert found.known.teacher == "same"
    assert {"kl", "kl_own", "kl_rest", "teacher_ece", "student_score", "tokens_per_weight"} <= set(found.known.signals)
    assert all(pilot.teacher is not None for pilot in found.known.pilots)
    low, high = found.score.gain.interval()
    assert low < found.score.gain.mean < high
    assert found.prices["this forecast"].seconds
    assert found.distillation is not None
    assert found.score.situations >= 9
    assert found.score.pilots == WITH_PILOTS  # its own outcome is none of them
    content = json.loads(json.dumps(found.as_json()))
    assert content["answer"] == found.answer.choice
    assert len(content["decided"]) == 3
    names = list(done)
    assert not [name for name in names if "on test" in name]
    again = forecast(workshop, file, budget=100.0, effect=-50.0)
    assert done == names
    assert again.score.gain == found.score.gain


@pytest.mark.slow
def test_it_stops_when_the_interval_decides_or_the_budget_is_spent(workshop: Workshop) -> None:
    file = recipe(workshop)
    found = forecast(workshop, file, effect=1000.0)
    assert (len(found.known.pilots), found.stopped) == (1, "the interval decides")
    found = forecast(workshop, file, effect=-50.0, budget=1e-9)
    assert len(found.known.pilots) == 1
    assert "would cost more than" in found.stopped
    assert forecast(workshop, file, pilot="none").known.pilots == ()


@pytest.mark.slow
def test_named_answers(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    file = recipe(workshop, rows=40, data__train__max_bad_rows=0.1)
    with (workshop.folder / "train.jsonl").open("a") as rows:
        rows.write("not a row\n")
    few = forecast(workshop, file, pilot="none")
    assert "".join(capsys.readouterr()).count("1 of 41 rows is bad") == 1  # several runs read them
    assert few.answer.choice == "cannot be told"
    assert few.answer.findings[0].name == "few_dev_rows"
    save_tiny(workshop.folder / "other", layers=2, seed=3, tokens=jobs.words())
    file = recipe(workshop, teacher={"path": str(workshop.folder / "other")})
    found = forecast(workshop, file)
    assert found.answer.choice == "cannot be told"
    assert found.answer.findings[0].name == "another_tokenizer"
    assert "seqkd" in found.answer.findings[0].do
    assert found.known.pilots == ()


@pytest.mark.slow
@pytest.mark.long
def test_a_finished_recipe_is_a_situation_for_the_next_forecast(workshop: Workshop, undrawn: None) -> None:
    """With what its own forecast had seen; and it does not inform a forecast of itself."""
    again = {"name": "again", "kind": "sft", "student": "sft", "data": "train"}
    scores = STAGES[3] | {"models": ["sft", "again", "gkd"]}
    file = recipe(workshop, stages=[*STAGES[:3], again, scores], training__max_steps=2)
    main(["forecast", str(file), "--runs", str(workshop.runs), "--pilot", "short"])
    main(["run", str(file), "--runs", str(workshop.runs)])
    (known,) = recorded_situations(workshop.runs)
    shutil.rmtree(workshop.runs / "situations")
    tutelage.run(file, runs=workshop.runs)
    assert recorded_situations(workshop.runs) == [known]
    assert (known.teacher, known.rows, known.metric) == ("same", 320, "rouge_l")
    assert known.gain is not None
    assert len(known.pilots) == 1
    assert "kl_own" in known.signals
    shipped = len(shipped_situations())
    assert forecast(workshop, file, pilot="none").score.situations == shipped
    other = forecast(workshop, recipe(workshop, stages=[*STAGES[:3], again, scores], name="other"), pilot="none")
    assert (other.score.situations, other.score.pilots) == (shipped + 1, WITH_PILOTS + 1)


@pytest.mark.slow
def test_a_recipe_without_the_fair_opponent_is_none(workshop: Workshop, undrawn: None) -> None:
    main(["run", str(recipe(workshop, training__max_steps=1)), "--runs", str(workshop.runs)])
    assert recorded_situations(workshop.runs) == []
