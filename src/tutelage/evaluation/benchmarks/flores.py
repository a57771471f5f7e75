"""FLORES-200, Assamese to English: the 1,012 lines of devtest; lines 0-499 are the paper's dev part, the rest its test.

Data: github Helsinki-NLP/OPUS-MT-testsets (devtest/asm_Beng.devtest, eng_Latn.devtest). `chrf` is chrF2 by sacrebleu:
the corpus score, with its standard error by the bootstrap over sentences; `comet` is Unbabel's COMET-22, which runs in
an environment of its own (`tutelage setup comet`). The paper does not say which lines are its dev part; here the first
500.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks.base import Benchmark, Item, Prompt, Reply, Scored, user
from tutelage.evaluation.benchmarks.data import Hub, find, hub_rows, read_text_lines
from tutelage.evaluation.clusters import Metric
from tutelage.evaluation.readers.thoughts import answer_of
from tutelage.evaluation.records import ExampleRecord

INSTRUCTION = "Translate the following sentence from Assamese to English."
DEV_LINES = 500
_RESAMPLES = 1000


@dataclass(frozen=True)
class Flores(Benchmark):
    files: ClassVar[tuple[str, ...]] = tuple(f"flores/devtest/{code}.devtest" for code in ("asm_Beng", "eng_Latn"))
    hub: ClassVar[str] = "openlanguagedata/flores_plus"
    metrics: ClassVar[Mapping[str, Metric]] = {"comet": Metric(), "chrf": Metric()}
    headline: ClassVar[str] = "chrf"
    max_new_tokens: ClassVar[int] = 256
    stop: ClassVar[tuple[str, ...]] = ("\n",)

    def items(self, data_dir: Path | None, seed: int) -> list[Item]:
        sources, targets = (_lines(data_dir, code) for code in ("asm_Beng", "eng_Latn"))
        if len(sources) != len(targets):
            raise TutelageError(
                f"flores: {len(sources)} Assamese lines but {len(targets)} English ones; "
                "take both files from one source"
            )
        return [
            Item(str(number), source, (target,), {}, "dev" if number < DEV_LINES else "test")
            for number, (source, target) in enumerate(zip(sources, targets, strict=True))
        ]

    def prompt(self, item: Item, chat: bool, shots: int) -> Prompt:
        asked = f"{INSTRUCTION}\n\n{item.prompt}"
        return (
            Prompt(messages=user(asked)) if chat else Prompt(text=f"{INSTRUCTION}\n\nAssamese: {item.prompt}\nEnglish:")
        )

    def score_reply(self, item: Item, reply: Reply) -> Scored:
        from sacrebleu.metrics.chrf import CHRF

        answer = reply.text.strip()
        value = CHRF().sentence_score(answer, list(item.targets)).score / 100
        comet = 0.0 if reply.comet is not None and not answer else reply.comet  # it gives an empty text some, too
        said = "" if comet is None else f", COMET {100 * comet:.1f}"
        return Scored({"comet": comet, "chrf": value}, answer or None, f"sentence chrF {100 * value:.1f}{said}")

    def summarise(self, records: Sequence[ExampleRecord]) -> dict[str, Any]:
        """See `Benchmark`. chrF is the corpus score, not the mean over sentences; COMET is left out where absent."""
        result = super().summarise(records)
        for entry, members in [
            (result, records),
            *((entry, [r for r in records if r.group == name]) for name, entry in result["groups"].items()),
        ]:
            entry["metrics"]["chrf"] = corpus_chrf(members)
            if "value" in entry:
                entry |= entry["metrics"]["chrf"]
            if all(record.scores.get("comet") is None for record in members):
                entry["metrics"].pop("comet")
        return result


def with_comet(items: Sequence[Item], replies: Mapping[str, Reply]) -> dict[str, Reply]:
    """The replies, those without a score of COMET with one. Raises TutelageError when COMET gives none."""
    from tutelage.evaluation.judges.comet import comet_scores

    asked = [item for item in items if item.id in replies and replies[item.id].comet is None]
    if not asked:
        return dict(replies)
    texts = [answer_of(replies[item.id].text).strip() for item in asked]
    values = comet_scores([item.prompt for item in asked], texts, [item.targets[0] for item in asked])
    found = [None if math.isnan(value) else value for value in values]
    scored = {item.id: replace(replies[item.id], comet=value) for item, value in zip(asked, found, strict=True)}
    return {**replies, **scored}


def corpus_chrf(records: Sequence[ExampleRecord], seed: int = 0) -> dict[str, float | None]:
    """Corpus chrF2 of the records' replies, 0..100; `stderr` is the standard deviation of 1,000 bootstrap samples."""
    if not records:
        return {"value": None, "stderr": None}
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    replies = [answer_of(record.response).strip() for record in records]
    references = [[record.references[0] for record in records]]
    counts = np.array(metric._extract_corpus_statistics(replies, references), dtype=np.int64)  # [sentences, counts]
    value = metric._compute_score_from_stats(counts.sum(0).tolist()).score
    if len(records) < 2:
        return {"value": value, "stderr": None}
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(_RESAMPLES):
        times = np.bincount(generator.integers(len(records), size=len(records)), minlength=len(records))
        drawn.append(metric._compute_score_from_stats((times @ counts).tolist()).score)
    error = float(np.std(drawn, ddof=1))
    return {"value": value, "stderr": None if math.isnan(error) else error}


def _lines(data_dir: Path | None, code: str) -> list[str]:
    if data_dir is not None:
        return read_text_lines(find(data_dir, f"flores/devtest/{code}.devtest"))
    rows = hub_rows(Hub("openlanguagedata/flores_plus", "devtest", code))
    return [str(row["text"]) for row in rows]
