"""Templates of columns, such as `Summarize.\\n\\n{dialogue}`, and the reason why a row is bad."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from tutelage.common.errors import did_you_mean, first_of, listed

_LONGEST_NAME = 60  # of a column
_FIELD = re.compile(r"\{\{(\w[^{}\n]*)\}\}|\{(\w[^{}\n]*)\}")
_SPACED = re.compile(r"\{\s+(\w[^{}\n]*?)\s*\}|\{(\w[^{}\n]*?)\s+\}")
_OPTIONAL = re.compile(r"\{\?(.*?)\?\}", re.DOTALL)


class BadRowError(ValueError):
    """A row that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class BadRow:
    """A row that was left out, and why."""

    source: str  # "file.jsonl:17" or "hub-name:16"
    reason: str


def by_reason(bad: Sequence[BadRow]) -> tuple[list[tuple[str, int]], int]:
    """The first reasons why rows are bad, each with its first rows and their number, and how many rows have others."""
    of: dict[str, list[str]] = {}
    for row in bad:
        of.setdefault(row.reason, []).append(row.source)
    first, _ = first_of([*of.items()])
    found = [(f"{listed(sources)}: {reason}", len(sources)) for reason, sources in first]
    return found, len(bad) - sum(count for _, count in found)


def reasons(bad: Sequence[BadRow]) -> str:
    """What `by_reason` finds in one line."""
    found, left = by_reason(bad)
    return "; ".join(text for text, _ in found) + (f"; {left:,} more" if left else "")


def bad_lines(bad: Sequence[BadRow]) -> list[str]:
    """What `by_reason` finds in a line per reason."""
    found, left = by_reason(bad)
    lines = [f"bad row{'s' * (count > 1)}: {text}" for text, count in found]
    return lines + [f"bad rows: {left:,} more"] * (left > 0)


def lack_answers(bad: Sequence[BadRow]) -> bool:
    """Whether most of the bad rows are bad because their answer is empty or not there."""
    return 2 * sum(row.reason.startswith(("the answer is empty", "no reply")) for row in bad) > len(bad)


def first_twice(names: Sequence[str]) -> str | None:
    """The first name that is there twice."""
    return next((name for place, name in enumerate(names) if name in names[:place]), None)


def fill_template(template: str, row: dict[str, Any]) -> str:
    """Replace `{column}` by the row's value; `{{column}}` becomes a literal `{column}`, other braces are unchanged.

    `{?…?}` is left out if a column in it is absent, null, NaN or blank. Values are written as JSON writes them (`true`,
    `3`). Raises BadRowError for a column that is missing or has no text, and for one that is named without its braces
    or with spaces in them, since all rows would then be the same.
    """
    name = template.strip()
    if name in row:
        raise BadRowError(f"the template `{name}` is the name of a column: write `{{{name}}}` for its value")
    for spaced in _SPACED.finditer(template):
        if (name := spaced[1] or spaced[2]) in row:
            raise BadRowError(f"the template has `{spaced[0]}`: write `{{{name}}}` for the value of this column")

    def piece(match: re.Match[str]) -> str:
        columns = [name[2] for name in _FIELD.finditer(match[1]) if name[2] is not None]
        if not columns:
            raise BadRowError(f"the piece `{match[0]}` names no column: write one in it, such as `{{?Note: {{a}}?}}`")
        return match[1] if all(has_text(column, row) for column in columns) else ""

    def value_of(match: re.Match[str]) -> str:
        return f"{{{match[1]}}}" if match[1] is not None else _text(match[2], _value(match[2], row))

    return _FIELD.sub(value_of, _OPTIONAL.sub(piece, template))


def columns_of(template: str, optional: bool = False) -> set[str]:
    """The columns that a template names; with `optional` only those inside of `{?…?}`."""
    texts = [match[1] for match in _OPTIONAL.finditer(template)] if optional else [template]
    return {match[2] for text in texts for match in _FIELD.finditer(text) if match[2] is not None}


def empty_columns(template: str, row: dict[str, Any]) -> list[str]:
    """The columns without text in this row that the template names outside of `{?…?}`: the text around them stays."""
    named = dict.fromkeys(match[2] for match in _FIELD.finditer(_OPTIONAL.sub("", template)) if match[2] is not None)
    return [column for column in named if not has_text(column, row)]


