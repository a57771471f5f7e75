"""Which of the named files is for what, and how their rows become conversations."""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError, instead_of, listed
from tutelage.data.columns import BadRowError, columns_of, find_value, is_missing, is_text, missing_column
from tutelage.data.forms import turn_columns, turns_inside
from tutelage.data.rows import ID_COLUMNS, convert
from tutelage.data.sources import SUFFIXES
from tutelage.recipe.sections import DataConfig

ROLES = ("train", "dev", "test")
_WORDS = {"test": "test", **dict.fromkeys(("dev", "val", "valid", "validation", "eval"), "dev")}
# Usual names of columns, likeliest first.
_CLEAR = ("prompt", "question", "instruction", "query", "input", "problem")  # a question whatever they hold
_PROMPTS = (
    *(*_CLEAR, "user", "human", "request", "message"),
    *("dialogue", "article", "document", "passage", "source", "text", "sentence", "review", "email", "note", "title"),
)
_COMPLETIONS = (
    *("completion", "answer", "response", "output", "reply", "assistant", "solution", "summary", "highlights"),
    *("target", "translation", "label", "category", "class", "sentiment", "minutes"),
)
_BESIDE = {"question": ("context", "passage", "document"), "query": ("context", "document")}  # read with the question
# What a column holds that is no question and no answer, unless someone says so; told from _FEWEST values on.
RUNNING, IDS, ADDRESSES, DATES = "running numbers", "ids", "addresses", "dates"
ONE_VALUE, EMPTY = "the same in every row", "empty"
_NEVER = (RUNNING, IDS, ADDRESSES, EMPTY)  # whatever the column is called
_FEWEST, _RISING = 3, 10  # values; so many that only rise are counted, too
_SHORT = 3  # words, at most, of a category
_ID_NAME = re.compile(r"(^|[_. -])(id|uuid|guid|nr|no|hash)$", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
_ADDRESS = re.compile(r"(https?|ftp)://\S+|www\.\S+|[\w.+-]+@[\w-]+(\.[\w-]+)+")
_TIME = r"([T ,]+\d{1,2}:\d\d(:\d\d(\.\d+)?)?( ?[AaPp][Mm])?( ?Z|[+-]\d\d:?\d\d)?)?"
_DATE = re.compile(rf"(\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}[-/.]\d{{1,2}}[-/.](\d{{4}}|\d\d)){_TIME}")


@dataclass(frozen=True)
class Form:
    """How rows become conversations."""

    keys: dict[str, str]  # of the data section; empty: the rows' own columns are read
    said: str  # in words
    sure: bool = True  # False: guessed from the order of the columns


def sort_files(named: Sequence[str], alone: bool = True) -> dict[str, list[str]]:
    """The files, folders and hub sets `named` by what they are for, told by their names; all else is for `train`.

    A folder of one split stays a folder. `alone`: there are no other files to train on. Raises TutelageError for a name
    that is neither a file nor a hub set.
    """
    found: dict[str, list[str]] = {role: [] for role in ROLES}
    for name in named:
        path = Path(name).expanduser()
        on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name) and not name.endswith(SUFFIXES)
        if not path.exists() and not on_hub and "*" not in name and "://" not in name:
            instead = instead_of(path, SUFFIXES, "give the path of a file, a folder, or a hub set (owner/set)")
            raise TutelageError(f"no file `{name}` here: {instead}")
        inside = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES)) if path.is_dir() else []
        roles = {_role(file) for file in inside}
        for one in [str(file) for file in inside] if len(roles) > 1 else [name]:
            found[_role(Path(one))].append(one)
    if not found["train"] and alone:  # one file may be called anything
        other = next((role for role in ("test", "dev") if len(found[role]) == len(named) == 1), None)
        if other is None:
            raise TutelageError(f"no file to train on among {', '.join(named)}: name it with --train")
        found = {role: found[other] if role == "train" else [] for role in ROLES}
    return found


def _role(path: Path) -> str:
    words = re.split(r"[^a-z]+", path.name.lower())
    return next((_WORDS[word] for word in words if word in _WORDS), "train")


