"""Check the vLLM options and attributes that this project uses against a release's own Python source, without a GPU.

    pip download --no-deps vllm -d /tmp/vllm && python scripts/vllm_api.py /tmp/vllm/vllm-*.whl

Nothing is imported: the source, a wheel or a folder that holds `vllm/`, is parsed. Prints what is missing, and exits
with 1 if anything is. `USED` is compared with the calls in our code by `tests/sampling/test_vllm_api.py`.
"""

from __future__ import annotations

import ast
import sys
import zipfile
from pathlib import Path

# By class or function of vLLM: the files that may define it, and the arguments, methods or attributes that we use.
# `LLM` hands what it does not name to EngineArgs.
ENGINE = "engine/arg_utils.py:EngineArgs"
USED: dict[str, set[str]] = {
    "entrypoints/llm.py:LLM.__init__": {
        "model", "tokenizer", "skip_tokenizer_init", "enforce_eager", "dtype", "gpu_memory_utilization",
        "tensor_parallel_size", "revision", "trust_remote_code", "runner", "convert", "pooler_config", "hf_overrides",
        "load_format", "max_model_len", "max_num_seqs", "enable_sleep_mode", "logprobs_mode", "disable_log_stats",
        "async_scheduling", "distributed_executor_backend", "enable_prefix_caching", "max_num_batched_tokens",
    },
    "entrypoints/llm.py:LLM": {"generate", "encode", "sleep", "wake_up", "apply_model", "reset_prefix_cache"},
    "entrypoints/llm.py:LLM.generate": {"prompts", "sampling_params", "use_tqdm"},
    "entrypoints/llm.py:LLM.encode": {"prompts", "pooling_params", "pooling_task", "use_tqdm"},
    "entrypoints/llm.py:LLM.sleep": {"level"},
    "entrypoints/llm.py:LLM.wake_up": {"tags"},
    "sampling_params.py:SamplingParams": {
        "temperature", "top_p", "stop_token_ids", "ignore_eos", "logprobs", "flat_logprobs", "detokenize", "max_tokens",
        "seed", "prompt_logprobs",
    },
    "pooling_params.py:PoolingParams": {"use_activation"},
    "config/pooler.py:PoolerConfig": {"task"},
    "outputs.py:CompletionOutput": {"token_ids", "logprobs", "finish_reason"},
    "outputs.py:PoolingOutput": {"data"},
    "logprobs.py:FlatLogprobs": {"logprobs", "start_indices"},
    "logprobs.py:Logprob": {"logprob"},
}  # fmt: skip


class Source:
    """The Python files of a vLLM release: a wheel, or a folder with `vllm/` in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._wheel = zipfile.ZipFile(path) if path.suffix == ".whl" else None
        self._classes: dict[str, list[ast.ClassDef]] = {}

    def names(self) -> list[str]:
        """All files below `vllm/`."""
        if self._wheel is not None:
            found = self._wheel.namelist()
        else:
            found = [str(file.relative_to(self.path)) for file in (self.path / "vllm").rglob("*.py")]
        return [name for name in found if name.startswith("vllm/") and name.endswith(".py")]

    def text(self, name: str) -> str:
        """The content of a file."""
        if self._wheel is not None:
            return self._wheel.read(name).decode()
        return (self.path / name).read_text()

    def members(self, file: str, wanted: str) -> set[str] | None:
        """Fields and methods of a class and its bases, or the parameters of a method `Class.method`; None if there is
        no such thing. A method with `**kwargs` also has the fields of EngineArgs."""
        owner, _, method = wanted.partition(".")
        classes = self._with_bases(file, owner)
        if not classes:
            return None
        body = [node for one in classes for node in one.body]
        functions = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        if not method:
            named = {
                node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            }
            return named | {node.name for node in functions}
        found = next((node for node in functions if node.name == method), None)
        if found is None:
            return None
        named = {one.arg for one in [*found.args.args, *found.args.kwonlyargs]}
        return named | (self.members(*ENGINE.split(":")) or set() if found.args.kwarg else set())

    def _with_bases(self, file: str, name: str) -> list[ast.ClassDef]:
        own = self._class_of(f"vllm/{file}", name)
        if own is None:
            return []
        found = [own]
        for base in own.bases:
            text = base.id if isinstance(base, ast.Name) else ""
            found += self._imported(text)
        return found

    def _imported(self, name: str) -> list[ast.ClassDef]:
        """A base class, wherever the release defines it."""
        if name not in self._classes:
            here = (self._class_of(file, name) for file in self.names() if "entrypoints" in file or "engine" in file)
            self._classes[name] = [one for one in here if one is not None]
        return self._classes[name] if name else []

    def _class_of(self, name: str, wanted: str) -> ast.ClassDef | None:
        try:
            text = self.text(name)
        except (OSError, KeyError):
            return None
        if f"class {wanted}" not in text:
            return None
        nodes = ast.parse(text).body
        return next((node for node in nodes if isinstance(node, ast.ClassDef) and node.name == wanted), None)


def missing(path: Path) -> list[str]:
    """One line per thing that we use and the release does not have."""
    source, out = Source(path), []
    for place, used in USED.items():
        file, _, name = place.partition(":")
        found = source.members(file, name)
        if found is None:
            out.append(f"vllm/{file} has no {name}")
        else:
            out += [f"{name} of vllm/{file} has no `{one}`" for one in sorted(used - found)]
    return out


if __name__ == "__main__":
    lines = missing(Path(sys.argv[1]))
    print("\n".join(lines) or f"{Path(sys.argv[1]).name}: all that is used is there")
    sys.exit(bool(lines))
