"""The licence of a model that others made, as far as its files or the hub say one."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tutelage.models.checkpoints.gguf import packaged_gguf
from tutelage.recipe.sections import ModelConfig

KEYS = ("license", "license_name", "license_link")  # as in the head of a model card


def licence_of(config: ModelConfig) -> dict[str, Any]:
    """The keys `license`, `license_name` and `license_link` of the model's card or GGUF file; {} where none says it."""
    return dict(_licence(config.path, config.revision))


@cache
def _licence(path: str, revision: str | None) -> dict[str, Any]:
    if path.startswith("package:"):
        return _of_gguf(packaged_gguf(path.removeprefix("package:")))
    local = Path(os.path.expandvars(path)).expanduser()
    if local.suffix == ".gguf":
        return _of_gguf(local)
    if local.is_dir():
        return _of_card(local / "README.md")
    return _of_hub(path, revision)


def _of_gguf(file: Path) -> dict[str, Any]:
    try:
        from gguf import GGUFReader  # type: ignore[import-not-found]

        field = GGUFReader(file).fields.get("general.license")
        return {} if field is None else {"license": str(field.contents())}
    except (ImportError, OSError, ValueError, IndexError):
        return {}


def _of_card(card: Path) -> dict[str, Any]:
    """From the YAML head of a card."""
    try:
        _, head, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        found = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {key: found[key] for key in KEYS if found.get(key)} if isinstance(found, dict) else {}


def _of_hub(name: str, revision: str | None) -> dict[str, Any]:
    """From the card in the local cache, else from the hub."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, "README.md", revision=revision)
        if isinstance(cached, str):
            return _of_card(Path(cached))
        data = HfApi().model_info(name, revision=revision, timeout=10).card_data
    except Exception:  # no such name, no network, offline: each its own class of several libraries
        return {}
    found = {} if data is None else data.to_dict()
    return {key: found[key] for key in KEYS if found.get(key)}
