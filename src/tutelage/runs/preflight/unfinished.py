"""Models that recipes of the working folder are yet to make: `models/` has them when a recipe has run to its end."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError, first_of, listed
from tutelage.common.locks import holder, lives
from tutelage.common.planned import at_work, planned
from tutelage.common.run_folder import ERROR, LOCK, MODELS, is_done
from tutelage.recipe.load import load_recipe, read_yaml
from tutelage.runs.fingerprints import InputFingerprints

RUNS = "runs"  # where `tutelage run` puts runs, unless told otherwise; models lie beside it
_FOLDER = re.compile(r"(?P<stage>.+)-s(?P<seed>\d+)-[0-9a-f]{12}")  # of a run that makes a model
NOT_BEGUN = "not begun"
LISTED = 5  # models
_NOT_KEPT = ("evaluate", "synthesize", "prune")  # kinds of stages whose models, if any, are not put in `models`


@dataclass(frozen=True)
class _Stage:
    """A stage of a recipe in the working folder that makes a model."""

    stage: str
    recipe: str
    file: Path

    @property
    def model(self) -> str:
        """Its name in `models`, but for a seed."""
        return f"{self.recipe}-{self.stage}"


def why_absent(written: str) -> str | None:
    """Why a model that a user named is not there, if a recipe here makes it, or a run in `runs` is of a stage with
    its name; else None. Names of `runs` and `models` are meant with and without the folder."""
    name = written.removeprefix("./").removeprefix(f"{MODELS}/").removeprefix(f"{RUNS}/").rstrip("/")
    if not name or "/" in name or name.startswith((".", "~")):
        return None
    runs = sorted(folder for folder in Path(RUNS).glob("*/") if _FOLDER.fullmatch(folder.name))
    if (Path(RUNS) / name).is_dir():
        return f"{MODELS}/ has no `{name}`, but {RUNS}/ has: give {RUNS}/{name}"
    stages = list(_stages_here())
    named = _seedless(name)
    meant = [one for one in stages if named in (one.model, one.stage)]
    here = {one.stage for one in stages}
    others = [folder for folder in runs if _stage_of(folder) not in here]  # of recipes that lie elsewhere
    others = [one for one in others if named == _stage_of(one) or named.endswith(f"-{_stage_of(one)}")]
    if (meant or others) and (made := _made(name, named in {*here, *map(_stage_of, others)})):
        return f"{MODELS}/ has no `{name}`: did you mean `{MODELS}/{made[0]}`?"
    if meant:
        inputs = InputFingerprints()
        own = [(one, _runs_of(one, inputs)) for one in meant]
        return _said(name, *next((pair for pair in own if pair[1]), own[0]))
    if others:
        return _said_of_other(name, max(others, key=lambda folder: (len(_stage_of(folder)), is_done(folder))))
    own = sorted(str(folder) for folder in Path(MODELS).glob(f"{glob.escape(name)}-*/"))  # of the recipe of that name
    if len(own) > 1:
        return f"`{name}` is no model: {listed(own)} are of that recipe; its report says which one to use"
    near = get_close_matches(name, _names(stages, runs), n=1, cutoff=0.7)
    place = f"{RUNS}/" if near and near[0] in {folder.name for folder in runs} else ""
    return f"{MODELS}/ has no `{name}`: did you mean `{place}{near[0]}`?" if near else None


def made_here() -> str:
    """The models that recipes of the working folder make and that are not in `models`, and how far each is: the first
    of those that were begun, then of the others, and how many more there are; "" without any."""
    states: dict[str, tuple[str, Path]] = {}  # two recipes may make models of one name
    inputs = InputFingerprints()
    for one in _stages_here():
        runs = _runs_of(one, inputs)
        done = next((folder for folder in runs if is_done(folder)), None)
        if done is not None:
            state = f"done: give {done}"
        elif any(lives(folder / LOCK) for folder in runs):
            state = "at work"
        else:
            state = "stopped" if runs else NOT_BEGUN
        if not _made(one.model) and states.get(one.model, (NOT_BEGUN, one.file))[0] == NOT_BEGUN:
            states[one.model] = state, one.file
    first, more = first_of(sorted(states, key=lambda model: states[model][0] == NOT_BEGUN), LISTED)
    found: dict[str, list[str]] = {}
    for model in first:
        state, file = states[model]
        found.setdefault(str(file), []).append(f"{model} ({state})")
    said = "; ".join(f"{file} makes {', '.join(models)}" for file, models in found.items())
    return said + f" and {more} more" * (more > 0) + ": `tutelage run` with its recipe makes one" * bool(said)


def _names(stages: list[_Stage], runs: list[Path]) -> list[str]:
    """What there is to be named here, now or when a recipe has run."""
    models = [folder.name for folder in Path(MODELS).glob("*/")]
    return [*models, *(one.model for one in stages), *(folder.name for folder in runs)]


def _made(model: str, of_stage: bool = False) -> list[str]:
    """The names in `models` that `model` stands for: itself, with a seed if it has none, and, where it is the name of a
    stage alone, with any recipe's name before it."""
    form = re.compile(r"(.+-)?" * of_stage + re.escape(model) + r"(-s\d+)?" * (_seedless(model) == model))
    return sorted(folder.name for folder in Path(MODELS).glob("*/") if form.fullmatch(folder.name))


