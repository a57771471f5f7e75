"""The memory of a run, per process and part by part: what its code holds at the same time at its fullest moment.

With b = 2 bytes for weights and 2 for cache entries (4 on CPU and for `precision: float32`), W weights, g ranks:

    training   student   4·b' per weight, b' = 4 (2 for `pure_bfloat16`): weights, gradients, Adam's two moments; and 2
                         for the weights to compute with
               teacher   b per weight
               on-policy the caches; where ranks share, 2 per student weight for the copy that is sampled from
               activations of a micro-batch of m tokens: 53·m·L·h (40 in compiled layers), with checkpointing
                         (2·L + 53)·m·h, or the teacher's
    others     b per weight of each model that is held; the caches; activations of a forward pass
    prune      4 per weight, and 2 for autocast's copies

Of the 8·b', half are Adam's moments: `optimizer: adamw_8bit` holds them in 2 bytes per weight, `adamw_offload` not on
the device. Where ranks share, a checkpoint writes eight-bit moments as float32, 8 bytes per weight, at a time without
gradients, gathered layers and activations. With `gradient_checkpointing: auto` it is on where the machine's memory, or
`memory_gib`, asks for it.

With an adapter of a weights (`lora`) the student is 16·a and 2·a to compute with, its frozen base b·W (in nf4 0.516 per
weight of a layer), and there is no copy to sample from, except where ranks share; a teacher that is that base takes
nothing. A quantised teacher takes 1 (int8, float8) or 0.516 (nf4) per weight of a layer. On one H200 the peaks were
7 to 24 % below this (docs/results/bench/step.json).

`training.shard` divides the student's 16 and the teacher's b by g, `shard: host` by the ranks of a host. Gathered all
the same: embedding and head of both (weights, the student's gradients too), and two layers of each model. Nothing else
is divided by ranks: each has a copy to sample from, and caches of its own.

A forward pass takes (4·h + 6·feed-forward) bytes per token: residual, norm, the MLP's three. The engine reads prompts
in passes of up to 32,768 tokens. A row of its cache has a prompt (of mean length here) and the largest number of new
tokens; there are as many rows as asked, or as fit in a share of the memory that is free when the engine is made, before
the first gradients. On CUDA 3 GiB are added for the loss and all else (fitted), or 1.5 where only a sampler runs (an
assumption). Models that vLLM holds on t GPUs (`tensor_parallel`) take b / t per weight on each, and its cache the rest
of its share, 0.9 of the GPU, which a synthesis with two models halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from tutelage.recipe.sections import COMPILE_FLOP, LoraConfig, SamplingConfig, TrainingConfig
from tutelage.runs.cost.facts import Machine, Shape

GIB = 2**30
BASE, SAMPLING_BASE = 3.0 * GIB, 1.5 * GIB
# Per token of a micro-batch, layer and unit of width; fitted
ACTIVATION_BYTES = 53, 40  # as they are, and compiled
PREFILL_TOKENS, ROW_STEP = 32_768, 256  # of the engine
ENGINE_SHARE, BENCHMARK_SHARE = 0.5, 0.8  # of free memory, for the caches
# Of vLLM where it holds the models: its share of each GPU, tokens that it reads at once, and its longest text
VLLM_SHARE, VLLM_TOKENS, VLLM_CONTEXT = 0.9, 16_384, 65_536


@dataclass(frozen=True)
class Memory:
    """Bytes of one process by part; `slots`: rows that each of its samplers decodes at a time; `recomputes`: its
    training computes activations again in the backward pass."""

    parts: dict[str, float] = field(default_factory=dict)
    slots: tuple[int, ...] = ()
    recomputes: bool = False

    @property
    def gib(self) -> float:
        """All parts together, in GiB."""
        return sum(self.parts.values()) / GIB


@dataclass(frozen=True)
class Sampling:
    """What a sampler of model `shape` is asked for: `count` prompts of about `prompt` tokens."""

    shape: Shape
    config: SamplingConfig
    prompt: float
    count: float
    new: int | None = None  # largest number of new tokens; None: the config's
    share: float = ENGINE_SHARE

    @property
    def new_tokens(self) -> int:
        """The longest response."""
        return self.config.max_new_tokens if self.new is None else self.new

    def slots(self, machine: Machine, free: float, width: int) -> tuple[int, float]:
        """Rows decoded at a time, and their bytes, with `free` bytes on the device and weights of `width` bytes."""
        new = self.new_tokens
        row = (self.prompt + new) * self.shape.cache_bytes * width / 2
        if self.config.backend == "vllm":  # its share has a copy of the weights, and pages for rows as long as they are
            taken = self.config.memory * machine.memory * GIB
            rows = max(1, min(self.config.batch_size, int((taken - 2 * self.shape.weights) / row)))
            return rows, max(taken, 2 * self.shape.weights + row)
        if machine.device == "cpu":
            slots = max(1, min(self.config.batch_size, ceil(self.count)))
            return slots, slots * row
        row *= ceil((self.prompt + new) / ROW_STEP) * ROW_STEP / (self.prompt + new)
        slots = max(1, min(self.config.batch_size, int(self.share * free / row)))
        return slots, slots * row

    def reading(self, slots: int, width: int) -> float:
        """Bytes of a pass over prompts."""
        return _forward(self.shape, min(PREFILL_TOKENS, slots * self.prompt), width)


def training_memory(
    config: TrainingConfig,
    student: Shape,
    teacher: Shape | None,
    sampling: Sampling | None,
    tokens: float,
    machine: Machine,
    ranks: int,
    lora: LoraConfig | None = None,
    shared_base: bool = False,
    compiled: bool = False,
    recomputed: bool = False,
) -> Memory:
    """Of one rank of a training run. `sampling`: of the student's responses, if it writes any. `tokens`: per step.
    `lora`: the adapter that is trained instead of the weights; `shared_base`: the teacher is its frozen base.
    `compiled`: its layers are.
    `recomputed`: what `gradient_checkpointing: auto` means; by default, what the machine's memory asks for."""
    cuda = machine.device != "cpu"
    pure, wide = config.precision == "pure_bfloat16", config.precision == "float32" or not cuda
    width, master, shared = 4 if wide else 2, 2 if pure else 4, config.shard and ranks > 1
    part = shares(config, machine, ranks)
    trained = student.weights if lora is None else student.adapter_weights(lora)
    moments = {"adamw": 2.0 * master, "adamw_8bit": 2.0, "adamw_offload": 0.0}[config.optimizer]
    held: dict[str, float] = {"student and optimizer": (2 * master + moments) * trained / part}
    if lora is not None:
        frozen = replace(student, precision=lora.base)
        held = {"adapter and optimizer": held["student and optimizer"], "frozen base": frozen.held(width) / part}
    if shared:
        ends = 2 * width if lora is None else width
        held["gathered layers"] = _gathered(student, part, ends, width) + _layer(student) * (width + 4)
    else:
        held["copies in bfloat16"] = 0 if wide or pure else 2 * trained
    if teacher is not None and not shared_base:
        held["teacher"] = teacher.held(width) / part
        if shared:
            held["gathered layers"] += _gathered(teacher, part, width, width)
    micro = min(config.tokens_per_micro_batch, max(1.0, tokens / ranks))
    if config.memory_gib is not None and cuda:
        micro = min(micro, config.max_length)  # the least that it tries; the rest of its memory is for larger ones
    width_tokens = micro * student.hidden * width / 2
    kept = ACTIVATION_BYTES[compiled]
    activations = kept * student.layers * width_tokens
    if config.gradient_checkpointing is True or (config.gradient_checkpointing == "auto" and recomputed):
        activations = (kept + 2 * student.layers) * width_tokens
    if teacher is not None:
        activations = max(activations, _forward(teacher, micro, width))
    slots: tuple[int, ...] = ()
    base = BASE if cuda else 0.0
    if sampling is not None:
        if sampling.config.backend == "torch" and shared:
            held["student to sample from"] = width * student.weights
        # when the engine is made there are no gradients and moments yet
        later = (master + moments) * trained / part + held.get("gathered layers", 0.0)
        free = machine.memory * GIB - base - sum(held.values()) + later
        count, cache = sampling.slots(machine, free, width)
        slots = (count,)
        if sampling.config.backend == "vllm":  # asleep while training
            cache = max(0.0, cache - later - activations)
        held["caches"] = cache
        activations = max(activations, sampling.reading(count, width))
    parts = {**held, "activations": activations, "base": base}
    if shared and config.optimizer == "adamw_8bit":
        gone = master * trained / part + held["gathered layers"] + activations
        parts["checkpoint"] = max(0.0, 8 * trained / part - gone)
    limit = min(machine.memory, config.memory_gib or machine.memory)
    if config.gradient_checkpointing == "auto" and cuda and not recomputed and sum(parts.values()) > limit * GIB:
        options = (sampling, tokens, machine, ranks, lora, shared_base, compiled)
        return training_memory(config, student, teacher, *options, recomputed=True)
    if config.memory_gib is not None and cuda:
        parts["activations"] += max(0.0, config.memory_gib * GIB - sum(parts.values()))
    return Memory(parts, slots, config.gradient_checkpointing is True or recomputed)


