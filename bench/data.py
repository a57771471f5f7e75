"""Seconds and memory that data costs: start, resume and step, with as many rows as Tulu 3 has beside a thousand.

    python -m bench.data --json docs/results/bench/data.json      # about ten minutes on two CPU cores
    python -m bench.data --rows 1000 2000                         # seconds

Rows are chats of 120 random words, tokenised by words with Tulu's template. Each line of the result is a process of its
own. `start` reads and tokenises what no process has read before; `resume` is any later process of any run; both end
with the first batch of 128 at hand. `step` is a later step's share of data: its batch is taken, and laid out in
micro-batches. `peak_gib` has the pages of mapped files, which processes share; `own_gib` is what the process holds of
its own when it has its first batch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import run_worker, write_results

WORDS, QUESTION, ANSWER, BATCH, STEPS = 2000, 40, 80, 128, 50


def write(file: Path, rows: int) -> None:
    """Write synthetic chats."""
    draw = random.Random(0)
    words = [f"word{i}" for i in range(WORDS)]
    with file.open("w") as out:
        for _ in range(rows):
            texts = (" ".join(draw.choices(words, k=count)) for count in (QUESTION, ANSWER))
            turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]
            out.write(json.dumps({"messages": turns}) + "\n")


def template() -> Any:
    """A chat template over words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tutelage.data.chat_template import ChatTemplate

    names = ["<pad>", "<unk>", "</s>", *(f"word{i}" for i in range(WORDS))]
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return ChatTemplate(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>"))


def worker(file: Path, out: Path) -> None:
    """One process's start and steps."""
    import torch

    from tutelage.data.batch import Order, make_micro_batches
    from tutelage.data.dataset import load_dataset
    from tutelage.data.encode_rows import encode_all
    from tutelage.data.large.stored import weights_of
    from tutelage.recipe.sections import DataConfig

    chat = template()
    idle, began = _status("RssAnon"), time.perf_counter()
    data = load_dataset("train", DataConfig(path=str(file)), Path.cwd())
    read = time.perf_counter() - began
    sequences, report = encode_all(chat, data, 4096)
    order = Order(weights_of(sequences), torch.randperm(len(sequences), generator=torch.Generator().manual_seed(0)))
    taken: list[float] = []
    seconds = own = 0.0
    for step in range(STEPS):
        first = time.perf_counter()
        batch = order.take(sequences, step * BATCH % len(sequences), (step * BATCH % len(sequences)) + BATCH)
        make_micro_batches(batch, [1.0] * len(batch), 8192, padded=False)
        taken.append(time.perf_counter() - first)
        if step == 0:
            seconds, own = time.perf_counter() - began, _status("RssAnon") - idle
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    result = {
        "rows": data.total,
        "tokens": int(sum(len(one.ids) for one in sequences[:1000]) / min(1000, len(sequences)) * len(sequences)),
        "left_out": len(report.too_long) + len(data.bad_rows),
        "read_seconds": read,
        "seconds": seconds,
        "step_ms": 1000 * statistics.median(taken[1:]),
        "peak_gib": _status("VmHWM") / 2**30,
        "own_gib": own / 2**30,
        "largest_child_gib": children / 2**30,
    }
    out.write_text(json.dumps(result))


def _status(name: str) -> int:
    """Bytes, from Linux's account of this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 939_000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.out is not None:
        return worker(options.file, options.out)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            file = Path(folder) / f"{rows}.jsonl"
            write(file, rows)
            for name in ("start", "resume"):
                cache = {"TUTELAGE_CACHE": str(Path(folder) / "cache")}
                found = run_worker(name, ["-m", "bench.data", "--file", str(file)], cache)
                kept = sum(one.stat().st_size for one in Path(folder).rglob("*.arrow"))
                found |= {"name": name, "file_gib": file.stat().st_size / 2**30, "kept_gib": kept / 2**30}
                results.append(found)
                print(json.dumps(found), flush=True)
    if options.json is not None:
        write_results(options.json, "cpu", {"cores": len(os.sched_getaffinity(0))}, results)


if __name__ == "__main__":
    main()
