"""A recipe as text that a person can go on with: one line per section, with the reasons as comments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tutelage.recipe.load import parse_yaml

_COLUMN = 96  # where comments begin at the latest
_WIDE = 150
_SAYS = {
    "teacher_sft": "the teacher learns the rows too",
    "sft": "the rows alone",
    "sft_again": "the control: as many more steps",
    "gkd": "the same start and steps, with the teacher",
    "scores": "the same test rows for all; then the report",
}


def recipe_text(content: Mapping[str, Any], reasons: Mapping[str, str], head: str) -> str:
    """The recipe as YAML. `head`: the first comment. `reasons`: comments by section."""
    lines = [f"# {head}"]
    for key, value in content.items():
        if isinstance(value, list):
            said = [(f"  - {_inline(one)}", _SAYS.get(str(one["name"]), "")) for one in value]
        elif key in ("data", "tasks"):
            said = [(f"  {name}: {_inline(one)}", "") for name, one in value.items()]
        else:
            lines.append(_with(f"{key}: {_inline(value)}", reasons.get(key, "")))
            continue
        lines.append(_with(f"{key}:", reasons.get(key, "")))
        lines += [_with(text, reason) for text, reason in said]
    return "\n".join(lines) + "\n"


def _with(text: str, reason: str) -> str:
    return f"{text}{'  ' if len(text) < _COLUMN else ' '}# {reason}" if reason and len(text) < _WIDE else text


def _inline(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_inline(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and 0 < value < 0.001:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    if not isinstance(value, str):
        return json.dumps(value)
    plain = re.fullmatch(r"[\w./:-]+", value, re.ASCII) and not value.endswith(":") and parse_yaml(value) == value
    return value if plain else json.dumps(value, ensure_ascii=False)
