"""The time left of unlike pieces of work: guesses, corrected by what pieces of the same kind took."""

from __future__ import annotations

import pytest

from tutelage.common.time_left import TimeLeft, about, duration, elapsed


def plan(*pieces: tuple[str, str, float], jobs: int = 1) -> TimeLeft:
    left = TimeLeft(jobs)
    for piece in pieces:
        left.add(*piece)
    return left


def test_before_anything_has_ended_the_guesses_are_the_answer():
    left = plan(("a", "train", 60.0), ("b", "train", 120.0), ("c", "evaluate", 20.0))
    assert left.seconds(0.0) == pytest.approx(200.0)
    assert left.counts == (0, 3)
    left.begin("a", 0.0)
    assert left.seconds(10.0) == pytest.approx(190.0)


def test_short_evaluations_after_long_trainings_are_not_taken_for_trainings():
    """The mean over all ended runs would say 2 · 100 s here, ten times too much."""
    left = plan(*[(f"t{i}", "train", 50.0) for i in range(4)], ("e1", "evaluate", 5.0), ("e2", "evaluate", 5.0))
    now = 0.0
    for i in range(4):
        left.begin(f"t{i}", now)
        now += 100.0
        left.end(f"t{i}", now)
    assert left.seconds(now) == pytest.approx(20.0, rel=0.1)  # as slow as the trainings, in proportion
    left.begin("e1", now)
    left.end("e1", now + 5.0)  # evaluations turn out to be as fast as guessed
    assert left.seconds(now + 5.0) == pytest.approx(5.0, rel=0.25)
    left.begin("e2", now + 5.0)
    left.end("e2", now + 10.0)
    assert (left.seconds(now + 10.0), left.counts, left.taken("e2")) == (0.0, (6, 6), 5.0)


def test_a_piece_is_measured_by_its_own_speed_once_it_has_one():
    left = plan(("a", "train", 10.0), ("b", "train", 10.0))
    left.begin("a", 0.0)
    left.part("a", 0.0, 5.0)  # five seconds went into loading, which happens once
    left.part("a", 0.1, 8.0)
    assert left.seconds(8.0) == pytest.approx(27.0 + left._whole(left._pieces["b"], 8.0))
    assert 10.0 < left._whole(left._pieces["b"], 8.0) < 35.0  # and what is known of it already counts for the other
    left.part("a", 0.5, 20.0)
    assert left._left(left._pieces["a"], 20.0) == pytest.approx(15.0)
    left.part("a", 0.0, 21.0)  # a second count within the same piece
    left.part("a", 0.5, 22.0)
    assert left._left(left._pieces["a"], 22.0) == pytest.approx(1.0)


def test_the_rest_of_a_piece_that_an_earlier_call_began_is_not_taken_for_all_of_it():
    """Its last step, 6 s for a guess of 60, would make what follows ten times as fast as it is."""
    left = plan(("heal", "train", 60.0), ("sft", "train", 80.0))
    left.begin("heal", 0.0)
    left.part("heal", 0.0, 1.0, before=0.9)
    left.end("heal", 6.0)
    assert left.seconds(6.0) == pytest.approx(80.0)


def test_the_first_of_many_answers_tells_little():
    """Answers that are written together end together, late: after 30 s one of 120 is no hour."""
    left = plan(("a", "evaluate", 50.0), ("b", "evaluate", 50.0))
    left.begin("a", 0.0)
    left.part("a", 0.0, 0.0)
    left.part("a", 1 / 120, 30.0)
    assert 60.0 < left.seconds(30.0) < 120.0
    left.part("a", 0.5, 40.0)  # by then its own speed counts
    assert left._left(left._pieces["a"], 40.0) == pytest.approx(40.0)
    left.begin("b", 60.0)
    left.part("b", 0.0, 60.0)
    left.part("b", 1 / 120, 360.0)  # far longer than guessed, and not over yet
    assert left._left(left._pieces["b"], 360.0) > 100.0


def test_side_by_side_pieces_take_as_long_as_the_longest_at_least():
    assert plan(("a", "t", 10.0), ("b", "t", 10.0), ("c", "t", 10.0), jobs=3).seconds(0.0) == pytest.approx(10.0)
    assert plan(("a", "t", 100.0), ("b", "t", 2.0), jobs=2).seconds(0.0) == pytest.approx(100.0)


def test_pieces_that_are_not_known_yet_count_like_the_mean():
    left = plan(("a", "t", 10.0), ("b", "t", 30.0))
    left.expect(2)
    assert (left.seconds(0.0), left.counts) == (pytest.approx(80.0), (0, 4))
    left.add("c", "t", 20.0)
    left.expect(1)
    assert (left.seconds(0.0), left.counts) == (pytest.approx(80.0), (0, 4))
    left.drop("c")
    left.expect(0)
    assert left.counts == (0, 3)  # it was one of them
    left.drop("b", done=True)  # by others
    assert (left.seconds(0.0), left.counts) == (pytest.approx(10.0), (1, 3))


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0.2, "0 s", "a few seconds"),
        (4, "4 s", "a few seconds"),
        (59.6, "1 min 0 s", "about 60 s"),
        (92, "1 min 32 s", "about 1.5 min"),
        (250, "4 min 10 s", "about 4 min"),
        (1500, "25 min 0 s", "about 25 min"),
        (3599, "59 min 59 s", "about 60 min"),
        (7500, "2 h 5 min", "about 2 h"),
        (8000, "2 h 13 min", "about 2 h 10 min"),
    ],
)
def test_durations_for_people(seconds: float, exact: str, rough: str):
    assert (duration(seconds), about(seconds)) == (exact, rough)


@pytest.mark.parametrize("later", [10.0, 3.0, 12.5])
def test_the_time_between_is_never_nothing(monkeypatch: pytest.MonkeyPatch, later: float):
    """On a clock that stands still or jumps back, a speed is large instead of an error."""
    monkeypatch.setattr("time.monotonic", lambda: later)
    assert elapsed(10.0) == (2.5 if later > 10 else 1e-9)
