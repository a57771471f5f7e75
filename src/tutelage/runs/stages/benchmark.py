"""The `benchmark` run of a study: a model's replies to one benchmark, scored."""

from __future__ import annotations

from typing import Any

from tutelage.common.files import write_bytes_atomically
from tutelage.common.run_folder import EXAMPLES
from tutelage.evaluation.benchmarks import benchmark
from tutelage.evaluation.benchmarks.data import data_folder
from tutelage.evaluation.judges.endpoint import judge_of, with_url
from tutelage.evaluation.run_benchmarks import Settings, run_benchmarks
from tutelage.recipe.study import BenchmarkTask
from tutelage.runs.run import Run
from tutelage.runs.stages.earlier import BENCHMARK, reuse_replies


def measure_benchmark(run: Run) -> dict[str, Any]:
    """Answer and score a benchmark in the run's folder, going on from the replies that are there already.

    Replies of a run that differs in how they are scored alone (the reading, a judge, COMET) are scored again, and no
    model is loaded. Raises TutelageError when the benchmark has a judge whose address is not known.
    """
    task: BenchmarkTask = run.config
    judge = judge_of(run.judge)
    if judge is not None:
        with_url(judge, task.benchmark)
    bench = benchmark(task.benchmark)
    settings = Settings(
        tasks=(bench.name,),
        model=run.models["model"].path,
        out=run.folder / BENCHMARK,
        data_dir=data_folder(None),
        limit=task.limit,
        seed=task.draw,
        batch_size=task.batch_size,
        chat=task.chat,
        prompt=task.prompt,
        group=task.group,
        max_new_tokens=task.max_new_tokens,
        judge=judge,
        comet=run.comet,
        loading=run.models["model"],
        device=run.device,
    )
    result = reuse_replies(run, bench.name, judge)
    if result is None:
        (result,) = run_benchmarks(settings)
    examples = settings.out / result["task"] / EXAMPLES  # the replies stay beside it, to be scored again
    write_bytes_atomically(run.folder / EXAMPLES, examples.read_bytes())
    return {
        "kind": run.kind,
        "stage": run.stage,
        "limit": task.limit,
        "group": task.group,
        **result,
        "model": run.subject,
        "seed": run.seed,
    }
