"""The stages of a recipe: one pydantic model per kind. Their descriptions are the tables of keys in docs/recipe.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tutelage.recipe.base import NAME_LENGTH, NAME_PATTERN, Count, Fraction, Positive, Section
from tutelage.recipe.sections import SamplingConfig, TrainingConfig

Reason = Literal[
    "preamble",
    "carries_answer",
    "form",
    "script",
    "language",
    "duplicate_of_gold",
    "duplicate_of_earlier",
    "near_duplicate_of_gold",
    "near_duplicate_of_earlier",
    "contamination",
]

_STUDENT = "The model to start from: `base` or an earlier stage. Default: the latest SFT of the recipe's student."
_TEACHER = "The teacher: `teacher` (the recipe's) or an earlier stage."
_ON_POLICY = "λ: the probability, per example, that the student writes the response; else the data's is used."
_STUDENT_SAMPLING = "How the student's responses are sampled."
_SHARED = "Whether the stage runs once, with the first seed, for all seeds."


class PruneConfig(Section):
    """Which layers of a model to keep: either `keep`, or `layers` with a `method`."""

    layers: Count | None = Field(default=None, description="Number of layers to keep, which `method` then chooses.")
    keep: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, description="Indices of the layers to keep, from 0; `method` is then not used."
    )
    method: Literal["listed", "even", "block_influence", "least_damage"] = Field(
        default="least_damage",
        description="How to choose `layers` layers. `even`: evenly spaced. `block_influence`: remove those that turn "
        "their input least (one pass). `least_damage`: remove one at a time, each time the one whose removal raises "
        "the loss least. `listed`: a name for `keep`.",
    )
    calibration: str | None = Field(
        default=None,
        description="Data section whose rows measure the damage; `block_influence` and `least_damage` need it. With "
        "it, the perplexity before and after is reported.",
    )
    calibration_rows: Count = Field(default=32, description="Rows of `calibration` to use.")

    @model_validator(mode="after")
    def _consistent(self) -> PruneConfig:
        if (self.layers is None) == (self.keep is None):
            raise ValueError("give either `layers` (how many) or `keep` (which)")
        if self.method in ("block_influence", "least_damage") and self.keep is None and self.calibration is None:
            raise ValueError(f"`method: {self.method}` needs `calibration`, the name of a data section")
        return self


class FilterConfig(Section):
    """The filters of synthetic rows. Empty rows and rows cut at the length limit are always rejected."""

    skip: list[Reason] = Field(default=[], description="Filters that are not applied, by the reason they give.")
    near_duplicate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.7,
        description="Two inputs are near duplicates from this estimated Jaccard similarity of character 5-grams on.",
    )
    contamination_words: Count = Field(
        default=13,
        description="A row is contaminated if it shares a run of this many words with evaluation data.",
    )
    answer: Literal["any", "choice"] = Field(
        default="any",
        description="`choice`: the input must list lettered or numbered choices, one per line, and the answer must be "
        "one of them. `any`: no such check.",
    )


class _Stage(Section):
    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=NAME_LENGTH)] = Field(
        description="Name of the stage, unique in the recipe: letters, digits, `_`, `.` and `-`. Other stages use it."
    )
    label: str | None = Field(default=None, description="Name of the stage's model in reports. Default: `name`.")
    shared: bool = Field(default=False, description=_SHARED)


class _TrainStage(_Stage):
    misplaced: ClassVar[Mapping[str, str]] = {key: f"training.{key}" for key in TrainingConfig.model_fields}
    data: str | list[str] = Field(
        description="Data section or `synthesize` stage to train on, or a list of them, which is one mixture."
    )
    training: dict[str, Any] = Field(default={}, description="Keys that override the recipe's `training` section.")
    search: bool | str = Field(
        default=False,
        description="`true`: choose the settings by the recipe's `search`. The name of a task: by that task instead.",
    )
    epochs_of: list[str] = Field(
        default=[],
        description="Earlier training stages: this one trains for the sum of their epochs. Default: `epochs`.",
    )

    @field_validator("data")
    @classmethod
    def _some_data(cls, data: str | list[str]) -> str | list[str]:
        if not data:
            raise ValueError("names no data section: give at least one to train on")
        return data


class SftStage(_TrainStage):
    """Cross-entropy on the data's responses."""

    kind: Literal["sft"]
    student: str = Field(
        default="base",
        description="The model to start from: `base` (the recipe's student), `teacher` or an earlier stage.",
    )


