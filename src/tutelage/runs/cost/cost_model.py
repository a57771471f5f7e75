"""What a run will need: memory, FLOPs, tokens, hours, money. Computed on paper, from constants fitted on one H100.

Per token that a model reads (`_pass`), with P matrix weights, L layers, width h, H heads of size d, vocabulary V, and a
sequence of n tokens; p = 1 for a forward pass, 3 for forward and backward, 4 with gradient checkpointing; t = 1, 4, 5:

    FLOPs   = p · (2·P + 2·L·H·d·n)
    seconds = FLOPs / (rate · min(1, h / 1460))  +  (225 · t · L · h  +  19 / 2 · V) bytes / bandwidth

Per sampled token (`_decode`), in a batch of b sequences with n tokens of context, a weight or cache entry in 2 bytes:

    seconds = ((2 · weights + b · cache bytes per token · n) / bandwidth  +  0.16 ms · L) / b

Memory per GPU of a training run on g GPUs (`_training_gib`), with m tokens per micro-batch; second line on-policy only:

    bytes = (18 · student weights + 2 · teacher weights) / g  +  53 · m · L · h  +  3 GiB
          + 2 · student weights  +  (sequences being sampled / g) · cache bytes per token · (new tokens + 200)

18 = 16 for float32 weights, gradients and two moments, and 2 for the bf16 copy. With gradient checkpointing the
activations are (2·L + 53) · m · h bytes. A run that only reads or samples holds 2 · weights / g, its caches or
12 · m · h bytes of activations, and 3 GiB. Every run takes 8 s more, to load and save.

Fitted to a 1B student with an 8B teacher (19,885 tokens/s off-policy), its profile (the loss takes 2 %), and a 64M
student with a 135M teacher (180,000 tokens/s); docs/performance.md has the runs.

Several GPUs: a training run is divided among all of the machine's, at 65 % efficiency; models that do not fit are
assumed to be sharded over more of them (`training.shard`). Every other run is one process on one GPU, or on as many as
would hold its model, which it cannot use yet. Several GPUs, machines other than an H100, and models above 10B are
marked `extrapolated`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.data.sources import local_files
from tutelage.recipe.sections import DataConfig, TaskConfig
from tutelage.recipe.stages import DistillStage, MethodStage, PruneStage, SeqkdStage, SynthesizeStage
from tutelage.recipe.study import BenchmarkTask, HeldOutTask
from tutelage.runs.cost.facts import Machine, Rows, Shape, facts, measure_rows, shape_of
from tutelage.runs.run import Run

GIB = 2**30
FULL_RATE_WIDTH = 1460  # matrix products of smaller models do not fill the machine
LAYER_BYTES = 225  # memory traffic per token, layer and unit of width; a training pass counts four times
VOCABULARY_BYTES = 19  # memory traffic per two tokens and entry of the vocabulary
DECODE_SECONDS = 0.16e-3  # per layer and decoding step
ACTIVATION_BYTES = 53  # per token of a micro-batch, layer and unit of width
STATE_BYTES, COPY_BYTES, BASE_GIB = 16, 2, 3.0  # per student weight; its bf16 copy; per GPU, whatever runs
MEASURED_WEIGHTS = 10e9  # larger models have not been measured
START_SECONDS = 8.0  # to load and save; an assumption
SHARED_EFFICIENCY = (
    0.65  # of several GPUs, beside one; measured with two, training sharded models (docs/performance.md)
)
USABLE = 0.93  # share of a GPU's memory


@dataclass(frozen=True)
class Cost:
    """What one run needs on a machine."""

    memory_gib: float  # per GPU
    gpus: int  # more than the machine has when the run does not fit on it
    flops: float
    tokens: float  # read or trained on, over all passes
    sampled: float  # tokens
    hours: float
    dollars: float
    extrapolated: bool  # beyond what the constants were fitted to


class CostModel:
    """Costs of runs on `machine`. Shapes and token statistics are looked up once per model and data section.

    `kinds.cost_of` is the way in; it knows which method of this class is for which kind of run.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._rows: dict[str, Rows] = {}

    def shape(self, run: Run, role: str) -> Shape | None:
        """The shape of the model in `role`: by hub name, from a local config.json, or that of the model from which the
        run that makes it starts. None when it is not known."""
        path = run.models[role].path
        for parent in run.parents:
            if path == str(parent.folder / "model"):
                if not isinstance(parent.config, PruneStage):
                    return self.shape(parent, "student")
                whole, prune = self.shape(parent, "model"), parent.config.prune
                return None if whole is None else replace(whole, layers=prune.layers or len(prune.keep or ()))
        if path in facts()["models"]:
            return Shape(**facts()["models"][path])
        file = Path(path).expanduser() / "config.json"
        return shape_of(json.loads(file.read_text())) if file.is_file() else None

    def rows(self, run: Run, name: str) -> Rows:
        """Rows of data section `name`: declared for hub sets, measured on local files, planned for synthetic rows."""
        config = run.data[name]
        key = f"{config.model_dump_json()} {run.recipe_folder}"
        if key not in self._rows:
            self._rows[key] = self._find_rows(run, name, config)
        return self._rows[key]

    def _find_rows(self, run: Run, name: str, config: DataConfig) -> Rows:
        maker = next(
            (p for p in run.parents if isinstance(p.config, SynthesizeStage) and p.fingerprint in str(config.path)),
            None,
        )
        if maker is not None:
            gold = self.rows(maker, maker.config.gold)
            return Rows(config.size or maker.config.rows, gold.tokens, gold.response)
        declared = facts()["data"].get(config.path if isinstance(config.path, str) else "")
        if declared is not None:
            known = Rows(**declared)
            return replace(known, rows=config.size or known.rows - config.skip)
        try:
            local = local_files(name, config, run.recipe_folder)
        except TutelageError:  # not on this machine: use what is declared for any other data
            local = None
        if not local:
            known = Rows(**facts()["other_data"])
            return replace(known, rows=config.size or known.rows)
        return measure_rows(name, config, run.recipe_folder, local)

    def _all_rows(self, run: Run, names: Sequence[str]) -> Rows:
        parts = [self.rows(run, name) for name in names]
        total = sum(part.rows for part in parts)
        tokens = sum(part.rows * part.tokens for part in parts) / max(1, total)
        return Rows(total, tokens, sum(part.rows * part.response for part in parts) / max(1, total))

    # --- one method per kind of run; `shapes` are those of its models, by role ----------------------------------------

    def training(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """A stage that trains: sft, distill, seqkd or method."""
        training, stage = run.training, run.config
        assert training is not None
        names = [name for name in run.data if name != training.validation] or list(run.data)
        data, student, teacher = self._all_rows(run, names), shapes["student"], shapes.get("teacher")
        if isinstance(stage, SeqkdStage):  # another run samples the answers; this one is an SFT on all of them
            data, teacher = replace(data, rows=data.rows * stage.samples_per_prompt), None
        length = min(data.tokens, training.max_length)
        steps_rows = data.rows * training.epochs
        if training.max_steps is not None:
            steps_rows = min(steps_rows, training.max_steps * training.batch_size)
        on_policy = stage.on_policy if isinstance(stage, DistillStage | MethodStage) else 0.0
        tokens = steps_rows * length
        seconds, flops = self._pass(student, length, training=True, checkpointing=training.gradient_checkpointing)
        if teacher is not None:
            more, work = self._pass(teacher, length)
            seconds, flops = seconds + more, flops + work
        seconds, flops = seconds * tokens, flops * tokens
        sampled = 0.0
        if on_policy:
            new = min(data.response, stage.sampling.max_new_tokens)
            sampled = steps_rows * on_policy * new
            batch = min(stage.sampling.batch_size, max(1.0, training.batch_size * on_policy))
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
        stage = run.config
        states = student.weights * (STATE_BYTES + COPY_BYTES) + (2 * teacher.weights if teacher else 0)
        width = student.hidden * micro
        activations = ACTIVATION_BYTES * width * student.layers
        if run.training.gradient_checkpointing:
            activations = (2 * student.layers + ACTIVATION_BYTES) * width
        total = states / gpus + activations
        if on_policy:
            batch = min(stage.sampling.batch_size, run.training.batch_size) / gpus
            total += 2 * student.weights  # each rank samples from a copy of its own
            total += batch * student.cache_bytes * (stage.sampling.max_new_tokens + 200)
        return total / GIB + BASE_GIB

    def synthesis(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """A synthesize stage: `rows` inputs by the generator, then as many answers by the annotator."""
        stage: SynthesizeStage = run.config
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

    def answers(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """The teacher's samples for a seqkd stage."""
        stage: SeqkdStage = run.config
        data = self._all_rows(run, list(run.data))
        new = min(data.response, stage.sampling.max_new_tokens)
        count = data.rows * stage.samples_per_prompt
        return self._sampled(shapes["teacher"], count, data.tokens - data.response, new, stage.sampling.batch_size)

    def pruning(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """A prune stage: one pass over the calibration rows per layer taken away, each shorter than the one before."""
        stage: PruneStage = run.config
        model = shapes["model"]
        passes = sum(range(stage.prune.layers or 0, model.layers)) / max(1, model.layers)
        return self._read(model, stage.prune.calibration_rows * 400 * passes, 8192)  # 400 tokens per row

    def evaluation(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """A model's answers to a task of the recipe."""
        if "model" not in shapes:  # lead-1: no model at all
            return Cost(0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, False)
        task: TaskConfig = run.config
        data = self.rows(run, task.data)
        new = min(task.sampling.max_new_tokens, max(1.0, data.response))
        return self._sampled(shapes["model"], data.rows, data.tokens - data.response, new, task.sampling.batch_size)

    def benchmark(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """A model's replies to a benchmark."""
        task: BenchmarkTask = run.config
        known = facts()["benchmarks"][task.benchmark]
        count = known.get("groups", {}).get(task.group, known["examples"])
        count = min(count, task.limit or count)
        return self._sampled(shapes["model"], count, known["prompt"], known["reply"], task.batch_size)

    def held_out(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """The loss on held-out rows, read by the model and, for KL, by the teacher."""
        task: HeldOutTask = run.config
        data = self.rows(run, task.data)
        tokens = data.rows * data.tokens
        return self._read(shapes["model"], tokens, task.tokens_per_micro_batch, shapes.get("teacher"))

    # --- the formulas -------------------------------------------------------------------------------------------------

    def _pass(
        self, shape: Shape, length: float, training: bool = False, checkpointing: bool = False
    ) -> tuple[float, float]:
        """(seconds, FLOPs) per token of a sequence of `length` tokens: one forward pass, or forward and backward."""
        passes = (4 if checkpointing else 3) if training else 1
        flops = passes * (2 * shape.matrix_weights + 2 * shape.layers * shape.heads * shape.head_dim * length)
        rate = 1e12 * self.machine.tflops * min(1.0, shape.hidden / FULL_RATE_WIDTH)
        traffic = LAYER_BYTES * shape.layers * shape.hidden * ((5 if checkpointing else 4) if training else 1)
        traffic += VOCABULARY_BYTES * shape.vocab / 2
        return flops / rate + traffic / (1e12 * self.machine.bandwidth), flops

    def _decode(self, shape: Shape, batch: float, context: float) -> float:
        """Seconds per sampled token, in a batch of `batch` sequences with `context` tokens before it."""
        read = 2 * shape.weights + batch * shape.cache_bytes * context
        return (read / (1e12 * self.machine.bandwidth) + DECODE_SECONDS * shape.layers) / max(1.0, batch)

    def _sampled(self, shape: Shape, count: float, prompt: float, new: float, batch: int) -> Cost:
        """`count` prompts of `prompt` tokens are read, and `new` tokens sampled for each."""
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
        """`tokens` are read in micro-batches of `micro` tokens, by each of the models."""
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

    def _gpus(self, gib: Callable[[int], float], least: int) -> int:
        """The smallest multiple of `least` GPUs, up to the 64th, on which the memory per GPU, `gib(gpus)`, fits."""
        gpus = least
        while gib(gpus) > USABLE * self.machine.memory and gpus < 64 * least:
            gpus += least
        return gpus

    def _total(
        self, gib: float, gpus: int, flops: float, tokens: float, sampled: float, seconds: float, largest: float
    ) -> Cost:
        hours = (seconds / gpus / (SHARED_EFFICIENCY if gpus > 1 else 1.0) + START_SECONDS) / 3600
        extrapolated = not self.machine.measured or gpus > 1 or largest > MEASURED_WEIGHTS
        return Cost(gib, gpus, flops, tokens, sampled, hours, hours * gpus * self.machine.price, extrapolated)
