"""The divergences against the paper's formulas in float64, against TRL, and against finite differences."""

import math

import pytest
import torch

from tutelage.loss.divergence import entropy, forward_kl, generalized_jsd, reverse_kl

VOCABULARY = 2000


def logits_pair(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(2, 16, VOCABULARY, generator=generator, dtype=torch.float64)
    teacher = 2.0 * noise[0]
    student = {
        "random": 2.0 * noise[1],
        "peaked": 12.0 * noise[1],
        "flat": 0.01 * noise[1],
        "near": teacher + 0.1 * noise[1],
        "nearer": teacher + 0.01 * noise[1],
        "far apart": 60.0 * noise[1],
    }[kind]
    # float32 inputs, so that the reference gets exactly the function's numbers.
    return student.float(), teacher.float()


KINDS = ["random", "peaked", "flat", "near", "nearer", "far apart"]


def textbook_kl(p_log: torch.Tensor, q_log: torch.Tensor) -> torch.Tensor:
    p = p_log.exp()
    return torch.where(p > 0, p * (p_log - q_log), 0.0).sum(-1)


def textbook(student: torch.Tensor, teacher: torch.Tensor, beta: float, temperature: float) -> torch.Tensor:
    s = torch.log_softmax(student.double() / temperature, -1)
    t = torch.log_softmax(teacher.double() / temperature, -1)
    if beta == 0:
        return textbook_kl(t, s)
    if beta == 1:
        return textbook_kl(s, t)
    m = torch.logaddexp(math.log(beta) + t, math.log(1 - beta) + s)
    return beta * textbook_kl(t, m) + (1 - beta) * textbook_kl(s, m)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_against_float64_sums(kind, beta, temperature):
    student, teacher = logits_pair(kind)
    expected = textbook(student, teacher, beta, temperature)
    actual = generalized_jsd(student, teacher, beta, temperature)
    assert actual.shape == student.shape[:-1]
    assert torch.all((actual.double() - expected).abs() <= 1e-5 * expected.abs() + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_against_trl(kind, beta):
    gkd = pytest.importorskip("trl.experimental.gkd", reason="trl is not installed")
    student, teacher = (x.double()[None] for x in logits_pair(kind))
    # TRL only returns a reduced loss: one token per call gives per-token values.
    for n in range(student.shape[1]):
        expected = gkd.GKDTrainer.generalized_jsd_loss(
            student[:, n : n + 1], teacher[:, n : n + 1], beta=beta, reduction="sum"
        )
        actual = generalized_jsd(student[0, n].float(), teacher[0, n].float(), beta)
        assert abs(actual.item() - expected.item()) <= 1e-5 * abs(expected.item()) + 1e-9


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 1.0])
def test_gradients_against_finite_differences(beta):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 7, dtype=torch.float64, generator=generator).requires_grad_()
    teacher = torch.randn(3, 7, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: generalized_jsd(s, t, beta, 1.3), (student, teacher))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_equal_distributions_give_exactly_zero(beta):
    logits, _ = logits_pair("peaked")
    shifted = logits + 3.0  # the same distribution
    assert torch.equal(generalized_jsd(logits, logits, beta), torch.zeros(16))
    assert generalized_jsd(shifted, logits, beta).abs().max() < 1e-9


def test_limits_of_beta():
    # Small logits: the limit needs β·exp(δ) to be small for every token.
    student, teacher = (x.double() / 4 for x in logits_pair("random"))
    small = 1e-6
    torch.testing.assert_close(
        generalized_jsd(student, teacher, small) / small, forward_kl(student, teacher), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(
        generalized_jsd(student, teacher, 1 - small) / small, reverse_kl(student, teacher), rtol=1e-4, atol=0
    )


def test_beta_half_is_symmetric_and_bounded_by_log_two():
    student, teacher = logits_pair("far apart")
    forward = generalized_jsd(student, teacher, 0.5)
    torch.testing.assert_close(forward, generalized_jsd(teacher, student, 0.5), rtol=1e-5, atol=1e-7)
    assert forward.max() <= math.log(2) + 1e-6


def test_half_precision_is_computed_in_float32_and_float64_stays():
    student, teacher = logits_pair("random")
    rounded = generalized_jsd(student.bfloat16(), teacher.bfloat16(), 0.5)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, generalized_jsd(student.bfloat16().float(), teacher.bfloat16().float(), 0.5))
    assert generalized_jsd(student.double(), teacher.double(), 0.5).dtype == torch.float64


def test_entropy_of_uniform_and_of_certainty():
    assert entropy(torch.zeros(8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.tensor([0.0, -torch.inf, -torch.inf])).item() == 0.0


@pytest.mark.parametrize(
    ("beta", "temperature", "width"), [(1.5, 1.0, 4), (-0.1, 1.0, 4), (0.5, 0.0, 4), (0.5, 1.0, 5)]
)
def test_bad_arguments(beta, temperature, width):
    with pytest.raises(ValueError, match=r"beta|temperature|shape"):
        generalized_jsd(torch.zeros(2, 4), torch.zeros(2, width), beta, temperature)
