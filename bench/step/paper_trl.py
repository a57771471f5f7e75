"""TRL's trainers on the work of `paper.py`: GKDTrainer, and DistillationTrainer sampling with vLLM.

Each runs in the setups that its users choose between: the student's weights and Adam states in bfloat16 or float32,
with gradient checkpointing (the trainers' default, which turns off the cache when GKDTrainer samples) or without.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

from bench.step.paper_work import Measured, make_models, make_rows, summary
from bench.step.smollm2_trl import clock


@dataclass
class Record:
    """What a trainer did. An optimizer step has several micro-batches, so work is dated and summed per step."""

    ends: list[float] = field(default_factory=list)  # of the optimizer steps; first, the beginning of training
    work: list[tuple[float, int, int, float]] = field(default_factory=list)  # when, tokens, sampled, seconds sampling

    def steps(self) -> list[tuple[float, int, int, float]]:
        """Seconds, tokens, sampled tokens and seconds of sampling per optimizer step."""
        out = []
        for began, end in itertools.pairwise(self.ends):
            parts = [w for w in self.work if began < w[0] <= end]
            out.append((end - began, sum(w[1] for w in parts), sum(w[2] for w in parts), sum(w[3] for w in parts)))
        return out


def trl_worker(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from transformers import PrinterCallback

    student, teacher = make_models(options)
    if options.trl_weights == "bfloat16":
        student = student.to(torch.bfloat16)
    tokenizer = word_tokenizer(student.config.vocab_size)
    batch, steps = options.trl_batch, options.warmup + options.steps
    accumulation = max(1, math.ceil(options.trl_sequences / batch))
    rows = make_rows(max(batch * accumulation * steps, 16), student.config.vocab_size, 8 if options.small else 1)
    common = {
        "beta": 0.5,
        "temperature": 1.0,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_checkpointing": options.trl_checkpointing == "on",
        "max_steps": steps,
        "bf16": options.device == "cuda",
        "use_cpu": options.device == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    make, record = gkd_trainer if options.worker == "trl-gkd" else distillation_trainer, Record()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(student, teacher, tokenizer, rows, {"output_dir": folder, **common}, record, options)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    measured: list[Measured] = [(*step, loss) for step, loss in zip(record.steps(), losses, strict=True)]
    return summary(measured, options)


def gkd_trainer(
    student: Any,
    teacher: Any,
    tokenizer: Any,
    rows: list[tuple[list[int], list[int]]],
    common: dict[str, Any],
    record: Record,
    options: argparse.Namespace,
) -> Any:
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    columns = {
        "prompt": ["unused: the trainer gets the ids below"] * len(rows),
        "input_ids": [p + r for p, r in rows],
        "completion_mask": [[0] * len(p) + [1] * len(r) for p, r in rows],
    }
    on_policy = float(options.case == "on-policy")
    trainer: Any = GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=GKDConfig(lmbda=on_policy, max_new_tokens=options.new_tokens, max_length=4096, **common),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
        callbacks=[clock(record.ends, options.device)],
    )
    generate, compute = trainer.generate_on_policy_outputs, trainer.compute_loss

    def timed_generate(*arguments: Any) -> Any:
        began = time.perf_counter()
        out = generate(*arguments)
        sampled = int((out[2] != -100).sum())
        now = time.perf_counter()
        record.work.append((now, 0, sampled, now - began))
        return out

    def counting(model: Any, inputs: Any, *a: Any, **k: Any) -> Any:
        record.work.append((time.perf_counter(), int(inputs["attention_mask"].sum()), 0, 0.0))
        return compute(model, inputs, *a, **k)

    trainer.generate_on_policy_outputs, trainer.compute_loss = timed_generate, counting
    return trainer


def distillation_trainer(
    student: Any,
    teacher: Any,
    tokenizer: Any,
    rows: list[tuple[list[int], list[int]]],
    common: dict[str, Any],
    record: Record,
    options: argparse.Namespace,
) -> Any:
    import torch
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    path = f"{common['output_dir']}/student"
    student.to(torch.bfloat16).save_pretrained(path)  # vLLM loads it by name
    tokenizer.save_pretrained(path)
    student = student.to(getattr(torch, options.trl_weights))
    student.config._name_or_path = student.name_or_path = path
    config = DistillationConfig(
        use_vllm=True,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.1,
        vllm_max_model_length=1_024 + options.new_tokens,
        max_completion_length=options.new_tokens,
        generation_kwargs={"ignore_eos": True},
        **common,
    )
    trainer: Any = DistillationTrainer(
        model=student,
        teacher_model=teacher,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": [" ".join(f"t{t}" for t in p) for p, _ in rows]}),
        processing_class=tokenizer,
        callbacks=[clock(record.ends, options.device)],
    )
    turn = trainer._generate_single_turn

    def timed_turn(prompt_ids: Any, *a: Any, **k: Any) -> Any:
        began = time.perf_counter()
        out = turn(prompt_ids, *a, **k)
        now, sampled = time.perf_counter(), sum(len(c) for c in out)
        record.work.append((now, sum(len(p) for p in prompt_ids) + sampled, sampled, now - began))
        return out

    trainer._generate_single_turn = timed_turn
    return trainer


def word_tokenizer(vocabulary: int) -> Any:
    """A tokenizer in which `t17` is token 17, for texts with known token ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"t{i}": i for i in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="t0", pad_token="t0", unk_token="t0")