def compiles(config: TrainingConfig, student: Shape, teacher: Shape | None, tokens: float, machine: Machine) -> bool:
    """Whether a run of so many tokens compiles its layers, as `training/compiling.py` decides."""
    if config.compile != "auto":
        return config.compile == "on"
    flop = tokens * (6 * student.weights + (2 * teacher.weights if teacher is not None else 0))
    return machine.device != "cpu" and config.precision != "float32" and flop >= COMPILE_FLOP


def shares(config: TrainingConfig, machine: Machine, ranks: int) -> int:
    """Into how many parts student and teacher are divided."""
    if not config.shard:
        return 1
    return min(ranks, machine.gpus_per_host) if config.shard == "host" and ranks > machine.gpus_per_host else ranks


def beside_once(
    memory: Memory, student: Shape, teacher: Shape, machine: Machine, lora: LoraConfig | None = None
) -> Memory:
    """`memory` of a training run, enlarged to what its start takes if the teacher then reads all rows once: the
    student's float32 weights, or its adapter's and its frozen base, and the teacher."""
    width, base = _frozen(machine)
    own = 4.0 * student.weights
    if lora is not None:
        own = 4 * student.adapter_weights(lora) + replace(student, precision=lora.base).held(width)
    start = own + teacher.held(width) + _forward(teacher, PREFILL_TOKENS / 2, width) + base
    more = start - sum(memory.parts.values())
    return memory if more <= 0 else replace(memory, parts={**memory.parts, "teacher, at the start": more})


