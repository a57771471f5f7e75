"""A trained model is saved in the type that the recipe names, in shards, as transformers reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes_fixture import Workshop
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tutelage.models.checkpoints import save
from tutelage.recipe.load import load_recipe
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner

pytestmark = pytest.mark.slow


def trained(workshop: Workshop, **changes: Any) -> Path:
    file = workshop.write(**changes)
    run = Planner(load_recipe(file), file.parent, workshop.runs).stage_run("sft", 0)
    do_run(run)
    return run.folder / "model"


def test_bfloat16_shards_are_the_rounded_weights(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    whole = load_file(trained(workshop) / "model.safetensors")
    assert {weight.dtype for weight in whole.values()} == {torch.float32}
    monkeypatch.setattr(save, "MAX_SHARD", "20KB")
    folder = trained(workshop, training__save_precision="bfloat16")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    found = {name: weight for shard in shards for name, weight in load_file(shard).items()}
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], weight.to(torch.bfloat16)) for name, weight in whole.items())
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.state_dict()["model.norm.weight"], found["model.norm.weight"])
