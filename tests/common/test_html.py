"""How the pages show commands."""

from __future__ import annotations

from tutelage.common.html import _code, _words


def test_the_words_of_a_command_are_not_broken_at_their_hyphens() -> None:
    found = str(_code("use `tutelage export models/a-b --gguf <x>` now"))
    words = "tutelage export <span>models/a-b</span> <span>--gguf</span> &lt;x&gt;"
    assert found == f"use <code>{words}</code> now"
    assert str(_words("chat a-b")) == "chat <span>a-b</span>"
    assert str(_words("chat /home/me/runs/models/mine-of-today")) == "chat /home/me/runs/models/mine-of-today"
