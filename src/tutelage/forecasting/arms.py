"""The two arms of a recipe: GKD, and its fair opponent, SFT and then as much SFT again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.data.dataset import load_dataset
from tutelage.recipe.load import default_student, made_by
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.sections import DataConfig, TaskConfig
from tutelage.recipe.stages import DistillStage, EvaluateStage, PruneStage, SftStage, TrainStage
from tutelage.runs.recipe_results import names_of

DEV = "forecast_dev"  # names of the data section and the task that a forecast adds
MOST_DEV = 128  # rows; more cost more than they tell
HELD_OUT = 0.25  # largest share of the training rows that a forecast takes for dev; pilots take no more of the others


@dataclass(frozen=True)
class Arms:
    """Stages of `recipe`, which has `again` and the dev task in any case."""

    recipe: RecipeConfig
    sft: str
    again: str
    gkd: str
    teacher: str  # what GKD learns from: `teacher` or a stage
    same_data: bool  # that teacher is fine-tuned on the student's own rows
    data: tuple[str, ...]  # the sections that both arms train on
    rows: int  # in them
    dev_rows: int
    dev_from: str  # where the dev rows are from, in words
    settings: dict[str, dict[str, Any]]  # of stages that a search would choose: the middle of its grid

    @property
    def start(self) -> str:
        """The student before either arm."""
        stage = next(stage for stage in self.recipe.stages if stage.name == self.sft)
        assert isinstance(stage, SftStage)
        return stage.student

    @property
    def given_teacher(self) -> str:
        """The teacher that is there before any pilot: GKD's own, or the model that it is made from."""
        return _origin(self.recipe, self.teacher, set(self.data)) if self.same_data else self.teacher

    @property
    def metric(self) -> str:
        """The metric that the arms are compared by."""
        return self.recipe.tasks[DEV].headline_metric


def find_arms(recipe: RecipeConfig, folder: Path, gkd: str | None = None) -> Arms:
    """The arms of a recipe whose data paths start at `folder`, and dev rows that are no test rows.

    `gkd`: the name of its distill stage; by default the first that an evaluate stage names, rather one that starts from
    an SFT stage. Dev rows are those of the task of the recipe's search; else they are held out of the training rows.
    Raises TutelageError, one line, where an arm is missing, or where the rows are not there before.
    """
    stage = _distill_stage(recipe, gkd)
    stages = {one.name: one for one in recipe.stages}
    before = stage.student or default_student(recipe, stage.name)
    data = tuple(names_of(stage.data))
    sft = stages.get(before)
    if not isinstance(sft, SftStage):
        alike = [s for s in recipe.stages if isinstance(s, SftStage) and s.student == before and s.data == stage.data]
        if not alike:
            raise TutelageError(
                f"{recipe.name}: stages: nothing to compare `{stage.name}` with: add an `sft` stage of its student "
                f"on `{', '.join(data)}`"
            )
        sft = alike[0]
    for name in {*data, *names_of(sft.data)}:
        section = recipe.data.get(name)
        if section is None or made_by(section.path) is not None:
            raise TutelageError(
                f"{recipe.name}: stages.{stage.name}.data: `{name}` is made by a stage, and a forecast reads rows that "
                "are there before: name a distill stage on such rows with --stage"
            )
    again = next(
        (s for s in recipe.stages if isinstance(s, SftStage) and s.student == sft.name and s.data == sft.data), None
    )
    added = []
    if again is None:
        again = sft.model_copy(update={"name": f"{sft.name}_again", "student": sft.name, "label": "SFT again"})
        added = [again]
    counts = {n: len(load_dataset(n, recipe.data[n], folder).conversations) for n in dict.fromkeys(data)}
    dev, rows, where = _dev_section(recipe, folder, data[0], counts[data[0]])
    task = _task(recipe, stage.name)
    changed = recipe.model_copy(
        update={
            "data": recipe.data | {DEV: dev.model_copy(update={"max_bad_rows": 1.0})},  # see `part_of`
            "tasks": recipe.tasks | {DEV: task.model_copy(update={"data": DEV})},
            "stages": [*recipe.stages, *added],
        }
    )
    trained_on = _trained_on(recipe, stage.teacher)
    return Arms(
        recipe=changed,
        sft=sft.name,
        again=again.name,
        gkd=stage.name,
        teacher=stage.teacher,
        same_data=bool(trained_on & set(data)),
        data=tuple(dict.fromkeys([*data, *names_of(sft.data)])),
        rows=sum(counts.values()),
        dev_rows=rows,
        dev_from=where,
        settings=_middle(changed),
    )


