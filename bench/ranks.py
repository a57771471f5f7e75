"""A GKD step at the paper's shapes on one GPU and on several, with whole models and with sharded ones.

    python -m bench.ranks --json docs/results/bench/ranks.json
    python -m bench.ranks --student 8b --teacher 70b --sharded-only --ranks 8 --case mixed
    python -m bench.ranks --device cpu --small              # tiny models on two CPU processes, seconds

Work: that of `step/paper.py`, 128 sequences per step over all ranks, off-policy and on-policy. `speedup`: tokens/s
over those of one rank in the same case. `over_floor`: seconds per step over those of its matrix products alone at the
rate of a large product, on all ranks. `first_loss`: the loss of the first step, whose samples and sums depend on the
number of ranks by rounding only. Peak memory is that of the first rank.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from bench.common import ceilings, run_worker, write_results
from bench.step.paper import tutelage_worker
from bench.step.paper_work import PLAIN, SHARES, student_shape, teacher_shape, weights


def worker(options: argparse.Namespace) -> None:
    """One rank of one measurement."""
    from accelerate import PartialState

    if options.device == "cuda":
        import torch

        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    state = PartialState(cpu=options.device == "cpu")
    result = tutelage_worker(options, options.sharded)
    if state.is_main_process:
        options.out.write_text(json.dumps(result))
    state.wait_for_everyone()
    state.destroy_process_group()


def start(ranks: int, sharded: bool, case: str, options: argparse.Namespace) -> dict[str, Any]:
    keys = ("device", "batch", "micro_batch", "new_tokens", "steps", "warmup", "slots", "student", "teacher")
    flags = [part for key in keys for part in (f"--{key.replace('_', '-')}", str(getattr(options, key)))]
    flags += ["--small"] * options.small + ["--sharded"] * sharded + ["--checkpointing"] * options.checkpointing
    flags += ["--compute", options.compute] if options.compute else []
    flags += ["--compile", options.compile, "--optimizer", options.optimizer]
    here = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    launcher = ["-m", "torch.distributed.run", *here, "--nproc-per-node", str(ranks)]
    return run_worker(
        f"{ranks} ranks, {case}", [*launcher, "-m", "bench.ranks", "--worker", "tutelage", "--case", case, *flags]
    )


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    forms = {"seconds": ".2f", "tokens_per_s": ",.0f", "speedup": ".2f", "over_floor": ".2f", "peak_gib": ".1f"}
    forms |= {"first_loss": ".5f"}
    table = Table("case", "student", "teacher", "ranks", "models", *forms)
    for row in rows:
        cells = ["–" if row.get(k) is None else format(row[k], f) for k, f in forms.items()]
        table.add_row(
            row["case"],
            row["student"],
            row["teacher"],
            str(row["ranks"]),
            "sharded" if row["sharded"] else "whole",
            *cells,
        )
    Console(width=120).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=128, help="sequences per optimizer step, over all ranks")
    parser.add_argument("--micro-batch", type=int, default=3_840, help="tokens per micro-batch and rank")
    parser.add_argument("--new-tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--case", nargs="+", choices=list(SHARES), default=["off-policy", "on-policy"])
    parser.add_argument("--student", choices=["1b", "3b", "8b"], default="1b", help="shape of the student")
    parser.add_argument("--teacher", choices=["8b", "70b"], default="8b", help="shape of the teacher")
    parser.add_argument("--compute", choices=["bfloat16", "pure_bfloat16", "float32"], help="as training.precision")
    parser.add_argument("--optimizer", choices=["adamw", "adamw_8bit", "adamw_offload"], default="adamw")
    parser.add_argument("--compile", choices=["on", "off"], default="off", help="compile the layers of both models")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--slots", type=int, default=0, help="rows that a rank decodes at a time; default: all")
    parser.add_argument("--sharded-only", action="store_true", help="leave whole models out")
    parser.add_argument("--small", action="store_true", help="tiny models")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sharded", action="store_true", help=argparse.SUPPRESS)
    given = {"student", "teacher", "compute", "compile", "checkpointing", "slots", "optimizer"}
    parser.set_defaults(**{key: value for key, value in PLAIN.items() if key not in given})
    options = parser.parse_args()
    if min(options.ranks) < 1:
        parser.error(f"--ranks: {min(options.ranks)} is not a number of ranks: give 1 or more")
    return options


def main() -> None:
    options = parse()
    if options.worker:
        options.case, options.profile = options.case[0], None
        worker(options)
        return
    measured = ceilings(options.device, options.small)
    rows: list[dict[str, Any]] = []
    settings = [(ranks, sharded) for ranks in options.ranks for sharded in (False, True) if ranks > 1 or not sharded]
    settings = [one for one in settings if one[1] or not options.sharded_only]
    per_token = 2 * weights(teacher_shape(options)) + 6 * weights(student_shape(options))
    for case in options.case:
        alone = None
        for ranks, sharded in settings:
            result = start(ranks, sharded, case, options)
            alone = result.get("tokens_per_s") if ranks == 1 else alone
            if alone and "tokens_per_s" in result:
                result["speedup"] = result["tokens_per_s"] / alone
            if "tokens" in result:
                result["over_floor"] = result["seconds"] * measured["flops"] * ranks / (per_token * result["tokens"])
            keys = ("student", "teacher", "micro_batch", "checkpointing", "compute", "optimizer", "slots")
            models = {key: getattr(options, key) for key in keys if getattr(options, key)}
            rows.append({"case": case, "ranks": ranks, "sharded": sharded, **models, **result})
            print(rows[-1], file=sys.stderr, flush=True)
            if options.json:
                write_results(options.json, options.device, measured, rows)
    show(rows)


if __name__ == "__main__":
    main()
