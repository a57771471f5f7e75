"""Loading causal language models, and taking them apart into decoder and head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tutelage.attention import NAME as PACKED
from tutelage.attention import Packing, register_attention
from tutelage.batch import make_micro_batch
from tutelage.config import ModelConfig, fingerprint
from tutelage.kernels import linear_objective
from tutelage.kernels.rows import chunk_logits
from tutelage.model_files import locate, quiet
from tutelage.norm import fuse_norms
from tutelage.objective import Objective
from tutelage.shard import inside, let_go, shard, whole
from tutelage.template import ChatTemplate
from tutelage.types import Head, MicroBatch, TeacherSignal, TokenSequence, TokenStats, TutelageError

# Where in the vocabulary the tokens of two short sequences stand: past the special ones of a real model, which many
# never learnt, so that rounding alone gives them other logits after some training.
_PROBES = ((0.021, 0.041, 0.031, 0.081), (0.061, 0.043, 0.131, 0.018, 0.025, 0.014))


@dataclass(frozen=True)
class LoadedModel:
    model: Any  # a transformers causal language model, in evaluation mode
    tokenizer: Any
    template: ChatTemplate
    packed: bool  # runs on packed sequences; False: needs padded ones
    fingerprint: str


class LanguageModel(nn.Module):
    """A causal language model taken apart into decoder and head, so that full logits are never made.

    Everything that touches a parameter happens inside `forward`: where it is sharded, that is where it is whole.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(
        self,
        batch: MicroBatch,
        objective: Objective | None = None,
        teacher: TeacherSignal | None = None,
        statistics: bool = True,
    ) -> Any:
        """With an objective: (Σ weights · objective, TokenStats). Without: the hidden states [N, D] and the head."""
        return inside(self.model, self._apart, batch, objective, teacher, statistics)

    def _apart(
        self, batch: MicroBatch, objective: Objective | None, teacher: TeacherSignal | None, statistics: bool
    ) -> Any:
        hidden = self._hidden(batch)
        head = language_model_head(self.model)
        if objective is None:
            return TeacherSignal(hidden, head)
        return self._loss(hidden, head, objective, teacher, batch, statistics)

    def _hidden(self, batch: MicroBatch) -> Tensor:
        """Last hidden states at the predicting positions, [N, D], in the compute type."""
        extra: dict[str, Any] = {}
        if batch.cu_seqlens is not None:
            extra["packing"] = Packing(batch.cu_seqlens, batch.lengths)
        else:
            extra["attention_mask"] = batch.attention_mask
        decoder = self.model.get_decoder()
        out = decoder(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **extra)
        hidden = out.last_hidden_state.flatten(0, 1).index_select(0, batch.predict)
        device = hidden.device.type
        return hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden

    def _loss(
        self,
        hidden: Tensor,
        head: Head,
        objective: Objective,
        teacher: TeacherSignal | None,
        batch: MicroBatch,
        statistics: bool,
    ) -> tuple[Tensor, TokenStats]:
        return linear_objective(objective, hidden, head, teacher, batch.labels, batch.weights, statistics)


def language_model_head(model: Any) -> Head:
    """The model's last linear map with what its config does to the logits (Gemma 2, Cohere, Granite)."""
    layer, config = model.get_output_embeddings(), model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    if getattr(config, "logits_scaling", None):
        scale /= float(config.logits_scaling)
    cap = getattr(config, "final_logit_softcapping", None)
    bias = getattr(layer, "bias", None)
    return Head(whole(layer.weight), None if bias is None else whole(bias), scale, cap)


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
    let_go(model)
    template = ChatTemplate(tokenizer, config.chat_template, generation_eos=generation_ends(model))
    return LoadedModel(model, tokenizer, template, packed, fingerprint(mark, template.fingerprint))


def _prepared(model: Any, config: ModelConfig) -> bool:
    """Give the model our attention and norms; whether it runs packed. Raises TutelageError where that goes wrong."""
    own, attention = _own_logits(model), model.config._attn_implementation
    if model.device.type == "cuda":
        fuse_norms(model)
    if config.attention == "packed" or (config.attention == "auto" and _runs_packed(model)):
        register_attention()
        model.set_attn_implementation(PACKED)
        if not _strays(model, own, True):
            return True
        if config.attention == "packed":
            raise TutelageError(f"`{config.path}` computes something else when packed: set `attention: padded`")
        model.set_attn_implementation(attention)
    if _strays(model, own, False):
        raise TutelageError(
            f"`{config.path}`: the logits of a {type(model).__name__} are not those of its last hidden states and its "
            "head, so its losses would be wrong: use a model of another architecture"
        )
    return False


def _probes(model: Any) -> list[Tensor]:
    """Token ids, one tensor a sequence."""
    width = model.config.get_text_config().vocab_size
    return [(width * torch.tensor(places)).long() for places in _PROBES]


@torch.no_grad()
def _own_logits(model: Any) -> Tensor:
    """The model's own logits of each probe alone, [N, V]."""
    return torch.cat([model(ids[None].to(model.device)).logits[0, :-1].float() for ids in _probes(model)])


@torch.no_grad()
def _strays(model: Any, own: Tensor, packed: bool) -> bool:
    """Whether decoder and head, taken apart, give other logits than the model. Architectures differ in ways that no
    config tells: some pass nothing on to their attention, so that packed sequences would see each other."""
    parts = _probes(model)
    sequences = [TokenSequence(i, ids, torch.ones_like(ids, dtype=torch.bool), 0) for i, ids in enumerate(parts)]
    signal = LanguageModel(model)(make_micro_batch(sequences, [1.0] * len(parts), not packed).to(model.device))
    ours = chunk_logits(signal.hidden, signal.head)
    error, size = ((z - z.mean(-1, keepdim=True)).norm(dim=-1) for z in (ours - own, own))
    # Rounding to half precision makes 0.09 at most in SmolLM2, after training it might make more in a place; sequences
    # that see each other make 0.5 to 1.4 in all places of the second.
    return int((error > 0.3 * size).sum()) > 1


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


def _runs_packed(model: Any) -> bool:
    """Whether plain causal attention over packed sequences is all that this architecture's attention does."""
    config = model.config.get_text_config()
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    drops = any(getattr(config, name, None) for name in ("attention_dropout", "attn_pdrop"))  # not in `attention.py`
    sinks = any(name.endswith("sinks") for name, _ in model.named_parameters())
    backend = getattr(model, "_supports_attention_backend", False)
    return bool(backend) and not (windowed or capped or drops or sinks) and kinds == {"full_attention"}


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
