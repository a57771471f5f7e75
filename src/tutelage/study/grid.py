"""From a study file to runs: every combination of its grids, every run once.

A template filled in with a size, a student and a teacher is a recipe, and the planner of recipes makes its runs. Equal
runs of several combinations have equal fingerprints, so they are one run.
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
from tutelage.recipe.load import default_student, read_yaml, recipe_from, with_line
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.stages import SftStage, TrainStage
from tutelage.recipe.study import BenchmarkTask, Grid, HeldOutTask, JudgeConfig, SignalsTask, StudyConfig
from tutelage.runs.cost.facts import facts
from tutelage.runs.fingerprints import InputFingerprints
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run, with_parents
from tutelage.study.plan import Cell, Distilled, StudyPlan

AGAIN = "sft_again"
_PLACEHOLDER = re.compile(r"<([a-z_][\w.]*)>")


def load_study(path: Path) -> StudyConfig:
    """Read and check a study file. Raises TutelageError, one line with the key that is wrong."""
    content = read_yaml(path)
    if "stages" in content:
        raise TutelageError(f"{path}: this is a recipe, not a study: use `tutelage run` and `tutelage report` on it")
    try:
        config = StudyConfig.model_validate(content)
    except ValidationError as error:
        raise TutelageError(with_line(f"{path}: {first_message(error, content)}", path)) from error
    return config if config.judge is None else config.model_copy(update={"judge": _judge(config.judge, path)})


def _judge(given: JudgeConfig | str, path: Path) -> JudgeConfig:
    """The `judge` section of the study file `path`, or of the file that it names instead."""
    if isinstance(given, JudgeConfig):
        return given.found_in(path, whole=False)
    file = path.parent / given
    try:
        return JudgeConfig.model_validate(read_yaml(file)).found_in(file, whole=True)
    except ValidationError as error:
        raise TutelageError(with_line(f"{file}: {first_message(error)}", file)) from error


def plan_study(
    path: Path, root: Path, partial: bool = False, fetch: Callable[[Sequence[Run]], None] | None = None
) -> StudyPlan:
    """Plan the runs of the study file `path`, in the folder `root`. Reads templates and hashes local data; asks no
    network. Raises TutelageError, one line, for a file that is wrong or data that are missing.

    `partial`, for commands that only look: data and models that are not on this machine are listed in the plan's
    `absent` instead; and if this machine's device has begun no run, the plan is the one of the device that has. `fetch`
    brings what a store knows of runs into `root`.
    """
    config = load_study(path)
    fingerprints: dict[str, str] = {}
    templates: dict[Path, dict[str, Any]] = {}

    def planned_for(auto_device: str | None) -> StudyPlan:
        planning = _Planning(root, partial, fingerprints, templates, auto_device)
        for study, grid, file in _grids(config, path, ()):
            planning.add(study, grid, file)
        return planning.plan(config, path)

    here = planned_for(None)
    if not partial:
        return here
    for device in ("", "cuda", "cpu"):
        plan = replace(planned_for(device), elsewhere=device) if device else here
        if device and plan.runs == here.runs:
            continue
        if fetch is not None:
            fetch(plan.runs)
        if any(run.folder.is_dir() for run in plan.runs):
            return plan
    return here


def _grids(config: StudyConfig, path: Path, outer: tuple[Path, ...]) -> Iterator[tuple[StudyConfig, Grid, Path]]:
    """All grids of a study and of those that it includes, each with its study and that study's file."""
    path = path.resolve()
    if path in outer:
        raise TutelageError(f"{path}: `include` goes in a circle: a study cannot include itself")
    for name in config.include:
        file = path.parent / name
        included = load_study(file)
        if included.judge is None:
            included = included.model_copy(update={"judge": config.judge})
        yield from _grids(included, file, (*outer, path))
    for grid in config.grids:
        yield config, grid, path


