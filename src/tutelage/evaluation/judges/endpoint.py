"""The endpoint of a judge model, and the rules that it judges by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tutelage.common.files import cache_folder

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

    url: str  # the base address, such as https://api.openai.com/v1 or http://localhost:8000/v1
    model: str
    api_key_env: str = "OPENAI_API_KEY"  # the environment variable that holds the key
    concurrency: int = 8  # responses judged at the same time
    timeout: float = 120.0  # seconds per request
    retries: int = 6  # after the first try of a request, waiting longer each time
    cache_folder: Path | None = None  # for answers and the report; None: `judge` in the tool's cache folder
    temperature: float | None = 0.0  # None: not sent, for models that do not allow it
    max_tokens: int | None = None  # None: not sent, as in the benchmark's own script
    rules: str = RULES  # sent before the first question

    @property
    def folder(self) -> Path:
        """Where answers and the report are kept."""
        return self.cache_folder or cache_folder() / "judge"
