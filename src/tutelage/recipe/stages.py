"""The stages of a recipe: one pydantic model per kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from tutelage.recipe.base import Count, Fraction, Positive, Section
from tutelage.recipe.sections import FilterConfig, PruneConfig, SamplingConfig


class _Stage(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    label: str | None = Field(default=None, description="how tables call this row")
    shared: bool = Field(default=False, description="run once, for all seeds")


class _TrainStage(_Stage):
    data: str | list[str] = Field(description="data sections or `synthesize` stages; several are one mixture")
    training: dict[str, Any] = Field(default={}, description="overrides of the recipe's `training` section")
    search: bool | str = Field(
        default=False, description="choose over the recipe's `search` grid, by its task or by the one named here"
    )
    epochs_of: list[str] = Field(default=[], description="train for as many epochs as these stages together chose")

    @field_validator("data")
    @classmethod
    def _some_data(cls, data: str | list[str]) -> str | list[str]:
        if not data:
            raise ValueError("names no data section: there is nothing to train on")
        return data


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


class SeqkdStage(_TrainStage):
    """SeqKD: cross-entropy on several answers of the teacher to every prompt, written once before training.

    Equal answers are kept once with their number as weight, which is the loss on all of them.
    """

    kind: Literal["seqkd"]
    student: str | None = Field(
        default=None, description="base, or an earlier stage; default: the latest SFT of the student"
    )
    teacher: str = Field(default="teacher", description="teacher: the recipe's; or an earlier stage")
    samples_per_prompt: Count = 5
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="of the teacher's answers")


class MethodStage(_TrainStage):
    """A method of your own: a function that changes a training job (docs/method.md)."""

    kind: Literal["method"]
    method: str = Field(description="its name in `METHODS` of src/tutelage/training/methods/__init__.py")
    student: str | None = Field(
        default=None, description="base, or an earlier stage; default: the latest SFT of the student"
    )
    teacher: str = Field(default="teacher", description="teacher: the recipe's; or an earlier stage")
    on_policy: Fraction = Field(default=1.0, description="λ: the chance of each example to be answered by the student")
    sampling: SamplingConfig = SamplingConfig()
    options: dict[str, Any] = Field(default={}, description="handed to the method as they are")


class SynthesizeStage(_Stage):
    """New inputs from demonstrations (eq. 4–5), answered by the teacher (eq. 6), filtered, with provenance."""

    kind: Literal["synthesize"]
    gold: str = Field(description="data section with the demonstrations")
    rows: Count = Field(description="accepted rows wanted")
    generator: str = Field(default="teacher", description="who writes inputs: teacher, base, or an earlier stage")
    annotator: str = Field(default="teacher", description="who answers them: teacher, base, or an earlier stage")
    demonstrations: Count = Field(default=10, description="gold rows shown for each new input")
    form: Literal["chat", "continuation"] = Field(
        default="chat",
        description="chat: appendix A.4 as a message; continuation: eq. 4 as text, for base models",
    )
    inputs: SamplingConfig = Field(
        default=SamplingConfig(temperature=0.8, max_new_tokens=4096), description="how inputs are sampled"
    )
    answers: SamplingConfig = Field(
        default=SamplingConfig(temperature=0.6, max_new_tokens=4096), description="how answers are sampled"
    )
    filters: FilterConfig = FilterConfig()
    avoid: list[str] = Field(
        default=[],
        description="benchmarks that new rows must share no text with, like the data of the recipe's tasks",
    )
    min_acceptance: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.02, description="give up when fewer of the attempts are accepted"
    )
    shared: bool = True

    @field_validator("inputs", "answers", mode="before")
    @classmethod
    def _own_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        """A section that sets one key keeps the other defaults of these two, not those of other sampling sections."""
        if not isinstance(value, dict):
            return value
        return {"temperature": 0.8 if info.field_name == "inputs" else 0.6, "max_new_tokens": 4096} | value


class PruneStage(_Stage):
    """Cut layers out of a model to make a student where no small sibling exists."""

    kind: Literal["prune"]
    model: str = "teacher"
    prune: PruneConfig
    shared: bool = True


class EvaluateStage(_Stage):
    """Answer a task's prompts with each model, and score them."""

    kind: Literal["evaluate"]
    models: list[str] = Field(
        min_length=1, description="base, teacher, stage names, or `lead_1` (the prompt's first line)"
    )
    tasks: list[str] = Field(min_length=1)
    compare_to: str | None = Field(
        default=None, description="row that the others are paired against; default: the first SFT"
    )


TrainStage = SftStage | DistillStage | SeqkdStage | MethodStage
Stage = Annotated[TrainStage | SynthesizeStage | PruneStage | EvaluateStage, Field(discriminator="kind")]
