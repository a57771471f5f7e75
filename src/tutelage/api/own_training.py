"""`Trainer`: the training of a recipe with models that one has in memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tutelage.api.results import TrainingResult
from tutelage.api.rows import rows_path
from tutelage.api.settings import Sections, section, sort_settings
from tutelage.common.errors import TutelageError
from tutelage.common.files import hash_file, refuse_unwritable
from tutelage.common.hashing import fingerprint
from tutelage.common.interrupt import stop_requests
from tutelage.common.metrics_log import read_metrics
from tutelage.common.run_folder import CHECKPOINTS, METRICS
from tutelage.models.attention import NAME as PACKED
from tutelage.models.load import LoadedModel, model_in_memory
from tutelage.recipe.sections import DataConfig, ModelConfig, TrainingConfig
from tutelage.recipe.stages import DistillStage, SftStage
from tutelage.runs.fingerprints import COSMETIC, rows_code
from tutelage.runs.run import Run
from tutelage.runs.stages.train import prepare
from tutelage.teachers.local import exchange_tokens
from tutelage.training.checkpoint import remove_checkpoints


class Trainer:
    """Trains a model of your own: SFT on rows, or with a `teacher` GKD, with the loss and the steps of a recipe.

    student: what is trained, in place, on the device where it is: a transformers causal language model in float32, or
        any causal `torch.nn.Module` with `get_decoder()` (token ids [B, L], right-padded, to hidden states [B, L, D]),
        `get_input_embeddings()` and `get_output_embeddings()` (the linear layer to the logits).
    tokenizer: the student's, a transformers tokenizer. Its chat template is used, or Tulu's where it has none.
    rows: training rows: a list of dicts, a pandas frame, a `datasets.Dataset`, a path or a hub data set. A row is
        `{"prompt": …, "completion": …}` or `{"messages": […]}`.
    teacher: a larger model, of the same kinds as the student; it is frozen. None: plain SFT.
    teacher_tokenizer: where it is not the student's; both must have the same tokens.
    validation: rows whose loss is measured before and after, and every `evaluate_every` steps.
    folder: of checkpoints and metrics.jsonl: the same training, stopped, goes on from there. None: nothing is kept.
    seed: of data order, sampling and λ.
    settings: keys of a recipe's `training` section (`learning_rate` 5e-6, `epochs` 2, `batch_size` 128, `max_length`
        4096 tokens, …); with a teacher those of a `distill` stage (`on_policy` λ = 0.5, `beta` 0.5, `divergence`,
        `temperature`, `ce_weight`, `sampling`); and those of the data (`prompt`, `completion`, `system`, …).

    Between calls the models are as they were, apart from the student's weights: in evaluation mode, with their own
    attention.

    Raises TutelageError for an unknown setting, rows that are bad or too long, a student that is not in float32 (unless
    `precision="pure_bfloat16"`), a module without the three methods, and a teacher with other tokens.

    Example:
        >>> student = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> tokenizer = AutoTokenizer.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> teacher = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-360M-Instruct")
        >>> rows = [{"prompt": "What is 2 and 2?", "completion": "It is 4."}] * 32
        >>> trainer = tutelage.Trainer(student, tokenizer, rows, teacher=teacher, batch_size=8, max_length=256)
        >>> print(trainer.run())
        >>> student.save_pretrained("mine")
    """

    def __init__(
        self,
        student: torch.nn.Module,
        tokenizer: Any,
        rows: Any,
        *,
        teacher: torch.nn.Module | None = None,
        teacher_tokenizer: Any = None,
        validation: Any = None,
        folder: str | os.PathLike[str] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        sections = sort_settings(settings)
        if teacher is None and sections[2]:
            raise TutelageError(f"`{next(iter(sections[2]))}` is a setting of GKD: give a `teacher`, or leave it out")
        if "signal" in sections[2]:
            raise TutelageError("`signal` is a setting of recipes and `tutelage.distill`: this teacher is in memory")
        if teacher is student:
            raise TutelageError("teacher and student are one object: give the teacher as a copy (copy.deepcopy)")
        self._kept = tempfile.TemporaryDirectory(prefix="tutelage-")  # removed with this object
        self.folder = Path(self._kept.name if folder is None else folder)
        refuse_unwritable(self.folder, "`folder`")
        run = _run(self.folder, student, rows, validation, seed, teacher is not None, sections)
        _check_weights(student, teacher, run.training)
        self._own = {id(model): _attention(model) for model in (student, teacher) if model is not None}
        loaded, taught_by = _loaded(student, tokenizer, teacher, teacher_tokenizer or tokenizer)
        self._done = False
        self._models = [one for one in (loaded, taught_by) if one is not None]
        try:
            self._trainer, self._reports, _ = prepare(run, loaded, taught_by)
            self._exchanged = _ends(loaded, taught_by)
        except BaseException:
            self._rest()
            raise
        self._rest(exchange=True)

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole training."""
        return self._trainer.total_steps

    def step(self, number: int) -> dict[str, Any]:
        """Do optimizer step `number`, from 0, for loops of your own. Returns its metrics: `loss` (nats per response
        token), `learning_rate`, `grad_norm`, `forward_kl`, `tokens_per_s`, ….

        Raises TutelageError for a number outside of the training, and for a loss that is not finite.
        """
        if not 0 <= number < self.steps:
            raise TutelageError(f"step {number}: there are {self.steps} steps, numbered from 0")
        with self._ready():
            return self._trainer.step(number)

    def run(self) -> TrainingResult:
        """Train to the end, from the last checkpoint in `folder` if there is one.

        Returns a `TrainingResult`: `metrics` per step, perplexities of the validation rows, counts of rows; `frame()`.
        Raises TutelageError for a loss that is not finite, and for a second call when the training is done. Ctrl-C
        finishes the step, saves, and raises TutelageError; another call goes on.
        """
        if self._done:
            raise TutelageError("this training is done: make another Trainer to train on")
        trainer, found = self._trainer, bool(self._trainer.job.validation)
        with self._ready(), stop_requests():
            before = trainer.validate() if found else None
            trainer.run()
            after = trainer.validate() if found else None
        self._done = True
        remove_checkpoints(self.folder / CHECKPOINTS)
        name = "validation_cross_entropy"
        return TrainingResult(
            tuple(read_metrics(self.folder / METRICS)),
            None if before is None else math.exp(before[name]),
            None if after is None else math.exp(after[name]),
            self._reports,
        )

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """The models as training needs them, for the block."""
        for one in self._models:
            if one.packed:
                one.model.set_attn_implementation(PACKED)
        self._exchange()
        self._models[0].model.train()
        try:
            yield
        finally:
            self._rest(exchange=True)

    def _rest(self, exchange: bool = False) -> None:
        """The models as they were given, in evaluation mode."""
        for one in self._models:
            own = self._own.get(id(one.model))
            if own is not None:
                one.model.set_attn_implementation(own)
            one.model.eval()
        if exchange:
            self._exchange()

    def _exchange(self) -> None:
        """Exchange the teacher's end of turn with the student's, or back: `Teacher` has done it, `run` needs it."""
        if self._exchanged is not None:
            exchange_tokens(self._models[1].model, *self._exchanged)