def part_of(arms: Arms, share: float) -> RecipeConfig:
    """The recipe on the first `share` of the rows of both arms, in the seeded order in which smaller parts are within
    larger ones, with one seed. `max_steps` shrinks alike.

    Too long rows are left out of a part and counted, however many: what `max_bad_rows` allows is a share of all rows,
    and few rows may have more of them by chance."""
    recipe = arms.recipe
    data = dict(recipe.data)
    for name in arms.data:
        size = part_rows(arms, share) // len(arms.data)
        data[name] = data[name].model_copy(update={"size": size, "max_bad_rows": 1.0})

    def fewer(training: dict[str, Any]) -> dict[str, Any]:
        steps = training.get("max_steps")
        return training if steps is None else training | {"max_steps": max(1, round(share * steps))}

    stages = []
    for stage in recipe.stages:
        if isinstance(stage, TrainStage) and set(names_of(stage.data)) & set(arms.data):
            merged = {k: v for k, v in {"max_steps": recipe.training.max_steps}.items() if v is not None}
            stage = stage.model_copy(update={"training": fewer(merged | stage.training)})
        stages.append(stage)
    return recipe.model_copy(update={"data": data, "stages": stages, "seeds": recipe.seeds[:1]})


def part_rows(arms: Arms, share: float) -> int:
    """How many rows a part has."""
    return len(arms.data) * max(1, round(share * arms.rows / len(arms.data)))


def _distill_stage(recipe: RecipeConfig, name: str | None) -> DistillStage:
    found = [stage for stage in recipe.stages if isinstance(stage, DistillStage)]
    shown = {model for stage in recipe.stages if isinstance(stage, EvaluateStage) for model in stage.models}
    if name is not None:
        named = [stage for stage in found if stage.name == name and name in shown]
        if not named:
            there = ", ".join(stage.name for stage in found if stage.name in shown) or "none"
            raise TutelageError(f"{recipe.name}: no evaluated distill stage is called `{name}` (there are: {there})")
        return named[0]
    evaluated = [stage for stage in found if stage.name in shown]
    if not evaluated:
        raise TutelageError(
            f"{recipe.name}: stages: no `distill` stage is evaluated, so nothing can be forecast: add one, and name "
            "it in an `evaluate` stage"
        )
    kinds = {stage.name: stage for stage in recipe.stages}
    sft = [s for s in evaluated if isinstance(kinds.get(s.student or default_student(recipe, s.name)), SftStage)
           and not kinds[s.student or default_student(recipe, s.name)].shared]  # fmt: skip
    return (sft or evaluated)[0]


def _task(recipe: RecipeConfig, model: str) -> TaskConfig:
    """How dev rows are asked and scored: as in the task that the search chooses by, else as in the first task on which
    the model is evaluated."""
    if recipe.search is not None:
        return recipe.tasks[recipe.search.task]
    return next(recipe.tasks[s.tasks[0]] for s in recipe.stages if isinstance(s, EvaluateStage) and model in s.models)


def _dev_section(recipe: RecipeConfig, folder: Path, train: str, count: int) -> tuple[DataConfig, int, str]:
    """The section of dev rows, how many there are, and where they are from."""
    name = None if recipe.search is None else recipe.tasks[recipe.search.task].data
    tested = [recipe.data[recipe.tasks[task].data]
              for stage in recipe.stages if isinstance(stage, EvaluateStage) for task in stage.tasks]  # fmt: skip
    if name is not None and recipe.data[name] not in tested:
        section = recipe.data[name]
        there = len(load_dataset(name, section, folder, require_response=False).conversations)
        rows = min(there, MOST_DEV)
        return section.model_copy(update={"size": rows}), rows, f"the first {rows} rows of `{name}`, the search's data"
    section = recipe.data[train]
    rows = max(1, min(MOST_DEV, int(HELD_OUT * count)))
    held = section.model_copy(update={"skip": section.skip + count - rows, "size": rows})
    return held, rows, f"the last {rows} training rows, which no pilot trains on"


def _trained_on(recipe: RecipeConfig, model: str) -> set[str]:
    """The data sections that a model was trained on, through all stages that made it."""
    found: set[str] = set()
    stages = {stage.name: stage for stage in recipe.stages}
    while (stage := stages.get(model)) is not None:
        if isinstance(stage, TrainStage):
            found |= set(names_of(stage.data))
            model = stage.student or default_student(recipe, stage.name)
        elif isinstance(stage, PruneStage):
            model = stage.model
        else:
            break
    return found


def _origin(recipe: RecipeConfig, model: str, data: set[str]) -> str:
    """The model that `model` was made from before it was trained on any section of `data`."""
    stages = {stage.name: stage for stage in recipe.stages}
    while _trained_on(recipe, model) & data:
        stage: Any = stages[model]
        model = stage.model if isinstance(stage, PruneStage) else stage.student or default_student(recipe, stage.name)
    return model


def _middle(recipe: RecipeConfig) -> dict[str, dict[str, Any]]:
    """The middle of the search's grid, for every stage with `search`."""
    if recipe.search is None:
        return {}
    middle = {key: values[(len(values) - 1) // 2] for key, values in recipe.search.grid.items()}
    return {stage.name: middle for stage in recipe.stages if isinstance(stage, TrainStage) and stage.search}
