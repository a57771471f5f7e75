"""Slots that are freed, refilled and moved give the same samples as one prompt at a time."""

import random

import pytest
import torch
from tiny import llama

from tutelage.models.attention import Packing, packed_attention
from tutelage.sampling.engine import Engine
from tutelage.sampling.torch_sampler import TorchSampler

pytestmark = pytest.mark.slow

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PROMPTS = [[5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21], [1, 2, 3, 4], [30], [8, 8, 8, 8, 8, 8]]
SEEDS = [11, 12, 13, 14, 15, 16, 17]


def engine(slots, ends=(), temperature=1.0, top_p=1.0, new_tokens=40):
    return Engine(llama(), ends, slots=slots, size=64, max_new_tokens=new_tokens, temperature=temperature, top_p=top_p)


def one_at_a_time(limits, ends=()):
    return [
        engine(1, ends).generate([prompt], [limit], [seed])[0]
        for prompt, limit, seed in zip(PROMPTS, limits, SEEDS, strict=True)
    ]


@pytest.mark.parametrize("slots", [1, 3, 16])  # one; not a divisor of the prompts; more than there are
def test_samples_do_not_depend_on_the_number_of_slots(slots):
    limits = [40, 3, 17, 1, 40, 9, 25]
    expected = one_at_a_time(limits)
    calls = []
    out = engine(slots).generate(PROMPTS, limits, SEEDS, calls.append)
    assert [s.tokens for s in out] == [s.tokens for s in expected]
    assert [len(s.tokens) for s in out] == limits
    for a, b in zip(out, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    assert sorted(i for done in calls for i in done) == list(range(len(PROMPTS)))


def test_an_engine_can_be_reused_after_end_tokens():
    limits = [40] * 7
    free = one_at_a_time(limits)
    ends = (free[0].tokens[4], free[2].tokens[10], free[6].tokens[0])
    reused = engine(3, ends)
    first, second = (reused.generate(PROMPTS, limits, SEEDS) for _ in range(2))
    assert first == second
    for a, b in zip(first, free, strict=True):
        stop = next((i + 1 for i, t in enumerate(b.tokens) if t in ends), None)
        assert a.tokens == b.tokens[: stop or 40]
        assert a.finished == (stop is not None)


def test_prompts_are_read_in_several_passes(monkeypatch):
    expected = engine(7).generate(PROMPTS, [12] * 7, SEEDS)
    monkeypatch.setattr("tutelage.sampling.engine._PREFILL_TOKENS", 11)
    assert [s.tokens for s in engine(7).generate(PROMPTS, [12] * 7, SEEDS)] == [s.tokens for s in expected]


def test_samples_do_not_depend_on_a_slots_earlier_contents():
    reused = engine(2)
    reused.generate(PROMPTS, [40] * 7, SEEDS)
    again = reused.generate(PROMPTS[3:], [20] * 4, SEEDS[3:])
    assert [s.tokens for s in again] == [s.tokens[:20] for s in one_at_a_time([40] * 7)[3:]]


def test_without_cuda_the_cache_is_as_long_as_the_longest_row():
    decoder = Engine(llama(), (), slots=3, size=5_000, max_new_tokens=4_900, temperature=1.0, top_p=1.0)
    limits = [40, 1, 17, 1, 40, 9, 25]
    out = decoder.generate(PROMPTS, limits, SEEDS)
    assert [s.tokens for s in out] == [s.tokens for s in one_at_a_time(limits)]
    longest = max(len(p) + n for p, n in zip(PROMPTS, limits, strict=True))
    assert {layer.shape[2] for layer in decoder.cache.keys.values()} == {decoder.cache.capacity}
    assert longest <= decoder.cache.capacity <= 2 * longest


# --- shared prefixes -------------------------------------------------------------------------------------------------


def words(count, seed):
    return [random.Random(f"{seed} {i}").randrange(3, 97) for i in range(count)]


def few_shot_prompts():
    """Prompts, and how many of their tokens need no reading: two categories with one system message, two prompts that
    share only the message, two that share nothing, one prompt three times, and one that is a prefix of others."""
    system = words(66, "system")
    first, second, again = system + words(40, "first"), system + words(90, "second"), words(130, "again")
    prompts = [first + words(n, f"first {n}") for n in (3, 20, 7, 1, 12)]
    prompts += [second + words(n, f"second {n}") for n in (9, 2, 14)]
    prompts += [system + words(n, f"other {n}") for n in (5, 6)]
    prompts += [words(12, "alone"), words(200, "alone too")]
    prompts += [again, again, again, again[:70]]
    order = random.Random(5).sample(range(len(prompts)), len(prompts))
    # The three `again` share 69 tokens with their prefix (saves 3 · 69), or 129 without it (saves 2 · 129, the better).
    return [prompts[i] for i in order], 4 * 106 + 2 * 156 + 66 + 2 * 129


def without_and_with_sharing(prompts, slots, limits=None, model=None, **options):
    """Samples without sharing and with it, and the engine with it."""
    settings = {"size": 300, "max_new_tokens": 30, "temperature": 1.0, "top_p": 0.9} | options
    limits, seeds = limits or [30] * len(prompts), list(range(50, 50 + len(prompts)))
    sharing, plain = (
        Engine(model or llama(), (), slots=slots, share_prefixes=share, **settings) for share in (True, False)
    )
    expected, out = plain.generate(prompts, limits, seeds), sharing.generate(prompts, limits, seeds)
    assert (plain.read_tokens, plain.shared_tokens) == (sum(map(len, prompts)), 0)
    assert sharing.read_tokens + sharing.shared_tokens == sum(map(len, prompts))
    return expected, out, sharing


def assert_same(out, expected, tolerance=1e-5):
    assert [s.tokens for s in out] == [s.tokens for s in expected]
    assert [s.finished for s in out] == [s.finished for s in expected]
    for a, b in zip(out, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=tolerance)


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 0.8)])
@pytest.mark.parametrize("slots", [1, 3, 16])
def test_sharing_does_not_change_samples(slots, temperature, top_p):
    prompts, expected_shared = few_shot_prompts()
    limits = [(7 * i) % 29 + 1 for i in range(len(prompts))]
    expected, out, sharing = without_and_with_sharing(prompts, slots, limits, temperature=temperature, top_p=top_p)
    assert_same(out, expected)
    # The number of slots does not matter: a prefix is kept until its last prompt is read.
    assert sharing.shared_tokens == expected_shared
    assert sharing.kept_prefix is None


