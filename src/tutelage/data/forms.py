"""The forms in which people keep conversations, as turns with `role` and `content` and as one list of tools.

Read are `messages` (also as JSON text), ShareGPT's `conversations` with `from` and `value`, `prompt` and `completion`,
and calls of tools in the old form (`functions`, `function_call`, the role `function`).
"""

from __future__ import annotations

import json
from typing import Any

from tutelage.data.columns import BadRowError, find_value, is_missing, json_type

_TURNS = ("conversations", "conversation")  # other columns of turns than `messages`
_SHAREGPT = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
_ROLES = _SHAREGPT | {"model": "assistant", "observation": "tool", "function_response": "tool", "function": "tool"}
_REPLIES = ("chosen", "completion", "response", "answer", "output")  # columns in which people keep the reply
_INSTRUCTION = {"instruction", "output"}  # Alpaca's columns


def own_turns(row: dict[str, Any], column: str | None) -> list[Any]:
    """The turns in the row's own columns, or in the one that the recipe's key `messages` names.

    Raises BadRowError that says what to write in the recipe.
    """
    if column is not None:
        value, problem = find_value(column, row)
        if problem is not None:
            raise BadRowError(problem)
        return _as_list(value, column)
    if not is_missing(row.get("messages")):
        return _as_list(row["messages"], "messages")
    prompt, completion = (None if is_missing(row.get(name)) else row[name] for name in ("prompt", "completion"))
    if prompt is None:
        for name in _TURNS:
            if not is_missing(row.get(name)):
                return _as_list(row[name], name)
        raise BadRowError(_what_to_write(row))
    if isinstance(prompt, list) and isinstance(completion, list | None):
        return [*prompt, *(completion or [])]
    if isinstance(prompt, str) and isinstance(completion, str | None):
        for what, name, text in (("question", "prompt", prompt), ("answer", "completion", completion)):
            if text is not None and not text.strip():
                raise BadRowError(f"the {what} is empty (column `{name}`)")
        reply = [] if completion is None else [{"role": "assistant", "content": completion}]
        return [{"role": "user", "content": prompt}, *reply]
    raise BadRowError(
        f"`prompt` ({json_type(prompt)}) and `completion` ({json_type(completion)}) must be two texts or two lists"
    )


def turn_columns(column: str | None) -> tuple[str, ...]:
    """The columns that `own_turns` reads."""
    return ("messages", *_TURNS, "prompt", "completion") if column is None else (column.partition(".")[0],)


def own_tools(row: dict[str, Any]) -> tuple[tuple[Any, ...], str | None]:
    """The JSON schemas of the tools on offer and their column, `tools` or `functions`: a list, or JSON text of one."""
    for name in ("tools", "functions"):
        tools = _parsed(row.get(name))
        if isinstance(tools, list) and tools and all(isinstance(tool, dict) for tool in tools):
            wrapped = (tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)
            return tuple(wrapped), name
    return (), None


def usual_form(turn: dict[str, Any], number: int) -> dict[str, Any]:
    """A turn with `role` and `content`, calls as `tool_calls` with parsed arguments, and without null keys."""
    turn = {key: value for key, value in turn.items() if key == "content" or not is_missing(value)}
    if "role" not in turn and "from" in turn and "value" in turn:
        turn = {"role": turn.pop("from"), "content": turn.pop("value"), **turn}
    role = turn.get("role")
    if role == "function_call":
        call = _parsed(turn["content"])
        if not isinstance(call, dict | list):
            raise BadRowError(f"turn {number} (function_call) is not the JSON of a call")
        calls = call if isinstance(call, list) else [call]
        turn |= {"role": "assistant", "content": "", "tool_calls": calls}
    elif isinstance(role, str):
        turn["role"] = _ROLES.get(role, role)
    if "function_call" in turn:
        turn["tool_calls"] = [turn.pop("function_call")]
    if "tool_calls" in turn:
        calls = _parsed(turn.pop("tool_calls"))
        if not isinstance(calls, list):
            raise BadRowError(f"turn {number}: `tool_calls` is not a list but {json_type(calls)}")
        if calls:
            turn["tool_calls"] = [_usual_call(call, number) for call in calls]
            if is_missing(turn.get("content")):
                turn["content"] = ""
    if isinstance(parts := turn.get("content"), list):
        turn["content"] = _text_of_parts(parts, f"turn {number} ({turn.get('role')})")
    return turn


