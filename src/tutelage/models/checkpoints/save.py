"""Writes a model's folder: whole, or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

MAX_SHARD = "5GB"  # of a file of weights


def save_model(
    model: Any,
    tokenizer: Any,
    folder: Path,
    chat_template: str | None = None,
    ends: Sequence[int] = (),
    write: Callable[[Path], object] | None = None,
) -> None:
    """Write weights (safetensors), tokenizer, chat template and generation config to `folder`, replacing it.

    `ends`: the token ids at which the saved model is to stop, in transformers, vLLM and others that read its generation
    config; without them that config stays as it is. `write`: writes the weights in another way, to the folder given.

    The folder is written beside its place and then renamed, so that it is complete or not there.
    """
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    _set_ends(model, tokenizer, ends)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with without_progress_bars():
            if write is None:
                model.save_pretrained(partial, max_shard_size=MAX_SHARD)
            else:
                write(partial)
        tokenizer.save_pretrained(partial)
        for file in partial.iterdir():
            file.chmod(0o644)  # safetensors writes files that only their owner can read
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    folder.chmod(0o755)


def _set_ends(model: Any, tokenizer: Any, ends: Sequence[int]) -> None:
    """Let the model's generation config stop at `ends`; and make it one that transformers agrees to save."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    if ends:
        config.eos_token_id = [int(end) for end in ends]
        config.pad_token_id = int(ends[0]) if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
    # Old models have a temperature without `do_sample`, which transformers reads and then refuses to write.
    for change in ({}, {"do_sample": True}):
        config.update(**change)
        with contextlib.suppress(ValueError):
            config.validate(strict=True)
            return
    ids = {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = type(config)(**ids)


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Switch off the libraries' progress bars while loading: a study loads hundreds of models."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
