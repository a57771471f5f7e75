"""What a model can read, by its config alone."""

from __future__ import annotations

import jobs
import pytest
import tiny
from transformers import AutoConfig

from tutelage.common.errors import TutelageError
from tutelage.models.limits import context_of, refuse_unknown_token

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768, "rope_theta": 1e6}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8_192, "rope_theta": 5e5}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("llama", {"max_position_embeddings": 131_072, "rope_parameters": LLAMA3}, 131_072),
        ("qwen2", {"max_position_embeddings": 32_768, "rope_parameters": YARN}, 131_072),
        ("qwen2", {"max_position_embeddings": 131_072, "rope_parameters": YARN}, 131_072),  # multiplied already
        ("llama", {"max_position_embeddings": 4_096, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, 4_096),
        ("mistral", {"max_position_embeddings": 32_768, "sliding_window": 4_096}, 32_768),
        ("gemma3", {}, 131_072),  # of its text part
        ("gpt2", {"n_positions": 1_024}, 1_024),
        ("mpt", {}, 2_048),
        ("mamba", {}, None),
        ("bloom", {}, None),
    ],
)
def test_the_context_is_the_configs(kind: str, options: dict, expected: int | None):
    assert context_of(AutoConfig.for_model(kind, **options)) == expected


def test_a_token_beyond_the_embedding_is_named():
    refuse_unknown_token("`m`", tiny.llama(), jobs.words(), [5, 96], "a.jsonl:1")
    refuse_unknown_token("`m`", tiny.llama(), jobs.words(), [], "a.jsonl:1")
    with pytest.raises(
        TutelageError, match=r"^a\.jsonl:1: has token 97 `w97`, and the embedding of `m` has only 97 rows"
    ):
        refuse_unknown_token("`m`", tiny.llama(), jobs.words(100), [5, 97, 3], "a.jsonl:1")