class SignalConfig(Section):
    """Where the teacher's signal comes from (docs/teachers.md). Without any key: a teacher in the training process."""

    served: str | None = Field(
        default=None, description="Address of `tutelage serve-teacher`, such as `http://localhost:8700`: exact losses."
    )
    openai: str | None = Field(
        default=None,
        description="Base address of an OpenAI-compatible endpoint with `prompt_logprobs` (vLLM), such as "
        "`http://localhost:8000/v1`: the `top_k` likeliest tokens, so an approximate loss with a stated bound.",
    )
    model: str | None = Field(
        default=None, description="With `openai`: the model's name there. Default: the `path` of the teacher."
    )
    api_key_env: str = Field(
        default="OPENAI_API_KEY", description="With `openai`: the environment variable that holds the key."
    )
    cache: Literal["exact", "bfloat16", "top_k"] | None = Field(
        default=None,
        description="Compute the signal on the data's responses once and keep it beside the runs, for all of them. "
        "`exact`: hidden states as the teacher computes them; `bfloat16`: rounded to half the size where that is "
        "float32; `top_k`: the likeliest tokens, an approximate loss. Default: it is not kept.",
    )
    top_k: Count = Field(
        default=20, description="With `openai` or `cache: top_k`: how many of the teacher's likeliest tokens count."
    )
    wait: Positive = Field(
        default=600.0, description="Seconds that a teacher elsewhere may be away or silent before the run stops."
    )

    @property
    def elsewhere(self) -> bool:
        """Whether the teacher is not in the training process."""
        return self.served is not None or self.openai is not None

    @property
    def approximate(self) -> bool:
        """Whether only the teacher's likeliest tokens are known."""
        return self.openai is not None or self.cache == "top_k"

    @property
    def identity(self) -> dict[str, Any] | None:
        """What of it changes the numbers of a run, beyond rounding; None for nothing."""
        if self.approximate:
            return {"top_k": self.top_k}
        return {"cache": "bfloat16"} if self.cache == "bfloat16" else None

    @field_validator("served", "openai")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"`{url}` is not an address such as http://localhost:8700")
        if url is not None and "@" in url.split("/")[2]:
            raise ValueError("an address with a password would be shown: put the token into a variable instead")
        return url

    @model_validator(mode="after")
    def _fits(self) -> SignalConfig:
        if self.served and self.openai:
            raise ValueError("`served` and `openai` are two teachers: give one of them")
        if self.openai and self.cache not in (None, "top_k"):
            raise ValueError(f"an `openai` endpoint gives no hidden states to keep: `cache: top_k`, not {self.cache}")
        given = self.model_fields_set
        if not self.openai and given & {"model", "api_key_env"}:
            raise ValueError("`model` and `api_key_env` are of an `openai` endpoint: give its address, or remove them")
        if not self.approximate and "top_k" in given:
            raise ValueError("`top_k` needs `openai` or `cache: top_k`: hidden states give all tokens")
        return self


class DistillStage(_TrainStage):
    """GKD, eq. 1–3: a divergence from the teacher, on the data's responses and the student's own samples."""

    kind: Literal["distill"]
    student: str | None = Field(default=None, description=_STUDENT)
    teacher: str = Field(default="teacher", description=_TEACHER)
    divergence: Literal["jsd", "forward_kl", "reverse_kl"] = Field(
        default="jsd",
        description="`jsd`: generalised Jensen–Shannon divergence with `beta` (eq. 3). `forward_kl`: KL(T‖S). "
        "`reverse_kl`: KL(S‖T).",
    )
    beta: Fraction = Field(
        default=0.5, description="β of `jsd`: the teacher's share of the mixture. 0 is KL(T‖S), 1 is KL(S‖T)."
    )
    temperature: Positive = Field(
        default=1.0, description="Divides the logits of teacher and student before the divergence."
    )
    ce_weight: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0,
        description="α: the loss is α · cross-entropy on the data's responses + (1 − α) · the divergence. The "
        "student's own responses have no cross-entropy, so `on_policy` must be below 1.",
    )
    on_policy: Fraction = Field(default=0.5, description=_ON_POLICY)
    sampling: SamplingConfig = Field(default=SamplingConfig(), description=_STUDENT_SAMPLING)
    signal: SignalConfig = Field(default=SignalConfig(), description="Where the teacher's signal comes from.")

    @model_validator(mode="after")
    def _cross_entropy_has_responses(self) -> DistillStage:
        if self.ce_weight > 0.0 and self.on_policy == 1.0:
            raise ValueError(
                "`ce_weight` needs responses of the data, and `on_policy: 1.0` uses none: lower `on_policy`"
            )
        return self

    @model_validator(mode="after")
    def _signal_fits(self) -> DistillStage:
        if self.signal.cache and self.on_policy == 1.0:
            raise ValueError(
                "`signal.cache` keeps the signal on the data's responses, and `on_policy: 1.0` uses none: lower it, or "
                "remove `cache`"
            )
        reverse = self.divergence == "reverse_kl" or (self.divergence == "jsd" and self.beta == 1.0)
        if self.signal.approximate and (reverse or self.temperature != 1.0):
            raise ValueError(
                "the teacher's likeliest tokens (`signal.openai`, `cache: top_k`) bound no KL(S‖T) and no temperature "
                "but 1: use `jsd` with `beta` below 1 or `forward_kl`, `temperature: 1.0`, or a served teacher"
            )
        return self

    @model_validator(mode="after")
    def _beta_is_used(self) -> DistillStage:
        implied = {"jsd": self.beta, "forward_kl": 0.0, "reverse_kl": 1.0}[self.divergence]
        if self.beta not in (implied, type(self).model_fields["beta"].default):
            raise ValueError(
                f"`beta` is that of `jsd`, and `divergence: {self.divergence}` has none: remove one of the two"
            )
        return self


