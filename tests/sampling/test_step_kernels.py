"""The kernels of a decoding step against what they replace; interpreted on a machine without a GPU."""

import copy
import warnings

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
from tutelage.sampling.slot_cache import SlotCache
from tutelage.sampling.step_kernels import rotate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = [torch.float32, torch.bfloat16]
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
        assert own.dtype == dtype and own.shape == other.shape
        torch.testing.assert_close(own.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)  # one rounding
        if dtype == torch.float16 or (DEVICE == "cuda" and dtype == torch.bfloat16):  # interpreted, bfloat16 is cut off
            assert float((own - expected).abs().mean()) < float((other - expected).abs().mean())


def test_the_function_is_exchanged_only_within_the_block_and_only_where_it_fits(monkeypatch):
    model, plain = llama(), modeling_llama.apply_rotary_pos_emb
    found = fused_rotary(model)
    assert [one.own for one in found] == [plain]
    query, key, cos = randn(2, 4, 5, 8), randn(2, 2, 5, 8, seed=1), randn(2, 5, 8, seed=2)
    with pytest.raises(ZeroDivisionError), exchanged(found):
        fused = modeling_llama.apply_rotary_pos_emb
        assert fused is not plain
        monkeypatch.setattr("tutelage.sampling.step_kernels.rotate", lambda *_: 1 / 0)  # several tokens: not called
        for arguments in ((query, key, cos, cos), (*(x[..., :1, :].double() for x in (query, key, cos, cos)), 1)):
            for a, b in zip(fused(*arguments), plain(*arguments), strict=True):
                assert torch.equal(a, b)
        1 / 0  # noqa: B018
    assert modeling_llama.apply_rotary_pos_emb is plain


@pytest.mark.parametrize("other", [modeling_cohere.apply_rotary_pos_emb, lambda q, k: (q, k), lambda q, k, c, s: q])
def test_another_rotation_stays(other, monkeypatch):
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", other)
    assert fused_rotary(llama()) == []


# --- drawing ---------------------------------------------------------------------------------------------------------


def drawing(vocab, kernels, monkeypatch, temperature=1.0, ends=(3,), logits=None, head=None):
    """An engine of ten slots in mid-work, after one draw for some of them."""
    made = Engine(
        llama().to(DEVICE), ends, slots=10, size=64, max_new_tokens=6, temperature=temperature, top_p=1.0, kernels=False
    )
    made.kernels = kernels
    generator = torch.Generator().manual_seed(vocab)
    made.uniforms.copy_(torch.rand(10, 6, generator=generator, dtype=torch.float64))
    made.uniforms[1, 3], made.uniforms[2, 3] = 0.0, 1.0 - 2.0**-53
    made.written.fill_(3)
    made.written[8], made.limits[:] = 6, 6
    made.limits[4] = 4
    made.live[:] = True
    made.live[5], made.live[8] = False, False
    head = head or Head(randn(vocab, 16, seed=1), None)
    monkeypatch.setattr(engine_module, "language_model_head", lambda model: head)
    rows = torch.tensor([7, 1, 2, 4, 5, 8, 0]).to(DEVICE)
    hidden = randn(len(rows), 16, seed=2)
    if logits is not None:  # a one-hot hidden state picks a row of logits
        hidden = torch.eye(len(rows), 16, device=DEVICE)
        head = Head(torch.nn.functional.pad(logits, (0, 0, 0, 16 - len(rows))).T.contiguous(), None)
    made._draw(rows, hidden)
    return made


STATE = ("tokens", "last", "written", "ended", "live", "uniforms", "limits", "lengths")


def assert_same_state(a, b):
    for name in STATE:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    torch.testing.assert_close(a.logprobs, b.logprobs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocab", [97, 128, 1_000, 5_003])
def test_a_draw_leaves_the_state_that_choose_leaves(vocab, temperature, monkeypatch):
    own, expected = (drawing(vocab, kernels, monkeypatch, temperature) for kernels in (True, False))
    assert_same_state(own, expected)
    ends = tuple(expected.last[[7, 0]].tolist())  # now with rows that end, of several end tokens
    own, expected = (drawing(vocab, kernels, monkeypatch, temperature, (*ends, vocab - 1)) for kernels in (True, False))
    assert_same_state(own, expected)
    assert bool(own.ended[7]) and not bool(own.live[7]) and bool(own.live[1]) and not bool(own.live[4])


def test_a_draw_knows_bias_scale_and_soft_cap(monkeypatch):
    head = Head(randn(300, 16, seed=4), randn(300, seed=5), 0.5, 3.0)
    own, expected = (drawing(300, kernels, monkeypatch, 0.8, head=head) for kernels in (True, False))
    assert_same_state(own, expected)
