"""Situations: a task, a student, a teacher and a number of rows; what was known of them beforehand; and, where both
arms have been run, by how much GKD beat its fair opponent, SFT and then as much SFT again.

They come from three places: the table that ships with the project (`situations.csv`, numbers only), the recipes that
were finished in a runs folder (`RUNS/situations/*.json`), and the recipe that a forecast is asked for, whose outcome is
not known.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically

FOLDER = "situations"  # below the runs folder
MOST_PILOTS = 3
SAME = "same"  # the teacher is fine-tuned on the rows that the student learns from


@dataclass(frozen=True)
class Pilot:
    """The arms on a part of the rows, measured on dev rows. Scores are 0..100, losses nats per token."""

    rows: float
    gain: float  # GKD − SFT again
    gain_se: float
    loss_gain: float  # loss of SFT again − loss of GKD: better is positive too
    loss_gain_se: float
    again: float  # score of SFT again
    teacher: float | None = None  # of the teacher that the part's own rows made; None: the teacher was there before
    hours: float | None = None  # that the forecast has taken when this pilot is done, signals and earlier ones included
    work_share: float | None = None  # of both arms' work by the cost model, without loading and saving, that this is


@dataclass(frozen=True)
class Situation:
    """See the head of this file. `gain` and `loss_gain` are as in `Pilot`, on test rows; None where not known."""

    name: str
    source: str  # the page or recipe that it is from
    task: str
    metric: str
    teacher: str  # same, more, untouched, weaker, other, spoiled; in a user's recipe same or given
    student: str
    rows: float
    gain: float | None = None
    gain_se: float | None = None
    loss_gain: float | None = None
    loss_gain_se: float | None = None
    again: float | None = None  # the opponent's score
    hours_again: float | None = None  # that the runs of the whole arm took: SFT, SFT again
    hours_gkd: float | None = None  # SFT, the teacher where it must be made, GKD
    hours_both: float | None = None  # both arms, with what they share counted once
    signals: Mapping[str, float] = field(default_factory=dict)  # before training, by the names of SIGNALS
    pilots: tuple[Pilot, ...] = ()  # smallest first


# What may be known before any training: scores on dev rows, and the `signals` run of both models.
SIGNALS = ("teacher_score", "student_score", "teacher_loss", "student_loss", "kl", "kl_label", "kl_rest", "kl_own",
           "teacher_entropy", "teacher_ece", "lead_ends", "tokens_per_weight")  # fmt: skip
_TEXTS = ("name", "source", "task", "metric", "teacher", "student")
_NUMBERS = tuple(f.name for f in fields(Situation) if f.name not in (*_TEXTS, "signals", "pilots"))
_PILOT = tuple(f.name for f in fields(Pilot))
COLUMNS = (*_TEXTS, *_NUMBERS, *SIGNALS, *(f"pilot{n + 1}_{key}" for n in range(MOST_PILOTS) for key in _PILOT))


def situations_csv(situations: Iterable[Situation]) -> str:
    """The table of situations; what is not known is an empty field."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in situations:
        values: dict[str, Any] = {key: getattr(one, key) for key in (*_TEXTS, *_NUMBERS)} | dict(one.signals)
        for n, pilot in enumerate(one.pilots):
            values |= {f"pilot{n + 1}_{key}": value for key, value in asdict(pilot).items()}
        writer.writerow([_cell(values.get(column)) for column in COLUMNS])
    return buffer.getvalue()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else f"{value:.6g}"


def read_situations(text: str, where: str) -> list[Situation]:
    """The situations of a table. Raises TutelageError, naming `where` and the line, for one that cannot be read."""
    found = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        try:
            known = {key: float(value) for key, value in row.items() if key not in _TEXTS and value}
            pilots = []
            for n in range(MOST_PILOTS):
                mine = {key: known[f"pilot{n + 1}_{key}"] for key in _PILOT if f"pilot{n + 1}_{key}" in known}
                pilots += [Pilot(**mine)] if mine else []
            numbers: dict[str, Any] = {key: known[key] for key in _NUMBERS if key in known}
            signals = {key: known[key] for key in SIGNALS if key in known}
            texts = {key: row[key] for key in _TEXTS}
            found.append(Situation(**texts, **numbers, signals=signals, pilots=tuple(pilots)))
        except (KeyError, TypeError, ValueError) as error:
            raise TutelageError(f"{where}:{number} is not a situation ({error}): write the table anew") from None
    return found


def shipped_situations() -> list[Situation]:
    """The situations that ship with the project."""
    table = files("tutelage.forecasting") / "situations.csv"
    return read_situations(table.read_text(encoding="utf-8"), "situations.csv")


def recorded_situations(runs: Path) -> list[Situation]:
    """The situations of recipes that were finished in the folder `runs`. Files that cannot be read count as absent:
    they are only ever a help."""
    found = []
    for path in sorted((runs / FOLDER).glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["pilots"] = tuple(Pilot(**pilot) for pilot in content.get("pilots", ()))
            found.append(Situation(**content))
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return found


def record_situation(situation: Situation, runs: Path) -> Path:
    """Write a situation with a known outcome into the folder `runs`, for later forecasts; returns the file's path."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in situation.name)
    text = json.dumps(asdict(situation), indent=1) + "\n"
    return write_atomically(runs / FOLDER / f"{name}.json", text)
