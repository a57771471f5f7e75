"""Whether those that score replies beside the readers, a judge model and COMET, are named, here and reachable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks import JUDGED, WITH_COMET
from tutelage.evaluation.judges.comet import MODEL, comet_ready
from tutelage.evaluation.judges.endpoint import judge_of
from tutelage.evaluation.judges.reachable import judge_problem
from tutelage.recipe.study import BenchmarkTask
from tutelage.runs.preflight.hub import Hub
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.run import Run


def unscored_notes(runs: Sequence[Run]) -> Iterator[Problem]:
    """What stays unscored, and which key to fill; of runs that are done, too: their replies are kept."""
    unjudged = [run for run in runs if _measures(run, JUDGED) and (run.judge is None or run.judge.model is None)]
    places = Counter(run.judge.place if run.judge else "`judge.model` of the study" for run in unjudged)
    for place, count in places.items():
        yield Problem(
            f"{JUDGED} stays unscored in {_runs(count)}, as no judge is named: fill in {place}; what was sampled "
            "by then is kept and only judged",
            stops=False,
        )
    plain = sum(_measures(run, WITH_COMET) and not run.comet for run in runs)
    if plain:
        yield Problem(
            f"{WITH_COMET}: COMET is not set up, so {_runs(plain)} have chrF only: run `tutelage setup comet`; what "
            "was sampled by then is kept and only scored",
            stops=False,
        )


def scorer_problems(runs: Sequence[Run], network: bool, hub: Hub) -> Iterator[Problem]:
    """The problems of the judges and of COMET that the runs need. `network`: whether they may be asked."""
    judges = {run.judge.model_dump_json(): run.judge for run in runs if run.judge is not None and run.judge.model}
    for config in judges.values():
        try:
            judge = judge_of(config)
            found = judge_problem(judge, network) if judge is not None else None
        except TutelageError as error:
            found = str(error), True
        if found is not None:
            yield Problem(*found)
    if any(run.comet for run in runs):
        if not comet_ready():
            yield Problem(f"{WITH_COMET}: COMET is not set up here: run `tutelage setup comet`")
        elif wrong := hub.problem(MODEL, "model"):
            yield Problem(f"{WITH_COMET}: COMET's {wrong}, or run `tutelage setup comet --model {MODEL}` elsewhere")


def _measures(run: Run, benchmark: str) -> bool:
    return isinstance(run.config, BenchmarkTask) and run.config.benchmark == benchmark


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"
