"""What a user may call a model: a run's folder, a name in `models/`, a folder, a GGUF file, or a name on the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError, listed
from tutelage.common.locks import holder, lives
from tutelage.common.run_folder import (
    CONFIG,
    ENVIRONMENT,
    LOCK,
    MODEL,
    MODELS,
    RESULT,
    WHERE,
    is_done,
    models_folder,
    read_json,
)
from tutelage.delivery.folders import CARD, read_mark
from tutelage.models.files import refuse_no_model
from tutelage.models.whole import ADAPTER
from tutelage.runs.preflight.unfinished import LISTED, made_here, why_absent


@dataclass(frozen=True)
class FoundModel:
    """A model that a user named."""

    name: str  # for people, and for files
    path: str  # the `path` of a recipe's model section
    card: Path | None = None  # its model card, where one was written

    @property
    def folder(self) -> Path:
        """The folder in `models/`, where it is named there, else that of its files."""
        return Path(self.path) if self.card is None else self.card.parent


def find_model(written: str) -> FoundModel:
    """The model that `written` names. Raises TutelageError for a run without a model, and for a misspelt name."""
    if not written.strip():
        raise TutelageError("no model is named: give a folder, a name in models/, a GGUF file or a hub id")
    folder = Path(written).expanduser()
    if not folder.is_dir() and not written.startswith((".", "/", "~")) and (Path(MODELS) / written).is_dir():
        folder = Path(MODELS) / written
    if not folder.is_dir():
        if folder.is_file() and folder.suffix != ".gguf":
            raise TutelageError(f"{written} is a file and no model: give a folder, a name in {MODELS}/ or a GGUF file")
        if not folder.exists() and (why := why_absent(written)):
            raise TutelageError(why)
        return FoundModel(_name(written), written)
    run = folder.resolve().parent if folder.resolve().name == MODEL else folder
    if (run / ENVIRONMENT).is_file() and (run / CONFIG).is_file():
        return FoundModel(run.resolve().name, str(_model_of_run(run)), _card_of_run(run))
    card = folder / CARD if (folder / CARD).is_file() else None
    if (folder / WHERE).is_file() and read_mark(folder):
        target = folder / (folder / WHERE).read_text(encoding="utf-8").strip()
        if not target.is_dir():
            raise TutelageError(f"{folder / WHERE} names {target}, which is not there: was the folder of runs moved?")
        return FoundModel(folder.name, str(target), card)
    broken = next((link for link in folder.iterdir() if link.is_symlink() and not link.exists()), None)
    if broken is not None:
        raise TutelageError(f"{broken} leads to no file: was its run removed or moved? `tutelage run` makes it again")
    if not (folder / ADAPTER).is_file():
        refuse_no_model(folder)
    return FoundModel(folder.resolve().name, str(folder), card)


def find_loadable(written: str, revision: str | None = None) -> FoundModel:
    """As `find_model`; raises TutelageError also for a hub id that cannot be had, for which loading would ask the hub a
    dozen times, and for a `revision` of a model that is not on the hub."""
    from tutelage.models.files import is_local
    from tutelage.runs.preflight.hub import Hub

    found = find_model(written)
    if is_local(found.path):
        if revision is not None:
            raise TutelageError(f"--revision: is for models of the hub, and `{written}` is a local one: leave it out")
        return found  # loading it says at once what is wrong
    if wrong := Hub(network=True).problem(found.path, "model"):
        if "/" not in written and (made := made_here()):
            there = f"{_local_models()}; " if Path(MODELS).is_dir() else ""
            raise TutelageError(f"no model is called `{written}`: {there}{made}")
        raise TutelageError(f"cannot load `{written}`: it is no folder; {_local_models()}; and {wrong}")
    return found


def _local_models() -> str:
    """Which models can be named here."""
    if not Path(MODELS).is_dir():
        return f"there is no {MODELS}/ here, where `tutelage run` puts what it trains (start where it was started)"
    names = sorted(path.name for path in Path(MODELS).glob("*/"))
    return f"{MODELS}/ has {listed(names, LISTED) or 'none'}"


def system_of(found: FoundModel) -> str:
    """The system turn of the rows that a run's model was trained on; "" if they have none or several, or no run made
    the model."""
    texts = {section.get("system", "") for section in _rows_of(found)}
    return texts.pop() if len(texts) == 1 else ""


def has_one_question(found: FoundModel) -> bool:
    """Whether the rows that a run's model was trained on have one question each, so that it knows no second one; False
    where no run made the model."""
    sections = _rows_of(found)
    return bool(sections) and all(section.get("one_question", False) for section in sections)


def thinking_of(found: FoundModel) -> bool | None:
    """The `thinking` with which a run made the model, which its chat template does not hold; None: as the template
    does, or no run made it."""
    run = _run_of(found)
    models = read_json(run, CONFIG)["models"] if run is not None else {}
    return (models.get("student") or models.get("model") or {}).get("thinking")


def longest_answer_of(found: FoundModel) -> int | None:
    """The largest `max_new_tokens` that the recipe of a run's model gave its answers, in training or in tasks; None
    where nothing says it, or no run made the model."""
    run = _run_of(found)
    if run is None:
        return None
    own = read_json(run, CONFIG)
    tasks = [read_json(task.parent, CONFIG) for task in run.parent.glob(f"{own['stage']}-on-*/{CONFIG}")]
    specs = [task["spec"] for task in tasks if own["fingerprint"] in task["parents"]]
    if own["spec"].get("on_policy", 1.0) > 0.0:  # else it wrote no answers
        specs.append(own["spec"])
    return max(((spec.get("sampling") or {}).get("max_new_tokens") or 0 for spec in specs), default=0) or None


def _rows_of(found: FoundModel) -> list[dict[str, Any]]:
    """What the run that made the model says of its data sections; [] where no run made it."""
    run = _run_of(found)
    sections = (read_json(run, RESULT).get("data") or {}).values() if run is not None else ()
    return [section for section in sections if "rows" in section]


def _run_of(found: FoundModel) -> Path | None:
    """The folder of the finished run that made the model, if one did."""
    run = (Path(found.path) / "config.json").resolve().parent.parent
    return run if is_done(run) and (run / CONFIG).is_file() else None


def _model_of_run(run: Path) -> Path:
    if not is_done(run):
        how = f"{holder(run / LOCK)} is working on it" if lives(run / LOCK) else "run its recipe to the end"
        raise TutelageError(f"the run {run} is not done, so it has no model yet: {how}")
    if not (run / MODEL).is_dir():
        raise TutelageError(f"the run {run} made no model: give the run of a stage that trains one")
    return run / MODEL


def _card_of_run(run: Path) -> Path | None:
    """The card of the folder in `models` that links to this run."""
    for folder in models_folder(run.resolve().parent).glob("*/"):
        link = read_mark(folder).get("run")
        if link and (folder / link).resolve() == run.resolve() and (folder / CARD).is_file():
            return folder / CARD
    return None


def _name(path: str) -> str:
    """A short name for a hub id, a file or `package:NAME`."""
    return Path(path.removeprefix("package:").rstrip("/")).name.removesuffix(".gguf") or path
