"""Loading causal language models, with a check that our attention gives the model's own logits."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.data.chat_template import ChatTemplate
from tutelage.models.attention import NAME as PACKED
from tutelage.models.attention import register_attention
from tutelage.models.checkpoints.save import without_progress_bars
from tutelage.models.files import hub_snapshot, is_here, locate
from tutelage.models.limits import context_of
from tutelage.models.own_module import OwnModule
from tutelage.models.rms_norm import fuse_norms
from tutelage.models.self_check import differs_from_own, own_logits, runs_packed
from tutelage.models.sharding import decoder_layers, reshard, shard
from tutelage.models.surgery.quantise import check_precision, keep_scales, note_unquantised, quantization
from tutelage.models.whole import (
    ADAPTER,
    adapter_base,
    merged,
    refuse_incomplete,
    refuse_nonfinite,
    refuse_other_types,
    without_load_report,
)
from tutelage.recipe.sections import ModelConfig

T = TypeVar("T")


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer and chat template."""

    model: Any  # a transformers causal language model, in evaluation mode
    tokenizer: Any
    template: ChatTemplate
    packed: bool  # takes packed sequences; False: padded ones
    fingerprint: str  # of weights, tokenizer and chat template
    name: str = "the model"  # as the user wrote it
    engine: Any = None  # what writes for it where its weights are not in this process (sampling/vllm_files.py)

    @property
    def context(self) -> int | None:
        """The most tokens it can read; None: unknown."""
        return context_of(self.model.config)


def load_model(
    config: ModelConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    sharded: bool | Literal["host"] = False,
    compute: torch.dtype | None = None,
    prepare: Callable[[Any], None] | None = None,
) -> LoadedModel:
    """Load a model from a hub id, a folder, a GGUF file or `package:NAME` to `device`, with weights in `dtype`.

    `sharded`: shard it over all ranks (`host`: those of a host), which must call this together; only the first rank
    reads the weights, into CPU memory. `compute`: the type that a sharded model computes in (default: `dtype`).
    `prepare`: changes the transformers model before it is sharded. With `config.precision` the linear maps are
    quantised as they are read.

    Raises TutelageError for a folder without weights or with pickled weights, for a name that cannot be loaded, for a
    weight that is not in the files or not finite, and for a model whose logits are not those of its last hidden states
    and head.
    """
    folder, content = locate(config)
    device_type = torch.device(device).type
    if config.precision is not None:
        check_precision(config, (Path(folder) / ADAPTER).is_file(), device_type, bool(sharded))
    model = read_weights(config, folder, dtype, bool(sharded), device=device)
    refuse_nonfinite(config.path, model)
    if config.precision is not None:
        note_unquantised(config, model)
    if prepare is not None:
        prepare(model)
    tokenizer = _tokenizer(folder, config)
    if content is None:
        content = f"{config.path}@{getattr(model.config, '_commit_hash', None) or config.revision or 'unknown'}"
    if sharded:
        if device_type == "cuda":
            fuse_norms(model)  # before sharding, so that copies of the sharded model have them too
        shard(model.eval(), device, compute, within_host=sharded == "host")
    elif config.precision is None:
        model.eval().to(device)
    packed = _install_attention(model, config)
    reshard(model)
    template = ChatTemplate(tokenizer, config.chat_template, generation_ends(model), config.thinking)
    return LoadedModel(model, tokenizer, template, packed, fingerprint(content, template.fingerprint), config.path)


def model_in_memory(model: Any, tokenizer: Any, config: ModelConfig) -> LoadedModel:
    """A model that was loaded or written by others, as `load_model` gives them: it gets our attention, in place.

    `model`: a transformers causal language model, or a module with the methods that `OwnModule` names. Of `config`
    count `attention`, `chat_template` and `thinking`; its `path` is what messages call the model.

    Raises TutelageError as `load_model` does.
    """
    own = not hasattr(model, "set_attn_implementation")
    model = OwnModule(model) if own else model
    refuse_nonfinite(config.path, model)
    packed = False if own else _install_attention(model.eval(), config)
    template = ChatTemplate(tokenizer, config.chat_template, generation_ends(model), config.thinking)
    return LoadedModel(model, tokenizer, template, packed, template.fingerprint, config.path)


def read_weights(
    config: ModelConfig,
    folder: str,
    dtype: torch.dtype,
    sharded: bool = False,
    meta: bool = False,
    device: torch.device | str = "cpu",
    places: dict[str, Any] | None = None,
) -> Any:
    """The transformers model in `folder` (see `locate`) on the CPU, an adapter merged into its base; with
    `config.precision` on `device`, quantised tensor by tensor. `places`: where transformers puts its parts instead.

    `meta`: without values, to find out whether all weights are there; so are, with `sharded`, those of all ranks but
    the first. Raises TutelageError for a weight that is not in the files, or there with another shape.
    """
    base = adapter_base(Path(folder))
    if base is not None:
        if sharded:
            raise TutelageError(f"`{config.path}`: adapters are not merged under `training.shard`: merge it first")
        whole = config.model_copy(update={"path": base[0], "revision": base[1]})
        model = read_weights(whole, locate(whole)[0], dtype, meta=meta)
        if meta:
            return model
        # peft freezes the base. Merged, it is a model like any other, which may be trained if it is not quantised.
        return merged(model, Path(folder)).requires_grad_(config.precision is None)
    options: dict[str, Any] = {"device_map": "meta"} if meta or (sharded and dist.get_rank()) else {}
    if config.precision is not None and not meta:
        where = torch.empty(0, device=device).device  # of several GPUs, this process's
        options |= {"quantization_config": quantization(config.precision, dtype), "device_map": {"": str(where)}}
    options |= places or {}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with without_load_report():
        model, info = _from_pretrained(
            "AutoModelForCausalLM", folder, config, dtype=dtype, use_safetensors=True, **options
        )
    refuse_incomplete(config.path, model, info, quiet=meta)
    files = Path(folder) if Path(folder).is_dir() else hub_snapshot(folder, getattr(model.config, "_commit_hash", None))
    if files is not None:
        refuse_other_types(config.path, files, model, info["unexpected_keys"])
    keep_scales(model)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise TutelageError(f"`{config.path}` is an adapter on the hub: download it, and give its folder")
    return model


