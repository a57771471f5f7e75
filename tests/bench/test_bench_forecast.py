"""The backtest on made-up situations with a known truth, and its sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from bench.forecast import RIVALS, as_seen, backtest, paper_situations, paper_test, report
from tutelage.forecasting.mixture import Mixture
from tutelage.forecasting.prior import Prediction
from tutelage.forecasting.situations import Pilot, Situation

KEYS = {"situations", "coverage_80", "sign_accuracy", "sign_cases", "rivals", "regret", "rival_regret",
        "cost_share_median"}  # fmt: skip
HOURS = {"hours_again": 1.0, "hours_gkd": 3.0, "hours_both": 3.5}
ONE = Situation("one", "", "a", "rouge_l", "same", "small", 1000.0, gain=2.0, gain_se=0.5, **HOURS)


def world(seed: int, count: int = 60) -> list[Situation]:
    """Situations in which the gain is half the pilot's and a tenth of the teacher's lead, with a task's own part."""
    rng = np.random.default_rng(seed)
    tasks = {f"task {n}": float(rng.normal(0, 0.4)) for n in range(6)}
    kinds = {"same": 3.0, "more": 6.0, "untouched": -4.0, "spoiled": -12.0}
    found = []
    for n in range(count):
        task, kind = f"task {n % 6}", list(kinds)[n % 4]
        lead = kinds[kind] + float(rng.normal(0, 3))
        late = float(rng.normal(0, 3.0))
        gain = 0.5 * late + 0.1 * lead + tasks[task] + float(rng.normal(0, 0.5))
        pilot = Pilot(62.0, late + float(rng.normal(0, 0.5)), 0.5, 0.02 * late, 0.01, 20.0,
                      20.0 + lead if kind == "same" else None, 0.2, 0.05)  # fmt: skip
        signals = {"teacher_score": 20.0 + lead, "student_score": 8.0}
        known = replace(ONE, name=f"s{n}", task=task, teacher=kind, signals=signals, pilots=(pilot,))
        measured = gain + float(rng.normal(0, 0.3))
        found.append(replace(known, gain=measured, gain_se=0.3, loss_gain=0.03 * gain, loss_gain_se=0.01))
    return found


@pytest.mark.slow
@pytest.mark.long
def test_in_a_world_of_its_kind_a_forecast_is_worth_more_than_its_rivals() -> None:
    found = [backtest(world(seed), "task") for seed in range(3)]
    assert 0.7 < np.mean([one["coverage_80"] for one in found]) < 0.9
    for one in found:
        assert set(one) >= KEYS
        assert one["situations"] == 60
        assert one["sign_accuracy"] > 0.8
        assert one["regret"] < one["rival_regret"]
        assert one["cost_share_median"] == pytest.approx(0.2 / 3.5)
        assert one["work_share_median"] == pytest.approx(0.05)
    best = max(np.mean([one["rivals"][name] for one in found]) for name in RIVALS)
    assert np.mean([one["sign_accuracy"] for one in found]) > best


def test_rivals_regret_and_hours_are_those_by_hand() -> None:
    cases = [
        replace(ONE, name="not measured", gain=None, gain_se=None, task="d"),
        replace(ONE, name="good", task="a", signals={"teacher_score": 9.0, "student_score": 5.0}),
        replace(
            ONE, name="bad", task="b", gain=-1.0, gain_se=0.2, signals={"teacher_score": 4.0, "student_score": 5.0}
        ),
        replace(ONE, name="unclear", task="c", gain=-0.5, rows=100_000.0),
    ]
    found = backtest(cases, "task")
    assert (found["situations"], found["sign_cases"]) == (3, 2)
    wrong = round(2 * (1 - found["sign_accuracy"]))
    assert len(found["misses"]) == wrong
    assert found["rivals"] == {"always": 0.5, "never": 0.5, "paper": 0.5, "lead": 1.0, "pilot": 1.0}
    assert found["rival_regrets"]["always"] == pytest.approx((1.0 + 0.5) / 3)
    assert found["rival_regrets"]["never"] == pytest.approx(2.0 / 3)
    assert found["rival_regrets"]["paper"] == pytest.approx(1.0 / 3)
    assert found["rival_regret"] == found["rival_regrets"]["lead"] == 0.0
    assert found["rival_wasted_gpu_hours"] == pytest.approx(
        {"always": 4 / 3, "never": 0.0, "paper": 2 / 3, "lead": 0.0, "pilot": 0.0}
    )


