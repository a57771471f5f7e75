"""The `answers` run of a SeqKD stage: the teacher answers each prompt several times."""

from __future__ import annotations

import time
from typing import Any

from tutelage.common.progress import progress
from tutelage.common.time_left import elapsed
from tutelage.common.types import Message
from tutelage.data.encode_rows import messages_asked
from tutelage.models.load import LoadedModel
from tutelage.recipe.stages import SeqkdStage
from tutelage.runs.run import Run
from tutelage.runs.stages.encode import encoded
from tutelage.sampling.make_sampler import load_to_write, make_sampler
from tutelage.training.teacher_answers import answer_summary, read_answers, write_answers


def write_teacher_answers(run: Run) -> dict[str, Any]:
    """Sample the answers that a seqkd stage trains on (`training/teacher_answers.py`) into the run's folder.

    Goes on from the answers that are there already. Returns the content of result.json.
    """
    stage: SeqkdStage = run.config
    loaded = load_to_write(run.models["teacher"], run.device, stage.sampling.batch_size)
    loaded.tokenizer.save_pretrained(run.folder / "tokenizer")
    questions, too_long, last_turns_cut = _questions(run, loaded)
    sampler = make_sampler(loaded, stage.sampling)
    began, before = time.monotonic(), len(read_answers(run.folder))
    with progress(run.stage, len(questions) * stage.samples_per_prompt, unit="answers") as bar:
        answers = write_answers(
            run.folder, questions, loaded.template, sampler, stage.sampling, stage.samples_per_prompt, run.seed, bar
        )  # fmt: skip
    seconds, new = elapsed(began), answers[before:]
    speed = sum(len(answer.tokens) for answer in new) / seconds if new else None
    return {
        "kind": "answers",
        "stage": run.stage,
        "seed": run.seed,
        "teacher_ends": list(loaded.template.end_of_turn_ids),
        "tokens_per_s": speed,
        "too_long": too_long,
        "last_turns_cut": last_turns_cut,
        **answer_summary(answers),
    }


def _questions(run: Run, teacher: LoadedModel) -> tuple[dict[int, tuple[Message, ...]], list[str], list[str]]:
    """By row, counted through all sections: the messages to answer, which fit into the run's `max_length`.

    Also the sources of the rows that do not fit at all, and of those whose last turns do not.
    """
    assert run.max_length is not None
    questions: dict[int, tuple[Message, ...]] = {}
    too_long: list[str] = []
    last_turns_cut: list[str] = []
    offset = 0
    for name in run.data:
        part = encoded(run, name, teacher, run.max_length)
        for sequence in part.sequences:
            questions[offset + sequence.index] = messages_asked(part.conversations[sequence.index], sequence)
        offset += len(part.conversations)
        too_long += part.report["too_long"]
        last_turns_cut += part.report["last_turns_cut"]
    return questions, too_long, last_turns_cut
