"""Where the milliseconds of a step, or of its loss, go, by class of kernel."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.common import synchronize

# The first pattern that a kernel's name matches. On a CPU the names are those of torch's operations.
CLASSES = {
    "fused by the compiler": r"^triton_",
    "divergence and its gradient": r"loss_kernel",
    "attention": r"flash|fmha|attention|_decode_kernel|_combine",
    "matrix products": r"gemm|cutlass|cublas|nvjet|xmma|wgmma|scaled_mm|splitK|aten::(mm|addmm|bmm|_int_mm)\b|mkldnn",
    "RMS norms": r"rms_?norm|layer_?norm|LayerNorm",
    "optimizer and rounding of the masters": r"multi_tensor_apply|adam|_foreach",
    "sums over ranks": r"nccl",
    "copies and casts": r"memcpy|memset|copy|_to_copy|CatArray|aten::cat",
    "element-wise and the rest": r"",
}


def class_of(kernel: str) -> str:
    """The class of a kernel, by its name."""
    return next(name for name, pattern in CLASSES.items() if re.search(pattern, kernel, re.IGNORECASE))


def by_class(kernels: Iterable[tuple[str, float, int]]) -> dict[str, dict[str, float]]:
    """`ms`, `launches` and `share` of each class, the longest first. `kernels`: name, milliseconds, launches."""
    milliseconds, launches = Counter[str](), Counter[str]()
    for name, spent, count in kernels:
        milliseconds[class_of(name)] += spent  # type: ignore[assignment]
        launches[class_of(name)] += count
    total = sum(milliseconds.values()) or 1.0
    rows = milliseconds.most_common()
    return {name: {"ms": ms, "launches": launches[name], "share": ms / total} for name, ms in rows}


def profile(work: Callable[[], Any], device: str, path: Path) -> dict[str, Any]:
    """Profile `work`: the kernels' table in `path`.txt and, also as the result, the classes in `path`.json.

    `wall_ms` is the time of `work` under the profiler, `busy` the kernels' share of it.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    cuda = device == "cuda"
    synchronize(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with record(activities=activities) as found:
        began = time.perf_counter()
        work()
        synchronize(device)
        wall = 1000 * (time.perf_counter() - began)
    averages, own = found.key_averages(), "self_device_time_total" if cuda else "self_cpu_time_total"
    # On CUDA operations are listed beside their kernels, with the same time.
    listed = [one for one in averages if not cuda or str(one.device_type).endswith("CUDA")]
    kernels = [
        (one.key, getattr(one, own) / 1000, one.count)
        for one in listed
        if getattr(one, own) and not getattr(one, "is_user_annotation", False)
    ]
    classes = by_class(kernels)
    busy = sum(row["ms"] for row in classes.values()) / wall
    result = {"wall_ms": wall, "busy": busy, "classes": classes}
    path.parent.mkdir(parents=True, exist_ok=True)
    sort = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    path.with_suffix(".txt").write_text(averages.table(sort_by=sort, row_limit=60, max_name_column_width=90))
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def show(result: dict[str, Any], title: str) -> None:
    """Print the classes as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("kernels", "ms", "launches", "share", title=f"{title}: {result['wall_ms']:,.0f} ms")
    for name, row in result["classes"].items():
        table.add_row(name, f"{row['ms']:,.1f}", f"{row['launches']:,}", f"{row['share']:.0%}")
    Console(width=100).print(table)
