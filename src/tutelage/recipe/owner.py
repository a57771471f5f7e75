"""Which recipe or study file a folder of results is of: another one of the same name must not overwrite them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.recipe.load import read_yaml

OWNER = ".owner.json"


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


def claim(folder: Path, file: Path | None, name: str) -> None:
    """Write down that the results in `folder` are those of `file`, whose recipe or study is called `name`."""
    if file is None:
        (folder / OWNER).unlink(missing_ok=True)
    else:
        write_atomically(folder / OWNER, json.dumps(owner_of(folder, file, name)) + "\n")


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