class _Planning:
    """The planners of all combinations, which share known runs and fingerprints, and the cells planned so far."""

    def __init__(
        self,
        root: Path,
        partial: bool,
        fingerprints: dict[str, str],
        templates: dict[Path, dict[str, Any]],
        auto_device: str | None,
    ) -> None:
        self.root, self.templates, self.auto_device = root, templates, auto_device
        self.absent: list[str] = []
        self.inputs = InputFingerprints(True, fingerprints, self.absent if partial else None)
        self.known: dict[str, Run] = {}
        self.planners: dict[tuple[Any, ...], Planner] = {}
        self.points: list[tuple[Cell, Run, str]] = []
        self.distilled: dict[tuple[Any, ...], Distilled] = {}

    def add(self, study: StudyConfig, grid: Grid, path: Path) -> None:
        """Plan all combinations of a grid of the study file `path`."""
        sizes: list[Any] = [*grid.sizes] or [None]
        seeds = grid.seeds or study.seeds
        for size, student, teacher in product(sizes, grid.students, grid.teachers):
            planner: Planner | None = None
            for (method, stage), seed, task in product(grid.methods.items(), seeds, grid.tasks):
                point = {"size": size, "student": student, "method": method, "teacher": teacher, "seed": seed}
                if _excluded(grid, point | {"task": task}):
                    continue
                planner = planner or self._planner(study, grid, path, size, student, teacher)
                run = _measure(planner, study, path, stage, task, seed)
                cell = Cell(
                    size=_size_in_rows(planner.recipe, size),
                    student=teacher if _descends_from_teacher(planner.recipe, stage) else student,
                    method=method,
                    teacher=teacher if _has_teacher(planner.recipe, stage) else None,
                    seed=seed,
                    task=task,
                    folder=run.folder,
                )
                self.points.append((cell, run, teacher))
                if cell.teacher is not None:
                    self._note_distilled(cell, run, planner, path.parent / grid.template, stage)

    def plan(self, config: StudyConfig, path: Path) -> StudyPlan:
        """All that was added, as the plan of the study `config` in the file `path`."""
        points = _distinct(self.points)
        runs: dict[str, Run] = {}
        uses: Counter[str] = Counter()
        for _, run in points:
            for needed in with_parents([run]):
                runs.setdefault(needed.fingerprint, needed)
                uses[needed.fingerprint] += 1
        return StudyPlan(
            config=config,
            file=path,
            root=self.root,
            points=tuple(points),
            runs=tuple(runs.values()),
            uses=dict(uses),
            absent=tuple(dict.fromkeys(self.absent)),
            distilled=tuple(self.distilled.values()),
        )

    def _note_distilled(self, cell: Cell, run: Run, planner: Planner, template: Path, stage: str) -> None:
        key = (cell.size, cell.student, cell.method, cell.teacher)
        own = (cell.task,) if cell.task in planner.recipe.tasks else ()
        found = self.distilled.get(key) or Distilled(*key, planner.recipe, template.parent, stage, (), False)
        tasks = tuple(dict.fromkeys([*found.tasks, *own]))
        self.distilled[key] = replace(found, tasks=tasks, measured=found.measured or (bool(own) and run.done))

    def _planner(self, study: StudyConfig, grid: Grid, path: Path, size: Any, student: str, teacher: str) -> Planner:
        """The planner of one filled template; combinations that fill it alike share one."""
        file = path.parent / grid.template
        values = dict(grid.values) | {"size": None if size == "all" else size}
        for role, name in (("student", student), ("teacher", teacher)):
            values[role] = study.models[name]
            values |= {f"{role}.{key}": value for key, value in study.models[name].items()} | {f"{role}.name": name}
        again = AGAIN in grid.methods.values()
        key = (file, str(values), tuple(study.seeds), again)
        if key not in self.planners:
            names = {"student": student, "teacher": teacher}
            if file not in self.templates:
                self.templates[file] = read_yaml(file)
            content = _fill(self.templates[file], values, names, file)
            recipe = recipe_from(content | {"seeds": study.seeds}, file)
            if again:
                recipe = _with_control(recipe)
            if recipe.search is not None:
                raise TutelageError(
                    f"{file}: a template cannot have `search`: find the settings with `tutelage run` first"
                )
            self.planners[key] = Planner(
                recipe,
                file.parent,
                self.root,
                declared=True,
                known=self.known,
                inputs=self.inputs,
                auto_device=self.auto_device,
            )
        return self.planners[key]


def _with_control(recipe: RecipeConfig) -> RecipeConfig:
    """The recipe with a stage `sft_again`, the control of equal training: from the stage `sft`, as much SFT again on
    the same data with a fresh schedule. As it is where it has such a stage or no `sft`."""
    stages = {stage.name: stage for stage in recipe.stages}
    sft = stages.get("sft")
    if AGAIN in stages or not isinstance(sft, SftStage):
        return recipe
    # at the end, so that no other stage takes it for the student's latest SFT
    again = sft.model_copy(update={"name": AGAIN, "student": "sft", "label": "SFT again"})
    return recipe.model_copy(update={"stages": [*recipe.stages, again]})


