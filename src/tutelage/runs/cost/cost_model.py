"""What a run will need: FLOPs, tokens, hours, money. Computed on paper, from constants fitted on one H100.

What a token takes that is read or sampled is in `formulas.py`, memory in `memory.py`. Every run takes 8 s more, to load
and save.

Fitted to a 1B student with an 8B teacher (19,681 tokens/s off-policy) and its profile (the loss takes 2 %);
docs/study.md has the runs, and says what is a guess.

Several GPUs: a training run is divided among them, at 95 % efficiency where each rank has whole models and 77 % where
they share (`training.shard`); a decoding step takes its time however few rows a rank has. Ranks on several hosts also
wait for their network where gathering weights, or summing gradients, takes it longer than the GPUs compute
(`network.py`). Models that only write are read and decoded by `tensor_parallel` GPUs, at 75 % (an assumption); any
other run is one process on one GPU. Marked `extrapolated` is what no measured step stands for: more than two GPUs,
machines other than an H100 and an H200, models above 71B, and `int8` (float8 counts as 1.75 times the rate of
products). The decoding step is that of Llama and its like on an H200; others take 0.11 ms per layer there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tutelage.common.errors import TutelageError
from tutelage.data.sources import local_files
from tutelage.evaluation.benchmarks import benchmark
from tutelage.recipe.sections import DataConfig, SamplingConfig, TaskConfig
from tutelage.recipe.stages import DistillStage, MethodStage, PruneStage, SeqkdStage, SynthesizeStage
from tutelage.recipe.study import BenchmarkTask, HeldOutTask, SignalsTask
from tutelage.runs.cost.facts import Machine, Rows, Shape, facts, measure_rows, shape_at
from tutelage.runs.cost.formulas import decode_seconds, read_cost
from tutelage.runs.cost.memory import (
    BENCHMARK_SHARE,
    GIB,
    Memory,
    Sampling,
    beside_once,
    compiles,
    pruning_memory,
    reading_memory,
    sampling_memory,
    training_memory,
)
from tutelage.runs.cost.network import exchange_seconds
from tutelage.runs.run import Run, frozen_base, gpus_of

if TYPE_CHECKING:
    from tutelage.data.chat_template import ChatTemplate

MEASURED_WEIGHTS = 71e9  # larger models have not been measured, nor steps of more GPUs
MEASURED_GPUS = 2
START_SECONDS = 8.0  # to load and save; an assumption
# Of several GPUs, beside one, each with whole models or sharing them; measured with two (docs/performance.md)
WHOLE_EFFICIENCY, SHARED_EFFICIENCY = 0.95, 0.77
PARALLEL_EFFICIENCY = 0.75  # of GPUs that hold one model together, beside one; an assumption
CALIBRATION_TOKENS = 400  # per row; an assumption


@dataclass(frozen=True)
class Cost:
    """What one run needs on a machine."""

    memory_gib: float  # per GPU, whether the GPU has as much or not
    gpus: int  # ranks of a training run; those that hold its models for every other; 0 without a model
    flops: float
    tokens: float  # read or trained on, over all passes
    sampled: float  # tokens
    hours: float
    dollars: float
    extrapolated: bool  # beyond what the constants were fitted to
    memory_parts: Mapping[str, float]  # GiB
    rows: tuple[int, ...] = ()  # that its samplers decode at a time: as asked, or as their caches have room for


class CostModel:
    """Costs of runs on `machine`. Shapes and token statistics are looked up once per model and data section.

    `ranks`: of a training run (`--gpus-per-run`); by default, all GPUs of the machine. `template`: makes the tokens of
    rows that are here; without it they are guessed by their characters. `kinds.cost_of` is the way in; it knows which
    method of this class is for which kind.
    """

    def __init__(self, machine: Machine, ranks: int | None = None, template: ChatTemplate | None = None) -> None:
        self.machine, self.ranks, self.template = machine, machine.gpus if ranks is None else ranks, template
        self._rows: dict[str, Rows] = {}

    def elsewhere(self, machine: Machine, ranks: int) -> CostModel:
        """The same model for another machine or number of ranks."""
        other = CostModel(machine, ranks, self.template)
        other._rows = self._rows
        return other

    def shape(self, run: Run, role: str) -> Shape | None:
        """The shape of the model in `role`: as `shape_at` knows it, or that of the model from which the run that
        makes it starts. None when it is not known."""
        precision = run.models[role].precision
        if precision is not None:
            plain = run.models[role].model_copy(update={"precision": None})
            found = self.shape(replace(run, models={**run.models, role: plain}), role)
            return None if found is None else replace(found, precision=precision)
        path = run.models[role].path
        for parent in run.parents:
            if path == str(parent.folder / "model"):
                if not isinstance(parent.config, PruneStage):
                    return self.shape(parent, "student")
                whole, prune = self.shape(parent, "model"), parent.config.prune
                return None if whole is None else replace(whole, layers=prune.layers or len(prune.keep or ()))
        return shape_at(path, run.models[role].revision)

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
        return measure_rows(name, config, run.recipe_folder, local, self.template)

    def _all_rows(self, run: Run, names: Sequence[str]) -> Rows:
        parts = [self.rows(run, name) for name in names]
        total = sum(part.rows for part in parts)
        tokens = sum(part.rows * part.tokens for part in parts) / max(1, total)
        answers = tuple(answer for part in parts for answer in part.answers)
        return Rows(total, tokens, sum(part.rows * part.response for part in parts) / max(1, total), answers)

    def trained_on(self, run: Run) -> Rows:
        """The rows that a training stage takes in one pass: of all sections that it names, each as often as named, and
        in `seqkd` all answers."""
        names = [run.config.data] if isinstance(run.config.data, str) else run.config.data
        data = self._all_rows(run, names)
        copies = run.config.samples_per_prompt if isinstance(run.config, SeqkdStage) else 1
        return replace(data, rows=data.rows * copies)

    def steps(self, run: Run) -> int:
        """Optimizer steps of a training stage: as many as `max_steps` says, fewer or more than `epochs` take."""
        training = run.training
        assert training is not None
        per_epoch = max(1, math.ceil(self.trained_on(run).rows / training.batch_size))
        return training.max_steps or per_epoch * training.epochs

    # --- one method per kind of run; `shapes` are those of its models, by role ----------------------------------------

    def training(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """A stage that trains: sft, distill, seqkd or method."""
        training, stage = run.training, run.config
        assert training is not None
        data, student, teacher = self.trained_on(run), shapes["student"], shapes.get("teacher")
        if isinstance(stage, SeqkdStage):  # another run samples the answers; this one is an SFT on all of them
            teacher = None
        length = min(data.tokens, training.max_length)
        steps_rows = self.steps(run) * min(training.batch_size, data.rows)
        if training.max_steps is None:  # the last batch of an epoch may be short
            steps_rows = data.rows * training.epochs
        on_policy = stage.on_policy if isinstance(stage, DistillStage | MethodStage) else 0.0
        prompt, sampling, new = data.tokens - data.response, None, 0.0
        if on_policy:
            new = min(data.response, stage.sampling.max_new_tokens)
            sampling = Sampling(student, stage.sampling, prompt, training.batch_size * on_policy / self.ranks)
        per_step = training.batch_size * length
        held, share = teacher, 1.0 if teacher is not None else 0.0  # of the tokens are read by the teacher here
        shared = teacher is not None and run.lora is not None and _shares_base(run)
        if isinstance(stage, DistillStage) and stage.signal.elsewhere:
            held, share = None, 0.0
        elif isinstance(stage, DistillStage) and stage.signal.cache:  # the data's responses once, not in every epoch
            once = min(1.0, data.rows / max(1.0, steps_rows))
            held, share = (teacher if on_policy else None), on_policy + (1.0 - on_policy) * once
            shared = shared and not training.shard
        compiled = compiles(training, student, held, steps_rows * length, self.machine)
        memory = training_memory(
            training, student, held, sampling, per_step, self.machine, self.ranks, run.lora, shared, compiled
        )
        if share and held is None and teacher is not None and not shared:
            memory = beside_once(memory, student, teacher, self.machine, run.lora)
        tokens, sampled = steps_rows * length, steps_rows * on_policy * new
        learnt = data.response / data.tokens
        seconds, flops = read_cost(
            self.machine,
            student,
            length,
            learnt,
            compiled,
            training=True,
            checkpointing=memory.recomputes,
            frozen=run.lora is not None,
        )
        if teacher is not None:
            more, work = read_cost(self.machine, teacher, length, learnt, compiled)
            seconds, flops = seconds + share * more, flops + share * work
        efficiency = SHARED_EFFICIENCY if training.shard else WHOLE_EFFICIENCY
        seconds *= tokens / (self.ranks * efficiency if self.ranks > 1 else 1)
        seconds = max(seconds, exchange_seconds(run, student, held, tokens, self.machine, self.ranks))
        if sampling is not None:
            batch = min(memory.slots[0], max(1.0, sampling.count))
            seconds += sampled / self.ranks * decode_seconds(self.machine, student, batch, length)
        flops = flops * tokens + 2 * student.matrix_weights * sampled
        flops += (
            steps_rows * on_policy * prompt * read_cost(self.machine, student, prompt, 0.0)[1]
        )  # read again by the sampler
        more, work = self._validation(run, student, teacher if share else None)
        seconds, flops = seconds + more / self.ranks, flops + work
        largest = max((teacher.weights if teacher and share else 0), student.weights)
        unmeasured = any(model.precision == "int8" for model in run.models.values())
        return self._total(memory, self.ranks, flops, tokens, sampled, seconds, largest, unmeasured)

    def _validation(self, run: Run, student: Shape, teacher: Shape | None) -> tuple[float, float]:
        """(seconds, FLOPs) on one GPU of the loss on validation rows: before training, after it, and every
        `evaluate_every` steps. A kept signal of the teacher is computed once."""
        training, stage = run.training, run.config
        if training is None or training.validation is None:
            return 0.0, 0.0
        data, times = self.rows(run, training.validation), 2 + self.steps(run) // (training.evaluate_every or 10**9)
        asked = 1 if isinstance(stage, DistillStage) and stage.signal.cache else times
        tokens, learnt = data.rows * min(data.tokens, training.max_length), data.response / data.tokens
        seconds, flops = read_cost(self.machine, student, data.tokens, learnt)
        more, work = read_cost(self.machine, teacher, data.tokens, learnt) if teacher is not None else (0.0, 0.0)
        return tokens * (times * seconds + asked * more), tokens * (times * flops + asked * work)

    def synthesis(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """A synthesize stage: `rows` inputs by the generator, then as many answers by the annotator. Both are held all
        the time, unless they are one model; each has its own sampler."""
        stage: SynthesizeStage = run.config
        gold = self.rows(run, stage.gold)
        question = gold.tokens - gold.response
        prompt = stage.demonstrations * gold.tokens
        held = dict(shapes)
        if run.models["annotator"] == run.models["generator"]:
            del held["annotator"]
        asked = (Sampling(shapes["generator"], stage.inputs, prompt, stage.rows),
                 Sampling(shapes["annotator"], stage.answers, question, stage.rows))  # fmt: skip
        return self._sampled(held, asked, (question, gold.response), gpus_of(run, 1))

    def answers(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """The teacher's samples for a seqkd stage."""
        stage: SeqkdStage = run.config
        data = self._all_rows(run, list(run.data))
        new = min(data.response, stage.sampling.max_new_tokens)
        count = data.rows * stage.samples_per_prompt
        asked = Sampling(shapes["teacher"], stage.sampling, data.tokens - data.response, count)
        return self._sampled(shapes, (asked,), (new,), gpus_of(run, 1))

    def pruning(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """A prune stage: one pass over the calibration rows per layer taken away, each shorter than the one before."""
        stage: PruneStage = run.config
        model, calibrated = shapes["model"], stage.prune.calibration is not None
        passes = sum(range(stage.prune.layers or 0, model.layers)) / max(1, model.layers)
        tokens = stage.prune.calibration_rows * CALIBRATION_TOKENS if calibrated else 0
        memory = pruning_memory(model, min(tokens, 8192), self.machine)
        return self._read([model], tokens * passes, memory)

    def evaluation(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """A model's answers to a task of the recipe."""
        if "model" not in shapes:  # lead-1: no model at all
            return Cost(0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, False, {})
        task: TaskConfig = run.config
        count, prompt, reply = self.replies(run)
        asked = Sampling(shapes["model"], task.sampling, prompt, count)
        return self._sampled(shapes, (asked,), (reply,), gpus_of(run, 1))

    def benchmark(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """A model's replies to a benchmark. A judge is elsewhere, behind an address."""
        task: BenchmarkTask = run.config
        count, prompt, reply = self.replies(run)
        most = task.max_new_tokens or benchmark(task.benchmark).max_new_tokens
        config = SamplingConfig(batch_size=task.batch_size)
        asked = Sampling(shapes["model"], config, prompt, count, new=most, share=BENCHMARK_SHARE)
        return self._sampled(shapes, (asked,), (reply,), gpus_of(run, 1))

    def replies(self, run: Run) -> tuple[float, float, float]:
        """Of an evaluation: the number of its examples, and their tokens per prompt and per reply."""
        if isinstance(run.config, BenchmarkTask):
            known = facts()["benchmarks"][run.config.benchmark]
            count = known.get("groups", {}).get(run.config.group, known["examples"])
            return min(count, run.config.limit or count), known["prompt"], known["reply"]
        data, task = self.rows(run, run.config.data), run.config
        most = task.sampling.max_new_tokens if isinstance(task, TaskConfig) else data.response
        return data.rows, data.tokens - data.response, min(most, max(1.0, data.response))

    def held_out(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """The loss on held-out rows, read by the model and, for KL, by the teacher."""
        task: HeldOutTask = run.config
        data = self.rows(run, task.data)
        tokens = data.rows * data.tokens
        memory = reading_memory(shapes, min(tokens, task.tokens_per_micro_batch), self.machine)
        return self._read(list(shapes.values()), tokens, memory, data.response / data.tokens)

    def signals(self, run: Run, shapes: dict[str, Shape]) -> Cost:
        """Gold responses and as many samples of the student, read by both models."""
        task: SignalsTask = run.config
        data, student = self.rows(run, task.data), shapes["model"]
        count, prompt = min(data.rows, task.rows), data.tokens - data.response
        new = min(task.sampling.max_new_tokens, max(1.0, data.response))
        sampled = self._sampled(shapes, (Sampling(student, task.sampling, prompt, count),), (new,))
        parts = [read_cost(self.machine, shape, data.tokens) for shape in shapes.values()]
        tokens = count * (data.tokens + prompt + new)
        hours = tokens * sum(seconds for seconds, _ in parts) / 3600
        return replace(
            sampled,
            flops=sampled.flops + tokens * sum(flops for _, flops in parts),
            tokens=sampled.tokens + 2 * tokens,
            hours=sampled.hours + hours,
            dollars=sampled.dollars + hours * self.machine.price,
        )

    # --- the formulas -------------------------------------------------------------------------------------------------

    def _sampled(
        self, held: dict[str, Shape], samplings: Sequence[Sampling], new: Sequence[float], gpus: int = 1
    ) -> Cost:
        """The work of `samplings` in turn, by the models that are held, on `gpus` GPUs together; `new` tokens are
        sampled per prompt."""
        memory = sampling_memory(held, samplings, self.machine, gpus)
        rate = gpus * PARALLEL_EFFICIENCY if gpus > 1 else 1.0
        seconds, flops, read, sampled = 0.0, 0.0, 0.0, 0.0
        for one, length, slots in zip(samplings, new, memory.slots, strict=True):
            more, work = read_cost(self.machine, one.shape, one.prompt, 0.0)
            batch = int(min(slots, max(1, one.count)))
            decode = decode_seconds(self.machine, one.shape, batch, one.prompt + length, rate)
            seconds += one.count * (one.prompt * more / rate + length * decode)
            flops += one.count * (one.prompt * work + 2 * length * one.shape.matrix_weights)
            read, sampled = read + one.count * one.prompt, sampled + one.count * length
        return self._total(memory, gpus, flops, read, sampled, seconds, max(one.shape.weights for one in samplings))

    def _read(self, models: Sequence[Shape], tokens: float, memory: Memory, learnt: float = 1.0) -> Cost:
        """`tokens` are read by each of the models; `learnt`: as in `read_cost`."""
        seconds, flops = (
            tokens * sum(read_cost(self.machine, one, 500, learnt)[place] for one in models) for place in (0, 1)
        )
        return self._total(memory, 1, flops, tokens, 0.0, seconds, max(one.weights for one in models))

    def _total(
        self,
        memory: Memory,
        gpus: int,
        flops: float,
        tokens: float,
        sampled: float,
        seconds: float,
        largest: float,
        unmeasured: bool = False,
    ) -> Cost:
        hours = (seconds + START_SECONDS) / 3600
        parts = {name: size / GIB for name, size in memory.parts.items() if size}
        extrapolated = not self.machine.measured or gpus > MEASURED_GPUS or largest > MEASURED_WEIGHTS or unmeasured
        dollars = hours * gpus * self.machine.price
        return Cost(memory.gib, gpus, flops, tokens, sampled, hours, dollars, extrapolated, parts, memory.slots)


def _shares_base(run: Run) -> bool:
    """Whether an adapter's teacher is its frozen base, as far as their names tell (copies are found when they load)."""
    base, teacher, held = frozen_base(run), run.models["teacher"], run.lora.base if run.lora else None
    return (base.path, base.revision, held) == (teacher.path, teacher.revision, teacher.precision)
