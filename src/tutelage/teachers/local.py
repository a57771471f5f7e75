"""The teacher: frozen, in evaluation mode, asked for hidden states only where a response token is predicted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage.common.types import MicroBatch, TeacherSignal
from tutelage.models.language_model import LanguageModel
from tutelage.models.load import LoadedModel
from tutelage.models.sharding import assign, gathered


class Teacher:
    def __init__(self, loaded: LoadedModel, student_end_id: int | None = None) -> None:
        """`student_end_id`: the token that ends the student's turns. Where the teacher ends its own with another one,
        the two are exchanged (see `exchange_tokens`)."""
        self.loaded = loaded
        self.module = LanguageModel(loaded.model).eval().requires_grad_(False)
        own_end = loaded.template.end_of_turn_id
        if student_end_id is not None and student_end_id != own_end:
            exchange_tokens(loaded.model, own_end, student_end_id)

    @torch.no_grad()
    def signal(self, batch: MicroBatch) -> TeacherSignal:
        """Hidden states [N, D_teacher] at the batch's predicting positions, and the head.

        Where the batch carries the teacher's own rendering of the prompts, they are those of the same response tokens
        there.
        """
        with torch.autocast(batch.input_ids.device.type, enabled=False):
            return self.module(batch if batch.teacher is None else batch.teacher)


@torch.no_grad()
def exchange_tokens(model: Any, a: int, b: int) -> None:
    """Make the model read and write token `b` wherever it knew `a`, and the other way round.

    Base and instruct models of one family end turns differently (`<|end_of_text|>` and `<|eot_id|>`): unmapped, the
    teacher gives the student's end token no chance and so teaches it not to stop. Exchanging the two rows of the
    embedding and of the head maps what the teacher reads and what it predicts at once.
    """
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    tables: list[Tensor] = [embedding.weight]
    if output.weight is not embedding.weight:  # tied: one table is both
        tables.append(output.weight)
    if getattr(output, "bias", None) is not None:
        tables.append(output.bias)
    for table in tables:
        rows = gathered(table)
        rows[[a, b]] = rows[[b, a]]
        assign(table, rows)
