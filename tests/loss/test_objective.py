"""Each objective's hand-derived gradient against autograd of its definition, in float64."""

import pytest
import torch

from tutelage.common.errors import TutelageError
from tutelage.loss.objective import CrossEntropy, Divergence, Objective, WeightedSum

OBJECTIVES = [
    CrossEntropy(),
    Divergence(0.0),
    Divergence(0.5),
    Divergence(0.1, temperature=2.0),
    Divergence(1.0, temperature=0.7),
    WeightedSum(((0.3, CrossEntropy()), (2.0, Divergence(0.5)))),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_hand_derived_gradient_equals_autograd(objective, spread):
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(5, 40, generator=generator, dtype=torch.float64)
    student = teacher + spread * torch.randn(5, 40, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 3, 39, 7, 7])
    values, gradient = objective.value_and_gradient(student.clone(), teacher.clone(), labels)
    expected_values, expected = Objective.value_and_gradient(objective, student, teacher, labels)
    torch.testing.assert_close(values, expected_values, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-12)


def test_which_objectives_need_the_teacher():
    assert [o.needs_teacher for o in OBJECTIVES] == [False, True, True, True, True, True]
    with pytest.raises(TutelageError, match="none was given"):
        Divergence()(torch.zeros(1, 3), None, torch.tensor([0]))


def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    values, gradient = CrossEntropy().value_and_gradient(logits, None, torch.tensor([2]))
    assert values.item() == pytest.approx(1.3862944)
    assert gradient.tolist() == [[0.25, 0.25, -0.75, 0.25]]