def sampling_memory(models: dict[str, Shape], samplings: Sequence[Sampling], machine: Machine, gpus: int = 1) -> Memory:
    """Of a run that samples from the models it holds, by role, with one sampler after the other; caches are kept.
    `gpus`: that hold the models together, through vLLM; then per GPU."""
    if gpus > 1:
        return _vllm_memory(models, samplings, machine, gpus)
    width, base = _frozen(machine)
    base = min(base, SAMPLING_BASE)
    parts: dict[str, float] = {role: shape.held(width) for role, shape in models.items()}
    slots, caches = [], 0.0
    for one in samplings:
        count, cache = one.slots(machine, machine.memory * GIB - base - sum(parts.values()) - caches, width)
        slots.append(count)
        caches += cache
    reading = max(one.reading(count, width) for one, count in zip(samplings, slots, strict=True))
    return Memory({**parts, "caches": caches, "activations": reading, "base": base}, tuple(slots))


def _vllm_memory(models: dict[str, Shape], samplings: Sequence[Sampling], machine: Machine, gpus: int) -> Memory:
    """vLLM fills the share that it is given with pages of its cache. Rows have the mean length of a prompt here."""
    parts = {role: shape.held(2) / gpus for role, shape in models.items()}
    share = VLLM_SHARE * machine.memory * GIB / len(models)
    slots, caches = [], 0.0
    for one in samplings:
        row = (one.prompt + one.new_tokens) * one.shape.cache_bytes / gpus
        room = share - one.shape.held(2) / gpus - _forward(one.shape, VLLM_TOKENS, 2) / gpus - SAMPLING_BASE
        slots.append(max(1, min(one.config.batch_size, int(room / row))))
        caches += max(VLLM_CONTEXT * one.shape.cache_bytes / gpus, room)  # it starts only where the longest fits
    reading = max(_forward(one.shape, VLLM_TOKENS, 2) for one in samplings) / gpus
    caches = caches if len(models) > 1 else caches / len(samplings)
    base = len(models) * SAMPLING_BASE
    return Memory({**parts, "caches": caches, "activations": reading, "base": base}, tuple(slots))


def reading_memory(models: dict[str, Shape], micro: float, machine: Machine) -> Memory:
    """Of a run that reads rows, in micro-batches of `micro` tokens, with each of the models it holds, by role."""
    width, base = _frozen(machine)
    parts: dict[str, float] = {role: shape.held(width) for role, shape in models.items()}
    kept = width * models["teacher"].hidden * micro if "teacher" in models else 0.0
    most = max(_forward(shape, micro, width) for shape in models.values())
    return Memory({**parts, "activations": kept + most, "base": base})


def pruning_memory(model: Shape, micro: float, machine: Machine) -> Memory:
    """Of a run that cuts a model: float32 weights, under autocast on CUDA."""
    width, base = _frozen(machine)
    copies = 2 * model.weights if micro and width == 2 else 0
    return Memory({"model": 4 * model.weights, "copies in bfloat16": copies,
                   "activations": _forward(model, micro, width), "base": base})  # fmt: skip


def _frozen(machine: Machine) -> tuple[int, float]:
    """Bytes per weight of a model that is not trained, and what is there in any case."""
    return (4, 0.0) if machine.device == "cpu" else (2, BASE)


def _forward(shape: Shape, tokens: float, width: int) -> float:
    return (4 * shape.hidden + 6 * shape.feed_forward) * tokens * width / 2


def _layer(shape: Shape) -> float:
    return (shape.matrix_weights - shape.vocab * shape.hidden) / shape.layers


def _ends(shape: Shape) -> float:
    """Weights of embedding and head."""
    return shape.vocab * shape.hidden * (1 if shape.tied else 2)


def _gathered(shape: Shape, ranks: int, ends: int, layers: int) -> float:
    """Bytes of two layers, and of the other ranks' parts of embedding and head."""
    return ends * _ends(shape) * (1 - 1 / ranks) + 2 * layers * _layer(shape)
