"""The `evaluate` run: a model answers a task of the recipe."""

from __future__ import annotations

from typing import Any

import torch

from tutelage.common.progress import progress
from tutelage.data.dataset import load_dataset
from tutelage.evaluation.records import summarise, write_records
from tutelage.evaluation.tasks import evaluate_generation, lead_1_records
from tutelage.models.load import load_model
from tutelage.recipe.sections import TaskConfig
from tutelage.runs.run import Run
from tutelage.sampling.make_sampler import make_sampler


def evaluate(run: Run) -> dict[str, Any]:
    """Let the run's model answer the task's rows, and score its answers; returns the content of result.json.

    Writes one record per example. The subject `lead_1` needs no model: its answer is the first utterance.
    """
    task: TaskConfig = run.config
    data = load_dataset(task.data, run.data[task.data], run.recipe_folder, require_response=False)
    if run.subject == "lead_1":
        records = lead_1_records(run.task, task, data.conversations)
    else:
        kind = torch.bfloat16 if run.device == "cuda" else torch.float32
        loaded = load_model(run.models["model"], run.device, kind)
        sampler = make_sampler(loaded, task.sampling)
        with progress(run.stage, len(data.conversations)) as bar:

            def advance(done: int, _total: int) -> None:
                bar.advance(done - bar.done)

            records = evaluate_generation(
                run.task, task, data.conversations, loaded.template, sampler, run.seed, advance
            )
    write_records(run.folder, records)
    return summarise(records, list(task.metrics), task.headline_metric, task=run.task, model=run.subject, seed=run.seed)
