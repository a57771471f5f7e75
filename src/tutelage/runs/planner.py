"""A recipe file: read, checked, and turned into stage runs with fingerprints.

A *stage* is what the file says; a *run* is a stage with its seed, its settings and its inputs settled. Runs are known
by a fingerprint of everything that changes their result, so nothing is ever computed twice, in whatever recipe it
turns up.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError, did_you_mean
from tutelage.common.hashing import fingerprint
from tutelage.data.dataset import declared_fingerprint, load_dataset
from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.models.files import model_fingerprint
from tutelage.recipe.load import data_names, default_student, made_by
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.sections import DataConfig, ModelConfig, TaskConfig, TrainingConfig
from tutelage.recipe.stages import MethodStage, PruneStage, SeqkdStage, SftStage, SynthesizeStage, TrainStage
from tutelage.runs.run import METHOD_VERSION, Run
from tutelage.training.methods import METHODS, method_fingerprint

# Keys of a stage that do not change its result, or whose content is in the fingerprint already (names of models and of
# data sections stand for their content, training for the resolved section).
_NOT_CONTENT = {"name", "label", "shared", "training", "search", "epochs_of", "student", "teacher", "model", "data"} | {
    "gold",
    "generator",
    "annotator",
    "min_acceptance",
}
# How often state is saved, and how memory is used, does not change what is computed.
_COSMETIC = {"checkpoint_every", "tokens_per_micro_batch", "memory_gib", "trackers", "gradient_checkpointing", "shard"}


class Planner:
    """Turns stages into runs. `choices[stage]` are the settings that a search found.

    `known` are runs by fingerprint, shared by the planners of a study: whoever asks first names the folder. With
    `declared` nothing beyond local files is looked at: hub names count as name@revision, and no device is asked for.
    """

    def __init__(
        self,
        recipe: RecipeConfig,
        base: Path,
        root: Path,
        known: dict[str, Run] | None = None,
        marks: dict[str, str] | None = None,
        declared: bool = False,
    ) -> None:
        self.recipe, self.base, self.root = recipe, base, root
        self.known = {} if known is None else known
        self.marks, self.declared = {} if marks is None else marks, declared
        self.stages = {s.name: s for s in recipe.stages}
        self.choices: dict[str, dict[str, Any]] = {}
        self._runs: dict[tuple[Any, ...], Run] = {}
        _check_names(recipe)

    def settings(self, name: str) -> dict[str, Any]:
        """What the recipe leaves open for a stage: the searched keys, and `epochs_of` the named stages."""
        stage = self.stages[name]
        chosen = dict(self.choices.get(name, {}))
        if isinstance(stage, TrainStage) and stage.epochs_of:
            chosen["epochs"] = sum(self.training(other, self.settings(other)).epochs for other in stage.epochs_of)
        return chosen

    def training(self, name: str, overrides: dict[str, Any]) -> TrainingConfig:
        stage = self.stages[name]
        assert isinstance(stage, TrainStage)
        return self.recipe.training_of(stage, overrides)

    def stage_run(self, name: str, seed: int, settings: dict[str, Any] | None = None) -> Run:
        """The run that does stage `name`. `settings` other than the chosen ones make a search's trial."""
        stage = self.stages[name]
        if stage.shared:
            seed = self.recipe.seeds[0]
        settings = self.settings(name) if settings is None else settings
        key = (name, seed, fingerprint(settings))
        if key not in self._runs:
            self._runs[key] = self._make(stage, seed, settings)
        return self._runs[key]

    def _make(self, stage: Any, seed: int, settings: dict[str, Any]) -> Run:
        if isinstance(stage, PruneStage):
            names = [stage.prune.calibration] if stage.prune.calibration else []
            return self._run(stage.name, stage, seed, {"model": stage.model}, names)
        if isinstance(stage, SynthesizeStage):
            roles = {"generator": stage.generator, "annotator": stage.annotator}
            evaluated = sorted({task.data for task in self.recipe.tasks.values()} - {stage.gold})
            return self._run(stage.name, stage, seed, roles, [stage.gold], prompts=evaluated)
        training = self.recipe.training_of(stage, settings)
        roles = {"student": stage.student or default_student(self.recipe, stage.name)}
        names, extra, parents = data_names(stage, training), [], ()
        if isinstance(stage, SeqkdStage):
            # The teacher's answers do not depend on what a search tries, so they are a run of their own.
            data = names[:-1] if training.validation else names  # a section may be both trained on and validation
            answers = self._run(f"{stage.name}-answers", stage, seed, {"teacher": stage.teacher}, data, kind="answers")
            parents, extra = (answers,), [answers.fingerprint]
        elif not isinstance(stage, SftStage):
            roles["teacher"] = stage.teacher
            # Where both go back to one model their chat templates agree; else the teacher reads prompts in its own.
            extra = [] if self._root(roles["student"]) == self._root(stage.teacher) else ["aligned"]
        if isinstance(stage, MethodStage):
            extra.append(method_fingerprint(stage.method))
        return self._run(stage.name, stage, seed, roles, names, training, extra=extra, parents=parents)

    def _run(
        self,
        name: str,
        stage: Any,
        seed: int,
        roles: dict[str, str],
        data: list[str],
        training: TrainingConfig | None = None,
        *,
        kind: str = "",
        prompts: list[str] | None = None,
        extra: list[str] | None = None,
        parents: tuple[Run, ...] = (),
    ) -> Run:
        """`data` are sections of whole rows, `prompts` sections of which the replies may be missing; `extra` is what
        else changes the result."""
        models, made, marks = self._models(roles, seed)
        sections = {n: self._section(n, seed, True) for n in data}
        sections |= {n: self._section(n, seed, False) for n in prompts or []}
        made = (*parents, *made, *(run for _, _, run in sections.values() if run is not None))
        resolved = None if training is None else training.model_dump(exclude=_COSMETIC)
        spec, data_marks = stage.model_dump(exclude=_NOT_CONTENT), [mark for _, mark, _ in sections.values()]
        kind = kind or stage.kind
        extra = ([kind] if kind == "answers" else []) + (extra or [])
        mark = fingerprint(METHOD_VERSION, spec, resolved, seed, marks, data_marks, self.device, *extra)
        folder, configs = self.root / f"{name}-s{seed}-{mark}", {n: config for n, (config, _, _) in sections.items()}
        run = Run(name, kind, seed, folder, mark, self.base, self.device, stage, training, configs, models, made)
        return self.known.setdefault(mark, run)

    def _section(self, name: str, seed: int, require_response: bool) -> tuple[DataConfig, str, Run | None]:
        """A data section, its fingerprint, and the run that makes it if a stage does."""
        config = self.recipe.data.get(name)
        stage = name if config is None else made_by(config.path)
        if stage is None:
            assert config is not None
            return config, self._data_mark(name, require_response), None
        run = self.stage_run(stage, seed)
        files = f"{glob.escape(str(run.folder.resolve()))}/accepted/*.jsonl"
        own = {} if config is None else config.content("path")
        return DataConfig(path=files, **own), fingerprint(run.fingerprint, own), run

    def _root(self, name: str) -> ModelConfig:
        """The model that a name goes back to, through all stages that trained or cut it."""
        source = {"base": self.recipe.student, "teacher": self.recipe.teacher}.get(name, name)
        while isinstance(source, str):
            stage: Any = self.stages[source]
            cut = isinstance(stage, PruneStage)
            name = stage.model if cut else stage.student or default_student(self.recipe, source)
            source = {"base": self.recipe.student, "teacher": self.recipe.teacher}.get(name, name)
        return source

    def evaluation(self, subject: str, task_name: str, seed: int, settings: dict[str, Any] | None = None) -> Run:
        """The run in which `subject` (a stage, base, teacher or lead_1) answers a task."""
        task: TaskConfig = self.recipe.tasks[task_name]
        models, parents, marks = {}, (), {"model": subject}
        if subject != "lead_1":
            models, parents, marks = self._models({"model": subject}, seed, settings)
        seed = parents[0].seed if parents else self.recipe.seeds[0]  # what is made once is asked once
        mark = fingerprint(METHOD_VERSION, task, seed, marks, self._data_mark(task.data, False), self.device)
        folder = self.root / f"{subject}-on-{task_name}-s{seed}-{mark}"
        data = {task.data: self.recipe.data[task.data]}
        run = Run(
            f"{subject} on {task_name}", "evaluate", seed, folder, mark, self.base, self.device, task, None, data,
            models, parents, task_name, subject
        )  # fmt: skip
        return self.known.setdefault(mark, run)

    def measurement(self, subject: str, task_name: str, kind: str, spec: Any, roles: dict[str, str], seed: int) -> Run:
        """The run of a study's task that is no task of the recipe: a benchmark, or loss on held-out rows.

        `roles` are the models it needs, `model` among them; `spec.data` may name a data section.
        """
        models, parents, marks = self._models(roles, seed)
        seed = parents[0].seed if parents else self.recipe.seeds[0]
        name = getattr(spec, "data", None)
        data = {} if name is None else {name: self.recipe.data[name]}
        data_marks = [self._data_mark(one, True) for one in data]
        mark = fingerprint(METHOD_VERSION, kind, spec, seed, marks, data_marks, self.device)
        folder = self.root / f"{subject}-on-{task_name}-s{seed}-{mark}"
        run = Run(
            f"{subject} on {task_name}", kind, seed, folder, mark, self.base, self.device, spec, None, data, models,
            parents, task_name, subject
        )  # fmt: skip
        return self.known.setdefault(mark, run)

    def _models(
        self, roles: dict[str, str], seed: int, settings: dict[str, Any] | None = None
    ) -> tuple[dict[str, ModelConfig], tuple[Run, ...], dict[str, str]]:
        models: dict[str, ModelConfig] = {}
        parents: list[Run] = []
        marks: dict[str, str] = {}
        for role, name in roles.items():
            source = {"base": self.recipe.student, "teacher": self.recipe.teacher}.get(name, name)
            if isinstance(source, str):
                run = self.stage_run(source, seed, settings)
                parents.append(run)
                attention = self.recipe.teacher.attention
                models[role] = ModelConfig(path=str(run.folder / "model"), attention=attention)
                marks[role] = run.fingerprint
            else:
                models[role] = source
                marks[role] = fingerprint(source, self._model_mark(source))
        return models, tuple(parents), marks

    @property
    def device(self) -> str:
        wanted = self.recipe.device
        return wanted if self.declared and wanted != "auto" else resolve_device(wanted)

    def _data_mark(self, name: str, require_response: bool) -> str:
        config = self.recipe.data[name]
        key = fingerprint(config, str(self.base), require_response)
        if key not in self.marks and self.declared:
            self.marks[key] = declared_fingerprint(name, config, self.base, require_response)
        elif key not in self.marks:
            self.marks[key] = load_dataset(name, config, self.base, require_response).fingerprint
        return self.marks[key]

    def _model_mark(self, source: ModelConfig) -> str:
        key = fingerprint(source)
        if key not in self.marks:
            self.marks[key] = model_fingerprint(source, hub=not self.declared)
        return self.marks[key]


def _check_names(recipe: RecipeConfig) -> None:
    """Refuse names of benchmarks and methods that this installation does not have; `recipe/` knows neither."""
    for stage in recipe.stages:
        where = f"{recipe.name}: stages.{stage.name}"
        for name in stage.avoid if isinstance(stage, SynthesizeStage) else ():
            if name not in BENCHMARKS:
                there = ", ".join(BENCHMARKS)
                raise TutelageError(f"{where}.avoid: no benchmark is called `{name}` (there are: {there})")
        if isinstance(stage, MethodStage) and stage.method not in METHODS:
            hint = did_you_mean(stage.method, METHODS, f"there are: {', '.join(METHODS)}; docs/method.md adds one")
            raise TutelageError(f"{where}.method: no method is called `{stage.method}`: {hint}")


def resolve_device(wanted: str) -> str:
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise TutelageError("`device: cuda` was asked for, and torch sees no CUDA device: use `device: auto`")
    return "cuda" if wanted == "auto" and torch.cuda.is_available() else wanted if wanted != "auto" else "cpu"
