"""The `answers` run of a SeqKD stage: the teacher answers each prompt several times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tutelage.common.progress import progress
from tutelage.common.time_left import elapsed
from tutelage.common.types import Message, TokenSequence
from tutelage.models.load import LoadedModel, load_shape
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
    """By row, counted through all sections: the messages to answer, up to the last question that student and teacher
    read: within `max_length` the student's tokens, and within each model's context its own.

    Also the sources of the rows without such a question, and of those whose last question it is not.
    """
    readers: list[tuple[LoadedModel, int | None]] = [(teacher, run.max_length)]
    if run.answers_for is not None:
        readers = [(load_shape(run.answers_for), run.max_length), (teacher, None)]
    questions: dict[int, tuple[Message, ...]] = {}
    too_long: list[str] = []
    last_turns_cut: list[str] = []
    offset = 0
    for name in run.data:
        parts = [encoded(run, name, reader, length) for reader, length in readers]
        rows, turns = parts[0].conversations, [_turns(part.sequences) for part in parts]
        too_long += dict.fromkeys(source for part in parts for source in part.report["too_long"])
        shorter = {source for part in parts for source in part.report["last_turns_cut"]}
        for row in sorted(turns[0].keys() & turns[-1].keys()):
            read, source = turns[0][row] & turns[-1][row], rows[row].source
            if read:
                questions[offset + row] = rows[row].messages[: max(read)]
            if source in shorter:
                (last_turns_cut if read else too_long).append(source)
        offset += len(rows)
    return questions, too_long, last_turns_cut


def _turns(sequences: Sequence[TokenSequence]) -> dict[int, set[int]]:
    """By row: the assistant turns of which a token fits."""
    turns: dict[int, set[int]] = {}
    for sequence in sequences:
        turns.setdefault(sequence.index, set()).update(sequence.turns)
    return turns
