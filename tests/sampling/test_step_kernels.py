"""The kernels of a decoding step against what they replace; interpreted on a machine without a GPU."""

import math

import pytest
import torch
from tiny import llama

pytest.importorskip("triton", reason="the kernels need triton")
from transformers.models.cohere import modeling_cohere
from transformers.models.llama import modeling_llama

from tutelage.common.types import Head
from tutelage.sampling import engine as engine_module
from tutelage.sampling.engine import Engine
from tutelage.sampling.rotary import exchanged, fused_rotary
from tutelage.sampling.shared_prefix import Prefill
from tutelage.sampling.slot_cache import SlotCache
from tutelage.sampling.step_kernels import rotate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = [torch.float32, torch.bfloat16]
LARGEST = 1.0 - 2.0**-53  # below 1
PROMPTS = [[5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21], [1, 2, 3, 4], [30], [8, 8, 8, 8, 8, 8]]


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def heads(rows, count, size, seed, dtype, spare=0):
    """[rows, count, 1, size] as attention layers make it: a view of [rows, 1, (count + spare) · size]."""
    flat = randn(rows, 1, (count + spare) * size, seed=seed, dtype=dtype)
    return flat[..., : count * size].view(rows, 1, count, size).transpose(1, 2)


# --- cache -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("count", "size"), [(2, 8), (9, 24), (1, 64)])
def test_a_decoding_step_writes_what_indexing_writes(count, size, dtype):
    caches = [SlotCache(6, 20), SlotCache(6, 20)]
    caches[1].kernels = True
    rows, positions = torch.tensor([4, 0, 5, 1]).to(DEVICE), torch.tensor([0, 19, 7, 7]).to(DEVICE)
    for step in range(2):
        for cache in caches:
            cache.begin_decode(rows[: 4 - step], positions[: 4 - step], 20)
            key, value = (heads(4 - step, count, size, seed + step, dtype, spare=seed % 2) for seed in (3, 8))
            out = cache.update(key, value, 1)
            assert [x.shape for x in out] == [(4 - step, count, 20, size)] * 2
    for store in ("keys", "values"):
        expected, found = (getattr(cache, store)[1] for cache in caches)
        assert torch.equal(found, expected)
        assert int(found.any(-1).sum()) == 4 * count


# --- rotary ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*TYPES, torch.float16])
@pytest.mark.parametrize(("rows", "count", "kv", "size"), [(3, 4, 2, 8), (2, 9, 9, 24), (1, 17, 1, 64), (2, 3, 1, 96)])
@pytest.mark.parametrize("shared", [False, True])
def test_rotation_is_that_of_transformers(rows, count, kv, size, dtype, shared):
    query, key = heads(rows, count, size, 1, dtype, spare=2), heads(rows, kv, size, 2, dtype)
    angles = randn(1 if shared else rows, 1, size, seed=3)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    exact = modeling_llama.apply_rotary_pos_emb(*(x.double() for x in (query, key, cos, sin)))
    theirs = modeling_llama.apply_rotary_pos_emb(query, key, cos, sin)
    for own, other, expected in zip(rotate(query, key, cos, sin), theirs, exact, strict=True):
        assert (own.dtype, own.shape) == (dtype, other.shape)
        torch.testing.assert_close(own.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)  # one rounding
        if dtype == torch.float16 or (DEVICE == "cuda" and dtype == torch.bfloat16):  # interpreted, bfloat16 is cut off
            assert float((own - expected).abs().mean()) < float((other - expected).abs().mean())


def test_the_function_is_exchanged_only_within_the_block_and_only_where_it_fits(monkeypatch):
    model, plain = llama(), modeling_llama.apply_rotary_pos_emb
    found = fused_rotary(model)
    assert [one.own for one in found] == [plain]
    query, key, cos = randn(2, 4, 5, 8), randn(2, 2, 5, 8, seed=1), randn(2, 5, 8, seed=2)
    several_tokens, doubles = (query, key, cos, cos), [x[..., :1, :].double() for x in (query, key)]
    monkeypatch.setattr("tutelage.sampling.step_kernels.rotate", None)  # is not called

    def inside():
        with exchanged(fused_rotary(model)):
            fused = modeling_llama.apply_rotary_pos_emb
            assert fused is not plain
            for arguments in (several_tokens, (*doubles, *[cos[:, :1].double()] * 2, 1)):
                for a, b in zip(fused(*arguments), plain(*arguments), strict=True):
                    assert torch.equal(a, b)
            raise KeyError

    with pytest.raises(KeyError):
        inside()
    assert modeling_llama.apply_rotary_pos_emb is plain


