"""The `held_out` run of a study: a model's loss on held-out rows, and its distance from a teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from tutelage.common.types import MicroBatch, TokenSequence
from tutelage.data.batch import make_micro_batches
from tutelage.data.encode_rows import messages_asked
from tutelage.evaluation.records import ExampleRecord, write_records
from tutelage.evaluation.tasks import prompt_text
from tutelage.loss.objective import CrossEntropy, Divergence
from tutelage.models.load import LoadedModel, load_model
from tutelage.models.vocabulary import check_vocabularies
from tutelage.recipe.study import HeldOutTask
from tutelage.runs.run import Run
from tutelage.runs.stages.encode import encoded
from tutelage.teachers.local import LocalTeacher


def measure_held_out(run: Run) -> dict[str, Any]:
    """Measure `loss`, and with a teacher `kl` = KL(teacher ‖ model), in nats per response token; lower is better.

    An example's score is its mean over tokens; the run's is the mean over all tokens, as in training. Returns the
    content of result.json; writes one record per example.
    """
    task: HeldOutTask = run.config
    kind = torch.bfloat16 if run.device == "cuda" else torch.float32
    loaded = load_model(run.models["model"], run.device, kind)
    teacher = load_model(run.models["teacher"], run.device, kind) if "teacher" in run.models else None
    if teacher is not None:
        check_vocabularies(teacher.tokenizer, loaded.tokenizer)
    data = encoded(run, task.data, loaded, task.max_length, teacher)
    sequences = data.sequences
    sums = _losses(loaded, teacher, sequences, task.tokens_per_micro_batch)
    names = ["loss"] if teacher is None else ["loss", "kl"]
    records = []
    for sequence in {one.index: one for one in sequences}.values():  # the last one of each row
        conversation, (tokens, *values) = data.conversations[sequence.index], sums[sequence.index]
        scores: dict[str, float | None] = {name: v / tokens for name, v in zip(names, values, strict=False)}
        asked = messages_asked(conversation, sequence)
        values_text = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        records.append(
            ExampleRecord(
                id=conversation.id,
                prompt=prompt_text(asked),
                response=conversation.messages[len(asked)].content,
                references=(),
                scores=scores,
                answer=None,
                reason=f"{values_text} nats per token over {int(tokens)} tokens of the row's own response",
                finished=True,
                tokens=int(tokens),
            )
        )
    write_records(run.folder, records)
    return {
        "kind": run.kind,
        "stage": run.stage,
        "task": run.task,
        "model": run.subject,
        "seed": run.seed,
        "n": len(records),
        "unscored": 0,
        "headline": "loss",
        "metrics": {name: _token_mean(records, name) for name in names},
        "cut": data.report["cut"],
        "too_long": data.report["too_long"],
        "mean_tokens": sum(record.tokens for record in records) / len(records),
    }


@torch.no_grad()
def _losses(
    loaded: LoadedModel, teacher: LoadedModel | None, sequences: Sequence[TokenSequence], budget: int
) -> dict[int, list[float]]:
    """By row: [response tokens, summed cross-entropy, summed KL(teacher ‖ model) if there is a teacher], in nats."""
    from tutelage.models.language_model import LanguageModel

    module = LanguageModel(loaded.model).eval()
    device = next(loaded.model.parameters()).device
    signal_of = None if teacher is None else LocalTeacher(teacher, loaded.template.end_of_turn_id)
    objective = CrossEntropy() if signal_of is None else Divergence(0.0)
    pad = loaded.tokenizer.pad_token_id or 0
    out: dict[int, list[float]] = {}
    for made in make_micro_batches(sequences, [1.0] * len(sequences), budget, not loaded.packed, pad):
        batch: MicroBatch = made.to(device)
        _, stats = module(batch, objective, None if signal_of is None else signal_of.signal(batch))
        values = [torch.ones_like(stats.cross_entropy), stats.cross_entropy]
        values += [] if stats.forward_kl is None else [stats.forward_kl]
        totals = torch.zeros(len(batch.indices), len(values), dtype=torch.float64, device=device)
        totals.index_add_(0, batch.rows, torch.stack(values, 1).double())
        for index, sums in zip(batch.indices, totals.tolist(), strict=True):  # a row may be several sequences
            out[index] = [a + b for a, b in zip(out.get(index, [0.0] * len(sums)), sums, strict=True)]
    return out


def _token_mean(records: list[ExampleRecord], name: str) -> dict[str, float | None]:
    """Mean over tokens and its standard error over examples (of a ratio of means)."""
    values = [(record.scores[name] or 0.0, record.tokens) for record in records]
    tokens = sum(count for _, count in values)
    mean = sum(value * count for value, count in values) / tokens
    n = len(values)
    spread = sum((count * (value - mean)) ** 2 for value, count in values)
    error = math.sqrt(spread * n / (n - 1)) / tokens if n > 1 else None
    return {"value": mean, "stderr": error}
