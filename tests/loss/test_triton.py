"""The Triton path against float64: compiled on a GPU, interpreted on CPU tensors without one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.common.errors import TutelageError
from tutelage.common.types import Head, TeacherSignal
from tutelage.loss import divergence
from tutelage.loss.fused_linear import linear_objective
from tutelage.loss.objective import CrossEntropy, Divergence, Objective, WeightedSum

pytest.importorskip("triton", reason="Triton is not installed (pip install 'tutelage[dev]' on Linux)")
from tutelage.loss import triton_launch

pytestmark = pytest.mark.slow

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter reduces a block element by element. Several steps per row, the last of them short.
WIDTH, BLOCK = (700, 128) if DEVICE == "cuda" else (74, 32)
SHORT_BLOCKS = triton_launch.LaunchConfig(block=BLOCK)

OBJECTIVES = [
    CrossEntropy(),
    *(Divergence(beta) for beta in (0.0, 1e-3, 0.3, 0.5, 0.9, 1.0)),
    Divergence(0.5, temperature=2.0),
    Divergence(0.0, temperature=0.7),
    WeightedSum(((0.3, CrossEntropy()), (2.0, Divergence(0.2)))),
    WeightedSum(((0.3, CrossEntropy()), (2.0, Divergence(1.0)))),
    WeightedSum(((2.0, Divergence(0.0)), (0.3, CrossEntropy()))),
    WeightedSum(((2.0, Divergence(0.7, temperature=3.0)),)),
]
# Each formula of the kernel once: without a GPU, weights and temperatures are tried on random logits alone.
PLAIN = [CrossEntropy(), *(Divergence(beta) for beta in (0.0, 1e-3, 0.5, 1.0))]
# How student and teacher differ, and the relative error allowed of the value; at β = 0.001 ten times as
# much of the first two, whose errors come from logits far apart.
PAIRS = {"random": 5e-6, "peaked": 1e-5, "0.1 apart": 5e-5, "0.01 apart": 5e-4}


def logits_pair(kind: str, rows: int = 3, width: int = WIDTH, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher, noise = (torch.randn(rows, width, generator=generator) for _ in range(2))
    if kind == "random":
        return (2.0 * noise).to(DEVICE), (2.0 * teacher).to(DEVICE)
    if kind == "peaked":
        return (8.0 * noise).to(DEVICE), (8.0 * teacher).to(DEVICE)
    return (2.0 * teacher + float(kind.split()[0]) * noise).to(DEVICE), (2.0 * teacher).to(DEVICE)


def run(objective, student, teacher, labels, weights, heads=None, statistics=True, kind=torch.float32):
    known = triton_launch.kernel_objective(objective)
    assert known is not None
    gradient = torch.full(student.shape, torch.nan, dtype=kind, device=DEVICE)
    heads = heads or (Head(student), None if teacher is None else Head(teacher))
    values, columns = triton_launch.evaluate_chunk(
        known, student, heads[0], teacher, heads[1], labels, weights, gradient, statistics, SHORT_BLOCKS
    )
    return values, columns, gradient


def labels_and_weights(rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels [rows] and token weights [rows]; the second token's weight is zero."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(rows, generator=generator)
    weights[1:2] = 0.0
    return torch.randint(0, width, (rows,), generator=generator).to(DEVICE), weights.to(DEVICE)


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize(
    ("kind", "objective"),
    [(k, o) for k in PAIRS for o in OBJECTIVES if DEVICE == "cuda" or k == "random" or o in PLAIN],
    ids=lambda one: one if isinstance(one, str) else repr(one),
)
def test_values_and_gradients_equal_float64(kind, objective):
    student, teacher = logits_pair(kind)
    labels, weights = labels_and_weights(*student.shape)
    before = student.clone()
    values, _, gradient = run(objective, student, teacher, labels, weights)
    assert torch.equal(student, before)
    exact_values, slope = objective.value_and_gradient(student.double(), teacher.double(), labels)
    exact = slope * weights.double()[:, None]
    tolerance = PAIRS[kind] * (10 if objective == Divergence(1e-3) and "apart" not in kind else 1)
    torch.testing.assert_close(values.double(), exact_values, rtol=tolerance, atol=0)
    # 2e-7: float32 loses the gradient of a probability that is this close to 1
    assert (gradient.double() - exact).norm() < 1e-4 * exact.norm() + 2e-7
    assert torch.count_nonzero(gradient[1]) == 0


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("objective", [CrossEntropy(), Divergence(0.5), Divergence(0.5, temperature=2.0)], ids=repr)
def test_statistics_are_those_at_temperature_one(kind, objective):
    student, teacher = logits_pair(kind)
    teacher[0] = 5.0 * student[0]  # one row that agrees
    labels, weights = labels_and_weights(*student.shape)
    _, columns, _ = run(objective, student, teacher, labels, weights)
    s, t = student.double(), teacher.double()
    expected = [
        CrossEntropy()(s, None, labels),
        divergence.forward_kl(s, t),
        divergence.reverse_kl(s, t),
        divergence.entropy(s),
        divergence.entropy(t),
        (s.argmax(-1) == t.argmax(-1)).double(),
    ]
    for found, exact in zip(columns, expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=1e-6 * max(1.0, exact.abs().max().item()))
    assert columns[5][0] == 1.0


def test_without_teacher_or_statistics_the_columns_are_none():
    student, teacher = logits_pair("random")
    labels, weights = labels_and_weights(*student.shape)
    _, columns, _ = run(CrossEntropy(), student, None, labels, weights)
    assert [column is None for column in columns] == [False, True, True, False, True, True]
    torch.testing.assert_close(columns[3].double(), divergence.entropy(student.double()), rtol=1e-5, atol=1e-5)
    values, columns, _ = run(Divergence(0.5), student, teacher, labels, weights, statistics=False)
    assert columns == [None] * 6
    torch.testing.assert_close(values, divergence.generalized_jsd(student, teacher, 0.5), rtol=1e-5, atol=0)


def test_the_first_of_equal_logits_is_the_most_likely_token():
    student, teacher = torch.zeros(2, 600, device=DEVICE), torch.zeros(2, 600, device=DEVICE)
    student[0, [70, 300, 580]] = teacher[0, [70, 580]] = 3.0
    student[1, [580, 300]] = teacher[1, [70, 580]] = 3.0
    labels, weights = labels_and_weights(2, 600)
    _, columns, _ = run(CrossEntropy(), student, teacher, labels, weights)
    assert columns[5].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "objective", [CrossEntropy(), Divergence(0.5), Divergence(0.0, 2.0), Divergence(1.0)], ids=repr
)
@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("biased", [False, True])
def test_bias_scale_and_soft_cap_are_applied_as_the_head_says(objective, softcap, biased):
    student, teacher = logits_pair("random")
    labels, weights = labels_and_weights(*student.shape)
    bias = logits_pair("random", rows=2)[0] if biased else [None, None]
    heads = (Head(student, bias[0], 0.7, softcap), Head(teacher, bias[1], 1.3, None if softcap is None else 6.0))
    values, _, gradient = run(objective, student, teacher, labels, weights, heads)

    def logits(product, head):
        z = head.scale * (product if head.bias is None else product + head.bias.double())
        return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)

    leaf = student.double().requires_grad_()
    exact_values = objective(logits(leaf, heads[0]), logits(teacher.double(), heads[1]), labels)
    (exact,) = torch.autograd.grad((exact_values * weights.double()).sum(), leaf)
    torch.testing.assert_close(values.double(), exact_values.detach(), rtol=1e-5, atol=0)
    assert relative(gradient, exact) < 1e-4


def test_logits_far_apart_stay_finite():
    student, teacher = torch.zeros(1, 600, device=DEVICE), torch.zeros(1, 600, device=DEVICE)
    student[0, 3], teacher[0, 4] = 3000.0, 3000.0
    labels, weights = torch.tensor([5], device=DEVICE), torch.ones(1, device=DEVICE)
    values, columns, gradient = run(Divergence(0.5), student, teacher, labels, weights)
    assert values.item() == pytest.approx(0.6931472, rel=1e-6)
    assert [column.item() for column in columns] == pytest.approx([3000.0, 3000.0, 3000.0, 0.0, 0.0, 0.0])
    assert gradient.isfinite().all()


def test_a_nan_is_not_hidden():
    student, teacher = logits_pair("random")
    student[2, 5] = torch.nan
    labels, weights = labels_and_weights(*student.shape)
    values, _, _ = run(Divergence(0.5), student, teacher, labels, weights)
    assert values.isnan().tolist() == [False, False, True]


def test_objectives_that_the_kernel_does_not_support_are_left_to_torch():
    ce, jsd = CrossEntropy(), Divergence(0.5)
    unknown: list[Objective] = [
        Divergence(1e-5),
        Divergence(1 - 1e-5),
        WeightedSum(((1.0, ce), (1.0, Divergence(0.5, 2.0)))),
        WeightedSum(((1.0, jsd), (1.0, Divergence(0.2)))),
        WeightedSum(((1.0, WeightedSum(((1.0, ce),))), (1.0, jsd))),
        Objective(),
    ]
    assert [triton_launch.kernel_objective(objective) for objective in unknown] == [None] * len(unknown)
    hidden, head, teacher, labels, weights = problem(3, 20, 20)
    with pytest.raises(TutelageError, match="no Triton kernel"):
        linear_objective(unknown[0], hidden, head, teacher, labels, weights, implementation="triton")


def problem(tokens, width, teacher_width, kind=torch.float32, bias=False, softcap=None, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE, kind)

    hidden, weight = rand(tokens, 16).requires_grad_(), rand(width, 16).requires_grad_()
    head = Head(weight, rand(width).float().requires_grad_() if bias else None, 0.5, softcap)
    teacher = TeacherSignal(rand(tokens, 24), Head(rand(teacher_width, 24), scale=0.5))
    labels = torch.randint(0, min(width, teacher_width), (tokens,), generator=generator).to(DEVICE)
    return hidden, head, teacher, labels, torch.rand(tokens, generator=generator).to(DEVICE)


def in_float64(hidden, head, teacher, labels, weights):
    """The same inputs in float64."""

    def leaf(x):
        return None if x is None else x.detach().double().requires_grad_()

    signal = TeacherSignal(teacher.hidden.double(), Head(teacher.head.weight.double(), scale=teacher.head.scale))
    return leaf(hidden), Head(leaf(head.weight), leaf(head.bias), head.scale, head.softcap), signal, labels, weights


def solve(objective, inputs, **options):
    """Loss, statistics and the gradients of hidden, weight and bias, of 3 · loss."""
    hidden, head = inputs[:2]
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":  # or a row of these tests would be one step
            patch.setattr(triton_launch, "launch_config", lambda *_: SHORT_BLOCKS)
        loss, stats = linear_objective(objective, *inputs, **options)
    leaves = [x for x in (hidden, head.weight, head.bias) if x is not None]
    return loss.detach(), stats, torch.autograd.grad(3.0 * loss, leaves)


@pytest.mark.parametrize("objective", [OBJECTIVES[0], OBJECTIVES[4], OBJECTIVES[7], OBJECTIVES[9]], ids=repr)
@pytest.mark.parametrize("case", ["plain", "padded student", "padded teacher, bias, cap"])
def test_whole_loss_equals_the_torch_path(objective, case):
    student, teacher = {"plain": (WIDTH, WIDTH), "padded student": (WIDTH + 20, WIDTH)}.get(case, (WIDTH, WIDTH + 20))
    inputs = problem(5, student, teacher, bias="bias" in case, softcap=3.0 if "cap" in case else None)
    options = {"chunk_tokens": 2, "group_chunks": 2}
    loss, stats, grads = solve(objective, inputs, implementation="triton", **options)
    exact_loss, exact_stats, exact_grads = solve(objective, in_float64(*inputs), implementation="torch")
    assert loss.item() == pytest.approx(exact_loss.item(), rel=1e-5)
    for found, exact in zip(grads, exact_grads, strict=True):
        assert relative(found, exact) < 2e-5
    for name, exact in vars(exact_stats).items():
        torch.testing.assert_close(getattr(stats, name), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", [CrossEntropy(), Divergence(0.5), Divergence(0.0), Divergence(1.0)], ids=repr)
@pytest.mark.parametrize("near", [False, True])
def test_half_precision_inputs_stay_within_the_bounds(objective, near):
    hidden, head, teacher, labels, weights = problem(5, 2 * WIDTH, 2 * WIDTH, torch.bfloat16)
    if near:
        noise = torch.randn(5, 16, generator=torch.Generator().manual_seed(2)).to(DEVICE)
        close = (hidden.detach() + 0.05 * noise).bfloat16()
        teacher = TeacherSignal(close, Head(head.weight.detach(), scale=0.5))
    inputs = hidden, head, teacher, labels, weights
    loss, _, grads = solve(objective, inputs, implementation="triton", chunk_tokens=2, group_chunks=2)
    exact_loss, _, exact_grads = solve(objective, in_float64(*inputs), implementation="torch")
    assert [grad.dtype for grad in grads] == [torch.bfloat16] * 2
    assert loss.item() == pytest.approx(exact_loss.item(), rel=1e-3)
    for found, exact in zip(grads, exact_grads, strict=True):
        assert relative(found, exact) < 1e-2


def test_without_gradients_the_values_are_the_same():
    inputs = problem(5, 300, 300)
    loss, stats, _ = solve(Divergence(0.5), inputs, implementation="triton")
    with torch.no_grad():
        bare_loss, bare = linear_objective(Divergence(0.5), *inputs, implementation="triton", chunk_tokens=2)
    assert not bare_loss.requires_grad
    torch.testing.assert_close(bare_loss, loss)
    torch.testing.assert_close(bare.loss, stats.loss)


def test_buffers_fit_their_budget():
    from tutelage.loss.chunk import buffer_sizes

    assert buffer_sizes(int(1.3 * 2**30), 128_256, 2, 2) == (768, 3)
    for budget in (2**30, 3 * 2**29):
        for width in (32_000, 49_152, 128_256, 256_000):
            for models in (1, 2):
                for gradient in (0, 2, 4):
                    chunk, chunks = buffer_sizes(budget, width, models, gradient)
                    assert width * chunk * (4 * models + gradient * chunks) <= budget
                    assert chunk % 256 == 0 or chunk < 256


@settings(max_examples=12 if DEVICE == "cpu" else 100, deadline=None)
@given(
    tokens=st.integers(1, 7),
    width=st.integers(2, 80),
    extra=st.integers(-1, 3),
    chunk=st.integers(1, 8),
    group=st.integers(1, 3),
    beta=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    temperature=st.sampled_from([1.0, 1.7]),
    hard=st.booleans(),
    seed=st.integers(0, 1000),
)
@pytest.mark.long
def test_any_shape(tokens, width, extra, chunk, group, beta, temperature, hard, seed):
    objective = Divergence(beta, temperature)
    if hard:
        objective = WeightedSum(((0.5, CrossEntropy()), (1.0, Divergence(beta))))
    inputs = problem(tokens, width, max(1, width + extra), seed=seed)
    loss, stats, grads = solve(objective, inputs, implementation="triton", chunk_tokens=chunk, group_chunks=group)
    exact_loss, exact_stats, exact_grads = solve(objective, in_float64(*inputs), implementation="torch")
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stats.loss, exact_stats.loss, rtol=1e-4, atol=1e-6)
    for found, exact in zip(grads, exact_grads, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)
