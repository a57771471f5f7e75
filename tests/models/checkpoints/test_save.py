"""Model folders are written completely or not at all, for everybody to read."""

from __future__ import annotations

from pathlib import Path

import jobs
import pytest
import tiny

from tutelage.models.checkpoints.save import save_model
from tutelage.models.files import model_fingerprint
from tutelage.recipe.sections import ModelConfig


def test_saving_again_replaces_the_folder_and_a_failure_keeps_it(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path.with_name("cache")))
    folder = tmp_path / "model"
    save_model(tiny.llama(seed=1), jobs.words(), folder)
    (folder / "old").write_text("")
    first = model_fingerprint(ModelConfig(path=str(folder)))
    save_model(tiny.llama(seed=2), jobs.words(), folder)
    second = model_fingerprint(ModelConfig(path=str(folder)))
    assert first != second
    assert not (folder / "old").exists()
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir()} == {p.name: 0o644 for p in folder.iterdir()}

    broken = jobs.words()
    monkeypatch.setattr(broken, "save_pretrained", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(tiny.llama(seed=3), broken, folder)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert model_fingerprint(ModelConfig(path=str(folder))) == second