def test_sharing_over_several_passes(monkeypatch):
    prompts, expected_shared = few_shot_prompts()
    monkeypatch.setattr("tutelage.sampling.engine._PREFILL_TOKENS", 210)
    expected, out, sharing = without_and_with_sharing(prompts, 16)
    assert_same(out, expected)
    assert sharing.shared_tokens == expected_shared


def test_one_prompt_many_times_is_read_once_and_one_alone_in_full():
    prompt = words(150, "p")
    expected, out, sharing = without_and_with_sharing([prompt] * 9, 4)
    assert_same(out, expected)
    assert len({s.tokens for s in out}) == 9  # seeds differ
    assert (sharing.read_tokens, sharing.shared_tokens) == (150 + 8, 8 * 149)
    expected, out, sharing = without_and_with_sharing([prompt], 4)
    assert_same(out, expected)
    assert (sharing.read_tokens, sharing.shared_tokens) == (150, 0)


def test_an_engine_that_shared_prefixes_can_be_reused():
    prompts, expected_shared = few_shot_prompts()
    reused = Engine(llama(), (), slots=3, size=300, max_new_tokens=20, temperature=1.0, top_p=1.0)
    for chosen in (prompts, PROMPTS, prompts):
        limits, seeds = [20] * len(chosen), list(range(len(chosen)))
        fresh = Engine(llama(), (), slots=5, size=300, max_new_tokens=20, temperature=1.0, top_p=1.0)
        fresh.share_prefixes = False
        assert_same(reused.generate(chosen, limits, seeds), fresh.generate(chosen, limits, seeds))
        assert reused.shared_tokens == (0 if chosen is PROMPTS else expected_shared)


