"""A whole recipe: its sections, and the checks that need several of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tutelage.recipe.base import Section, first_message
from tutelage.recipe.sections import (
    DataConfig,
    ModelConfig,
    TaskConfig,
    TrainingConfig,
)
from tutelage.recipe.stages import (
    Stage,
    SynthesizeStage,
    TrainStage,
)


class SearchConfig(Section):
    """One small grid, the same for every arm that asks for it; the best point on `task` is used for all seeds."""

    grid: dict[str, list[Any]] = Field(description="training keys with the values to try")
    task: str = Field(description="task (on development data) whose headline metric decides")


class RecipeConfig(Section):
    """A whole experiment: data, teacher, student and the stages that connect them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    seeds: list[int] = Field(default=[0], min_length=1, description="each once")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: dict[str, DataConfig]
    teacher: ModelConfig
    student: ModelConfig | str = Field(description="a model, or the name of the stage that makes it")
    training: TrainingConfig = TrainingConfig()
    tasks: dict[str, TaskConfig] = Field(default={})
    search: SearchConfig | None = None
    stages: list[Stage] = Field(min_length=1)

    @field_validator("seeds")
    @classmethod
    def _unique_seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is named twice: two runs of one seed are one run")
        return seeds

    @field_validator("stages")
    @classmethod
    def _unique_names(cls, stages: list[Stage]) -> list[Stage]:
        seen: set[str] = {"teacher", "student", "base", "lead_1"}
        for stage in stages:
            if stage.name in seen:
                raise ValueError(f"stage name `{stage.name}` is taken; give every stage its own name")
            seen.add(stage.name)
        return stages

    @model_validator(mode="after")
    def _stage_training(self) -> RecipeConfig:
        for stage in self.stages:
            if isinstance(stage, TrainStage):
                self.training_of(stage)
                if stage.search and self.search is None:
                    raise ValueError(f"stage `{stage.name}` has `search: true`, and the recipe has no `search` section")
        for key, values in self.search.grid.items() if self.search else ():
            if not values:
                raise ValueError(f"search.grid.{key}: the list is empty: give at least one value to try")
            for value in values:
                try:
                    TrainingConfig.model_validate({key: value})
                except ValueError as error:
                    raise ValueError(f"search.grid: {first_message(error)}") from error
        return self

    @model_validator(mode="after")
    def _plain_text(self) -> RecipeConfig:
        """Plain text has no prompt that somebody could answer."""
        plain = {name for name, config in self.data.items() if config.text is not None}
        for stage in self.stages:
            wants = {"seqkd": "takes a teacher's answers", "synthesize": "takes prompts"}.get(stage.kind)
            if getattr(stage, "on_policy", 0.0):
                wants = "lets the student answer (set `on_policy: 0.0`)"
            used = [stage.gold] if isinstance(stage, SynthesizeStage) else getattr(stage, "data", [])
            for name in sorted(plain & {*([used] if isinstance(used, str) else used)}) if wants else ():
                raise ValueError(
                    f"stage `{stage.name}` {wants}, and `data.{name}` is plain text: give it data with prompts"
                )
        for name, task in self.tasks.items():
            if task.data in plain:
                raise ValueError(
                    f"task `{name}` asks models, and `data.{task.data}` is plain text: give it data with prompts"
                )
        return self

    def training_of(self, stage: TrainStage, overrides: dict[str, Any] | None = None) -> TrainingConfig:
        """The recipe's training section with the stage's own keys, then `overrides`, laid over it."""
        merged = self.training.model_dump() | stage.training | (overrides or {})
        try:
            return TrainingConfig.model_validate(merged)
        except ValueError as error:
            raise ValueError(f"stage `{stage.name}`, `training`: {first_message(error)}") from error
