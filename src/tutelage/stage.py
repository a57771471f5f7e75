"""Doing one run: cut, train or evaluate. Its folder holds the config, the environment, metrics, and at last
`result.json`, which is written when everything else stands."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from tutelage.checkpoint import remove_checkpoints
from tutelage.config import DistillStage, TaskConfig
from tutelage.dataset import load_dataset
from tutelage.evaluate.records import summarise, write_atomically, write_records
from tutelage.evaluate.tasks import evaluate_generation, lead_1_records
from tutelage.model import LoadedModel, check_vocabularies, head_notice, load_model, save_model
from tutelage.objective import CrossEntropy, Divergence, Objective
from tutelage.prune import choose_layers, decoder_layers, perplexity, prune_layers
from tutelage.recipe import Run
from tutelage.rollout import RolloutPlan
from tutelage.runlog import progress
from tutelage.sampler import TorchSampler
from tutelage.teacher import Teacher
from tutelage.template import encode_all
from tutelage.trainer import Job, Trainer
from tutelage.types import Sequence, TutelageError


def do_run(run: Run) -> dict[str, Any]:
    """Do `run` unless it is done already; returns the content of its result.json."""
    result_file = run.folder / "result.json"
    if result_file.is_file():
        return json.loads(result_file.read_text())
    run.folder.mkdir(parents=True, exist_ok=True)
    _describe(run)
    began = time.monotonic()
    work = {"prune": _prune, "sft": _train, "distill": _train, "evaluate": _evaluate}[run.kind]
    result = work(run)
    result |= {"fingerprint": run.fingerprint, "seconds": time.monotonic() - began}
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


def _encoded(run: Run, name: str, loaded: LoadedModel, max_length: int) -> tuple[list[Sequence], dict[str, Any]]:
    """A data section as token sequences, and what had to be cut or left out."""
    config = run.data[name]
    data = load_dataset(name, config, run.base)
    sequences, report = encode_all(loaded.template, data, max_length, config.max_bad_rows, f"data.{name}")
    listed = {
        "rows": len(sequences),
        "cut": report.cut,
        "too_long": list(report.too_long),
        "bad_rows": [[bad.source, bad.reason] for bad in data.bad_rows],
    }
    return sequences, listed


def _train(run: Run) -> dict[str, Any]:
    stage, training = run.spec, run.training
    assert training is not None
    student = load_model(run.models["student"], run.device, torch.float32)
    examples: list[Sequence] = []
    reports: dict[str, Any] = {}
    for name in [stage.data] if isinstance(stage.data, str) else stage.data:
        rows, reports[name] = _encoded(run, name, student, training.max_length)
        offset = len(examples)  # rows of several data sets stay apart
        examples += [Sequence(**{**vars(row), "index": row.index + offset}) for row in rows]
    validation: list[Sequence] = []
    if training.validation:
        validation, reports[training.validation] = _encoded(run, training.validation, student, training.max_length)
    write_atomically(run.folder / "data.json", json.dumps(reports, indent=2) + "\n")
    job = _job(run, student, examples, validation)
    trainer = Trainer(job)
    before = trainer.validate() if validation else None
    last = trainer.run()
    after = trainer.validate() if validation else None
    save_model(student.model, student.tokenizer, run.folder / "model", student.template.text)
    result: dict[str, Any] = {"kind": run.kind, "stage": run.stage, "seed": run.seed, "data": reports, "last": last}
    if before is not None and after is not None:
        result["perplexity_before"] = math.exp(before["validation_cross_entropy"])
        result["perplexity_after"] = math.exp(after["validation_cross_entropy"])
    return result


def _job(run: Run, student: LoadedModel, examples: list[Sequence], validation: list[Sequence]) -> Job:
    stage, training = run.spec, run.training
    assert training is not None
    objective: Objective = CrossEntropy()
    teacher, rollouts, sampler = None, None, None
    if isinstance(stage, DistillStage):
        beta = {"forward_kl": 0.0, "reverse_kl": 1.0}.get(stage.divergence, stage.beta)
        objective = Divergence(beta, stage.temperature)
        teacher = _teacher(run, student)
        rollouts = RolloutPlan(stage.on_policy, stage.sampling, run.seed, training.max_length)
        if stage.on_policy > 0.0:
            half = torch.bfloat16 if run.device == "cuda" and training.precision != "float32" else None
            ends, batch = student.template.end_of_turn_ids, stage.sampling.batch_size
            sampler = TorchSampler(student.model, ends, student.packed, batch, half)
    return Job(
        student=student,
        teacher=teacher,
        objective=objective,
        examples=examples,
        validation=validation,
        rollouts=rollouts,
        sampler=sampler,
        config=training,
        seed=run.seed,
        folder=run.folder,
        fingerprint=run.fingerprint,
        title=f"{run.stage} (seed {run.seed})",
    )


def _teacher(run: Run, student: LoadedModel) -> Teacher:
    """The teacher in the compute type: it is frozen, so nothing is gained by keeping it wider."""
    wide = run.device == "cpu" or (run.training is not None and run.training.precision == "float32")
    kind = torch.float32 if wide else torch.bfloat16
    loaded = load_model(run.models["teacher"], run.device, kind)
    notices = [
        check_vocabularies(loaded.tokenizer, student.tokenizer),
        head_notice(loaded.model, student.model),
    ]
    if loaded.packed != student.packed:
        raise TutelageError(
            f"stage `{run.stage}`: teacher and student need the same `attention` (packed or padded): set it in both"
        )
    if loaded.template.text != student.template.text:
        notices.append(
            "the teacher reads the student's chat template, which is not its own: give both the same `chat_template`, "
            "or expect a teacher that is less sure of itself"
        )
    for notice in filter(None, notices):
        print(f"{run.stage}: {notice}", flush=True)
    return Teacher(loaded, student.template.end_of_turn_id)


def _prune(run: Run) -> dict[str, Any]:
    config, device = run.spec.prune, torch.device(run.device)
    loaded = load_model(run.models["model"], device, torch.float32)
    total = len(decoder_layers(loaded.model))
    calibration: list[Sequence] = []
    result: dict[str, Any] = {"kind": "prune", "stage": run.stage, "seed": run.seed, "layers": total}
    if config.calibration is not None:
        calibration = _encoded(run, config.calibration, loaded, 1024)[0][: config.calibration_rows]
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
        sampler = TorchSampler(loaded.model, loaded.template.end_of_turn_ids, loaded.packed, task.sampling.batch_size)
        with progress(run.stage, len(data.conversations)) as bar:

            def advance(done: int, _total: int) -> None:
                bar.advance(done - bar.done)

            records = evaluate_generation(
                run.task, task, data.conversations, loaded.template, sampler, run.seed, advance
            )
    write_records(run.folder, records)
    return summarise(records, list(task.metrics), task.headline_metric, task=run.task, model=run.subject, seed=run.seed)


def lock(run: Run) -> Path | None:
    """Take the run's lock file; None when another living process on this machine holds it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / "lock"
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if _holder_lives(path):
                return None
            path.unlink(missing_ok=True)
            continue
        os.write(descriptor, str(os.getpid()).encode())
        os.close(descriptor)
        return path
    return None


def _holder_lives(path: Path) -> bool:
    try:
        holder = int(path.read_text() or 0)
        os.kill(holder, 0)
    except PermissionError:  # it lives, and is another user's
        return True
    except (OSError, ValueError):
        return False
    return holder != os.getpid()
