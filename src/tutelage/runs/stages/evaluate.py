"""The `evaluate` run: a model answers a task of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tutelage.common import run_folder
from tutelage.common.errors import TutelageError
from tutelage.common.progress import progress, tell
from tutelage.common.types import Conversation
from tutelage.data.dataset import bad_rows_note, load_dataset, repeated_note
from tutelage.data.encode_rows import prompt_notes
from tutelage.evaluation.records import ExampleRecord, read_records, write_records
from tutelage.evaluation.tasks import evaluate_generation, lead_1_records, score_response, task_result
from tutelage.recipe.sections import TaskConfig
from tutelage.runs.run import Run
from tutelage.runs.stages.earlier import earlier_folders
from tutelage.sampling.make_sampler import load_to_write, make_sampler


def evaluate(run: Run) -> dict[str, Any]:
    """Let the run's model answer the task's rows, and score its answers; returns the content of result.json.

    Writes one record per example. The subject `lead_1` needs no model: its answer is the first utterance.
    """
    task: TaskConfig = run.config
    data = load_dataset(task.data, run.data[task.data], run.recipe_folder, require_response=False)
    for note in [*bad_rows_note(data), *repeated_note(data)]:
        tell(f"data.{task.data}: {note}", run.stage, cause=f"{run.data[task.data].path}: {note}")
    kept = _answers_of_an_earlier_reading(run, data.conversations)
    if run.subject == "lead_1":
        records = lead_1_records(run.task, task, data.conversations)
    elif kept is not None:
        tell("the kept answers were scored by today's reading", run.stage)
        records = [
            score_response(row, old.response, task.metrics, finished=old.finished, tokens=old.tokens)
            for row, old in zip(data.conversations, kept, strict=True)
        ]
    else:
        loaded = load_to_write(run.models["model"], run.device, task.sampling.batch_size)
        for note in prompt_notes(loaded.template, data.conversations):
            tell(f"data.{task.data}: {note}", run.stage)
        sampler = make_sampler(loaded, task.sampling)
        with progress(run.stage, len(data.conversations), unit="answers") as bar:

            def advance(done: int, _total: int) -> None:
                bar.advance(done - bar.done)

            records = evaluate_generation(
                run.task, task, data.conversations, loaded.template, sampler, run.seed, advance, loaded
            )
    write_records(run.folder, records)
    return task_result(run.task, run.subject, run.seed, task, records)


def _answers_of_an_earlier_reading(run: Run, rows: Sequence[Conversation]) -> list[ExampleRecord] | None:
    """The records of a finished run that sampled the same answers, in the order of the rows; None without one."""
    for folder in earlier_folders(run):
        if not run_folder.is_done(folder):
            continue
        try:
            records = {record.id: record for record in read_records(folder)}
        except TutelageError:
            continue
        if set(records) == {row.id for row in rows}:
            return [records[row.id] for row in rows]
    return None
