"""`samples.jsonl`: some of the student's own answers during training, as text, so that one can watch it learn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tutelage.common.metrics_log import MetricsFile
from tutelage.common.run_folder import SAMPLES
from tutelage.common.types import TokenSequence

KEPT = 50  # answers per run, evenly over its steps
_AS_IT_IS = {"clean_up_tokenization_spaces": False}  # a tokenizer may remove spaces before punctuation, or warn of it


class SampleLog:
    """Keeps about `KEPT` answers of a run of `total` optimizer steps; one that resumes after step `start` keeps those
    up to it."""

    def __init__(self, folder: Path, start: int, total: int, tokenizer: Any) -> None:
        self.tokenizer, self.every = tokenizer, max(1, total // KEPT)
        self._file = MetricsFile(folder / SAMPLES, start)

    def write(self, step: int, sequences: Sequence[TokenSequence]) -> None:
        """Keep the first answer of the student in the batch of optimizer step `step` (from 1), if it is its turn."""
        own = next((one for one in sequences if one.author == "student"), None)
        if own is None or (step - 1) % self.every:
            return
        ids = own.ids.tolist()
        prompt, answer = ids[: own.prompt_length], ids[own.prompt_length :]
        self._file.write(
            {
                "step": step,
                "row": own.index,
                "prompt": self.tokenizer.decode(prompt, **_AS_IT_IS),
                "answer": self.tokenizer.decode(answer, skip_special_tokens=True, **_AS_IT_IS),
                "cut": own.cut,
            }
        )

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def sample_log(folder: Path, start: int, total: int, tokenizer: Any) -> Iterator[SampleLog]:
    """A `SampleLog` that is closed at the end of the block."""
    log = SampleLog(folder, start, total, tokenizer)
    try:
        yield log
    finally:
        log.close()
