"""Quantised teachers: the numbers that their weights stand for, their cost on a batch, and how they are loaded."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch

from tutelage.common.errors import TutelageError
from tutelage.data.batch import make_micro_batch
from tutelage.loss.divergence import forward_kl, generalized_jsd
from tutelage.loss.objective import Divergence
from tutelage.models.language_model import LanguageModel
from tutelage.models.load import load_model, stream_model
from tutelage.models.surgery.lora import dense
from tutelage.models.surgery.quantise import missing_package, quantization
from tutelage.recipe.sections import ModelConfig
from tutelage.teachers import quantised
from tutelage.teachers.local import LocalTeacher
from tutelage.teachers.quantised import PrecisionCost, precision_cost

IDS = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(1))


def needs(package: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'tutelage[quant]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of 64 units, and its tokenizer."""
    made = tmp_path_factory.mktemp("model")
    tiny.llama(layers=3, hidden=64, packed=False).save_pretrained(made)
    jobs.words().save_pretrained(made)
    return made


def test_int8_weights_are_rows_of_bytes_with_a_scale_each(folder: Path):
    """Each weight is the nearest of 255 multiples of its row's scale, by arithmetic of this test's own; the logits are
    those of a plain model with these weights."""
    needs("torchao")
    loaded = load_model(ModelConfig(path=str(folder), precision="int8"))
    plain = tiny.llama(layers=3, hidden=64, packed=False)
    assert loaded.packed
    for name, module in plain.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        found = loaded.model.get_submodule(name).weight
        if name == "lm_head":
            assert torch.equal(found, module.weight)  # head and embedding keep their type
            continue
        scale = found.scale.reshape(-1, 1)
        assert torch.allclose(scale, module.weight.abs().amax(1, keepdim=True) / 127.5, rtol=1e-6)
        exact = found.qdata.float() * scale
        assert ((module.weight - exact).abs() <= 0.5001 * scale).all()  # no multiple is nearer
        with torch.no_grad():
            module.weight.copy_(exact)
    before = tiny.llama(layers=3, hidden=64)(IDS).logits
    logits = loaded.model(IDS).logits
    assert (logits - plain(IDS).logits).abs().max() < 1e-4
    assert (logits - before).abs().max() > 1e-2


def test_quantising_leaves_the_compiler_as_it_is():
    """torchao's default is to have every kernel of the process tuned when it is compiled."""
    needs("torchao")
    import torch._inductor.config as inductor
    from torchao.quantization import quantize_

    before = inductor.coordinate_descent_tuning
    quantize_(tiny.llama(layers=1, hidden=64, packed=False), quantization("int8", torch.float32).quant_type)
    assert inductor.coordinate_descent_tuning == before
    assert not quantization("float8", torch.bfloat16).quant_type.set_inductor_config