def stream_model(config: ModelConfig, device: torch.device | str, dtype: torch.dtype, packed: bool) -> Any:
    """The transformers model with its layers left in their files: each is read as it runs, in every pass.

    Embedding, last norm and head are on `device`. `packed`: whether it takes packed sequences.
    """
    folder, _ = locate(config)
    places: dict[str, str] = {}

    def place(module: Any, prefix: str) -> None:
        for name, child in module.named_children():
            if child is layers:
                places.update((f"{prefix}{name}.{i}", "disk") for i in range(len(layers)))
            elif any(inner is layers for inner in child.modules()):
                place(child, f"{prefix}{name}.")
            else:
                places[f"{prefix}{name}"] = str(device)

    empty = read_weights(config, folder, dtype, meta=True)
    layers = decoder_layers(empty)
    place(empty, "")
    kept = tempfile.TemporaryDirectory()  # transformers asks for it; what is in safetensors is not copied
    model = read_weights(config, folder, dtype, places={"device_map": places, "offload_folder": kept.name}).eval()
    vars(model)["offload_folder"] = kept  # removed with the model
    if packed:
        register_attention()
        model.set_attn_implementation(PACKED)
    return model


def load_template(config: ModelConfig) -> tuple[ChatTemplate, int | None]:
    """The chat template of a model, with its tokenizer, and its context, as `load_model` gives them, without weights.

    Raises TutelageError as `load_model` does.
    """
    template, settings = _without_weights(config)
    return template, context_of(settings)


def load_shape(config: ModelConfig, packed: bool = True) -> LoadedModel:
    """A model whose weights are elsewhere: tokenizer, chat template and shapes, on the meta device.

    `packed`: how it is to be asked. Nothing but its small files is read. Raises TutelageError as `load_model` does.
    """
    from transformers import AutoModelForCausalLM

    template, settings = _without_weights(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, trust_remote_code=config.trust_remote_code)
    return LoadedModel(model, template.tokenizer, template, packed, "without weights", config.path)


def small_files(config: ModelConfig, load: Callable[[ModelConfig], T], network: bool) -> T | None:
    """What `load` (`load_template` or `load_shape`) gives from files of this machine or of the hub's local cache, and
    with `network` from the hub; else None. Raises TutelageError as `load` does."""
    path, content = locate(config)
    if content is None and config.tokenizer is None and (cached := hub_snapshot(path, config.revision)):
        with contextlib.suppress(TutelageError):  # it may be a part of the small files
            return load(config.model_copy(update={"path": str(cached), "revision": None}))
    return load(config) if network or is_here(config) else None


def _without_weights(config: ModelConfig) -> tuple[ChatTemplate, Any]:
    """The chat template of a model, and its transformers config."""
    folder, _ = locate(config)
    tokenizer = _tokenizer(folder, config)
    base = adapter_base(Path(folder))
    if base is not None:
        config = config.model_copy(update={"path": base[0], "revision": base[1]})
        folder = locate(config)[0]
    try:
        generation = _from_pretrained("GenerationConfig", folder, config)
    except TutelageError:  # many models have none
        generation = None
    model = SimpleNamespace(config=_from_pretrained("AutoConfig", folder, config), generation_config=generation)
    return ChatTemplate(tokenizer, config.chat_template, generation_ends(model), config.thinking), model.config


def _tokenizer(folder: str, config: ModelConfig) -> Any:
    # A tokenizer from elsewhere has revisions of its own.
    tokens_of = config if config.tokenizer is None else config.model_copy(update={"revision": None})
    return _from_pretrained("AutoTokenizer", config.tokenizer or _tokenizer_folder(folder), tokens_of)


def _install_attention(model: Any, config: ModelConfig) -> bool:
    """Install fused norms and, if it gives the model's own logits, packed attention; returns whether it runs packed.

    Raises TutelageError if the logits differ from the model's own on every path that the config allows.
    """
    own, attention = own_logits(model), model.config._attn_implementation
    if not bool(torch.isfinite(own).all()):
        raise TutelageError(
            f"`{config.path}`: its own logits are not finite in {str(model.dtype).removeprefix('torch.')}: take "
            "another copy or an earlier checkpoint of this model"
        )
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


def _tokenizer_folder(folder: str) -> str:
    """`folder`, or for an adapter without a tokenizer its base's."""
    base = adapter_base(Path(folder))
    return folder if base is None or (Path(folder) / "tokenizer_config.json").is_file() else base[0]


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
