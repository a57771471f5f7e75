"""Adapters against arithmetic of their own: W + scale·B·A, its gradients, merging, files, sampling, a shared base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch

pytest.importorskip("peft", reason="peft is not installed: pip install 'tutelage[lora]'")

from tutelage.common.errors import TutelageError
from tutelage.common.types import TokenStats
from tutelage.data.batch import make_micro_batch
from tutelage.loss.objective import CrossEntropy, Divergence
from tutelage.models.language_model import LanguageModel
from tutelage.models.surgery import lora
from tutelage.recipe.sections import LoraConfig
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.teachers.local import LocalTeacher

HEAD = ["q_proj", "v_proj", "down_proj", "lm_head"]
IDS = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(1))


def adapted(model: Any = None, seed: int = 5, **config: Any) -> Any:
    """A tiny model with an adapter that changes what it computes (a new one does not: B is 0)."""
    model = tiny.llama() if model is None else model
    lora.add_adapter(model, LoraConfig(**{"r": 4, "alpha": 6.0} | config), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora.adapted_layers(model).values():
            layer.lora_B["default"].weight.normal_(0.0, 0.2, generator=generator)
    return model


def batch(model: Any) -> Any:
    sequences = tiny.sequences((9, 6, 14))
    return make_micro_batch(sequences, [0.1] * 3, padded="gemma" in type(model).__name__.lower())


def loss_of(model: Any, objective: Any = None, teacher: Any = None) -> tuple[torch.Tensor, TokenStats]:
    return LanguageModel(model)(batch(model), objective or CrossEntropy(), teacher)


def test_a_new_adapter_changes_nothing_and_depends_on_its_seed_alone():
    base, model = tiny.llama(), tiny.llama()
    torch.manual_seed(77)
    before = torch.get_rng_state()
    lora.add_adapter(model, LoraConfig(), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model(IDS).logits, base(IDS).logits)
    torch.manual_seed(3)
    again, other = (tiny.llama() for _ in range(2))
    lora.add_adapter(again, LoraConfig(), seed=1)
    lora.add_adapter(other, LoraConfig(), seed=2)
    weights = [lora.adapter_weights(one) for one in (model, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    assert not torch.equal(weights[0][name], weights[2][name])
    assert 0.9 < float(weights[0][name].abs().max()) * 32**0.5 <= 1.0
    assert lora.trainable_weights(model) == sum(w.numel() for w in weights[0].values())


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("targets", ["all-linear", HEAD])
def test_merging_changes_no_logit(targets: Any, tie: bool):
    model = adapted(tiny.llama(tie=tie), targets=targets)
    merged = lora.merged_model(model)
    assert not lora.adapted_layers(merged)
    assert merged.config.tie_word_embeddings == (tie and targets == "all-linear")
    before = tiny.llama(tie=tie)(IDS).logits
    assert (model(IDS).logits - before).abs().max() > 0.5
    for other in (merged, copy.deepcopy(merged)):
        assert (other(IDS).logits - model(IDS).logits).abs().max() < 1e-5
    # what a layer's weight becomes, by hand
    layer = model.model.layers[1].mlp.down_proj
    by_hand = layer.base_layer.weight + 1.5 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.allclose(merged.model.layers[1].mlp.down_proj.weight, by_hand, atol=1e-7)


def test_bfloat16_weights_are_merged_in_float32_and_rounded_once():
    model = adapted(tiny.llama().to(torch.bfloat16))
    layer = model.model.layers[0].self_attn.q_proj
    assert layer.lora_A["default"].weight.dtype == torch.float32
    exact = layer.base_layer.weight.float() + 1.5 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    merged = dict(lora.merged_weights(model))["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(merged, exact.to(torch.bfloat16))


@pytest.mark.parametrize("objective", [CrossEntropy(), Divergence(0.5)])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj", "model.layers.0.self_attn.q_proj", "lm_head"])
def test_gradients_are_those_of_the_whole_weight_projected(name: str, objective: Any):
    """With G = d loss / d W of a whole model with the merged weights: dA = scale·Bᵀ·G and dB = scale·G·Aᵀ."""
    signal = LocalTeacher(jobs.loaded(tiny.llama(layers=3, hidden=48, seed=1))).signal(batch(None))
    model = adapted(tiny.llama(tie=False), targets=HEAD)
    whole = lora.merged_model(model).requires_grad_(True)
    whole.set_attn_implementation("tutelage")
    (loss, _), (reference, _) = loss_of(model, objective, signal), loss_of(whole, objective, signal)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    loss.backward()
    reference.backward()
    layer, gradient = model.get_submodule(name), whole.get_submodule(name).weight.grad
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    for found, expected in ((a.grad, 1.5 * b.T @ gradient), (b.grad, 1.5 * gradient @ a.T)):
        assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    assert layer.base_layer.weight.grad is None


def test_a_full_rank_adapter_steps_as_all_weights_do():
    """A = 1, B = 0, scale 1: a step of gradient descent on B is the step of W itself."""
    model, whole = tiny.llama(tie=False), tiny.llama(tie=False)
    lora.add_adapter(model, LoraConfig(r=32, alpha=32.0, targets=["up_proj"]), seed=0)
    for layer in lora.adapted_layers(model).values():
        layer.lora_A["default"].weight.data.copy_(torch.eye(32))
        layer.lora_A["default"].weight.requires_grad_(False)
    for _ in range(3):
        for one in (model, whole):
            loss_of(one)[0].backward()
            with torch.no_grad():
                for name, parameter in one.named_parameters():
                    if "up_proj" in name and parameter.grad is not None:
                        parameter -= 0.05 * parameter.grad
            one.zero_grad()
    merged = lora.merged_model(model)
    for a, b in zip(merged.model.layers, whole.model.layers, strict=True):
        assert torch.allclose(a.mlp.up_proj.weight, b.mlp.up_proj.weight, atol=1e-6)
    assert not torch.allclose(whole.model.layers[0].mlp.up_proj.weight, tiny.llama().model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("targets", ["all-linear", HEAD])
def test_the_sampler_samples_the_adapted_model(packed: bool, targets: Any):
    model = adapted(tiny.llama() if packed else tiny.gemma2(), targets=targets)
    sampler = TorchSampler(model.train(), jobs.ENDS, packed)
    assert sampler.model is model
    prompts = [[5, 9, 11], [7, 3, 60, 8, 31], [4]]
    samples = sampler.sample(prompts, max_new_tokens=12, temperature=1.0, top_p=1.0, seeds=[1, 2, 3])
    merged = lora.merged_model(model)
    merged.set_attn_implementation("eager")  # transformers' own, for its generate
    for prompt, sample in zip(prompts, samples, strict=True):
        logits = merged(torch.tensor([[*prompt, *sample.tokens]])).logits[0, len(prompt) - 1 : -1].float()
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(sample.tokens)[:, None]).squeeze(-1)
        assert torch.allclose(torch.tensor(sample.logprobs), expected, atol=2e-5)
    scores = sampler.score(prompts, [list(s.tokens) for s in samples])
    assert torch.allclose(torch.cat(scores), torch.tensor([p for s in samples for p in s.logprobs]), atol=2e-5)
    greedy = sampler.sample(prompts, max_new_tokens=12, temperature=0.0, top_p=1.0, seeds=[0] * 3)
    for prompt, sample in zip(prompts, greedy, strict=True):
        out = merged.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=list(jobs.ENDS), pad_token_id=0
        )
        assert out[0, len(prompt) :].tolist() == list(sample.tokens)


@pytest.mark.parametrize("targets", ["all-linear", HEAD])
def test_a_shared_base_is_a_separate_teacher(targets: Any):
    model = adapted(targets=targets, dropout=0.0 if targets is HEAD else 0.3).train()
    shared = LocalTeacher(jobs.loaded(model), shared=True)
    alone = LocalTeacher(jobs.loaded(tiny.llama()))
    mine, own = (one.signal(batch(model)) for one in (shared, alone))
    assert torch.equal(mine.hidden, own.hidden)
    assert torch.equal(mine.head.weight, own.head.weight)
    assert model.training  # as it was
    assert all(not layer._disable_adapters for layer in lora.adapted_layers(model).values())
    assert {p.requires_grad for n, p in model.named_parameters() if "lora_" in n} == {True}


def test_peft_reads_what_is_saved(tmp_path: Path):
    import peft

    model = adapted(targets=["q_proj", "down_proj"])
    tiny.llama().save_pretrained(tmp_path / "base")
    lora.save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == ["adapter_config.json", lora.WEIGHTS]
    again = peft.PeftModel.from_pretrained(tiny.llama(), str(tmp_path / "adapter"))
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    other = tiny.llama()
    lora.add_adapter(other, LoraConfig(r=4, alpha=6.0, targets=["q_proj", "down_proj"]), seed=9)
    lora.load_adapter(other, tmp_path / "adapter")
    assert torch.equal(other(IDS).logits, model(IDS).logits)
    wrong = adapted(targets=["q_proj"])
    with pytest.raises(TutelageError, match="is not of this model and these `targets`"):
        lora.load_adapter(wrong, tmp_path / "adapter")


def test_refusals(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(TutelageError, match=r"has no linear map `q_prj` \(it has: down_proj, .*lm_head.*\)"):
        adapted(targets=["q_proj", "q_prj"])
    with pytest.raises(TutelageError, match="the head's adapter has none"):
        adapted(targets=HEAD, dropout=0.1)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(TutelageError, match=r"^`lora` needs peft: pip install 'tutelage\[lora\]'$"):
        adapted()


def mixture(family: str, **more: Any) -> Any:
    """A tiny mixture of experts with random weights."""
    import transformers

    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4, "num_local_experts": 4}
    sizes |= {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes | ends | more)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


@pytest.mark.parametrize("family", ["Mixtral", "Qwen3Moe", "Olmoe", "GptOss", "GraniteMoe"])
def test_fused_experts_get_no_adapter_are_counted_and_the_rest_is_merged(family: str):
    """peft would wrap the experts of the first three, and leave those of the others out without a word."""
    model = mixture(family)
    plain = {name: weight.shape for name, weight in model.named_parameters()}
    expected = {name: shape for name, shape in plain.items() if ".mlp." in name or ".block_sparse_moe." in name}
    expected = {name: shape for name, shape in expected.items() if len(shape) > 1}
    adapted(model)
    assert {name.rpartition(".")[2] for name in lora.adapted_layers(model)} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    text = lora.passed_over(model, LoraConfig())
    counts = [sum(shape.numel() for shape in shapes.values()) for shapes in (expected, plain)]
    assert text.startswith(f"{counts[0]:,} of {counts[1]:,} weights get no adapter")
    names = {name.replace(".0.", ".*.").replace(".1.", ".*.") for name in expected}
    assert set(text.rpartition(": ")[2].split(", ")) == names
    assert (lora.merged_model(model)(IDS).logits - model(IDS).logits).abs().max() < 1e-4


def test_linear_maps_that_peft_takes_for_experts_are_refused_by_name():
    dense_first: dict[str, Any] = {"moe_intermediate_size": 16, "mlp_only_layers": [0]}
    for targets in ("all-linear", ["q_proj", "down_proj"], ["gate_proj"]):
        with pytest.raises(TutelageError, match=r"^lora\.targets: .*(\[.*q_proj.*\]|linear maps .*gate_proj)"):
            lora.add_adapter(mixture("Qwen3Moe", **dense_first), LoraConfig(r=4, targets=targets), 0)


def test_named_targets_that_are_also_experts_are_told():
    model = mixture("GptOss")
    model.model.layers[0].mlp = torch.nn.Sequential()
    model.model.layers[0].mlp.down_proj = torch.nn.Linear(32, 32)  # a dense layer below
    lora.add_adapter(model, LoraConfig(r=4, targets=["down_proj"]), 0)
    text = lora.passed_over(model, LoraConfig(r=4, targets=["down_proj"]))
    assert text.startswith(f"{4 * 48 * 32:,} of ")
    assert text.endswith(": model.layers.*.mlp.experts.down_proj")
    assert lora.passed_over(adapted(), LoraConfig()) == ""


def test_a_quantised_mixture_says_what_keeps_its_type(capsys: pytest.CaptureFixture[str]):
    from tutelage.models.surgery.quantise import note_unquantised
    from tutelage.recipe.sections import ModelConfig

    note_unquantised(ModelConfig(path="m", precision="nf4"), mixture("GptOss"))
    said = capsys.readouterr().err
    assert said.startswith("note: `m`: ")
    assert "weights are not held in nf4" in said
    assert "model.layers.*.mlp.experts.gate_up_proj, model.layers.*.mlp.experts.down_proj," in said
    note_unquantised(ModelConfig(path="m", precision="nf4"), tiny.llama())
    assert capsys.readouterr().err == ""
