"""The sampler against transformers' generate, the training forward pass, and the distribution itself."""

import pytest
import torch
from tiny import gemma2, llama

from tutelage.common.errors import TutelageError
from tutelage.models.attention import NAME, register_attention
from tutelage.sampling.draw_token import draw
from tutelage.sampling.torch_sampler import TorchSampler

PROMPTS = [[5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21]]
MODELS = {"packed": lambda: (llama(), True), "padded": lambda: (gemma2(), False)}


def sampler_for(kind, ends=(), **options):
    model, packed = MODELS[kind]()
    return TorchSampler(model, ends, packed, **options)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_greedy_equals_generate(kind, batch_size):
    sampler = sampler_for(kind, batch_size=batch_size)
    samples = sampler.sample(PROMPTS, max_new_tokens=12, temperature=0.0, top_p=1.0, seeds=[0] * 4)
    reference = llama(packed=False) if kind == "packed" else gemma2()
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        out = reference.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert list(sample.tokens) == out[0, len(prompt) :].tolist()
        assert not sample.finished


def test_rows_that_end_early_are_dropped_from_a_linear_attention_cache():
    from transformers import Lfm2Config, Lfm2ForCausalLM

    torch.manual_seed(0)
    shape = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Lfm2Config(vocab_size=97, hidden_size=32, layer_types=["conv", "full_attention"], **shape)
    model = Lfm2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.25)
    options = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 1.0, "seeds": [1, 2, 3, 4]}
    free = TorchSampler(model, (), False).sample(PROMPTS, **options)
    ends = (free[1].tokens[2], free[3].tokens[5])
    bounded = TorchSampler(model, ends, False).sample(PROMPTS, **options)
    for a, b in zip(free, bounded, strict=True):
        stop = next((i + 1 for i, t in enumerate(a.tokens) if t in ends), 12)
        assert b.tokens == a.tokens[:stop]
    assert any(s.finished for s in bounded)


def test_a_model_whose_state_is_not_in_the_cache_is_refused():
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=1, state_size=4, time_step_rank=2)
    sampler = TorchSampler(MambaForCausalLM(config).eval(), (), False)
    with pytest.raises(TutelageError, match="MambaForCausalLM does not keep its state"):
        sampler.sample(PROMPTS, max_new_tokens=3, temperature=0.0, top_p=1.0, seeds=[0] * 4)


def test_greedy_equals_generate_for_a_model_that_asks_the_cache_for_its_length():
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    shape = {"ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32}
    model = OPTForCausalLM(OPTConfig(vocab_size=97, hidden_size=32, max_position_embeddings=64, **shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = [model.generate(torch.tensor([p]), **options)[0, len(p) :].tolist() for p in PROMPTS]
    register_attention()
    model.set_attn_implementation(NAME)
    samples = TorchSampler(model, (), True).sample(
        PROMPTS, max_new_tokens=12, temperature=0.0, top_p=1.0, seeds=[0] * 4
    )
    assert [list(s.tokens) for s in samples] == expected


@pytest.mark.parametrize("kind", MODELS)
def test_logprobs_agree_with_a_training_forward(kind):
    sampler = sampler_for(kind)
    samples = sampler.sample(PROMPTS, max_new_tokens=20, temperature=1.0, top_p=1.0, seeds=[1, 2, 3, 4])
    scored = sampler.score(PROMPTS, [s.tokens for s in samples])
    for sample, score in zip(samples, scored, strict=True):
        torch.testing.assert_close(torch.tensor(sample.logprobs), score, rtol=1e-4, atol=1e-4)


def test_stops_at_every_end_token_and_keeps_it():
    free = sampler_for("packed").sample(PROMPTS, max_new_tokens=30, temperature=1.0, top_p=1.0, seeds=[1, 2, 3, 4])
    ends = {free[0].tokens[3], free[2].tokens[10]}
    bounded = sampler_for("packed", ends=tuple(ends)).sample(
        PROMPTS, max_new_tokens=30, temperature=1.0, top_p=1.0, seeds=[1, 2, 3, 4]
    )
    for a, b in zip(free, bounded, strict=True):
        stop = next((i + 1 for i, t in enumerate(a.tokens) if t in ends), 30)
        assert b.tokens == a.tokens[:stop]
        assert b.finished == (a.tokens[stop - 1] in ends)
        assert b.logprobs == pytest.approx(a.logprobs[:stop], abs=1e-5)


def test_a_sample_depends_on_its_own_seed_only():
    sampler = sampler_for("packed")
    options = {"max_new_tokens": 15, "temperature": 1.0, "top_p": 1.0}
    together = sampler.sample(PROMPTS, seeds=[1, 2, 3, 4], **options)
    alone = sampler.sample([PROMPTS[2]], seeds=[3], **options)
    other = sampler.sample([PROMPTS[2]], seeds=[5], **options)
    assert together[2].tokens == alone[0].tokens
    assert other[0].tokens != alone[0].tokens


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7)])
@pytest.mark.slow
def test_samples_follow_the_distribution(temperature, top_p):
    sampler = sampler_for("packed", batch_size=4000)
    count = 4000
    samples = sampler.sample(
        [PROMPTS[0]] * count, max_new_tokens=1, temperature=temperature, top_p=top_p, seeds=list(range(count))
    )
    with torch.no_grad():
        logits = llama(packed=False)(torch.tensor([PROMPTS[0]])).logits[0, -1]
    p = torch.softmax(logits / temperature, -1)
    raw = p.clone()
    if top_p < 1.0:
        ranked, order = p.sort(descending=True)
        p[order[ranked.cumsum(0) - ranked >= top_p]] = 0.0
        p /= p.sum()
    seen = torch.bincount(torch.tensor([s.tokens[0] for s in samples]), minlength=len(p)) / count
    assert torch.all(seen[p == 0] == 0)
    assert torch.all((seen - p).abs() <= 4.5 * (p * (1 - p) / count).sqrt() + 1e-12)
    for sample in samples[:20]:  # of the distribution at the temperature, before top-p
        assert sample.logprobs[0] == pytest.approx(raw[sample.tokens[0]].log().item(), abs=1e-4)


