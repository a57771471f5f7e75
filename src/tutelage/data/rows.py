"""One row of data, in any accepted form, to a checked conversation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

from tutelage.common.errors import did_you_mean
from tutelage.common.types import Conversation, Message, Role
from tutelage.recipe.sections import DataConfig

ROLES = ("system", "user", "assistant")
ID_COLUMNS = ("id", "fname", "key")  # tried in this order where the config names no column
_FIELD = re.compile(r"\{\{(\w[^{}\n]*)\}\}|\{(\w[^{}\n]*)\}")


class BadRowError(ValueError):
    """A row that cannot be used; the message is the reason."""


def convert(row: Any, source: str, config: DataConfig, require_response: bool) -> tuple[Conversation, dict[str, str]]:
    """The conversation of one row, without its id yet, and the row's candidate ids (column → value).

    `source` is the row's "file:line". Raises BadRowError with the reason if the row cannot be used.
    """
    if not isinstance(row, dict):
        raise BadRowError(f"not an object but {_json_type(row)}")
    if config.text is not None:
        return _conversation(_plain_text(fill_template(config.text, row), require_response), (), row, source, config)
    messages = _checked_messages(_turns_of_row(row, config), require_response)
    if config.system is not None and messages[0].role != "system":
        messages.insert(0, Message("system", fill_template(config.system, row)))
    references = tuple(fill_template(template, row) for template in config.references) or _own_references(row)
    for number, reference in enumerate(references, start=1):
        if not reference.strip():
            raise BadRowError(f"reference {number} is empty")
    return _conversation(messages, references, row, source, config)


def _conversation(
    messages: list[Message], references: tuple[str, ...], row: dict[str, Any], source: str, config: DataConfig
) -> tuple[Conversation, dict[str, str]]:
    """The conversation, and the values of the columns that can be its id."""
    columns = ID_COLUMNS if config.id is None else (config.id,)
    names = {c: str(row[c]) for c in columns if isinstance(row.get(c), str | int) and str(row[c]).strip()}
    if config.id is not None and not names:
        raise BadRowError(_missing(config.id, row) if config.id not in row else f"column `{config.id}` is empty")
    return Conversation("", tuple(messages), references, source), names


def _turns_of_row(row: dict[str, Any], config: DataConfig) -> list[Any]:
    """The row's turns, unchecked: from the config's templates if it has any, else from the row's own columns."""
    if config.prompt is None:
        return _own_turns(row)
    turns = [{"role": "user", "content": fill_template(config.prompt, row)}]
    if config.completion is not None:
        turns.append({"role": "assistant", "content": fill_template(config.completion, row)})
    return turns


def _plain_text(text: str, require_response: bool) -> list[Message]:
    """Plain text as one assistant turn."""
    if not require_response:
        raise BadRowError("plain text (`text`) has no prompt to answer; give templates with the key `prompt`")
    if not text.strip():
        raise BadRowError("the text is empty")
    if not _has_no_lone_surrogate(text):
        raise BadRowError("the text has half a character (a lone surrogate)")
    return [Message("assistant", text)]


def _own_references(row: dict[str, Any]) -> tuple[str, ...]:
    """The row's own `references`, a list of texts, used without templates for them."""
    own = row.get("references")
    if own is None:
        return ()
    if not isinstance(own, list) or not all(isinstance(text, str) for text in own):
        raise BadRowError("`references` is not a list of texts")
    return tuple(own)


