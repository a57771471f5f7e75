"""GPQA (Rein et al., 2023): 546 questions (extended), of which 448 are `main` and 198 of those `diamond`.

Source: github idavidrein/gpqa, dataset.zip, read in memory with the password of its README. The authors ask that the
questions never appear in plain text where a crawler may find them, so prompts and replies are written to disk sealed
(compressed and in base64). The paper's scores are multiples of 1/546, so `gpqa` is the extended set, with its subsets.

Zero-shot with a chain of thought: lm-eval's `gpqa_*_cot_zeroshot` prompt. The options are shuffled as in the official
script: by one generator, seeded by --seed (default 0), over the file's rows in order. lm-eval's limit of 256 new tokens
cuts chains of thought; here it is 1,024. `accuracy` takes the answer stated last in any usual form, `accuracy_official`
the first by the official script's patterns, `accuracy_lm_eval` that of lm-eval's flexible filter.
"""

from __future__ import annotations

import base64
import csv
import io
import random
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks.base import Benchmark, Item, Prompt, Reply, Scored
from tutelage.evaluation.benchmarks.data import Hub, find, hub_rows
from tutelage.evaluation.benchmarks.lm_eval import HarnessTask
from tutelage.evaluation.benchmarks.summary import group_entry
from tutelage.evaluation.clusters import Metric
from tutelage.evaluation.readers.find_answer import find_if_ended
from tutelage.evaluation.readers.find_letter import find_letter
from tutelage.evaluation.records import ExampleRecord

PASSWORD = b"deserted-untie-orchid"  # published by the authors beside the archive
SEAL = "sealed:"
_MOST = 50_000_000  # bytes of an unpacked text
SUBSETS = {"extended": (), "main": ("main", "diamond"), "diamond": ("diamond",)}
_OFFICIAL = (r"answer is \((.)\)", r"Answer: \((.)\)", r"answer: \((.)\)", r"answer \((.)\)", r"\((.)\)")
_WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


@dataclass(frozen=True)
class GPQA(Benchmark):
    """`subset`: the file of the archive. Items of the extended file are grouped by the smallest subset they are in."""

    subset: str = "extended"
    files: ClassVar[tuple[str, ...]] = ("gpqa/dataset.zip",)
    hub: ClassVar[str] = "Idavidrein/gpqa"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric(),
        "accuracy_official": Metric(),
        "accuracy_lm_eval": Metric(),
    }
    headline: ClassVar[str] = "accuracy"
    may_be_shown: ClassVar[bool] = False

    def items(self, data_dir: Path | None, seed: int) -> list[Item]:
        rows = _rows(data_dir, self.subset)
        smaller = [name for name in ("main", "diamond") if name != self.subset and self.subset != "diamond"]
        members = {name: {row["Record ID"] for row in _rows(data_dir, name)} for name in smaller}
        generator = random.Random(seed)
        items = []
        for row in rows:
            group = self.subset
            for name, ids in members.items():
                group = name if row["Record ID"] in ids else group
            items.append(_item(row, group, generator))
        return items

    def prompt(self, item: Item, chat: bool, shots: int) -> Prompt:
        return self._task(item).prompt(item.row, chat, shots)

    def score_reply(self, item: Item, reply: Reply) -> Scored:
        return self.score_replies([item], [reply])[0]

    def score_replies(self, items: Sequence[Item], replies: Sequence[Reply]) -> list[Scored]:
        if not items:
            return []
        texts = [self.reveal(reply.text) for reply in replies]
        by_lm_eval = self._task(items[0]).scores_of([item.row for item in items], texts)
        return [
            _scored(item, text, reply.finished, found["flexible-extract"])
            for item, reply, text, found in zip(items, replies, texts, by_lm_eval, strict=True)
        ]

    def summarise(self, records: Sequence[ExampleRecord]) -> dict[str, Any]:
        """See `Benchmark`. The groups are whole subsets: diamond is part of main, main of extended."""
        result = super().summarise(records)
        result["groups"] = {
            name: group_entry(members, list(self.metrics), self.headline)
            for name, groups in SUBSETS.items()
            if (members := [record for record in records if not groups or record.group in groups])
            and (name == self.subset or self.subset == "extended" or name == "diamond")
        }
        return result

    def conceal(self, text: str) -> str:
        return seal(text)

    def reveal(self, text: str) -> str:
        return unseal(text)

    def _task(self, item: Item) -> HarnessTask:
        if "task" not in self._cache:
            self._cache["task"] = HarnessTask("gpqa/cot_zeroshot/gpqa_main_cot_zeroshot.yaml", [item.row])
        return self._cache["task"]


