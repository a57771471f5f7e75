"""A model as a folder for transformers and others; on the hub; and as a GGUF file for llama.cpp."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tutelage.common.errors import TutelageError
from tutelage.common.files import refuse_unwritable
from tutelage.common.hashing import fingerprint
from tutelage.common.run_folder import WHERE
from tutelage.delivery.find_model import FoundModel
from tutelage.delivery.folders import CARD, MARK, read_mark
from tutelage.recipe.sections import ModelConfig

ADAPTER = "adapter_config.json"
CONVERTER = "convert_hf_to_gguf.py"  # llama.cpp's
PACKAGED = "convert-hf-to-gguf"  # the same as a package, which is best in an environment of its own: it brings `gguf`
GGUF_TYPES = {"bfloat16": "bf16", "float32": "f32", None: "auto"}
Dtype = Literal["bfloat16", "float32"]


@dataclass(frozen=True)
class Export:
    """What was written."""

    folder: Path
    notes: tuple[str, ...]  # a line each


def export_model(
    found: FoundModel,
    out: Path,
    dtype: Dtype | None = None,
    merge: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Export:
    """Write the model with its tokenizer, template, generation config and card to `out`. An earlier export is
    replaced, unless it is of another model of this name.

    The files of a local folder are copied as they are, unless `dtype` asks for another type or `merge` for an adapter
    inside its base. `revision`, `trust_remote_code`: as in a recipe's model section. Raises TutelageError when `out`
    holds anything else or lies in the model's folder, when that folder holds no model, and when the model cannot be
    loaded.
    """
    from tutelage.models.files import locate

    config = ModelConfig(path=found.path, revision=revision, attention="padded", trust_remote_code=trust_remote_code)
    source = Path(found.path).expanduser()
    adapter = (source / ADAPTER).is_file()
    if source.is_dir() and not adapter:
        locate(config)
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or "exported" in read_mark(out))):
        raise TutelageError(f"{out} exists and is no earlier export: give another --out, or remove {out}")
    refuse_unwritable(out.parent, "--out")
    origin = fingerprint(str(source.resolve()) if source.exists() else found.path)  # a path would go where exports go
    before = read_mark(out)
    if before.get("exported") == found.name and before.get("from", origin) != origin:
        raise TutelageError(
            f"{out} is the export of another `{before['exported']}`: give another --out, or remove {out}"
        )
    if source.is_dir():
        _check_folders(source.resolve(), out.resolve())
    notes = []
    if adapter and dtype is not None and not merge:
        notes.append(f"--dtype: {found.name} is an adapter, and a whole model of that type is written, as with --merge")
    if merge and not adapter:
        notes.append(f"--merge: nothing to merge, {found.name} is a whole model and no adapter")
    partial = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        made = partial / "model"
        if source.is_dir() and dtype is None and not (merge and adapter):
            left_out = shutil.ignore_patterns(".*", WHERE)
            shutil.copytree(source, made, ignore=left_out)  # follows links
        else:
            _save(config, made, dtype)
        if found.card is not None:
            shutil.copyfile(found.card, made / CARD)
        elif not (made / CARD).is_file():
            notes.append(f"no model card: {found.name} has none (a recipe's models have one in models/)")
        about = {"exported": found.name, "from": origin, "dtype": dtype}
        (made / MARK).write_text(json.dumps(about) + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    except OSError as error:
        raise TutelageError(f"{out} cannot be written: {_cause(error)}; mend that, or choose another --out") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return Export(out, tuple(notes))


def _cause(error: OSError) -> str:
    """Why nothing could be written. `copytree` collects one text per file: a full disk has the same one for all."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        _, copy, text = error.args[0][0]
        reason = re.sub(r"^\[Errno \d+\] ", "", text).partition(": ")[0]
        return f"{reason} ({Path(copy).name})"
    return error.strerror or str(error)


def _check_folders(source: Path, out: Path) -> None:
    """Raise TutelageError where replacing `out` would touch the model in `source`, or a copy would contain itself."""
    if source == out or out in source.parents or source in out.parents:
        place = "is the model's own folder" if source == out else "and the model's folder lie in each other"
        raise TutelageError(f"{out} {place} ({source}): give another --out")


