"""A GKD step at the paper's shapes on one GPU, side by side with TRL.

    python bench/step_paper.py --json docs/results/bench/step.json
    python bench/step_paper.py --device cpu --small         # tiny models, seconds

Student of Llama-3.2-1B's shape (tied head), teacher of Llama-3.1-8B's, random weights, bf16 compute with float32 master
weights and Adam states in every implementation, β = 0.5, temperature 1. Prompts are lognormal with mean about 195
tokens. No token ends a response.

`off-policy` (λ = 0): responses lognormal with median 250 and σ 0.9, cut at 2,000 tokens; 128 sequences a step.
TRL's GKDTrainer takes as many sequences a step as fit its memory (`--trl-batch`).
`on-policy` (λ = 1): 512 sampled tokens each; 128 prompts a step, sampling and weight sync included. TRL's trainers take
as many prompts a step as fit their memory; its GKDTrainer, at half a minute a step, is measured on one.

tokens/s counts prompt and response tokens, never padding; sampled tokens/s counts sampled tokens over the whole step.
The floor is arithmetic alone: 2 FLOP a teacher weight and 6 a student weight a token, at the measured matrix rate.
Every implementation runs in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from machine import ceilings, run_worker, write_results
from sampling import LLAMA_1B, TINY, prepare

LLAMA_8B = LLAMA_1B | {
    "hidden_size": 4_096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
IMPLEMENTATIONS = {
    "tutelage": ("off-policy", "on-policy"),
    "tutelage-vllm": ("on-policy",),
    "trl-gkd": ("off-policy", "on-policy"),
    "trl-distillation-vllm": ("on-policy",),
}


def make_rows(count: int, vocabulary: int, shrink: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, response) token ids."""
    rng = random.Random(0)

    def tokens(length: float, most: int) -> list[int]:
        return [rng.randrange(1, vocabulary - 1) for _ in range(max(2, min(most, round(length)) // shrink))]

    return [
        (tokens(rng.lognormvariate(math.log(160), 0.63), 1_000), tokens(rng.lognormvariate(math.log(250), 0.9), 2_000))
        for _ in range(count)
    ]


def build(shape: dict[str, Any], device: str, kind: Any, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(**shape)
    config.eos_token_id = None
    torch.set_default_dtype(kind)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = None
    return model


def models(options: argparse.Namespace) -> tuple[Any, Any]:
    import torch

    half = torch.bfloat16 if options.device == "cuda" else torch.float32
    student = build(TINY if options.small else LLAMA_1B, options.device, torch.float32, 0)
    teacher = build(TINY if options.small else LLAMA_8B, options.device, half, 1)
    return student, teacher


def tutelage_worker(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from tutelage.config import SamplingConfig, TrainingConfig
    from tutelage.model import LoadedModel
    from tutelage.objective import Divergence
    from tutelage.rollout import RolloutPlan
    from tutelage.sampler import TorchSampler
    from tutelage.teacher import Teacher
    from tutelage.trainer import Job, Trainer
    from tutelage.types import Sequence
    from tutelage.vllm_sampler import VllmSampler

    student, teacher = models(options)
    loaded = []
    for model in (student, teacher):
        prepare(model)
        ends = SimpleNamespace(end_of_turn_id=0, end_of_turn_ids=(), text="")
        loaded.append(LoadedModel(model, SimpleNamespace(pad_token_id=0), ends, True, ""))  # type: ignore[arg-type]
    on_policy = options.case == "on-policy"
    rows = make_rows(options.batch, student.config.vocab_size, 8 if options.small else 1)
    examples = []
    for index, (prompt, response) in enumerate(rows):
        ids = torch.tensor(prompt + response)
        examples.append(Sequence(index, ids, torch.arange(len(ids)) >= len(prompt), len(prompt)))
    sampler: Any = None
    if on_policy and options.worker == "tutelage-vllm":
        length = max(len(p) for p, _ in rows) + options.new_tokens
        sampler = VllmSampler(student, (), True, max_length=length, batch_size=options.batch, memory=0.25)
    elif on_policy:
        half = torch.bfloat16 if options.device == "cuda" else None
        sampler = TorchSampler(student, (), True, batch_size=options.batch, dtype=half)
    sampling = SamplingConfig(max_new_tokens=options.new_tokens, temperature=1.0, batch_size=options.batch)
    steps = options.warmup + options.steps
    config = TrainingConfig(batch_size=options.batch, epochs=steps, tokens_per_micro_batch=options.micro_batch)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            student=loaded[0],
            teacher=Teacher(loaded[1]),
            objective=Divergence(beta=0.5),
            examples=examples,
            validation=[],
            rollouts=RolloutPlan(float(on_policy), sampling, seed=0, max_length=config.max_length),
            sampler=sampler,
            config=config,
            seed=0,
            folder=Path(folder),
            fingerprint="bench",
        )
        trainer = Trainer(job)
        measured = []
        for step in range(steps):
            began = time.perf_counter()
            values = trainer.step(step)
            seconds = time.perf_counter() - began
            sampled = options.batch * values["sampled_length"] if on_policy else 0
            sampling_seconds = sampled / values["sampled_tokens_per_s"] if on_policy else 0.0
            measured.append((seconds, values["tokens"], sampled, sampling_seconds, values["loss"]))
        if options.profile:
            profile(trainer, steps, options.profile)
    return summary(measured, options)


def profile(trainer: Any, step: int, path: Path) -> None:
    """Where the device's time of one step goes, kernel by kernel."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as record:
        trainer.step(step)
    table = record.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=90)
    path.write_text(table)


def trl_worker(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback

    student, teacher = models(options)
    tokenizer = word_tokenizer(student.config.vocab_size)
    on_policy, batch = options.case == "on-policy", options.trl_batch
    steps = options.warmup + options.steps
    rows = make_rows(max(batch * steps, 16), student.config.vocab_size, 8 if options.small else 1)
    common = {
        "beta": 0.5,
        "temperature": 1.0,
        "per_device_train_batch_size": batch,
        "max_steps": steps,
        "bf16": options.device == "cuda",
        "use_cpu": options.device == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    ends: list[float] = []
    tokens: list[int] = []
    sampled: list[int] = []
    sampling_seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if options.device == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        if options.worker == "trl-gkd":
            from trl.experimental.gkd import GKDConfig, GKDTrainer

            columns = {
                "prompt": ["unused: the ids below are taken as they are"] * len(rows),
                "input_ids": [p + r for p, r in rows],
                "completion_mask": [[0] * len(p) + [1] * len(r) for p, r in rows],
            }
            config = GKDConfig(
                output_dir=folder, lmbda=float(on_policy), max_new_tokens=options.new_tokens, max_length=4096, **common
            )
            trainer: Any = GKDTrainer(
                model=student,
                teacher_model=teacher,
                args=config,
                train_dataset=Dataset.from_dict(columns),
                processing_class=tokenizer,
                callbacks=[Clock()],
            )
            generate, compute = trainer.generate_on_policy_outputs, trainer.compute_loss

            def timed_generate(*arguments: Any) -> Any:
                began = time.perf_counter()
                out = generate(*arguments)
                sampled.append(int((out[2] != -100).sum()))
                sampling_seconds.append(time.perf_counter() - began)
                return out

            def counting(model: Any, inputs: Any, *a: Any, **k: Any) -> Any:
                tokens.append(int(inputs["attention_mask"].sum()))
                return compute(model, inputs, *a, **k)

            trainer.generate_on_policy_outputs, trainer.compute_loss = timed_generate, counting
        else:
            from trl import DistillationConfig, DistillationTrainer

            student.to(torch.bfloat16).save_pretrained(f"{folder}/student")  # vLLM loads it by name
            tokenizer.save_pretrained(f"{folder}/student")
            student = student.to(torch.float32)
            student.config._name_or_path = student.name_or_path = f"{folder}/student"
            config = DistillationConfig(
                output_dir=folder,
                use_vllm=True,
                vllm_mode="colocate",
                vllm_gpu_memory_utilization=0.1,
                vllm_max_model_length=1_024 + options.new_tokens,
                max_completion_length=options.new_tokens,
                generation_kwargs={"ignore_eos": True},
                **common,
            )
            columns = {"prompt": [" ".join(f"t{t}" for t in p) for p, _ in rows]}
            trainer = DistillationTrainer(
                model=student,
                teacher_model=teacher,
                args=config,
                train_dataset=Dataset.from_dict(columns),
                processing_class=tokenizer,
                callbacks=[Clock()],
            )
            turn = trainer._generate_single_turn

            def timed_turn(prompt_ids: Any, *a: Any, **k: Any) -> Any:
                began = time.perf_counter()
                out = turn(prompt_ids, *a, **k)
                sampling_seconds.append(time.perf_counter() - began)
                sampled.append(sum(len(c) for c in out))
                tokens.append(sum(len(p) for p in prompt_ids) + sampled[-1])
                return out

            trainer._generate_single_turn = timed_turn
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    seconds = [b - a for a, b in itertools.pairwise(ends)]
    measured: list[tuple[float, float, float, float, float]] = [
        (s, tokens[i], sampled[i] if on_policy else 0, sampling_seconds[i] if on_policy else 0.0, losses[i])
        for i, s in enumerate(seconds)
    ]
    return summary(measured, options)


def word_tokenizer(vocabulary: int) -> Any:
    """`t17` is token 17: texts whose token ids are known."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"t{i}": i for i in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="t0", pad_token="t0", unk_token="t0")


def summary(measured: list[tuple[float, float, float, float, float]], options: argparse.Namespace) -> dict[str, Any]:
    kept = measured[options.warmup :]
    seconds = sum(m[0] for m in kept)
    out: dict[str, Any] = {
        "seconds": statistics.median(m[0] for m in kept),
        "tokens_per_s": sum(m[1] for m in kept) / seconds,
        "tokens": sum(m[1] for m in kept) / len(kept),
        "first_loss": measured[0][4],
    }
    if options.case == "on-policy":
        out["sampled_tokens_per_s"] = sum(m[2] for m in kept) / seconds
        out["sampling_seconds"] = statistics.median(m[3] for m in kept)
    if options.device == "cuda":
        import torch

        out["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return out


def weights(shape: dict[str, Any]) -> int:
    """Parameters that a token is multiplied with."""
    d, heads, kv, e = (shape[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"))
    layer = 3 * d * shape["intermediate_size"] + 2 * d * heads * e + 2 * d * kv * e
    return shape["vocab_size"] * d + shape["num_hidden_layers"] * layer


def start_worker(name: str, case: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    keys = ("device", "new_tokens", "warmup", "batch", "micro_batch")
    flags = [part for key in keys for part in (f"--{key.replace('_', '-')}", str(getattr(options, key)))]
    flags += ["--small"] * options.small
    if options.profile and name.startswith("tutelage"):
        flags += ["--profile", f"{options.profile}-{name}-{case}.txt"]
    steps = 1 if (name, case) == ("trl-gkd", "on-policy") else options.steps  # half a minute each
    command = [__file__, "--worker", name, "--case", case, "--steps", str(steps), "--trl-batch", str(batch), *flags]
    return run_worker(f"{name}, {case}", command)


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    forms = {
        "seconds": ".2f",
        "tokens_per_s": ",.0f",
        "sampled_tokens_per_s": ",.0f",
        "sampling_seconds": ".2f",
        "over_floor": ".2f",
        "peak_gib": ".1f",
        "first_loss": ".4f",
    }
    table = Table("implementation", "case", "batch", *forms)
    for row in rows:
        cells = ["–" if row.get(k) is None else format(row[k], f) for k, f in forms.items()]
        table.add_row(row["impl"], row["case"], str(row["batch"]), *cells)
    Console(width=150).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--batch", type=int, default=128, help="our sequences an optimizer step")
    parser.add_argument("--trl-batch", type=int, nargs="+", default=None, help="TRL's sequences a step, largest first")
    parser.add_argument("--micro-batch", type=int, default=6_144, help="our tokens a micro-batch")
    parser.add_argument("--new-tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--impl", nargs="+", choices=list(IMPLEMENTATIONS), default=list(IMPLEMENTATIONS))
    parser.add_argument("--case", nargs="+", default=["off-policy", "on-policy"])
    parser.add_argument("--small", action="store_true", help="tiny models")
    parser.add_argument("--profile", type=Path, help="write kernel tables of our steps to files of this name")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.worker:
        options.case, options.trl_batch = options.case[0], (options.trl_batch or [2])[0]
        work = trl_worker if options.worker.startswith("trl") else tutelage_worker
        options.out.write_text(json.dumps(work(options)))
        return
    measured = ceilings(options.device, options.small)
    batches = {
        ("trl-gkd", "off-policy"): options.trl_batch or [2],
        ("trl-gkd", "on-policy"): options.trl_batch or [4],
        ("trl-distillation-vllm", "on-policy"): options.trl_batch or [64, 48, 32],
    }
    per_token = 2 * weights(TINY if options.small else LLAMA_8B) + 6 * weights(TINY if options.small else LLAMA_1B)
    rows = []
    for case in options.case:
        for name in options.impl:
            missing = [p for p in ("trl", "vllm") if p in name and importlib.util.find_spec(p) is None]
            if case not in IMPLEMENTATIONS[name] or missing:
                continue
            for batch in batches.get((name, case), [options.batch]):
                result = start_worker(name, case, batch, options)
                if "seconds" in result and case == "off-policy":
                    result["over_floor"] = measured["flops"] / (per_token * result["tokens_per_s"])
                rows.append({"impl": name, "case": case, "batch": batch, **result})
                print(f"{name}, {case}, {batch}: {result}", file=sys.stderr, flush=True)
                if options.json:
                    write_results(options.json, options.device, measured, rows)
                if "error" not in result:
                    break  # the largest batch that fits
    show(rows)


if __name__ == "__main__":
    main()
