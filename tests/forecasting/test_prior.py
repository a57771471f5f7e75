"""The prior: exact against a conjugate posterior by hand, what pilots and situations do to it, and coverage by
simulation from its own assumptions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tutelage.common.errors import TutelageError
from tutelage.forecasting import prior
from tutelage.forecasting.prior import predict, score_scale, teacher_lead
from tutelage.forecasting.situations import (
    Pilot,
    Situation,
    read_situations,
    record_situation,
    recorded_situations,
    shipped_situations,
    situations_csv,
)

NEW = Situation("new", "", "mine", "rouge_l", "given", "small", 1000.0)
PILOT = Pilot(62.0, 2.0, 0.3, 0.05, 0.004, 22.5)


def made(n: int, gain: float, task: str = "other", **more) -> Situation:
    return replace(NEW, name=f"s{n}", task=task, gain=gain, gain_se=0.3, **more)


def test_without_situations_it_is_the_plain_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior, "_POWERS", (1.0,))
    known = replace(NEW, signals={"teacher_score": 30.0, "student_score": 10.0}, pilots=(PILOT,))
    found = predict(known, [])
    assert found.situations == 0
    assert found.parts["lead"] == pytest.approx(0.7 * (30.0 - 22.5) / 10.0, rel=1e-6)
    assert found.gain.mean == pytest.approx(sum(found.parts.values()), rel=1e-6)
    nothing = predict(NEW, [])
    assert nothing.gain.deviation > found.gain.deviation / score_scale(known) > 0.7


def test_the_posterior_is_the_conjugate_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one scatter and power and no task effect, it is a Bayesian linear regression in weight space."""
    monkeypatch.setattr(prior, "_POWERS", (1.0,))
    monkeypatch.setattr(prior, "_SCATTERS", np.array([1.0]))
    monkeypatch.setattr(prior, "_SHARES", (0.0,))
    rng = np.random.default_rng(0)
    signals = [{"student_loss": 3.0, "teacher_loss": float(rng.uniform(1, 3)), "kl_own": 0.4, "kl_rest": 0.2,
                "teacher_score": 25.0, "student_score": float(rng.uniform(5, 25))} for _ in range(9)]  # fmt: skip
    pilots = [(replace(PILOT, gain=float(rng.normal(1, 2))),) for _ in range(9)]
    others = [made(n, float(rng.normal(1, 1)), signals=signals[n], pilots=pilots[n]) for n in range(8)]
    known = replace(NEW, signals=signals[8], pilots=pilots[8])
    rows = [prior._row(one, "score") for one in others]
    x = np.stack([row.values for row in rows])
    means = np.array([feature.score[0] for feature in prior.FEATURES])
    variances = np.array([feature.score[1] ** 2 for feature in prior.FEATURES])
    precision = np.diag(1 / variances)
    noise = np.array([1.0 + (0.3 / row.scale) ** 2 + row.variances @ (means**2 + variances) for row in rows])
    y = np.array([one.gain / row.scale for one, row in zip(others, rows, strict=True)])
    covariance = np.linalg.inv(precision + x.T @ (x / noise[:, None]))
    weights = covariance @ (precision @ means + x.T @ (y / noise))
    mine = prior._row(known, "score")
    found = predict(known, others)
    assert found.gain.mean == pytest.approx(mine.scale * weights @ mine.values, rel=1e-9)
    errors = mine.variances @ (means**2 + variances)
    expected = mine.scale * np.sqrt(1.0 + errors + mine.values @ covariance @ mine.values)
    assert found.gain.deviation == pytest.approx(expected, rel=1e-9)


def test_where_nothing_scores_the_situations_say_whether_gains_are_small_too() -> None:
    known = replace(NEW, signals={"teacher_score": 1.0, "student_score": 0.5})
    tasks = [
        {"task": f"t{n}", "signals": {"teacher_score": score}} for n, score in enumerate([1.0, 2.0, 30.0, 50.0] * 4)
    ]
    gains = [1.0, -1.5, 2.0, -1.0] * 4
    alike = predict(known, [made(n, gain, **task) for n, (gain, task) in enumerate(zip(gains, tasks, strict=True))])
    gains = [0.05, -0.1, 2.0, -1.0] * 4
    small = predict(known, [made(n, gain, **task) for n, (gain, task) in enumerate(zip(gains, tasks, strict=True))])
    assert alike.gain.deviation > 2 * small.gain.deviation


def test_a_pilot_of_a_teacher_that_its_rows_make_has_a_weight_of_its_own() -> None:
    behind = (replace(PILOT, gain=-10.0),)
    given, taught = (replace(NEW, teacher=kind, pilots=behind) for kind in ("given", "same"))
    before = predict(given, [])
    # Teachers that learned from a few rows harmed in the pilot, and helped in the end.
    others = [made(n, 2.0, task=f"task {n}", teacher="same", pilots=behind) for n in range(8)]
    assert predict(given, others).gain.mean < -2.0
    assert predict(given, others).gain.mean == pytest.approx(before.gain.mean, abs=1.5)
    assert predict(taught, others).gain.mean > 0.0