def find_form(rows: Sequence[dict[str, Any]], place: str, need_answers: bool = True) -> Form | None:
    """The form of the rows, told by their columns; None where only a person can tell. `place`: their file.

    `need_answers`: rows without an answer are unusable, as in training. Raises TutelageError for rows that cannot be
    conversations at all.
    """
    own = sum(_is_read(row, {}, need_answers) for row in rows)
    if 2 * own >= len(rows):
        return Form({}, _own_columns(rows[0]))
    inside = next((path for row in rows if (path := turns_inside(row)) is not None), None)
    if inside is not None:
        return Form({"messages": inside}, f"turns in column `{inside}`")
    columns = text_columns(rows)
    lower = {name.lower(): name for name in columns}
    usual = any(name in lower for name in (*_PROMPTS, *_COMPLETIONS))
    wild = None if usual else next((name for name in columns if _looks_like_data(name, rows)), None)
    if wild is not None:
        short = wild if len(wild) <= 40 else f"{wild[:39]}…"
        raise TutelageError(
            f"{place}: its first line looks like a row and not like names of columns (`{short}`): put a first line "
            "with the names above it, such as question,answer; if these are the names, give --prompt and --completion"
        )
    if len(columns) < 2:
        only = columns[0] if columns else "none"
        if ";" in only or "\t" in only:
            raise TutelageError(
                f"{place}: its first line (`{only}`) and its rows do not agree on what separates the columns: save it "
                "with commas"
            )
        raise TutelageError(f"{place}: a question and an answer are two columns, and it has one with text (`{only}`)")
    odd = without_text(rows, columns)
    prompt, completion = _usual(rows, columns, odd)
    if prompt is not None and completion is not None:
        return form_of(prompt, completion, columns)
    left = [name for name in columns if name not in odd or name in (prompt, completion)]
    if completion is not None and len(left) > 2:  # a category may be an answer, and is hardly a question
        left = [name for name in left if name == completion or not _is_category(values_of(name, rows))]
    if len(left) == 2:
        # Of a text and a number or category, the text is asked.
        left.sort(key=lambda name: _are_numbers(values_of(name, rows)) or _is_category(values_of(name, rows)))
        other = prompt or next(name for name in left if name != completion)
        answer = completion or next(name for name in left if name != other)
        form = form_of(other, answer, columns)
        return Form(form.keys, form.said, sure=False)
    return None


