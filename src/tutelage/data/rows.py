"""One row of data, in any accepted form, to a checked conversation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, cast

from tutelage.common.types import Conversation, Message, Role
from tutelage.data.columns import (
    BadRowError,
    columns_of,
    empty_columns,
    fill_template,
    has_text,
    is_missing,
    is_optional,
    json_type,
    missing_column,
)
from tutelage.data.forms import own_tools, own_turns, turn_columns, usual_form, where_the_reply_is
from tutelage.data.thoughts import THOUGHTS
from tutelage.recipe.sections import DataConfig

ROLES = ("system", "user", "assistant", "tool")
ID_COLUMNS = ("id", "fname", "key")  # tried in this order where the config names no column
# Columns that change what a conversation means: named if a row has them and nothing reads them.
_TELLING = (
    *("system", "system_prompt", "history", "tools", "functions", "images", "image", "videos", "audio", "documents"),
    *("reasoning", "reasoning_content", "thinking", "chat_template_kwargs", "weight", "train"),
    "label",  # whether a completion is a good one, in preference data
)
_EMPTY: tuple[Any, ...] = ("", [], {}, "[]")
_GAP = "and the template's text around it stays (write both between `{?` and `?}`)"
_FLAGS = ("train", "weight")  # of a turn: whether it carries loss


def convert(row: Any, source: str, config: DataConfig, require_response: bool) -> tuple[Conversation, dict[str, str]]:
    """The conversation of one row, without its id yet, and the row's candidate ids (column → value).

    `source` is the row's "file:line". Raises BadRowError with the reason if the row cannot be used.
    """
    if not isinstance(row, dict):
        raise BadRowError(f"not an object but {json_type(row)}")
    if config.text is not None:
        return _conversation(_plain_text(fill_template(config.text, row), require_response), (), row, source, config)
    turns, tools, read = _turns_of_row(row, config)
    messages = _checked_messages(turns, require_response, row)
    if config.system is not None and messages[0].role != "system":
        system = fill_template(config.system, row)
        if system.strip() or not is_optional(config.system):
            messages.insert(0, Message("system", system))
    messages[0] = replace(messages[0], tools=tools)
    references = _references(row, config)
    for number, reference in enumerate(references, start=1):
        if not reference.strip():
            raise BadRowError(f"reference {number} is empty")
    return _conversation(messages, references, row, source, config, read)


def _conversation(
    messages: list[Message],
    references: tuple[str, ...],
    row: dict[str, Any],
    source: str,
    config: DataConfig,
    read: Collection[str] = (),
) -> tuple[Conversation, dict[str, str]]:
    """The conversation, and the values of the columns that can be its id. `read`: the columns of its turns."""
    columns = ID_COLUMNS if config.id is None else (config.id,)
    names = {c: str(row[c]) for c in columns if isinstance(row.get(c), str | int) and str(row[c]).strip()}
    if config.id is not None and not names:
        raise BadRowError(missing_column(config.id, row) if config.id not in row else _no_id(config.id, row[config.id]))
    templates = [config.text, config.system, config.prompt, config.completion, *config.references]
    used = {*read, *(name.partition(".")[0] for text in templates if text for name in columns_of(text))}
    unread = [c for c in _TELLING if c not in used and not is_missing(row.get(c)) and row[c] not in _EMPTY]
    gaps = dict.fromkeys(column for text in templates if text for column in _gaps(text, row))
    remarks = [*(f"column `{c}` (not read)" for c in unread), *(f"column `{c}` is empty, {_GAP}" for c in gaps)]
    return Conversation("", tuple(messages), references, source, tuple(remarks)), names


def _gaps(template: str, row: dict[str, Any]) -> list[str]:
    """The columns without text around which the template has text."""
    found = empty_columns(template, row)
    return found if found and fill_template(template, row).strip() else []


def _no_id(column: str, value: Any) -> str:
    """Why the value is no id."""
    if is_missing(value) or isinstance(value, str):
        return f"column `{column}` is empty"
    return f"column `{column}` is {json_type(value)} ({str(value)[:20]}); ids are texts or whole numbers"


def _turns_of_row(row: dict[str, Any], config: DataConfig) -> tuple[list[Any], tuple[Any, ...], tuple[str, ...]]:
    """The row's turns, unchecked, the tools on offer, and the columns they are from.

    The config's templates give the turns if it has any, else the row's own columns.
    """
    if config.prompt is None:
        tools, column = own_tools(row)
        read = turn_columns(config.messages)
        return own_turns(row, config.messages), tools, (*read, column) if column else read
    turns = [{"role": "user", "content": _filled("question", config.prompt, row)}]
    if config.completion is not None:
        turns.append({"role": "assistant", "content": _filled("answer", config.completion, row)})
    return turns, (), ()


def _filled(what: str, template: str, row: dict[str, Any]) -> str:
    """The template's text for this row. Raises BadRowError where it is empty, or where none of its columns has text."""
    text, columns = fill_template(template, row), columns_of(template)
    if not text.strip() or (columns and not any(has_text(name, row) for name in columns)):
        named = ", ".join(f"`{name}`" for name in sorted(columns))
        raise BadRowError(f"the {what} is empty" + (f" (column {named})" if columns else ""))
    return text


