"""`samples.jsonl`: the student's own answers as text, evenly over the steps, kept by a run that goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jobs
import pytest

from tutelage.common.metrics_log import read_metrics
from tutelage.common.types import TokenSequence
from tutelage.training import sample_log
from tutelage.training.sample_log import KEPT, SampleLog
from tutelage.training.trainer import Trainer


def sequence(author: str = "student") -> TokenSequence:
    example = jobs.sft(Path("nowhere")).examples[0]
    return dataclasses.replace(example, author=author, cut=True)  # type: ignore[arg-type]


@pytest.mark.slow
def test_answers_are_text_evenly_over_the_steps(tmp_path: Path) -> None:
    tokenizer, total, one = jobs.words(), 4 * KEPT + 1, sequence()
    log = SampleLog(tmp_path, 0, total, tokenizer)
    for step in range(1, total + 1):
        log.write(step, [sequence("data"), one] if step != 5 else [sequence("data")])  # the student wrote none
    log.close()
    lines = read_metrics(tmp_path / "samples.jsonl")
    assert [line["step"] for line in lines] == [step for step in range(1, total + 1, 4) if step != 5]
    ids = one.ids.tolist()
    assert lines[0] == {
        "step": 1,
        "row": one.index,
        "prompt": tokenizer.decode(ids[: one.prompt_length]),
        "answer": tokenizer.decode(ids[one.prompt_length :], skip_special_tokens=True),
        "cut": True,
    }
    SampleLog(tmp_path, 10, total, tokenizer).close()  # goes on from the checkpoint after step 10
    assert [line["step"] for line in read_metrics(tmp_path / "samples.jsonl")] == [1, 9]


def test_no_space_before_punctuation_is_removed(tmp_path: Path) -> None:
    class Cleaning:  # as a tokenizer does whose config says so
        def decode(self, ids: list[int], clean_up_tokenization_spaces: bool = True, **_: bool) -> str:
            return "Yes." if clean_up_tokenization_spaces else "Yes ."

    SampleLog(tmp_path, 0, 1, Cleaning()).write(1, [sequence()])
    (line,) = read_metrics(tmp_path / "samples.jsonl")
    assert (line["prompt"], line["answer"]) == ("Yes .", "Yes .")


@pytest.mark.slow
def test_a_trainer_keeps_them_where_the_student_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_log, "KEPT", 2)
    job = jobs.gkd(tmp_path, 1.0, batch_size=1)
    trainer = Trainer(job)
    seen: dict[int, str] = {}
    step = trainer.step

    def noting(number: int) -> dict:
        metrics = step(number)
        (own,) = trainer.sequences
        tokens = own.ids[own.prompt_length :].tolist()
        seen[number + 1] = job.student.tokenizer.decode(tokens, skip_special_tokens=True)
        return metrics

    monkeypatch.setattr(trainer, "step", noting)
    trainer.run()
    lines = read_metrics(tmp_path / "samples.jsonl")
    assert [(line["step"], line["answer"]) for line in lines] == [(n, seen[n]) for n in (1, 3, 5)]
    Trainer(jobs.sft(tmp_path / "sft")).run()
    assert not (tmp_path / "sft" / "samples.jsonl").exists()
