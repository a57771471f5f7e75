"""The output head and the loss, forward and backward, of several implementations on the same tensors.

    python -m bench.loss --device cuda --json docs/results/bench/loss.json
    python -m bench.loss --device cuda --tune          # time other sizes of the Triton path
    python -m bench.loss --device cpu                  # a tiny version, seconds

Work: N = 16,384 tokens, student D = 2,048, teacher D = 4,096, V = 128,256, bf16, the mean over the tokens; gradients of
the student's hidden states and head. The floor is the matrix products alone, 2·N·V·(3·D + D_teacher) FLOP at the
rate measured first. `peak_gib`: peak memory beyond the inputs and the returned gradients. `tutelage` computes the
loss and its gradients like the peers, `tutelage-statistics` also the six per-token values that training logs,
`tutelage-torch` is the reference path.

Errors are relative to float64 on the same bf16 inputs (`exact` in loss_problem.py), at 256 tokens: `random` has
independent logits of standard deviation 2, `peaked` of 8, `near` a teacher whose logits are the student's plus noise of
standard deviation 0.1. The error of a gradient is the norm of the difference over the norm.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.common import ceilings, seconds_of, write_results
from bench.loss_peers import IMPLEMENTATIONS, NEEDS, tutelage
from bench.loss_problem import PAIRS, Problem, exact, make_problem, relative, solve
from bench.step.kernels import profile
from bench.step.kernels import show as show_profile

CASES = {"jsd 0.5": 0.5, "forward_kl": 0.0, "cross_entropy": None}  # β, or no teacher
SHAPES = {"cuda": (16_384, 2_048, 4_096, 128_256, 256), "cpu": (16, 32, 48, 500, 6)}  # N, D, D_teacher, V, N of errors


def release(device: str) -> None:
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(loss: Callable[[Problem], Any], problem: Problem, device: str) -> float | None:
    """Peak memory in GiB, without the inputs and the returned gradients; None on a CPU."""
    import torch

    if device != "cuda":
        return None
    release(device)
    kept = list(vars(problem).values()) + list(solve(loss, problem)[1:])
    return (torch.cuda.max_memory_allocated() - sum(x.numel() * x.element_size() for x in kept)) / 2**30


def floor_seconds(shape: tuple[int, ...], beta: float | None, flops: float) -> float:
    tokens, size, teacher_size, width = shape
    return 2 * tokens * width * (3 * size + (0 if beta is None else teacher_size)) / flops


def attempt(row: dict[str, Any], work: Callable[[], dict[str, Any]]) -> None:
    """Add the values that `work` returns to the row, or its error: a peer's failure is a result too."""
    try:
        row |= work()
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[
            :300
        ]


def measure(rows: list[dict[str, Any]], options: argparse.Namespace, flops: float) -> None:
    """Add seconds and peak memory at the full size to the rows."""
    *shape, _ = SHAPES[options.device]
    shape[0] = options.tokens or shape[0]
    problem = make_problem(tuple(shape), "random", options.device)
    for row in rows:
        beta = CASES[row["case"]]

        def work(row: dict[str, Any] = row, beta: float | None = beta) -> dict[str, Any]:
            name = row["impl"]
            loss = IMPLEMENTATIONS[name](beta, options.device)
            seconds = seconds_of(lambda: solve(loss, problem), options.device, options.repeats, 2)
            if options.profile:
                title = f"{name}, {row['case']}"
                path = options.profile / re.sub(r"\W+", "_", title)
                show_profile(profile(lambda: solve(loss, problem), options.device, path), title)
            return {
                "seconds": seconds,
                "tokens_per_s": shape[0] / seconds,
                "peak_gib": peak_gib(loss, problem, options.device),
                "over_floor": seconds / floor_seconds(tuple(shape), beta, flops),
            }

        attempt(row, work)
        release(options.device)
        print(row, file=sys.stderr, flush=True)


