"""Whether teachers can give their signal as the recipe says, and those elsewhere are there and are the recipe's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tutelage.common.errors import TutelageError
from tutelage.recipe.stages import DistillStage
from tutelage.runs.preflight.hub import Hub
from tutelage.runs.preflight.models import Models, origin_of
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.run import Run


def signal_problems(runs: Sequence[Run], models: Models) -> Iterator[Problem]:
    """One problem per stage that keeps more of its teacher's tokens than it has, or takes the signal of a quantised one
    from where that precision is not its."""
    for run in runs:
        if isinstance(run.config, DistillStage) and (error := _top_k_error(run, models)):
            yield Problem(f"stage `{run.stage}`: {error}")
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


def _top_k_error(run: Run, models: Models) -> str:
    from tutelage.teachers.top_k import refuse_all

    signal = run.config.signal
    shape = models.shape(origin_of(run, "teacher")[0]) if signal.cache == "top_k" and not signal.elsewhere else None
    try:
        if shape is not None:
            refuse_all(signal.top_k, shape.model.get_output_embeddings().weight)
    except TutelageError as error:
        return str(error)
    return ""


def teacher_problems(runs: Sequence[Run], models: Models | None = None) -> Iterator[Problem]:
    """One problem per teacher elsewhere that does not fit, and a note per one that does not answer yet. A served one
    says which it is; an `openai` endpoint is asked for the likeliest tokens of two. Teachers that a stage of the plan
    has still to make are not asked for. `models`: those of the runs, where some are known."""
    from tutelage.teachers.patience import AwayError

    wanted: dict[tuple[str, str], Run] = {}
    for run in runs:
        if isinstance(run.config, DistillStage) and run.config.signal.elsewhere:
            teacher, signal = run.models["teacher"], run.config.signal
            if all(parent.done or str(parent.folder) not in teacher.path for parent in run.parents):
                wanted[signal.model_dump_json(exclude={"cache", "wait"}), teacher.model_dump_json()] = run
    for run in wanted.values():
        try:
            _ask(run, models or Models(Hub(network=True)))
        except AwayError as error:
            yield Problem(f"stage `{run.stage}`: {error}; the stage waits {run.config.signal.wait:g} s for it", False)
        except TutelageError as error:
            yield Problem(f"stage `{run.stage}`: {error}")


def _ask(run: Run, models: Models) -> None:
    """Ask the teacher of a run once. Raises TutelageError where it does not fit, AwayError where none answers."""
    import torch

    from tutelage.runs.stages.teacher import endpoint_source, served_source
    from tutelage.teachers.protocol import Question

    if (url := run.config.signal.served) is not None:
        served_source(run, url, wait=0.0)
        return
    shape = models.shape(run.models["teacher"])
    if shape is None:  # a problem of its own, or the hub is away
        return
    last = max(shape.tokenizer.get_vocab().values())  # a model of fewer tokens does not know it
    endpoint_source(run, shape, wait=0.0).answer(Question(torch.tensor([last, last - 1]), (2,), torch.tensor([0])))
