"""What a finished model was trained on, of the questions that it is asked now: its run may be older than the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tutelage.common import run_folder
from tutelage.common.errors import TutelageError
from tutelage.data.dataset import declared_fingerprint
from tutelage.data.sources import local_files, paths_of, short_name
from tutelage.recipe.sections import DataConfig
from tutelage.runs.planner import Planner


def trained_notes(planner: Planner, model: str, tasks: Sequence[str]) -> list[str]:
    """Notes about the questions of these tasks on which a run trained the model in the folder `model`, or one that it
    was made from; of a run that did not keep its questions, that its data have changed since."""
    notes: list[str] = []
    for run in _line(Path(model)):
        plan = run_folder.read_if_whole(run, run_folder.CONFIG)
        known = run_folder.read_if_whole(run, run_folder.QUESTIONS)
        for task in tasks:
            section = planner.recipe.tasks[task].data
            rows = planner.inputs.seen(planner.recipe.data[section], planner.recipe_folder, False)
            for name, questions in known.items():
                among = set(questions)
                count = sum(question in among for question in rows.questions) if rows else 0
                if rows and count:
                    of = f"{count:,} of its {len(rows.questions):,} questions"
                    source = short_name(DataConfig(**plan["data"][name]))
                    notes.append(
                        f"task `{task}`: the model was trained on {of} (by `{plan['stage']}`, data.{name}, {source} as "
                        "it was then): its score looks better than it is"
                    )
            if not known and plan.get("training"):
                notes += _changed(planner, plan, task)
    return list(dict.fromkeys(notes))


def _changed(planner: Planner, plan: dict[str, Any], task: str) -> Iterator[str]:
    """That a file which the task is asked from has changed since a run trained on other rows of it."""
    asked = set(paths_of(planner.recipe.data[planner.recipe.tasks[task].data]))
    trained = plan["spec"].get("data") or []
    for name in [trained] if isinstance(trained, str) else trained:
        with suppress(TutelageError, ValueError, KeyError):
            before = DataConfig(**plan["data"][name])
            shared = asked & set(paths_of(before)) and local_files(name, before, planner.recipe_folder)
            if shared and declared_fingerprint(name, before, planner.recipe_folder) != plan["data_files"][name]:
                yield (
                    f"task `{task}`: {short_name(before)} has changed since `{plan['stage']}` was trained on other "
                    "rows of it: some of its questions may have been among these, and its score then looks better "
                    "than it is"
                )


def _line(model: Path) -> Iterator[Path]:
    """The folders of the finished runs that made a model, the last first; none where no run did."""
    seen: set[Path] = set()
    run = (model / "config.json").resolve().parent.parent  # folders in models/ link to the files of the run's model
    while run not in seen and run_folder.is_done(run) and (run / run_folder.CONFIG).is_file():
        seen.add(run)
        yield run
        models = run_folder.read_if_whole(run, run_folder.CONFIG).get("models", {})
        before = models.get("student") or models.get("model") or {}
        run = run.parent / Path(before.get("path", "")).parent.name