def _references(row: dict[str, Any], config: DataConfig) -> tuple[str, ...]:
    """The references of the config's templates, else the row's own column `references`, a list of texts."""
    filled = [(template, fill_template(template, row)) for template in config.references]
    if filled:
        return tuple(text for template, text in filled if text.strip() or not is_optional(template))
    own = row.get("references")
    if is_missing(own):
        return ()
    if not isinstance(own, list) or not all(isinstance(text, str) for text in own):
        raise BadRowError("`references` is not a list of texts")
    return tuple(own)


def _plain_text(text: str, require_response: bool) -> list[Message]:
    """Plain text as one assistant turn."""
    if not require_response:
        raise BadRowError("plain text (`text`) has no prompt to answer; give templates with the key `prompt`")
    if not text.strip():
        raise BadRowError("the text is empty")
    if not _has_no_lone_surrogate(text):
        raise BadRowError("the text has half a character (a lone surrogate)")
    return [Message("assistant", text)]


def _checked_messages(turns: list[Any], require_response: bool, row: dict[str, Any]) -> list[Message]:
    """Turns as messages: an optional system turn, then user and assistant alternating, with results of tools after
    calls. Otherwise BadRowError."""
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        turn = usual_form(turn, number) if isinstance(turn, dict) else turn
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            raise BadRowError(f"turn {number} is not an object with `role` and `content`")
        message = _checked_turn(turn, number)
        _check_order(message, messages, number)
        messages.append(message)
    if not messages:
        raise BadRowError("empty conversation")
    if messages[-1].role == "system":
        raise BadRowError("no user turn")
    if require_response and messages[-1].role != "assistant":
        last = "the user's" if messages[-1].role == "user" else "a tool's"
        raise BadRowError(f"no reply: the last turn is {last}{where_the_reply_is(row)}")
    if require_response and not any(message.train for message in messages if message.role == "assistant"):
        raise BadRowError("no assistant turn is trained: all have `weight: 0` or `train: false`")
    return messages


def _checked_turn(turn: dict[str, Any], number: int) -> Message:
    """One turn as a message; its place among the others is not checked."""
    role, content = turn["role"], turn["content"]
    if role == "developer":
        raise BadRowError(f"turn {number} has the role `{role}`, which is not supported; rewrite or leave it out")
    if role not in ROLES:
        raise BadRowError(f"turn {number} has the unknown role `{role}`; the roles are {', '.join(ROLES)}")
    if not isinstance(content, str):
        advice = "; write its JSON as a text" if isinstance(content, dict) else ""
        raise BadRowError(f"the content of turn {number} ({role}) is not a text but {json_type(content)}{advice}")
    extra = {
        key: value for key, value in turn.items() if key not in ("role", "content", *_FLAGS) and value not in _EMPTY
    }
    thoughts = [str(extra[key]) for key in THOUGHTS if key in extra]
    if not all(_has_no_lone_surrogate(text) for text in (content, *thoughts)):
        raise BadRowError(f"turn {number} ({role}) has half a character (a lone surrogate)")
    if role in ("user", "assistant") and not content.strip() and "tool_calls" not in extra:
        raise BadRowError(f"turn {number} is an empty {role} turn")
    return Message(cast(Role, role), content, extra, train=all(_flag(turn, key, number) for key in _FLAGS))


def _flag(turn: dict[str, Any], key: str, number: int) -> bool:
    """Whether a turn's `train` or `weight` lets it carry loss."""
    value = turn.get(key, 1)
    if value not in (0, 1):  # True and False are these
        raise BadRowError(f"turn {number}: `{key}` is {value!r}; only 0 and 1 (false and true) are supported")
    return bool(value)


def _check_order(message: Message, messages: list[Message], number: int) -> None:
    """Raise BadRowError if this message may not follow the earlier ones."""
    role, before = message.role, messages[-1].role if messages else "start"
    if role == "system" and messages:
        raise BadRowError(f"turn {number} is a system turn, which may only come first")
    if (role == "assistant" and before not in ("user", "tool")) or (role == "user" and before == "user"):
        raise BadRowError(f"turn {number} ({role}) follows {before}; user and assistant must alternate, user first")
    called = before == "tool" or (before == "assistant" and "tool_calls" in messages[-1].extra)
    if role == "tool" and not called:
        raise BadRowError(f"turn {number} has the role `tool`, and no call (`tool_calls`) comes before it")


def _has_no_lone_surrogate(text: str) -> bool:
    """Whether the text has no lone surrogate (half of a pair), which no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
