"""A recipe file: read, checked, and turned into stage runs with fingerprints.

A *stage* is what the file says; a *run* is a stage with its seed, its settings and its inputs settled. Runs are known
by a fingerprint of everything that changes their result, so nothing is ever computed twice, in whatever recipe it
turns up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tutelage.config import (
    DataConfig,
    DistillStage,
    EvaluateStage,
    ModelConfig,
    PruneStage,
    RecipeConfig,
    SftStage,
    TaskConfig,
    TrainingConfig,
    fingerprint,
    first_message,
)
from tutelage.dataset import load_dataset
from tutelage.model import model_fingerprint
from tutelage.types import TutelageError

# Raised by hand whenever the code changes what a stage computes; results made before are then not reused.
METHOD_VERSION = 3

# Keys of a stage that do not change its result, or whose content is in the fingerprint already (names of models and of
# data sections stand for their content, training for the resolved section).
_NOT_CONTENT = {"name", "label", "shared", "training", "search", "epochs_of", "student", "teacher", "model", "data"}


@dataclass(frozen=True)
class Run:
    """One unit of work: everything a worker needs, picklable."""

    stage: str
    kind: str  # prune, sft, distill, evaluate
    seed: int
    folder: Path  # holds `result.json` once it is done
    fingerprint: str
    base: Path  # folder that relative data paths start from
    device: str
    spec: Any  # the stage's config (TaskConfig for evaluate)
    training: TrainingConfig | None
    data: dict[str, DataConfig]  # every data section it reads
    models: dict[str, ModelConfig]  # by role: student, teacher, model
    parents: tuple[Run, ...] = ()
    task: str = ""  # evaluate: the task's name
    subject: str = ""  # evaluate: whose answers

    @property
    def done(self) -> bool:
        return (self.folder / "result.json").is_file()


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice; of two, YAML's own loader silently drops the first."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value if node is not None else ():
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key `{key.value}` is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def load_recipe(path: Path, overrides: list[str] | None = None) -> RecipeConfig:
    """Read and check a recipe. `overrides` are `key=value` with dots: `training.epochs=3`, `stages.gkd.beta=0.1`.

    Raises TutelageError, one line with the key that is wrong.
    """
    if not path.is_file():
        raise TutelageError(f"recipe {path} does not exist or is a folder: give the path of a YAML file")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise TutelageError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise TutelageError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise TutelageError(f"{path}: a recipe is a mapping with `name`, `data`, `teacher`, `student`, `stages`")
    for override in overrides or []:
        _override(content, override)
    try:
        recipe = RecipeConfig.model_validate(content)
    except ValidationError as error:
        raise TutelageError(f"{path}: {first_message(error)}") from error
    _check_references(recipe, path)
    return recipe


def _override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise TutelageError(f"override `{override}` must be key=value, for example training.epochs=3")
    *path, last = key.split(".")
    node: Any = content
    for part in path:
        if isinstance(node, list):
            found = [item for item in node if isinstance(item, dict) and item.get("name") == part]
            if not found:
                raise TutelageError(f"override `{override}`: no stage is called `{part}`")
            node = found[0]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
    if not isinstance(node, dict):
        raise TutelageError(f"override `{override}`: `{'.'.join(path)}` has no keys")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TutelageError(f"override `{override}`: the value is not valid YAML") from error


def _check_references(recipe: RecipeConfig, path: Path) -> None:
    """Every name that a stage uses must exist, and stages may only look back."""

    def known(name: str, names: Any, where: str, what: str) -> None:
        if name not in names:
            raise TutelageError(f"{path}: {where}: no {what} is called `{name}` (there are: {', '.join(names)})")

    earlier: list[str] = ["teacher"] if isinstance(recipe.student, str) else ["base", "teacher"]
    trained: list[str] = []
    all_stages = [s.name for s in recipe.stages if not isinstance(s, EvaluateStage)]
    if isinstance(recipe.student, str):
        known(recipe.student, all_stages, "student", "stage")
    for task_name, task in recipe.tasks.items():
        known(task.data, recipe.data, f"tasks.{task_name}.data", "data section")
        if task.headline_metric not in task.metrics:
            raise TutelageError(f"{path}: tasks.{task_name}.headline: `{task.headline}` is not among its metrics")
    if recipe.search is not None:
        known(recipe.search.task, recipe.tasks, "search.task", "task")
    for stage in recipe.stages:
        where = f"stages.{stage.name}"
        if isinstance(stage, SftStage | DistillStage):
            for name in data_names(stage, recipe.training_of(stage)):
                known(name, recipe.data, f"{where}.data", "data section")
            student = stage.student or default_student(recipe, stage.name)
            if student == "base" and "base" not in earlier:
                raise TutelageError(
                    f"{path}: {where}: `base` is made by stage `{recipe.student}`, which does not come before this "
                    f"one: set `student` to `teacher` or an earlier stage"
                )
            for name in [student] + ([stage.teacher] if isinstance(stage, DistillStage) else []):
                known(name, earlier, where, "earlier stage")
            for name in stage.epochs_of:
                known(name, trained, f"{where}.epochs_of", "earlier sft or distill stage")
            trained.append(stage.name)
        elif isinstance(stage, PruneStage):
            known(stage.model, earlier, f"{where}.model", "earlier stage")
            if stage.prune.calibration:
                known(stage.prune.calibration, recipe.data, f"{where}.prune.calibration", "data section")
        else:
            for name in stage.models:
                known(name, [*earlier, "lead_1"], f"{where}.models", "earlier stage")
            for name in stage.tasks:
                known(name, recipe.tasks, f"{where}.tasks", "task")
            if stage.compare_to is not None:
                known(stage.compare_to, stage.models, f"{where}.compare_to", "row of this stage")
        if not isinstance(stage, EvaluateStage):
            earlier += [stage.name, "base"] if stage.name == recipe.student else [stage.name]


def default_student(recipe: RecipeConfig, stage: str) -> str:
    """SFT-S, the paper's default: the latest SFT of the student before `stage`, else the base student."""
    found, teachers = "base", {"teacher"}
    for other in recipe.stages:
        if other.name == stage:
            break
        if isinstance(other, SftStage | DistillStage) and (other.student or found) in teachers:
            teachers.add(other.name)  # a teacher trained further; cutting it is what makes a student of it
        elif isinstance(other, SftStage):
            found = other.name
    return found


