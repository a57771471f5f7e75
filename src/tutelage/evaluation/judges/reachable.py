"""Whether a judge can be asked, as far as one question can tell, that for the list of its models."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from tutelage.common.errors import listed
from tutelage.evaluation.benchmarks import JUDGED
from tutelage.evaluation.judges.endpoint import URL_VARIABLE, JudgeEndpoint

SECONDS = 10  # for the question
_NAMED = 5  # models of an endpoint in a one-line message


def judge_problem(judge: JudgeEndpoint, network: bool = True) -> tuple[str, bool] | None:
    """What keeps a judge from answering, and whether that stops it, or is only not known; None for a judge that may
    answer. `network`: whether the endpoint may be asked. Raises TutelageError where the rules cannot be had."""
    start = f"{JUDGED} is judged by `{judge.model}`"
    if not judge.url:
        return f"{start}: set `judge.url`, or export {URL_VARIABLE}, the address of its endpoint", True
    if not judge.url.startswith(("http://", "https://")):
        return f"{start}: its address is `{judge.url}`, not one such as https://api.openai.com/v1", True
    if find_spec("openai") is None:
        return f"{start}, which needs the openai client: pip install 'tutelage[judge]'", True
    if not network:
        return None
    _ = judge.wording  # raises where the benchmark's own rules cannot be had
    return _asked(judge, start)


def _asked(judge: JudgeEndpoint, start: str) -> tuple[str, bool] | None:
    import openai

    key = os.environ.get(judge.api_key_env) or ""
    try:
        with openai.OpenAI(base_url=judge.url, api_key=key or "none", timeout=SECONDS, max_retries=0) as client:
            found: list[Any] = list(client.models.list().data or [])
        names = [str(model.id) for model in found]
    except (openai.AuthenticationError, openai.PermissionDeniedError):
        state = "is refused" if key else "is not set"
        return f"{start}: {judge.url} wants a key, and ${judge.api_key_env} {state}: export the right one", True
    except openai.APIConnectionError:
        return f"{start}: {judge.url} does not answer: start it, or correct the address", True
    except (openai.APIError, ValueError, AttributeError, TypeError):
        return f"{start}: {judge.url} answers, but does not list its models, so the name is not checked", False
    if names and judge.model not in names:
        has = listed(names, _NAMED)
        return f"{start}: {judge.url} does not list that model (it has: {has}): correct it", True
    return None
