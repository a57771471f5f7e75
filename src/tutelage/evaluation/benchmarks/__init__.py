"""The eight benchmarks, by name in `BENCHMARKS`; docs/evaluation.md says where each comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks.arc import ARC
from tutelage.evaluation.benchmarks.base import Benchmark
from tutelage.evaluation.benchmarks.bbh import BBH
from tutelage.evaluation.benchmarks.dialogsum import DialogSum
from tutelage.evaluation.benchmarks.flores import Flores
from tutelage.evaluation.benchmarks.gpqa import GPQA
from tutelage.evaluation.benchmarks.ifeval import IFEval
from tutelage.evaluation.benchmarks.infobench import InFoBench
from tutelage.evaluation.benchmarks.mmlu_pro import MMLUPro
from tutelage.evaluation.clusters import Metric

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
_KNOWN = f"{', '.join(BENCHMARKS)}; paper: the first eight; and any task of lm-eval"
JUDGED, WITH_COMET = "infobench", "flores"  # scored by other programs, or also by one
LM_EVAL = "lm-eval:"  # the prefix of names of lm-eval's tasks


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises TutelageError that lists the names."""
    if name not in BENCHMARKS:
        raise TutelageError(f"no benchmark is called `{name}` (there are: {_KNOWN})")
    return BENCHMARKS[name]


def resolve_names(names: Sequence[str]) -> list[str]:
    """The names of benchmarks, each once, with `paper` replaced by all eight. Any other name is one of lm-eval's tasks,
    and gets the prefix `lm-eval:` if it has none. Raises TutelageError for an empty list.
    """
    wanted = [one for name in names for one in (PAPER if name == "paper" else (name,))]
    if not wanted:
        raise TutelageError(f"--tasks names none (there are: {_KNOWN})")
    own = (name if name in BENCHMARKS or name.startswith(LM_EVAL) else f"{LM_EVAL}{name}" for name in wanted)
    return list(dict.fromkeys(own))


def benchmark_metrics(task: str) -> Mapping[str, Metric]:
    """How a benchmark's metrics are averaged, and what their clusters are; {} for other tasks."""
    return BENCHMARKS[task].metrics if task in BENCHMARKS else {}
