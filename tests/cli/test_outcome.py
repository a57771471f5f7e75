"""What the command says last."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fake_run import make_run

from tutelage.cli.outcome import _to_talk_to


@pytest.mark.parametrize(("best", "first", "second"), [("sft", "sft", "gkd"), ("gkd", "gkd", "sft")])
def test_the_best_model_is_offered_first_and_its_opponent_beside_it(
    tmp_path: Path, best: str, first: str, second: str
) -> None:
    def change(stage: str, records: list) -> list:
        score = {best: 90.0, "teacher": 99.0}.get(stage, 40.0)
        return [dataclasses.replace(one, scores=dict.fromkeys(one.scores, score)) for one in records]

    results = make_run(tmp_path, count=10, change=change)
    rows = (dataclasses.replace(one, teacher="teacher" if one.kind == "distill" else None) for one in results.rows)
    results = dataclasses.replace(results, rows=tuple(rows), reference="sft")
    folders = [Path(f"{results.name}-{stage}-s{seed}") for stage in ("sft", "gkd") for seed in (0, 1)]
    assert [folder.name for folder in _to_talk_to(results, folders)] == [
        f"{results.name}-{stage}-s1" for stage in (first, second)
    ]
    assert _to_talk_to(dataclasses.replace(results, rows=(), reference=None), folders[:1]) == folders[:1]