def test_four_bits(folder: Path):
    """nf4 as bitsandbytes itself gives it, weight by weight."""
    needs("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    loaded = load_model(ModelConfig(path=str(folder), precision="nf4"))
    plain = tiny.llama(layers=3, hidden=64, packed=False)
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            data, state = quantize_4bit(module.weight.data, quant_type="nf4", compress_statistics=True)
            with torch.no_grad():
                module.weight.copy_(dequantize_4bit(data, state))
    assert (loaded.model(IDS).logits - plain(IDS).logits).abs().max() < 1e-4
    for name, module in plain.named_modules():  # after a pass, too
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            assert torch.equal(dense(loaded.model.get_submodule(name).weight, torch.float32), module.weight)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_a_quantised_model_samples_and_exchanges_its_ends(folder: Path, precision: Any):
    needs("torchao" if precision == "int8" else "bitsandbytes")
    from tutelage.sampling.torch_sampler import TorchSampler

    loaded = load_model(ModelConfig(path=str(folder), precision=precision))
    prompts = [[5, 9, 11], [7, 3, 60, 8]]
    sampler = TorchSampler(loaded.model, jobs.ENDS, loaded.packed)
    samples = sampler.sample(prompts, max_new_tokens=8, temperature=1.0, top_p=1.0, seeds=[1, 2])
    scores = sampler.score(prompts, [list(s.tokens) for s in samples])
    assert torch.allclose(torch.cat(scores), torch.tensor([p for s in samples for p in s.logprobs]), atol=1e-4)
    embedding = loaded.model.get_input_embeddings().weight.clone()
    LocalTeacher(loaded, student_end_id=20)
    assert torch.equal(loaded.model.get_input_embeddings().weight[[2, 20]], embedding[[20, 2]])


@pytest.mark.parametrize("room", [True, False])
def test_the_cost_is_the_divergence_of_the_two_models(folder: Path, monkeypatch: pytest.MonkeyPatch, room: bool):
    """KL and loss against logits computed here; without room the unquantised model is read layer by layer."""
    needs("torchao")
    streamed: list[int] = []
    real = quantised.stream_model
    monkeypatch.setattr(quantised, "stream_model", lambda *a: streamed.append(1) or real(*a))
    monkeypatch.setattr(quantised, "_free_bytes", lambda _: 10**12 if room else 0)
    config = ModelConfig(path=str(folder), precision="int8")
    teacher = LocalTeacher(load_model(config), student_end_id=20)
    batch = make_micro_batch(tiny.sequences((9, 6, 14)), [1.0] * 3, padded=False)
    student = LanguageModel(tiny.llama())
    with torch.no_grad():
        cost = precision_cost(teacher, teacher.loaded, config, lambda *a: student(*a)[0], 20, batch, Divergence(0.5))
        signals = [LocalTeacher(load_model(one), 20).signal(batch) for one in (config, ModelConfig(path=str(folder)))]
        eight, whole = (signal.hidden @ signal.head.weight.T for signal in signals)
        own = student(batch)
    assert streamed == ([] if room else [1])
    assert cost.tokens == len(batch.labels) == 17
    # quantised in the student's place: KL(whole ‖ eight), JSD of the two, and the student's JSD from `eight`
    assert cost.kl == pytest.approx(float(forward_kl(eight, whole).mean()), rel=5e-3)  # float32 logits of size 10
    assert cost.change == pytest.approx(float(generalized_jsd(eight, whole, 0.5).mean()), rel=5e-3)
    first = generalized_jsd(own.hidden @ own.head.weight.T, eight, 0.5)
    assert cost.loss == pytest.approx(first.mean().item(), rel=1e-5)
    assert cost.share == pytest.approx(cost.change / cost.loss)
    assert not cost.too_much
    assert cost.text.startswith("teacher in int8: KL ")


@pytest.mark.parametrize(("change", "loss", "too_much"), [(0.01, 0.11, False), (0.02, 0.1, True), (0.01, 0.0, True)])
def test_above_a_tenth_of_the_loss_is_too_much(change: float, loss: float, too_much: bool):
    assert PrecisionCost("nf4", 0.05, change, loss, 10).too_much == too_much


def test_a_streamed_model_holds_no_layer_and_gives_the_same_states(folder: Path):
    model = stream_model(ModelConfig(path=str(folder)), "cpu", torch.float32, packed=True)
    assert {p.device.type for n, p in model.named_parameters() if ".layers." in n} == {"meta"}
    batch = make_micro_batch(tiny.sequences((9, 6, 14)), [1.0] * 3, padded=False)
    with torch.no_grad():
        found, expected = (LanguageModel(m)(batch) for m in (model, tiny.llama(layers=3, hidden=64)))
    assert torch.equal(found.hidden, expected.hidden)
    kept = vars(model)["offload_folder"].name
    assert os.listdir(kept) == []


def test_what_cannot_be_held_so_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "torchao", None)
    assert missing_package("int8") == "`int8` needs torchao: pip install 'tutelage[quant]'"
    with pytest.raises(TutelageError, match=r"`int8` needs torchao: pip install 'tutelage\[quant\]'"):
        load_model(ModelConfig(path=str(folder), precision="int8"))
    monkeypatch.undo()
    needs("torchao")
    if not torch.cuda.is_available():
        with pytest.raises(TutelageError, match=r"needs a CUDA GPU of compute capability 8\.9"):
            load_model(ModelConfig(path=str(folder), precision="float8"))


def test_the_libraries_take_what_they_are_given():
    """By signature, for what needs a GPU to run."""
    needs("torchao")
    config = quantization("float8", torch.bfloat16)
    inner = config.quant_type
    assert type(inner).__name__ == "Float8DynamicActivationFloat8WeightConfig"
    assert {type(one).__name__ for one in inner.granularity} == {"PerRow"}
    assert "quant_type" in inspect.signature(type(config)).parameters
    needs("bitsandbytes")
    four = quantization("nf4", torch.bfloat16)
    assert (four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == ("nf4", True)
    assert four.bnb_4bit_compute_dtype == torch.bfloat16
