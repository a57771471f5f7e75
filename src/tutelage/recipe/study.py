"""The study file: a grid over recipe templates. Docs: docs/study.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tutelage.recipe.base import Count, Section


class BenchmarkTask(Section):
    """One of the benchmarks of `tutelage evaluate`, as a task of a study."""

    benchmark: str = Field(description="its name: bbh, gpqa, ifeval, infobench, mmlu_pro, arc_challenge, …")
    limit: Count | None = Field(default=None, description="examples, drawn evenly from its groups; default: all")
    draw: int = Field(default=0, description="seed of that draw, the same for all seeds of the study")
    batch_size: Count = Field(default=128, description="replies written at the same time")
    chat: bool | None = Field(default=None, description="default: if the model has a chat template")
    judge_model: str | None = Field(default=None, description="InFoBench: the judge's name at $TUTELAGE_JUDGE_URL")


class HeldOutTask(Section):
    """Loss on held-out rows, and the divergence from a teacher: nats a response token, lower is better."""

    data: str = Field(description="data section of the template whose rows no model is trained on")
    teacher: str | None = Field(default=None, description="stage or `teacher`: also KL(teacher ‖ model) and its name")
    max_length: Count = 1024
    tokens_per_micro_batch: Count = 16384


class Grid(Section):
    """A part of the map: every combination of its lists, on one template."""

    template: str = Field(description="a recipe file with <placeholders>, relative to the study file")
    sizes: list[Count | Literal["all"]] = Field(default=[], description="fills <size>; `all` is every row")
    students: list[str] = Field(min_length=1, description="names of `models`; fills <student>")
    teachers: list[str] = Field(min_length=1, description="names of `models`; fills <teacher>")
    methods: dict[str, str] = Field(description="method → the stage of the template that makes its model")
    tasks: list[str] = Field(min_length=1, description="names of `tasks`, tasks of the template, or benchmarks")
    seeds: list[int] | None = Field(default=None, min_length=1, description="default: the study's")
    values: dict[str, Any] = Field(default={}, description="fills further placeholders, <name>")
    exclude: list[dict[str, Any]] = Field(
        default=[], description="combinations to leave out: {size, student, method, teacher, seed, task}, each a value "
        "or a list; a combination that agrees with all keys of an entry is left out"
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _listed_methods(cls, data: Any) -> Any:
        """`methods: [sft, gkd]` means stages of the same names."""
        if isinstance(data, dict) and isinstance(data.get("methods"), list):
            data = data | {"methods": {name: name for name in data["methods"]}}
        return data

    @model_validator(mode="after")
    def _known_exclusions(self) -> Grid:
        keys = {"size", "student", "method", "teacher", "seed", "task"}
        for entry in self.exclude:
            if not entry or set(entry) - keys:
                raise ValueError(f"exclude: keys are {', '.join(sorted(keys))}, at least one")
        return self


class StudyConfig(Section):
    """A study: grids, or other studies put together."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    include: list[str] = Field(default=[], description="other study files whose grids are part of this one")
    seeds: list[int] = Field(default=[0], min_length=1)
    models: dict[str, dict[str, Any]] = Field(
        default={}, description="what <student> and <teacher> stand for: a model section, or any keys"
    )
    tasks: dict[str, BenchmarkTask | HeldOutTask] = Field(default={})
    grids: list[Grid] = Field(default=[])

    @model_validator(mode="after")
    def _names(self) -> StudyConfig:
        if not self.grids and not self.include:
            raise ValueError("give `grids` or `include`: a study of nothing has no plan")
        for number, grid in enumerate(self.grids):
            for name in [*grid.students, *grid.teachers]:
                if name not in self.models:
                    raise ValueError(
                        f"grids.{number}: no model is called `{name}` (there are: {', '.join(self.models)})"
                    )
        return self