@pytest.mark.parametrize("other", [modeling_cohere.apply_rotary_pos_emb, lambda q, k: (q, k), lambda q, k, c, s: q])
def test_another_rotation_stays(other, monkeypatch):
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", other)
    assert fused_rotary(llama()) == []


# --- drawing ---------------------------------------------------------------------------------------------------------


def drawing(vocab, kernels, monkeypatch, temperature=1.0, ends=(3,), head=None, high=LARGEST):
    """An engine of ten slots in mid-work, after one draw for some of them."""
    monkeypatch.setattr(Engine, "_record_graph", lambda self: None)  # the heads of these tests are not the model's
    made = Engine(
        llama().to(DEVICE), ends, slots=10, size=64, max_new_tokens=6, temperature=temperature, top_p=1.0, kernels=False
    )
    made.kernels = kernels
    generator = torch.Generator().manual_seed(vocab)
    made.uniforms.copy_(torch.rand(10, 6, generator=generator, dtype=torch.float64))
    made.uniforms[[1, 2, 7, 4], 3] = torch.tensor([0.0, high, 0.5, 0.5 - 2.0**-53], dtype=torch.float64).to(DEVICE)
    made.written.fill_(3)
    made.written[8], made.limits[:] = 6, 6
    made.limits[4] = 4
    made.live[:] = True
    made.live[5], made.live[8] = False, False
    head = head or Head(randn(vocab, 16, seed=1), None)
    monkeypatch.setattr(engine_module, "language_model_head", lambda model: head)
    rows = torch.tensor([7, 1, 2, 4, 5, 8, 0]).to(DEVICE)
    made._draw(rows, randn(len(rows), 16, seed=2, dtype=head.weight.dtype))
    return made


STATE = ("tokens", "last", "written", "ended", "live", "uniforms", "limits", "lengths")