class SeqkdStage(_TrainStage):
    """SeqKD: cross-entropy on several of the teacher's samples per prompt, written once before training.

    Equal samples are stored once with their number as weight, which gives the loss on all of them.
    """

    kind: Literal["seqkd"]
    student: str | None = Field(default=None, description=_STUDENT)
    teacher: str = Field(default="teacher", description=_TEACHER)
    samples_per_prompt: Count = Field(default=5, description="Samples that the teacher writes per prompt.")
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="How the teacher's responses are sampled.")
    own_answers: bool = Field(
        default=False,
        description="The teacher is asked what this student reads, and its answers are shared with no other student. "
        "Wanted by a study whose student and teacher are on the hub and read differently: it is told then. All other "
        "plans find that out themselves.",
    )


class MethodStage(_TrainStage):
    """A method of your own: a function that changes a training job (docs/method.md)."""

    kind: Literal["method"]
    method: str = Field(description="Its name in `METHODS` of src/tutelage/training/methods/__init__.py.")
    student: str | None = Field(default=None, description=_STUDENT)
    teacher: str = Field(default="teacher", description=_TEACHER)
    on_policy: Fraction = Field(default=1.0, description=_ON_POLICY)
    sampling: SamplingConfig = Field(default=SamplingConfig(), description=_STUDENT_SAMPLING)
    options: dict[str, Any] = Field(default={}, description="Options passed to the method unchanged.")


class SynthesizeStage(_Stage):
    """New inputs from demonstrations (eq. 4–5), answered by the teacher (eq. 6), filtered, with provenance."""

    kind: Literal["synthesize"]
    gold: str = Field(description="Data section whose rows are the demonstrations.")
    rows: Count = Field(description="Number of accepted rows to make.")
    generator: str = Field(
        default="teacher", description="The model that writes inputs: `teacher`, `base` or an earlier stage."
    )
    annotator: str = Field(
        default="teacher", description="The model that answers them: `teacher`, `base` or an earlier stage."
    )
    demonstrations: Count = Field(default=10, description="Gold rows shown per new input.")
    form: Literal["chat", "continuation"] = Field(
        default="chat",
        description="Form of the prompt for a new input. `chat`: a user message (appendix A.4). `continuation`: text "
        "to continue (eq. 4), for base models.",
    )
    inputs: SamplingConfig = Field(
        default=SamplingConfig(temperature=0.8, max_new_tokens=4096), description="How inputs are sampled."
    )
    answers: SamplingConfig = Field(
        default=SamplingConfig(temperature=0.6, max_new_tokens=4096), description="How answers are sampled."
    )
    filters: FilterConfig = Field(default=FilterConfig(), description="The filters that a row must pass.")
    avoid: list[str] = Field(
        default=[],
        description="Benchmarks whose text new rows must not share. The data of the recipe's tasks are always avoided.",
    )
    min_acceptance: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.02, description="The stage fails when a smaller share of the attempts is accepted."
    )
    shared: bool = Field(default=True, description=_SHARED)

    @field_validator("inputs", "answers", mode="before")
    @classmethod
    def _own_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        """A section that sets some keys keeps the other defaults of `inputs` or `answers`, not those of the class."""
        if not isinstance(value, dict):
            return value
        return {"temperature": 0.8 if info.field_name == "inputs" else 0.6, "max_new_tokens": 4096} | value


class PruneStage(_Stage):
    """Removes layers from a model, to make a student where no small model of the family exists."""

    kind: Literal["prune"]
    model: str = Field(default="teacher", description="The model to cut: `teacher`, `base` or an earlier stage.")
    prune: PruneConfig = Field(description="Which layers to keep.")
    shared: bool = Field(default=True, description=_SHARED)


class EvaluateStage(_Stage):
    """Samples each model's answers to the prompts of tasks, and scores them."""

    kind: Literal["evaluate"]
    models: list[str] = Field(
        min_length=1,
        description="Models to evaluate: `base`, `teacher`, stages, or `lead_1` (the prompt's first line as answer).",
    )
    tasks: list[str] = Field(min_length=1, description="Tasks of the recipe whose prompts they answer.")
    compare_to: str | None = Field(
        default=None,
        description="One of `models`, with which the others are compared example by example. Default: the control of "
        "equal training (SFT, then SFT again on the same data) if it is one of them, else the student's first SFT.",
    )


TaughtStage = DistillStage | SeqkdStage | MethodStage
TrainStage = SftStage | DistillStage | SeqkdStage | MethodStage
Stage = Annotated[TrainStage | SynthesizeStage | PruneStage | EvaluateStage, Field(discriminator="kind")]