def likely_pair(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> tuple[str, str]:
    """The question and the answer to propose among several columns: those of usual names, else the two with the longest
    texts, in the file's order; categories, numbers and the like where nothing else is left, and last as answers."""
    odd = without_text(rows, columns)
    prompt, completion = _usual(rows, columns, odd)
    values = {name: values_of(name, rows) for name in columns if name not in (prompt, completion)}
    plain = {name for name, own in values.items() if name not in odd and not _is_category(own)}
    left = sorted(values, key=lambda name: (name not in plain, -sum(map(len, values[name]))))
    if prompt is None and completion is None and plain.issuperset(left[:2]):
        left[:2] = sorted(left[:2], key=columns.index)
    return prompt or left.pop(0), completion or left.pop(0)


def _usual(
    rows: Sequence[dict[str, Any]], columns: Sequence[str], odd: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """The columns with usual names of a question and of an answer."""
    lower = {name.lower(): name for name in columns}
    named = [lower[name] for name in _COMPLETIONS if name in lower and odd.get(lower[name]) not in _NEVER]
    completion = next(iter(named), None)
    named = [lower[name] for name in _PROMPTS if name in lower and lower[name] != completion]
    named = [name for name in named if odd.get(name) not in _NEVER]
    asked = (name for name in named if name.lower() in _CLEAR or not _is_category(values_of(name, rows)))
    return next(asked, None), completion


def form_of(prompt: str, completion: str, columns: Sequence[str]) -> Form:
    """The form with these columns, or templates, as question and answer; what usually goes with them is added.

    Raises TutelageError for a column that is not there, and for one that is both.
    """
    check_columns(prompt, columns)
    check_columns(completion, columns)
    if prompt == completion:
        raise TutelageError(f"`{prompt}` cannot be the question and the answer: they are two columns")
    keys = {"prompt": prompt, "completion": completion if "{" in completion else f"{{{completion}}}"}
    lower = {name.lower(): name for name in columns}
    if "{" not in prompt:
        before = next((lower[name] for name in _BESIDE.get(prompt.lower(), ()) if name in lower), None)
        keys["prompt"] = f"{{{prompt}}}"
        if before is not None and before != completion:
            keys["prompt"] = f"{{?{{{before}}}\n\n?}}{{{prompt}}}"
        if prompt.lower() == "instruction" and lower.get("input", completion) != completion:
            keys["prompt"] = f"{{{prompt}}}{{?\n\n{{{lower['input']}}}?}}"
        if "system" in lower and lower["system"] not in (prompt, completion):
            keys["system"] = f"{{?{{{lower['system']}}}?}}"
    return Form(keys, f"question {keys['prompt']!r}, answer {keys['completion']!r}")


def check_columns(text: str, columns: Sequence[str]) -> None:
    """Raise TutelageError where a column that `text` is, or names as a template, is not there."""
    for name in columns_of(text) if "{" in text else {text}:
        if name.partition(".")[0] not in {column.partition(".")[0] for column in columns}:
            raise TutelageError(missing_column(name, dict.fromkeys(columns)))


def said_unused(form: Form, rows: Sequence[dict[str, Any]]) -> str:
    """Which columns nothing reads, and how to use the first that has text; "" without any. Ids name the rows."""
    used = {name.partition(".")[0] for text in form.keys.values() for name in columns_of(text)}
    if "prompt" not in form.keys:
        used |= {*turn_columns(form.keys.get("messages")), "references", "tools", "functions"}
    names = dict.fromkeys(str(n) for row in rows for n, value in row.items() if not is_missing(value) and value != "")
    left = [name for name in names if name not in used and name not in ID_COLUMNS]
    if not left:
        return ""
    odd, texts = without_text(rows, left), text_columns(rows)
    said = f"not used: {listed([f'`{name}`' + (f' ({odd[name]})' if name in odd else '') for name in left])}"
    name = next((name for name in left if name in texts and name not in odd), None)
    if name is None:
        return said
    it = "it" if len(left) == 1 else f"`{name}`"
    always = len(values_of(name, rows)) == len(rows)
    before = f"{{{name}}}: " if always else f"{{?{{{name}}}: ?}}"
    prompt = form.keys.get("prompt", "{prompt}" if "prompt" in texts else None)
    if prompt is None:
        return f'{said}; to use {it}, write `system: "{{{name}}}"` in the recipe\'s data sections'
    options = " ".join(
        f"--{key} {shlex.quote(' '.join(text.split()))}"
        for key, text in (("prompt", before + prompt), ("completion", form.keys.get("completion", "{completion}")))
    )
    return f"{said}; to use {it}: {options}"


def text_columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The columns that have a text or a number in some row, in order."""
    found = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, str | int | float))
    return [str(name) for name in found if any(not is_missing(find_value(str(name), row)[0]) for row in rows)]


def without_text(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> dict[str, str]:
    """What those columns hold that nobody would ask or answer: running numbers, ids, dates, addresses, one value."""
    found = ((name, _odd(name, values_of(name, rows))) for name in columns)
    return {name: kind for name, kind in found if kind is not None}


def values_of(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """The column's values that are there, as text."""
    values = (find_value(name, row)[0] for row in rows)
    return [str(value).strip() for value in values if not is_missing(value) and str(value).strip()]


def _odd(name: str, values: Sequence[str]) -> str | None:
    if len(values) < _FEWEST:
        return None if values else EMPTY
    if len({*values}) == 1:
        return ONE_VALUE
    kinds = {ADDRESSES: _ADDRESS, DATES: _DATE}
    found = next((kind for kind, form in kinds.items() if all(form.fullmatch(value) for value in values)), None)
    if found is not None or len({*values}) < len(values):
        return found
    ends = [re.fullmatch(r"(.*?)(\d{1,18})", value) for value in values]
    if all(end is not None for end in ends) and len({end[1] for end in ends if end}) == 1:
        numbers = [int(end[2]) for end in ends if end]
        rising = all(a < b for a, b in pairwise(numbers))
        if max(numbers) - min(numbers) == len(numbers) - 1 or (rising and len(numbers) >= _RISING):
            return RUNNING
    code = all(re.fullmatch(r"\S+", value) for value in values) and any(re.search(r"\d", value) for value in values)
    return IDS if code and (_ID_NAME.search(name) or all(map(_UUID.fullmatch, values))) else None


def _are_numbers(values: Sequence[str]) -> bool:
    return bool(values) and all(re.fullmatch(r"[-+]?\d+([.,]\d+)?", value) for value in values)


def _is_category(values: Sequence[str]) -> bool:
    """Whether few short values come again and again, as of a channel or a product."""
    return 2 * len({*values}) <= len(values) >= _FEWEST and statistics.median(len(v.split()) for v in values) <= _SHORT


def _looks_like_data(name: str, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a column's name is rather a value: long, a sentence, as long as the column's values, or one of them."""
    values = [str(row[name]) for row in rows if row.get(name) is not None]
    words, usual = len(name.split()), statistics.median([len(value.split()) for value in values] or [0])
    return is_text(name) or not words or (words > 3 and 2 * words >= usual) or name in values


def _is_read(row: dict[str, Any], keys: dict[str, Any], need_answers: bool) -> bool:
    try:
        convert(row, "row", DataConfig(path="", **keys), need_answers)
    except BadRowError:
        return False
    return True


def _own_columns(row: dict[str, Any]) -> str:
    if not is_missing(row.get("messages")):
        return "messages"
    return "ShareGPT conversations" if is_missing(row.get("prompt")) else "prompt and completion"
