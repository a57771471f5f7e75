"""A GKD step with the teacher in the process, served beside it, and computed once and kept on disk.

    python -m bench.teachers --json docs/results/bench/teachers.json
    python -m bench.teachers --student 3b --shape 70b --teacher-precision float8 --checkpointing --slots 32 \
        --micro-batch 4096 --teacher served                 # a 70B teacher beside a 3B student
    python -m bench.teachers --device cpu --small           # tiny models, seconds

Models and rows of `step/paper.py` (1B student, 8B teacher). `off-policy`: λ = 0; `mixed`: λ = 0.5. `local`: the teacher
in the training process. `served`: `TeacherServer` in a second process, on the same GPU or on `--server-gpu`; that
process loads it, the student's has only the head. `cached`: hidden states of the rows in shards in `--folder`
(bfloat16 on a GPU), `fill_seconds` and `gib` for computing them; the rest of a mixture by the teacher in the process.

`ratio`: tokens/s over those of `local` in the same case. `first_loss` differs by rounding only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import ceilings, run_worker, write_results
from bench.sampling import prepare
from bench.step.paper import tutelage_worker
from bench.step.paper_work import PLAIN, SHARES, as_loaded, make_teacher

KINDS = ("local", "served", "cached")


def serve_worker(options: argparse.Namespace) -> None:
    """Serve the teacher until this process is killed."""
    from tutelage.teachers.server import TeacherServer, serve

    teacher = make_teacher(options)
    prepare(teacher)
    server = TeacherServer(as_loaded(teacher), "bench", options.tokens)
    serve(server, "127.0.0.1", 0, lambda line: print(line, flush=True))


def student_worker(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the steps of a student."""
    import torch

    from tutelage.teachers.asked import AskedTeacher
    from tutelage.teachers.cached import CachedSource, fill
    from tutelage.teachers.local import LocalSource
    from tutelage.teachers.protocol import question_of_sequence
    from tutelage.teachers.served import ServedSource
    from tutelage.teachers.shards import Form, ShardStore

    device, more = torch.device(options.device), {}
    half = torch.bfloat16 if options.device == "cuda" else torch.float32

    def served(_: list[Any]) -> AskedTeacher:
        precision = str(half).removeprefix("torch.")
        return AskedTeacher(ServedSource(options.url, "bench", "bench", precision, 600.0), device, 0, 0)

    def cached(examples: list[Any]) -> AskedTeacher:
        teacher = make_teacher(options)
        prepare(teacher)
        source = LocalSource(as_loaded(teacher), options.tokens)
        store = ShardStore(options.folder / str(time.time_ns()), "bench", Form(half, teacher.config.hidden_size))
        shards = store.plan([[question_of_sequence(one) for one in examples]])
        began = time.perf_counter()
        fill(store, shards, lambda: source, "bench")
        more["fill_seconds"] = time.perf_counter() - began
        more["gib"] = sum(file.stat().st_size for file in store.folder.glob("*.safetensors")) / 2**30
        live = source if SHARES[options.case] else None
        return AskedTeacher(CachedSource(store, "bench", live), device, 0, 0)

    elsewhere = {"local": None, "served": served, "cached": cached}[options.worker]
    return tutelage_worker(options, elsewhere=elsewhere) | more


def models(options: argparse.Namespace) -> list[str]:
    """The flags that give the teacher."""
    return ["--shape", options.teacher, "--teacher-precision", options.teacher_precision, *["--small"] * options.small]


def start(kind: str, case: str, options: argparse.Namespace, url: str = "") -> dict[str, Any]:
    keys = ("device", "batch", "micro_batch", "new_tokens", "steps", "warmup", "tokens", "folder")
    flags = [part for key in keys for part in (f"--{key.replace('_', '-')}", str(getattr(options, key)))]
    flags += [*models(options), "--student", options.student, "--slots", str(options.slots), "--url", url]
    flags += ["--checkpointing"] * options.checkpointing
    return run_worker(f"{kind}, {case}", ["-m", "bench.teachers", "--worker", kind, "--case", case, *flags])


def start_server(options: argparse.Namespace) -> tuple[subprocess.Popen[str], str]:
    """The server's process and its address, once it answers."""
    flags = ["--device", options.device, "--tokens", str(options.tokens), *models(options)]
    environment = dict(os.environ)
    if options.server_gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = options.server_gpu
    command = [sys.executable, "-m", "bench.teachers", "--worker", "serve", *flags]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if " at http" not in line:
        raise SystemExit("the server did not start")
    return process, line.partition(" at ")[2].split()[0]


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    forms = {"seconds": ".2f", "tokens_per_s": ",.0f", "ratio": ".2f", "peak_gib": ".1f", "first_loss": ".5f"}
    forms |= {"fill_seconds": ".1f", "gib": ".2f"}
    table = Table("teacher", "case", *forms)
    for row in rows:
        cells = ["–" if row.get(k) is None else format(row[k], f) for k, f in forms.items()]
        table.add_row(row["teacher"], row["case"], *cells)
    Console(width=130).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--batch", type=int, default=128, help="sequences per optimizer step")
    parser.add_argument("--micro-batch", type=int, default=6_144, help="the student's tokens per micro-batch")
    parser.add_argument("--tokens", type=int, default=16_384, help="tokens that a teacher elsewhere reads at once")
    parser.add_argument("--new-tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--teacher", dest="kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--case", nargs="+", choices=["off-policy", "mixed"], default=["off-policy", "mixed"])
    parser.add_argument("--student", choices=["1b", "3b", "8b"], default="1b", help="shape of the student")
    parser.add_argument("--shape", dest="teacher", choices=["8b", "70b"], default="8b", help="shape of the teacher")
    parser.add_argument("--teacher-precision", choices=["bfloat16", "float8"], default="bfloat16", help="of its layers")
    parser.add_argument("--checkpointing", action="store_true", help="recompute the student's activations")
    parser.add_argument("--slots", type=int, default=0, help="rows that are decoded at a time; default: all")
    parser.add_argument("--server-gpu", help="CUDA_VISIBLE_DEVICES of the server; default: the student's")
    parser.add_argument("--folder", type=Path, help="where shards are written; default: a temporary folder")
    parser.add_argument("--small", action="store_true", help="tiny models")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.set_defaults(**{key: value for key, value in PLAIN.items() if parser.get_default(key) is None})
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.profile = None
    if options.worker == "serve":
        serve_worker(options)
        return
    if options.worker:
        options.case = options.case[0]
        options.out.write_text(json.dumps(student_worker(options)))
        return
    measured, rows = ceilings(options.device, options.small), []
    shapes = {"student": options.student, "shape": options.teacher, "teacher_precision": options.teacher_precision}
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        for kind in options.kinds:
            process, url = start_server(options) if kind == "served" else (None, "")
            for case in options.case:
                row = {"teacher": kind, "case": case} | shapes | start(kind, case, options, url)
                base = next((r for r in rows if (r["teacher"], r["case"]) == ("local", case)), row)
                if "tokens_per_s" in row and "tokens_per_s" in base:
                    row["ratio"] = row["tokens_per_s"] / base["tokens_per_s"]
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
                if options.json:
                    write_results(options.json, options.device, measured, rows)
            if process is not None:
                process.kill()
                process.wait()
    show(rows)


if __name__ == "__main__":
    main()
