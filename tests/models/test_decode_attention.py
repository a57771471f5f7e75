"""The decoding kernel against plain softmax attention; interpreted on a machine without a GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernel needs triton")
from tutelage.models import decode_attention as kernel
from tutelage.models.decode_attention import decode_attention

pytestmark = pytest.mark.slow

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter multiplies bfloat16 as integers


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs them one by one. The cases then take 12, 2, 1 and 3 per row and head, of 1 to 3 blocks."""
    if DEVICE == "cpu":
        monkeypatch.setattr(kernel, "_PROGRAMS", 24)


@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads", "size"),
    [(1, 4, 2, 64), (3, 9, 3, 64), (5, 4, 4, 24), (40, 8, 8, 16) if DEVICE == "cuda" else (2, 4, 4, 16)],
)
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_equals_softmax_attention_over_each_rows_own_positions(rows, heads, kv_heads, size, dtype):
    generator = torch.Generator().manual_seed(rows)
    positions = 150
    query = torch.randn(rows, heads, size, generator=generator).to(dtype)
    key, value = (torch.randn(rows, kv_heads, positions, size, generator=generator).to(dtype) for _ in range(2))
    seen = torch.randint(1, positions + 1, (rows,), generator=generator)
    seen[-1], seen[0] = positions, 1
    key[0, :, 1:] = torch.nan  # positions past a row's own must not contribute
    expected = torch.zeros(rows, heads, size, dtype=torch.float64)
    for b in range(rows):
        for h in range(heads):
            k, v = (x[b, h // (heads // kv_heads), : seen[b]].double() for x in (key, value))
            p = torch.softmax(k @ query[b, h].double() * 0.3, dim=0)
            expected[b, h] = p @ v
    inputs = (x.to(DEVICE) for x in (query, key[:, :, :], value))
    out = decode_attention(*inputs, seen.to(DEVICE), 0.3)
    assert out.dtype == dtype
    out = out.cpu().double()
    assert float((out - expected).norm() / expected.norm()) < (2e-6 if dtype == torch.float32 else 1e-2)


def test_reads_a_slice_of_a_larger_cache():
    cache = torch.randn(6, 2, 40, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    query, seen = torch.randn(2, 4, 16).to(DEVICE), torch.tensor([7, 20]).to(DEVICE)
    part = cache[:2, :, :20]
    torch.testing.assert_close(
        decode_attention(query, part, part, seen, 1.0),
        decode_attention(query, part.contiguous(), part.contiguous(), seen, 1.0),
    )