def _run(folder: Path, student: Any, rows: Any, validation: Any, seed: int, distills: bool, sections: Sections) -> Run:
    """The run that a recipe with these rows and settings would have."""
    of_data, of_training, of_gkd = sections
    given = {"rows": rows} if validation is None else {"rows": rows, "validation": validation}
    paths = {name: rows_path(found, folder / "data", name) for name, found in given.items()}
    held_out = {} if validation is None else {"validation": "validation"}
    training = section(TrainingConfig, {**of_training, **held_out})
    common = {"name": "training", "data": "rows"}
    if distills:
        stage = section(DistillStage, {**common, "kind": "distill", **of_gkd})
    else:
        stage = section(SftStage, {**common, "kind": "sft"})
    files = [hash_file(Path(path)) if Path(path).is_file() else path for path in paths.values()] + rows_code()
    shapes = [[name, list(one.shape)] for name, one in student.named_parameters()]
    settled = training.model_dump(mode="json", exclude=COSMETIC)
    return Run(
        stage="training",
        kind=stage.kind,
        seed=seed,
        folder=folder,
        fingerprint=fingerprint(stage, settled, of_data, files, shapes, seed),
        recipe_folder=Path.cwd(),
        device=next(student.parameters()).device.type,
        config=stage,
        training=training,
        data={name: section(DataConfig, {"path": path, **of_data}) for name, path in paths.items()},
        models={},
    )


def _check_weights(student: Any, teacher: Any, training: TrainingConfig | None) -> None:
    """Raise TutelageError for weights in which steps would be lost, and for models on two devices."""
    narrow = next((one.dtype for one in student.parameters() if one.dtype != torch.float32), None)
    if narrow is not None and training is not None and training.precision != "pure_bfloat16":
        kind = str(narrow).removeprefix("torch.")
        raise TutelageError(
            f"the student's weights are {kind}, which rounds small steps away: give it in float32 (student.float()), "
            'or set precision="pure_bfloat16"'
        )
    if teacher is not None and next(teacher.parameters()).device != next(student.parameters()).device:
        raise TutelageError("teacher and student are on different devices: move the teacher (teacher.to(…))")


def _attention(model: Any) -> str | None:
    """The name of a transformers model's attention; None for another module."""
    if not hasattr(model, "set_attn_implementation"):
        return None
    name = model.config._attn_implementation
    return "sdpa" if name == PACKED else name


def _loaded(
    student: Any, tokenizer: Any, teacher: Any, teacher_tokenizer: Any
) -> tuple[LoadedModel, LoadedModel | None]:
    """Both models, packed if both can be."""
    config = ModelConfig(path="the student")
    first = model_in_memory(student, tokenizer, config)
    if teacher is None:
        return first, None
    other = ModelConfig(path="the teacher", attention="auto" if first.packed else "padded")
    second = model_in_memory(teacher, teacher_tokenizer, other)
    if first.packed and not second.packed:
        first = model_in_memory(student, tokenizer, config.model_copy(update={"attention": "padded"}))
    return first, second


def _ends(student: LoadedModel, teacher: LoadedModel | None) -> tuple[int, int] | None:
    """The tokens that end the teacher's and the student's turns, where they differ."""
    if teacher is None or teacher.template.end_of_turn_id == student.template.end_of_turn_id:
        return None
    return teacher.template.end_of_turn_id, student.template.end_of_turn_id
