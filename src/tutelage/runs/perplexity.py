"""What a report says of perplexity on held-out rows."""

from __future__ import annotations

from typing import Any

from tutelage.runs.run import Run, maker_of

# In words, once per report.
PERPLEXITY = (
    "between how many equally likely tokens a model wavers, per token of the right answers. 1: sure and right; "
    "thousands: such text is new to it. Near 1 after training: the rows are so like those trained on that their "
    "answers can be foretold, which says nothing of other text"
)


def perplexity_fact(run: Run, result: dict[str, Any]) -> dict[str, str]:
    """On which rows, and of the model before and after the run."""
    before, after = (
        f"{value:,.{1 if value >= 100 else 3}f}" for value in (result["perplexity_before"], result["perplexity_after"])
    )
    if run.training is None:
        rows, began, ended = run.config.prune.calibration, "before layers were cut", "after"
    else:
        maker = maker_of(run, "student")
        cut = maker is not None and maker.kind == "prune"
        rows, began, ended = run.training.validation, "when just cut" if cut else "before this stage", "after it"
    higher = result["perplexity_after"] > result["perplexity_before"] and getattr(run.config, "ce_weight", None) == 0
    aim = f"; {_why_higher(result)}" if higher and "divergence_after" in result else ""
    return {f"{run.stage}: perplexity on the rows of {rows}": f"{before} {began}, {after} {ended}{aim}"}


def _why_higher(result: dict[str, Any]) -> str:
    """Why distilling made the rows' answers less likely, by the divergence from the teacher on the same rows."""
    first, last = (result[f"divergence_{when}"] for when in ("before", "after"))
    if last < first:
        aim = "higher: its aim is the teacher's probabilities, not the rows' answers; its divergence from them fell"
        return f"{aim} ({first:.3g} → {last:.3g})"
    return f"its divergence from the teacher did not fall ({first:.3g} → {last:.3g}): take a smaller learning rate"
