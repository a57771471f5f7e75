"""Loading causal language models, with a check that our attention gives the model's own logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.data.chat_template import ChatTemplate
from tutelage.models.attention import NAME as PACKED
from tutelage.models.attention import register_attention
from tutelage.models.files import locate, without_progress_bars
from tutelage.models.rms_norm import fuse_norms
from tutelage.models.self_check import differs_from_own, own_logits, runs_packed
from tutelage.models.sharding import reshard, shard
from tutelage.recipe.sections import ModelConfig


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer and chat template."""

    model: Any  # a transformers causal language model, in evaluation mode
    tokenizer: Any
    template: ChatTemplate
    packed: bool  # takes packed sequences; False: padded ones
    fingerprint: str  # of weights, tokenizer and chat template


def load_model(
    config: ModelConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    sharded: bool = False,
    compute: torch.dtype | None = None,
) -> LoadedModel:
    """Load a model from a hub id, a folder, a GGUF file or `package:NAME` to `device`, with weights in `dtype`.

    `sharded`: shard it over all ranks, which must call this together; only the first rank reads the weights, into CPU
    memory. `compute`: the type of autocast that the model will run under, if any.

    Raises TutelageError for a folder without weights or with pickled weights, for a name that cannot be loaded, and for
    a model whose logits are not those of its last hidden states and head.
    """
    folder, content = locate(config)
    options: dict[str, Any] = {"device_map": "meta"} if sharded and dist.get_rank() else {}
    model = _from_pretrained("AutoModelForCausalLM", folder, config, dtype=dtype, use_safetensors=True, **options)
    # A tokenizer from elsewhere has revisions of its own.
    tokens_of = config if config.tokenizer is None else config.model_copy(update={"revision": None})
    tokenizer = _from_pretrained("AutoTokenizer", config.tokenizer or folder, tokens_of)
    if content is None:
        content = f"{config.path}@{getattr(model.config, '_commit_hash', None) or config.revision or 'unknown'}"
    device_type = torch.device(device).type
    if sharded:
        if device_type == "cuda":
            fuse_norms(model)  # before sharding, so that copies of the sharded model have them too
        shard(model.eval(), device, compute)
    else:
        model.eval().to(device)
    with torch.autocast(device_type, compute, enabled=compute not in (None, torch.float32)):
        packed = _install_attention(model, config)
    reshard(model)
    template = ChatTemplate(tokenizer, config.chat_template, generation_eos=generation_ends(model))
    return LoadedModel(model, tokenizer, template, packed, fingerprint(content, template.fingerprint))


def _install_attention(model: Any, config: ModelConfig) -> bool:
    """Install fused norms and, if it gives the model's own logits, packed attention; returns whether it runs packed.

    Raises TutelageError if the logits differ from the model's own on every path that the config allows.
    """
    own, attention = own_logits(model), model.config._attn_implementation
    if model.device.type == "cuda":
        fuse_norms(model)
    if config.attention == "packed" or (config.attention == "auto" and runs_packed(model)):
        register_attention()
        model.set_attn_implementation(PACKED)
        if not differs_from_own(model, own, True):
            return True
        if config.attention == "packed":
            raise TutelageError(f"`{config.path}` computes other logits when packed: set `attention: padded`")
        model.set_attn_implementation(attention)
    if differs_from_own(model, own, False):
        raise TutelageError(
            f"`{config.path}`: the logits of {type(model).__name__} are not those of its last hidden states and its "
            "head, so its losses would be wrong: use a model of another architecture"
        )
    return False


def compute_type(precision: str, device: torch.device) -> torch.dtype:
    """The type that `training.precision` computes in on this device: float32 or bfloat16."""
    if precision == "float32" or (precision == "auto" and device.type == "cpu"):
        return torch.float32
    return torch.bfloat16


def generation_ends(model: Any) -> tuple[int, ...]:
    """The end-of-sequence ids of the generation config and of the model's config, each once."""
    ends: list[int] = []
    for source in (getattr(model, "generation_config", None), model.config):
        value = getattr(source, "eos_token_id", None)
        ends += [] if value is None else [value] if isinstance(value, int) else list(value)
    return tuple(dict.fromkeys(ends))


def _from_pretrained(auto_class: str, source: str | Path, config: ModelConfig, **options: Any) -> Any:
    """`transformers.<auto_class>.from_pretrained`, with its errors as one line."""
    import transformers

    with without_progress_bars():
        try:
            return getattr(transformers, auto_class).from_pretrained(
                str(source), revision=config.revision, trust_remote_code=config.trust_remote_code, **options
            )
        except Exception as error:  # damaged files raise all kinds
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise TutelageError(
                f"cannot load `{config.path}`: {first} Check the name or folder, your network, and access rights "
                f"(HF_TOKEN for gated models){_cached(config)}"
            ) from error


def _cached(config: ModelConfig) -> str:
    """Where a hub id's files are kept, for an error: the hub's library keeps a damaged download and asks no more."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{config.path.replace('/', '--')}"
    return f"; if its download is damaged, remove {folder}" if folder.is_dir() else ""
