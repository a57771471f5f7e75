"""Doing one run. Its folder gets the config, the environment, metrics, checksums, and last of all `result.json`."""

from __future__ import annotations

import platform
import time
from typing import Any

import tutelage
from tutelage.common import run_folder
from tutelage.runs.fingerprints import refuse_changed
from tutelage.runs.kinds import KINDS
from tutelage.runs.run import Run


def do_run(run: Run, write: bool = True) -> dict[str, Any]:
    """Do `run`, unless it is done already, and return the content of its result.json.

    `write`: whether this process writes the run's files; of several ranks that train together (`ranks.py`), one does.
    Raises DamagedError when a file of a run that it builds on is not as it was written, and TutelageError when its data
    or models changed after it was planned.
    """
    if run.done:
        return run_folder.read_json(run.folder, run_folder.RESULT)
    run.folder.mkdir(parents=True, exist_ok=True)
    if write:
        refuse_changed(run)
        for parent in run.parents:
            run_folder.check(parent.folder)
        run_folder.remove_leftovers(run.folder)
        _describe(run)
    began = time.monotonic()
    result = KINDS[run.kind].do(run)
    result |= {"fingerprint": run.fingerprint, "seconds": time.monotonic() - began}
    if write:
        from tutelage.training.checkpoint import remove_checkpoints

        run_folder.finish(run.folder, result)
        remove_checkpoints(run.folder / run_folder.CHECKPOINTS)
    return result


def free_memory() -> None:
    """Give the memory of a run that has ended back to its GPU, for other processes."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _describe(run: Run) -> None:
    """Write the run's config.json and environment.json."""
    run_folder.write_json(run.folder, run_folder.CONFIG, description(run))
    import torch
    import transformers

    gpu = torch.cuda.get_device_name() if run.device == "cuda" else None
    environment = {
        "tutelage": tutelage.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    run_folder.write_json(run.folder, run_folder.ENVIRONMENT, environment)


def description(run: Run) -> dict[str, Any]:
    """The content of the run's config.json."""
    return {
        "recipe": run.recipe,
        "stage": run.stage,
        "kind": run.kind,
        "seed": run.seed,
        "fingerprint": run.fingerprint,
        "spec": run.config.model_dump(mode="json"),
        "training": None if run.training is None else run.training.model_dump(mode="json"),
        **({} if run.lora is None else {"lora": run.lora.model_dump(mode="json")}),
        "data": {k: v.model_dump(mode="json") for k, v in run.data.items()},
        "models": {k: v.model_dump(mode="json") for k, v in run.models.items()},
        **({} if run.answers_for is None else {"answers_for": run.answers_for.model_dump(mode="json")}),
        **({} if run.max_length is None else {"max_length": run.max_length}),
        "device": run.device,
        # what the plan found in files: fingerprints
        "data_files": {name: found for name, (found, _) in run.planned_data.items()},
        "model_files": run.planned_models,
        "parents": [p.fingerprint for p in run.parents],
    }
