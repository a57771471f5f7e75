"""The study file: grids over recipe templates. The descriptions are the tables of keys in docs/study.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tutelage.recipe.base import NAME_PATTERN, Count, Section


class BenchmarkTask(Section):
    """A benchmark of `tutelage evaluate` as a task of a study."""

    benchmark: str = Field(
        description="Name of the benchmark: bbh, gpqa, ifeval, infobench, mmlu_pro, arc_challenge, …"
    )
    limit: Count | None = Field(
        default=None, description="Number of examples, drawn evenly from its groups. Default: all."
    )
    draw: int = Field(
        default=0, description="Seed of the draw and of the replies, the same for all seeds of the study."
    )
    batch_size: Count = Field(default=128, description="Replies decoded at the same time; limits memory.")
    chat: bool | None = Field(
        default=None,
        description="Whether prompts go through the chat template. Default: if the tokenizer has one, or the model's "
        "section sets `chat_template`.",
    )
    prompt: str | None = Field(
        default=None,
        description="Template of the question, as `prompt` of a data section, with the columns of the benchmark's rows "
        "or `{prompt}`, its text: to ask a model what it was trained on. Zero-shot, and the reply begins freely. "
        "Default: the benchmark's own prompt.",
    )
    group: str | None = Field(
        default=None,
        description="Only the examples of this group of the benchmark: `test` of flores is the paper's 512 sentences. "
        "Default: all.",
    )
    judge_model: str | None = Field(
        default=None,
        description="Name of the model that judges InFoBench's replies, served at `$TUTELAGE_JUDGE_URL`. Default: no "
        "judge, for benchmarks that need none.",
    )

    def content(self) -> dict[str, Any]:
        """The keys for a fingerprint. `prompt` and `group` count only if set, so that runs from before these keys
        existed keep their fingerprints."""
        unset = {key for key in ("prompt", "group") if getattr(self, key) is None}
        return self.model_dump(mode="json", exclude=unset)


class HeldOutTask(Section):
    """Loss on held-out rows, and with a teacher the divergence from it: nats per response token, lower is better."""

    data: str = Field(description="Data section of the template whose rows no model is trained on.")
    teacher: str | None = Field(
        default=None,
        description="`teacher` or a stage: also measures KL(teacher ‖ model) with that model. Default: only the loss.",
    )
    max_length: Count = Field(default=1024, description="Tokens per sequence; longer responses are cut.")
    tokens_per_micro_batch: Count = Field(
        default=16384, description="Tokens per forward pass: memory against speed, without effect on the result."
    )


class Grid(Section):
    """All combinations of the lists below, on one template."""

    template: str = Field(description="Recipe file with `<placeholders>`; its path is relative to the study file.")
    sizes: list[Count | Literal["all"]] = Field(
        default=[], description="Values of `<size>` in rows; `all` is every row. Default: the template has no `<size>`."
    )
    students: list[str] = Field(min_length=1, description="Values of `<student>`: names of `models`.")
    teachers: list[str] = Field(min_length=1, description="Values of `<teacher>`: names of `models`.")
    methods: dict[str, str] = Field(
        description="Stage of the template that makes each method's model; a list names methods like their stages. "
        "`sft_again` needs no stage: it is `sft`, then as much SFT again on the same data with a fresh schedule."
    )
    tasks: list[str] = Field(
        min_length=1,
        description="Tasks to score on: names of the study's `tasks`, tasks of the template, or benchmarks.",
    )
    seeds: list[int] | None = Field(default=None, min_length=1, description="Seeds of this grid. Default: the study's.")
    values: dict[str, Any] = Field(default={}, description="Values of further placeholders `<name>`, by name.")
    exclude: list[dict[str, Any]] = Field(
        default=[],
        description="Combinations to leave out: those that match an entry in all its keys. Keys are size, student, "
        "method, teacher, seed and task, each with a value or a list of values.",
    )

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
                raise ValueError(f"exclude: keys are {', '.join(sorted(keys))}; give at least one per entry")
        return self


class StudyConfig(Section):
    """A study: its own grids, those of other studies, or both."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = Field(
        description="Name of the study: letters, digits, `_`, `.` and `-`."
    )
    description: str = Field(default="", description="A sentence about the study, for readers of this file.")
    include: list[str] = Field(
        default=[], description="Other study files, relative to this one, whose grids are part of this study."
    )
    seeds: list[int] = Field(
        default=[0],
        min_length=1,
        description="Seeds of data order, sampling and λ; every combination runs once per seed.",
    )
    models: dict[str, dict[str, Any]] = Field(
        default={},
        description="The models that `<student>` and `<teacher>` stand for, by name: the keys of a model section, and "
        "any others for `<student.key>`.",
    )
    tasks: dict[str, BenchmarkTask | HeldOutTask] = Field(
        default={},
        description="Tasks beside those of the templates, by name: benchmarks with settings, or held-out loss.",
    )
    grids: list[Grid] = Field(default=[], description="The grids of this study.")

    @model_validator(mode="after")
    def _names(self) -> StudyConfig:
        if not self.grids and not self.include:
            raise ValueError("the study is empty: give `grids` or `include`")
        for number, grid in enumerate(self.grids):
            for name in [*grid.students, *grid.teachers]:
                if name not in self.models:
                    raise ValueError(
                        f"grids.{number}: no model is called `{name}` (there are: {', '.join(self.models)})"
                    )
        return self
