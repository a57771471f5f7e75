"""What a run will need: memory, FLOPs, tokens, hours, money. A model on paper, fitted to measured runs on one H100.

Time of training, a token: matrix products at the machine's rate (2 FLOP a weight and pass; below a width of 1,460 the
rate falls in proportion), plus memory traffic of everything else: 225 bytes a layer and unit of width and pass, and 19
bytes an entry of the vocabulary. Fitted to a 1B student with an 8B teacher (19,885 tokens/s off-policy), its profile
(the loss is 2 %), and a 64M student with a 135M teacher (180,000 tokens/s); docs/performance.md has the runs.
Time of sampling, a step of a batch: weights and caches read once, plus 0.16 ms a layer.
Memory: 16 bytes a student weight (float32 weights, gradients, two moments) and 2 for its bf16 copy, 2 a teacher weight,
53 bytes a token of a micro-batch, layer and unit of width, and 3 GiB.
Every run takes 8 s more, to load and save.
Several GPUs: training is divided among the machine's, and what does not fit is taken to be shared by more of them
(`training.shard`); everything else is one process and has one GPU, or as many as would hold its model, which it cannot
use yet. Several GPUs, others than an H100, and teachers above 10B are marked `extrapolated`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.data.sources import local_files
from tutelage.recipe.sections import DataConfig, TaskConfig
from tutelage.recipe.stages import PruneStage, SeqkdStage, SynthesizeStage
from tutelage.runs.cost.facts import Machine, Rows, Shape, facts, measure_rows, shape_of
from tutelage.runs.run import Run

GIB = 2**30
FULL_RATE_WIDTH = 1460  # matrix products of smaller models do not fill the machine
LAYER_BYTES = 225  # memory traffic a token, layer, unit of width; a training pass counts four times
VOCABULARY_BYTES = 19
DECODE_SECONDS = 0.16e-3  # a layer and step
ACTIVATION_BYTES = 53
STATE_BYTES, COPY_BYTES, BASE_GIB = 16, 2, 3.0
MEASURED_TEACHER = 10e9
START_SECONDS = 8.0  # to load and save; an assumption
SHARED_EFFICIENCY = 0.65  # of models shared by several GPUs; measured with two, training (docs/performance.md)
USABLE = 0.93  # of a GPU's memory


@dataclass(frozen=True)
class Cost:
    """What one run needs on a machine. `gpus` is more than the machine has where it does not fit on it."""

    memory_gib: float  # a GPU
    gpus: int
    flops: float
    tokens: float  # read or trained on, over all passes
    sampled: float  # tokens
    hours: float
    dollars: float
    extrapolated: bool


class CostModel:
    """Costs of runs. Shapes and token statistics are looked up once."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._rows: dict[str, Rows] = {}

    def cost(self, run: Run) -> Cost | None:
        """None where a model's shape is not known."""
        shapes = {role: self.shape(run, role) for role in run.models}
        if any(shape is None for shape in shapes.values()):
            return None
        known = {role: shape for role, shape in shapes.items() if shape is not None}
        if run.kind in ("evaluate", "benchmark", "held_out"):
            return self._evaluation(run, known)
        if run.kind == "answers":
            stage: SeqkdStage = run.spec
            data = self._together(run, list(run.data))
            new = min(data.response, stage.sampling.max_new_tokens)
            count = data.rows * stage.samples_per_prompt
            return self._sampled(known["teacher"], count, data.tokens - data.response, new, stage.sampling.batch_size)
        if run.kind == "synthesize":
            return self._synthesis(run, known)
        if isinstance(run.spec, PruneStage):
            model = known["model"]
            passes = sum(range(run.spec.prune.layers or 0, model.layers)) / max(1, model.layers)
            return self._read(model, run.spec.prune.calibration_rows * 400 * passes, 8192)
        return self._training(run, known)

    def hours(self, run: Run) -> float:
        """0 where a model's shape is not known."""
        cost = self.cost(run)
        return cost.hours if cost is not None else 0.0

    def shape(self, run: Run, role: str) -> Shape | None:
        """The shape of a model: by hub name, from a local config.json, or of what the run that makes it starts from."""
        path = run.models[role].path
        for parent in run.parents:
            if path == str(parent.folder / "model"):
                base = self.shape(parent, "model" if isinstance(parent.spec, PruneStage) else "student")
                if base is not None and isinstance(parent.spec, PruneStage):
                    prune = parent.spec.prune
                    return replace(base, layers=prune.layers or len(prune.keep or ()))
                return base
        if path in facts()["models"]:
            return Shape(**facts()["models"][path])
        file = Path(path).expanduser() / "config.json"
        return shape_of(json.loads(file.read_text())) if file.is_file() else None

    def rows(self, run: Run, name: str) -> Rows:
        """Rows of a data section: declared for hub sets, looked at for local files, planned for synthetic ones."""
        config = run.data[name]
        key = f"{config.model_dump_json()} {run.base}"
        if key not in self._rows:
            self._rows[key] = self._look(run, name, config)
        return self._rows[key]

    def _look(self, run: Run, name: str, config: DataConfig) -> Rows:
        maker = next(
            (p for p in run.parents if isinstance(p.spec, SynthesizeStage) and p.fingerprint in str(config.path)), None
        )
        if maker is not None:
            gold = self.rows(maker, maker.spec.gold)
            return Rows(config.size or maker.spec.rows, gold.tokens, gold.response)
        declared = facts()["data"].get(config.path if isinstance(config.path, str) else "")
        if declared is not None:
            known = Rows(**declared)
            return replace(known, rows=config.size or known.rows - config.skip)
        try:
            local = local_files(name, config, run.base)
        except TutelageError:  # not here; what is declared for all must do
            local = None
        if not local:
            known = Rows(**facts()["other_data"])
            return replace(known, rows=config.size or known.rows)
        return measure_rows(name, config, run.base, local)

    def _together(self, run: Run, names: Sequence[str]) -> Rows:
        parts = [self.rows(run, name) for name in names]
        total = sum(part.rows for part in parts)
        tokens = sum(part.rows * part.tokens for part in parts) / max(1, total)
        return Rows(total, tokens, sum(part.rows * part.response for part in parts) / max(1, total))

    def _training(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        training, spec = run.training, run.spec
        assert training is not None
        names = [name for name in run.data if name != training.validation] or list(run.data)
        data, student, teacher = self._together(run, names), shapes["student"], shapes.get("teacher")
        if isinstance(spec, SeqkdStage):  # the answers are another run's; the loss is an SFT's on all of them
            data, teacher = replace(data, rows=data.rows * spec.samples_per_prompt), None
        length = min(data.tokens, training.max_length)
        steps_rows = data.rows * training.epochs
        if training.max_steps is not None:
            steps_rows = min(steps_rows, training.max_steps * training.batch_size)
        on_policy = getattr(spec, "on_policy", 0.0)
        tokens = steps_rows * length
        seconds, flops = self._pass(student, length, training=True, checkpointing=training.gradient_checkpointing)
        if teacher is not None:
            more, work = self._pass(teacher, length)
            seconds, flops = seconds + more, flops + work
        seconds, flops = seconds * tokens, flops * tokens
        sampled = 0.0
        if on_policy:
            new = min(data.response, spec.sampling.max_new_tokens)
            sampled = steps_rows * on_policy * new
            batch = min(spec.sampling.batch_size, max(1.0, training.batch_size * on_policy))
            seconds += sampled * self._decode(student, batch, length)
            flops += 2 * student.matrix_weights * sampled
        micro = max(training.tokens_per_micro_batch, 1)
        gpus = self._gpus(lambda n: self._training_gib(run, student, teacher, micro, on_policy, n), self.machine.gpus)
        return self._total(
            self._training_gib(run, student, teacher, micro, on_policy, gpus), gpus, flops, tokens, sampled, seconds,
            max((teacher.weights if teacher else 0), student.weights),
        )  # fmt: skip

    def _training_gib(
        self, run: Run, student: Shape, teacher: Shape | None, micro: int, on_policy: float, gpus: int
    ) -> float:
        assert run.training is not None
        states = student.weights * (STATE_BYTES + COPY_BYTES) + (2 * teacher.weights if teacher else 0)
        width = student.hidden * micro
        activations = ACTIVATION_BYTES * width * student.layers
        if run.training.gradient_checkpointing:
            activations = (2 * student.layers + ACTIVATION_BYTES) * width
        total = states / gpus + activations
        if on_policy:
            batch = min(run.spec.sampling.batch_size, run.training.batch_size) / gpus
            total += 2 * student.weights  # each rank samples from a copy of its own
            total += batch * student.cache_bytes * (run.spec.sampling.max_new_tokens + 200)
        return total / GIB + BASE_GIB

    def _synthesis(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        stage: SynthesizeStage = run.spec
        gold = self.rows(run, stage.gold)
        question = gold.tokens - gold.response
        prompt = stage.demonstrations * gold.tokens
        inputs = self._sampled(shapes["generator"], stage.rows, prompt, question, stage.inputs.batch_size)
        answers = self._sampled(shapes["annotator"], stage.rows, question, gold.response, stage.answers.batch_size)
        return replace(
            inputs,
            memory_gib=max(inputs.memory_gib, answers.memory_gib),
            gpus=max(inputs.gpus, answers.gpus),
            flops=inputs.flops + answers.flops,
            tokens=inputs.tokens + answers.tokens,
            sampled=inputs.sampled + answers.sampled,
            hours=inputs.hours + answers.hours,
            dollars=inputs.dollars + answers.dollars,
        )

    def _evaluation(self, run: Run, shapes: dict[str, Shape]) -> Cost | None:
        if "model" not in shapes:  # lead-1: no model at all
            return Cost(0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, False)
        model = shapes["model"]
        if run.kind == "held_out":
            (name,) = run.data
            data = self.rows(run, name)
            return self._read(model, data.rows * data.tokens, run.spec.tokens_per_micro_batch, shapes.get("teacher"))
        if run.kind == "benchmark":
            known = facts()["benchmarks"][run.spec.benchmark]
            count = min(known["examples"], run.spec.limit or known["examples"])
            return self._sampled(model, count, known["prompt"], known["reply"], run.spec.batch_size)
        task: TaskConfig = run.spec
        data = self.rows(run, task.data)
        new = min(task.sampling.max_new_tokens, max(1.0, data.response))
        return self._sampled(model, data.rows, data.tokens - data.response, new, task.sampling.batch_size)

    # --- the model itself ---------------------------------------------------------------------------------------------

    def _pass(
        self, shape: Shape, length: float, training: bool = False, checkpointing: bool = False
    ) -> tuple[float, float]:
        """(seconds, FLOPs) a token: one forward, or forward and backward."""
        passes = (4 if checkpointing else 3) if training else 1
        flops = passes * (2 * shape.matrix_weights + 2 * shape.layers * shape.heads * shape.head_dim * length)
        rate = 1e12 * self.machine.tflops * min(1.0, shape.hidden / FULL_RATE_WIDTH)
        traffic = LAYER_BYTES * shape.layers * shape.hidden * ((5 if checkpointing else 4) if training else 1)
        traffic += VOCABULARY_BYTES * shape.vocab / 2
        return flops / rate + traffic / (1e12 * self.machine.bandwidth), flops

    def _decode(self, shape: Shape, batch: float, context: float) -> float:
        """Seconds a sampled token."""
        read = 2 * shape.weights + batch * shape.cache_bytes * context
        return (read / (1e12 * self.machine.bandwidth) + DECODE_SECONDS * shape.layers) / max(1.0, batch)

    def _sampled(self, shape: Shape, count: float, prompt: float, new: float, batch: int) -> Cost:
        seconds, flops = self._pass(shape, prompt)
        batch = int(min(batch, max(1, count)))
        seconds = count * (prompt * seconds + new * self._decode(shape, batch, prompt + new))
        cache = batch * shape.cache_bytes * (prompt + new)

        def gib(gpus: int) -> float:
            return (2 * shape.weights / gpus + cache) / GIB + BASE_GIB

        gpus = self._gpus(gib, 1)
        flops = count * (prompt * flops + 2 * new * shape.matrix_weights)
        return self._total(gib(gpus), gpus, flops, count * prompt, count * new, seconds, shape.weights)

    def _read(self, shape: Shape, tokens: float, micro: int, teacher: Shape | None = None) -> Cost:
        seconds, flops = 0.0, 0.0
        models = [shape, *([] if teacher is None else [teacher])]
        for one in models:
            more, work = self._pass(one, 500)
            seconds, flops = seconds + more, flops + work
        weights = sum(one.weights for one in models)

        def gib(gpus: int) -> float:
            return (2 * weights / gpus + 12 * shape.hidden * micro) / GIB + BASE_GIB

        gpus = self._gpus(gib, 1)
        return self._total(gib(gpus), gpus, flops * tokens, tokens, 0.0, seconds * tokens, weights)

    def _gpus(self, gib: Any, least: int) -> int:
        """`least` GPUs, or as many times as many until a GPU's share fits (at most 64 times)."""
        gpus = least
        while gib(gpus) > USABLE * self.machine.memory and gpus < 64 * least:
            gpus += least
        return gpus

    def _total(
        self, gib: float, gpus: int, flops: float, tokens: float, sampled: float, seconds: float, largest: float
    ) -> Cost:
        hours = (seconds / gpus / (SHARED_EFFICIENCY if gpus > 1 else 1.0) + START_SECONDS) / 3600
        strange = not self.machine.measured or gpus > 1 or largest > MEASURED_TEACHER
        return Cost(gib, gpus, flops, tokens, sampled, hours, hours * gpus * self.machine.price, strange)
