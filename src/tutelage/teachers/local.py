"""A teacher in the training process: a frozen model that gives hidden states where response tokens are predicted."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from tutelage.common.types import MicroBatch, TeacherSignal
from tutelage.models.language_model import LanguageModel
from tutelage.models.load import LoadedModel
from tutelage.models.lora import without_adapter
from tutelage.models.sharding import assign, gathered


class Teacher:
    """A loaded model as the teacher, frozen and in evaluation mode.

    `shared`: the model is the student's, with an adapter that is off for the teacher's forward pass (LoRA);
    `student_end_id`: the token that ends the student's turns. If the teacher ends its turns with another token, the two
    are exchanged in the teacher's weights (see `exchange_tokens`).
    """

    def __init__(self, loaded: LoadedModel, student_end_id: int | None = None, shared: bool = False) -> None:
        self.loaded, self.shared = loaded, shared
        self.module = LanguageModel(loaded.model)
        if shared:
            return
        self.module.eval().requires_grad_(False)
        own_end = loaded.template.end_of_turn_id
        if student_end_id is not None and student_end_id != own_end:
            exchange_tokens(loaded.model, own_end, student_end_id)

    @torch.no_grad()
    def signal(self, batch: MicroBatch) -> TeacherSignal:
        """Hidden states [N, D_teacher] at the batch's predicting positions, and the teacher's head.

        If the batch has the teacher's own rendering of the prompts (`batch.teacher`), the states of the same response
        tokens in that rendering.
        """
        base = without_adapter(self.loaded.model) if self.shared else contextlib.nullcontext()
        with torch.autocast(batch.input_ids.device.type, enabled=False), base:
            return self.module(batch if batch.teacher is None else batch.teacher)


@torch.no_grad()
def exchange_tokens(model: Any, a: int, b: int) -> None:
    """Exchange the meanings of token ids `a` and `b`, in place: the model reads and writes each as it did the other.

    Base and instruct models of one family end turns differently (`<|end_of_text|>` and `<|eot_id|>`). Without the
    exchange the teacher gives the student's end token almost no probability, and so teaches it not to stop. Exchanging
    two rows of the embedding and of the head changes both what the teacher reads and what it predicts.
    """
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    tables: list[Tensor] = [embedding.weight]
    if output.weight is not embedding.weight:  # a tied table is exchanged once
        tables.append(output.weight)
    if getattr(output, "bias", None) is not None:
        tables.append(output.bias)
    for table in tables:
        rows = gathered(table)
        rows[[a, b]] = rows[[b, a]]
        assign(table, rows)
