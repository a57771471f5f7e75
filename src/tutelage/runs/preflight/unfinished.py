"""Models that recipes of the working folder are yet to make: `models/` has them when a recipe has run to its end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.locks import holder, lives
from tutelage.common.planned import at_work
from tutelage.common.run_folder import ERROR, LOCK, MODELS, is_done
from tutelage.recipe.load import read_yaml

RUNS = "runs"  # where `tutelage run` puts runs, unless told otherwise; models lie beside it
_FOLDER = re.compile(r"(?P<stage>.+)-s(?P<seed>\d+)-[0-9a-f]{12}")  # of a run that makes a model
_NOT_KEPT = ("evaluate", "synthesize", "prune")  # kinds of stages whose models, if any, are not put in `models`


@dataclass(frozen=True)
class _Stage:
    """A stage that makes a model, by its recipe's name and file where that lies here."""

    stage: str
    recipe: str = ""
    file: Path | None = None

    @property
    def model(self) -> str:
        """Its name in `models`, as far as that is known."""
        return f"{self.recipe}-{self.stage}" if self.recipe else ""


def why_absent(written: str) -> str | None:
    """Why a model that a user named is not there, if a recipe here makes it, or a run in `runs` is of such a stage;
    else None. Names of `runs` and `models` are meant with and without the folder."""
    name = written.removeprefix("./").removeprefix(f"{MODELS}/").removeprefix(f"{RUNS}/").rstrip("/")
    if not name or "/" in name or name.startswith((".", "~")):
        return None
    runs = sorted(folder for folder in Path(RUNS).glob("*/") if _FOLDER.fullmatch(folder.name))
    if (Path(RUNS) / name).is_dir():
        return f"{MODELS}/ has no `{name}`, but {RUNS}/ has: give {RUNS}/{name}"
    stages = list(_stages_here())
    named = re.sub(r"-s\d+$", "", name)
    found = next((one for one in stages if named in (one.model, one.stage)), None)
    if found is None:  # of a recipe that lies elsewhere
        own = {_stage_of(folder) for folder in runs} - {one.stage for one in stages}
        known = sorted((stage for stage in own if named == stage or named.endswith(f"-{stage}")), key=len)
        found = _Stage(known[-1]) if known else None
    if found is not None and found.model and (Path(MODELS) / found.model).is_dir():
        return f"{MODELS}/ has no `{name}`: did you mean `{found.model}`?"
    if found is not None:
        return _said(name, found, [folder for folder in runs if _stage_of(folder) == found.stage])
    near = get_close_matches(name, _names(stages, runs), n=1, cutoff=0.7)
    place = f"{RUNS}/" if near and near[0] in {folder.name for folder in runs} else ""
    return f"{MODELS}/ has no `{name}`: did you mean `{place}{near[0]}`?" if near else None


def made_here() -> str:
    """The models that recipes of the working folder make, and how far each is; "" without recipes."""
    found: dict[str, list[str]] = {}
    for one in _stages_here():
        runs = [folder for folder in Path(RUNS).glob("*/") if _stage_of(folder) == one.stage]
        done = next((folder for folder in runs if is_done(folder)), None)
        if (Path(MODELS) / one.model).is_dir():
            state = "done"
        elif done is not None:
            state = f"done: give {done}"
        elif any(lives(folder / LOCK) for folder in runs):
            state = "at work"
        else:
            state = "stopped" if runs else "not begun"
        found.setdefault(str(one.file), []).append(f"{one.model} ({state})")
    return "; ".join(f"{file} makes {', '.join(models)}" for file, models in found.items())


def _names(stages: list[_Stage], runs: list[Path]) -> list[str]:
    """What there is to be named here, now or when a recipe has run."""
    models = [folder.name for folder in Path(MODELS).glob("*/")]
    return [*models, *(one.model for one in stages), *(folder.name for folder in runs)]


def _said(name: str, made: _Stage, runs: list[Path]) -> str:
    """What keeps the model from being there, and what to do."""
    command = f"`tutelage run {made.file}`" if made.file else "`tutelage run` with its recipe"
    yet, end = f"`{name}` is not finished yet", f"{MODELS}/{made.model or name} is written at the end of {command}"
    working = next((folder for folder in runs if lives(folder / LOCK)), None)
    if working is not None:
        return f"{yet}: {holder(working / LOCK)} is at its stage `{made.stage}`, in {working}; {end}"
    done = next((folder for folder in runs if is_done(folder)), None)
    if done is not None:
        return f"{yet}: {end}; its stage `{made.stage}` is done: give {done} for now"
    if others := at_work(Path(RUNS), made.recipe):
        return f"{yet}: {others[0]} has not come to its stage `{made.stage}`; {end}"
    if runs:
        how = "failed" if (runs[-1] / ERROR).is_file() else "was stopped"
        return f"{yet}: {runs[-1]} {how}; {command} goes on with it"
    return f"`{name}` is not there yet: {command} makes it"


def _stage_of(folder: Path) -> str:
    match = _FOLDER.fullmatch(folder.name)
    return match["stage"] if match else ""


def _stages_here() -> Iterator[_Stage]:
    """The stages that make models, of the recipes in the working folder."""
    for file in sorted([*Path().glob("*.yaml"), *Path().glob("*.yml")]):
        with suppress(TutelageError, OSError):
            content = read_yaml(file)
            stages: Any = content.get("stages")
            for one in stages if isinstance(stages, list) else []:
                if isinstance(one, dict) and isinstance(one.get("name"), str) and one.get("kind") not in _NOT_KEPT:
                    yield _Stage(one["name"], str(content.get("name")), file)
