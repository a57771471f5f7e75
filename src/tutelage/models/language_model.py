"""The decoder and its head as one module that returns the weighted loss instead of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tutelage.common.types import Head, MicroBatch, Signal, TeacherSignal, TokenStats
from tutelage.loss.fused_linear import linear_objective
from tutelage.loss.objective import Objective
from tutelage.models.attention import Packing
from tutelage.models.sharding import gathered, with_whole_weights
from tutelage.models.surgery.lora import head_weight


class LanguageModel(nn.Module):
    """A causal language model split into decoder and head, so that full logits are never made.

    `model` is a transformers model. Parameters are only used inside `forward`, where those of a sharded model are
    gathered.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        """The transformers config."""
        return self.model.config

    def forward(
        self,
        batch: MicroBatch,
        objective: Objective | None = None,
        teacher: Signal | None = None,
        statistics: bool = True,
    ) -> Any:
        """With an objective: the loss Σ weights · objective and TokenStats [N]. Without: TeacherSignal, the hidden
        states [N, D] at the predicting positions and the head.

        `teacher`: the teacher's signal for the same positions. `statistics`: also fill the fields of TokenStats beyond
        the loss.
        """
        return with_whole_weights(self.model, self._run, batch, objective, teacher, statistics)

    def _run(self, batch: MicroBatch, objective: Objective | None, teacher: Signal | None, statistics: bool) -> Any:
        hidden = self._hidden(batch)
        head = language_model_head(self.model)
        if objective is None:
            return TeacherSignal(hidden, head)
        return self._loss(hidden, head, objective, teacher, batch, statistics)

    def _hidden(self, batch: MicroBatch) -> Tensor:
        """Last hidden states [N, D] at the predicting positions, in the type of autocast."""
        extra: dict[str, Any] = {}
        if batch.cu_seqlens is not None:
            extra["packing"] = Packing(batch.cu_seqlens, batch.lengths)
        else:
            extra["attention_mask"] = batch.attention_mask
        decoder = self.model.get_decoder()
        out = decoder(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **extra)
        hidden = out.last_hidden_state.flatten(0, 1).index_select(0, batch.predict)
        device = hidden.device.type
        return hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden

    def _loss(
        self,
        hidden: Tensor,
        head: Head,
        objective: Objective,
        teacher: Signal | None,
        batch: MicroBatch,
        statistics: bool,
    ) -> tuple[Tensor, TokenStats]:
        return linear_objective(objective, hidden, head, teacher, batch.labels, batch.weights, statistics)


def language_model_head(model: Any) -> Head:
    """The model's last linear map, with the scale and soft cap of its config (Gemma 2, Cohere, Granite)."""
    layer, config = model.get_output_embeddings(), model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    if getattr(config, "logits_scaling", None):
        scale /= float(config.logits_scaling)
    cap = getattr(config, "final_logit_softcapping", None)
    bias = getattr(layer, "bias", None)
    return Head(head_weight(layer), None if bias is None else gathered(bias), scale, cap)
