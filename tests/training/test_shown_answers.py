"""The answers that are shown while a student trains: when, which, and that nothing else depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from recipes_fixture import Workshop

from tutelage.cli.main import main
from tutelage.common.progress import whole
from tutelage.common.types import TokenSequence
from tutelage.training.shown_answers import Asked, ShownAnswers


@dataclass
class Answers:
    """What a student answers, in turn; each answer takes a second."""

    texts: list[str]
    clock: list[float]

    def __call__(self, asked: Asked) -> str:
        assert asked == ASKED
        self.clock[0] += 1.0
        return self.texts.pop(0)


ASKED = Asked((1, 2), "What\n  now?", "Nothing.")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_an_answer_every_so_often_and_at_the_end(clock: list[float], capsys: pytest.CaptureFixture[str]):
    with whole("mine"):
        watch = ShownAnswers(None, ASKED, 20, may_sample=True)  # type: ignore[arg-type]
        watch._answer = Answers(["no", "no", "yes", "yes", "yes"], clock)  # type: ignore[method-assign]
        for step in range(1, 21):
            clock[0] += 6.0
            watch.look(step, ())
    assert [line.split(None, 2) for line in capsys.readouterr().out.splitlines()] == [
        ["asked", "What", "now?"],
        ["wanted", "Nothing."],
        ["step", "3", "no"],  # after 15 s; then 30 s, for an answer took 1; step 8 said the same, as did step 18
        ["step", "13", "yes"],
        ["step", "20", "yes"],
    ]


def test_on_a_gpu_a_response_of_the_step_is_shown(clock: list[float], capsys: pytest.CaptureFixture[str]):
    class Template:
        @staticmethod
        def decode(ids: list[int]) -> str:
            return f"tokens {ids}"

    class Student:
        template = Template

    ids, mask = torch.tensor([5, 6, 7, 8]), torch.tensor([False, False, True, True])
    rows = [TokenSequence(0, ids, mask, 2), TokenSequence(1, ids, mask, 2, author="student")]
    with whole("mine"):
        watch = ShownAnswers(Student, ASKED, 2, may_sample=False)  # type: ignore[arg-type]
        clock[0] += 20.0
        watch.look(1, rows[:1])
        assert capsys.readouterr().out == ""
        watch.look(1, rows)
    assert capsys.readouterr().out.split(None, 2) == ["step", "1", "tokens [7, 8]\n"]


def test_without_a_whole_or_without_texts_nothing_is_asked(clock: list[float]):
    def never(_: Asked) -> str:
        raise AssertionError

    alone: Any = ShownAnswers(None, ASKED, 1, may_sample=True)  # type: ignore[arg-type]
    with whole("mine", texts=False):
        silent: Any = ShownAnswers(None, ASKED, 1, may_sample=True)  # type: ignore[arg-type]
    for watch in (alone, silent):
        watch._answer = never
        watch.look(1, ())


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_run_shows_them_and_trains_the_same_without(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    file, weights = str(workshop.write()), []
    for runs, options in (("with", []), ("without", ["--no-text"])):
        main(["run", file, "--runs", str(workshop.folder / runs), *options])
        out = capsys.readouterr().out
        assert ("    asked      The " in out) == ("    wanted     The dog ran." in out) == (runs == "with")
        files = sorted((workshop.folder / runs).glob("*/model/model.safetensors"))
        weights.append([(path.parts[-3], path.read_bytes()) for path in files])
    assert weights[0] == weights[1] != []