def _seedless(name: str) -> str:
    return re.sub(r"-s\d+$", "", name)


def _runs_of(made: _Stage, inputs: InputFingerprints) -> list[Path]:
    """The runs of this recipe's stage, by fingerprint, since other recipes may have a stage of the same name; and those
    that a process does for it now, maybe with other settings. None of a recipe that cannot be planned."""
    there = [folder for folder in sorted(Path(RUNS).glob("*/")) if _stage_of(folder) == made.stage]
    if not there:
        return []
    announced = {row["folder"] for row in planned(Path(RUNS), made.recipe)}
    own = {folder.name for folder in there if folder.name in announced and lives(folder / LOCK)}
    with suppress(TutelageError, OSError):
        own |= _planned(made, inputs)
    return [folder for folder in there if folder.name in own]


def _planned(made: _Stage, inputs: InputFingerprints) -> set[str]:
    """The names of the runs that the stage's recipe has for it, on any device where the recipe names none."""
    from tutelage.runs.planner import Planner
    from tutelage.runs.search import Search

    recipe, found = load_recipe(made.file), set[str]()
    for device in ("cuda", "cpu") if recipe.device == "auto" else (recipe.device,):
        asked = recipe.model_copy(update={"device": "auto"})
        search = Search(Planner(asked, made.file.resolve().parent, Path(RUNS), inputs=inputs, auto_device=device))
        search.known()  # takes what searches have found
        if search.settled(made.stage):
            found |= {search.planner.stage_run(made.stage, seed).folder.name for seed in recipe.seeds}
    return found


def _said(name: str, made: _Stage, runs: list[Path]) -> str:
    """What keeps the model from being there, and what to do."""
    command = f"`tutelage run {made.file}`"
    yet, end = f"`{name}` is not finished yet", f"{MODELS}/{made.model} is written at the end of {command}"
    working = next((folder for folder in runs if lives(folder / LOCK)), None)
    if working is not None:
        return f"{yet}: {holder(working / LOCK)} is at its stage `{made.stage}`, in {working}; {end}"
    done = next((folder for folder in runs if is_done(folder)), None)
    if done is not None:
        return f"{yet}: {end}; its stage `{made.stage}` is done: give {done} for now"
    if others := at_work(Path(RUNS), made.recipe):
        return f"{yet}: {others[0]} has not come to its stage `{made.stage}`; {end}"
    if runs:
        return f"{yet}: {runs[-1]} {_ended(runs[-1])}; {command} goes on with it"
    return f"`{name}` is not there yet: {command} makes it"


def _said_of_other(name: str, run: Path) -> str:
    """Of a run whose recipe is not known, which may be another than the one that was meant."""
    here = f"no recipe here makes `{name}`; {run}, of a stage `{_stage_of(run)}`,"
    if lives(run / LOCK):
        return f"{here} is being made by {holder(run / LOCK)}"
    if is_done(run):
        return f"{here} is done: give {run} if it is that"
    return f"{here} {_ended(run)}: `tutelage run` with its recipe goes on with it"


def _ended(run: Path) -> str:
    return "failed" if (run / ERROR).is_file() else "was stopped"


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
