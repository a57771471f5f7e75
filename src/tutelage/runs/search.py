"""A recipe's search: each stage with `search` tries the grid with the first seed, scored by a task on development data.

A run waits only for the searches that it depends on: while one stage tries its points, all other runs go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from tutelage.common import run_folder
from tutelage.common.errors import TutelageError
from tutelage.recipe.load import data_names, default_student, made_by
from tutelage.recipe.recipe import LORA, RecipeConfig
from tutelage.recipe.stages import EvaluateStage, PruneStage, SftStage, SynthesizeStage, TrainStage
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run, with_parents


@dataclass(frozen=True)
class SearchPoint:
    """Settings that a search tries for a stage."""

    stage: str
    settings: dict[str, Any]
    value: float | None  # the task's score; None while it is not evaluated, or unscored
    chosen: bool
    task: str  # the one that decides


class Search:
    """The search of `planner.recipe`. `open`: the stages whose best point is not known yet; found points go into
    `planner.choices`."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        stages = [] if planner.recipe.search is None else planner.recipe.stages
        self.open = [s.name for s in stages if isinstance(s, TrainStage) and s.search]
        self.order = list(self.open)
        self.trials: dict[str, list[tuple[dict[str, Any], Run]]] = {}
        self.waited_for: dict[str, int] = {}  # by a trial's fingerprint: stages that cannot be planned before it
        self._known: list[Run] | None = None

    def known(self) -> list[Run]:
        """All runs whose settings are known by now, trials first. There may be more once more runs are done."""
        while self._plan_trials() or self._choose() or self._known is None:
            self._known = [run for points in self.trials.values() for _, run in points]
            self._known += trained(self.planner, self.settled)
            self._known += [run for subject, _, run in evaluations(self.planner, self.settled)]
        return self._known

    def expected(self) -> list[Run]:
        """The runs that there will be in the end, as if the first point were the best of each search that goes on."""
        real = self.planner
        guess = Search(Planner(real.recipe, real.recipe_folder, real.root, inputs=real.inputs))
        while guess.open:
            guess._plan_trials()
            guess._choose(guessing=True)
        return with_parents(guess.known())

    @property
    def points(self) -> list[SearchPoint]:
        """The points of every stage whose trials are planned, tried or not."""
        return [
            SearchPoint(
                name,
                settings,
                _headline(self.planner, name, run),
                chosen=settings == self.planner.choices.get(name),
                task=search_task(self.planner, name),
            )
            for name in self.order
            for settings, run in self.trials.get(name, [])
        ]

    def settled(self, name: str) -> bool:
        """Whether all settings of a model are known: those of its stage and of all stages that it builds on."""
        source = self.planner.recipe.student if name == "base" else name
        names = {source} | ancestors(self.planner, source) if isinstance(source, str) else set()
        return not names & set(self.open)

    def _plan_trials(self) -> bool:
        """Plan the trials of stages that wait for no other search any more; returns whether there were any."""
        new = [n for n in self.open if n not in self.trials and not ancestors(self.planner, n) & set(self.open)]
        task, seed = {n: search_task(self.planner, n) for n in new}, self.planner.recipe.seeds[0]
        for n in new:
            self.trials[n] = [(s, self.planner.evaluation(n, task[n], seed, s)) for s in _grid(self.planner, n)]
            waiting = sum(n in ancestors(self.planner, stage) for stage in self.planner.stages)
            self.waited_for |= {run.fingerprint: waiting for _, run in self.trials[n]}
        return bool(new)

    def _choose(self, guessing: bool = False) -> bool:
        """Choose the best point of each stage whose trials are all done (the first of equal ones); True if there
        was any. With `guessing`, choose the first point of stages that have trials to do."""
        over = {name: all(run.done for _, run in trials) for name, trials in self.trials.items()}
        tried = [name for name in self.open if name in over and (over[name] or guessing)]
        for name in tried:
            values = [_headline(self.planner, name, run) if over[name] else None for _, run in self.trials[name]]
            if not guessing and all(value is None for value in values):
                task, tried_first = search_task(self.planner, name), self.trials[name][0][1].folder
                why = "; ".join(run_folder.read_json(tried_first, run_folder.RESULT).get("notices") or [])
                raise TutelageError(
                    f"stage `{name}`: every trial of its search is unscored on `{task}`, so none can be chosen: "
                    f"correct `tasks.{task}` (its references and metrics), or search on another task"
                    + (f" ({why})" if why else "")
                )
            best = max(range(len(values)), key=lambda i: (-1.0 if values[i] is None else values[i], -i))
            self.planner.choices[name] = self.trials[name][best][0]
            self.open.remove(name)
        return bool(tried)