def _scored(item: Item, text: str, finished: bool, lm_eval: float) -> Scored:
    letter = item.targets[0]
    read = partial(find_letter, letters="ABCD", options=item.row["choices"])
    found = find_if_ended(read, text, finished)
    scores: dict[str, float | None] = {
        "accuracy": float(found.answer == letter),
        "accuracy_official": float(official(text) == letter),
        "accuracy_lm_eval": lm_eval,
    }
    return Scored(scores, found.answer, found.how)


def official(reply: str) -> str | None:
    """The letter by the official script's patterns, tried in order."""
    for pattern in _OFFICIAL:
        match = re.search(pattern, reply)
        if match and match[1] in "ABCD":
            return match[1]
    return None


def seal(text: str) -> str:
    """The text compressed and in base64, so that crawlers do not read it; not encrypted."""
    if text.startswith(SEAL):
        return text
    return SEAL + base64.b64encode(zlib.compress(text.encode("utf-8", "surrogatepass"))).decode()


def unseal(text: str) -> str:
    """The inverse of `seal`; a text that is not sealed is returned unchanged."""
    if not text.startswith(SEAL):
        return text
    try:
        opened = zlib.decompressobj()
        content = opened.decompress(base64.b64decode(text.removeprefix(SEAL)), _MOST)
        if not opened.eof:
            raise ValueError(f"it is cut, or longer than {_MOST} bytes")
        return content.decode("utf-8", "surrogatepass")
    except (ValueError, zlib.error) as error:
        raise TutelageError(
            f"a text that begins with `{SEAL}` cannot be opened ({error}); write it as plain text"
        ) from None


def _rows(data_dir: Path | None, subset: str) -> list[dict[str, str]]:
    if data_dir is None:
        return hub_rows(Hub("Idavidrein/gpqa", "train", f"gpqa_{subset}"))
    path = find(data_dir, "gpqa/dataset.zip")
    try:
        state = path.stat()
        text = _unpacked(path, f"dataset/gpqa_{subset}.csv", (state.st_mtime_ns, state.st_size, state.st_ino))
        return list(csv.DictReader(io.StringIO(text)))
    except (zipfile.BadZipFile, KeyError, RuntimeError, zlib.error, UnicodeDecodeError) as error:
        raise TutelageError(
            f"{path}: gpqa_{subset}.csv cannot be read ({error}); take dataset.zip from its authors"
        ) from None


@lru_cache(maxsize=4)  # Python takes a second to decrypt the extended set, and a study's plan reads it several times
def _unpacked(path: Path, name: str, state: tuple[int, ...]) -> str:
    """A file of the archive, which is in this state."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name)
        if member.file_size > _MOST:  # zipfile reads no more than it is declared to have
            raise zipfile.BadZipFile(f"it has {member.file_size} bytes, and the benchmark's has less than {_MOST}")
        return archive.read(member, pwd=PASSWORD).decode("utf-8")


def _item(row: Mapping[str, str], group: str, generator: random.Random) -> Item:
    order = [*(row[name] for name in _WRONG), row["Correct Answer"]]
    generator.shuffle(order)
    letter = "ABCD"[order.index(row["Correct Answer"])]
    choices = [" ".join(choice.strip().replace(" [title]", ". ").split("  ")) for choice in order]
    shown = {f"choice{place}": choice for place, choice in enumerate(choices, 1)}
    asked = {"Question": row["Question"], **shown, "choices": choices, "answer": f"({letter})"}
    listed = "\n".join(f"({one}) {choice}" for one, choice in zip("ABCD", choices, strict=True))
    return Item(row["Record ID"], f"{row['Question']}\n{listed}", (letter,), asked, group, 0.25)
