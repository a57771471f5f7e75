"""Whether those that score replies beside the readers, a judge model and COMET, are named, here and reachable."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from tutelage.common.errors import TutelageError, listed
from tutelage.evaluation.benchmarks import JUDGED, WITH_COMET
from tutelage.evaluation.judges.comet import MODEL, comet_ready
from tutelage.evaluation.judges.endpoint import URL_VARIABLE, JudgeEndpoint, judge_of
from tutelage.recipe.study import BenchmarkTask
from tutelage.runs.preflight.hub import Hub
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.run import Run

SECONDS = 10  # for the one question to an endpoint
_NAMED = 5  # models of an endpoint in a one-line message


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
            problem = _judge_problem(judge, network) if judge is not None else None
        except TutelageError as error:
            problem = Problem(str(error))
        if problem is not None:
            yield problem
    if any(run.comet for run in runs):
        if not comet_ready():
            yield Problem(f"{WITH_COMET}: COMET is not set up here: run `tutelage setup comet`")
        elif wrong := hub.problem(MODEL, "model"):
            yield Problem(f"{WITH_COMET}: COMET's {wrong}, or run `tutelage setup comet --model {MODEL}` elsewhere")


def _judge_problem(judge: JudgeEndpoint, network: bool) -> Problem | None:
    """What keeps a judge from answering, as far as one question, for the list of its models, can tell."""
    start = f"{JUDGED} is judged by `{judge.model}`"
    if not judge.url:
        return Problem(f"{start}: set `judge.url`, or export {URL_VARIABLE}, the address of its endpoint")
    if not judge.url.startswith(("http://", "https://")):
        return Problem(f"{start}: its address is `{judge.url}`, not one such as https://api.openai.com/v1")
    if find_spec("openai") is None:
        return Problem(f"{start}, which needs the openai client: pip install 'tutelage[judge]'")
    if not network:
        return None
    _ = judge.wording  # raises where the benchmark's own rules cannot be had
    return _asked(judge, start)


def _asked(judge: JudgeEndpoint, start: str) -> Problem | None:
    import openai

    key = os.environ.get(judge.api_key_env) or ""
    try:
        with openai.OpenAI(base_url=judge.url, api_key=key or "none", timeout=SECONDS, max_retries=0) as client:
            found: list[Any] = list(client.models.list().data or [])
        names = [str(model.id) for model in found]
    except (openai.AuthenticationError, openai.PermissionDeniedError):
        state = "is refused" if key else "is not set"
        return Problem(f"{start}: {judge.url} wants a key, and ${judge.api_key_env} {state}: export the right one")
    except openai.APIConnectionError:
        return Problem(f"{start}: {judge.url} does not answer: start it, or correct the address")
    except (openai.APIError, ValueError, AttributeError, TypeError):
        return Problem(f"{start}: {judge.url} answers, but does not list its models, so the name is not checked", False)
    if names and judge.model not in names:
        has = listed(names, _NAMED)
        return Problem(f"{start}: {judge.url} does not list that model (it has: {has}): correct it")
    return None


def _measures(run: Run, benchmark: str) -> bool:
    return isinstance(run.config, BenchmarkTask) and run.config.benchmark == benchmark


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"
