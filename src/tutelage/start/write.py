"""A recipe as text that a person can go on with: one line per section, with the reasons as comments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tutelage.recipe.load import parse_yaml

_WIDTH = 118  # of a line with a comment; a wider one has its comment above
SAYS = {  # of stages
    "cut": "the student: the teacher without most of its layers",
    "heal": "trains what was cut until it writes again, on other text",
    "teacher_sft": "the teacher learns the rows too",
    "sft": "the student learns from the rows alone",
    "sft_again": "the control: as many more steps",
    "gkd": "the same start and steps, with the teacher",
    "scores": "the same test rows for all",
}


def recipe_text(content: Mapping[str, Any], reasons: Mapping[str, str], head: str) -> str:
    """The recipe as YAML. `head`: the first comment. `reasons`: comments by section or stage."""
    lines = [f"# {head}"]
    for key, value in content.items():
        if isinstance(value, list):
            says = {**SAYS, **reasons}
            lines += [f"{key}:", *(_with(f"  - {_inline(one)}", says.get(one["name"], "")) for one in value)]
        elif key in ("data", "tasks"):
            lines += [_with(f"{key}:", reasons.get(key, "")), *(f"  {n}: {_inline(one)}" for n, one in value.items())]
        else:
            lines.append(_with(f"{key}: {_inline(value)}", reasons.get(key, "")))
    return "\n".join(lines) + "\n"


def _with(text: str, reason: str) -> str:
    """The line with its comment, behind it where there is room."""
    if not reason:
        return text
    behind = f"{text}  # {reason}"
    indent = " " * (len(text) - len(text.lstrip()))
    return behind if len(behind) <= _WIDTH else f"{indent}# {reason[0].upper()}{reason[1:]}\n{text}"


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