def _own_turns(row: dict[str, Any]) -> list[Any]:
    """The turns of the columns `messages`, or `prompt` and `completion`."""
    if row.get("messages") is not None:
        if not isinstance(row["messages"], list):
            raise BadRowError(f"`messages` is not a list but {_json_type(row['messages'])}")
        return row["messages"]
    prompt, completion = row.get("prompt"), row.get("completion")
    if prompt is None:
        raise BadRowError(
            f"neither `messages` nor `prompt` and `completion` (columns: {', '.join(map(str, row))}); "
            "give templates with the keys `prompt` and `completion`"
        )
    if isinstance(prompt, list) and isinstance(completion, list | None):
        return [*prompt, *(completion or [])]
    if isinstance(prompt, str) and isinstance(completion, str | None):
        reply = [] if completion is None else [{"role": "assistant", "content": completion}]
        return [{"role": "user", "content": prompt}, *reply]
    raise BadRowError(
        f"`prompt` ({_json_type(prompt)}) and `completion` ({_json_type(completion)}) must be two texts or two lists"
    )


def _checked_messages(turns: list[Any], require_response: bool) -> list[Message]:
    """Turns as messages: an optional system turn, then user and assistant alternating. Otherwise BadRowError."""
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            raise BadRowError(f"turn {number} is not an object with `role` and `content`")
        role, content = turn["role"], turn["content"]
        if role in ("tool", "developer"):
            raise BadRowError(f"turn {number} has the role `{role}`, which is not supported; rewrite or leave it out")
        if role not in ROLES:
            raise BadRowError(f"turn {number} has the unknown role `{role}`; the roles are {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise BadRowError(f"the content of turn {number} ({role}) is not a text but {_json_type(content)}")
        if not _has_no_lone_surrogate(content):
            raise BadRowError(f"turn {number} ({role}) has half a character (a lone surrogate)")
        before = messages[-1].role if messages else "start"
        if role == "system" and messages:
            raise BadRowError(f"turn {number} is a system turn, which may only come first")
        if (role == "assistant" and before != "user") or (role == "user" and before == "user"):
            raise BadRowError(f"turn {number} ({role}) follows {before}; user and assistant must alternate, user first")
        if role == "assistant" and not content.strip():
            raise BadRowError(f"turn {number} is an empty assistant turn")
        messages.append(Message(cast(Role, role), content))
    if not messages:
        raise BadRowError("empty conversation")
    if messages[-1].role == "system":
        raise BadRowError("no user turn")
    if require_response and messages[-1].role != "assistant":
        raise BadRowError("no reply: the last turn is the user's")
    return messages


def _has_no_lone_surrogate(text: str) -> bool:
    """Whether the text has no lone surrogate (half of a pair), which no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def fill_template(template: str, row: dict[str, Any]) -> str:
    """Replace `{column}` by the row's value; `{{column}}` becomes a literal `{column}`, other braces are unchanged."""

    def value_of(match: re.Match[str]) -> str:
        if match[1] is not None:
            return f"{{{match[1]}}}"
        column = match[2]
        value = _value(column, row)
        if isinstance(value, dict) and set(value) == {"label", "text"}:  # choices in the form of ARC
            labels, texts = value["label"], value["text"]
            if len(labels) != len(texts):
                raise BadRowError(f"column `{column}` has {len(texts)} texts and {len(labels)} labels")
            return "\n".join(f"{a}. {b}" for a, b in zip(labels, texts, strict=True))
        if not isinstance(value, str | int | float):
            raise BadRowError(f"column `{column}` is {_json_type(value)}, not a text or a number")
        return str(value)

    return _FIELD.sub(value_of, template)


def _value(column: str, row: dict[str, Any]) -> Any:
    """The value of a column; `messages.0.content` is the content of the first message."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        elif value is row:
            raise BadRowError(_missing(column, row))
        else:
            raise BadRowError(f"column `{column}`: {_json_type(value)} there has no `{key}`")
    return value


def _missing(column: str, row: dict[str, Any]) -> str:
    columns = [str(name) for name in row]
    guess = did_you_mean(column, columns)
    guess = f", {guess}" if guess else ""
    return f"no column `{column}`{guess} (columns: {', '.join(columns)})"


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "a number")


@dataclass(frozen=True)
class BadRow:
    """A row that was left out, and why."""

    source: str  # "file.jsonl:17" or "hub-name:16"
    reason: str
