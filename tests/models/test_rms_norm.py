"""Fused norms compute what the model's own do; other kinds of norms are not changed."""

import copy

import torch
from tiny import gemma2, llama

from tutelage.models.rms_norm import FusedRMSNorm, fuse_norms

IDS = torch.tensor([[5, 9, 11, 3, 8, 20]])


def test_the_model_computes_the_same_with_gradients():
    own = llama(packed=False)
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)) + 0.5)
    fused = copy.deepcopy(own)
    layers = own.config.num_hidden_layers
    assert fuse_norms(fused) == 2 * layers + 1
    assert sum(isinstance(m, FusedRMSNorm) for m in fused.modules()) == 2 * layers + 1
    losses = [model(IDS, labels=IDS).loss for model in (own, fused)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for (name, a), b in zip(own.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_copy_stays_fused_and_other_norms_are_not_changed():
    model = llama()
    fuse_norms(model)
    clone = copy.deepcopy(model)
    clone.model.norm.weight.data.fill_(2.0)
    assert isinstance(clone.model.norm, FusedRMSNorm)
    x = torch.randn(2, clone.config.hidden_size)
    torch.testing.assert_close(clone.model.norm(x), 2.0 * model.model.norm(x) / model.model.norm.weight)
    assert fuse_norms(gemma2()) == 0
    assert fuse_norms(llama().to("meta")) == 5  # recognised without its weights


def test_half_precision_agrees_within_rounding():
    model = llama().bfloat16()
    x = torch.randn(4, model.config.hidden_size).bfloat16()
    before = model.model.norm(x)
    assert fuse_norms(model) > 0
    torch.testing.assert_close(model.model.norm(x), before, rtol=1e-2, atol=1e-2)


def test_a_gated_norm_is_not_changed():
    from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

    x = torch.randn(2, 16)
    model = torch.nn.ModuleList([MambaRMSNormGated(16)])
    before = model[0](x, gate=x)
    assert fuse_norms(model) == 0
    assert torch.equal(model[0](x, gate=x), before)
