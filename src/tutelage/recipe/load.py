"""Reads a recipe file and checks that every name in it exists."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tutelage.common.errors import TutelageError, instead_of
from tutelage.recipe.base import first_message
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.sections import ModelConfig, TrainingConfig
from tutelage.recipe.stages import EvaluateStage, PruneStage, SftStage, SynthesizeStage, TrainStage

STAGE_DATA = "stage:"  # a data section with path `stage:NAME` has the rows that the synthesize stage NAME makes


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice; YAML's own loader silently keeps the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value if node is not None else ():
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a list or mapping is used as a key", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key `{key.value}` is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


# YAML 1.1 wants a dot and a sign in the exponent; people write 5e-3, which YAML 1.2 and JSON read as a number too.
_NUMBER = re.compile(r"^[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, read safely. Raises yaml.YAMLError, and RecursionError for one nested too deep."""
    return yaml.load(text, _Loader)


def load_recipe(path: Path, overrides: Sequence[str] | None = None, given: str = "command line") -> RecipeConfig:
    """Read and check a recipe. `overrides`: `key=value` with dots, such as `training.epochs=3`, `stages.gkd.beta=0.1`.

    Raises TutelageError that names the wrong key with its line, or of an override `given`, where it was written.
    """
    content = with_overrides(read_yaml(path), overrides or [])
    try:
        recipe = recipe_from(content, path)
    except TutelageError as error:
        if overrides and _is_right(path):
            raise TutelageError(str(error).replace(f"{path}: ", f"{given}: ", 1)) from error
        raise TutelageError(with_line(str(error), path)) from error
    found = {role: _beside(model, role, path) for role in ("teacher", "student")
             if isinstance(model := getattr(recipe, role), ModelConfig)}  # fmt: skip
    return recipe.model_copy(update=found)


def _is_right(path: Path) -> bool:
    """Whether the file alone is a recipe."""
    try:
        recipe_from(read_yaml(path), path)
    except TutelageError:
        return False
    return True


def with_line(message: str, path: Path) -> str:
    """A message `path: key: what is wrong` with the line of the key, or of the nearest one above it that is there."""
    found = re.match(rf"{re.escape(str(path))}: (?:([\w.() -]+): )?(?:unknown key `(.+?)`: )?", message)
    if found is None or not (found[1] or found[2]):
        return message
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), _Loader)
        line = _line_of(node, ".".join(filter(None, [found[1], found[2]])))
        return message if line is None else message.replace(f"{path}: ", f"{path}:{line}: ", 1)
    return message


def _line_of(node: Any, key: str) -> int | None:
    """The line of a key with dots, as messages name it: items of lists by name, or as `key (number 2)`."""
    inside: list[tuple[str, Any, Any]] = []  # name, where it begins, its value
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inside.append((name.value, name, value))
            if isinstance(value, yaml.SequenceNode):
                inside += [(f"{name.value} (number {n})", one, one) for n, one in enumerate(value.value, 1)]
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            named = [v.value for k, v in one.value if k.value == "name"] if isinstance(one, yaml.MappingNode) else []
            inside += [(str(name), one, one) for name in named]
    for name, begin, value in inside:
        if key == name or key.startswith(f"{name}."):
            return _line_of(value, key[len(name) + 1 :]) or begin.start_mark.line + 1
    return None


def _beside(model: ModelConfig, role: str, recipe: Path) -> ModelConfig:
    """The model section with relative paths that are not in the current folder but beside the recipe made absolute.

    Raises TutelageError for a path that is in both and not the same.
    """
    found: dict[str, str] = {}
    for key in ("path", "tokenizer", "chat_template"):
        value = getattr(model, key)
        there = recipe.resolve().parent / str(value)
        if value in (None, "auto", "tulu") or not there.exists():
            continue
        if Path(value).exists() and not there.samefile(value):
            raise TutelageError(
                f"{recipe}: {role}.{key}: `{value}` is in the current folder and beside the recipe: write its full path"
            )
        if not Path(value).exists():
            found[key] = str(there)
    return model.model_copy(update=found)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping. Raises TutelageError that names file and line."""
    if not path.is_file():
        if re.match(r"[\w.]+=", str(path)):
            raise TutelageError(f"`{path}` is a key of a recipe, and no file: give the recipe's file before it")
        ends, what = (".yaml", ".yml"), "is a folder" if path.is_dir() else "does not exist"
        here = instead_of(Path(path.name), ends, "give the path of a YAML file")
        instead = instead_of(path / path.name if path.is_dir() else path, ends, here)
        raise TutelageError(f"recipe {path} {what}: {instead}")
    if re.search(r"\.(csv|tsv|jsonl|parquet|arrow)(\.gz)?$", path.name):
        raise TutelageError(f"{path} is data, and no recipe: `tutelage init {path}` writes one for it")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise TutelageError(f"{path}: lists or mappings are nested too deep to be read: flatten them") from None
    except UnicodeDecodeError as error:
        raise TutelageError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise TutelageError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise TutelageError(f"{path}: a recipe is a mapping with `name`, `data`, `teacher`, `student`, `stages`")
    return content


def recipe_from(content: dict[str, Any], path: Path) -> RecipeConfig:
    """Check the content of a recipe file. `path` is named in errors. Raises TutelageError that names the wrong key."""
    try:
        recipe = RecipeConfig.model_validate(content)
    except ValidationError as error:
        raise TutelageError(f"{path}: {first_message(error, content)}") from error
    _check_references(recipe, path)
    return recipe


def with_overrides(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The content of a recipe file, changed in place. Raises TutelageError for an override that is none."""
    for override in overrides:
        _override(content, override)
    return content


