"""Training curves of the fast path and of the reference path from the same seed.

    python -m bench.curve --device cuda --json docs/results/bench/curve.json --figure docs/results/bench/curve.png
    python -m bench.curve --small --steps 3         # tiny models on a CPU, seconds

GKD at λ = β = 0.5, SmolLM2-135M-Instruct teaching ten of its layers, random token ids. Runs of the same steps: `fast`
is the path that a recipe takes on this device, `compiled` (on a GPU) the same with compiled layers; `reference` is
float32, padded, with the loss in plain torch and the norms of transformers; `reference, bf16` is the same in bfloat16,
which shows the effect of rounding alone. All train on the responses that `fast` sampled: one different token would make
them different experiments.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.common import write_results
from bench.step.smollm2 import prepare

RUNS = ("fast", "compiled", "reference, bf16", "reference")
EXAMPLES, BATCH, NEW_TOKENS = 64, 16, 64


def train(name: str, folder: Path, samples: Path | None, options: argparse.Namespace) -> tuple[list[float], Path]:
    """Losses per step, and the folder of the sampled responses."""
    import torch

    from tutelage.common.types import TokenSequence
    from tutelage.loss.fused_linear import linear_objective
    from tutelage.loss.objective import Divergence
    from tutelage.models import load as model_module
    from tutelage.models.load import load_model
    from tutelage.recipe.sections import ModelConfig, SamplingConfig, TrainingConfig
    from tutelage.sampling.torch_sampler import TorchSampler
    from tutelage.teachers.local import LocalTeacher
    from tutelage.training.job import Job
    from tutelage.training.on_policy import RolloutPlan
    from tutelage.training.trainer import Trainer

    torch.manual_seed(0)
    fast = name in ("fast", "compiled")
    half = options.device == "cuda" and name != "reference"
    attention = "auto" if fast else "padded"
    fuse, model_module.fuse_norms = model_module.fuse_norms, model_module.fuse_norms if fast else lambda model: 0
    model_module.linear_objective = (
        linear_objective if fast else functools.partial(linear_objective, implementation="torch")
    )  # type: ignore[assignment]
    teacher_type = torch.bfloat16 if half else torch.float32
    student = load_model(ModelConfig(path=str(folder / "student"), attention=attention), options.device)
    teacher = load_model(ModelConfig(path=str(folder / "teacher"), attention=attention), options.device, teacher_type)
    examples = []
    for index, row in enumerate(json.loads((folder / "work.json").read_text()) * (EXAMPLES // 8)):
        ids = torch.tensor(row["prompt"] + row["response"]).roll(index // 8)
        examples.append(TokenSequence(index, ids, torch.arange(len(ids)) >= len(row["prompt"]), len(row["prompt"])))
    run = Path(tempfile.mkdtemp(dir=folder))
    if samples is not None:
        shutil.copytree(samples, run / "checkpoints" / "pending-0")
    sampler_type = torch.bfloat16 if half else None
    trainer = Trainer(
        Job(
            student=student,
            teacher=LocalTeacher(teacher),
            objective=Divergence(beta=0.5),
            examples=examples,
            validation=[],
            rollouts=RolloutPlan(0.5, SamplingConfig(max_new_tokens=NEW_TOKENS), seed=0, max_length=1_024),
            sampler=TorchSampler(student.model, (), student.packed, BATCH, sampler_type),
            config=TrainingConfig(
                batch_size=BATCH,
                max_steps=options.steps,
                epochs=1 + options.steps * BATCH // EXAMPLES,
                learning_rate=1e-4,
                precision="bfloat16" if half else "float32",
                compile="on" if name == "compiled" else "off",
            ),
            seed=0,
            folder=run,
            fingerprint="bench",
        )
    )
    losses = []
    for step in range(options.steps):
        losses.append(trainer.step(step)["loss"])
        print(f"{name}: {step + 1}/{options.steps} loss {losses[-1]:.5f}", end="\r", flush=True)
    print()
    model_module.fuse_norms, model_module.linear_objective = fuse, linear_objective
    return losses, run / "checkpoints" / "pending-0"


def draw(curves: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, height_ratios=(2, 1))
    styles = {
        "fast": ("#0072b2", "-"),
        "compiled": ("#009e73", "-."),
        "reference, bf16": ("#e69f00", "--"),
        "reference": ("#444444", ":"),
    }
    steps = range(1, len(curves["fast"]) + 1)
    for name, losses in curves.items():
        colour, line = styles[name]
        above.plot(steps, losses, line, color=colour, label=name)
        if name != "reference":
            relative = [max(abs(a - b) / b, 1e-8) for a, b in zip(losses, curves["reference"], strict=True)]
            below.semilogy(steps, relative, line, color=colour)
    above.set_ylabel("loss, nats per token")
    above.legend(frameon=False)
    below.set_ylabel("relative difference\nfrom the reference")
    below.set_xlabel("step")
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--small", action="store_true", help="tiny random models")
    parser.add_argument("--json", type=Path, help="write the losses here")
    parser.add_argument("--figure", type=Path, help="draw them here")
    options = parser.parse_args()
    curves: dict[str, list[float]] = {}
    samples = None
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options.small)
        for run in RUNS if options.device == "cuda" else [one for one in RUNS if one != "compiled"]:
            curves[run], samples = train(run, Path(name), samples, options)
    rows: list[dict[str, Any]] = []
    for run, losses in curves.items():
        differences = [abs(a - b) / b for a, b in zip(losses, curves["reference"], strict=True)]
        rows.append({"impl": run, "losses": losses, "largest_difference": max(differences)})
        print(f"{run}: loss {losses[0]:.5f} to {losses[-1]:.5f}, at most {max(differences):.1e} from the reference")
    if options.json:
        write_results(options.json, options.device, {}, rows)
    if options.figure:
        draw(curves, options.figure)


if __name__ == "__main__":
    main()
