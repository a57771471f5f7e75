"""What a report says of perplexity."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.runs.perplexity import perplexity_fact

FELL = "; higher: its aim is the teacher's probabilities, not the rows' answers; its divergence from them fell (0.02 → 0.01)"
ROSE = "; its divergence from the teacher did not fall (0.0025 → 0.0169): take a smaller learning rate"


@pytest.mark.parametrize(("after", "ce_weight", "divergence", "comment"), [
    (1.186, 0.0, (0.02, 0.01), FELL), (1.186, 0.0, (0.0025, 0.0169), ROSE), (1.186, 0.0, (0.01, 0.01), "did not fall"),
    (1.186, 0.0, None, ""), (1.186, 0.1, (0.02, 0.01), ""), (1.100, 0.0, (0.02, 0.01), ""), (1.186, None, None, ""),
])  # fmt: skip
def test_a_higher_perplexity_after_distilling_is_excused_only_where_the_student_got_nearer_to_its_teacher(
    after: float, ce_weight: float | None, divergence: tuple[float, float] | None, comment: str
) -> None:
    config = SimpleNamespace() if ce_weight is None else SimpleNamespace(ce_weight=ce_weight)
    models = {"student": SimpleNamespace(path="student")}
    rows = SimpleNamespace(validation="dev")
    run: Any = SimpleNamespace(stage="gkd", config=config, training=rows, models=models, parents=())
    result = {"perplexity_before": 1.111, "perplexity_after": after}
    if divergence:
        result |= {"divergence_before": divergence[0], "divergence_after": divergence[1]}
    (text,) = perplexity_fact(run, result).values()
    start = f"1.111 before this stage, {after:.3f} after it"
    assert text == start + comment or (comment == "did not fall" and comment in text)
