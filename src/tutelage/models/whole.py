"""Whether a checkpoint is whole: every weight of the model is in its files, and is a number.

transformers fills a weight that it does not find with random numbers, under a warning; here it is an error.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tutelage.common.errors import TutelageError

ADAPTER = "adapter_config.json"  # the file that makes a folder a peft adapter
_INDEX = "model.safetensors.index.json"
_SHOWN = 3  # names in a message
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_files(folder: Path) -> None:
    """Raise TutelageError for a shard that the folder's index names and that is not there, or a file that is cut."""
    from safetensors import SafetensorError, safe_open

    index = folder / _INDEX
    if index.is_file() and not (folder / "model.safetensors").is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise TutelageError(f"{index}: is no index of weights ({error!r}): copy it again") from error
        absent = sorted(name for name in named if not (folder / name).is_file())
        if absent:
            raise TutelageError(
                f"model folder {folder} lacks {_first(absent)}, named by {_INDEX}: copy the whole checkpoint"
            )
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise TutelageError(f"model file {file} is cut or damaged ({error}): copy it again") from error


def refuse_incomplete(path: str, model: Any, info: dict[str, Any], quiet: bool = False) -> None:
    """Raise TutelageError if a weight of `model` was not in its files, or there with another shape.

    `info`: what `from_pretrained` returns with `output_loading_info`; weights that are tied are not missing. Prints a
    note about weights of the files that the model does not use, unless `quiet`.
    """
    shapes = info["mismatched_keys"]
    wrong = [f"{name} (its file has {list(found)}, the model {list(own)})" for name, found, own in shapes]
    name = type(model).__name__
    if wrong:
        raise TutelageError(
            f"`{path}`: the weights do not fit its config.json: {_first(sorted(wrong))}: give the config that was "
            "saved with them"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        tied = "; if its head is its embedding, set `tie_word_embeddings` in config.json"
        head = tied if "lm_head.weight" in missing else ""
        raise TutelageError(
            f"`{path}`: weights of {name} are not in its files: {_first(missing)}: get the whole checkpoint{head}"
        )
    unused = sorted(info["unexpected_keys"])
    if unused and not quiet:
        print(f"note: `{path}`: {name} does not use these weights of its files: {_first(unused)}", file=sys.stderr)


@torch.no_grad()
def refuse_nonfinite(path: str, model: Any) -> None:
    """Raise TutelageError that names a weight with NaN or infinity."""
    for name, weight in model.named_parameters():
        # Quantised weights are subclasses of Tensor that have no extremes; transformers has read them from finite ones.
        plain = type(weight.data) in (torch.Tensor, torch.nn.Parameter)
        if weight.is_meta or not plain or weight.dtype not in _TYPES or weight.numel() == 0:
            continue
        if not all(bool(torch.isfinite(end)) for end in weight.aminmax()):
            raise TutelageError(
                f"`{path}`: its weight {name} holds NaN or infinity, so its numbers mean nothing: take another copy or "
                "an earlier checkpoint of this model"
            )


def adapter_base(folder: Path) -> tuple[str, str | None] | None:
    """Path and revision of the model that an adapter folder belongs to; None for a folder that is no adapter.

    Raises TutelageError if the adapter does not name its base, or peft is not installed to merge the two.
    """
    file = folder / ADAPTER
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        base = config.get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise TutelageError(f"{file}: is no configuration of an adapter ({error}): copy it again") from error
    if not base:
        raise TutelageError(f"{file}: has no `base_model_name_or_path`: write there which model the adapter is for")
    if Path(base).expanduser().resolve() == folder.resolve():
        raise TutelageError(f"{file}: names its own folder as the base: write the base model's path there")
    if importlib.util.find_spec("peft") is None:
        raise TutelageError(
            f"model folder {folder} is an adapter of `{base}`, not a whole model: pip install 'tutelage[lora]' to have "
            "it merged, or merge it yourself (PeftModel.from_pretrained(base, folder).merge_and_unload(), then "
            "save_pretrained) and give that folder"
        )
    return str(base), config.get("revision")


def merged(model: Any, folder: Path) -> Any:
    """`model` with the adapter in `folder` added to its weights, by peft. Raises TutelageError if it does not fit."""
    from peft import PeftModel  # type: ignore[import-not-found]

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (RuntimeError, ValueError, OSError, KeyError, UserWarning) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TutelageError(f"adapter {folder} does not fit its base model: {first}; check {ADAPTER}") from error


@contextlib.contextmanager
def without_load_report() -> Iterator[None]:
    """Switch off transformers' warnings: its table of missing weights is our error, in one line."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
