"""Cutting layers: the cut model against one built small, and the choices against a direct computation."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import jobs
import pytest
import tiny
import torch

from tutelage.common.errors import TutelageError
from tutelage.data.batch import make_micro_batches
from tutelage.models.load import LoadedModel
from tutelage.models.sharding import decoder_layers
from tutelage.models.surgery.prune import block_influence, choose_layers, perplexity, prune_layers
from tutelage.recipe.stages import PruneConfig

CPU = torch.device("cpu")
ROWS = tiny.sequences([9, 6, 14, 7])
TEXT = torch.tensor([[5, 17, 33, 80, 4, 21]])


def chosen(model: Any, packed: bool = True, **config: Any) -> list[int]:
    return choose_layers(PruneConfig(**config), jobs.loaded(model, packed), ROWS, CPU)


def built_from(model: Any, keep: list[int]) -> Any:
    """A model with only these layers from the start, with the kept layers' weights."""
    small = tiny.llama(layers=len(keep), seed=99, packed=False)
    weights = {k: v for k, v in model.state_dict().items() if ".layers." not in k}
    for new, old in enumerate(keep):
        layer = model.model.layers[old].state_dict()
        weights |= {f"model.layers.{new}.{name}": value for name, value in layer.items()}
    small.load_state_dict(weights)
    return small


@pytest.mark.parametrize("keep", [[0, 2], [3, 1, 0], [2], [0, 1, 2, 3]])
def test_the_cut_model_is_the_model_of_those_layers(keep: list[int]):
    model = tiny.llama(layers=4, packed=False)
    expected = built_from(model, sorted(keep))
    prune_layers(model, keep)
    with torch.no_grad():
        assert torch.equal(model(TEXT).logits, expected(TEXT).logits)
    assert model.config.num_hidden_layers == len(keep)
    # Caches are indexed by the layers' numbers: generation with a cache must give the same tokens.
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(model.generate(TEXT, **options), expected.generate(TEXT, **options))


def test_layers_are_renumbered():
    model = tiny.llama(layers=4)
    prune_layers(model, [1, 3])
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1]


def test_layer_types_are_cut_with_the_layers():
    model = tiny.gemma2()
    assert model.config.layer_types == ["sliding_attention", "full_attention"]
    prune_layers(model, [1])
    assert (model.config.layer_types, model.config.num_hidden_layers) == (["full_attention"], 1)


@pytest.mark.parametrize("keep", [[], [0, 0], [0, 4], [4]])
def test_layers_that_do_not_exist_are_refused(keep: list[int]):
    model = tiny.llama(layers=4)
    with pytest.raises(TutelageError, match=r"`keep: \[.*must name layers from 0 to 3, each once") as error:
        prune_layers(model, keep)
    assert "\n" not in str(error.value)
    assert len(decoder_layers(model)) == 4


def test_models_without_a_list_of_layers_are_refused():
    class Odd:
        def get_decoder(self) -> Odd:
            return self

    with pytest.raises(TutelageError, match="cannot find the layers of Odd"):
        decoder_layers(Odd())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "either `layers`"),
        ({"layers": 2, "keep": [0]}, "either `layers`"),
        ({"layers": 2}, "`method: least_damage` needs `calibration`"),
        ({"layers": 2, "method": "block_influence"}, "`method: block_influence` needs `calibration`"),
        ({"layers": 0, "method": "even"}, "greater than or equal to 1"),
        ({"keep": [-1]}, "greater than or equal to 0"),
        ({"layers": 2, "methd": "even"}, "did you mean `method`"),
    ],
)
def test_contradictory_configs_are_refused(config: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        PruneConfig(**config)


def test_more_layers_than_there_are():
    with pytest.raises(TutelageError, match="`layers: 5` is more than the model's 4"):
        chosen(tiny.llama(layers=4), layers=5, method="even")


# --- choosing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "layers", "expected"), [(10, 4, [0, 3, 6, 9]), (4, 3, [0, 2, 3]), (5, 1, [0]), (4, 4, [0, 1, 2, 3])]
)
def test_even_spacing_keeps_both_ends(total: int, layers: int, expected: list[int]):
    assert chosen(tiny.llama(layers=total), layers=layers, method="even") == expected


def test_listed_layers_come_in_order():
    assert chosen(tiny.llama(layers=4), keep=[3, 0, 2]) == [0, 2, 3]


def expected_influence(model: Any) -> list[float]:
    """1 − cosine of each layer's input and output, averaged over tokens, from transformers' own hidden states."""
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    plain.model.norm = torch.nn.Identity()  # makes the last hidden state the last layer's output
    values = [[] for _ in plain.model.layers]
    with torch.no_grad():
        for row in ROWS:
            states = plain(row.ids[None], output_hidden_states=True).hidden_states
            for i, (before, after) in enumerate(pairwise(states)):
                for x, y in zip(before[0].double(), after[0].double(), strict=True):
                    values[i].append(1 - float(x @ y / (x.norm() * y.norm())))
    return [sum(v) / len(v) for v in values]


def test_block_influence_is_one_minus_the_cosine_of_input_and_output():
    model = tiny.llama(layers=4)
    expected = expected_influence(model)
    batches = make_micro_batches(ROWS, [1.0] * len(ROWS), 20, padded=False)
    assert len(batches) > 1
    assert block_influence(model, batches) == pytest.approx(expected, rel=1e-4)
    ranked = sorted(range(4), key=lambda i: -expected[i])
    assert len({round(e, 6) for e in expected}) == 4
    assert chosen(model, layers=2, method="block_influence", calibration="x") == sorted(ranked[:2])
    assert not any(layer._forward_hooks for layer in model.model.layers)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_least_damage_removes_the_layer_whose_removal_raises_the_loss_least(seed: int):
    model = tiny.llama(layers=4, seed=seed)

    def damage(keep: list[int]) -> float:
        smaller = copy.deepcopy(model)
        prune_layers(smaller, keep)
        return perplexity(jobs.loaded(smaller), ROWS, CPU)

    keep = [0, 1, 2, 3]
    while len(keep) > 2:
        keep = min(([k for k in keep if k != gone] for gone in keep), key=damage)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    steps: list[int] = []
    config = PruneConfig(layers=2, method="least_damage", calibration="x")
    assert choose_layers(config, jobs.loaded(model), ROWS, CPU, steps.append) == keep
    assert steps == [1, 1]
    after = model.state_dict()  # the model itself must not change
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert (len(model.model.layers), model.config.num_hidden_layers) == (4, 4)


@pytest.mark.parametrize("packed", [True, False])
def test_perplexity_is_that_of_the_full_logits(packed: bool):
    model = tiny.llama(layers=3) if packed else tiny.gemma2()
    plain = tiny.llama(layers=3, packed=False) if packed else model
    total, count = 0.0, 0
    with torch.no_grad():
        for row in ROWS:
            logs = plain(row.ids[None]).logits[0].double().log_softmax(-1)
            for place in range(1, len(row.ids)):
                if row.loss_mask[place]:
                    total -= float(logs[place - 1, row.ids[place]])
                    count += 1
    assert count == sum(row.response_tokens for row in ROWS)
    loaded: LoadedModel = jobs.loaded(model, packed)
    assert perplexity(loaded, ROWS, CPU) == pytest.approx(math.exp(total / count), rel=1e-5)
