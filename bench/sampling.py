"""Sampling alone, side by side: the same prompts and the same number of new tokens in every implementation.

    python -m bench.sampling --device cuda --json docs/results/bench/sampling.json
    python -m bench.sampling --device cpu --small          # a tiny model, seconds

Work: 128 prompts (lognormal lengths, mean about 195 tokens) and 512 new tokens each at temperature 1, by a model of
Llama-3.2-1B's shape with random weights in bf16; no token ends a response. Every implementation runs in a process of
its own: one warm-up, then the median of `--repeats` calls; transformers, which takes a minute, warms up with 16 new
tokens and is measured once. tokens/s counts new tokens.

The floor is set by memory bandwidth: each step reads all weights and all keys and values so far, at the copy rate
measured first. `vllm` is vLLM alone with its engine in a separate process, the default; `tutelage-vllm` is this
project's backend, timed without log-probabilities of the sampled tokens, which training does not need, and once with
them (`seconds_with_logprobs`). `same_again`: the share of responses that are equal, token by token, in two calls
without log-probabilities; `same_with_logprobs`: in one call without and one with them. `logprob_difference`: the mean
absolute difference between the sampler's log-probabilities and those of the trainer's packed forward pass.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import operator
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.common import ceilings, run_worker, seconds_of, seconds_of_each, write_results

IMPLEMENTATIONS = (
    "tutelage",
    "tutelage-vllm",
    "vllm",
    "transformers",
    "transformers-continuous",
)
LLAMA_1B = {
    "vocab_size": 128_256,
    "hidden_size": 2_048,
    "intermediate_size": 8_192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 8_192,
    "tie_word_embeddings": True,
}
TINY = LLAMA_1B | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def make_prompts(count: int, vocabulary: int, shrink: int) -> list[list[int]]:
    rng = random.Random(0)
    lengths = [min(1_000, max(16, round(rng.lognormvariate(math.log(160), 0.63)))) // shrink for _ in range(count)]
    return [[rng.randrange(vocabulary // 2) for _ in range(max(2, n))] for n in lengths]


def build_model(options: argparse.Namespace) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    kind = torch.bfloat16 if options.device == "cuda" else torch.float32
    config = LlamaConfig(**(TINY if options.small else LLAMA_1B))
    config.eos_token_id = None
    with torch.device(options.device):
        model = LlamaForCausalLM(config)
    return model.to(kind).eval()


def worker(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    model = build_model(options)
    prompts = make_prompts(options.prompts, model.config.vocab_size, 8 if options.small else 1)
    run = {
        "tutelage": tutelage_run,
        "tutelage-vllm": tutelage_vllm_run,
        "vllm": vllm_run,
        "transformers": transformers_run,
        "transformers-continuous": continuous_run,
    }[options.worker]
    work, check = run(model, prompts, options)
    lengths: list[int] = []

    def once() -> None:
        lengths[:] = work()

    if options.worker.startswith("transformers"):
        options.new_tokens, wanted = 16, options.new_tokens
        once()
        options.new_tokens = wanted
        each = seconds_of_each(once, options.device, 1, warmup=0)
    else:
        each = seconds_of_each(once, options.device, options.repeats)
    if lengths != [options.new_tokens] * len(prompts):
        sys.exit(f"unequal work: responses of {min(lengths)} to {max(lengths)} tokens")
    result = {"seconds": statistics.median(each), "seconds_each": each, "logprob_difference": None}
    result |= check() if check else {}
    if options.device == "cuda" and options.worker != "vllm":  # its engine is another process
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return result


def prepare(model: Any) -> None:
    """Prepare the model as `tutelage.models.load_model` does."""
    from tutelage.models.attention import NAME, register_attention
    from tutelage.models.rms_norm import fuse_norms

    register_attention()
    model.set_attn_implementation(NAME)
    if next(model.parameters()).device.type != "cpu":  # on "meta" the weights come from another rank
        fuse_norms(model)


def tutelage_run(model: Any, prompts: list[list[int]], options: argparse.Namespace) -> Any:
    from tutelage.sampling.torch_sampler import TorchSampler

    prepare(model)
    return sampler_run(TorchSampler(model, (), True, batch_size=options.prompts), prompts, options)


def tutelage_vllm_run(model: Any, prompts: list[list[int]], options: argparse.Namespace) -> Any:
    from tutelage.sampling.vllm_sampler import VllmSampler

    prepare(model)
    length = max(len(p) for p in prompts) + options.new_tokens
    settings = {"max_length": length, "batch_size": options.prompts, "memory": 0.5, "sleep": False}
    return sampler_run(VllmSampler(model, (), True, **settings), prompts, options)


def sampler_run(sampler: Any, prompts: list[list[int]], options: argparse.Namespace) -> Any:
    settings = {"max_new_tokens": options.new_tokens, "temperature": 1.0, "top_p": 1.0}
    samples: list[Any] = []

    def work() -> list[int]:
        samples[:] = sampler.sample(prompts, seeds=list(range(len(prompts))), **settings)
        return [len(s.tokens) for s in samples]

    def sampled_tokens() -> list[tuple[int, ...]]:
        work()
        return [sample.tokens for sample in samples]

    def check() -> dict[str, float]:
        extra = {}
        if getattr(sampler, "logprobs", True) is False:  # vLLM returns them only on request
            first, again = sampled_tokens(), sampled_tokens()
            sampler.logprobs = True
            with_logprobs = sampled_tokens()
            extra["same_again"] = sum(map(operator.eq, first, again)) / len(first)
            extra["same_with_logprobs"] = sum(map(operator.eq, first, with_logprobs)) / len(first)
            extra["seconds_with_logprobs"] = seconds_of(work, options.device, 1, warmup=0)
        scores = sampler.score(prompts, [s.tokens for s in samples])
        differences = [
            abs(a - b)
            for s, row in zip(samples, scores, strict=True)
            for a, b in zip(s.logprobs, row.tolist(), strict=True)
        ]
        return extra | {"logprob_difference": sum(differences) / len(differences)}

    return work, check


def vllm_run(model: Any, prompts: list[list[int]], options: argparse.Namespace) -> Any:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"  # its default: the engine in a separate process
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        llm = LLM(
            model=folder,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_num_seqs=options.prompts,
            max_model_len=max(len(p) for p in prompts) + options.new_tokens,
            gpu_memory_utilization=0.6,
            disable_log_stats=True,
        )
    settings = SamplingParams(temperature=1.0, max_tokens=options.new_tokens, ignore_eos=True, detokenize=False)

    def work() -> list[int]:
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], settings, use_tqdm=False)
        return [len(o.outputs[0].token_ids) for o in outputs]

    return work, None


def transformers_run(model: Any, prompts: list[list[int]], options: argparse.Namespace) -> Any:
    import torch

    width = max(len(p) for p in prompts)
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=options.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=options.device)

    def work() -> list[int]:
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=options.new_tokens,
            do_sample=True,
            top_k=0,
            temperature=1.0,
            pad_token_id=0,
        )
        return [out.shape[1] - width] * len(prompts)

    return work, None


def continuous_run(model: Any, prompts: list[list[int]], options: argparse.Namespace) -> Any:
    from transformers import GenerationConfig

    def work() -> list[int]:
        config = GenerationConfig(
            max_new_tokens=options.new_tokens, do_sample=True, top_k=0, temperature=1.0, eos_token_id=-1, pad_token_id=0
        )
        outputs = model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
        return [len(o.generated_tokens) for o in outputs.values()]

    return work, None


def floor(options: argparse.Namespace, bytes_per_s: float) -> float:
    """Seconds to read weights, keys and values at the measured copy rate."""
    shape = TINY if options.small else LLAMA_1B
    hidden, layers, kv = (
        shape["hidden_size"],
        shape["num_hidden_layers"],
        shape["num_key_value_heads"] * shape["head_dim"],
    )
    query = shape["num_attention_heads"] * shape["head_dim"]
    weights = shape["vocab_size"] * hidden + layers * hidden * (3 * shape["intermediate_size"] + 2 * query + 2 * kv)
    prompts = make_prompts(options.prompts, shape["vocab_size"], 8 if options.small else 1)
    cached = sum(options.new_tokens * (len(p) + options.new_tokens / 2) for p in prompts)
    size = 2 if options.device == "cuda" else 4
    return size * (weights * options.new_tokens + cached * 2 * layers * kv) / bytes_per_s


def start_worker(name: str, options: argparse.Namespace) -> dict[str, Any]:
    keys = ("device", "prompts", "new_tokens", "repeats", "threads")
    flags = [part for key in keys for part in (f"--{key.replace('_', '-')}", str(getattr(options, key)))]
    return run_worker(name, ["-m", "bench.sampling", "--worker", name, *flags, *["--small"] * options.small])


def installed(name: str) -> bool:
    return "vllm" not in name or importlib.util.find_spec("vllm") is not None


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("implementation", "seconds", "tokens/s", "over floor", "peak GiB", "|Δ log p|")
    for row in rows:
        forms = {
            "seconds": ".2f",
            "tokens_per_s": ",.0f",
            "over_floor": ".2f",
            "peak_gib": ".1f",
            "logprob_difference": ".4f",
        }
        cells = ["–" if row.get(k) is None else format(row[k], f) for k, f in forms.items()]
        table.add_row(row["impl"], *cells)
    Console().print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--impl", nargs="+", choices=IMPLEMENTATIONS, default=list(IMPLEMENTATIONS))
    parser.add_argument("--small", action="store_true", help="a tiny model")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.worker:
        options.out.write_text(json.dumps(worker(options)))
        return
    measured = ceilings(options.device, options.small)
    lowest = floor(options, measured["bytes_per_s"])
    rows = []
    for name in options.impl:
        if not installed(name):
            print(f"{name}: vllm is not installed: left out", file=sys.stderr)
            continue
        result = start_worker(name, options)
        row = {"impl": name, "case": f"{options.prompts} x {options.new_tokens}", **result}
        if "seconds" in row:
            row["tokens_per_s"] = options.prompts * options.new_tokens / row["seconds"]
            row["over_floor"] = row["seconds"] / lowest
        rows.append(row)
        print(f"{name}: {row.get('tokens_per_s', 0):,.0f} tokens/s", file=sys.stderr, flush=True)
        if options.json:
            write_results(options.json, options.device, measured, rows)
    show(rows)


if __name__ == "__main__":
    main()
