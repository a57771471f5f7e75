"""A study file, read and turned into runs: every combination of its grids, every run once.

A study is templates filled in: each combination of size, student and teacher makes a recipe, and the planner of recipes
makes its runs. Runs are known by fingerprint, so that what two combinations have in common is one run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks import benchmark
from tutelage.recipe.base import first_message
from tutelage.recipe.load import default_student, read_yaml, recipe_from
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.stages import SftStage, TrainStage
from tutelage.recipe.study import BenchmarkTask, Grid, HeldOutTask, StudyConfig
from tutelage.runs.cost.facts import facts
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run, made_from
from tutelage.study.plan import Cell, StudyPlan

_WHOLE = re.compile(r"<([a-z_][\w.]*)>")


def load_study(path: Path) -> StudyConfig:
    """Read and check a study file. Raises TutelageError, one line with the key that is wrong."""
    content = read_yaml(path)
    if "stages" in content:
        raise TutelageError(
            f"{path}: this is a recipe, not a study: `tutelage run` it (its report takes the JSON file that makes)"
        )
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        raise TutelageError(f"{path}: {first_message(error)}") from error


def plan_study(
    path: Path, root: Path, partial: bool = False, fetch: Callable[[Sequence[Run]], None] | None = None
) -> StudyPlan:
    """The runs of a study, in the folder `root`. Reads templates and hashes local data; asks no network.

    `partial` is for those who only look: data that are not here are listed in `absent` instead of being an error, and
    where nothing was begun on this machine's kind of device, the runs are those of the device where some were. `fetch`
    brings what is known of runs into `root`.
    """
    config = load_study(path)
    marks: dict[str, str] = {}

    def planned(auto_device: str | None) -> StudyPlan:
        planning = _Planning(root, partial, marks, auto_device)
        for study, grid, base in _grids(config, path, ()):
            planning.add(study, grid, base)
        return planning.plan(config, path)

    here = planned(None)
    if not partial:
        return here
    for device in ("", "cuda", "cpu"):
        plan = replace(planned(device), elsewhere=device) if device else here
        if device and plan.runs == here.runs:
            continue
        if fetch is not None:
            fetch(plan.runs)
        if any(run.folder.is_dir() for run in plan.runs):
            return plan
    return here


def _grids(config: StudyConfig, path: Path, outer: tuple[Path, ...]) -> Iterator[tuple[StudyConfig, Grid, Path]]:
    path = path.resolve()
    if path in outer:
        raise TutelageError(f"{path}: include goes in a circle")
    for name in config.include:
        file = path.parent / name
        yield from _grids(load_study(file), file, (*outer, path))
    for grid in config.grids:
        yield config, grid, path


class _Planning:
    """Planners of all combinations, which share what they know."""

    def __init__(self, root: Path, partial: bool, marks: dict[str, str], auto_device: str | None) -> None:
        self.root, self.partial, self.marks, self.auto_device = root, partial, marks, auto_device
        self.known: dict[str, Run] = {}
        self.planners: dict[tuple[Any, ...], _StudyPlanner] = {}
        self.points: list[tuple[Cell, Run, str]] = []
        self.absent: list[str] = []

    def add(self, study: StudyConfig, grid: Grid, path: Path) -> None:
        sizes: list[Any] = [*grid.sizes] or [None]
        seeds = grid.seeds or study.seeds
        for size, student, teacher in product(sizes, grid.students, grid.teachers):
            planner: _StudyPlanner | None = None
            for (method, stage), seed, task in product(grid.methods.items(), seeds, grid.tasks):
                named = {"size": size, "student": student, "method": method, "teacher": teacher, "seed": seed}
                if _excluded(grid, named | {"task": task}):
                    continue
                planner = planner or self._planner(study, grid, path, size, student, teacher)
                run = _measure(planner, study, path, stage, task, seed)
                own = _owner(planner.recipe, stage)
                cell = Cell(
                    _rows_of(planner.recipe, size),
                    teacher if own == "teacher" else student,
                    method,
                    teacher if _taught(planner.recipe, stage) else None,
                    seed,
                    task,
                    run.folder,
                )
                self.points.append((cell, run, teacher))

    def plan(self, config: StudyConfig, path: Path) -> StudyPlan:
        points = _distinct(self.points)
        runs: dict[str, Run] = {}
        uses: Counter[str] = Counter()
        for _, run in points:
            for one in made_from(run):
                runs.setdefault(one.fingerprint, one)
                uses[one.fingerprint] += 1
        return StudyPlan(
            config, path, self.root, tuple(points), tuple(runs.values()), dict(uses), tuple(dict.fromkeys(self.absent))
        )

    def _planner(
        self, study: StudyConfig, grid: Grid, path: Path, size: Any, student: str, teacher: str
    ) -> _StudyPlanner:
        file = path.parent / grid.template
        values = dict(grid.values) | {"size": None if size == "all" else size}
        for role, name in (("student", student), ("teacher", teacher)):
            values[role] = study.models[name]
            values |= {f"{role}.{key}": value for key, value in study.models[name].items()} | {f"{role}.name": name}
        key = (file, str(values), tuple(study.seeds))
        if key not in self.planners:
            names = {"student": student, "teacher": teacher}
            content = _fill(read_yaml(file), values, names, file)
            recipe = recipe_from(content | {"seeds": study.seeds}, file)
            if recipe.search is not None:
                raise TutelageError(f"{file}: a template has no `search`: find the settings by `tutelage run` first")
            absent = self.absent if self.partial else None
            self.planners[key] = _StudyPlanner(
                recipe, file.parent, self.root, self.known, self.marks, absent, self.auto_device
            )
        return self.planners[key]


class _StudyPlanner(Planner):
    """A planner that looks at nothing but local files, and may be told to do without those that are not here, and what
    `device: auto` means."""

    def __init__(
        self,
        recipe: RecipeConfig,
        base: Path,
        root: Path,
        known: dict[str, Run],
        marks: dict[str, str],
        absent: list[str] | None,
        auto_device: str | None,
    ) -> None:
        super().__init__(recipe, base, root, known, marks, declared=True)
        self.absent, self.auto_device = absent, auto_device

    @property
    def device(self) -> str:
        return self.auto_device if self.auto_device and self.recipe.device == "auto" else super().device

    def _data_mark(self, name: str, require_response: bool) -> str:
        try:
            return super()._data_mark(name, require_response)
        except TutelageError as error:
            if self.absent is None:
                raise
            self.absent.append(str(error))
            return f"absent:{self.recipe.data[name].model_dump_json()}"


def _measure(planner: _StudyPlanner, study: StudyConfig, path: Path, stage: str, task: str, seed: int) -> Run:
    """The run that measures what `stage` makes."""
    if stage not in planner.stages and stage not in ("base", "teacher"):
        names = ", ".join(["base", "teacher", *planner.stages])
        raise TutelageError(f"{path}: methods: the template has no stage `{stage}` (there are: {names})")
    if task in planner.recipe.tasks:
        return planner.evaluation(stage, task, seed)
    spec = study.tasks.get(task) or BenchmarkTask(benchmark=benchmark(task).name)
    if isinstance(spec, HeldOutTask):
        if spec.data not in planner.recipe.data:
            raise TutelageError(f"{path}: tasks.{task}.data: the template has no data section `{spec.data}`")
        roles = {"model": stage} | ({} if spec.teacher is None else {"teacher": spec.teacher})
        return planner.measurement(stage, task, "held_out", spec, roles, seed)
    benchmark(spec.benchmark)
    return planner.measurement(stage, task, "benchmark", spec, {"model": stage}, seed)


def _fill(node: Any, values: dict[str, Any], names: dict[str, str], file: Path) -> Any:
    """`<size>` as a whole value becomes the value, whatever it is; within a text, its name or number."""
    if isinstance(node, dict):
        return {key: _fill(value, values, names, file) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(item, values, names, file) for item in node]
    if not isinstance(node, str):
        return node

    def value_of(match: re.Match[str]) -> Any:
        if match[1] not in values:
            raise TutelageError(
                f"{file}: `{match[0]}` is filled by nothing: give it in `models` or the grid's `values`"
            )
        return values[match[1]]

    whole = _WHOLE.fullmatch(node)
    if whole is not None:
        return value_of(whole)
    return _WHOLE.sub(lambda m: str(names.get(m[1]) or value_of(m)), node)


def _excluded(grid: Grid, point: dict[str, Any]) -> bool:
    def agrees(key: str, value: Any) -> bool:
        return point[key] in (value if isinstance(value, list) else [value])

    return any(all(agrees(key, value) for key, value in entry.items()) for entry in grid.exclude)


def _owner(recipe: RecipeConfig, stage: str) -> str:
    """`teacher` where the stage's model is the teacher trained further, else `student`."""
    stages = {s.name: s for s in recipe.stages}
    while stage in stages:
        found = stages[stage]
        if not isinstance(found, TrainStage):
            return "student"
        stage = found.student or default_student(recipe, stage)
    return "teacher" if stage == "teacher" else "student"


def _taught(recipe: RecipeConfig, stage: str) -> bool:
    """Whether the stage itself is taught by a teacher's distribution or samples."""
    found = next((s for s in recipe.stages if s.name == stage), None)
    return isinstance(found, TrainStage) and not isinstance(found, SftStage)


def _rows_of(recipe: RecipeConfig, size: Any) -> int | None:
    if size != "all":
        return size
    for section in recipe.data.values():
        if isinstance(section.path, str) and section.path in facts()["data"]:
            return facts()["data"][section.path]["rows"]
    return None


def _distinct(points: list[tuple[Cell, Run, str]]) -> list[tuple[Cell, Run]]:
    """Each cell once. Where a method without a teacher differs by teacher all the same (SFT on a teacher's synthetic
    rows), its cells name the teacher."""
    folders: dict[Any, set[Path]] = {}
    for cell, run, _ in points:
        folders.setdefault(replace(cell, folder=Path()), set()).add(run.folder)
    out: dict[Cell, Run] = {}
    for cell, run, teacher in points:
        several = len(folders[replace(cell, folder=Path())]) > 1
        out.setdefault(replace(cell, teacher=teacher) if several and cell.teacher is None else cell, run)
    return list(out.items())