def _override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise TutelageError(f"override `{override}` must have the form key=value, for example training.epochs=3")
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
        node[last] = parse_yaml(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise TutelageError(f"override `{override}`: the value is not valid YAML: correct what follows `=`") from error


def _check_references(recipe: RecipeConfig, path: Path) -> None:
    """Check that every name exists and that stages use earlier stages only."""
    names = _Names(recipe, path)
    all_stages = [s.name for s in recipe.stages if not isinstance(s, EvaluateStage | SynthesizeStage)]
    if isinstance(recipe.student, str):
        names.require(recipe.student, all_stages, "student", "stage")
    for task_name, task in recipe.tasks.items():
        names.require(task.data, names.files, f"tasks.{task_name}.data", "data section with files")
        if task.headline_metric not in task.metrics:
            raise TutelageError(f"{path}: tasks.{task_name}.headline: `{task.headline}` is not one of its `metrics`")
    if recipe.search is not None:
        names.require(recipe.search.task, recipe.tasks, "search.task", "task")
    for stage in recipe.stages:
        names.check(stage)


class _Names:
    """The names of models and data that the next stage may use; each checked stage adds its own."""

    def __init__(self, recipe: RecipeConfig, path: Path) -> None:
        self.recipe, self.path = recipe, path
        self.models: list[str] = ["teacher"] if isinstance(recipe.student, str) else ["base", "teacher"]
        self.trained: list[str] = []
        self.made: dict[str, str] = {n: s for n, d in recipe.data.items() if (s := made_by(d.path)) is not None}
        self.files = [name for name in recipe.data if name not in self.made]
        self.data = list(self.files)
        synthetic = [s.name for s in recipe.stages if isinstance(s, SynthesizeStage)]
        for name, stage in self.made.items():
            self.require(stage, synthetic, f"data.{name}.path", "synthesize stage")
        for name in synthetic:
            if name in recipe.data:
                raise TutelageError(f"{path}: stages.{name}: a data section has the same name: rename one of them")

    def require(self, name: str, names: Any, where: str, what: str) -> None:
        """Raise TutelageError if `name`, a `what` at the key `where`, is not one of `names`."""
        if name not in names:
            there = ", ".join(names) or "none"
            raise TutelageError(f"{self.path}: {where}: no {what} is called `{name}` (there are: {there})")

    def check(self, stage: Any) -> None:
        """Check the names that a stage uses, and add the model or data that it makes."""
        where = f"stages.{stage.name}"
        if isinstance(stage, TrainStage):
            self._check_training(stage, where)
        elif isinstance(stage, SynthesizeStage):
            self.require(stage.gold, self.files, f"{where}.gold", "data section with files")
            self.require(stage.generator, self.models, f"{where}.generator", "earlier stage")
            self.require(stage.annotator, self.models, f"{where}.annotator", "earlier stage")
            self.data += [stage.name, *(n for n, source in self.made.items() if source == stage.name)]
        elif isinstance(stage, PruneStage):
            self.require(stage.model, self.models, f"{where}.model", "earlier stage")
            if stage.prune.calibration:
                self.require(stage.prune.calibration, self.files, f"{where}.prune.calibration", "data section")
        else:
            for name in stage.models:
                self.require(name, [*self.models, "lead_1"], f"{where}.models", "earlier stage")
            for name in stage.tasks:
                self.require(name, self.recipe.tasks, f"{where}.tasks", "task")
            if stage.compare_to is not None:
                self.require(stage.compare_to, stage.models, f"{where}.compare_to", "row of this stage")
        if not isinstance(stage, EvaluateStage | SynthesizeStage):
            self.models += [stage.name, "base"] if stage.name == self.recipe.student else [stage.name]

    def _check_training(self, stage: TrainStage, where: str) -> None:
        recipe = self.recipe
        searched = recipe.search.grid.get("validation", []) if recipe.search is not None and stage.search else []
        for name in [*data_names(stage, recipe.training_of(stage)), *filter(None, searched)]:
            self.require(name, self.data, f"{where}.data", "data section (or earlier synthesize stage)")
        student = stage.student or default_student(recipe, stage.name)
        if student == "base" and "base" not in self.models:
            raise TutelageError(
                f"{self.path}: {where}: `base` is made by stage `{recipe.student}`, which does not come before this "
                f"one: set `student` to `teacher` or an earlier stage"
            )
        for name in [student] + ([] if isinstance(stage, SftStage) else [stage.teacher]):
            self.require(name, self.models, where, "earlier stage")
        if isinstance(stage.search, str):
            self.require(stage.search, recipe.tasks, f"{where}.search", "task")
        for name in stage.epochs_of:
            self.require(name, self.trained, f"{where}.epochs_of", "earlier training stage")
        self.trained.append(stage.name)


def made_by(path: str | list[str]) -> str | None:
    """The synthesize stage that the path of a data section names (`stage:NAME`), else None."""
    return path.removeprefix(STAGE_DATA) if isinstance(path, str) and path.startswith(STAGE_DATA) else None


def default_student(recipe: RecipeConfig, stage: str) -> str:
    """The student that `stage` starts from by default: the latest SFT of the student before it (SFT-S), else `base`."""
    found, teachers = "base", {"teacher"}
    for other in recipe.stages:
        if other.name == stage:
            break
        if isinstance(other, TrainStage) and (other.student or found) in teachers:
            teachers.add(other.name)  # training keeps it a teacher; only pruning makes a student of it
        elif isinstance(other, SftStage):
            found = other.name
    return found


def data_names(stage: TrainStage, training: TrainingConfig) -> list[str]:
    """The names of the data that a stage needs: training data, then the validation section if there is one."""
    names = [stage.data] if isinstance(stage.data, str) else list(stage.data)
    return [*names, training.validation] if training.validation else names
