"""The counts of a synthesis, and the size of its next block that follows from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.synthesis.blocks import SynthesisPlan

_ENOUGH_ATTEMPTS = 1000  # before a low acceptance counts as an error


@dataclass
class Counts:
    """Attempts, answers and accepted rows so far, and why the others were rejected."""

    plan: SynthesisPlan
    attempts: int = 0
    answered: int = 0
    accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    block_sizes: list[int] = field(default_factory=list)  # attempts of each block that was started
    block_gains: list[int] = field(default_factory=list)  # accepted rows of each block that is done

    @property
    def missing(self) -> int:
        """Accepted rows that are still to be made."""
        return self.plan.rows - self.accepted

    def add(self, reasons: Sequence[str | None], answered: int) -> None:
        """Count a block that is done. `reasons`: why each attempt was rejected, None if it was accepted."""
        gained = reasons.count(None)
        self.attempts += len(reasons)
        self.answered += answered
        self.accepted += gained
        self.block_gains.append(gained)
        self.reasons.update(reason for reason in reasons if reason is not None)

    def next_block_size(self, number: int) -> int:
        """The number of attempts of block `number`, for the rows that will be missing when it starts.

        It uses only what is known when the block starts: the gains of blocks up to `number` - 2 and the sizes of all
        before it. A resumed run knows more, but its blocks must be those of an uninterrupted one.
        """
        plan, known = self.plan, max(0, number - 1)
        accepted, tried = sum(self.block_gains[:known]), sum(self.block_sizes[:known])
        if not accepted:
            return plan.largest_block(number)
        rate = accepted / tried
        missing = plan.rows - accepted - rate * sum(self.block_sizes[known:number])
        batches = math.ceil(1.1 * missing / rate / plan.batch_size)  # 10 % more, since the rate is an estimate
        return min(plan.block_size, max(1, batches) * plan.batch_size)

    def expected_rows(self, passed: int) -> float:
        """How many of `passed` inputs will probably become rows, by the answers so far."""
        return passed * (self.accepted / self.answered if self.accepted else 1.0)

    def refuse_low_acceptance(self, folder: Path) -> None:
        """Raise TutelageError if too few of enough attempts were accepted. `folder`: of the synthesis."""
        plan = self.plan
        enough = self.attempts >= min(_ENOUGH_ATTEMPTS, plan.rows / plan.min_acceptance)
        if self.missing <= 0 or not enough or self.accepted >= plan.min_acceptance * self.attempts:
            return
        reason, count = self.reasons.most_common(1)[0]
        raise TutelageError(
            f"only {self.accepted} of {self.attempts} attempts were accepted, {count} were rejected as `{reason}`: "
            f"read {folder / 'rejected'}, then change the gold rows, the generator or `filters`, or lower "
            f"`min_acceptance`"
        )
