"""Whether a model in `models/` is of its recipe as that is now: it stays until the recipe is run again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tutelage.common import run_folder
from tutelage.common.errors import TutelageError, listed
from tutelage.data.dataset import declared_fingerprint
from tutelage.data.sources import local_files, short_name
from tutelage.delivery.folders import read_mark
from tutelage.recipe.owner import changes, settings_of
from tutelage.recipe.sections import DataConfig


def outdated_notes(folder: Path) -> Iterator[str]:
    """A line where the model in this folder was made with other settings or data than its recipe file has now; none
    where that is not known."""
    mark = read_mark(folder)
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, TutelageError):
        file = (folder / mark["owner"]["file"]).resolve()
        plans = dict(_plans((folder / mark["run"]).resolve()))
        stages = {str(plan["stage"]) for plan in plans.values()}
        settings = [mark.get("settings"), settings_of(file)]
        before, now = ({key: value for key, value in (one or {}).items() if _counts(key, stages)} for one in settings)
        changed = [*(changes(before, now) if before and now else []), *dict.fromkeys(_files(plans, file.parent))]
        if changed:
            yield (
                f"{folder} was made with other settings or data than {file.name} has now ({listed(changed)}); "
                f"`tutelage run` makes it anew"
            )


def _counts(key: str, stages: set[str]) -> bool:
    """Whether a key may change a model that these stages make."""
    first, _, rest = key.partition(".")
    return first != "tasks" and (first != "stages" or rest.partition(".")[0] in stages)


def _plans(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The config.json of a run and of all that it builds on."""
    plan = json.loads((run / run_folder.CONFIG).read_text(encoding="utf-8"))
    yield run, plan
    for fingerprint in plan["parents"]:
        for parent in run.parent.glob(f"*-{fingerprint}"):
            yield from _plans(parent)


def _files(plans: dict[Path, dict[str, Any]], folder: Path) -> Iterator[str]:
    """The local files of data that are not as they were."""
    for plan in plans.values():
        for name, found in plan["data_files"].items():
            section = DataConfig(**plan["data"][name])
            if local_files(name, section, folder) and declared_fingerprint(name, section, folder) != found:
                yield f"{short_name(section)} has changed"
