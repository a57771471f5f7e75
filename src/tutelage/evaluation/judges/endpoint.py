"""The endpoint of a judge model, and the rules that it judges by."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tutelage.common.errors import TutelageError
from tutelage.common.files import cache_folder
from tutelage.common.hashing import fingerprint
from tutelage.evaluation.judges.rules import SCRIPT, official_wording, wording_of_file
from tutelage.evaluation.readers.fingerprint import reading_fingerprint
from tutelage.recipe.study import JudgeConfig

URL_VARIABLE = "TUTELAGE_JUDGE_URL"

# The benchmark's two rules in other words (docs/evaluation.md). Another meaning would make scores incomparable.
RULES = """\
You are given a Generated Text and, where there is one, the Input that it was written from. Answer each Question about \
the Generated Text with YES or NO, by your own judgment and these two rules:

- YES: the Generated Text meets the question's condition completely. The smallest inaccuracy rules YES out: when asked \
whether every sentence is in the second person, one sentence that is not makes the answer NO. A text that earns YES is \
accurate throughout and relevant to the question.

- NO: the Generated Text does not meet the condition, or holds nothing that the question could be answered from: when \
asked whether the second sentence is a compound sentence, a text of one sentence makes the answer NO."""


@dataclass(frozen=True)
class JudgeEndpoint:
    """Which model judges, and how it is asked. The key is sent to this endpoint alone, never written or logged."""

    url: str  # the base address, such as https://api.openai.com/v1 or http://localhost:8000/v1; "": not known here
    model: str
    api_key_env: str = "OPENAI_API_KEY"  # the environment variable that holds the key
    concurrency: int = 8  # responses judged at the same time
    timeout: float = 120.0  # seconds per request
    retries: int = 6  # after the first try of a request, waiting longer each time
    cache_folder: Path | None = None  # for answers and the report; None: `judge` in the tool's cache folder
    temperature: float | None = 0.0  # None: not sent, for models that do not allow it
    max_tokens: int | None = None  # None: not sent, as in the benchmark's own script
    rules: str = RULES  # sent before the first question; `official`: the benchmark's own, fetched when they are needed
    decision: str = "tutelage"  # how an answer is read: `tutelage` or `official`

    def __post_init__(self) -> None:
        if "@" in urlsplit(self.url).netloc:  # the address is shown in messages and kept in files
            raise TutelageError(
                f"the judge's address holds a password: leave it out, and put the key into ${self.api_key_env}"
            )

    @property
    def folder(self) -> Path:
        """Where answers and the report are kept."""
        return self.cache_folder or cache_folder() / "judge"

    @property
    def wording(self) -> str:
        """The rules as text. Raises TutelageError where the benchmark's own cannot be had."""
        return official_wording() if self.rules == "official" else self.rules

    @property
    def decides_officially(self) -> bool:
        return self.decision == "official"

    @property
    def fingerprint(self) -> str:
        """Eight hex digits of what decides its answers: model, rules, decision, sampling, and the code that reads them.

        Its address, key and limits do not count.
        """
        code = reading_fingerprint("tutelage.evaluation.judges.protocol")
        rules = SCRIPT if self.rules == "official" else self.rules
        return fingerprint(code, self.model, rules, self.decision, self.temperature, self.max_tokens)[:8]

    @property
    def about(self) -> dict[str, Any]:
        """What a judged result says of its judge."""
        known = {RULES: "tutelage", "official": "official"}
        rules = known.get(self.rules) or f"own ({fingerprint(self.rules)[:8]})"
        return {"model": self.model, "rules": rules, "decision": self.decision, "fingerprint": self.fingerprint}


def judge_of(config: JudgeConfig | None) -> JudgeEndpoint | None:
    """The endpoint of a `judge` section; None where it names no model.

    The address is the section's, else `$TUTELAGE_JUDGE_URL`, else unknown. Raises TutelageError where the file of the
    rules cannot be read.
    """
    if config is None or config.model is None:
        return None
    rules = {"tutelage": RULES, "official": "official"}.get(config.rules) or wording_of_file(Path(config.rules))
    return JudgeEndpoint(
        url=config.url or os.environ.get(URL_VARIABLE, ""),
        model=config.model,
        api_key_env=config.api_key_env,
        concurrency=config.requests,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        rules=rules,
        decision=config.decision or ("official" if config.rules == "official" else "tutelage"),
    )


def with_url(judge: JudgeEndpoint, task: str) -> JudgeEndpoint:
    """The judge, unless its address is not known. Raises TutelageError then."""
    if not judge.url:
        raise TutelageError(f"{task} is judged by `{judge.model}`: set `judge.url`, or export {URL_VARIABLE}")
    return judge
