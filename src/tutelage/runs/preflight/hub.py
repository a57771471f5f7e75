"""Whether a data set or model can be had from the Hugging Face hub, without downloading it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

SECONDS = 10  # for one question to the hub
_WEIGHTS = (".safetensors", ".ckpt")  # ends of files; the second are COMET's

Kind = Literal["model", "dataset"]


class Hub:
    """Asks about each name once. `network`: whether the hub may be asked about what is not in the local cache."""

    def __init__(self, network: bool) -> None:
        self.network = network
        self.known: dict[tuple[str, Kind], str | None] = {}
        self.unreachable = ""  # why, once it was: it is then not asked again

    def problem(self, name: str, kind: Kind) -> str | None:
        """What keeps this machine from loading it, and what to do; None if nothing is known to."""
        key = (name, kind)
        if key not in self.known:
            self.known[key] = None if cached(name, kind) else self._ask(name, kind)
        return self.known[key]

    def _ask(self, name: str, kind: Kind) -> str | None:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(name)
        except HFValidationError:
            return f"`{name}` is no name on the hub, such as owner/name: correct it"
        if constants.HF_HUB_OFFLINE:
            return f"`{name}` is not in the local cache while HF_HUB_OFFLINE is set: unset it"
        if not self.network or self.unreachable:
            return self.unreachable or None
        try:
            info = HfApi().repo_info(name, repo_type=kind, timeout=SECONDS)
            if getattr(info, "gated", False):
                HfApi().auth_check(name, repo_type=kind)
        except GatedRepoError:
            return f"`{name}` is gated on the hub: accept its terms there and log in (HF_TOKEN)"
        except RepositoryNotFoundError:
            return f"the hub has no {kind} `{name}` that you may read: check the name and HF_TOKEN"
        except Exception as error:  # no network, or answers that are rubbish
            self.unreachable = f"the hub cannot be asked ({type(error).__name__}): check the network"
            return self.unreachable
        return None


def cached(name: str, kind: Kind) -> bool:
    """Whether the hub's cache, or that of `datasets`, has something of it; of a model, weights."""
    from huggingface_hub import constants

    folders = [Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}" / "snapshots"]
    if kind == "dataset":
        folders.append(_datasets_cache() / name.replace("/", "___"))
    if kind == "model":  # its small files may be there for its tokenizer alone
        return any(file.suffix in _WEIGHTS for file in folders[0].rglob("*"))
    return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)


def _datasets_cache() -> Path:
    """The cache of prepared data sets. `datasets` itself is not imported: it takes a second."""
    import os

    from huggingface_hub import constants

    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
