"""The `answers` run of a SeqKD stage: the teacher answers each prompt several times."""

from __future__ import annotations

import time
from typing import Any

import torch

from tutelage.common.progress import progress
from tutelage.data.dataset import load_dataset
from tutelage.models.load import load_model
from tutelage.recipe.stages import SeqkdStage
from tutelage.runs.run import Run
from tutelage.sampling.make_sampler import make_sampler
from tutelage.training.teacher_answers import answer_summary, read_answers, write_answers


def write_teacher_answers(run: Run) -> dict[str, Any]:
    """Sample the answers that a seqkd stage trains on (`training/teacher_answers.py`) into the run's folder.

    Goes on from the answers that are there already. Returns the content of result.json.
    """
    stage: SeqkdStage = run.config
    conversations = [
        c for name in run.data for c in load_dataset(name, run.data[name], run.recipe_folder).conversations
    ]
    loaded = load_model(run.models["teacher"], run.device, torch.bfloat16 if run.device == "cuda" else torch.float32)
    loaded.tokenizer.save_pretrained(run.folder / "tokenizer")
    sampler = make_sampler(loaded, stage.sampling)
    began, before = time.monotonic(), len(read_answers(run.folder))
    with progress(run.stage, len(conversations) * stage.samples_per_prompt) as bar:
        answers = write_answers(
            run.folder, conversations, loaded.template, sampler, stage.sampling, stage.samples_per_prompt, run.seed, bar
        )  # fmt: skip
    seconds, new = time.monotonic() - began, answers[before:]
    speed = sum(len(answer.tokens) for answer in new) / seconds if new else None
    return {
        "kind": "answers",
        "stage": run.stage,
        "seed": run.seed,
        "teacher_ends": list(loaded.template.end_of_turn_ids),
        "tokens_per_s": speed,
        **answer_summary(answers),
    }