def is_optional(template: str) -> bool:
    """Whether the template is one optional piece, so that nothing of it may be left."""
    return _OPTIONAL.fullmatch(template.strip()) is not None


def is_missing(value: Any) -> bool:
    """Whether a value is null, or NaN, which tables write for null."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def missing_column(column: str, row: dict[str, Any]) -> str:
    """The reason why a row without this column is bad."""
    columns = [str(name) for name in row]
    guess = did_you_mean(column, columns)
    guess = f", {guess}" if guess else ""
    row_first = (
        "; the first line looks like a row: put the columns' names above it" if any(map(is_text, columns)) else ""
    )
    return f"no column `{column}`{guess} (columns: {', '.join(columns)}){row_first}"


def is_text(name: str) -> bool:
    """Whether what should be a column's name is rather a value: long, or a sentence."""
    return len(name) > _LONGEST_NAME or (" " in name.strip() and name.rstrip().endswith((".", "?", "!")))


def json_type(value: Any) -> str:
    """What a value is, in JSON's words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true/false", type(None): "null"}
    known = {**names, int: "a number", float: "a number", bytes: "bytes"}
    return known.get(type(value), type(value).__name__)


def find_value(column: str, row: dict[str, Any]) -> tuple[Any, str | None]:
    """The value of a column, and None; else (null, why there is none). `messages.0.content`: of the first message."""
    if column in row:
        return row[column], None
    value: Any = row
    for key in column.split("."):
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        elif value is row:
            return None, missing_column(column, row)
        else:
            return None, f"column `{column}`: {json_type(value)} there has no `{key}`"
    return value, None


def _value(column: str, row: dict[str, Any]) -> Any:
    value, problem = find_value(column, row)
    if problem is not None:
        misspelt = get_close_matches(column, map(str, row), n=1, cutoff=0.8)  # then no row has it, and more says less
        raise BadRowError(problem if misspelt else f"{problem}{_if_missing(column)}")
    choices = row.get("choices")
    if column == "answerKey" and isinstance(choices, dict) and isinstance(choices.get("label"), list):
        labels = choices["label"]  # ARC's own form: the key of choices that are shown with letters
        return dict(zip(map(str, labels), _as_letters(labels), strict=True)).get(str(value), value)
    return value


def _as_letters(labels: list[Any]) -> list[str]:
    """The labels 1, 2, 3 …, which a few of ARC's rows have, as A, B, C …, as its benchmark asks; others unchanged."""
    names = [str(label) for label in labels]
    digits = [str(number) for number in range(1, len(names) + 1)]
    return [chr(ord("A") + place) for place in range(len(names))] if names == digits else names


def _if_missing(column: str) -> str:
    return (
        f"; if rows may lack it, write `{{?{{{column}}}?}}` in the template, or with a text that belongs to it "
        f"`{{?Note: {{{column}}}?}}`: what is between `{{?` and `?}}` is left out where the column is empty"
    )


def has_text(column: str, row: dict[str, Any]) -> bool:
    """Whether the row has this column with something in it."""
    value, problem = find_value(column, row)
    return problem is None and not is_missing(value) and value != [] and bool(str(value).strip())


def _text(column: str, value: Any) -> str:
    """The value of a column as text."""
    if isinstance(value, dict) and set(value) == {"label", "text"}:  # choices in the form of ARC
        labels, texts = value["label"], value["text"]
        if len(labels) != len(texts):
            raise BadRowError(f"column `{column}` has {len(texts)} texts and {len(labels)} labels")
        return "\n".join(f"{a}. {b}" for a, b in zip(_as_letters(labels), texts, strict=True))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        what = "NaN, a missing value" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
        hint = _if_missing(column) if math.isnan(value) else ""
        raise BadRowError(f"column `{column}` is {what}, not a text or a number{hint}")
    if isinstance(value, str | int | float):
        return str(value)
    inside = next(iter(value), "") if isinstance(value, dict) else "0" if isinstance(value, list) else ""
    hint = f"; `{{{column}.{inside}}}` names a part of it" if inside else ""
    hint = _if_missing(column) if value is None else hint
    raise BadRowError(f"column `{column}` is {json_type(value)}, not a text or a number{hint}")
