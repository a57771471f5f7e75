"""Base of all sections of a recipe: strict pydantic models and one-line error messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tutelage.common.errors import did_you_mean


class Section(BaseModel):
    """A section of a recipe: frozen, and an unknown key is an error that suggests the nearest known key."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    misplaced: ClassVar[Mapping[str, str]] = {}  # keys that people write here, and where they stand

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    hint = did_you_mean(str(key), cls.model_fields, f"valid keys: {', '.join(cls.model_fields)}")
                    place = cls.misplaced.get(key) or _inside(cls, str(key))
                    hint = f"did you mean `{place}`?" if place else hint
                    raise ValueError(f"unknown key `{key}`: {hint}")
        return data


def _inside(section: type[Section], key: str) -> str | None:
    """Where a key stands that people write one section too high, as `epochs` for `training.epochs`; None where it
    stands in none of the sections below, or in several."""
    found = {
        f"{name}.{key}"
        for name, field in section.model_fields.items()
        for kind in (field.annotation, *get_args(field.annotation))
        if isinstance(kind, type) and issubclass(kind, Section) and key in kind.model_fields
    }
    return found.pop() if len(found) == 1 else None


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # names become parts of folder names
NAME_LENGTH = 100


def names_of_folders(named: dict[str, Any]) -> dict[str, Any]:
    """The section. Raises ValueError for a name in it that cannot be part of a folder's name, or would leave its
    folder."""
    for name in named:
        if not name.strip(" .") or len(name) > NAME_LENGTH or any(c in "/\\" or not c.isprintable() for c in name):
            raise ValueError(
                f"the name `{name[:NAME_LENGTH]}` becomes part of a folder's name: at most {NAME_LENGTH} characters, "
                "without `/` and `\\`"
            )
    return named


def first_message(error: ValueError, content: Any = None, within: str = "") -> str:
    """The first error of a pydantic `ValidationError` as `key: what is wrong`; of another ValueError, its message.
    `content`: what was validated, in which the items of lists have names. `within`: the key that it is the value of."""
    if not isinstance(error, ValidationError):
        return f"{within}: {error}" if within else str(error)
    errors = error.errors()
    first = errors[0]
    location, extra = list(first["loc"]), ""
    if first["type"] == "bool_parsing" and len(errors) > 1 and errors[1]["type"] == "literal_error":
        first, extra = errors[1], "true, false, "  # of a switch that also takes words
        del location[-1]
    if location[:1] == ["stages"]:
        del location[2:3]  # pydantic puts the stage's kind after its number; it is not a key
    # Nor is the name of one type of `student`, perhaps within that of its validator.
    location = [part for part in location if "ModelConfig" not in str(part)]
    if location and (str(location[-1]).startswith("constrained-") or "[" in str(location[-1])):
        del location[-1]  # the name of one type of a union is not a key either
    if first["type"] == "union_tag_invalid":
        location.append("kind")
    where = ".".join(filter(None, [within, _key(location, content)]))
    message = _plainly(first, extra).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _key(location: list[Any], content: Any) -> str:
    """The key as a user writes it, with dots: an item of a list by its name, else by its number from 1 on."""
    parts: list[str] = []
    for place, part in enumerate(location):
        if isinstance(part, int) and parts:
            item = content[part] if isinstance(content, list) and part < len(content) else None
            name = item.get("name") if isinstance(item, dict) else None
            if isinstance(name, str) and location[place + 1 :] != ["name"]:
                parts.append(name)
            else:
                parts[-1] += f" (number {part + 1})"
            content = item
        else:
            parts.append(str(part))
            content = content.get(part) if isinstance(content, dict) else None
    return ".".join(parts)


_NUMBERS = {"int_parsing": "whole number", "int_from_float": "whole number", "float_parsing": "number"}


def _plainly(error: Any, extra: str) -> str:
    """A pydantic error's message; that of a word which is none of those allowed (and of `extra`), or no number, in
    words of its own."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    allowed = context.get("expected_tags") if kind == "union_tag_invalid" else context.get("expected", "")
    if kind in ("union_tag_invalid", "literal_error"):
        word = str(context.get("tag", given))
        known = [one.strip("'") for one in re.findall(r"'[^']*'|\w+", allowed.replace(" or ", ", "))]
        return f"`{word}` is none of {extra}{', '.join(known)}: {did_you_mean(word, known, 'choose one')}"
    if kind == "union_tag_not_found":
        return "no `kind` is given, such as `sft` or `distill`"
    if kind == "string_type" and isinstance(given, dict):  # {column} is a mapping in YAML
        return "a text that begins with a brace needs double quotes around it, which a shell must leave: '\"{column}\"'"
    return f"`{given}` is no {_NUMBERS[kind]}" if kind in _NUMBERS else error["msg"]