@pytest.mark.slow
def test_what_is_left_out_informs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.forecast as bench_forecast

    asked: list[tuple[Situation, list[Situation]]] = []
    real = bench_forecast.predict

    def watched(known, others, *rest):
        asked.append((known, others))
        return real(known, others, *rest)

    monkeypatch.setattr(bench_forecast, "predict", watched)
    backtest(world(0, 12), "task")
    assert asked
    assert all(one.task != other.task for one, others in asked for other in others)
    asked.clear()
    rows = world(0, 12)
    rows += [replace(one, name=f"{one.name}-twin", teacher="weaker") for one in rows]  # against the same SFT again
    for n, one in enumerate(rows):
        rows[n] = replace(one, rows=100.0 + n % 12)
    backtest(rows, "teacher")
    assert all(one.teacher != other.teacher for one, others in asked for other in others)
    assert all(one.rows != other.rows for one, others in asked for other in others)


def test_a_known_error_is_covered_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gains at quantiles of N(1, 2² + 0.5²): a forecast N(1, 2²) covers 80 of 100 measurements with error 0.5, an
    overconfident one as many as expected. Sign accuracy and regret are those of always distilling."""
    import bench.forecast as bench_forecast

    count, spread = 100, np.hypot(2.0, 0.5)
    gains = 1.0 + spread * norm.ppf((np.arange(count) + 0.5) / count)
    rows = [replace(ONE, name=f"s{n}", task=f"t{n % 5}", rows=100.0 + n, gain=float(gain), gain_se=0.5)
            for n, gain in enumerate(gains)]  # fmt: skip
    for sd in (2.0, 1.0):
        known = Prediction(Mixture((1.0,), (1.0,), (sd,)), {}, 0, 0)
        monkeypatch.setattr(bench_forecast, "predict", lambda *_, known=known: known)
        found = backtest(rows, "task")
        expected = 2 * norm.cdf(norm.ppf(0.9) * np.hypot(sd, 0.5) / spread) - 1
        assert found["coverage_80"] == pytest.approx(expected, abs=0.011)
        assert found["width_80_median"] == pytest.approx(2 * norm.ppf(0.9) * sd, rel=1e-6)
        low, high = found["coverage_80_range"]
        assert low <= found["coverage_80"] <= high
        shown = np.abs(gains) > 1.0
        assert found["sign_cases"] == shown.sum()
        assert found["sign_accuracy"] == found["rivals"]["always"] == pytest.approx((gains[shown] > 0).mean())
        assert found["regret"] == found["rival_regrets"]["always"] == pytest.approx(np.maximum(-gains, 0).mean())
        assert found["wasted_gpu_hours"] == pytest.approx(2.0 * (gains <= 0).mean())
        assert found["told_cases"] == 0


def test_a_forecast_takes_no_pilot_that_the_command_would_not_make() -> None:
    pilots = tuple(replace(world(0, 1)[0].pilots[0], rows=rows, gain=gain, gain_se=4.0, hours=hours, work_share=work)
                   for rows, gain, hours, work in ((62.0, 0.0, 0.1, 0.02), (125.0, 0.0, 0.2, 0.05),
                                                   (250.0, 0.0, 0.4, 0.2)))  # fmt: skip
    one = replace(ONE, teacher="given", pilots=pilots)
    assert len(as_seen(one, []).pilots) == 2  # the third would cost a fifth of both arms
    sure = replace(one, pilots=(replace(pilots[0], gain=20.0, gain_se=0.1), *pilots[1:]))
    assert len(as_seen(sure, []).pilots) == 1  # decided
    assert as_seen(replace(ONE, pilots=()), []).pilots == ()


@pytest.mark.slow
def test_situations_that_failed_are_left_out_of_everything() -> None:
    rows = [replace(one, gain=None, gain_se=None) if n % 3 == 0 else one for n, one in enumerate(world(2, 30))]
    rows = [replace(one, pilots=(), signals={}) if n % 3 == 1 else one for n, one in enumerate(rows)]
    found = backtest(rows, "task")
    assert (found["situations"], found["pilots"]) == (20, {0: 10, 1: 10})
    assert found == backtest([one for one in rows if one.gain is not None], "task")


def test_the_papers_table_is_27_situations() -> None:
    cases = paper_situations()
    assert len(cases) == 27
    first = next(one for one in cases if one.name == "Llama-3.2-1B-10000")
    assert first.gain == pytest.approx(
        (3.84 + 24.18 + 15.71 + 34.15 + 12.13 - 2.95 - 25.09 - 12.38 - 34.25 - 12.17) / 5
    )
    assert first.pilots == ()
    later = next(one for one in cases if one.name == "Llama-3.2-1B-80000")
    assert [pilot.rows for pilot in later.pilots] == [10_000, 20_000]
    found = paper_test([])
    assert found["situations"] == 27
    assert set(found["rivals"]) == set(RIVALS)


@pytest.mark.slow
def test_the_report_has_the_keys_that_readers_look_for() -> None:
    found = report(world(1, 16))
    assert set(found) >= KEYS | {"loss", "teacher_kind_out", "paper_table3"}
