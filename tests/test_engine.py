"""Slots that empty, fill again and move give the same samples as one prompt at a time."""

import pytest
import torch
from tiny import llama

from tutelage.engine import Engine
from tutelage.sampler import TorchSampler

PROMPTS = [[5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21], [1, 2, 3, 4], [30], [8, 8, 8, 8, 8, 8]]
SEEDS = [11, 12, 13, 14, 15, 16, 17]


def engine(slots, ends=(), temperature=1.0, top_p=1.0, room=40):
    return Engine(llama(), ends, slots=slots, size=64, max_new_tokens=room, temperature=temperature, top_p=top_p)


def one_at_a_time(limits, ends=()):
    return [
        engine(1, ends).generate([prompt], [limit], [seed])[0]
        for prompt, limit, seed in zip(PROMPTS, limits, SEEDS, strict=True)
    ]


@pytest.mark.parametrize("slots", [1, 2, 3, 7, 16])
def test_any_number_of_slots_writes_the_same(slots):
    limits = [40, 3, 17, 1, 40, 9, 25]
    expected = one_at_a_time(limits)
    told = []
    out = engine(slots).generate(PROMPTS, limits, SEEDS, told.append)
    assert [s.tokens for s in out] == [s.tokens for s in expected]
    assert [len(s.tokens) for s in out] == limits
    for a, b in zip(out, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    assert sum(told) == len(PROMPTS)


def test_an_engine_serves_again_after_end_tokens():
    limits = [40] * 7
    free = one_at_a_time(limits)
    ends = (free[0].tokens[4], free[2].tokens[10], free[6].tokens[0])
    used = engine(3, ends)
    first, second = (used.generate(PROMPTS, limits, SEEDS) for _ in range(2))
    assert first == second
    for a, b in zip(first, free, strict=True):
        stop = next((i + 1 for i, t in enumerate(b.tokens) if t in ends), None)
        assert a.tokens == b.tokens[: stop or 40]
        assert a.finished == (stop is not None)


def test_prompts_are_read_in_several_passes(monkeypatch):
    expected = engine(7).generate(PROMPTS, [12] * 7, SEEDS)
    monkeypatch.setattr("tutelage.engine._PREFILL_TOKENS", 11)
    assert [s.tokens for s in engine(7).generate(PROMPTS, [12] * 7, SEEDS)] == [s.tokens for s in expected]


def test_nothing_depends_on_what_a_slot_held_before():
    used = engine(2)
    used.generate(PROMPTS, [40] * 7, SEEDS)
    again = used.generate(PROMPTS[3:], [20] * 4, SEEDS[3:])
    assert [s.tokens for s in again] == [s.tokens[:20] for s in one_at_a_time([40] * 7)[3:]]


def test_off_cuda_the_cache_is_as_long_as_the_longest_row():
    used = Engine(llama(), (), slots=3, size=5_000, max_new_tokens=4_900, temperature=1.0, top_p=1.0)
    limits = [40, 1, 17, 1, 40, 9, 25]
    out = used.generate(PROMPTS, limits, SEEDS)
    assert [s.tokens for s in out] == [s.tokens for s in one_at_a_time(limits)]
    longest = max(len(p) + n for p, n in zip(PROMPTS, limits, strict=True))
    assert {layer.shape[2] for layer in used.cache.keys.values()} == {used.cache.room}
    assert longest <= used.cache.room <= 2 * longest


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_recorded_graph_writes_what_the_step_writes(dtype, monkeypatch):
    monkeypatch.setattr(Engine, "_compact", lambda self, owner: owner)  # the graph always runs over all slots
    model = llama().to("cuda", dtype)
    settings = {"slots": 7, "size": 64, "max_new_tokens": 40, "temperature": 1.0, "top_p": 1.0}
    recorded, plain = (Engine(model, (), **settings) for _ in range(2))
    assert recorded.graph is not None
    plain.graph = None
    out, expected = (e.generate(PROMPTS, [40, 3, 17, 1, 40, 9, 25], SEEDS) for e in (recorded, plain))
    assert out == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_writes_what_the_cpu_writes():
    settings = {"max_new_tokens": 30, "temperature": 1.0, "top_p": 1.0, "seeds": SEEDS}
    ours = TorchSampler(llama().cuda(), (), True, batch_size=3).sample(PROMPTS, **settings)
    expected = TorchSampler(llama(), (), True).sample(PROMPTS, **settings)
    assert [s.tokens for s in ours] == [s.tokens for s in expected]