def test_scores_have_no_dropout_during_training():
    model = gemma2()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    sampler = TorchSampler(model, (), False)
    expected = sampler.score([[5, 9, 11]], [[4, 5, 6, 7]])
    model.train()
    torch.testing.assert_close(sampler.score([[5, 9, 11]], [[4, 5, 6, 7]]), expected)
    assert model.training


def test_a_copy_follows_update_weights():
    live = llama()
    sampler = TorchSampler(live, (), True, dtype=torch.bfloat16)
    other = llama(seed=5)
    before = sampler.sample(PROMPTS, max_new_tokens=8, temperature=0.0, top_p=1.0, seeds=[0] * 4)
    sampler.update_weights(other)
    after = sampler.sample(PROMPTS, max_new_tokens=8, temperature=0.0, top_p=1.0, seeds=[0] * 4)
    fresh = TorchSampler(other, (), True, dtype=torch.bfloat16)
    assert after != before
    assert after == fresh.sample(PROMPTS, max_new_tokens=8, temperature=0.0, top_p=1.0, seeds=[0] * 4)
    assert live.model.rotary_emb.inv_freq.dtype == sampler.model.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("kind", MODELS)
def test_the_tally_counts_every_call(kind):
    prompts = [[*range(3, 83), i] for i in range(4)]
    options = {"max_new_tokens": 6, "temperature": 0.0, "top_p": 1.0, "seeds": [0] * 4}
    sampler = sampler_for(kind)
    first, second = sampler.sample(prompts, **options), sampler.sample(PROMPTS, **options)
    shared = 3 * 80 if kind == "packed" else 0
    assert (sampler.tally.read, sampler.tally.shared) == (4 * 81 - shared + sum(map(len, PROMPTS)), shared)
    assert sampler.tally.drawn == sum(len(s.tokens) for s in first + second) == 8 * 6
    assert sampler.tally.seconds > 0
    apart = sampler_for(kind, share_prefixes=False)
    assert [s.tokens for s in apart.sample(prompts, **options)] == [s.tokens for s in first]
    assert (apart.tally.read, apart.tally.shared) == (4 * 81, 0)


def test_draw_at_the_edges():
    p = torch.tensor([[0.0, 0.25, 0.75, 0.0]]).repeat(3, 1)
    assert draw(p, torch.tensor([0.0, 0.2499, 0.999999], dtype=torch.float64)).tolist() == [1, 1, 2]
    assert draw(p, torch.tensor([0.0, 0.2499, 0.999999], dtype=torch.float64), top_p=0.5).tolist() == [2, 2, 2]
