"""The speed of a finished evaluation against the most that its sampler can reach with every slot busy.

    tutelage evaluate --model M --tasks paper --batch-size 256 --out scores/M
    python -m bench.evaluation scores/M --model M --batch-size 256 --json docs/results/bench/evaluation.json

`tokens_per_s`: new tokens per second of a benchmark, from its result.json; they include reading prompts, waiting for
the last replies, likelihoods and writing to disk. `ceiling_tokens_per_s`: the same sampler on two prompts of that
benchmark per slot, without an end token, each with as many new tokens as the benchmark's mean reply, so that no slot is
ever empty. `ratio`: the first over the second. `shared`: the share of prompt tokens that were read for another prompt
with the same beginning.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.common import ceilings, write_results


def measure(name: str, options: argparse.Namespace, answerer: Any) -> dict[str, Any]:
    """The row of one benchmark: the evaluation's speed and the ceiling."""
    from tutelage.evaluation.answer_items import make_questions
    from tutelage.evaluation.benchmarks import benchmark
    from tutelage.evaluation.benchmarks.data import data_folder

    result = json.loads((options.scores / name / "result.json").read_text())
    speed, answerer = result["speed"], replace(answerer, chat=result["chat"])
    mean = speed["new_tokens"] / speed["examples"]  # of the sampled examples; some may not have fitted
    items = benchmark(name).load(data_folder(options.data_dir), result["limit"], result["seed"])
    questions, _ = make_questions(benchmark(name), items, answerer)
    count = min(len(questions), 2 * options.batch_size)
    prompts = [questions[i * len(questions) // count].ids for i in range(count)]
    sampler, settings = answerer.sampler, {"max_new_tokens": max(1, round(mean)), "temperature": 0.0}
    sampler.sample([max(prompts, key=len)], seeds=[0], **settings)  # creates the engine
    began = time.perf_counter()
    samples = sampler.sample(prompts, seeds=list(range(count)), **settings)
    ceiling = sum(len(sample.tokens) for sample in samples) / (time.perf_counter() - began)
    return {
        "impl": "tutelage",
        "case": name,
        "examples": speed["examples"],
        "seconds": speed["seconds"],
        "tokens_per_s": speed["new_tokens_per_s"],
        "ceiling_tokens_per_s": ceiling,
        "ratio": speed["new_tokens_per_s"] / ceiling,
        "mean_prompt": speed["prompt_tokens"] / speed["examples"],
        "mean_reply": mean,
        "shared": (speed.get("shared_prompt_tokens") or 0) / speed["prompt_tokens"],
    }


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    forms = {"examples": ",", "seconds": ".1f", "tokens_per_s": ",.0f", "ceiling_tokens_per_s": ",.0f", "ratio": ".2f"}
    forms |= {"mean_prompt": ",.0f", "mean_reply": ",.0f", "shared": ".0%"}
    table = Table("benchmark", *forms)
    for row in rows:
        table.add_row(row["case"], *[format(row[key], form) for key, form in forms.items()])
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scores", type=Path, help="the folder given to `tutelage evaluate --out`")
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch-size", type=int, default=128, help="as in the evaluation")
    parser.add_argument("--data-dir", type=Path, help="default: $TUTELAGE_DATA")
    parser.add_argument("--tasks", nargs="+", help="default: all in the folder")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()

    import torch

    from tutelage.evaluation.run_benchmarks import Settings, load_answerer

    done = [path.parent.name for path in sorted(options.scores.glob("*/result.json"))]
    names = options.tasks or [
        name for name in done if json.loads((options.scores / name / "result.json").read_text())["speed"]
    ]
    answerer = load_answerer(
        Settings((), options.model, options.scores, options.data_dir, batch_size=options.batch_size)
    )
    answerer.sampler.end_ids = ()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    measured = ceilings(device, small=device == "cpu")
    rows = []
    for name in names:
        rows.append(measure(name, options, answerer))
        if options.json:
            write_results(options.json, device, measured, rows)
    show(rows)


if __name__ == "__main__":
    main()