def attention_of_last_queries(device, dtype, lengths, key_lengths):
    """Attention of the last `lengths` of `key_lengths` tokens, with two query heads per key head."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 4, sum(lengths), 64), (1, 2, sum(key_lengths), 64), (1, 2, sum(key_lengths), 64)]
    q, k, v = (torch.randn(shape, generator=generator).to(torch.bfloat16).to(device, dtype) for shape in shapes)
    packing = Packing.of(lengths, torch.device(device), Packing.of(key_lengths, torch.device(device)))
    return packed_attention(torch.nn.Module(), q, k, v, None, packing=packing)[0].cpu().double()


SHAPES = [([5, 200, 1, 33], [70, 200, 90, 300]), ([1, 1, 1], [40, 129, 300])]  # the second: one query per sequence


@pytest.mark.parametrize(("lengths", "key_lengths"), SHAPES)
def test_queries_are_the_last_of_their_sequences(lengths, key_lengths):
    full = attention_of_last_queries("cpu", torch.float64, lengths, key_lengths)
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, sum(lengths), 64), (2, sum(key_lengths), 64), (2, sum(key_lengths), 64)]
    q, k, v = (torch.randn((1, *s), generator=generator).to(torch.bfloat16).double()[0] for s in shapes)
    at = first = 0
    for new, total in zip(lengths, key_lengths, strict=True):
        for i in range(new):
            seen = slice(first, first + total - new + i + 1)
            for head in range(4):
                weights = torch.softmax(k[head // 2, seen] @ q[head, at + i] / 8, 0)
                torch.testing.assert_close(full[0, at + i, head], weights @ v[head // 2, seen])
        at, first = at + new, first + total


@NEEDS_GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("lengths", "key_lengths"), SHAPES)
def test_attention_on_the_gpu_equals_the_cpu(dtype, lengths, key_lengths):
    places = (("cuda", dtype), ("cpu", torch.float64))
    out, expected = (attention_of_last_queries(*place, lengths, key_lengths) for place in places)
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=2e-2)


@NEEDS_GPU
@pytest.mark.parametrize("slots", [3, 16])
def test_sharing_on_the_gpu_equals_the_cpu_without_sharing(slots):
    prompts, expected_shared = few_shot_prompts()
    settings = {"slots": slots, "size": 300, "max_new_tokens": 30, "temperature": 1.0, "top_p": 0.9}
    rest = ([30] * len(prompts), list(range(len(prompts))))
    decoder = Engine(llama().cuda(), (), **settings)
    expected = Engine(llama(), (), share_prefixes=False, **settings).generate(prompts, *rest)
    assert_same(decoder.generate(prompts, *rest), expected, 1e-3)
    assert decoder.shared_tokens == expected_shared


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_sharing_in_half_precision(device):
    """On a GPU this is another attention kernel. The first token's log-probability depends on the whole prompt, and the
    largest one hardly changes if another token becomes the most likely."""
    prompts, _ = few_shot_prompts()
    settings = {"slots": 5, "size": 300, "max_new_tokens": 1, "temperature": 0.0, "top_p": 1.0}
    model, rest = llama().to(device, torch.bfloat16), ([1] * len(prompts), [0] * len(prompts))
    out = Engine(model, (), **settings).generate(prompts, *rest)
    expected = Engine(llama(), (), share_prefixes=False, **settings).generate(prompts, *rest)
    assert [s.logprobs[0] for s in out] == pytest.approx([s.logprobs[0] for s in expected], abs=0.15)


@NEEDS_GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_recorded_graph_equals_the_plain_step(dtype, monkeypatch):
    monkeypatch.setattr(Engine, "_compact", lambda self, owner: owner)  # the graph always runs over all slots
    model = llama().to("cuda", dtype)
    settings = {"slots": 7, "size": 64, "max_new_tokens": 40, "temperature": 1.0, "top_p": 1.0}
    recorded, plain = (Engine(model, (), **settings) for _ in range(2))
    assert recorded.graph is not None
    plain.graph = None
    out, expected = (e.generate(PROMPTS, [40, 3, 17, 1, 40, 9, 25], SEEDS) for e in (recorded, plain))
    assert out == expected


@NEEDS_GPU
def test_samples_on_the_gpu_equal_those_on_the_cpu():
    settings = {"max_new_tokens": 30, "temperature": 1.0, "top_p": 1.0, "seeds": SEEDS}
    out = TorchSampler(llama().cuda(), (), True, batch_size=3).sample(PROMPTS, **settings)
    expected = TorchSampler(llama(), (), True).sample(PROMPTS, **settings)
    assert [s.tokens for s in out] == [s.tokens for s in expected]
