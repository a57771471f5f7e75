"""Why runs are done again although earlier ones of the same name are done: what changed since, in words."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tutelage
from tutelage.common import run_folder
from tutelage.common.errors import TutelageError, and_joined, first_of, listed
from tutelage.data.dataset import declared_fingerprint, load_dataset
from tutelage.data.sources import local_files, short_name
from tutelage.evaluation.records import read_records
from tutelage.evaluation.tasks import prompt_text
from tutelage.recipe.owner import changes, flat
from tutelage.recipe.sections import DataConfig, TaskConfig
from tutelage.recipe.stages import MethodStage
from tutelage.runs.do_run import description
from tutelage.runs.fingerprints import COSMETIC
from tutelage.runs.planner import Planner
from tutelage.runs.rows.seen import NEAR_ROWS
from tutelage.runs.run import Run
from tutelage.runs.stages.earlier import earlier_folders

# Keys of a stage that change nothing by themselves, or that are compared as what became of them.
_NOT_COMPARED = {"name", "label", "shared", "training", "search", "epochs_of", "min_acceptance", "signal"}


def not_reused(planner: Planner, runs: Sequence[Run]) -> list[str]:
    """A line for the stages of which finished runs of this recipe are there and none is reused, for each thing that
    changed. `runs`: with those that they build on, which come first. Evaluations of a model that is made again have no
    line, nor has what changed through the runs that it builds on alone."""
    planned, left = {run.folder for run in runs}, [run for run in runs if not run.done]
    found: dict[str, list[str]] = {}
    for run in left:
        made_again = bool(run.subject) and any(not parent.done for parent in run.parents)
        if not made_again and not any(map(run_folder.is_done, earlier_folders(run))):  # else it is only scored again
            before = [one for one in _earlier(run) if one not in planned]
            changed = min((_changes(run, one, planner) for one in before), key=len, default=[])
            found.setdefault(run.stage, []).extend(text for text in changed if text not in found.get(run.stage, []))
    stages: dict[tuple[str, ...], list[str]] = {}
    for stage, changed in found.items():
        if changed:
            stages.setdefault(tuple(changed), []).append(stage)
    lines = []
    for changed, names in stages.items():
        built = any(parent.stage in names for run in left for parent in run.parents)
        first, more = first_of([f"`{name}`" for name in names], 5)
        of = and_joined([*first, *[f"{more} more"] * (more > 0)])
        lines.append(f"earlier runs of {of} are not reused{', nor what builds on them' * built}: {listed(changed)}")
    return [*lines, *_other_test_rows(planner, left)]


def _other_test_rows(planner: Planner, runs: Sequence[Run]) -> Iterator[str]:
    """A line per task whose rows are a part of a file, and other ones than in an earlier evaluation of this recipe."""
    seen: set[str] = set()
    for run in runs:
        if not isinstance(run.config, TaskConfig) or run.config.data in seen:
            continue
        name, section = run.config.data, run.data[run.config.data]
        part = section.size is not None or section.skip > 0
        rows = planner.inputs.seen(section, run.recipe_folder, False) if part else None
        before = next(iter(_earlier(run)), None) if rows is not None and rows.count <= NEAR_ROWS else None
        if before is None:
            continue
        seen.add(name)
        with suppress(TutelageError, OSError):  # an earlier folder without its replies, say
            then = {record.prompt for record in read_records(before)}
            loaded = load_dataset(name, section, run.recipe_folder, False)
            stay = len(then & {prompt_text(row.prompt) for row in loaded.conversations})
            if stay < len(then):
                yield (
                    f"data.{name} has other rows than then: {stay:,} of {len(then):,} stayed, so earlier scores are on "
                    f"other rows. To keep them all, put test rows into a file of their own (`data.{name}.path`)"
                )


def _earlier(run: Run) -> list[Path]:
    """The folders of finished runs of this recipe that were called so, with this seed; the newest first."""
    found = []
    name = run.folder.name.removesuffix(f"-s{run.seed}-{run.fingerprint}")
    for folder in run.folder.parent.glob(f"{glob.escape(name)}-s{run.seed}-*"):
        if run_folder.is_done(folder):
            before = run_folder.read_if_whole(folder, run_folder.CONFIG)
            if (before.get("recipe"), before.get("stage"), before.get("kind")) == (run.recipe, run.stage, run.kind):
                found.append(folder)
    return sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)


def _changes(run: Run, folder: Path, planner: Planner) -> list[str]:
    """What a run differs in from the finished one of `folder`; empty where that is in the runs that it builds on."""
    now, then = description(run), run_folder.read_if_whole(folder, run_folder.CONFIG)
    try:
        found = [*_files(run, now, then, folder, planner), *_keys(now, then)]
    except (KeyError, TypeError, AttributeError):  # of another version
        found = []
    if found or now["parents"] != then.get("parents"):
        return found
    version = run_folder.read_if_whole(folder, run_folder.ENVIRONMENT).get("tutelage", tutelage.__version__)
    versions = "" if version == tutelage.__version__ else f" ({version} → {tutelage.__version__})"
    own = f"the source of method `{run.config.method}`, or " if isinstance(run.config, MethodStage) else ""
    return [f"{own}the tool's own version{versions}"]


def _keys(now: dict[str, Any], then: dict[str, Any]) -> Iterator[str]:
    """The keys of stage, training, adapter, data and models that differ: "training.epochs 2 → 3"."""
    for key, skipped in (("spec", _NOT_COMPARED), ("training", COSMETIC), ("lora", set[str]())):
        yield from _differ("" if key == "spec" else f"{key}.", now.get(key), then.get(key), skipped)
    for name in now["data"].keys() & then["data"].keys():
        yield from _differ(f"data.{name}.", _by_stage(now, "data", name), _by_stage(then, "data", name))
    for role in now["models"].keys() & then["models"].keys():
        yield from _differ(f"{role}.", _by_stage(now, "models", role), _by_stage(then, "models", role))
    same = ("device", "max_length")
    yield from _differ("", {key: now.get(key) for key in same}, {key: then.get(key) for key in same})


def _differ(prefix: str, now: Any, then: Any, skipped: Iterable[str] = ()) -> list[str]:
    """What differs in two sections; keys that another version has not, do not count."""
    now, then = now or {}, then or {}
    keys = [
        key for key in {**then, **now} if key not in skipped and (not (now and then) or (key in now and key in then))
    ]
    sections = [{f"{prefix}{key}": value for key, value in one.items() if key in keys} for one in (then, now)]
    before, after = (dict(flat(one)) if one else {} for one in sections)
    return changes(before, after)


def _by_stage(plan: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """A data section or model of a config.json; of what a run makes, its folder is named by the stage alone."""
    section = dict(plan[kind][name])
    for fingerprint in plan["parents"]:
        for part in Path(str(section["path"])).parts:
            if part.endswith(f"-{fingerprint}"):
                section["path"] = part.removesuffix(f"-{fingerprint}").rpartition("-s")[0]
    return section


def _files(run: Run, now: dict[str, Any], then: dict[str, Any], folder: Path, planner: Planner) -> Iterator[str]:
    """The files of data and models that are not as they were, under the same name."""
    seen: set[str] = set()
    for name, (found, with_answers) in run.planned_data.items():
        section, before = run.data[name], then["data"].get(name)
        source = short_name(section)
        if before is None or before["path"] != now["data"][name]["path"] or source in seen:
            continue
        known = then["data_files"][name]
        if before != now["data"][name]:  # some key differs too: what would the fingerprint be without that?
            with suppress(TutelageError, ValueError):
                if local_files(name, section, run.recipe_folder) is not None:
                    found = declared_fingerprint(name, DataConfig(**before), run.recipe_folder, with_answers)
        if found != known:
            seen.add(source)
            rows, were = planner.inputs.seen(section, run.recipe_folder, with_answers), _rows(folder, name)
            counts = ""
            if rows is not None and were not in (None, rows.count):
                counts = f" (data.{name}: {rows.count:,} rows now, {were:,} then)"
            yield f"{source} has changed{counts}"
    for role, found in run.planned_models.items():
        now_model, before = now["models"].get(role), then["models"].get(role)
        if now_model is not None and now_model == before and found != then["model_files"].get(role):
            yield f"the files of {role} `{now_model['path']}` have changed"


def _rows(folder: Path, name: str) -> int | None:
    """How many rows of a section a finished run had read."""
    counts = run_folder.read_if_whole(folder, run_folder.DATA).get(name)
    if counts is not None:
        return counts["rows"] + len(counts["too_long"])
    return run_folder.read_if_whole(folder, run_folder.RESULT).get("n")
