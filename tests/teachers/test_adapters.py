"""Students with an adapter and quantised teachers, with a teacher in each of its places."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from teacher_servers import Served

pytest.importorskip("peft", reason="peft is not installed: pip install 'tutelage[lora]'")

import jobs
import teacher_servers
import tiny
import torch

from tutelage.data.batch import make_micro_batch
from tutelage.models.load import load_model
from tutelage.models.surgery.lora import adapted_layers, add_adapter, save_adapter
from tutelage.recipe.sections import LoraConfig, ModelConfig
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.cost.facts import machine
from tutelage.runs.kinds import cost_of
from tutelage.runs.preflight.check import find_problems
from tutelage.runs.run import Run
from tutelage.runs.stages import teacher as stage
from tutelage.teachers.local import LocalSource
from tutelage.teachers.protocol import question_of

Distil = Callable[..., Any]
LORA = {"student__lora": {"r": 4}, "training__learning_rate": 0.01}


def own(models: Path) -> dict[str, Any]:
    """Changes after which the teacher is the student's frozen base."""
    return LORA | {"teacher": {"path": str(models / "student")}}


@pytest.mark.slow
@pytest.mark.parametrize("cache", [None, "exact"])
def test_a_served_teacher_of_an_adapter(distil: Distil, served: Served, unloaded: list[str], cache: str | None) -> None:
    local = distil("local", 0.5, LORA)
    asked = distil("runs", 0.5, LORA, signal={"served": served.url} | ({"cache": cache} if cache else {}))
    asked.equals(local)
    assert asked.run.fingerprint == local.run.fingerprint
    assert len(unloaded) == 1


@pytest.mark.slow
@pytest.mark.parametrize("on_policy", [0.0, 0.5])
def test_a_cache_of_the_frozen_base(distil: Distil, tiny_models: Path, unloaded: list[str], on_policy: float) -> None:
    local = distil("local", on_policy, own(tiny_models))
    cached = distil("runs", on_policy, own(tiny_models), signal={"cache": "exact"})
    cached.equals(local)
    assert unloaded == []  # neither run has a second copy
    assert json.loads((cached.run.folder / "result.json").read_text())["adapter"]["shared_base"]


@pytest.mark.slow
def test_a_served_teacher_that_is_the_frozen_base(distil: Distil, tiny_models: Path) -> None:
    made = teacher_servers.serving(str(tiny_models / "student"))
    try:
        asked = distil("runs", 0.5, own(tiny_models), signal={"served": made.url})
    finally:
        made.stop()
    asked.equals(distil("local", 0.5, own(tiny_models)))


@pytest.mark.slow
def test_a_teacher_that_is_an_adapter(distil: Distil, tiny_models: Path, tmp_path: Path, unloaded: list[str]) -> None:
    """Merged where it teaches; where it does not, its shapes and tokenizer are its base's."""
    base = str(tiny_models / "teacher")
    model = load_model(ModelConfig(path=base)).model
    add_adapter(model, LoraConfig(r=2), seed=0)
    for layer in adapted_layers(model).values():
        torch.nn.init.constant_(layer.lora_B["default"].weight, 0.3)
    save_adapter(model, tmp_path / "kept", base)
    kept = {"teacher": {"path": str(tmp_path / "kept")}}
    local = distil("local", 0.0, kept)
    assert abs(local.metrics[0]["loss"] - distil("base", 0.0).metrics[0]["loss"]) > 1e-3
    made = teacher_servers.serving(str(tmp_path / "kept"))
    count = len(unloaded)
    try:
        distil("runs", 0.0, kept, signal={"served": made.url, "cache": "exact"}).equals(local)
    finally:
        made.stop()
    assert len(unloaded) == count


def test_a_shared_source_answers_without_the_adapter() -> None:
    """With an adapter on the head, too: hidden states and head are the base's."""
    model = tiny.llama()
    batch = make_micro_batch(tiny.sequences((9, 6)), [1.0] * 2, padded=False)
    plain = LocalSource(jobs.loaded(tiny.llama()))
    states, head = plain.answer(question_of(batch)), plain.head()
    add_adapter(model, LoraConfig(r=2, targets=["q_proj", "lm_head"]), seed=0)
    for layer in adapted_layers(model).values():
        torch.nn.init.ones_(layer.lora_B["default"].weight)
    model.train()
    source = LocalSource(jobs.loaded(model), shared=True)
    assert torch.equal(source.answer(question_of(batch)), states)
    assert torch.equal(source.head().weight, head.weight)
    assert model.training
    assert all(p.requires_grad == (".lora_" in name) for name, p in model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("on_policy", [0.0, 0.5])
def test_a_quantised_teacher_that_is_computed_once(distil: Distil, on_policy: float) -> None:
    if find_spec("torchao") is None:
        pytest.skip("torchao is not installed: pip install 'tutelage[quant]'")
    eight = {"teacher__precision": "int8"}
    local, cached = distil("local", on_policy, eight), distil("runs", on_policy, eight, signal={"cache": "exact"})
    cached.equals(local)
    costs = [json.loads((one.run.folder / "teacher_precision.json").read_text()) for one in (local, cached)]
    for key in ("kl", "change", "loss"):
        assert costs[1]["teacher_precision"][key] == pytest.approx(costs[0]["teacher_precision"][key], rel=1e-3)
    # What the unquantised teacher says is kept apart.
    plain = distil("runs", on_policy, signal={"cache": "exact"})
    assert len(list((plain.run.folder.parent / stage.CACHE).iterdir())) == 2
    plain.equals(distil("plain", on_policy))


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        ({"served": "http://localhost:1"}, "`teacher.precision: int8` is of a teacher held here, and `signal.served` "),
        ({"openai": "http://localhost:1/v1"}, "held here, and `signal.openai` asks one elsewhere: remove one"),
        ({"cache": "top_k"}, "is measured on all tokens, and `signal.cache: top_k` keeps the likeliest ones: keep it"),
        ({"cache": "exact"}, None),
    ],
)
def test_where_a_quantised_teacher_cannot_be(plan: Callable[..., Run], signal: dict[str, Any], message: str) -> None:
    run = plan("runs", 0.5, {"teacher__precision": "int8"}, signal=signal)
    found = [one.text for one in find_problems([run], run.folder.parent, network=False, here=False)]
    assert [text for text in found if "precision" in text] == ([] if message is None else found)
    if message is not None:
        (text,) = found
        assert text.startswith("stage `gkd`: ")
        assert message in text


def test_the_cost_of_an_adapter_beside_a_teacher_elsewhere(plan: Callable[..., Run], tiny_models: Path) -> None:
    """A base that is shared is held once, a served teacher nowhere; a cache is filled beside the adapter's student."""

    def parts(changes: dict[str, Any], on_policy: float = 0.5, **signal: Any) -> Any:
        run = plan("runs", on_policy, changes, **({"signal": signal} if signal else {}))
        return cost_of(run, CostModel(machine("H100"))).memory_parts

    assert "teacher" in parts(LORA)
    assert "teacher" not in parts(LORA, served="http://localhost:1")
    assert "teacher" in parts(LORA, cache="exact")
    assert "teacher" not in parts(own(tiny_models), cache="exact")
    assert "teacher, at the start" not in parts(own(tiny_models), 0.0, cache="exact")
