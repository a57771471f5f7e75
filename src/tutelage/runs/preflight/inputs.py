"""Whether data, models, benchmarks and packages of runs are here, or can be had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError, listed
from tutelage.data.sources import most_rows, paths_of, resolve_sources
from tutelage.evaluation.benchmarks import benchmark
from tutelage.evaluation.benchmarks.base import Benchmark
from tutelage.evaluation.benchmarks.data import VARIABLE, data_folder, located
from tutelage.recipe.sections import DataConfig
from tutelage.recipe.stages import SynthesizeStage
from tutelage.recipe.study import BenchmarkTask
from tutelage.runs.preflight.hub import Hub
from tutelage.runs.preflight.judge import scorer_problems
from tutelage.runs.preflight.models import Models
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.preflight.teacher import signal_problems, teacher_problems
from tutelage.runs.run import Run, section_key

_SAMPLINGS = ("sampling", "inputs", "answers")  # keys of stages and tasks


def input_problems(runs: Sequence[Run], network: bool, data: bool, here: bool, ranks: int) -> Iterator[Problem]:
    """The problems of what the runs read, in the order: data, models, rows, benchmarks, judges, packages."""
    from tutelage.runs.preflight.rows import row_problems
    from tutelage.runs.preflight.uses import use_problems

    hub = Hub(network)
    models, wrong = Models(hub), set[tuple[Any, ...]]()
    if data:
        sections = {
            section_key(run, name): config
            for run in runs
            for name, config in run.data.items()
            if not _made(run, str(config.path))
        }
        for key, config in sections.items():
            for problem in _data_problems(key[1], config, key[0], hub):
                wrong.add(key)
                yield problem
    for run in runs:
        for model in run.models.values():
            if not _made(run, model.path):
                yield from models.problems(model)
    yield from use_problems(runs, models, ranks, here)
    yield from row_problems(runs, models, not data, wrong)
    tasks: dict[str, dict[str, BenchmarkTask]] = {}  # by benchmark, each task once; none where only texts are read
    for run in runs:
        if isinstance(run.config, BenchmarkTask):
            tasks.setdefault(run.config.benchmark, {})[run.config.model_dump_json()] = run.config
        for name in run.config.avoid if isinstance(run.config, SynthesizeStage) else ():
            tasks.setdefault(name, {})
    for name, measured in tasks.items():
        yield from _benchmark_problems(name, [*measured.values()], hub)
    yield from scorer_problems(runs, network, hub)
    yield from signal_problems(runs, models)
    if network:
        yield from teacher_problems(runs, models)
    if here:
        yield from _package_problems(runs)


def _made(run: Run, path: str) -> bool:
    """Whether a run of the plan makes what is at this path."""
    return any(str(parent.folder) in path or str(parent.folder.resolve()) in path for parent in run.parents)


def _data_problems(name: str, config: DataConfig, folder: Path, hub: Hub) -> Iterator[Problem]:
    most: int | None = 0  # rows of all files; None where one does not tell
    for path in paths_of(config):
        try:
            found = resolve_sources(f"data.{name}", path, folder)
        except TutelageError as error:
            yield Problem(str(error))
            most = None
            continue
        counts = [None] if isinstance(found, str) else [most_rows(file) for file in found]
        most = None if most is None or None in counts else most + sum(count or 0 for count in counts)
        if isinstance(found, str):
            wrong = hub.problem(found.partition(":")[0], "dataset")
            if wrong:
                yield Problem(f"data.{name}.path: `{found}` is not a local file, and {wrong}, or name local files")
    # A recipe's rows are read when it is planned; those of a study's combinations are not.
    if most is not None and config.skip + (config.size or 1) > most:
        yield Problem(
            f"data.{name}.size: {config.size or 'the rest'} after `skip: {config.skip}` is more than there is: at most "
            f"{most:,} rows in {config.path}; lower `size` or `skip`"
        )


def _benchmark_problems(name: str, measured: Sequence[BenchmarkTask], hub: Hub) -> Iterator[Problem]:
    """`measured`: the tasks that ask it; without any only its texts are read."""
    bench = benchmark(name)
    try:
        folder = data_folder(None)
        source = bench.source(folder)
    except TutelageError as error:
        yield Problem(str(error))
        return
    if source is None:
        wrong = hub.problem(bench.hub, "dataset")
        where = f"in {folder / bench.files[0]}" if folder else f"in a folder (${VARIABLE} is not set)"
        if wrong:
            yield Problem(f"{name}: its data are not {where}, and {wrong}, or put the file there (docs/evaluation.md)")
    else:
        absent = [file for file in bench.files if located(source, file) is None]
        if absent:
            named = listed([str(source / file) for file in absent], 1)
            are, it = ("is", "file") if len(absent) == 1 else ("are", "files")
            yield Problem(f"{name}: {named} {are} missing: put the {it} there (docs/evaluation.md)")
        for task in () if absent else measured or [BenchmarkTask(benchmark=name)]:
            try:
                _ask_all(bench, source, task)
            except TutelageError as error:
                yield Problem(str(error))
    if measured and name == "ifeval":
        yield from _ifeval_problems()


def _ask_all(bench: Benchmark, folder: Path, task: BenchmarkTask) -> None:
    """Read the task's examples and fill its own prompt, if it has one. Raises TutelageError as the run would."""
    from tutelage.evaluation.answer_items import Asking

    items = bench.load(folder, None, task.draw, task.group)
    for item in items if task.prompt is not None else ():
        Asking(True, task.prompt).prompt_of(bench, item, 0)


def _ifeval_problems() -> Iterator[Problem]:
    from tutelage.evaluation.benchmarks.ifeval import find_punkt

    try:
        find_punkt()
    except TutelageError as error:
        yield Problem(str(error))
    if find_spec("langdetect") is None:
        yield Problem("ifeval: langdetect is not installed: pip install 'lm-eval[ifeval]'")


def _samples(run: Run) -> bool:
    """Whether its `sampling` counts: not for a training on data alone, nor on answers that another run writes."""
    return run.kind != "seqkd" and getattr(run.config, "on_policy", 1.0) > 0.0


def _package_problems(runs: Sequence[Run]) -> Iterator[Problem]:
    from tutelage.models.surgery.lora import missing_peft
    from tutelage.models.surgery.quantise import missing_package
    from tutelage.sampling.make_sampler import NO_VLLM
    from tutelage.training.optimizer import missing_library

    for run in runs:
        samplings = [getattr(run.config, key, None) for key in _SAMPLINGS if _samples(run)]
        if any(getattr(sampling, "backend", None) == "vllm" for sampling in samplings):
            if run.device != "cuda":
                yield Problem(f"stage `{run.stage}`: {NO_VLLM}")
            elif find_spec("vllm") is None:
                yield Problem("`backend: vllm`: vLLM is not installed: pip install 'tutelage[vllm]'")
        if any(model.tensor_parallel for model in run.models.values()) and find_spec("vllm") is None:
            yield Problem("`tensor_parallel`: vLLM is not installed: pip install 'tutelage[vllm]'")
        precisions = [model.precision for model in run.models.values()]
        missing = [missing_package(one) for one in (*precisions, run.lora and run.lora.base)]
        missing += [run.lora and missing_peft(), run.training and missing_library(run.training.optimizer)]
        for text in filter(None, missing):
            yield Problem(str(text))
        for tracker in run.training.trackers if run.training is not None else ():
            if find_spec(tracker) is None:
                yield Problem(f"training.trackers: {tracker} is not installed: pip install {tracker}")
