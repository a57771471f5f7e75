"""`models/<recipe>-<stage>/` beside the folder of runs: each trained model under a name that people can read.

Such a folder holds links to the files of the run's model, and the model card. It is not one link to the run's folder,
since a run stays as it was finished (its files have checksums, and several recipes may share it) while a card quotes
one recipe's report. Where the file system has no links, a text file says where the model is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.run_folder import MODEL, WHERE, models_folder
from tutelage.delivery.card import model_card
from tutelage.recipe.owner import other_owner, owner_of, settings_of
from tutelage.report.recipe.tables import build_tables
from tutelage.report.recipe.verdicts import verdicts
from tutelage.runs.recipe_results import RecipeResults, TrainedModel

CARD = "README.md"
MARK = ".tutelage.json"  # the folder is this project's: recipe, settings, stage, run, links
_SEAL = "\n<!-- written by Tutelage; sha256 of the text above: "  # a card's last line


@dataclass(frozen=True)
class Delivered:
    """Folders of models, and what the user should know about them."""

    folders: tuple[Path, ...]
    notes: tuple[str, ...]  # a line each


def deliver_models(
    results: RecipeResults, runs: Path, command: Sequence[str] = (), file: Path | None = None
) -> Delivered:
    """Give each trained model that is done its folder in `models` beside `runs`, with a card that quotes the report.

    A name that an earlier run had moves to this one, with a note if that run is in another folder of runs. A folder
    that is not this project's, or of another recipe file, or whose card was edited, is left alone, with a note.
    `command`: the words of the command that made the runs, for the card. `file`: the recipe's.
    """
    tables = build_tables(results)
    found = verdicts(results, tables)
    folders, notes = [], []
    for model in results.models:
        if not model.run.done:
            continue
        folder = models_folder(runs) / model.name_in(results.name)
        mark = read_mark(folder)
        try:
            if problem := _taken(folder, mark, results.name, model, file):
                notes.append(f"{problem}; this run's model is in {model.run.folder / MODEL}")
                continue
            card = model_card(folder.name, model, results, tables, found, command)
            before = (folder / str(mark.get("run", "."))).resolve()
            if mark and before.parent != model.run.folder.resolve().parent and before.is_dir():
                notes.append(f"{folder} was the model of {before}, and is now that of {model.run.folder}")
            if note := _write(folder, mark, model, card, results, file):
                notes.append(note)
            folders.append(folder)
        except (OSError, TutelageError) as error:  # the runs are done and reported all the same
            notes.append(f"{folder} was not written: {error}")
    return Delivered(tuple(folders), tuple(notes))


def read_mark(folder: Path) -> dict[str, Any]:
    """What this project wrote about a folder in `models`; {} for any other folder."""
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _taken(folder: Path, mark: dict[str, Any], recipe: str, model: TrainedModel, file: Path | None) -> str:
    """Why the folder cannot be this model's, else ""."""
    if not os.path.lexists(folder) or (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())):
        return ""
    if not mark or folder.is_symlink():
        return f"{folder} is not a folder that this project made, so it is left as it is"
    if [mark.get("recipe"), mark.get("stage"), mark.get("seed")] != [recipe, model.stage, model.seed]:
        return f"{folder} is the model of another recipe or stage with the same name, so it is left as it is"
    if (other := other_owner(mark.get("owner"), folder, file)) is not None:
        return f"{folder} is the model of another recipe of this name, {other}, so it is left as it is"
    names = [file.name for file in (model.run.folder / MODEL).iterdir() if not file.name.startswith(".")]
    own = [name for name in names if (folder / name).exists() and not (folder / name).is_symlink() and name != CARD]
    return f"{folder} has a file {own[0]} of its own, so it is left as it is" if own else ""


def _write(
    folder: Path, mark: dict[str, Any], model: TrainedModel, card: str, results: RecipeResults, file: Path | None
) -> str:
    """Write links, card and mark; returns a note, or ""."""
    folder.mkdir(parents=True, exist_ok=True)
    source = model.run.folder / MODEL
    links = sorted(file.name for file in source.iterdir() if file.name not in (CARD, MARK, WHERE))
    for name in set(mark.get("links", ())) - {*links}:  # of a model with other files
        if (folder / name).is_symlink():
            (folder / name).unlink()
    try:
        for name in links:
            _link(folder / name, source / name)
        (folder / WHERE).unlink(missing_ok=True)
    except OSError:  # no links on this file system, or none allowed
        links = []
        write_atomically(folder / WHERE, f"{_relative(source, folder)}\n")
    written = folder / CARD
    edited = written.is_file() and not _as_written(written.read_bytes(), mark)
    if not edited:
        write_atomically(written, _sealed(card))
    content = {
        "recipe": results.name,
        "owner": None if file is None else owner_of(folder, file, results.name),
        "settings": {} if file is None else settings_of(file, results.overrides),
        "stage": model.stage,
        "seed": model.seed,
        "run": _relative(model.run.folder, folder),
        "links": links,
    }
    write_atomically(folder / MARK, json.dumps(content, indent=1) + "\n")
    return (
        f"{written} was edited, so it stays as it is; remove {written.name} there to have it written again"
        if edited
        else ""
    )


def _link(link: Path, target: Path) -> None:
    """Make or move a relative link, which is never absent in between. Raises OSError where links are not possible."""
    path = _relative(target, link.parent)
    if link.is_symlink() and os.readlink(link) == path:
        return
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(path)
    os.replace(partial, link)


def _relative(target: Path, folder: Path) -> str:
    """The path of `target` from `folder`, with slashes; absolute where none leads there (another drive)."""
    try:
        return Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return str(target.resolve())


def _sealed(card: str) -> str:
    """The card with its hash as the last line. The card itself has it, since two commands that end together write card
    and mark in any order, and one that is killed writes the first alone."""
    return f"{card}{_SEAL}{_hash(card.encode())} -->\n"


def _as_written(content: bytes, mark: dict[str, Any]) -> bool:
    """Whether a card is as this project wrote it; earlier versions kept its hash in the mark alone."""
    text, _, end = content.rpartition(_SEAL.encode())
    return end == f"{_hash(text)} -->\n".encode() or mark.get("card") == _hash(content)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