def data_names(stage: SftStage | DistillStage, training: TrainingConfig) -> list[str]:
    """Training data first, then the validation section if there is one."""
    names = [stage.data] if isinstance(stage.data, str) else list(stage.data)
    return [*names, training.validation] if training.validation else names


class Planner:
    """Turns stages into runs. `choices[stage]` are the settings that a search found."""

    def __init__(self, recipe: RecipeConfig, base: Path, root: Path) -> None:
        self.recipe, self.base, self.root = recipe, base, root
        self.stages = {s.name: s for s in recipe.stages}
        self.choices: dict[str, dict[str, Any]] = {}
        self._data_marks: dict[tuple[str, bool], str] = {}
        self._runs: dict[tuple[Any, ...], Run] = {}

    def settings(self, name: str) -> dict[str, Any]:
        """What the recipe leaves open for a stage: the searched keys, and `epochs_of` the named stages."""
        stage = self.stages[name]
        chosen = dict(self.choices.get(name, {}))
        if isinstance(stage, SftStage | DistillStage) and stage.epochs_of:
            chosen["epochs"] = sum(self.training(other, self.settings(other)).epochs for other in stage.epochs_of)
        return chosen

    def training(self, name: str, overrides: dict[str, Any]) -> TrainingConfig:
        stage = self.stages[name]
        assert isinstance(stage, SftStage | DistillStage)
        return self.recipe.training_of(stage, overrides)

    def stage_run(self, name: str, seed: int, settings: dict[str, Any] | None = None) -> Run:
        """The run that trains (or cuts) stage `name`. `settings` other than the chosen ones make a search's trial."""
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
            training, names = None, [stage.prune.calibration] if stage.prune.calibration else []
            roles = {"model": stage.model}
        else:
            training = self.recipe.training_of(stage, settings)
            names = data_names(stage, training)
            roles = {"student": stage.student or default_student(self.recipe, stage.name)}
            if isinstance(stage, DistillStage):
                roles["teacher"] = stage.teacher
        models, parents, marks = self._models(roles, seed)
        data = {name: self.recipe.data[name] for name in names}
        spec = stage.model_dump(exclude=_NOT_CONTENT)
        # How often state is saved, and how memory is used, does not change what is computed.
        cosmetic = {"checkpoint_every", "tokens_per_micro_batch", "trackers", "gradient_checkpointing"}
        resolved = None if training is None else training.model_dump(exclude=cosmetic)
        mark = fingerprint(
            METHOD_VERSION, spec, resolved, seed, marks, [self._data_mark(name, True) for name in names], self.device
        )
        folder = self.root / f"{stage.name}-s{seed}-{mark}"
        return Run(
            stage.name, stage.kind, seed, folder, mark, self.base, self.device, stage, training, data, models, parents
        )

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
        return Run(
            f"{subject} on {task_name}", "evaluate", seed, folder, mark, self.base, self.device, task, None, data,
            models, parents, task_name, subject
        )  # fmt: skip

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
                marks[role] = fingerprint(source, model_fingerprint(source))
        return models, tuple(parents), marks

    @property
    def device(self) -> str:
        return resolve_device(self.recipe.device)

    def _data_mark(self, name: str, require_response: bool) -> str:
        key = (name, require_response)
        if key not in self._data_marks:
            self._data_marks[key] = load_dataset(name, self.recipe.data[name], self.base, require_response).fingerprint
        return self._data_marks[key]


def resolve_device(wanted: str) -> str:
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise TutelageError("`device: cuda` was asked for, and torch sees no CUDA device: use `device: auto`")
    return "cuda" if wanted == "auto" and torch.cuda.is_available() else wanted if wanted != "auto" else "cpu"
