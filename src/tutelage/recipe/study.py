"""The study file: grids over recipe templates. The descriptions are the tables of keys in docs/study.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from tutelage.recipe.base import NAME_LENGTH, NAME_PATTERN, Count, NonNegative, Section, names_of_folders
from tutelage.recipe.sections import SamplingConfig


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
    max_new_tokens: Count | None = Field(
        default=None,
        description="Tokens per reply, at most half of the model's context. Models that think first need more. "
        "Default: the benchmark's own limit.",
    )

    def content(self) -> dict[str, Any]:
        """The keys for the fingerprint of what is sampled. Later keys count only if set, and `judge_model` is always
        absent, so that runs from before and after these keys existed keep their fingerprints."""
        unset = {key for key in ("prompt", "group", "max_new_tokens") if getattr(self, key) is None}
        return self.model_dump(mode="json", exclude=unset) | {"judge_model": None}


class JudgeConfig(Section):
    """The model that judges InFoBench's replies. It has no part in what is sampled: added later, it scores what was
    kept."""

    model: str | None = Field(
        default=None, description="Its name at the endpoint. Default: none yet, and InFoBench stays unscored."
    )
    url: str | None = Field(
        default=None,
        description="Address of an OpenAI-compatible endpoint, such as `http://localhost:8000/v1`. Default: "
        "`$TUTELAGE_JUDGE_URL`.",
    )
    api_key_env: str = Field(
        default="OPENAI_API_KEY", description="Environment variable that holds the key; local servers need none."
    )
    rules: str = Field(
        default="tutelage",
        description="What the judge is told: `tutelage`, `official` (the wording of the benchmark's own script, "
        "fetched from its repository), or a file with the wording or that script, relative to the study file.",
    )
    decision: Literal["tutelage", "official"] | None = Field(
        default=None,
        description="How its answers are read, as here or as by the benchmark's own script. Default: `official` with "
        "`rules: official`, else `tutelage`.",
    )
    requests: Count = Field(default=8, description="Replies judged at the same time.")
    temperature: NonNegative | None = Field(default=0.0, description="Sent with each request; `null`: not sent.")
    max_tokens: Count | None = Field(default=None, description="The longest answer. Default: the endpoint's own.")

    _place: str = PrivateAttr("`judge.model` of the study")

    @property
    def place(self) -> str:
        """Where its model is named, for messages."""
        return self._place

    def found_in(self, file: Path, whole: bool) -> JudgeConfig:
        """The section as read from a file, of which it may be the `whole`; paths are relative to the file."""
        named = self.rules in ("tutelage", "official")
        out = self if named else self.model_copy(update={"rules": str(file.parent / self.rules)})
        out = out.model_copy()
        out._place = f"`{'' if whole else 'judge.'}model` in {file}"
        return out


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


class SignalsTask(Section):
    """What a teacher knows that a model does not, before training: losses, KL(teacher ‖ model) and its parts."""

    kind: Literal["signals"]
    data: str = Field(description="Data section of the template whose rows no model is trained on.")
    teacher: str = Field(description="`teacher` or a stage: the model that would teach.")
    rows: Count = Field(default=128, description="Rows to read, from the start of the section.")
    sampling: SamplingConfig = Field(
        default=SamplingConfig(max_new_tokens=128), description="How the model's own samples are drawn, one per row."
    )
    max_length: Count = Field(default=1024, description="Tokens per sequence; longer responses are cut.")
    tokens_per_micro_batch: Count = Field(
        default=8192, description="Tokens per forward pass: memory against speed, without effect on the result."
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
        "The report compares and draws those called `sft`, `sft_again`, `gkd_sft`, `gkd_base`, `gkd_it`, `seqkd`, "
        "`mix` and `two_stage`, and only tabulates others: `{gkd_sft: my_gkd}`. "
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


class ForecastConfig(Section):
    """Forecasts of a study's distilled models, made before its runs and shown beside what came out."""

    pilot: Literal["none", "short", "full"] = Field(
        default="short", description="No pilot, one on n/16 of the rows, or up to n/4, until the interval decides."
    )
    budget: NonNegative = Field(
        default=0.1, description="Most that pilots may cost, as a share of both arms; the first is made anyway."
    )
    effect: NonNegative = Field(default=1.0, description="The gain in points that is worth having.")


class StudyConfig(Section):
    """A study: its own grids, those of other studies, or both."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=NAME_LENGTH)] = Field(
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
    tasks: dict[str, BenchmarkTask | HeldOutTask | SignalsTask] = Field(
        default={},
        description="Tasks beside those of the templates: benchmarks with settings, held-out loss, or signals.",
    )
    judge: JudgeConfig | str | None = Field(
        default=None,
        description="The judge of InFoBench: a section, or a YAML file with one, relative to this file, for several "
        "studies. Default: that of the study that includes this one, else none.",
    )
    forecast: ForecastConfig | None = Field(
        default=None,
        description="Forecasts (docs/forecast.md) of the distilled models of this study and of those that it includes. "
        "Default: none.",
    )
    grids: list[Grid] = Field(default=[], description="The grids of this study.")

    _task_names = field_validator("tasks")(names_of_folders)

    @model_validator(mode="after")
    def _names(self) -> StudyConfig:
        if not self.grids and not self.include:
            raise ValueError("the study is empty: give `grids` or `include`")
        for number, grid in enumerate(self.grids, 1):
            for name in [*grid.students, *grid.teachers]:
                if name not in self.models:
                    raise ValueError(
                        f"grids (number {number}): no model is called `{name}` (there are: {', '.join(self.models)})"
                    )
        return self
