"""Language models that are not transformers': any causal `nn.Module` that can name its three parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from tutelage.common.errors import TutelageError

PARTS = ("get_decoder", "get_input_embeddings", "get_output_embeddings")


class OwnModule(nn.Module):
    """A module with the few methods of a transformers model that training calls; it shares the parameters of `module`.

    `module` has three methods, named as in transformers. `get_decoder()`: what maps right-padded `input_ids` [B, L]
    (and, as keyword arguments that it may ignore, `attention_mask` [B, L] and `position_ids` [B, L]) to the last hidden
    states [B, L, D], causally. `get_input_embeddings()`: the module whose `weight` has a row per token.
    `get_output_embeddings()`: the linear map from hidden states to logits, with `weight` [V, D] and perhaps `bias`.

    Raises TutelageError for a module that lacks one of them.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        lacking = [name for name in PARTS if not callable(getattr(module, name, None))]
        if lacking:
            raise TutelageError(
                f"{type(module).__name__} is neither a transformers model nor has it `{lacking[0]}()`: "
                "docs/python.md has the three methods that a module needs"
            )
        self.module = module
        self.config = _Config()

    def get_decoder(self) -> Any:
        """The decoder, called as one of transformers."""
        decoder = getattr(self.module, "get_decoder")()  # noqa: B009 - nn.Module's type has no such attribute

        def call(*, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, use_cache: bool = False) -> Any:
            out = decoder(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)
            return SimpleNamespace(last_hidden_state=out) if isinstance(out, Tensor) else out

        return call

    def get_input_embeddings(self) -> Any:
        """See the class."""
        return getattr(self.module, "get_input_embeddings")()  # noqa: B009

    def get_output_embeddings(self) -> Any:
        """See the class."""
        return getattr(self.module, "get_output_embeddings")()  # noqa: B009

    def gradient_checkpointing_enable(self, _: Any = None) -> None:
        """Raises TutelageError: only the module itself could do that."""
        raise TutelageError("`gradient_checkpointing` works for transformers models: let your module checkpoint itself")


class _Config:
    """A config that says nothing: no length limit, no scale of the logits."""

    def get_text_config(self) -> _Config:
        """Itself, as there are no other modalities."""
        return self
