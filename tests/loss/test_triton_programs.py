"""How the loss kernel divides a row, by pieces and by programs that wait for each other; without a GPU, interpreted."""

import inspect
import threading
import time
import types
from functools import cache

import numpy as np
import pytest
import torch

from tutelage.common.types import Head
from tutelage.loss.objective import CrossEntropy, Divergence, WeightedSum

pytest.importorskip("triton", reason="Triton is not installed (pip install 'tutelage[dev]' on Linux)")
from tutelage.loss import triton_launch
from tutelage.loss.triton_launch import LaunchConfig

pytestmark = pytest.mark.slow

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
UNIT = 128 if DEVICE == "cuda" else 8  # columns of one program's block
OBJECTIVES = [
    CrossEntropy(),
    *(Divergence(beta) for beta in (0.0, 0.3, 0.5, 1.0)),
    Divergence(0.5, temperature=2.0),
    WeightedSum(((0.3, CrossEntropy()), (2.0, Divergence(0.5)))),
    WeightedSum(((0.3, CrossEntropy()), (2.0, Divergence(0.0)))),
]


@pytest.fixture
def programs_at_once(monkeypatch):
    """Triton's interpreter runs programs one after the other: here each has a thread, so that they can wait."""
    if DEVICE == "cuda":
        return
    from triton.runtime import interpreter

    builder, mine = interpreter.interpreter_builder, threading.local()
    launch, atomic = interpreter.GridExecutor.__call__, builder.create_atomic_rmw

    def program_id(axis):
        return interpreter.TensorHandle(np.array([mine.place[axis]], dtype=np.int32), interpreter.tl.int32)

    def atomic_and_yield(*arguments):
        time.sleep(0)
        return atomic(*arguments)

    def launch_at_once(self, *arguments, **options):
        kernel, total, threads, thread_of = self.fn, self.grid[0], [], threading.Thread  # `program` has no globals here

        def run(place, values):
            mine.place = place
            kernel(**values)

        def program(**values):
            threads.append(thread_of(target=run, args=(builder.grid_idx, values)))
            if len(threads) == total:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

        self.fn = types.FunctionType(program.__code__, kernel.__globals__, closure=program.__closure__)
        self.fn.__signature__ = inspect.signature(kernel)
        launch(self, *arguments, **options)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch_at_once)
    monkeypatch.setattr(builder, "create_get_program_id", program_id)
    monkeypatch.setattr(builder, "create_atomic_rmw", atomic_and_yield)


def inputs(rows, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2.0 * torch.randn(rows, width, generator=generator).to(DEVICE) for _ in range(2))
    teacher[0] = 5.0 * student[0]  # one row that agrees
    labels = torch.randint(0, width, (rows,), generator=generator).to(DEVICE)
    return student, teacher, labels, torch.rand(rows, generator=generator).to(DEVICE)


def outcome(objective, tensors, config, statistics=True, softcap=None):
    """Values, statistics and gradient, as one tuple."""
    student, teacher, labels, weights = tensors
    gradient = torch.full(student.shape, torch.nan, device=DEVICE)
    known, heads = triton_launch.kernel_objective(objective), (Head(student, softcap=softcap), Head(teacher))
    values, columns = triton_launch.evaluate_chunk(
        known, student, heads[0], teacher, heads[1], labels, weights, gradient, statistics, config
    )
    return values, gradient, *(column for column in columns if column is not None)


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-6)


@cache
def read_in_each_pass(objective, softcap):
    return outcome(objective, inputs(3, 5 * UNIT), LaunchConfig(block=UNIT), softcap=softcap)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("pieces", [1, 4])
def test_a_row_kept_in_registers_equals_a_row_read_in_each_pass(objective, pieces):
    tensors = inputs(3, 5 * UNIT)
    for softcap in (None, 4.0):
        held = outcome(objective, tensors, LaunchConfig(block=8 * UNIT, pieces=pieces), softcap=softcap)
        assert_equal(held, read_in_each_pass(objective, softcap))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize(
    ("programs", "width"),
    [(4, 4 * UNIT), (4, 4 * UNIT - 3), (4, 2 * UNIT + 5), (2, 5 * UNIT)],
    ids=["full", "a short last program", "a program without columns", "several blocks per program"],
)
def test_several_programs_per_row_equal_one(programs_at_once, objective, statistics, programs, width):
    tensors = inputs(2, width)
    many = outcome(objective, tensors, LaunchConfig(UNIT, 4, programs, pieces=2), statistics)
    assert_equal(many, outcome(objective, tensors, LaunchConfig(block=8 * UNIT, pieces=2), statistics))


def test_the_first_of_equal_logits_in_several_programs(programs_at_once):
    student, teacher, labels, weights = inputs(2, 4 * UNIT)
    student.zero_()
    teacher.zero_()
    student[0, [UNIT + 1, 3 * UNIT]] = teacher[0, [UNIT + 1, 2 * UNIT]] = 3.0
    student[1, [UNIT + 1, 3 * UNIT]] = teacher[1, [3 * UNIT, 3 * UNIT + 1]] = 3.0
    config = LaunchConfig(UNIT, 4, 4, pieces=4)
    assert outcome(Divergence(0.5), (student, teacher, labels, weights), config)[-1].tolist() == [1.0, 0.0]


@pytest.mark.skipif(DEVICE == "cpu", reason="rows as wide as a vocabulary take minutes without a GPU")
@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize(("rows", "width"), [(300, 5_000), (3_000, 1_500)])
def test_many_rows_of_several_programs_equal_one(objective, parts, rows, width):
    tensors = inputs(rows, width)
    one = outcome(objective, tensors, LaunchConfig(256, 4))
    assert_equal(outcome(objective, tensors, LaunchConfig(256, 4, parts)), one)


@pytest.mark.skipif(DEVICE == "cpu", reason="rows as wide as a vocabulary take minutes without a GPU")
@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("width", [49_152, 128_256, 262_144])
def test_the_default_launch_equals_one_program_per_row(width, objective, statistics):
    tensors = inputs(300, width)
    plain = outcome(objective, tensors, LaunchConfig(), statistics)
    assert_equal(outcome(objective, tensors, None, statistics), plain)


def test_wide_rows_are_shared_unless_other_processes_compute_at_the_same_moment(monkeypatch, tmp_path):
    class Device:
        type, multi_processor_count = "cuda", 132

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Device)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))

    def programs(width, beta=0.5, divergence=1.0, teacher=True):
        objective = triton_launch.KernelObjective(1.0 - divergence, divergence, beta)
        return triton_launch.launch_config(objective, width, Device, teacher).programs  # type: ignore[arg-type]

    assert [programs(width) for width in (49_152, 128_256, 151_936, 262_144)] == [1, 32, 64, 64]
    assert programs(128_256, beta=0.0) == programs(128_256, divergence=0.0, teacher=False) == 32
    assert programs(2_000_000) == 1  # more programs than multiprocessors
    (tmp_path / "control").touch()
    assert programs(128_256) == 1