def trained(planner: Planner, settled: Callable[[str], bool] = lambda _: True) -> list[Run]:
    """The runs of all stages that make a model or data, for every seed."""
    made = [s.name for s in planner.recipe.stages if not isinstance(s, EvaluateStage) and settled(s.name)]
    return [planner.stage_run(name, seed) for name in made for seed in planner.recipe.seeds]


def evaluations(planner: Planner, settled: Callable[[str], bool] = lambda _: True) -> list[tuple[str, str, Run]]:
    """(subject, task, run) for every evaluate stage, in table order. Two subjects that are trained alike have the same
    runs, as seeds of one that is not trained have."""
    found: dict[tuple[str, str, str], Run] = {}
    for stage in planner.recipe.stages:
        if not isinstance(stage, EvaluateStage):
            continue
        for subject, task, seed in product(filter(settled, stage.models), stage.tasks, planner.recipe.seeds):
            run = planner.evaluation(subject, task, seed)
            found.setdefault((subject, task, run.fingerprint), run)
    return [(subject, task, run) for (subject, task, _), run in found.items()]


def search_task(planner: Planner, name: str) -> str:
    """The task whose score chooses the settings of stage `name`."""
    stage = planner.stages[name]
    assert planner.recipe.search is not None
    assert isinstance(stage, TrainStage)
    return stage.search if isinstance(stage.search, str) else planner.recipe.search.task


def _headline(planner: Planner, name: str, run: Run) -> float | None:
    """The value of a trial of stage `name`: its search task's headline metric."""
    if not run.done:
        return None
    metric = planner.recipe.tasks[search_task(planner, name)].headline_metric
    return run_folder.read_json(run.folder, run_folder.RESULT)["metrics"][metric]["value"]


def _grid(planner: Planner, name: str) -> list[dict[str, Any]]:
    """The points that stage `name` tries."""
    assert planner.recipe.search is not None
    grid = dict(planner.recipe.search.grid)
    fixed = planner.settings(name)  # what `epochs_of` sets is not searched
    adapted = planner.lora(name) is not None
    grid = {k: v for k, v in grid.items() if k not in fixed and (adapted or not k.startswith(LORA))}
    return [fixed | dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def restricted(planner: Planner, only: Sequence[str]) -> RecipeConfig:
    """The planner's recipe with these evaluate stages alone, and the stages that they and the student build on; all of
    it where `only` is empty. Raises TutelageError for a name that no evaluate stage has."""
    recipe = planner.recipe
    if not only:
        return recipe
    evaluating = [stage for stage in recipe.stages if isinstance(stage, EvaluateStage)]
    for name in only:
        if name not in {stage.name for stage in evaluating}:
            names = ", ".join(stage.name for stage in evaluating)
            raise TutelageError(f"--only {name}: no evaluate stage has this name; there are {names}")
    sources = [model for stage in evaluating if stage.name in only for model in stage.models]
    needed = set(only)
    for source in [*sources, "base"]:
        name = recipe.student if source == "base" else source
        if isinstance(name, str) and name in planner.stages:
            needed |= {name} | ancestors(planner, name)
    return recipe.model_copy(update={"stages": [stage for stage in recipe.stages if stage.name in needed]})


def ancestors(planner: Planner, name: str) -> set[str]:
    """Stages whose settings must be known before stage `name` can be planned."""
    stage = planner.stages.get(name)
    names: list[str] = []
    if isinstance(stage, TrainStage):
        names = [stage.student or default_student(planner.recipe, name), *stage.epochs_of]
        names += [] if isinstance(stage, SftStage) else [stage.teacher]
        for data in data_names(stage, planner.training(name, {})):
            section = planner.recipe.data.get(data)
            maker = data if section is None else made_by(section.path)
            names += [] if maker is None else [maker]
    elif isinstance(stage, SynthesizeStage):
        names = [stage.generator, stage.annotator]
    elif isinstance(stage, PruneStage):
        names = [stage.model]
    found: set[str] = set()
    for other in names:
        source = planner.recipe.student if other == "base" else other
        if isinstance(source, str) and source in planner.stages:
            found |= {source} | ancestors(planner, source)
    return found
