"""Whether a checkpoint is whole: every weight of the model is in its files, and is a number.

transformers fills a weight that it does not find with random numbers, under a warning; here it is an error.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from tutelage.common.errors import TutelageError, listed
from tutelage.common.progress import tell

ADAPTER = "adapter_config.json"  # the file that makes a folder a peft adapter
_INDEX = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_NUMBERS = {"I": "int", "U": "uint", "F": "float", "C": "complex"}  # safetensors' letters
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_files(folder: Path) -> None:
    """Raise TutelageError for a shard that the folder's index names and that is not there, or a file that is cut or
    cannot be mapped into memory."""
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
                f"model folder {folder} lacks {listed(absent)}, named by {_INDEX}: copy the whole checkpoint"
            )
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise TutelageError(f"model file {file} is cut or damaged ({error}): copy it again") from error
        except (MemoryError, RuntimeError) as error:  # the whole file is mapped
            size = file.stat().st_size / 1024**3
            raise TutelageError(
                f"model file {file} ({size:.1f} GiB) cannot be mapped into memory ({error}): raise the limit on memory "
                "(`ulimit -v`, the container's) or save the model in smaller files (save_pretrained's `max_shard_size`)"
            ) from error


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
            f"`{path}`: the weights do not fit its config.json: {listed(sorted(wrong))}: give the config that was "
            "saved with them"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        tied = "; if its head is its embedding, set `tie_word_embeddings` in config.json"
        head = tied if "lm_head.weight" in missing else ""
        raise TutelageError(
            f"`{path}`: weights of {name} are not in its files: {listed(missing)}: get the whole checkpoint{head}"
        )
    unused = sorted(info["unexpected_keys"])
    if unused and not quiet:
        tell(f"`{path}`: {name} does not use these weights of its files: {listed(unused)}", "note", file=sys.stderr)


def refuse_other_types(path: str, folder: Path, model: Any = None, unused: Collection[str] = ()) -> None:
    """Raise TutelageError for a weight in `folder` that is no plain float, and would be read as if it were one.

    What a quantised checkpoint's config.json describes is transformers' to read; each of its float8 weights needs a
    scale beside it. `model`: whose weights count, without the names in `unused`; by default every tensor does.
    """
    types, own = _stored_types(folder), None if model is None else [name for name, _ in model.named_parameters()]
    described = _is_described(folder)
    for name, (kind, file) in types.items():
        if kind in _FLOATS or name in unused or (described and not kind.startswith("F8")):
            continue
        stem = name.removesuffix("weight")
        if described and any(other.startswith(stem) and "scale" in other for other in types):
            continue
        named = own is None or any(f".{one}".endswith(f".{name}") or f".{name}".endswith(f".{one}") for one in own)
        if not named and not name.endswith(".weight"):  # a buffer, such as GPT-2's masks
            continue
        number = re.sub(r"^[IUFC](?=\d)", lambda first: _NUMBERS[first[0]], kind).lower()
        why = "its files have no scale for it" if described else f"no `quantization_config` in {folder} explains it"
        raise TutelageError(
            f"`{path}`: the weight {name} is {number} in {file}, and {why}: get the whole quantised checkpoint, or one "
            "in float16, bfloat16 or float32"
        )


def _stored_types(folder: Path) -> dict[str, tuple[str, str]]:
    """Type and file of each tensor in the files that are read, by name; types as safetensors writes them."""
    files, index = sorted(folder.glob("*.safetensors")), folder / _INDEX
    if (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    elif index.is_file():
        files = [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
    found = {}
    for file in files:
        with file.open("rb") as stream:  # the form of the files was checked, and they were read
            head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        found |= {name: (about["dtype"], file.name) for name, about in head.items() if name != "__metadata__"}
    return found


def _is_described(folder: Path) -> bool:
    """Whether config.json has a `quantization_config` that transformers knows; others it leaves aside."""
    from transformers.quantizers.auto import AutoHfQuantizer

    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    given = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    try:
        with without_load_report():
            return bool(given) and bool(AutoHfQuantizer.supports_quant_method(given))
    except ValueError:
        return False


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

    refuse_other_types(str(folder), folder)
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
