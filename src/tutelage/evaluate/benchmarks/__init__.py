"""The eight benchmarks. `BENCHMARKS` names every one of them; docs/benchmarks.md says where each comes from."""

from __future__ import annotations

from collections.abc import Mapping

from tutelage.evaluate.benchmarks.arc import ARC
from tutelage.evaluate.benchmarks.base import Benchmark
from tutelage.evaluate.benchmarks.bbh import BBH
from tutelage.evaluate.benchmarks.dialogsum import DialogSum
from tutelage.evaluate.benchmarks.flores import Flores
from tutelage.evaluate.benchmarks.gpqa import GPQA
from tutelage.evaluate.benchmarks.ifeval import IFEval
from tutelage.evaluate.benchmarks.infobench import InFoBench
from tutelage.evaluate.benchmarks.mmlu_pro import MMLUPro
from tutelage.types import TutelageError

BENCHMARKS: Mapping[str, Benchmark] = {
    "bbh": BBH("bbh"),
    "gpqa": GPQA("gpqa"),
    "ifeval": IFEval("ifeval"),
    "infobench": InFoBench("infobench"),
    "mmlu_pro": MMLUPro("mmlu_pro"),
    "flores": Flores("flores"),
    "dialogsum": DialogSum("dialogsum"),
    "arc_challenge": ARC("arc_challenge"),
    "gpqa_main": GPQA("gpqa_main", subset="main"),
    "gpqa_diamond": GPQA("gpqa_diamond", subset="diamond"),
}
PAPER = ("bbh", "gpqa", "ifeval", "infobench", "mmlu_pro", "flores", "dialogsum", "arc_challenge")
TABLE_3 = {"bbh": "BBH", "gpqa": "GPQA", "ifeval": "IF-Eval", "infobench": "InfoBench", "mmlu_pro": "MMLU-Pro"}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises TutelageError that lists the names."""
    if name not in BENCHMARKS:
        raise TutelageError(
            f"no benchmark is called `{name}` (there are: {', '.join(BENCHMARKS)}; paper: eight of them)"
        )
    return BENCHMARKS[name]


def chosen(names: str) -> list[str]:
    """Names written with commas; `paper` stands for all eight. Raises TutelageError for an unknown or no name."""
    listed = [name.strip() for name in names.split(",") if name.strip()]
    wanted = [one for name in listed for one in (PAPER if name == "paper" else (name,))]
    if not wanted:
        raise TutelageError(f"--tasks names none (there are: {', '.join(BENCHMARKS)}; paper: eight of them)")
    return [benchmark(name).name for name in dict.fromkeys(wanted)]
