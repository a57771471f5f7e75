"""What is said of a pair of models, and pairs that cannot be one."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_templates import CHATML, tokenizer
from recipes_fixture import save_tiny

from tutelage.common.errors import TutelageError
from tutelage.start.models import Cut, look_at_models


def test_a_local_pair_is_measured(tiny_models: Path) -> None:
    pair = look_at_models(str(tiny_models / "teacher"), str(tiny_models / "student"))
    assert pair.context == 512
    assert pair.template is not None
    assert pair.lines[0].startswith(f"teacher: {tiny_models / 'teacher'}, reads 512 tokens, ")
    assert pair.lines[-1] == "vocabularies: equal"
    cut = Cut("healed", [], "heal", "", 320)
    assert "stage `healed`" in look_at_models(str(tiny_models / "teacher"), cut).lines[-1]


def test_other_vocabularies_and_absent_folders_are_refused(tiny_models: Path, tmp_path: Path) -> None:
    tokens = tokenizer(CHATML)
    tokens.add_tokens(["<one>", "<two>"])
    save_tiny(tmp_path / "more", layers=2, seed=0, tokens=tokens)
    pair = look_at_models(str(tiny_models / "teacher"), str(tmp_path / "more"))
    assert pair.lines[-1].startswith("vocabularies are cut to their common")
    with pytest.raises(TutelageError, match=r"^student: model folder .* does not exist"):
        look_at_models(str(tiny_models / "teacher"), str(tmp_path / "absent"))
