"""A model's files: where they are, and their fingerprint."""

from __future__ import annotations

import os
from pathlib import Path

from tutelage.common.errors import TutelageError, listed
from tutelage.common.files import cached_hash, hash_file
from tutelage.common.hashing import fingerprint
from tutelage.common.run_folder import MODELS, what_is
from tutelage.models.whole import adapter_base, check_files
from tutelage.recipe.sections import ModelConfig

_WEIGHTS = ("*.safetensors",)
_VOCABULARY = ("*.model", "*.txt", "*.tiktoken")  # of tokenizers without a tokenizer.json
_PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def model_fingerprint(config: ModelConfig, hub: bool = True) -> str:
    """A text that changes when weights, tokenizer or chat template change; it reads files but loads no model.

    A hub id counts as id@commit, or with `hub=False` as id@revision, without asking the hub. Raises TutelageError as
    `locate` does.
    """
    folder, content = locate(config)
    found = content or f"{config.path}@{_hub_commit(config) if hub else config.revision or 'main'}"
    named = [[file.name, hash_file(file)] for file in _named_files(config, Path(folder))]
    if hub and config.tokenizer is not None and not Path(config.tokenizer).exists():
        named.append([config.tokenizer, _hub_commit(ModelConfig(path=config.tokenizer))])
    return fingerprint(found, named) if named else found


def _named_files(config: ModelConfig, folder: Path) -> list[Path]:
    """The files that the config names beside the model in `folder`: a Jinja file, those of another tokenizer, code."""
    files = [Path(config.chat_template)] if config.chat_template not in ("auto", "tulu") else []
    if config.tokenizer is not None:
        files += [
            file for pattern in ("*.json", "*.jinja", *_VOCABULARY) for file in _sorted(config.tokenizer, pattern)
        ]
    if config.trust_remote_code:
        files += [file for place in (folder, config.tokenizer) if place for file in _sorted(place, "*.py")]
    return [file for file in files if file.is_file()]  # what is absent is told by whoever reads it


def _sorted(folder: str | Path, pattern: str) -> list[Path]:
    return sorted(Path(folder).glob(pattern))


def weights_fingerprint(config: ModelConfig) -> str:
    """A text that changes when a model's weights or config change; a hub id counts as id@revision.

    Raises TutelageError as `locate` does.
    """
    folder, content = locate(config)
    files = [*sorted(Path(folder).glob("*.safetensors")), Path(folder) / "config.json"]
    if content is None or content.startswith("gguf:") or adapter_base(Path(folder)) is not None:
        return content or f"{config.path}@{config.revision or 'main'}"
    return fingerprint([[p.name, cached_hash(p)] for p in files])


def _hub_commit(config: ModelConfig) -> str:
    """The current commit of a hub id; offline the commit in the local cache, or else the revision's name."""
    from huggingface_hub import HfApi, constants

    revision = config.revision or "main"
    cached = Path(constants.HF_HUB_CACHE) / f"models--{config.path.replace('/', '--')}" / "refs" / revision
    try:
        return HfApi().model_info(config.path, revision=revision, timeout=10).sha or revision
    except Exception:  # no network, or a hub that answers with rubbish: loading will say what is wrong
        return cached.read_text().strip() if cached.is_file() else revision


def hub_snapshot(name: str, commit: str | None) -> Path | None:
    """The folder in the local cache with the files of a hub id at a commit; None where they are not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=commit)
    return Path(found).parent if isinstance(found, str) else None


def locate(config: ModelConfig) -> tuple[str, str | None]:
    """Where to load the model from, and a fingerprint of its files (None for a hub id: its commit is known on loading).

    A GGUF file is converted first. Raises TutelageError for a missing file or folder, for one without weights in
    safetensors or with a part of them, and for an adapter that cannot be merged (`models/whole.py`).
    """
    path = os.path.expandvars(config.path)
    if "$" in path:
        raise TutelageError(f"model path `{config.path}` uses a variable that is not set: export it first")
    if path.startswith("package:"):
        from tutelage.models.checkpoints.gguf import packaged_gguf

        path = str(packaged_gguf(path.removeprefix("package:")))
    local = Path(path).expanduser()
    if local.suffix == ".gguf":
        if not local.is_file():
            raise TutelageError(f"model file {local} does not exist: correct the path")
        from tutelage.models.checkpoints.gguf import converted

        return converted(local, config.tokenizer is not None)
    if local.is_dir():
        return str(local), _folder_fingerprint(local)
    if is_local(path):
        raise TutelageError(f"model folder {local} does not exist: {_instead(local)}")
    return path, None


def is_here(config: ModelConfig) -> bool:
    """Whether the model, its tokenizer and the base of an adapter are files of this machine: nothing asks the hub.

    Raises TutelageError as `locate` does.
    """
    folder, content = locate(config)
    base = adapter_base(Path(folder))
    return content is not None and all(
        name is None or Path(name).exists() for name in (config.tokenizer, base and base[0])
    )


def is_local(path: str) -> bool:
    """Whether a model's `path` means a file, a folder or a package of this machine, be it there or not, and not a name
    on the hub."""
    local = Path(os.path.expandvars(path)).expanduser()
    named = path.startswith((".", "~", "package:")) or "$" in str(local) or local.suffix == ".gguf"
    return named or local.is_absolute() or local.is_dir()


def refuse_no_model(folder: Path) -> None:
    """Raise TutelageError for a folder without a whole model, which is no adapter either; reads no weights."""
    if not (folder / "config.json").is_file():
        raise TutelageError(f"model folder {folder} has no config.json: {_instead(folder)}")
    if not _weights(folder):
        if any(True for pattern in _PICKLED for _ in folder.glob(pattern)):
            raise TutelageError(
                f"model folder {folder} has only pickled weights, which can run code when loaded: convert them to "
                f"safetensors (model.save_pretrained(folder)) first"
            )
        near = f": {_instead(folder)}" if what_is(folder) else ""
        raise TutelageError(f"model folder {folder} has no weights (*.safetensors){near}")
    check_files(folder)


def _instead(folder: Path) -> str:
    """What to give in place of a folder that holds no model: those inside it, or else in `models` here or beside it."""
    for place in (folder, Path(MODELS), folder.parent / MODELS):
        if found := sorted(str(one) for one in place.glob("*/") if what_is(one) == "a model"):
            return f"give {listed(found)}" if len(found) == 1 else f"give one of {listed(found)}"
    return "give the folder that `save_pretrained` wrote"


def _weights(folder: Path) -> list[Path]:
    return sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern))


def _folder_fingerprint(folder: Path) -> str:
    """The fingerprint of a model folder's files, and of an adapter's base; TutelageError as in `locate`."""
    base = adapter_base(folder)
    if base is not None:
        files = [*sorted(folder.glob("adapter_*")), *sorted(folder.glob("token*.json")), *folder.glob("*.jinja")]
        if (folder / "tokenizer_config.json").is_file() and not (folder / "tokenizer.json").is_file():
            vocabulary = (file for pattern in ("*.json", *_VOCABULARY) for file in _sorted(folder, pattern))
            files += [file for file in vocabulary if file not in files]
        of_base = model_fingerprint(ModelConfig(path=base[0], revision=base[1]))
        return fingerprint(of_base, [[p.name, cached_hash(p)] for p in files])
    refuse_no_model(folder)
    files = _weights(folder) + sorted(folder.glob("*.json")) + sorted(folder.glob("*.jinja"))
    if not (folder / "tokenizer.json").is_file():
        files += [file for pattern in _VOCABULARY for file in _sorted(folder, pattern)]
    return fingerprint([[p.name, cached_hash(p)] for p in files])
