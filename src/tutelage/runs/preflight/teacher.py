"""Whether teachers can give their signal as the recipe says, and served ones are there and are those of the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tutelage.common.errors import TutelageError
from tutelage.recipe.stages import DistillStage
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.run import Run


def signal_problems(runs: Sequence[Run]) -> Iterator[Problem]:
    """Of quantised teachers: one problem per stage that takes their signal from where their precision is not theirs."""
    for run in runs:
        if not isinstance(run.config, DistillStage) or run.models["teacher"].precision is None:
            continue
        signal, precision = run.config.signal, run.models["teacher"].precision
        given = f"stage `{run.stage}`: `teacher.precision: {precision}`"
        if signal.elsewhere:
            key = "served" if signal.served else "openai"
            yield Problem(f"{given} is of a teacher held here, and `signal.{key}` asks one elsewhere: remove one")
        elif signal.approximate:
            yield Problem(
                f"{given} is measured on all tokens, and `signal.cache: top_k` keeps the likeliest ones: keep it as "
                "`exact`, or remove `precision`"
            )


def teacher_problems(runs: Sequence[Run]) -> Iterator[Problem]:
    """One problem per served teacher that does not fit, and a note per one that does not answer yet. Teachers that a
    stage of the plan has still to make are not asked for."""
    wanted = {}
    for run in runs:
        if isinstance(run.config, DistillStage) and (url := run.config.signal.served) is not None:
            teacher = run.models["teacher"]
            if all(parent.done or str(parent.folder) not in teacher.path for parent in run.parents):
                wanted[url, teacher.model_dump_json()] = run
    for (url, _), run in wanted.items():
        from tutelage.runs.stages.teacher import served_source
        from tutelage.teachers.patience import AwayError

        try:
            served_source(run, url, wait=0.0)
        except AwayError as error:
            yield Problem(f"stage `{run.stage}`: {error}; the stage waits {run.config.signal.wait:g} s for it", False)
        except TutelageError as error:
            yield Problem(f"stage `{run.stage}`: {error}")
