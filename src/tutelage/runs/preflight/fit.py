"""Which runs cannot start on a machine, and what would let them: the same answer in a plan and before the first run.

A run cannot start when its estimated memory (`cost/memory.py`) is more than its GPU has by over 2 %: estimates were at
most 1 % above and 8 % below what was measured (docs/study.md). One that takes more than 93 % is noted as close. For
CPUs the formulas were not fitted: activations and caches alone refuse nothing there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from tutelage.common.errors import listed
from tutelage.runs.cost.cost_model import Cost, CostModel
from tutelage.runs.kinds import cost_of, label_of
from tutelage.runs.ranks import samples_in_one_process
from tutelage.runs.run import Run, gpus_of, with_parents

SURE, CLOSE = 1.02, 0.93  # shares of a GPU's memory
MOST_GPUS = 64  # that are tried
SMALL_MICRO_BATCH = 2048  # tokens
FEW_ROWS = 16  # decoded at a time
WRITES = ("answers", "synthesize", "evaluate", "benchmark")  # kinds of run whose models may have `tensor_parallel`


@dataclass(frozen=True)
class Misfit:
    """Runs of one kind that do not fit for the same reason."""

    kind: str  # what plans call it
    runs: tuple[Run, ...]
    need: str  # how much memory; of the largest
    parts: str  # what most of it is for; may be empty
    fix: str  # what would make it fit
    stops: bool = True  # False: it may just fit

    @property
    def names(self) -> str:
        """Some of the runs' names, each once."""
        names = list(dict.fromkeys(run.stage for run in self.runs))
        shown = [name for place, name in enumerate(names) if not place or len(", ".join(names[: place + 1])) <= 40]
        return listed(names, len(shown))

    @property
    def text(self) -> str:
        """One line."""
        many = f"{len(self.runs)} {self.kind} runs ({self.names})" if len(self.runs) > 1 else self.names
        return f"{many}: {self.need}{f' ({self.parts})' if self.parts else ''}: {self.fix}"


@dataclass(frozen=True)
class _Enough:
    """What a run would fit on: GiB per device, or so many GPUs as they are."""

    gib: float
    gpus: int | None = None


def misfits(runs: Iterable[Run], model: CostModel) -> list[Misfit]:
    """Those of `runs` that cannot start on the model's machine with its ranks, and those that come close, by kind and
    reason. Runs of unknown cost are left out."""
    found: dict[tuple[str, str, bool], list[tuple[float, Run, _Enough]]] = {}
    for run in runs:
        cost = cost_of(run, model)
        if cost is None:
            continue
        fix, enough, stops = "", _Enough(cost.memory_gib), True
        if model.ranks > 1 and samples_in_one_process(run):
            fix = "set `sampling.backend: torch`, or --gpus-per-run 1"
        elif run.training is None and gpus_of(run, 1) > model.machine.gpus_per_host:
            fix = "lower `tensor_parallel`, or take a host with as many"
        elif _sure(cost, model) > SURE * model.machine.memory:
            fix, enough = _what_would_fit(run, enough, model)
        elif cost.memory_gib > CLOSE * model.machine.memory:
            fix, stops = "it may run out of memory", False
            if cost.rows and min(cost.rows) < FEW_ROWS:
                fix += f"; slow: its caches have room for few rows at a time ({min(cost.rows)})"
        if fix:
            found.setdefault((label_of(run), fix, stops), []).append((cost.memory_gib, run, enough))
    out = []
    for (kind, fix, stops), members in found.items():
        _, largest, enough = max(members, key=lambda member: member[0])
        fix = fix.format(gib=f"{ceil(enough.gib):,} GiB", gpus=enough.gpus)
        need, parts = _need(largest, model)
        out.append(Misfit(kind, tuple(run for _, run, _ in members), need, parts, fix, stops))
    return sorted(out, key=lambda misfit: not misfit.stops)


def blocked(runs: Sequence[Run], found: Sequence[Misfit]) -> int:
    """How many other runs build on those that cannot start."""
    stuck = {run.fingerprint for misfit in found if misfit.stops for run in misfit.runs}
    return sum(
        run.fingerprint not in stuck and any(one.fingerprint in stuck for one in with_parents([run])) for run in runs
    )


def _need(run: Run, model: CostModel) -> tuple[str, str]:
    """What the run needs, and the two largest parts of it."""
    if model.ranks > 1 and samples_in_one_process(run):
        return f"vLLM samples in one process, and the run has {model.ranks} ranks", ""
    if run.training is None and gpus_of(run, 1) > model.machine.gpus_per_host:
        return f"`tensor_parallel: {gpus_of(run, 1)}`, and a host has {model.machine.gpus_per_host} GPUs", ""
    cost = cost_of(run, model)
    assert cost is not None
    ranked = sorted(cost.memory_parts.items(), key=lambda part: -part[1])[:2]
    parts = ", ".join(f"{name} {size:,.1f}" for name, size in ranked)
    many = f"on each of {cost.gpus} GPUs" if cost.gpus > 1 else "on one GPU"
    where = "of memory" if model.machine.device == "cpu" else many
    return f"about {cost.memory_gib:,.1f} GiB {where} of {model.machine.memory:,.1f}", parts


