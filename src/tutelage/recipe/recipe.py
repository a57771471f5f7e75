"""A whole recipe: its sections, and the checks that need more than one of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tutelage.recipe.base import NAME_LENGTH, NAME_PATTERN, Section, first_message, names_of_folders
from tutelage.recipe.sections import DataConfig, LoraConfig, ModelConfig, TaskConfig, TrainingConfig
from tutelage.recipe.stages import DistillStage, Stage, SynthesizeStage, TrainStage

LORA = "lora."  # of keys of a search that are not of the `training` section


class SearchConfig(Section):
    """A grid of training settings, tried with the first seed for every stage with `search`; the best is used for all
    seeds."""

    grid: dict[str, list[Any]] = Field(
        description="Values to try per key of the `training` section, and of `lora` as `lora.r`; all combinations are "
        "tried."
    )
    task: str = Field(description="Task, on development data, whose headline metric chooses.")


class RecipeConfig(Section):
    """A whole experiment: data, teacher, student and the stages that connect them."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=NAME_LENGTH)] = Field(
        description="Name of the recipe: letters, digits, `_`, `.` and `-`."
    )
    description: str = Field(default="", description="A sentence for the head of the report.")
    seeds: list[int] = Field(
        default=[0],
        min_length=1,
        description="Seeds of data order, sampling and λ; every stage that is not shared runs once per seed.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="`auto`: CUDA if there is one, else CPU."
    )
    data: dict[str, DataConfig] = Field(description="Data sections by name.")
    teacher: ModelConfig = Field(description="The teacher before any training; stages name it `teacher`.")
    student: ModelConfig | str = Field(
        description="The student before any training, which stages name `base`: a model, or the name of the stage that "
        "makes it."
    )
    training: TrainingConfig = Field(
        default=TrainingConfig(), description="Settings of all training stages; a stage can override single keys."
    )
    tasks: dict[str, TaskConfig] = Field(default={}, description="Tasks by name, for `evaluate` stages and the search.")
    search: SearchConfig | None = Field(
        default=None, description="The search of training settings. Default: none, so no stage may set `search`."
    )
    stages: list[Stage] = Field(
        min_length=1, description="What to do, in order; a stage can use only models and data of earlier stages."
    )

    _task_names = field_validator("tasks")(names_of_folders)

    @field_validator("seeds")
    @classmethod
    def _unique_seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is named twice: name each once")
        return seeds

    @field_validator("stages")
    @classmethod
    def _unique_names(cls, stages: list[Stage]) -> list[Stage]:
        seen: set[str] = {"teacher", "student", "base", "lead_1"}
        for stage in stages:
            if stage.name in seen:
                raise ValueError(f"stage name `{stage.name}` is taken: give every stage its own name")
            seen.add(stage.name)
        return stages

    @model_validator(mode="after")
    def _stage_training(self) -> RecipeConfig:
        for stage in self.stages:
            if isinstance(stage, TrainStage):
                self.training_of(stage)
                own = isinstance(stage, DistillStage) and stage.signal.cache and not stage.signal.elsewhere
                if own and getattr(stage, "on_policy", 0.0) and self.training_of(stage).shard:
                    raise ValueError(
                        f"stage `{stage.name}`: `signal.cache` with `on_policy` and `training.shard` needs a served "
                        "teacher (`signal.served`): name one, or set `on_policy: 0.0`"
                    )
                if stage.search and self.search is None:
                    raise ValueError(f"stage `{stage.name}` has `search`, and the recipe has no `search` section")
        if self.search and not self.search.grid:
            raise ValueError("search.grid: names no key of `training`: give at least one, with the values to try")
        for key, values in self.search.grid.items() if self.search else ():
            if not values:
                raise ValueError(f"search.grid.{key}: the list is empty: give at least one value to try")
            for place, value in enumerate(values):
                prefix = LORA if key.startswith(LORA) else ""
                section, name = LoraConfig if prefix else TrainingConfig, key.removeprefix(prefix)
                try:
                    checked = section.model_validate({name: value})
                    values[place] = getattr(checked, name) if isinstance(value, str) else value  # "0.01" is a number
                except ValueError as error:
                    raise ValueError(first_message(error, within=f"search.grid.{prefix}".rstrip("."))) from error
        return self

    @model_validator(mode="after")
    def _adapters(self) -> RecipeConfig:
        if not isinstance(self.student, str) and self.student.precision is not None:
            raise ValueError("student.precision: is for teachers: a student in four bits has `lora: {base: nf4}`")
        models = [self.teacher, self.student]
        if not any(isinstance(model, ModelConfig) and model.lora is not None for model in models):
            for key in self.search.grid if self.search else ():
                if key.startswith(LORA):
                    raise ValueError(f"search.grid.{key}: no model trains an adapter: set `student.lora`")
        return self

    @model_validator(mode="after")
    def _plain_text(self) -> RecipeConfig:
        """Refuse plain text, which has no prompt, where something must be answered."""
        plain = {name for name, config in self.data.items() if config.text is not None}
        for stage in self.stages:
            need = {"seqkd": "needs a teacher's answers", "synthesize": "needs prompts"}.get(stage.kind)
            if getattr(stage, "on_policy", 0.0):
                need = "lets the student answer (set `on_policy: 0.0`)"
            used = [stage.gold] if isinstance(stage, SynthesizeStage) else getattr(stage, "data", [])
            for name in sorted(plain & {*([used] if isinstance(used, str) else used)}) if need else ():
                raise ValueError(
                    f"stage `{stage.name}` {need}, and `data.{name}` is plain text: give it data with prompts"
                )
        for name, task in self.tasks.items():
            if task.data in plain:
                raise ValueError(
                    f"task `{name}` needs prompts, and `data.{task.data}` is plain text: give it data with prompts"
                )
        return self

    def training_of(self, stage: TrainStage, overrides: dict[str, Any] | None = None) -> TrainingConfig:
        """The training settings of a stage: the recipe's, overridden by the stage's own keys, then by `overrides`.

        Raises ValueError for a key or value that is not valid.
        """
        own = {key: value for key, value in (overrides or {}).items() if not key.startswith(LORA)}
        merged = self.training.model_dump() | stage.training | own
        try:
            return TrainingConfig.model_validate(merged)
        except ValueError as error:
            raise ValueError(first_message(error, within=f"stages.{stage.name}.training")) from error
