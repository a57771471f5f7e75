r"""A GKD step at the paper's shapes on one GPU, in Tutelage and in TRL.

    python -m bench.step.paper --json docs/results/bench/step.json
    python -m bench.step.paper --device cpu --small         # tiny models, seconds

The student has the shape of Llama-3.2-1B (tied head), the teacher that of Llama-3.1-8B; random weights, bf16 compute,
β = 0.5, temperature 1. Tutelage holds float32 weights and Adam states; TRL's trainers run in each of `--trl-setups`:
weights and Adam states in float32 (their default) or bfloat16, with gradient checkpointing (their default) or without.
Prompts are lognormal with mean about 195 tokens. No token ends a response.

`off-policy` (λ = 0; `mixed`: 0.5): responses lognormal with median 250 and σ 0.9, cut at 2,000 tokens; 128 sequences
per step. `on-policy` (λ = 1): 512 sampled tokens each; 128 prompts per step, sampling and weight sync included.
TRL's trainers take as many sequences per micro-batch as fit the memory (`--trl-batch`, largest first) and accumulate to
128; GKDTrainer on-policy, which takes half a minute to sample one micro-batch, is measured on one.

tokens/s counts prompt and response tokens, never padding; sampled tokens/s counts sampled tokens over the whole step.
The floor is arithmetic alone: per token 2 FLOP for each teacher weight and 6 for each student weight (4 with `--lora`),
at the measured rate of matrix products. An 8B student beside an 8B teacher on a card of 24 GB:

    python -m bench.step.paper --impl tutelage --student 8b --lora 16 --student-base nf4 --teacher-precision nf4 \
        --checkpointing --micro-batch 4096 --batch 16

A 70B teacher in float8 beside a 3B student, whose layers are made and quantised one by one, on one card of 139 GiB:

    python -m bench.step.paper --impl tutelage --student 3b --teacher 70b --teacher-precision float8 --compile on \
        --checkpointing --micro-batch 4096 --slots 32 --case off-policy mixed

`--compute float32` and `--compile on` choose other paths of Tutelage; rows name them (`precision`, `compile`).
`--profile PREFIX` prints where a step's time goes. Every implementation runs in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.common import ceilings, run_worker, write_results
from bench.sampling import prepare
from bench.step.kernels import profile
from bench.step.kernels import show as show_profile
from bench.step.paper_trl import trl_worker
from bench.step.paper_work import (
    SHARES,
    as_loaded,
    compute_of,
    make_models,
    make_rows,
    make_student,
    student_shape,
    summary,
    teacher_shape,
    weights,
)

IMPLEMENTATIONS = {
    "tutelage": ("off-policy", "mixed", "on-policy"),
    "tutelage-vllm": ("on-policy",),
    "trl-gkd": ("off-policy", "on-policy"),
    "trl-distillation-vllm": ("on-policy",),
}
SETUPS = ["bfloat16/off", "float32/off", "float32/on", "bfloat16/on"]


def tutelage_worker(
    options: argparse.Namespace, sharded: bool = False, elsewhere: Callable[[list[Any]], Any] | None = None
) -> dict[str, Any]:
    """Measure steps of Tutelage. `sharded`: each rank holds its shards of both models. `elsewhere`: gives a teacher for
    these examples, in place of one in this process."""
    import torch
    from accelerate import PartialState

    from tutelage.common.types import TokenSequence
    from tutelage.loss.objective import Divergence
    from tutelage.models.sharding import shard
    from tutelage.recipe.sections import SamplingConfig, TrainingConfig
    from tutelage.sampling.torch_sampler import TorchSampler
    from tutelage.sampling.vllm_sampler import VllmSampler
    from tutelage.teachers.local import LocalTeacher
    from tutelage.training.job import Job
    from tutelage.training.on_policy import RolloutPlan
    from tutelage.training.trainer import Trainer

    half = torch.bfloat16 if compute_of(options) in ("bfloat16", "pure_bfloat16") else None
    where = None
    if sharded:  # the first rank has the weights, on the CPU where a GPU cannot hold them
        where = "meta" if PartialState().process_index else "cpu" if options.teacher == "70b" else None
    student, teacher = (make_student(options), None) if elsewhere else make_models(options, where)
    for model in dict.fromkeys(filter(None, (student, teacher))):
        prepare(model)
        if sharded:
            shard(model, PartialState().device, half if model is student else None)
    loaded = [as_loaded(model) for model in filter(None, (student, teacher))]
    on_policy = SHARES[options.case]
    rows = make_rows(options.batch, student.config.vocab_size, 8 if options.small else 1)
    examples = []
    for index, (prompt, response) in enumerate(rows):
        ids = torch.tensor(prompt + response)
        examples.append(TokenSequence(index, ids, torch.arange(len(ids)) >= len(prompt), len(prompt)))
    sampler: Any = None
    if on_policy and options.worker == "tutelage-vllm":
        length = max(len(p) for p, _ in rows) + options.new_tokens
        sampler = VllmSampler(student, (), True, max_length=length, batch_size=options.batch, memory=0.25)
    elif on_policy:
        sampler = TorchSampler(student, (), True, batch_size=options.slots or options.batch, dtype=half)
    sampling = SamplingConfig(max_new_tokens=options.new_tokens, temperature=1.0, batch_size=options.batch)
    steps = options.warmup + options.steps
    config = TrainingConfig(batch_size=options.batch, epochs=steps, tokens_per_micro_batch=options.micro_batch)
    switches = {"precision": compute_of(options), "compile": options.compile, "optimizer": options.optimizer}
    config = config.model_copy(update={"gradient_checkpointing": options.checkpointing, **switches})
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            student=loaded[0],
            teacher=elsewhere(examples) if elsewhere else LocalTeacher(loaded[1], shared=options.shared_base),
            objective=Divergence(beta=0.5),
            examples=examples,
            validation=[],
            rollouts=RolloutPlan(on_policy, sampling, seed=0, max_length=config.max_length),
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
            sampled = options.batch * values["on_policy"] * values["sampled_length"] if on_policy else 0
            sampling_seconds = sampled / values["sampled_tokens_per_s"] if on_policy else 0.0
            measured.append((seconds, values["tokens"], sampled, sampling_seconds, values["loss"]))
        result = summary(measured, options)
        if options.profile:
            result["profile"] = profile(lambda: trainer.step(steps), trainer.device.type, options.profile)
        return result


def start_worker(name: str, case: str, batch: int, setup: str, options: argparse.Namespace) -> dict[str, Any]:
    keys = ("device", "new_tokens", "warmup", "batch", "micro_batch", "slots")
    flags = [part for key in keys for part in (f"--{key.replace('_', '-')}", str(getattr(options, key)))]
    flags += ["--small"] * options.small + ["--checkpointing"] * options.checkpointing
    if name.startswith("tutelage"):
        flags += ["--student", options.student, "--lora", str(options.lora), "--student-base", options.student_base]
        flags += ["--teacher-precision", options.teacher_precision] + ["--shared-base"] * options.shared_base
        flags += ["--teacher", options.teacher, "--compute", compute_of(options), "--compile", options.compile]
    if options.profile and name.startswith("tutelage"):
        flags += ["--profile", f"{options.profile}-{name}-{case}"]
    slow = (name, case) == ("trl-gkd", "on-policy")  # half a minute per micro-batch
    flags += ["--steps", str(1 if slow else options.steps)]
    if name.startswith("trl"):
        weights, checkpointing = setup.split("/")
        flags += ["--trl-weights", weights, "--trl-checkpointing", checkpointing, "--trl-batch", str(batch)]
        flags += ["--trl-sequences", str(batch if slow else options.batch)]
    command = ["-m", "bench.step.paper", "--worker", name, "--case", case, *flags]
    # Without it TRL's trainer runs out of memory at 64 sequences, with 8 GiB reserved and unused.
    allocator = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"} if name.startswith("trl") else {}
    return run_worker(f"{name}, {case} {setup}", command, allocator)


def kinds_of(name: str, setup: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row's shapes, `precision`, in which products are computed and what a quantised teacher holds, `weights`: what
    is trained, in its type, and `compile`."""
    shapes: dict[str, Any] = {"student": options.student}
    shapes["teacher"] = options.student if options.shared_base else options.teacher
    if name.startswith("trl"):
        half = "bfloat16" if options.device == "cuda" else "float32"
        return shapes | {"precision": half, "weights": setup.partition("/")[0], "compile": "off"}
    half = compute_of(options)
    base = options.student_base if options.student_base != "bfloat16" else half
    weights = f"float32 adapter of rank {options.lora} on {base}" if options.lora else "float32"
    quantised = options.student_base if options.shared_base else options.teacher_precision
    precision = half if quantised == "bfloat16" else f"{half}, teacher {quantised}"
    shapes |= {"micro_batch": options.micro_batch} | ({"checkpointing": True} if options.checkpointing else {})
    return shapes | {"precision": precision, "weights": weights, "compile": options.compile}


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
    table = Table("implementation", "case", "weights/checkpointing", "precision", "compile", "batch", *forms)
    for row in rows:
        cells = ["–" if row.get(k) is None else format(row[k], f) for k, f in forms.items()]
        kinds = (row.get("setup", ""), row["precision"], row["compile"], str(row["batch"]))
        table.add_row(row["impl"], row["case"], *kinds, *cells)
    Console(width=170).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--batch", type=int, default=128, help="sequences per optimizer step")
    parser.add_argument("--trl-batch", type=int, nargs="+", help="TRL's sequences per micro-batch, largest first")
    parser.add_argument(
        "--trl-setups", nargs="+", choices=SETUPS, default=SETUPS, help="TRL's weights/gradient checkpointing"
    )
    parser.add_argument("--slots", type=int, default=0, help="rows that are decoded at a time; default: all")
    parser.add_argument("--micro-batch", type=int, default=6_144, help="tokens per micro-batch of Tutelage")
    parser.add_argument("--new-tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--impl", nargs="+", choices=list(IMPLEMENTATIONS), default=list(IMPLEMENTATIONS))
    parser.add_argument("--case", nargs="+", choices=list(SHARES), default=["off-policy", "on-policy"])
    parser.add_argument("--small", action="store_true", help="tiny models")
    parser.add_argument("--student", choices=["1b", "3b", "8b"], default="1b", help="shape of the student")
    parser.add_argument("--teacher", choices=["8b", "70b"], default="8b", help="shape of the teacher")
    parser.add_argument("--compute", choices=["bfloat16", "float32"], help="default: bfloat16 on a GPU, else float32")
    parser.add_argument("--compile", choices=["on", "off"], default="off", help="compile the layers of both models")
    parser.add_argument("--lora", type=int, default=0, help="rank of an adapter on all linear maps; 0: all weights")
    parser.add_argument("--student-base", choices=["bfloat16", "nf4"], default="bfloat16", help="frozen, with --lora")
    parser.add_argument(
        "--teacher-precision", choices=["bfloat16", "float8", "int8", "nf4"], default="bfloat16", help="of the layers"
    )
    parser.add_argument("--shared-base", action="store_true", help="with --lora: the teacher is the frozen student")
    parser.add_argument("--checkpointing", action="store_true", help="recompute Tutelage's activations")
    parser.add_argument("--profile", type=Path, help="profile one more step of Tutelage; files get this prefix")
    parser.set_defaults(optimizer="adamw")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--trl-weights", help=argparse.SUPPRESS)
    parser.add_argument("--trl-checkpointing", help=argparse.SUPPRESS)
    parser.add_argument("--trl-sequences", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if (options.teacher, options.teacher_precision, options.small) == ("70b", "bfloat16", False):
        parser.error("--teacher 70b takes 141 GB in bfloat16: add --teacher-precision float8 (or int8, nf4)")
    return options


def main() -> None:
    options = parse()
    if options.worker:
        options.case, options.trl_batch = options.case[0], (options.trl_batch or [2])[0]
        work = trl_worker if options.worker.startswith("trl") else tutelage_worker
        options.out.write_text(json.dumps(work(options)))
        return
    measured = ceilings(options.device, options.small)
    batches = {
        ("trl-gkd", "off-policy"): options.trl_batch or [8, 4, 2],
        ("trl-gkd", "on-policy"): options.trl_batch or [16, 8, 4],
        ("trl-distillation-vllm", "on-policy"): options.trl_batch or [128, 64, 32],
    }
    student, teacher = student_shape(options), teacher_shape(options)
    per_token = 2 * weights(teacher) + (4 if options.lora else 6) * weights(student)
    rows = []
    for case in options.case:
        for name in options.impl:
            missing = [p for p in ("trl", "vllm") if p in name and importlib.util.find_spec(p) is None]
            if case not in IMPLEMENTATIONS[name] or missing:
                continue
            for setup in options.trl_setups if name.startswith("trl") else [""]:
                for batch in batches.get((name, case), [options.batch]):
                    result = start_worker(name, case, batch, setup, options)
                    if "seconds" in result and case == "off-policy":
                        result["over_floor"] = measured["flops"] / (per_token * result["tokens_per_s"])
                    rows.append({"impl": name, "case": case, "batch": batch, **({"setup": setup} if setup else {})})
                    if "profile" in result:
                        show_profile(result.pop("profile"), f"{name}, {case}")
                    rows[-1] |= kinds_of(name, setup, options) | result
                    print(f"{name}, {case}, {setup} {batch}: {result}", file=sys.stderr, flush=True)
                    if options.json:
                        write_results(options.json, options.device, measured, rows)
                    if "error" not in result:
                        break  # the largest batch that fits
    show(rows)


if __name__ == "__main__":
    main()
