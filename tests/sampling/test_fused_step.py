"""The engine's fused decoding step against transformers' code for it; its kernels are interpreted without a GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton")
from peft import LoraConfig, get_peft_model
from tiny import llama
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from tutelage.models.attention import NAME, register_attention
from tutelage.models.rms_norm import FusedRMSNorm
from tutelage.sampling.engine import Engine
from tutelage.sampling.fused_step import takes
from tutelage.sampling.step_kernels import add_and_norm, rotate, rotate_into_slots, silu_times, write_to_slots

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = [torch.float32, torch.bfloat16]
PROMPTS, LIMITS, SEEDS = [[5, 9, 11], [3, 4, 5, 6, 7]], [3, 3], [11, 12]
CONFIGS = {
    "llama": LlamaConfig(),
    "llama with biases": LlamaConfig(attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(sliding_window=None),
    "qwen2": Qwen2Config(),
    "qwen3": Qwen3Config(head_dim=16),
    "gemma": GemmaConfig(head_dim=16),
}


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def model_of(name):
    """A tiny model whose norms and biases are not those that it begins with."""
    config = CONFIGS[name]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    for key, value in (
        sizes | {"num_key_value_heads": 2, "vocab_size": 97, "eos_token_id": 2, "pad_token_id": 0}
    ).items():
        setattr(config, key, value)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.ndim == 2 else parameter.add_(0.3 * torch.rand_like(parameter))
    register_attention()
    model.set_attn_implementation(NAME)
    return model.to(DEVICE)


def samples_of(model, kernels):
    engine = Engine(model, (), slots=2, size=16, max_new_tokens=3, temperature=0.9, top_p=1.0, kernels=kernels)
    return engine, engine.generate(PROMPTS, LIMITS, SEEDS)


def assert_equal(samples, expected):
    assert [(s.tokens, s.finished) for s in samples] == [(s.tokens, s.finished) for s in expected]
    for one, other in zip(samples, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_samples_equal_those_of_transformers_layers(name):
    model = model_of(name)
    (own, samples), (_, expected) = (samples_of(model, kernels) for kernels in (True, False))
    assert (own.fused is not None) == (name != "gemma")  # Gemma's norms multiply by 1 + weight
    assert_equal(samples, expected)


@pytest.mark.slow
def test_changed_weights_count_in_the_next_call():
    model = model_of("llama with biases")
    own, before = samples_of(model, True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.mul_(-1.0)
    after = own.generate(PROMPTS, LIMITS, SEEDS)
    assert [s.tokens for s in after] != [s.tokens for s in before]
    assert_equal(after, samples_of(model, False)[1])


def test_other_activations_types_and_adapters_are_left_to_transformers():
    assert takes(llama().get_decoder())
    other = llama()
    other.config.hidden_act = "gelu"
    mixed = llama()
    mixed.get_decoder().norm.to(torch.float64)
    adapted = get_peft_model(llama(), LoraConfig(target_modules=["up_proj"])).get_base_model()
    assert not any(takes(model.get_decoder()) for model in (other, mixed, adapted))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 8), (9, 3, 24), (2, 1, 64)])
def test_query_and_key_are_rotated_and_written_as_by_two_kernels(heads, kv_heads, size, dtype):
    flat = randn(3, (heads + 2 * kv_heads) * size, dtype=dtype)  # one product's output: its parts are views
    widths = [heads * size, kv_heads * size, kv_heads * size]
    query, key, value = (part.unflatten(1, (-1, size)) for part in flat.split(widths, dim=1))
    cos, sin = (randn(3, 1, size, seed=seed, dtype=dtype) for seed in (1, 2))
    positions = torch.tensor([0, 9, 4], device=DEVICE)
    keys, values, expected_keys, expected_values = torch.zeros(4, 5, kv_heads, 10, size, dtype=dtype, device=DEVICE)
    out = rotate_into_slots(query, key, value, cos, sin, keys, values, positions)
    expected, rotated = rotate(query[:, :, None], key[:, :, None], cos, sin)
    rows = torch.arange(3, device=DEVICE)
    write_to_slots(rotated, value[:, :, None], expected_keys, expected_values, rows, positions)
    assert torch.equal(out, expected[:, :, 0])
    assert torch.equal(keys, expected_keys)
    assert torch.equal(values, expected_values)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [32, 100, 1_500])
def test_sum_and_norm_are_those_of_torch(width, dtype):
    stream, new = (randn(3, width, seed=seed, dtype=dtype) for seed in (0, 1))
    norm = FusedRMSNorm()
    norm.weight, norm.variance_epsilon = randn(width, seed=2, dtype=dtype), 1e-3
    total, out = add_and_norm(stream, new, norm)
    torch.testing.assert_close(total, stream + new)
    expected = F.rms_norm(total.double(), (width,), norm.weight.double(), norm.variance_epsilon)
    torch.testing.assert_close(out, expected.to(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [64, 1_100])
def test_the_gate_is_that_of_torch(width, dtype):
    gate, up = (4.0 * randn(3, 2 * width, dtype=dtype)).split(width, dim=1)
    expected = F.silu(gate.double()) * up.double()
    torch.testing.assert_close(silu_times(gate, up), expected.to(dtype))
