"""Our use of vLLM against a release's own source: TUTELAGE_VLLM_SOURCE names its wheel, or a folder with `vllm/`."""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALLED = {"LLM": "LLM.__init__", "start_vllm": "LLM.__init__", "SamplingParams": "SamplingParams"}
CALLED |= {"PoolingParams": "PoolingParams", "PoolerConfig": "PoolerConfig", "sampling_options": "SamplingParams"}
OWN = {"memory"}  # of `start_vllm`, which says it in vLLM's word

_spec = importlib.util.spec_from_file_location("vllm_api", ROOT / "scripts" / "vllm_api.py")
assert _spec is not None
assert _spec.loader is not None
vllm_api = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(vllm_api)


def used(name: str) -> set[str]:
    return next(found for place, found in vllm_api.USED.items() if place.endswith(f":{name}"))


def test_every_option_in_our_calls_is_checked():
    seen: dict[str, set[str]] = {name: set() for name in CALLED.values()}
    for file in ("vllm_sampler.py", "vllm_files.py"):
        for node in ast.walk(ast.parse((ROOT / "src" / "tutelage" / "sampling" / file).read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLED:
                given = {keyword.arg for keyword in node.keywords if keyword.arg}
                seen[CALLED[node.func.id]] |= given - OWN
            if isinstance(node, ast.FunctionDef) and node.name in ("sampling_options", "load_writer", "start_vllm"):
                keys = [key for one in ast.walk(node) if isinstance(one, ast.Dict) for key in one.keys]
                name = "SamplingParams" if node.name == "sampling_options" else "LLM.__init__"
                seen[name] |= {str(key.value) for key in keys if isinstance(key, ast.Constant)}
    assert len(seen["LLM.__init__"]) > 10
    for name, options in seen.items():
        assert options <= used(name), f"{name}: add {options - used(name)} to scripts/vllm_api.py"


def test_what_a_release_lacks_is_named(tmp_path: Path):
    (tmp_path / "vllm" / "entrypoints").mkdir(parents=True)
    (tmp_path / "vllm" / "engine").mkdir()
    (tmp_path / "vllm" / "entrypoints" / "base.py").write_text(
        "class Offline:\n    def encode(self, prompts, pooling_params, *, pooling_task, use_tqdm): ...\n"
    )
    (tmp_path / "vllm" / "entrypoints" / "llm.py").write_text(
        "class LLM(Offline):\n    def __init__(self, model, *, dtype, **kwargs): ...\n"
        "    def generate(self, prompts, sampling_params): ...\n"
    )
    fields = used("LLM.__init__") - {"dtype", "model", "max_num_seqs"}
    (tmp_path / "vllm" / "engine" / "arg_utils.py").write_text(
        "class EngineArgs:\n" + "".join(f"    {name}: int = 0\n" for name in fields)
    )
    lines = vllm_api.missing(tmp_path)
    assert "LLM.__init__ of vllm/entrypoints/llm.py has no `max_num_seqs`" in lines
    assert "LLM.generate of vllm/entrypoints/llm.py has no `use_tqdm`" in lines
    assert "vllm/entrypoints/llm.py has no LLM.sleep" in lines
    assert "vllm/sampling_params.py has no SamplingParams" in lines
    assert not any("encode" in line or "`dtype`" in line for line in lines)


@pytest.mark.skipif("TUTELAGE_VLLM_SOURCE" not in os.environ, reason="TUTELAGE_VLLM_SOURCE names no vLLM release")
def test_a_release_has_all_that_is_used():
    assert vllm_api.missing(Path(os.environ["TUTELAGE_VLLM_SOURCE"])) == []
