"""The decoder and its head as one module that returns the weighted loss instead of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tutelage.common.types import Head, MicroBatch, TeacherSignal, TokenStats
from tutelage.loss.fused_linear import linear_objective
from tutelage.loss.objective import Objective
from tutelage.models.attention import Packing
from tutelage.models.sharding import gathered, with_whole_weights


class LanguageModel(nn.Module):
    """A causal language model taken apart into decoder and head, so that full logits are never made.

    Everything that touches a parameter happens inside `forward`: where it is sharded, that is where it is whole.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(
        self,
        batch: MicroBatch,
        objective: Objective | None = None,
        teacher: TeacherSignal | None = None,
        statistics: bool = True,
    ) -> Any:
        """With an objective: (Σ weights · objective, TokenStats). Without: the hidden states [N, D] and the head."""
        return with_whole_weights(self.model, self._apart, batch, objective, teacher, statistics)

    def _apart(
        self, batch: MicroBatch, objective: Objective | None, teacher: TeacherSignal | None, statistics: bool
    ) -> Any:
        hidden = self._hidden(batch)
        head = language_model_head(self.model)
        if objective is None:
            return TeacherSignal(hidden, head)
        return self._loss(hidden, head, objective, teacher, batch, statistics)

    def _hidden(self, batch: MicroBatch) -> Tensor:
        """Last hidden states at the predicting positions, [N, D], in the compute type."""
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
        teacher: TeacherSignal | None,
        batch: MicroBatch,
        statistics: bool,
    ) -> tuple[Tensor, TokenStats]:
        return linear_objective(objective, hidden, head, teacher, batch.labels, batch.weights, statistics)


def language_model_head(model: Any) -> Head:
    """The model's last linear map with what its config does to the logits (Gemma 2, Cohere, Granite)."""
    layer, config = model.get_output_embeddings(), model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    if getattr(config, "logits_scaling", None):
        scale /= float(config.logits_scaling)
    cap = getattr(config, "final_logit_softcapping", None)
    bias = getattr(layer, "bias", None)
    return Head(gathered(layer.weight), None if bias is None else gathered(bias), scale, cap)
