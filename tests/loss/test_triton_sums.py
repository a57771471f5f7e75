"""Elementwise kernels against torch: compiled on a GPU, interpreted on CPU tensors without one."""

import pytest
import torch

from tutelage.loss import triton_sums
from tutelage.models.working import Working

pytest.importorskip("triton", reason="Triton is not installed (pip install 'tutelage[dev]' on Linux)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF, WIDE = torch.bfloat16, torch.float32
SIZES = [(7, 512), (1, 513), (3, 5)]


@pytest.fixture(autouse=True)
def launches(monkeypatch):
    """The kernels are taken for small CPU tensors too; the names of those that ran."""
    ran, launch = [], triton_sums._launch
    monkeypatch.setattr(triton_sums, "_by_kernel", lambda a, b: a.dtype != torch.float64)
    monkeypatch.setattr(
        triton_sums, "_launch", lambda kernel, *rest: (ran.append(kernel.__name__), launch(kernel, *rest))
    )
    return ran


def random(size, kind, seed):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(DEVICE, kind)


def assert_equal(found, expected):
    """Equal bit by bit; but Triton's interpreter cuts off digits where it makes a bfloat16 number."""
    cut = DEVICE == "cpu" and found.dtype == HALF
    torch.testing.assert_close(found, expected, rtol=2**-7 if cut else 0, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kinds", [(WIDE, HALF), (WIDE, WIDE), (HALF, HALF)])
def test_a_sum_is_that_of_torch(size, kinds, launches):
    total, part = random(size, kinds[0], 0), random(size, kinds[1], 1)
    expected = total.clone().add_(part)
    triton_sums.add_to(total, part)
    assert_equal(total, expected)
    assert launches == ["add_kernel"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kinds", [(WIDE, HALF), (WIDE, WIDE), (HALF, HALF)])
def test_a_scaled_gradient_is_rounded_once(size, kinds, launches):
    gradient, scale = random(size, kinds[0], 0), torch.tensor(0.3, device=DEVICE)
    expected = (gradient.float() * scale).to(kinds[1])
    found = triton_sums.scaled(gradient, kinds[1], scale)
    assert_equal(found, expected)
    assert (found is gradient) == (kinds[0] == kinds[1])
    assert launches == ["scale_kernel"]


def test_float64_stays_with_torch(launches):
    gradient, scale = random((3, 5), torch.float64, 0), torch.tensor(0.3, dtype=torch.float64, device=DEVICE)
    assert torch.equal(triton_sums.scaled(gradient.clone(), torch.float64, scale), gradient * scale)
    assert launches == []


def test_working_weights_add_their_gradients_by_the_kernel(launches):
    masters = torch.nn.Linear(16, 8, device=DEVICE)
    working, x = Working(masters, HALF), random((4, 16), HALF, 0)
    for _ in range(3):
        working.model(x).sum().backward()
    assert masters.weight.grad is not None
    assert torch.equal(masters.weight.grad, 3 * x.sum(0, dtype=WIDE).to(HALF).float().expand(8, 16))
    assert launches == ["add_kernel"] * 4  # weight and bias, after the first pass


@pytest.mark.skipif(DEVICE == "cpu", reason="which tensors the kernels are taken for is a matter of GPUs")
def test_large_contiguous_tensors_are_taken(monkeypatch):
    monkeypatch.undo()
    large, small = torch.zeros(2**10, 2**10, device=DEVICE), torch.zeros(8, device=DEVICE)
    assert triton_sums._by_kernel(large, large.bfloat16())
    assert not triton_sums._by_kernel(small, small)
    assert not triton_sums._by_kernel(large.t(), large)
