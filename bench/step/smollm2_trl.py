"""One GKD step in TRL's GKDTrainer, for `smollm2.py`, and the clock that times steps of transformers' trainers."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

from bench.common import synchronize


def clock(ends: list[float], device: str) -> Any:
    """A callback that appends to `ends` the time at which training begins and each step ends."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize(device)
            ends.append(time.perf_counter())

    return Clock()


def trl_worker(folder: Path, on_policy: float, options: argparse.Namespace, checkpointing: bool) -> dict[str, Any]:
    """Like `tutelage_worker` of `smollm2.py`, for TRL's GKDTrainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl.experimental.gkd import GKDTrainer

    student, teacher = (
        AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32) for name in ("student", "teacher")
    )
    work = json.loads((folder / "work.json").read_text())
    columns = {
        "prompt": ["unused: the ids below are taken as they are"] * len(work),
        "input_ids": [row["prompt"] + row["response"] for row in work],
        "completion_mask": [[0] * len(row["prompt"]) + [1] * len(row["response"]) for row in work],
    }
    config = _config(folder, on_policy, len(work), options, checkpointing)
    ends: list[float] = []
    trainer = GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(folder / "student"),
        callbacks=[clock(ends, options.device)],
    )
    trainer.remove_callback(PrinterCallback)
    sampled: list[int] = []
    sampling_seconds: list[float] = []
    generate = trainer.generate_on_policy_outputs

    def timed_generate(*arguments: Any) -> Any:
        began = time.perf_counter()
        out = generate(*arguments)
        synchronize(options.device)
        sampling_seconds.append(time.perf_counter() - began)
        sampled.append(int((out[2] != -100).sum()))
        return out

    trainer.generate_on_policy_outputs = timed_generate  # type: ignore[method-assign]
    trainer.train()
    return {
        "seconds": [after - before for before, after in itertools.pairwise(ends)],
        "sampled": sampled[-1] if sampled else 0,
        "sampling_seconds": sampling_seconds,
        "loss": trainer.state.log_history[0]["loss"],
    }


def _config(folder: Path, on_policy: float, batch: int, options: argparse.Namespace, checkpointing: bool) -> Any:
    from trl.experimental.gkd import GKDConfig

    return GKDConfig(
        output_dir=str(folder / "trl"),
        lmbda=on_policy,
        beta=0.5,
        temperature=1.0,
        max_new_tokens=options.new_tokens,
        per_device_train_batch_size=batch,
        max_steps=options.warmup + options.steps,
        learning_rate=5e-6,
        bf16=options.precision == "bfloat16",
        use_cpu=options.device == "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **({} if checkpointing else {"gradient_checkpointing": False}),
    )
