"""The answer: one of five by simple cases, the named findings, and the page that shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_forecast import GIVEN, KNOWN, PILOTS, certain, fake_forecast
from pages import HOSTILE, Page

from tutelage.common.types import Conversation, Message
from tutelage.forecasting.answer import chance_score, decide, find_problems, is_decided
from tutelage.forecasting.mixture import Mixture
from tutelage.forecasting.page import DATA, WORTH, forecast_lines, loss_words, write_forecast
from tutelage.forecasting.price import Price
from tutelage.forecasting.situations import Situation, shipped_situations


def choice(known: Situation, mean: float, sd: float = 0.3, dev: int = 128, chance: float = 5.0) -> str:
    gain = certain(mean, sd)
    return decide(known, gain, gain, find_problems(known, dev, chance), 1.0).choice


def names(known: Situation, dev: int = 128, chance: float = 5.0) -> list[str]:
    return [finding.name for finding in find_problems(known, dev, chance)]


def test_the_interval_decides() -> None:
    assert is_decided(certain(2.0).gain, 1.0)
    assert is_decided(certain(0.0).gain, 1.0)
    assert not is_decided(certain(1.0, 2.0).gain, 1.0)
    assert choice(KNOWN, 2.0) == "distil"
    assert choice(KNOWN, 0.0) == "fine-tune only"
    assert choice(KNOWN, 1.0, 3.0) == "cannot be told"


def test_a_teacher_that_is_no_better_is_named() -> None:
    weak = replace(GIVEN, signals=GIVEN.signals | {"teacher_score": 18.0})
    assert names(weak) == ["weak_teacher"]
    assert choice(weak, -1.0) == "take a stronger teacher"
    assert choice(weak, 3.0) == "distil"  # what pilots show counts more
    near = replace(GIVEN, signals=GIVEN.signals | {"teacher_score": 24.0})
    assert names(near) == []
    assert choice(near, 0.0) == "take a stronger teacher"
    assert choice(GIVEN, 0.0) == "fine-tune only"
    pilots = tuple(replace(pilot, again=94.0, teacher=96.0) for pilot in GIVEN.pilots)
    full = replace(GIVEN, pilots=pilots, signals=GIVEN.signals | {"teacher_score": 96.0})
    assert choice(full, 0.0) == "fine-tune only"  # none is much stronger
    assert (
        names(replace(KNOWN, pilots=(), signals={"teacher_score": 3.0, "student_score": 4.0})) == []
    )  # not yet taught


def test_a_teacher_is_weak_only_where_so_many_rows_show_it() -> None:
    """Two equal models score 1.9 points apart on 128 rows once in ten times each way; right or wrong, 6.6."""
    again = GIVEN.pilots[-1].again
    for less, metric, dev, found in (
        (0.0, "rouge_l", 128, []),
        (1.5, "rouge_l", 128, []),
        (2.5, "rouge_l", 128, ["weak_teacher"]),
        (2.5, "exact_match", 128, []),
        (8.0, "exact_match", 128, ["weak_teacher"]),
        (2.5, "rouge_l", 30, []),
    ):
        teacher = replace(GIVEN, metric=metric, signals=GIVEN.signals | {"teacher_score": again - less})
        assert names(teacher, dev, 0.0) == found, (less, metric, dev)
    near = replace(GIVEN, signals=GIVEN.signals | {"teacher_score": again - 1.5})
    assert choice(near, 1.0, 3.0) == "cannot be told"


def test_a_weak_teacher_is_the_first_of_the_reasons_where_it_decides() -> None:
    weak = replace(GIVEN, signals=GIVEN.signals | {"teacher_score": 18.0})
    asked = [decide(weak, certain(mean), certain(0.0), find_problems(weak, 128, 5.0), 1.0) for mean in (-5.0, 5.0)]
    assert [one.choice for one in asked] == ["take a stronger teacher", "distil"]
    lead = [
        ["The teacher scores 3.5 points less than the student" in reason for reason in one.decided] for one in asked
    ]
    assert lead == [[True, False, False], [False, True, False]]  # by size alone, the pilot would be first


@pytest.mark.parametrize(
    ("mean", "sd", "said"),
    [
        (-1.411, 0.9169, ("1.411 nats more", "0.236 to 2.586 more")),
        (0.412, 0.1365, ("0.412 nats less", "0.237 to 0.587 less")),
        (0.05, 0.0468, ("0.050 nats less", "0.010 more to 0.110 less")),
        (-0.05, 0.0468, ("0.050 nats more", "0.010 less to 0.110 more")),
    ],
)
def test_an_interval_goes_in_the_direction_of_its_number(mean: float, sd: float, said: tuple[str, str]) -> None:
    assert loss_words(Mixture((1.0,), (mean,), (sd,))) == said


def test_too_few_dev_rows_are_named() -> None:
    assert names(KNOWN, dev=29) == ["few_dev_rows"]
    assert choice(KNOWN, 5.0, dev=29) == "cannot be told"


def test_a_task_at_chance_is_named() -> None:
    flat = [replace(pilot, again=25.0, teacher=26.0) for pilot in PILOTS]
    guessing = replace(KNOWN, metric="final_answer", pilots=tuple(flat), signals={})
    assert names(guessing, chance=25.0) == ["at_chance"]
    assert choice(guessing, 5.0, chance=25.0) == "cannot be told"
    assert names(guessing, chance=5.0) == []


def test_a_full_metric_is_named() -> None:
    full = replace(KNOWN, pilots=tuple(replace(pilot, again=97.0, teacher=99.0) for pilot in PILOTS), signals={})
    assert names(full) == ["saturated"]
    assert choice(full, 0.5, 2.0) == "cannot be told"


def test_a_steep_curve_asks_for_rows_first() -> None:
    scores = zip(PILOTS, (20.0, 28.0, 36.0), strict=True)
    steep = [replace(pilot, again=score, gain=0.0, teacher=score + 6) for pilot, score in scores]
    known = replace(KNOWN, pilots=tuple(steep))
    assert choice(known, 0.5, 2.0) == "get more data or synthetic rows first"
    assert choice(known, 4.0) == "distil"


def row(answer: str) -> Conversation:
    return Conversation(answer, (Message("user", "q"), Message("assistant", answer)))


def test_chance_is_the_best_answer_that_ignores_the_prompt() -> None:
    assert chance_score([row("yes")] * 3 + [row("no")], "exact_match") == pytest.approx(75.0)
    assert chance_score([row("a b"), row("a c"), row("d e")], "rouge_l") == pytest.approx(50.0, abs=1.0)
    said = [replace(row("x"), references=("(A)",)), replace(row("y"), references=("(A)",))]
    assert chance_score(said, "final_answer") == pytest.approx(100.0)
    assert chance_score([row("a")], "exact_match") == 0.0


def test_what_forecasts_are_worth_is_what_was_measured() -> None:
    found = json.loads((Path(__file__).parents[2] / "docs/results/bench/forecast.json").read_text())
    inside, signs = round(found["coverage_80"] * found["situations"]), found["sign_cases"]
    right, by_teacher = round(found["sign_accuracy"] * signs), found["teacher_kind_out"]["sign_accuracy"] * signs
    assert f"{inside} of {found['situations']} measured gains" in WORTH
    assert f"the sign of {right} of {signs} clear ones" in WORTH
    assert f"of {round(by_teacher)} of {signs}." in WORTH
    blind = Path(__file__).parents[2] / "docs/results/forecast_blind"
    outcomes = {file: json.loads(file.read_text()) for file in blind.glob("*.outcome.json")}
    made = [
        (json.loads(Path(str(file).replace(".outcome", "")).read_text())["gain"], outcomes[file]["gain"])
        for file in outcomes
    ]
    insides = sum(gain["low"] <= truth <= gain["high"] for gain, truth in made)
    assert (len(made), insides) == (3, 1)
    assert "right about two of three recipes forecast blind" in WORTH
    assert "one gain was inside" in WORTH


def test_a_loss_is_not_called_a_gain() -> None:
    score = certain(-5.0, 1.0)
    found = decide(KNOWN, score, score, [], 1.0)
    assert found.why == "distilling loses at least 3.7 points against as much fine-tuning"


@pytest.mark.slow
def test_the_page_says_it_in_words_and_runs_nothing(tmp_path: Path) -> None:
    forecast = fake_forecast(recipe=HOSTILE, both=Price(0.04, 0.1, 60.0))
    page = Page(write_forecast(forecast, tmp_path, ["training.epochs=9", HOSTILE]).read_text(encoding="utf-8"))
    assert "Changed in the command, beside what the recipe says: training.epochs=9" in page.text
    assert "script" not in page.tags
    assert page.handlers == []
    assert all(address.startswith("#") for address in page.addresses)
    assert "distil" in page.text
    assert f"informed by {len(shipped_situations())} earlier situations" in page.text.lower()
    assert WORTH in page.text
    assert page.text.index("running it is cheaper than forecasting it: ") < page.text.index("What decided")
    assert page.tags.count("svg") == 2
    assert page.text.index("this forecast") < page.text.index("SFT, then GKD")
    content = json.loads((tmp_path / DATA).read_text(encoding="utf-8"))
    assert content["answer"] == forecast.answer.choice
    assert content["gain"]["low"] < content["gain"]["mean"] < content["gain"]["high"]


@pytest.mark.slow
def test_the_page_names_no_pilots_where_there_are_none(tmp_path: Path) -> None:
    said = [
        write_forecast(fake_forecast(known), tmp_path).read_text("utf-8")
        for known in (KNOWN, replace(KNOWN, pilots=()))
    ]
    assert ["Dots are pilots" in one for one in said] == [True, False]
    assert "The band is the forecast for other numbers of rows. The diamond" in said[1]
    assert all("<code>dev</code>" in one for one in said)


@pytest.mark.slow
def test_a_terminal_gets_the_answer_first() -> None:
    lines = forecast_lines(fake_forecast(GIVEN))
    assert lines[0].startswith("distil: ")
    prices = [line.strip().partition(":")[0] for line in lines if " on an H100" in line]
    assert prices == ["this forecast", "SFT, then SFT again", "SFT, then GKD"]
    assert not any("This recipe is" in line for line in lines)
    assert any("cheaper than forecasting it" in line for line in forecast_lines(fake_forecast(both=Price(0.04, 0.1))))
