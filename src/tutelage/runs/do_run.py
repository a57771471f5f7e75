"""Doing one run: cut, train or evaluate. Its folder holds the config, the environment, metrics, and at last
`result.json`, which is written when everything else stands."""

from __future__ import annotations

import platform
import time
from typing import Any

import torch

from tutelage.common import run_folder
from tutelage.runs.run import Run
from tutelage.runs.stages.benchmark import measure_benchmark
from tutelage.runs.stages.evaluate import evaluate
from tutelage.runs.stages.held_out import measure_held_out
from tutelage.runs.stages.prune import prune
from tutelage.runs.stages.synthesize import synthesize
from tutelage.runs.stages.teacher_answers import write_teacher_answers
from tutelage.runs.stages.train import train
from tutelage.training.checkpoint import remove_checkpoints


def do_run(run: Run, write: bool = True) -> dict[str, Any]:
    """Do `run` unless it is done already; returns the content of its result.json. Of several ranks that train together
    (`ranks.py`) one has `write`."""
    if run.done:
        return run_folder.read_json(run.folder, run_folder.RESULT)
    run.folder.mkdir(parents=True, exist_ok=True)
    if write:
        _describe(run)
    began = time.monotonic()
    work = {"prune": prune, "answers": write_teacher_answers, "synthesize": synthesize, "evaluate": evaluate}
    work |= {"benchmark": measure_benchmark, "held_out": measure_held_out}
    result = work.get(run.kind, train)(run)
    result |= {"fingerprint": run.fingerprint, "seconds": time.monotonic() - began}
    if not write:
        return result
    run_folder.write_json(run.folder, run_folder.RESULT, result)
    remove_checkpoints(run.folder / run_folder.CHECKPOINTS)
    return result


def _describe(run: Run) -> None:
    config = {
        "stage": run.stage,
        "kind": run.kind,
        "seed": run.seed,
        "fingerprint": run.fingerprint,
        "spec": run.spec.model_dump(mode="json"),
        "training": None if run.training is None else run.training.model_dump(mode="json"),
        "data": {k: v.model_dump(mode="json") for k, v in run.data.items()},
        "models": {k: v.model_dump(mode="json") for k, v in run.models.items()},
        "parents": [p.fingerprint for p in run.parents],
    }
    run_folder.write_json(run.folder, run_folder.CONFIG, config)
    import transformers

    gpu = torch.cuda.get_device_name() if run.device == "cuda" else None
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    run_folder.write_json(run.folder, run_folder.ENVIRONMENT, environment)