def test_an_uncertain_pilot_widens_the_interval() -> None:
    widths = [predict(replace(NEW, pilots=(replace(PILOT, gain_se=se),)), []).gain.deviation for se in (0.3, 3.0, 6.0)]
    assert widths[0] + 0.3 < widths[1] < widths[2] - 0.5


def test_situations_where_distilling_harmed_lower_the_gain_and_narrow_the_interval() -> None:
    known = replace(NEW, signals={"teacher_score": 20.0, "student_score": 15.0})
    before = predict(known, []).gain
    after = predict(known, [made(n, -2.0, signals=known.signals) for n in range(12)]).gain
    assert after.mean < before.mean - 1.0
    assert after.deviation < before.deviation


def test_situations_of_one_task_count_less_than_those_of_many() -> None:
    same = [made(n, 3.0 + 0.1 * n) for n in range(8)]
    many = [made(n, 3.0 + 0.1 * n, task=f"task {n}") for n in range(8)]
    assert predict(NEW, same).gain.deviation > predict(NEW, many).gain.deviation
    assert predict(NEW, same).gain.mean < predict(NEW, many).gain.mean


@pytest.mark.slow
def test_intervals_cover_gains_drawn_from_the_assumptions() -> None:
    rng, inside, trials = np.random.default_rng(2), 0, 80

    def drawn(n: int, weights: np.ndarray) -> Situation:
        task = f"t{n % 6}"
        signals = {"student_loss": 3.0, "teacher_loss": float(rng.uniform(1, 3)), "kl_own": float(rng.uniform(0, 2)),
                   "kl_rest": float(rng.uniform(0, 1)), "teacher_score": 25.0, "student_score": 10.0}  # fmt: skip
        one = replace(NEW, task=task, signals=signals, rows=float(rng.integers(100, 9000)),
                      pilots=(replace(PILOT, gain=float(rng.normal(0, 2))),))  # fmt: skip
        row = prior._row(one, "score")
        gain = row.scale * (weights @ row.values + tasks[task] + rng.normal(0, scatter * np.sqrt(0.7)))
        return replace(one, gain=float(gain + rng.normal(0, 0.3)), gain_se=0.3)

    for _ in range(trials):
        weights = np.array([rng.normal(*feature.score) for feature in prior.FEATURES])
        scatter = float(np.exp(rng.normal(0, 0.5)))
        tasks = {f"t{n}": float(rng.normal(0, scatter * np.sqrt(0.3))) for n in range(6)}
        rows = [drawn(n, weights) for n in range(25)]
        others = [one for one in rows if one.task != rows[0].task]
        low, high = predict(rows[0], others).gain.measured(0.3).interval()
        assert rows[0].gain is not None
        inside += low <= rows[0].gain <= high
    assert 0.7 < inside / trials < 0.9


def test_leads_and_scales() -> None:
    assert teacher_lead(NEW) is None
    assert score_scale(NEW) == 1.0
    before = replace(NEW, signals={"teacher_score": 40.0, "student_score": 5.0})
    assert teacher_lead(before) == 35.0
    assert score_scale(before) == pytest.approx(1.6)
    assert teacher_lead(replace(before, pilots=(PILOT,))) == pytest.approx(17.5)
    assert teacher_lead(replace(before, pilots=(replace(PILOT, teacher=20.0),))) == pytest.approx(-2.5)
    assert score_scale(replace(NEW, signals={"teacher_score": 0.5})) == 0.2


def test_a_table_is_read_as_it_was_written() -> None:
    rows = [made(1, 0.5, signals={"kl": 0.25}, pilots=(PILOT, replace(PILOT, rows=125.0, teacher=30.0))), NEW]
    assert read_situations(situations_csv(rows), "table") == rows
    with pytest.raises(TutelageError, match=r"table:2 is not a situation"):
        read_situations("name,source,rows\na,b,many\n", "table")


def test_the_shipped_table_has_known_gains_and_pages() -> None:
    shipped = shipped_situations()
    assert len({one.name for one in shipped}) == len(shipped) >= 9
    assert all(one.gain is not None and one.gain_se for one in shipped)


def test_finished_recipes_are_remembered(tmp_path) -> None:
    one = made(3, 1.5, pilots=(PILOT,))
    record_situation(one, tmp_path)
    (tmp_path / "situations" / "broken.json").write_text("{")
    (tmp_path / "situations" / "other.json").write_text('{"name": 3}')
    assert recorded_situations(tmp_path) == [one]
    assert recorded_situations(tmp_path / "none") == []
