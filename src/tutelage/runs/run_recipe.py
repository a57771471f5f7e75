"""Running a recipe: every run once, several side by side where asked, in an order that keeps searches short."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.common.progress import print_lines, print_note, told, told_once
from tutelage.data.chat_template import ChatTemplate
from tutelage.models.load import load_template
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.stages import PruneStage, TrainStage
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.cost.cpu import busy_note, cpu_seconds, measured_pace
from tutelage.runs.cost.facts import machine
from tutelage.runs.hosts.joined import joined
from tutelage.runs.kinds import cost_of, hours_of
from tutelage.runs.planner import Planner
from tutelage.runs.preflight import find_problems, refuse_problems
from tutelage.runs.preflight.not_reused import not_reused
from tutelage.runs.ranks import gpu_ids, shared_gpus
from tutelage.runs.recipe_results import RecipeResults, read_results
from tutelage.runs.rows.notes import notes_on_rows, other_file_notes
from tutelage.runs.run import Run, with_parents
from tutelage.runs.scheduler import Resources, Scheduler
from tutelage.runs.search import Search, restricted
from tutelage.runs.worker import make_runs_folder

_UNKNOWN_SECONDS = 60.0  # of a run whose models' shapes are not known


def run_recipe(
    recipe: RecipeConfig,
    base: Path,
    root: Path,
    jobs: int = 1,
    debug: bool = False,
    gpus_per_run: int | None = None,
    only: Sequence[str] = (),
    texts: bool = True,
    overrides: Sequence[str] = (),
) -> RecipeResults:
    """Do all runs of a recipe that are not done yet, and return its results, from which `build_report` makes a page.

    `base`: the folder that relative paths of the recipe start from. `root`: the folder of all runs. `jobs`: runs at the
    same time, each in its own process. `gpus_per_run`: ranks of a training run; no two runs share a GPU then. `only`:
    do these evaluate stages and what they build on. `texts`: whether the progress may show rows and answers.
    `overrides`: those that the recipe was loaded with. Raises TutelageError when a run fails; what does not build on it
    is done first.
    """
    began = time.monotonic()
    make_runs_folder(root)
    planner = Planner(restricted(Planner(recipe, base, root), only), base, root)
    gpus = gpu_ids(gpus_per_run) if gpus_per_run is not None and planner.device == "cuda" else None
    started = joined()  # by a launcher
    ranks = started.world if started is not None else gpus_per_run or 1
    search, model = Search(planner), CostModel(machine("H100"), ranks)
    known: dict[str, float] = {}

    def hours(run: Run) -> float:  # trials first: the more stages wait for one, the sooner
        if run.fingerprint not in known:
            known[run.fingerprint] = hours_of(run, model) + search.waited_for.get(run.fingerprint, 0)
        return known[run.fingerprint]

    expected = search.expected()
    plan = [*search.known(), *expected]
    shared = shared_gpus(plan, jobs) if planner.device == "cuda" and gpus is None else []
    resources = Resources(jobs, ranks=ranks, gpus=gpus, shared_gpus=shared)
    refuse_problems(find_problems(plan, root, data=False, ranks=ranks, jobs=jobs))
    to_do = [run for run in expected if not run.done]
    left = not all(run.done for run in plan)
    if left and 0 < len(to_do) < len(expected):
        done = f"{len(expected) - len(to_do)} of {len(expected)} runs are done already"
        print(f"{recipe.name}: {done}, {len(to_do)} left; {to_do[0].stage} is next", flush=True)
    print_lines(f"{recipe.name}: {line}" for line in not_reused(planner, with_parents(search.known())))
    early = (*other_file_notes(planner, overrides), *notes_on_rows(planner)) if left else ()
    for note in (*early, *_words(recipe, plan)) if left else ():
        print_note(note)
    for note in busy_note() if left and planner.device == "cpu" else ():
        print_lines([note])

    here = CostModel(model.machine, ranks, counting_template(recipe) if left and planner.device == "cpu" else None)

    def seconds(run: Run) -> float:  # of one machine; what the runs take corrects it
        cost = cost_of(run, here)
        if cost is None:
            return _UNKNOWN_SECONDS
        return 3600 * cost.hours if run.device == "cuda" else cpu_seconds(run, cost, here, measured_pace())

    options = {"seconds": seconds, "title": recipe.name, "texts": texts}
    with told_once() as notes, Scheduler(resources, debug, hours=hours if jobs > 1 else None, **options) as scheduler:
        scheduler.execute(search.known, len(expected))
        said = told(notes).union(early)
    return replace(read_results(search, time.monotonic() - began), said=said)


def counting_template(recipe: RecipeConfig) -> ChatTemplate | None:
    """The chat template by which rows are counted in tokens; None where it cannot be had."""
    with suppress(TutelageError):
        return load_template(recipe.teacher if isinstance(recipe.student, str) else recipe.student)[0]
    return None


def _words(recipe: RecipeConfig, plan: Sequence[Run]) -> Iterator[str]:
    """What the lines of a first recipe speak of: its runs, which are more than its stages, and the stages of a student
    that is cut out of the teacher."""
    runs = with_parents(plan)
    scored = sum(bool(run.subject) for run in runs)
    if 0 < scored < len(runs):
        yield (
            f"{len(runs)} runs: {len(runs) - scored} of stages that make models or data, and {scored} "
            f"evaluation{'s' * (scored > 1)} (one per model{', seed' * (len(recipe.seeds) > 1)} and task)"
        )
    cuts = [stage.name for stage in recipe.stages if isinstance(stage, PruneStage)]
    heals = [stage.name for stage in recipe.stages if isinstance(stage, TrainStage) and stage.student in cuts]
    if heals:
        yield (
            f"stage `{cuts[0]}` cuts layers out of a model, and `{heals[0]}` trains the rest until it writes again; "
            f"(seed {recipe.seeds[0]}) is the number that random draws begin with"
        )
