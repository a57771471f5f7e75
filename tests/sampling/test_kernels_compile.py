"""The compiler takes the kernels of a decoding step. The interpreter, which the other tests use without a GPU, takes more
than it does: names that have another type in each branch, for example."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="the kernels need triton")

PROGRAM = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from tutelage.models import decode_attention
from tutelage.sampling import draw_kernels, step_kernels

HEADS = {"HEADS": 9, "KV_HEADS": 3, "HALF": 32, "BLOCK": 8, "HALF_PADDED": 32}
KERNELS = [
    (step_kernels._write_kernel, {"HEADS": 3, "SIZE": 64, "BLOCK": 8, "SIZE_PADDED": 64}),
    (step_kernels._rotary_kernel, HEADS),
    (step_kernels._rotate_into_slots_kernel, HEADS),
    (step_kernels._add_and_norm_kernel, {"WIDTH": 576, "PADDED": 1024}),
    (step_kernels._silu_times_kernel, {"WIDTH": 1536, "BLOCK": 1024}),
    (decode_attention._decode_kernel, {"SIZE": 64, "SIZE_PADDED": 64, "GROUP": 3, "GROUP_PADDED": 16, "HEADS": 9,
     "SPLITS": 2, "BLOCK": 64, "PRECISION": "tf32"}),
]
INTEGERS = ("rows_ptr", "positions_ptr", "seen_ptr")
for kernel, constants in KERNELS:
    names = kernel.arg_names
    kinds = {n: "*i64" if n in INTEGERS else "*bf16" if n.endswith("_ptr") else "i32" for n in names}
    kinds |= {n: "fp32" for n in ("scale", "epsilon") if n in kinds} | {n: "constexpr" for n in constants}
    source = ASTSource(kernel, kinds, {(names.index(n),): value for n, value in constants.items()})
    compile(source, target=GPUTarget("cuda", 90, 32))
    print(kernel.__name__)
"""


@pytest.mark.slow
def test_every_kernel_compiles_for_a_gpu(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert len(done.stdout.split()) == 6
