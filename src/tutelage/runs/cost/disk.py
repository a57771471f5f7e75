"""The disk of a run: what stays in its folder, and what is there while it runs. Bytes, of estimated lengths.

A saved model takes 4 bytes per weight (2 for `pure_bfloat16`; as `save_precision` says), a checkpoint three times as
much as the trained weights (with Adam's two moments; 1.5 times in eight bits on one rank); while a new checkpoint
replaces the old one there are both. A model trained by an adapter takes 2 on CUDA, and its checkpoints hold the adapter
alone. A teacher's signal that is kept (`signal.cache`) takes 2 bytes per response
token and unit of width (4 in float32), or 8 per likeliest token; runs that ask the same of one teacher share it. Text
takes 4 bytes per token, token ids 7 as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tutelage.common.hashing import canonical
from tutelage.recipe.stages import DistillStage, PruneStage
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.run import Run

TEXT, IDS = 4, 7  # bytes per token, as text and as ids in JSON
RECORD = 600  # bytes of a record beside its texts
COPIES = {"evaluate": 1, "benchmark": 2, "held_out": 1, "signals": 1}  # files with an evaluation's records


@dataclass(frozen=True)
class Disk:
    """Bytes on disk."""

    models: float = 0.0
    texts: float = 0.0  # replies, synthetic rows, teacher's answers
    checkpoints: float = 0.0  # only while runs train
    signals: float = 0.0  # of teachers, kept for all runs

    @property
    def total(self) -> float:
        """Everything at the fullest moment."""
        return self.models + self.texts + self.checkpoints + self.signals


def disk_of(run: Run, model: CostModel) -> Disk:
    """What one run writes. Models of unknown shape count as 0."""
    if isinstance(run.config, PruneStage):
        shape, prune = model.shape(run, "model"), run.config.prune
        kept = None if shape is None else replace(shape, layers=prune.layers or len(prune.keep or ()))
        return Disk(models=4.0 * kept.weights if kept else 0.0)
    if run.training is not None:
        shape = model.shape(run, "student")
        pure, weights = run.training.precision == "pure_bfloat16", shape.weights if shape else 0
        held, signals, wanted = (2.0 if pure else 4.0) * weights, _signals(run, model), run.training.save_precision
        saved = held if wanted is None else {"float32": 4.0, "bfloat16": 2.0}[wanted] * weights
        if run.lora is None or shape is None:
            coded = run.training.optimizer == "adamw_8bit" and not run.training.shard
            state = held + 2.0 * weights if coded else 3 * held
            return Disk(models=saved, checkpoints=2 * state, signals=signals)
        adapter = 4.0 * shape.adapter_weights(run.lora)
        merged = saved if wanted is not None or run.device == "cpu" else 2.0 * weights
        whole = 0.0 if run.lora.keep_adapter else merged
        return Disk(models=whole + adapter, checkpoints=2 * 3 * adapter, signals=signals)
    return Disk(texts=_texts(run, model))


def disk_of_all(runs: Sequence[Run], model: CostModel, jobs: int = 1) -> Disk:
    """What runs write together, `jobs` of them at a time."""
    parts = [disk_of(run, model) for run in runs]
    checkpoints = sorted((part.checkpoints for part in parts), reverse=True)[:jobs]
    signals = {_signal_key(run): part.signals for run, part in zip(runs, parts, strict=True) if part.signals}
    texts = sum(part.texts for part in parts)
    return Disk(sum(part.models for part in parts), texts, sum(checkpoints), sum(signals.values()))


def _signals(run: Run, model: CostModel) -> float:
    """The teacher's signal on all response tokens of a run."""
    stage, training = run.config, run.training
    teacher = model.shape(run, "teacher") if "teacher" in run.models else None
    if not isinstance(stage, DistillStage) or stage.signal.cache is None or teacher is None or training is None:
        return 0.0
    wide = run.device == "cpu" or training.precision == "float32"
    width = 4 if wide and stage.signal.cache == "exact" else 2
    size = 8 * stage.signal.top_k + 4 if stage.signal.cache == "top_k" else width * teacher.hidden
    rows = [model.rows(run, name) for name in run.data]
    return size * sum(part.rows * min(part.response, training.max_length) for part in rows)


def _signal_key(run: Run) -> str:
    """Equal for runs that share a kept signal."""
    data = {name: config.model_dump(mode="json") for name, config in run.data.items()}
    kept = run.config.signal.model_dump(include={"cache", "top_k"})
    return canonical([data, run.models["teacher"].model_dump(mode="json"), kept, run.device])


def _texts(run: Run, model: CostModel) -> float:
    if run.kind == "synthesize":  # as if every row were accepted
        gold = model.rows(run, run.config.gold)
        return run.config.rows * (TEXT * gold.tokens + RECORD)
    if run.kind == "answers":
        rows = [model.rows(run, name) for name in run.data]
        samples = sum(part.rows for part in rows) * run.config.samples_per_prompt
        new = sum(part.rows * part.response for part in rows) / max(1, sum(part.rows for part in rows))
        return samples * ((TEXT + IDS) * min(new, run.config.sampling.max_new_tokens) + 100)
    if run.kind not in COPIES:
        return 0.0
    count, prompt, reply = model.replies(run)
    raw = TEXT * reply + RECORD / 2 if run.kind == "benchmark" else 0.0  # the replies before they are scored
    return count * (COPIES[run.kind] * (TEXT * (prompt + reply) + RECORD) + raw)