def _measure(planner: Planner, study: StudyConfig, path: Path, stage: str, task: str, seed: int) -> Run:
    """The run that measures the model of `stage` on `task`: one of the template, of the study, or a benchmark."""
    if stage not in planner.stages and stage not in ("base", "teacher"):
        names = ", ".join(["base", "teacher", *planner.stages])
        raise TutelageError(f"{path}: methods: the template has no stage `{stage}` (there are: {names})")
    if task in planner.recipe.tasks:
        return planner.evaluation(stage, task, seed)
    config = study.tasks.get(task) or BenchmarkTask(benchmark=benchmark(task).name)
    if isinstance(config, HeldOutTask | SignalsTask):
        if config.data not in planner.recipe.data:
            raise TutelageError(f"{path}: tasks.{task}.data: the template has no data section `{config.data}`")
        roles = {"model": stage} | ({} if config.teacher is None else {"teacher": config.teacher})
        kind = "signals" if isinstance(config, SignalsTask) else "held_out"
        return planner.measurement(stage, task, kind, config, roles, seed)
    benchmark(config.benchmark)  # raises for a name that does not exist
    assert not isinstance(study.judge, str)  # `load_study` reads the file
    return planner.measurement(stage, task, "benchmark", config, {"model": stage}, seed, study.judge)


def _fill(node: Any, values: dict[str, Any], names: dict[str, str], file: Path) -> Any:
    """Fill placeholders: `<size>` as a whole value becomes the value, of any type; in a text, its name or number."""
    if isinstance(node, dict):
        return {key: _fill(value, values, names, file) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(item, values, names, file) for item in node]
    if not isinstance(node, str):
        return node

    def value_of(match: re.Match[str]) -> Any:
        if match[1] not in values:
            raise TutelageError(f"{file}: nothing fills `{match[0]}`: give it in `models` or in the grid's `values`")
        return values[match[1]]

    whole = _PLACEHOLDER.fullmatch(node)
    if whole is not None:
        return value_of(whole)
    return _PLACEHOLDER.sub(lambda m: str(names.get(m[1]) or value_of(m)), node)


def _excluded(grid: Grid, point: dict[str, Any]) -> bool:
    """Whether a combination agrees with all keys of an entry of the grid's `exclude`."""

    def agrees(key: str, value: Any) -> bool:
        return point[key] in (value if isinstance(value, list) else [value])

    return any(all(agrees(key, value) for key, value in entry.items()) for entry in grid.exclude)


def _descends_from_teacher(recipe: RecipeConfig, stage: str) -> bool:
    """Whether the stage's model is the teacher trained further, not a student."""
    stages = {s.name: s for s in recipe.stages}
    while stage in stages:
        found = stages[stage]
        if not isinstance(found, TrainStage):
            return False
        stage = found.student or default_student(recipe, stage)
    return stage == "teacher"


def _has_teacher(recipe: RecipeConfig, stage: str) -> bool:
    """Whether the stage itself learns from a teacher's distribution or samples."""
    found = next((s for s in recipe.stages if s.name == stage), None)
    return isinstance(found, TrainStage) and not isinstance(found, SftStage)


def _size_in_rows(recipe: RecipeConfig, size: Any) -> int | None:
    """The size as a number; for `all`, the rows that are declared for the recipe's hub data."""
    if size != "all":
        return size
    for section in recipe.data.values():
        if isinstance(section.path, str) and section.path in facts()["data"]:
            return facts()["data"][section.path]["rows"]
    return None


def _distinct(points: list[tuple[Cell, Run, str]]) -> list[tuple[Cell, Run]]:
    """Each cell once. When a method without a teacher depends on one all the same (SFT on a teacher's synthetic rows),
    its cells name the teacher."""
    folders: dict[Any, set[Path]] = {}
    for cell, run, _ in points:
        folders.setdefault(replace(cell, folder=Path()), set()).add(run.folder)
    out: dict[Cell, Run] = {}
    for cell, run, teacher in points:
        several = len(folders[replace(cell, folder=Path())]) > 1
        out.setdefault(replace(cell, teacher=teacher) if several and cell.teacher is None else cell, run)
    return list(out.items())
