"""The run that measures a model on one benchmark of a study."""

from __future__ import annotations

import os
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_bytes_atomically
from tutelage.common.run_folder import EXAMPLES
from tutelage.evaluation.benchmarks import benchmark
from tutelage.evaluation.benchmarks.data import data_folder
from tutelage.evaluation.run_benchmarks import Settings, run_benchmarks
from tutelage.recipe.study import BenchmarkTask
from tutelage.runs.run import Run


def measure_benchmark(run: Run) -> dict[str, Any]:
    """Answer and score a benchmark in the run's folder; replies there are kept over a kill."""
    spec: BenchmarkTask = run.spec
    judge = None
    if spec.judge_model is not None:
        from tutelage.evaluation.judges.judge import JudgeEndpoint

        url = os.environ.get("TUTELAGE_JUDGE_URL")
        if url is None:
            raise TutelageError(f"`{spec.judge_model}` is to judge {spec.benchmark}: export TUTELAGE_JUDGE_URL")
        judge = JudgeEndpoint(url=url, model=spec.judge_model)
    settings = Settings(
        tasks=(benchmark(spec.benchmark).name,),
        model=run.models["model"].path,
        out=run.folder / "benchmark",
        data_dir=data_folder(None),
        limit=spec.limit,
        seed=spec.draw,
        batch_size=spec.batch_size,
        chat=spec.chat,
        judge=judge,
    )
    (result,) = run_benchmarks(settings)
    examples = settings.out / result["task"] / EXAMPLES  # beside it stay the replies, for another scoring
    write_bytes_atomically(run.folder / EXAMPLES, examples.read_bytes())
    return {"kind": run.kind, "stage": run.stage, "limit": spec.limit, **result, "model": run.subject, "seed": run.seed}
