"""Loading causal language models, and taking them apart into decoder and head."""

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
from tutelage.models.files import locate, quiet
from tutelage.models.rms_norm import fuse_norms
from tutelage.models.self_check import differs_from_own, own_logits, runs_packed
from tutelage.models.sharding import reshard, shard
from tutelage.recipe.sections import ModelConfig


@dataclass(frozen=True)
class LoadedModel:
    model: Any  # a transformers causal language model, in evaluation mode
    tokenizer: Any
    template: ChatTemplate
    packed: bool  # runs on packed sequences; False: needs padded ones
    fingerprint: str


def load_model(
    config: ModelConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    sharded: bool = False,
    compute: torch.dtype | None = None,
) -> LoadedModel:
    """Load from a hub id, a folder, a GGUF file or `package:NAME`, ready for `device`.

    `sharded`: over all ranks, which call this together; the first alone reads the weights, into the CPU's memory. It
    then runs under autocast to `compute`, if given.

    Raises TutelageError for a folder without weights, pickled weights, or a name that cannot be reached.
    """
    folder, mark = locate(config)
    options: dict[str, Any] = {"device_map": "meta"} if sharded and dist.get_rank() else {}
    model = _pretrained("AutoModelForCausalLM", folder, config, dtype=dtype, use_safetensors=True, **options)
    tokenizer = _pretrained("AutoTokenizer", config.tokenizer or folder, config)
    if mark is None:
        mark = f"{config.path}@{getattr(model.config, '_commit_hash', None) or config.revision or 'unknown'}"
    kind = torch.device(device).type
    if sharded:
        if kind == "cuda":
            fuse_norms(model)  # now: copies that are made of the sharded model have them too
        shard(model.eval(), device, compute)
    else:
        model.eval().to(device)
    with torch.autocast(kind, compute, enabled=compute not in (None, torch.float32)):
        packed = _prepared(model, config)
    reshard(model)
    template = ChatTemplate(tokenizer, config.chat_template, generation_eos=generation_ends(model))
    return LoadedModel(model, tokenizer, template, packed, fingerprint(mark, template.fingerprint))


def _prepared(model: Any, config: ModelConfig) -> bool:
    """Give the model our attention and norms; whether it runs packed. Raises TutelageError where that goes wrong."""
    own, attention = own_logits(model), model.config._attn_implementation
    if model.device.type == "cuda":
        fuse_norms(model)
    if config.attention == "packed" or (config.attention == "auto" and runs_packed(model)):
        register_attention()
        model.set_attn_implementation(PACKED)
        if not differs_from_own(model, own, True):
            return True
        if config.attention == "packed":
            raise TutelageError(f"`{config.path}` computes something else when packed: set `attention: padded`")
        model.set_attn_implementation(attention)
    if differs_from_own(model, own, False):
        raise TutelageError(
            f"`{config.path}`: the logits of a {type(model).__name__} are not those of its last hidden states and its "
            "head, so its losses would be wrong: use a model of another architecture"
        )
    return False


def compute_type(precision: str, device: torch.device) -> torch.dtype:
    """The type that `training.precision` computes in."""
    if precision == "float32" or (precision == "auto" and device.type == "cpu"):
        return torch.float32
    return torch.bfloat16


def generation_ends(model: Any) -> tuple[int, ...]:
    """Every id that the model's configs call an end of generation."""
    ends: list[int] = []
    for source in (getattr(model, "generation_config", None), model.config):
        value = getattr(source, "eos_token_id", None)
        ends += [] if value is None else [value] if isinstance(value, int) else list(value)
    return tuple(dict.fromkeys(ends))


def _pretrained(kind: str, where: str | Path, config: ModelConfig, **options: Any) -> Any:
    import transformers

    with quiet():
        try:
            return getattr(transformers, kind).from_pretrained(
                str(where), revision=config.revision, trust_remote_code=config.trust_remote_code, **options
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise TutelageError(
                f"cannot load `{config.path}`: {first} Check the name or folder, your network, and access rights "
                f"(HF_TOKEN for gated models)"
            ) from error
