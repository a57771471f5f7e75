"""Whether a distilled model got nearer to its teacher, by what its runs measured on the validation rows."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from tutelage.common import run_folder
from tutelage.report.numbers import number

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import ResultRow


@dataclass(frozen=True)
class ToTeacher:
    """A trained row beside its teacher. The divergence is that of its loss, in nats per token, a mean over seeds."""

    section: str | None  # of the validation rows
    before: float | None  # its training; None: not measured
    after: float | None
    learning_rate: float

    @property
    def is_no_nearer(self) -> bool:
        """Whether the divergence was measured, and did not fall."""
        return self.before is not None and self.after is not None and not self.after < self.before

    @property
    def lower_rate(self) -> str:
        """About a third of its learning rate."""
        return number(float(f"{self.learning_rate / 3:.1e}"))

    @property
    def text(self) -> str:
        """ "0.0025 → 0.0169"; empty where it was not measured."""
        return "" if self.before is None or self.after is None else f"{self.before:.3g} → {self.after:.3g}"


def to_teacher(row: ResultRow) -> ToTeacher | None:
    """What the runs of a row say; None while it has none that is done."""
    folders = [run.trained for run in row.runs if run.trained is not None and run_folder.is_done(run.trained)]
    configs = [run_folder.read_json(folder, run_folder.CONFIG) for folder in folders]
    if not configs or not configs[0].get("training"):
        return None
    results = [run_folder.read_json(folder, run_folder.RESULT) for folder in folders]
    known = [one for one in results if "divergence_after" in one]  # runs of before 2026-12 do not have it
    before, after = (
        fmean(one[f"divergence_{when}"] for one in known) if known else None for when in ("before", "after")
    )
    training = configs[0]["training"]
    return ToTeacher(training["validation"], before, after, training["learning_rate"])