def _save(config: ModelConfig, folder: Path, dtype: Dtype | None) -> None:
    """Load the model, an adapter merged into its base, and save it in `dtype`, by default the type of its files."""
    import torch

    from tutelage.models.checkpoints.save import save_model
    from tutelage.models.load import load_model

    kind = getattr(torch, dtype) if dtype else _stored_type(config)
    loaded = load_model(config, "cpu", kind)
    save_model(loaded.model, loaded.tokenizer, folder, loaded.template.text)


def _stored_type(model: ModelConfig):  # -> torch.dtype
    """The type that the model's config names; float32 where it names none."""
    import torch
    from transformers import AutoConfig

    from tutelage.models.files import locate

    options = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        found = getattr(AutoConfig.from_pretrained(locate(model)[0], **options), "dtype", None)
    except (OSError, ValueError):  # loading it will say why
        found = None
    return found if isinstance(found, torch.dtype) else torch.float32


def check_push(name: str) -> None:
    """Raise TutelageError, before any work, where a push cannot succeed: a bad name, no network, no token."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except ValueError as error:
        raise TutelageError(f"--push {name}: {' '.join(str(error).split())}") from None
    if name.count("/") != 1:
        raise TutelageError(f"--push {name}: give the account too, as ORG/NAME")
    if constants.HF_HUB_OFFLINE:
        raise TutelageError("--push needs the network, and HF_HUB_OFFLINE is set: unset it")
    if get_token() is None:
        raise TutelageError("--push needs a token of the hub that may write: `hf auth login`, or set HF_TOKEN")


def push(folder: Path, name: str, private: bool = True) -> str:
    """Upload an exported folder to the hub; return the address of its page.

    Raises TutelageError, with the hub's reason, when it cannot be uploaded; what was uploaded by then stays there.
    """
    from huggingface_hub import HfApi

    check_push(name)
    try:
        address = HfApi().create_repo(name, private=private, exist_ok=True)
        HfApi().upload_folder(
            repo_id=name, folder_path=folder, ignore_patterns=[MARK], commit_message="Upload by Tutelage"
        )
    except Exception as error:  # refused, gone, no network: each its own class of several libraries
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise TutelageError(f"cannot push to {name}: {reason}; check the network and what your token may do") from error
    return str(address)


def converter() -> Path | None:
    """llama.cpp's converter: the script in $LLAMA_CPP or on the PATH, or the command of its package on PyPI.

    Raises TutelageError where $LLAMA_CPP has none.
    """
    place = os.environ.get("LLAMA_CPP")
    if place:
        file = Path(place).expanduser()
        file = file / CONVERTER if file.is_dir() else file
        if not file.is_file():
            raise TutelageError(f"$LLAMA_CPP is {place}, and there is no {CONVERTER}: set it to llama.cpp's folder")
        return file
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder and (Path(folder) / CONVERTER).is_file():
            return Path(folder) / CONVERTER
    command = shutil.which(PACKAGED)
    return None if command is None else Path(command)


def find_converter() -> Path:
    """As `converter`; raises TutelageError where there is none."""
    if (found := converter()) is None:
        raise TutelageError(
            f"--gguf needs llama.cpp's converter: `pipx install {PACKAGED}`; or `git clone "
            "https://github.com/ggml-org/llama.cpp`, then `export LLAMA_CPP=$PWD/llama.cpp`"
        )
    return found


def write_gguf(folder: Path, name: str, dtype: Dtype | None = None) -> Path:
    """Convert an exported folder to `NAME.gguf` in it, by llama.cpp's converter; return the file.

    Raises TutelageError with the converter's last line when it fails.
    """
    script, file = find_converter(), folder / f"{name}.gguf"
    run = [str(script)] if script.name.startswith(PACKAGED) else [sys.executable, str(script)]
    command = [*run, str(folder), "--outfile", str(file), "--outtype", GGUF_TYPES[dtype]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.is_file():
        last = next(iter(reversed((done.stderr or done.stdout).strip().splitlines())), f"exit code {done.returncode}")
        raise TutelageError(f"{script.name} could not convert {folder}: {last}")
    return file