def _what_would_fit(run: Run, enough: _Enough, model: CostModel) -> tuple[str, _Enough]:
    """The fewest changes that make the run fit, of settings, else of machine or models. `enough`: for it as it is.

    `{gib}` and `{gpus}` in the text stand for the second value: runs that differ in nothing else are one group.
    """
    if run.training is None:
        return _for_one_process(run, model), enough
    names: list[str] = []
    settings: dict[str, Any] = {}
    machine, ranks = model.machine, model.ranks
    for name, change, more in _settings(run, model):
        names.append(name)
        settings, ranks = settings | change, more or ranks
        if _gib(_with(run, settings), model.elsewhere(machine, ranks)) <= machine.memory:
            return f"set {' and '.join(names)}", _Enough(enough.gib, ranks)
    smaller = "smaller models" if "teacher" in run.models else "a smaller student"
    smaller = "a smaller teacher" if label_of(run) == "teacher SFT" else smaller
    if machine.device == "cpu":
        return f"needs a machine with {{gib}} per rank, or {smaller}", enough
    shared = _with(run, {"shard": True})
    more = range(machine.gpus + 1, MOST_GPUS + 1)
    gpus = next((n for n in more if _gib(shared, model.elsewhere(machine, n)) <= machine.memory), None)
    options = ["{gpus} GPUs"] if gpus else []
    options += [f"{machine.gpus} of {{gib}}" if machine.gpus > 1 else "a GPU of {gib}", smaller]
    here = model.elsewhere(machine, machine.gpus)
    others = {kind: _gib(_with(shared, {"optimizer": kind}), here) for kind in ("adamw_8bit", "adamw_offload")}
    enough_room = [kind for kind, gib in others.items() if gib <= machine.memory]
    if run.training.optimizer == "adamw" and enough_room:
        options.append(f"training.optimizer: {' or '.join(enough_room)}")
    sharing = "" if run.training.shard or not gpus else ", and training.shard: true for several GPUs"
    enough = _Enough(_gib(shared, here), gpus)
    return f"needs {', or '.join(options)}{sharing}", enough


def _settings(run: Run, model: CostModel) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Changes of a training run that save memory: in words, as settings, and the number of ranks (0: as it was)."""
    training = run.training
    assert training is not None
    most = model.machine.gpus if model.machine.device != "cpu" else 1
    if model.ranks < most:
        shard, more = training.shard or True, model.ranks  # the fewest, by doubling, that suffice by themselves
        while more < most and (
            more == model.ranks
            or _gib(_with(run, {"shard": shard}), model.elsewhere(model.machine, more)) > model.machine.memory
        ):
            more = min(2 * more, most)
        yield ("" if training.shard else "training.shard: true and ") + "--gpus-per-run {gpus}", {"shard": shard}, more
    elif model.ranks > 1 and not training.shard:
        yield "training.shard: true", {"shard": True}, 0
    if not training.gradient_checkpointing:
        yield "training.gradient_checkpointing: true", {"gradient_checkpointing": True}, 0
    if training.tokens_per_micro_batch > SMALL_MICRO_BATCH:
        change = {"tokens_per_micro_batch": SMALL_MICRO_BATCH}
        yield f"training.tokens_per_micro_batch: {SMALL_MICRO_BATCH}", change, 0


def _for_one_process(run: Run, model: CostModel) -> str:
    """For a run that is one process, on one GPU."""
    cpu, roles = model.machine.device == "cpu", list(run.models)
    parallel = None if cpu else _tensor_parallel(run, model)
    if parallel is not None:
        return f"set `tensor_parallel: {parallel}` in the section of its model"
    options = ["a machine with {gib}" if cpu else "GPUs of {gib}" if gpus_of(run, 1) > 1 else "a GPU of {gib}"]
    alone = (replace(run, models=dict.fromkeys(roles, config)) for config in run.models.values())
    if run.kind == "synthesize" and any(_gib(one, model) <= model.machine.memory for one in alone):
        options.append("one model as generator and annotator")
    options.append("a smaller model" if len(roles) == 1 else "smaller models")
    return f"needs {', or '.join(options)}"


def _tensor_parallel(run: Run, model: CostModel) -> int | None:
    """The fewest GPUs of a host, from 2 on and by doubling, whose vLLM holds the models of a run that only writes."""
    count = 2 * gpus_of(run, 1)
    while run.kind in WRITES and count <= model.machine.gpus_per_host:
        wide = {role: one.model_copy(update={"tensor_parallel": count}) for role, one in run.models.items()}
        if _gib(replace(run, models=wide), model) <= CLOSE * model.machine.memory:
            return count
        count *= 2
    return None


def _sure(cost: Cost, model: CostModel) -> float:
    """GiB that the run needs in any case."""
    guessed = ("activations", "caches") if model.machine.device == "cpu" else ()
    return sum(size for name, size in cost.memory_parts.items() if name not in guessed)


def _with(run: Run, settings: dict[str, Any]) -> Run:
    return replace(run, training=run.training.model_copy(update=settings)) if run.training and settings else run


def _gib(run: Run, model: CostModel) -> float:
    cost = cost_of(run, model)
    return 0.0 if cost is None else cost.memory_gib
