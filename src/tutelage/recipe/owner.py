"""Which recipe or study file a folder of results is of: another one of the same name must not overwrite them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError, listed
from tutelage.common.files import refuse_unwritable, write_atomically
from tutelage.recipe.load import read_yaml, with_overrides

OWNER = ".owner.json"
NO_SETTINGS = ("name", "description")  # keys of a recipe that change no result


def refuse_other(folder: Path, file: Path | None, what: str) -> None:
    """Raise TutelageError if `folder` holds results of another file than `file`. `what`: the results, for the message.
    A file that is not known (None) is no reason."""
    try:
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    other = other_owner(owner, folder, file)
    if other is not None:
        raise TutelageError(
            f"{folder} has the {what} of another file, {other}, named `{owner['name']}`: give one of the two another "
            f"`name`, or choose another folder for this {what}"
        )


def claim(folder: Path, file: Path | None, name: str, overrides: Sequence[str] = (), missing: int = 0) -> None:
    """Write down that the results in `folder` are those of `file`, whose recipe or study is called `name`, with these
    overrides of its keys, and how many runs or cells they lack."""
    if file is None:
        (folder / OWNER).unlink(missing_ok=True)
        return
    content = {**owner_of(folder, file, name), "settings": settings_of(file, overrides), "missing": missing}
    write_atomically(folder / OWNER, json.dumps(content, default=str) + "\n")


def refuse_unfinished(folder: Path, missing: int, option: str) -> None:
    """Raise TutelageError where `folder` has a report in which nothing is missing, and this one lacks `missing` runs or
    cells: settings or data have changed since. `option`: what names another folder, or this one."""
    try:
        before = json.loads((folder / OWNER).read_text(encoding="utf-8"))["missing"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if before == 0 and missing:
        are = "run or cell is" if missing == 1 else "runs or cells are"
        raise TutelageError(
            f"{folder} has a finished report, which stays: settings or data have changed since, and {missing} {are} "
            f"missing; run it first, or {option} {folder}-now puts this report there ({option} {folder}: in its place)"
        )


def make_way(
    folder: Path,
    file: Path | None,
    name: str,
    what: str,
    option: str,
    overrides: Sequence[str] = (),
    *,
    given: bool = True,
    beside: str = "",
) -> list[str]:
    """Before the work whose results go into `folder`: what `replaces` says, for the user.

    `what`: the results, such as a report. `option`: what sets the folder, if it was `given`. Raises TutelageError for a
    folder that cannot be written, and as `refuse_other` does.
    """
    refuse_unwritable(folder, option, "" if given else f"the {what}")
    refuse_other(folder, file, what)
    return replaces(folder, file, name, beside, overrides)


def replaces(folder: Path, file: Path | None, name: str, what: str, overrides: Sequence[str] = ()) -> list[str]:
    """A line that says so where `folder` holds results of the file with other settings, and how to keep both.

    `what`: that is replaced beside the folder, such as ` and models/mine-…`.
    """
    try:
        before = json.loads((folder / OWNER).read_text(encoding="utf-8"))["settings"]
        now = {} if file is None else settings_of(file, overrides)
        changed = changes(before, now) if before and now else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    if not changed:
        return []
    return [
        f"{folder}{what}: made with other settings ({listed(changed)}), replaced when this is done; "
        f"finished runs are kept. To keep both, give this one another name: name={name}-2"
    ]


def settings_of(file: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a recipe or study file says, by key with dots, after the overrides; {} while it cannot be read."""
    try:
        content = with_overrides(read_yaml(file), overrides)
    except TutelageError:
        return {}
    found = dict(flat({key: value for key, value in content.items() if key not in NO_SETTINGS}))
    return json.loads(json.dumps(found, default=str))  # as it is read again


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The value's leaves; items of a list that have names are told by these, as in overrides."""
    if isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
        value = {one["name"]: {k: v for k, v in one.items() if k != "name"} for one in value}
    if not isinstance(value, dict) or not value:
        yield key, value
        return
    for name, inner in value.items():
        yield from flat(inner, f"{key}.{name}" if key else str(name))


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two settings, in words."""

    def words(settings: dict[str, Any], key: str) -> str:
        return json.dumps(settings[key], ensure_ascii=False) if key in settings else "unset"

    found = ((key, words(before, key), words(after, key)) for key in {**before, **after})
    return [f"{key} {old} → {new}" for key, old, new in found if old != new]


def owner_of(folder: Path, file: Path, name: str) -> dict[str, str]:
    """What `other_owner` compares: the file's path from the folder, the name of its results, and that written in it, if
    an override gave another."""
    try:
        written = read_yaml(file).get("name")
    except TutelageError:  # it is being edited
        written = name
    path = Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix()
    return {"file": path, "name": name} | ({} if written == name else {"written": str(written)})


def other_owner(owner: Any, folder: Path, file: Path | None) -> Path | None:
    """The file that `owner_of` noted for `folder`, if it is another one than `file` that still has its name.

    A file that was moved, copied unchanged, or given another name since is no other.
    """
    if file is None or not isinstance(owner, dict) or not isinstance(owner.get("file"), str):
        return None
    other = Path(os.path.normpath(folder.resolve() / owner["file"]))
    if not other.is_file() or other == file.resolve() or other.read_bytes() == file.read_bytes():
        return None
    try:
        return other if str(read_yaml(other).get("name")) == owner.get("written", owner.get("name")) else None
    except TutelageError:  # it is being edited
        return other
