from __future__ import annotations

import math

import pytest

from tutelage.report.labels import AVERAGE
from tutelage.report.study.paper_values import paper_values


def test_values_agree_with_each_other() -> None:
    """Table 1 prints its averages, and table 3 has its SFT and GKD rows again."""
    paper = paper_values()
    table = paper.content["table1"]
    for method, row in table["rows"].items():
        assert sum(row[:5]) / 5 == pytest.approx(row[5], abs=0.0051)
        if method != "seqkd":
            assert row[:5] == paper.content["table3"][table["student"]][939000][method]
    assert [len(paper.content["table3"][s]) for s in paper.students] == [9, 9, 9]
    # the whole part of table 3's averages, where it can be read
    read = {("Llama-3.2-1B", 10000): (17, 18), ("Llama-3.2-1B", 939000): (28, 29), ("Llama-3.2-3B", 100000): (37, 36),
            ("Llama-3.1-8B", 20000): (47, 48), ("Llama-3.1-8B", 150000): (50, 49)}  # fmt: skip
    for (student, size), whole in read.items():
        found = [paper.general(student, size, m, AVERAGE) for m in ("sft", "gkd_sft")]
        assert tuple(math.floor(value or 0) for value in found) == whole


def test_models_and_sizes_are_known_by_other_names() -> None:
    paper = paper_values()
    assert paper.student("meta-llama/Llama-3.2-1B") == "Llama-3.2-1B"
    assert paper.student("/models/llama3.1-8b") == "Llama-3.1-8B"
    assert paper.student("Llama-3.1-70B") is None
    assert paper.student("SmolLM2-135M") is None
    assert paper.general("Llama-3.1-8B", 939_343, "sft", "bbh") == 43.42
    assert paper.general("Llama-3.1-8B", 939_343, "seqkd", "ifeval") == 63.59
    assert paper.general("Llama-3.1-8B", 10_000, "seqkd", "ifeval") is None
    assert paper.domain("Llama-3.2-1B", "two_stage", "arc_challenge") == 70.31
    assert (paper.same_metric("flores", "comet"), paper.same_metric("flores", "chrf")) == (True, False)