def judge(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Add errors relative to float64 to the rows, at few tokens."""
    _, *sizes, tokens = SHAPES[options.device]
    for pair in PAIRS:
        problem = make_problem((tokens, *sizes), pair, options.device)
        for case in options.case:
            true = exact(problem, CASES[case])
            for row in (row for row in rows if row["case"] == case and "error" not in row):

                def work(row: dict[str, Any] = row, problem: Problem = problem, true: Any = true) -> dict[str, Any]:
                    found = solve(IMPLEMENTATIONS[row["impl"]](CASES[row["case"]], options.device), problem)
                    names = ("loss", "grad_hidden", "grad_weight")
                    errors = {n: relative(f, t) for n, f, t in zip(names, found, true, strict=True)}
                    return {"errors": {**row.get("errors", {}), pair: errors}}  # noqa: B023

                attempt(row, work)
            del true
            release(options.device)


def tune(options: argparse.Namespace, flops: float) -> None:
    """The Triton path at other sizes: the whole loss by chunk and group, the kernel by how it shares out rows."""
    import torch

    from tutelage.common.types import Head
    from tutelage.loss import triton_launch

    *shape, _ = SHAPES[options.device]
    shape[0] = options.tokens or shape[0]
    problem = make_problem(tuple(shape), "random", options.device)
    floor = floor_seconds(tuple(shape), 0.5, flops)
    print("chunk  group  ms  over floor  peak GiB")
    for chunk in (512, 768, 1024):
        for group in (2, 3, 4):
            loss = tutelage(0.5, "triton", chunk_tokens=chunk, group_chunks=group)
            seconds = seconds_of(lambda: solve(loss, problem), options.device, options.repeats, 1)  # noqa: B023
            peak = peak_gib(loss, problem, options.device) or 0.0
            print(f"{chunk:5d}  {group:5d}  {1000 * seconds:.2f}  {seconds / floor:.3f}  {peak:.2f}", flush=True)
    count, width = (768, shape[3]) if options.device == "cuda" else (1, shape[3])
    student, teacher = (2.0 * torch.randn(count, width, device=options.device) for _ in range(2))
    labels, weights = problem.labels[:count], torch.full((count,), 1.0 / shape[0], device=options.device)
    gradient = torch.empty(count, width, dtype=torch.bfloat16, device=options.device)
    kinds = {"jsd": (0.0, 1.0, 0.5), "kl": (0.0, 1.0, 0.0), "ce": (1.0, 0.0, 0.5)}
    works = [(name, statistics) for name in kinds for statistics in (False, True)]
    print(f"kernel alone, {count} rows, ms: {', '.join(kinds)}, each without and with statistics")
    blocks = ((2048, 16), (4096, 32)) if options.device == "cuda" else ((128, 4),)
    configs = [triton_launch.LaunchConfig(block, warps) for block, warps in blocks]
    if options.device == "cuda":
        shapes = ((4096, 8, 8), (4096, 4, 8), (4096, 4, 16), (8192, 8, 8), (8192, 8, 16), (2048, 2, 8), (8192, 16, 8))
        shared = [
            triton_launch.LaunchConfig(block, warps, registers=registers, pieces=pieces)
            for block, warps, pieces in shapes
            for registers in ((64, 80, None) if block // warps < 1_000 else (64, 96, 128, None))
        ]
        configs += [replace(config, programs=triton_launch.programs_of(config, width)) for config in shared]
        configs += [replace(c, programs=triton_launch.programs_of(c, width)) for c in triton_launch.WIDE.values()]
    for config in configs:

        def milliseconds(name: str, statistics: bool, config: triton_launch.LaunchConfig = config) -> float:
            own = teacher if name != "ce" else None
            heads = Head(student), own, None if own is None else Head(own)
            known = triton_launch.KernelObjective(*kinds[name])

            def work() -> Any:
                return triton_launch.evaluate_chunk(
                    known, student, *heads, labels, weights, gradient, statistics, config
                )

            return 1000 * seconds_of(work, options.device, options.repeats, 2)

        print(config, *(f"{milliseconds(*case):.3f}" for case in works), flush=True)


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("implementation", "case", title="output head and loss, forward and backward")
    for name in ("ms", "tokens/s", "peak GiB", "over floor", *PAIRS):
        table.add_column(name, justify="right")
    for row in rows:
        if "error" in row:
            table.add_row(row["impl"], row["case"], row["error"][:40])
            continue
        cells = [f"{1000 * row['seconds']:.2f}", f"{row['tokens_per_s']:.0f}"]
        cells += ["–" if row["peak_gib"] is None else f"{row['peak_gib']:.2f}", f"{row['over_floor']:.2f}"]
        for pair in PAIRS:
            errors = row.get("errors", {}).get(pair)
            cells.append("–" if errors is None else " ".join(f"{error:.0e}" for error in errors.values()))
        table.add_row(row["impl"], row["case"], *cells)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print("errors of: the loss, the gradient of the hidden states, the gradient of the head")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--impl", nargs="+", choices=list(IMPLEMENTATIONS), default=list(IMPLEMENTATIONS))
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--tokens", type=int, help="N of the timed problem")
    parser.add_argument("--repeats", type=int, default=10, help="measurements; the median counts")
    parser.add_argument("--no-errors", action="store_true", help="leave out the comparison with float64")
    parser.add_argument("--tune", action="store_true", help="time other sizes of the Triton path instead")
    parser.add_argument("--profile", type=Path, help="folder for where the milliseconds of each row go, by kernel")
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton's interpreter runs the kernel on CPU tensors
    missing = {module for module in [*NEEDS.values(), "triton"] if importlib.util.find_spec(module) is None}
    wanted = []
    for name in options.impl:
        module = NEEDS.get(name, "triton" if name in ("tutelage", "tutelage-statistics") else "torch")
        if module in missing:
            print(f"{module} is not installed: {name} is left out", file=sys.stderr)
        else:
            wanted.append(name)
    measured = ceilings(options.device, small=options.device == "cpu")
    if options.tune:
        tune(options, measured["flops"])
        return
    without_teacher = {"liger-jsd", "trl"}  # they have no cross-entropy
    rows: list[dict[str, Any]] = [
        {"impl": name, "case": case}
        for case in options.case
        for name in wanted
        if CASES[case] is not None or name not in without_teacher
    ]
    measure(rows, options, measured["flops"])
    if not options.no_errors:
        judge(rows, options)
    show(rows)
    if options.json:
        write_results(options.json, options.device, measured, rows)


if __name__ == "__main__":
    main()