def assert_same_state(a, b):
    for name in STATE:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    torch.testing.assert_close(a.logprobs, b.logprobs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocab", [97, 128, 1_000, 5_003])
def test_a_draw_leaves_the_state_that_choose_leaves(vocab, temperature, monkeypatch):
    # With the largest number the last tokens, of probability 1e-9, are within a float32 sum's rounding of each other.
    settings = {"temperature": temperature, "high": 0.999}
    own, expected = (drawing(vocab, kernels, monkeypatch, **settings) for kernels in (True, False))
    assert_same_state(own, expected)
    settings["ends"] = (*expected.last[[7, 0]].tolist(), vocab - 1)  # now with rows that end, of several end tokens
    own, expected = (drawing(vocab, kernels, monkeypatch, **settings) for kernels in (True, False))
    assert_same_state(own, expected)
    assert own.ended[[7, 1, 4]].tolist() == [True, False, False]
    assert own.live[[7, 1, 4]].tolist() == [False, True, False]


def test_a_draw_knows_bias_scale_and_soft_cap(monkeypatch):
    head = Head(randn(300, 16, seed=4), randn(300, seed=5), 0.5, 3.0)
    own, expected = (drawing(300, kernels, monkeypatch, 0.8, head=head) for kernels in (True, False))
    assert_same_state(own, expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_tokens_without_probability_are_never_drawn(dtype, monkeypatch):
    allowed = torch.tensor([130, 260, 261, 700])  # of eight blocks, three have a token to draw
    bias = torch.full((1_000,), -torch.inf).index_fill(0, allowed, 0.0).to(DEVICE, dtype)
    head = Head(randn(1_000, 16, seed=1, dtype=dtype), bias)
    own, expected = (drawing(1_000, kernels, monkeypatch, head=head) for kernels in (True, False))
    assert_same_state(own, expected)
    assert set(own.last[[7, 1, 2, 4, 5, 8, 0]].tolist()) <= set(allowed.tolist())
    assert own.last[[1, 2]].tolist() == [130, 700]


@pytest.mark.parametrize(("first", "second"), [(0, 999), (127, 128), (255, 200)])
def test_a_boundary_between_two_tokens_is_exact(first, second, monkeypatch):
    bias = torch.full((1_000,), -torch.inf).index_fill(0, torch.tensor([first, second]), 2.0).to(DEVICE)
    own = drawing(1_000, True, monkeypatch, head=Head(torch.zeros(1_000, 16).to(DEVICE), bias))
    low, high = sorted((first, second))
    assert own.last[[1, 4, 7, 2]].tolist() == [low, low, high, high]  # 0, just below ½, ½, just below 1
    torch.testing.assert_close(own.logprobs[7, 3].cpu(), torch.tensor(0.5).log())


def test_rounding_leads_to_the_last_token_that_can_be_drawn(monkeypatch):
    """The block's sum in float32 is rounded up to 1 + 2⁻²³, which the running sum over its tokens does not reach."""
    bias = torch.full((1_000,), -torch.inf)
    bias[640], bias[645] = 0.0, math.log(1.5 * 2.0**-24)
    own = drawing(1_000, True, monkeypatch, head=Head(torch.zeros(1_000, 16).to(DEVICE), bias.to(DEVICE)))
    assert own.last[[1, 7, 2]].tolist() == [640, 640, 645]


@pytest.mark.slow
def test_draws_follow_the_distribution(monkeypatch):
    """Each token is drawn for a share of evenly spaced random numbers that is its probability."""
    count, vocab = 100, 150
    made = Engine(
        llama().to(DEVICE), (), slots=count, size=8, max_new_tokens=1, temperature=0.5, top_p=1.0, kernels=False
    )
    made.kernels = True
    made.live[:], made.limits[:] = True, 1
    made.uniforms[:, 0] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    logits = randn(vocab, seed=3)
    head = Head(torch.zeros(vocab, 4).to(DEVICE), logits)
    monkeypatch.setattr(engine_module, "language_model_head", lambda model: head)
    made._draw(made.all_slots, torch.zeros(count, 4).to(DEVICE))
    probabilities = torch.softmax(logits.double() / 0.5, 0)
    shares = torch.bincount(made.last, minlength=vocab) / count
    assert float((shares - probabilities).abs().max()) <= 1.001 / count
    torch.testing.assert_close(made.logprobs[:, 0].double(), probabilities.log()[made.last], rtol=1e-5, atol=1e-5)


# --- engine ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unfused(monkeypatch):
    """The kernels of architectures that have no fused step (`test_fused_step.py`)."""
    monkeypatch.setattr("tutelage.sampling.fused_step.takes", lambda _: False)


def samples_of(kernels, dtype=torch.float32, **settings):
    settings = {"slots": 3, "size": 64, "max_new_tokens": 12, "temperature": 0.9, "top_p": 1.0} | settings
    made = Engine(llama().to(DEVICE, dtype), (31, 32, 33, 34), kernels=kernels, **settings)
    return made, made.generate(PROMPTS, [12, 3, 9, 1, 12, 7, 12], range(11, 18))


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.8}, {"temperature": 0.0}, {"slots": 16}])
@pytest.mark.slow
def test_samples_with_the_kernels_equal_those_without(settings, unfused):
    (own, samples), (_, expected) = (samples_of(kernels, **settings) for kernels in (True, False))
    assert (own.kernels, own.cache.kernels, len(own.rotary)) == (True, True, 1)
    assert [(s.tokens, s.finished) for s in samples] == [(s.tokens, s.finished) for s in expected]
    assert settings or any(s.finished for s in expected)
    for a, b in zip(samples, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


@pytest.mark.slow
def test_each_kernel_runs_in_a_step_but_not_in_prefill_or_training(monkeypatch, unfused):
    from tutelage.sampling import draw_kernels, step_kernels

    calls = []
    for module, name in ((step_kernels, "rotate"), (step_kernels, "write_to_slots"), (draw_kernels, "draw_and_note")):
        own = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, own=own, name=name: (calls.append(name), own(*a))[1])
    made, _ = samples_of(True)
    assert set(calls) == {"rotate", "write_to_slots", "draw_and_note"}
    calls.clear()
    made._prefill([Prefill([5, 9, 11], 0, 0, 0)])
    made.model(
        torch.tensor([[1, 2, 3]], device=DEVICE), labels=torch.tensor([[1, 2, 3]], device=DEVICE)
    ).loss.backward()
    assert calls == []


@pytest.mark.parametrize(
    "name",
    ["step_kernels.rotate", "step_kernels.write_to_slots", "fused_step.silu_times", "draw_kernels.draw_and_note"],
)
def test_a_kernel_that_does_not_compile_is_left_out_with_one_line(name, monkeypatch):
    def fail(*_):
        raise RuntimeError("at 12:4:\n  no such instruction")

    monkeypatch.setattr(f"tutelage.sampling.{name}", fail)
    with pytest.warns(UserWarning, match=r"do not run here \(RuntimeError: at 12:4: no such instruction\)") as caught:
        made, samples = samples_of(True)
    assert ["\n" in str(warning.message) for warning in caught] == [False]
    assert (made.kernels, made.cache.kernels, made.rotary, made.fused) == (False, False, [], None)
    assert samples == samples_of(False)[1]


def test_a_full_device_is_no_fault_of_the_kernels(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr("tutelage.sampling.step_kernels.rotate", fail)
    with pytest.raises(torch.OutOfMemoryError):
        samples_of(True)
