"""Doing one run: cut, train or evaluate. Its folder holds the config, the environment, metrics, and at last
`result.json`, which is written when everything else stands."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from tutelage.backends import make_sampler
from tutelage.checkpoint import remove_checkpoints
from tutelage.config import TaskConfig
from tutelage.dataset import load_dataset
from tutelage.evaluate.records import summarise, write_atomically, write_records
from tutelage.evaluate.tasks import evaluate_generation, lead_1_records
from tutelage.model import load_model
from tutelage.model_files import save_model
from tutelage.prune import choose_layers, decoder_layers, perplexity, prune_layers
from tutelage.recipe import Run
from tutelage.runlog import progress
from tutelage.study_stage import measure_benchmark, measure_held_out
from tutelage.synthetic_stage import synthesize
from tutelage.train_stage import encoded, train, write_teacher_answers
from tutelage.types import TokenSequence

STALE_SECONDS = 120.0  # a lock of another machine that nobody touched for so long is a dead one's


def do_run(run: Run, write: bool = True) -> dict[str, Any]:
    """Do `run` unless it is done already; returns the content of its result.json. Of several ranks that train together
    (`ranks.py`) one has `write`."""
    result_file = run.folder / "result.json"
    if result_file.is_file():
        return json.loads(result_file.read_text())
    run.folder.mkdir(parents=True, exist_ok=True)
    if write:
        _describe(run)
    began = time.monotonic()
    work = {"prune": _prune, "answers": write_teacher_answers, "synthesize": synthesize, "evaluate": _evaluate}
    work |= {"benchmark": measure_benchmark, "held_out": measure_held_out}
    result = work.get(run.kind, train)(run)
    result |= {"fingerprint": run.fingerprint, "seconds": time.monotonic() - began}
    if not write:
        return result
    write_atomically(result_file, json.dumps(result, indent=2) + "\n")
    remove_checkpoints(run.folder / "checkpoints")
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
    write_atomically(run.folder / "config.json", json.dumps(config, indent=2) + "\n")
    import transformers

    gpu = torch.cuda.get_device_name() if run.device == "cuda" else None
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    write_atomically(run.folder / "environment.json", json.dumps(environment, indent=2) + "\n")


def _prune(run: Run) -> dict[str, Any]:
    config, device = run.spec.prune, torch.device(run.device)
    loaded = load_model(run.models["model"], device, torch.float32)
    total = len(decoder_layers(loaded.model))
    calibration: list[TokenSequence] = []
    result: dict[str, Any] = {"kind": "prune", "stage": run.stage, "seed": run.seed, "layers": total}
    if config.calibration is not None:
        calibration = encoded(run, config.calibration, loaded, 1024).sequences[: config.calibration_rows]
    with torch.autocast(run.device, torch.bfloat16, enabled=run.device == "cuda"):
        if calibration:
            result["perplexity_before"] = perplexity(loaded, calibration, device)
        with progress(f"{run.stage}: choosing layers", total - (config.layers or total)) as bar:
            keep = choose_layers(config, loaded, calibration, device, bar.advance)
        prune_layers(loaded.model, keep)
        result["keep"] = keep
        if calibration:
            result["perplexity_after"] = perplexity(loaded, calibration, device)
    save_model(loaded.model, loaded.tokenizer, run.folder / "model", loaded.template.text)
    return result


def _evaluate(run: Run) -> dict[str, Any]:
    task: TaskConfig = run.spec
    data = load_dataset(task.data, run.data[task.data], run.base, require_response=False)
    if run.subject == "lead_1":
        records = lead_1_records(run.task, task, data.conversations)
    else:
        kind = torch.bfloat16 if run.device == "cuda" else torch.float32
        loaded = load_model(run.models["model"], run.device, kind)
        sampler = make_sampler(loaded, task.sampling)
        with progress(run.stage, len(data.conversations)) as bar:

            def advance(done: int, _total: int) -> None:
                bar.advance(done - bar.done)

            records = evaluate_generation(
                run.task, task, data.conversations, loaded.template, sampler, run.seed, advance
            )
    write_records(run.folder, records)
    return summarise(records, list(task.metrics), task.headline_metric, task=run.task, model=run.subject, seed=run.seed)


def lock(run: Run) -> Path | None:
    """Take the run's lock file; None when another living process holds it.

    Looking at an old lock and taking it over happen under the system's own lock on the folder, so that of two drivers
    that find a dead holder one gets it.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / "lock"
    descriptor = os.open(run.folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists() and is_held(path):
            return None
        path.write_text(f"{os.getpid()} {_started(os.getpid())} {platform.node()}")
        return path
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether the process that wrote a lock file lives: by its id and start time; on another machine by the file's age,
    since its holder touches it every few seconds."""
    try:
        content = path.read_text().split()
        if len(content) == 3 and content[2] != platform.node():
            return time.time() - path.stat().st_mtime < STALE_SECONDS
        holder = int(content[0]) if content else 0
        os.kill(holder, 0)
    except PermissionError:  # it lives, and is another user's
        return True
    except (OSError, ValueError):
        return False
    if len(content) == 3 and content[1] not in ("0", _started(holder)):
        return False  # the id is a new process's
    return holder != os.getpid()


def _started(process: int) -> str:
    """When a process began, in the kernel's ticks; 0 where the system does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"
