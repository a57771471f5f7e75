"""The backtest on made-up situations with a known truth, and its sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.forecast import RIVALS, backtest, paper_situations, paper_test, report
from tutelage.forecasting.situations import Pilot, Situation

KEYS = {"situations", "coverage_80", "sign_accuracy", "sign_cases", "rivals", "regret", "rival_regret",
        "cost_share_median"}  # fmt: skip
HOURS = {"hours_again": 1.0, "hours_gkd": 3.0, "hours_forecast": 0.2}
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
        pilot = Pilot(62.0, late + float(rng.normal(0, 0.5)), 0.5, 0.02 * late, 0.01, 20.0, 20.0,
                      20.0 + lead if kind == "same" else None)  # fmt: skip
        signals = {"teacher_score": 20.0 + lead, "student_score": 8.0}
        known = replace(ONE, name=f"s{n}", task=task, teacher=kind, signals=signals, pilots=(pilot,))
        measured = gain + float(rng.normal(0, 0.3))
        found.append(replace(known, gain=measured, gain_se=0.3, loss_gain=0.03 * gain, loss_gain_se=0.01))
    return found


@pytest.mark.slow
def test_in_a_world_of_its_kind_a_forecast_is_worth_more_than_its_rivals() -> None:
    found = [backtest(world(seed), "task") for seed in range(3)]
    assert 0.7 < np.mean([one["coverage_80"] for one in found]) < 0.9
    for one in found:
        assert set(one) >= KEYS
        assert one["situations"] == 60
        assert one["sign_accuracy"] > 0.8
        assert one["regret"] < one["rival_regret"]
        assert one["cost_share_median"] == pytest.approx(0.2 / 4.0)
    best = max(np.mean([one["rivals"][name] for one in found]) for name in RIVALS)
    assert np.mean([one["sign_accuracy"] for one in found]) > best


def test_rivals_regret_and_hours_are_those_by_hand() -> None:
    cases = [
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
    assert found["rivals"] == {"always": 0.5, "never": 0.5, "paper": 0.5, "lead": 1.0}
    assert found["rival_regrets"]["always"] == pytest.approx((1.0 + 0.5) / 3)
    assert found["rival_regrets"]["never"] == pytest.approx(2.0 / 3)
    assert found["rival_regrets"]["paper"] == pytest.approx(1.0 / 3)
    assert found["rival_regret"] == found["rival_regrets"]["lead"] == 0.0
    assert found["rival_wasted_gpu_hours"] == pytest.approx(
        {"always": 4 / 3, "never": 0.0, "paper": 2 / 3, "lead": 0.0}
    )


def test_what_is_left_out_informs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.forecast as bench_forecast

    asked: list[tuple[str, set[str]]] = []
    real = bench_forecast.predict

    def watched(known, others, *rest):
        asked.append((known.task, {one.task for one in others}))
        return real(known, others, *rest)

    monkeypatch.setattr(bench_forecast, "predict", watched)
    backtest(world(0, 12), "task")
    assert all(task not in others for task, others in asked)


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
