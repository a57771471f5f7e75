"""A run: one unit of work, which is a stage of a recipe with its seed, settings and inputs resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.common.run_folder import MODEL, RESULT, is_done, read_json
from tutelage.recipe.sections import DataConfig, LoraConfig, ModelConfig, TrainingConfig
from tutelage.recipe.study import JudgeConfig


@dataclass(frozen=True, kw_only=True)
class Run:
    """One unit of work: everything a worker needs, picklable."""

    stage: str  # the stage's name; for evaluations "<subject> on <task>"
    kind: str  # a key of `kinds.KINDS`
    seed: int
    folder: Path  # holds `result.json` once the run is done
    fingerprint: str
    recipe: str = field(default="", compare=False)  # the name of the recipe that planned it first
    recipe_folder: Path  # relative data paths start here
    device: str  # "cpu" or "cuda"
    config: Any  # the stage's config; for evaluations the task's (TaskConfig, BenchmarkTask or HeldOutTask)
    training: TrainingConfig | None  # None: the run does not train
    lora: LoraConfig | None = None  # trains an adapter with these settings; None: all weights
    max_length: int | None = None  # answers: `max_length` of the training that uses them
    # answers: the model that the student is made from, where it may read other questions than the teacher does
    answers_for: ModelConfig | None = None
    data: dict[str, DataConfig]  # every data section it reads, by name
    models: dict[str, ModelConfig]  # by role: student, teacher, generator, annotator, model
    # What the plan found in files that no run makes: by section, the fingerprint and whether rows need a response; by
    # role of a model, its fingerprint (of `answers_for`: as `student`).
    planned_data: dict[str, tuple[str, bool]] = field(default_factory=dict)
    planned_models: dict[str, str] = field(default_factory=dict)
    parents: tuple[Run, ...] = ()
    task: str = ""  # evaluations: the task's name
    subject: str = ""  # evaluations: the stage, or base, teacher, lead_1, whose answers are scored
    judge: JudgeConfig | None = None  # benchmarks that are judged: by whom, once its `model` is named
    comet: bool = False  # benchmarks that COMET can score: whether it does
    also: tuple[str, ...] = ()  # tasks of recipes: fingerprints of runs that sampled the same answers for other metrics

    @property
    def done(self) -> bool:
        """Whether its folder holds a result."""
        return is_done(self.folder)


def takes_ranks(run: Run) -> bool:
    """Whether the run can be several ranks: training can; every other run is one process."""
    return run.training is not None


def gpus_of(run: Run, ranks: int) -> int:
    """GPUs of a run on CUDA: one per rank where it trains; as many as hold its models together (`tensor_parallel`)."""
    if takes_ranks(run):
        return ranks
    return max((model.tensor_parallel or 1 for model in run.models.values()), default=1)


def maker_of(run: Run, role: str) -> Run | None:
    """The run that makes the model of this role; None for a model that no stage makes."""
    path = run.models[role].path
    return next((one for one in run.parents if str(one.folder / MODEL) == path), None)


def section_key(run: Run, name: str) -> tuple[Any, ...]:
    """Equal for runs that read the same rows under this name."""
    return run.recipe_folder, name, run.data[name].model_dump_json()


def steps_of(run: Run, root: Path, after: str | None = None) -> int | None:
    """Steps of the optimizer in a model's whole training, from the first stage on; None where it is not done. `root`:
    the folder of the runs' folders. `after`: a stage whose steps, and those before it, do not count."""
    steps, one = 0, run
    while one is not None and one.stage != after:
        folder = root / one.folder.name
        if one.training is not None:
            if not is_done(folder):
                return None
            steps += read_json(folder, RESULT)["last"].get("step", 0)
        one = maker_of(one, "model" if one.kind == "prune" else "student")
    return steps


def adapter_line(run: Run) -> list[Run]:
    """Of a run that trains an adapter: it, and the runs before it with whose adapter it goes on; the last first."""
    before = maker_of(run, "student")
    goes_on = before is not None and run.lora is not None and run.lora.same_adapter(before.lora)
    return [run, *adapter_line(before)] if goes_on and before is not None else [run]


def frozen_base(run: Run) -> ModelConfig:
    """The model whose weights a run that trains an adapter holds frozen."""
    return adapter_line(run)[-1].models["student"]


def adapter_text(lora: LoraConfig) -> str:
    """An adapter's settings in words."""
    where = "all linear maps" if lora.targets == "all-linear" else ", ".join(lora.targets)
    base = "" if lora.base is None else f", frozen weights in {lora.base}"
    return f"LoRA adapter (r = {lora.r}, α = {lora.scale * lora.r:g}, on {where}{base})"


def with_parents(runs: Sequence[Run]) -> list[Run]:
    """Return `runs` and all that they build on, each run once, parents before children."""
    ordered: dict[str, Run] = {}

    def visit(run: Run) -> None:
        if run.fingerprint not in ordered:
            for parent in run.parents:
                visit(parent)
            ordered[run.fingerprint] = run

    for run in runs:
        visit(run)
    return list(ordered.values())
