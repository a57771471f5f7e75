"""The fused loss against full logits and autograd."""

import pytest
import torch

from tutelage.common.types import Head, TeacherSignal
from tutelage.loss.fused_linear import label_logprobs, linear_objective
from tutelage.loss.objective import CrossEntropy, Divergence, WeightedSum


def inputs(vocabulary=50, teacher_vocabulary=50, bias=False, scale=1.0, softcap=None):
    g = torch.Generator().manual_seed(3)

    def rand(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    hidden = rand(11, 8).requires_grad_()
    head = Head(
        rand(vocabulary, 8).requires_grad_(), rand(vocabulary).requires_grad_() if bias else None, scale, softcap
    )
    teacher = TeacherSignal(rand(11, 6), Head(rand(teacher_vocabulary, 6)))
    labels = torch.randint(0, min(vocabulary, teacher_vocabulary), (11,), generator=g)
    weights = torch.rand(11, generator=g, dtype=torch.float64)
    weights[4] = 0.0
    return hidden, head, teacher, labels, weights


def full_logits_loss(objective, hidden, head, teacher, labels, weights):
    logits = hidden @ head.weight.T
    if head.bias is not None:
        logits = logits + head.bias
    logits = logits * head.scale
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    teacher_logits = teacher.hidden @ teacher.head.weight.T
    width = min(logits.shape[1], teacher_logits.shape[1])
    return (weights * objective(logits[:, :width], teacher_logits[:, :width], labels)).sum()


CASES = {
    "plain": {},
    "bias": {"bias": True},
    "scaled and capped with bias": {"bias": True, "scale": 0.4, "softcap": 2.0},
    "student padded": {"vocabulary": 56},
    "teacher padded": {"teacher_vocabulary": 64},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "objective",
    [
        CrossEntropy(),
        Divergence(0.5),
        Divergence(0.0),
        Divergence(1.0, 2.0),
        WeightedSum(((0.5, CrossEntropy()), (1.0, Divergence(0.2)))),
    ],
    ids=repr,
)
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_loss_and_gradients_equal_those_of_full_logits(case, objective, chunk):
    hidden, head, teacher, labels, weights = inputs(**CASES[case])
    leaves = [x for x in (hidden, head.weight, head.bias) if x is not None]
    expected = full_logits_loss(objective, hidden, head, teacher, labels, weights)
    expected_grads = torch.autograd.grad(3.0 * expected, leaves)
    loss, stats = linear_objective(objective, hidden, head, teacher, labels, weights, chunk_tokens=chunk)
    grads = torch.autograd.grad(3.0 * loss, leaves)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for actual, exact in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(actual, exact, rtol=1e-8, atol=1e-12)
    assert torch.dot(stats.loss.double(), weights).item() == pytest.approx(loss.item(), rel=1e-5)


def test_masked_token_gets_no_gradient():
    hidden, head, teacher, labels, weights = inputs()
    loss, _ = linear_objective(Divergence(0.5), hidden, head, teacher, labels, weights)
    (gradient,) = torch.autograd.grad(loss, [hidden])
    assert torch.equal(gradient[4], torch.zeros(8, dtype=torch.float64))
    assert gradient[3].abs().sum() > 0


def test_statistics_are_those_of_the_full_distributions():
    hidden, head, teacher, labels, weights = inputs()
    _, stats = linear_objective(CrossEntropy(), hidden, head, teacher, labels, weights, chunk_tokens=4)
    s = torch.log_softmax(hidden @ head.weight.T, -1)
    t = torch.log_softmax(teacher.hidden @ teacher.head.weight.T, -1)
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(stats.cross_entropy, -s[range(11), labels].float(), **close)
    torch.testing.assert_close(stats.forward_kl, (t.exp() * (t - s)).sum(-1).float(), **close)
    torch.testing.assert_close(stats.reverse_kl, (s.exp() * (s - t)).sum(-1).float(), **close)
    torch.testing.assert_close(stats.student_entropy, -(s.exp() * s).sum(-1).float(), **close)
    torch.testing.assert_close(stats.teacher_entropy, -(t.exp() * t).sum(-1).float(), **close)
    assert torch.equal(stats.agreement, (s.argmax(-1) == t.argmax(-1)).float())
    _, bare = linear_objective(CrossEntropy(), hidden, head, None, labels, weights, statistics=False)
    assert bare.forward_kl is None
    assert bare.student_entropy is None


def test_no_tokens_give_zero_loss_and_zero_gradient():
    hidden, head, teacher, labels, weights = inputs()
    loss, stats = linear_objective(
        Divergence(0.5), hidden[:0], head, TeacherSignal(teacher.hidden[:0], teacher.head), labels[:0], weights[:0]
    )
    (gradient,) = torch.autograd.grad(loss, [head.weight])
    assert loss.item() == 0.0
    assert gradient.abs().sum() == 0.0
    assert stats.loss.shape == (0,)


def test_half_precision_inputs_give_float32_statistics():
    hidden, head, teacher, labels, weights = inputs()
    low = [x.detach().bfloat16().requires_grad_() for x in (hidden, head.weight)]
    signal = TeacherSignal(teacher.hidden.bfloat16(), Head(teacher.head.weight.bfloat16()))
    loss, stats = linear_objective(Divergence(0.5), low[0], Head(low[1]), signal, labels, weights.float())
    wide = TeacherSignal(signal.hidden.double(), Head(signal.head.weight.double()))
    exact = full_logits_loss(Divergence(0.5), low[0].double(), Head(low[1].double()), wide, labels, weights)
    assert loss.dtype == stats.loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    loss.backward()
    assert low[1].grad.dtype == torch.bfloat16


def test_label_logprobs():
    hidden, head, _, labels, _ = inputs(softcap=2.0)
    expected = torch.log_softmax(2.0 * torch.tanh(hidden @ head.weight.T / 2.0) / 0.7, -1)[range(11), labels]
    torch.testing.assert_close(label_logprobs(hidden, head, labels, 0.7), expected.detach())
