"""What a model can read: how many tokens, and which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tutelage.common.errors import TutelageError


def context_of(config: Any) -> int | None:
    """The most tokens, prompt and response together, that a transformers config says its model can read.

    `max_position_embeddings` under its architecture's name. YaRN alone multiplies it, where the config still says the
    length before scaling (Qwen 2.5 with `rope_scaling`). A sliding window is no limit. None where the config says
    nothing (Mamba, BLOOM).
    """
    text = config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    found = next((int(n) for n in (getattr(text, name, None) for name in names) if n and n > 0), None)
    rope = getattr(text, "rope_parameters", None) or {}
    if found is None or not isinstance(rope, dict) or rope.get("rope_type") != "yarn":
        return found
    original = rope.get("original_max_position_embeddings") or found
    return max(found, int(original * float(rope.get("factor") or 1.0)))


def embedding_rows(model: Any) -> int:
    """The number of token ids that a model can read."""
    return int(model.get_input_embeddings().weight.shape[0])


def refuse_unknown_token(who: str, model: Any, tokenizer: Any, ids: Sequence[int] | Tensor, source: str) -> None:
    """Raise TutelageError if a token of `ids` has no row in the model's embedding.

    `who`: the model, in the message; `source`: where the tokens come from; `tokenizer`: None if it is not known.
    """
    if len(ids) == 0:
        return
    rows, highest = embedding_rows(model), int(ids.max() if isinstance(ids, Tensor) else max(ids))
    if highest < rows:
        return
    text = "" if tokenizer is None else f" `{tokenizer.convert_ids_to_tokens(highest)}`"
    raise TutelageError(
        f"{source}: has token {highest}{text}, and the embedding of {who} has only {rows} rows: use the model's own "
        "tokenizer, or a `chat_template` without this token, or add rows (model.resize_token_embeddings) and train them"
    )
