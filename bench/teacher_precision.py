"""What a teacher's arithmetic costs the loss: its states in bfloat16, float8, int8, nf4 and from vLLM, beside float32.

    python -m bench.teacher_precision --json docs/results/bench/teacher_precision.json
    python -m bench.teacher_precision --device cpu --small --teacher bfloat16      # a tiny model, seconds

SmolLM2-135M-Instruct reads this repository's own documents, 512 tokens at a time; the student is ten of its layers in
float32. `loss`: JSD_0.5 (eq. 3) of student and teacher in nats per token; `loss_difference`: from that of the float32
teacher; `kl`: mean KL(float32 teacher ‖ this one). A teacher whose library is missing gives a row with `error`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.common import run_worker, write_results
from bench.step.smollm2 import prepare

KINDS = ("float32", "bfloat16", "float8", "int8", "nf4", "vllm")
LENGTH = 512
TEXTS = Path(__file__).parents[1] / "docs"


def questions(folder: Path, count: int) -> list[Any]:
    """The documents' tokens in pieces of 512, of which every next one is predicted."""
    import torch
    from transformers import AutoTokenizer

    from tutelage.teachers.protocol import Question

    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    text = "\n".join(file.read_text() for file in sorted(TEXTS.glob("*.md")))
    ids = torch.tensor(tokenizer(text[: 8 * LENGTH * count], add_special_tokens=False)["input_ids"])
    pieces = [piece for piece in ids.split(LENGTH) if len(piece) == LENGTH][:count]
    return [Question(piece, (LENGTH,), torch.arange(LENGTH - 1)) for piece in pieces]


def worker(options: argparse.Namespace) -> None:
    """Save hidden states and head of one teacher, or of the student, in float32."""
    import torch

    from tutelage.models.load import load_model
    from tutelage.recipe.sections import ModelConfig
    from tutelage.sampling.vllm_files import load_reader
    from tutelage.teachers.local import LocalSource
    from tutelage.teachers.protocol import joined
    from tutelage.teachers.vllm_source import VllmSource

    kind, path = options.worker, str(options.folder / ("student" if options.worker == "student" else "teacher"))
    asked = joined(questions(options.folder, options.count))
    if kind == "vllm":
        source: Any = VllmSource(load_reader(ModelConfig(path=path, tensor_parallel=1), "bfloat16", 16_384))
    else:
        plain = kind in ("student", "float32")
        held = None if plain or kind == "bfloat16" else kind
        config = ModelConfig(path=path, precision=held, attention="padded" if options.small else "auto")
        source = LocalSource(load_model(config, options.device, torch.float32 if plain else torch.bfloat16))
    head = source.head()
    assert head.bias is None
    states = source.answer(asked).float().cpu(), head.weight.detach().float().cpu()
    torch.save(states, options.folder / f"{kind}.pt")
    options.out.write_text("{}")


def compare(folder: Path, kinds: list[str], device: str) -> list[dict[str, Any]]:
    """The rows of these teachers: logits in float32, divergences in float64, 512 tokens at a time."""
    import torch

    from tutelage.loss import divergence

    found = {kind: [part.to(device) for part in torch.load(folder / f"{kind}.pt")] for kind in ["student", *kinds]}
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        sums, count = torch.zeros(2, dtype=torch.float64, device=device), len(found[kind][0])
        for start in range(0, count, LENGTH):
            student, mine, exact = (
                (states[start : start + LENGTH] @ head.T).double()
                for states, head in (found[one] for one in ("student", kind, "float32"))
            )
            loss = divergence.generalized_jsd(student, mine, 0.5).sum()
            sums += torch.stack([loss, divergence.forward_kl(exact, mine).sum()])
        loss, kl = (sums / count).tolist()
        difference = loss - rows[0]["loss"] if rows else 0.0
        rows.append({"impl": kind, "tokens": count, "loss": loss, "loss_difference": difference, "kl": kl})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--count", type=int, default=64, help="sequences of 512 tokens")
    parser.add_argument("--teacher", dest="kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--small", action="store_true", help="tiny models")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    kinds, errors = [], []
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options.small)
        for kind in dict.fromkeys(["student", "float32", *options.kinds]):
            flags = ["--worker", kind, "--folder", name, "--device", options.device, "--count", str(options.count)]
            result = run_worker(kind, ["-m", "bench.teacher_precision", *flags, *["--small"] * options.small])
            if result:
                errors.append({"impl": kind, **result})
            elif kind != "student":
                kinds.append(kind)
        rows = compare(Path(name), kinds, options.device) + errors
    print(json.dumps(rows, indent=1))
    if options.json:
        write_results(options.json, options.device, {}, rows)


if __name__ == "__main__":
    main()