def _text_of_parts(parts: list[Any], turn: str) -> str:
    """The text of a content in parts, one after the other with nothing between, as chat templates render such parts."""
    texts = []
    for number, part in enumerate(parts, start=1):
        where, advice = f"{turn}: part {number} of its content", "only text is read: leave out the row or the part"
        if not isinstance(part, dict):
            raise BadRowError(f'{where} is {json_type(part)}; write {{"type": "text", "text": …}}')
        kind = part.get("type", "text")
        others = [key for key, value in part.items() if key not in ("type", "text") and not _is_empty(value)]
        if kind != "text" or not isinstance(part.get("text"), str):
            named = kind if kind != "text" else ", ".join(others) or "text without a text"
            raise BadRowError(f"{where} is `{named}`, and {advice}")
        if others:
            raise BadRowError(f"{where} has `{others[0]}` beside its text, and {advice}")
        texts.append(part["text"])
    return "".join(texts)


def _is_empty(value: Any) -> bool:
    return is_missing(value) or value in ("", [], {})


def _usual_call(call: Any, number: int) -> dict[str, Any]:
    """A call in the form that chat templates read: under `function`, its arguments an object."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRowError(f"turn {number}: a tool call is not an object with a `name`")
    arguments = _parsed(function.get("arguments", function.get("parameters")))
    arguments = {} if is_missing(arguments) or arguments == "" else arguments
    if not isinstance(arguments, dict):
        raise BadRowError(
            f"turn {number}: the arguments of `{function['name']}` are {json_type(arguments)}, not an object"
        )
    inner = {"name": function["name"], "arguments": arguments}
    outer = {key: value for key, value in call.items() if key in ("id", "index")} if function is not call else {}
    return {**outer, "type": "function", "function": inner}


def _as_list(value: Any, column: str) -> list[Any]:
    parsed = _parsed(value)
    if not isinstance(parsed, list):
        raise BadRowError(f"`{column}` is not a list but {json_type(value)}")
    return parsed


def _parsed(value: Any) -> Any:
    """The value of JSON text, any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _what_to_write(row: dict[str, Any]) -> str:
    """The reason why a row without known columns is bad, with the keys to write for it."""
    columns = ", ".join(map(str, row))
    if row.keys() >= _INSTRUCTION:
        optional = r"{?\n\n{input}?}" if "input" in row else ""
        return (
            f"neither `messages` nor `prompt` and `completion` (columns: {columns}); write in the data section "
            f'`prompt: "{{instruction}}{optional}"` and `completion: "{{output}}"`'
        )
    inside = turns_inside(row)
    if inside is not None:
        return f"`{inside}` is a list of turns; write in the data section `messages: {inside}`"
    return (
        f"neither `messages` nor `prompt` and `completion` (columns: {columns}); "
        "give templates with the keys `prompt` and `completion`"
    )


def turns_inside(row: dict[str, Any]) -> str | None:
    """The column that holds a list of turns, such as `chosen` or `data.turns`, as the key `messages` names it."""
    return next((path for path in _paths(row) if _are_turns(find_value(path, row)[0])), None)


def where_the_reply_is(row: dict[str, Any]) -> str:
    """What to write in the recipe for a row whose reply is in a column that is not read, such as `chosen`."""
    for name in _REPLIES:
        value = row.get(name)
        if _are_turns(value):
            first = usual_form(_parsed(value)[0], 1)["role"]
            advice = f"write in the data section `messages: {name}`"
            return f"; {advice if first != 'assistant' else f'rename `{name}` to `completion`'}"
        if isinstance(value, str) and value.strip():
            prompt = ' and `prompt: "{prompt}"`' if isinstance(row.get("prompt"), str) else ""
            return f'; for `{name}` as the reply write in the data section `completion: "{{{name}}}"`{prompt}'
    return f" (columns: {', '.join(map(str, row))})"


def _paths(row: dict[str, Any]) -> list[str]:
    nested = [f"{name}.{key}" for name, value in row.items() if isinstance(value, dict) for key in value]
    return [*map(str, row), *nested]


def _are_turns(value: Any) -> bool:
    turns = _parsed(value)
    keys = [turn.keys() for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    return bool(keys) and all({"role", "content"} <= names or {"from", "value"} <= names for names in keys)
