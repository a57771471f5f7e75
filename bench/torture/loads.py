"""The programs that are disturbed: tiny models that train, synthesize, evaluate, search, and a study."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from bench.torture.machine import Load, Program, tutelage

HELPERS = Path(__file__).parents[2] / "tests" / "helpers"
TRAINING = {"batch_size": 4, "epochs": 6, "max_length": 96, "learning_rate": 0.001, "checkpoint_every": 3}
OFF = "form script language preamble carries_answer duplicate_of_gold duplicate_of_earlier near_duplicate_of_gold"
SHORT = {"max_new_tokens": 6, "batch_size": 4}
GKD = {"name": "gkd", "kind": "distill", "data": "train", "student": "base", "on_policy": 0.5, "sampling": SHORT}
SEQKD = {"name": "seqkd", "kind": "seqkd", "data": "train", "student": "base", "samples_per_prompt": 2}
SEQKD |= {"sampling": {"max_new_tokens": 6, "batch_size": 2, "temperature": 0.7}}
TEACHER = {"name": "tsft", "kind": "sft", "student": "teacher", "data": "train", "shared": True}
TEACHER |= {"training": {"epochs": 12, "learning_rate": 0.01}}
WRITER = {"max_new_tokens": 40, "batch_size": 4}
MADE = {"name": "new", "kind": "synthesize", "gold": "train", "rows": 40, "generator": "tsft", "annotator": "tsft"}
MADE |= {"demonstrations": 2, "min_acceptance": 0.001, "inputs": WRITER, "answers": WRITER}
MADE |= {"filters": {"skip": [*OFF.split(), "near_duplicate_of_earlier"]}}
SCORES = {"name": "scores", "kind": "evaluate", "tasks": ["test"]}
SCORED = "arc_challenge,mmlu_pro,dialogsum"


class Loads:
    """Makes the models, data and recipes in `folder`; runs go to `folder/runs`, or to `runs` if it is given."""

    def __init__(self, folder: Path, runs: Path | None = None) -> None:
        self.folder, self.runs = folder, runs or folder / "runs"
        self._made: dict[str, Load] = {}

    def prepare(self) -> None:
        """Models, rows and benchmark data."""
        sys.path[:0] = [str(HELPERS / name) for name in (".", "rows", "endpoints")]
        import json

        import tiny
        from chat_templates import CHATML, tokenizer
        from tiny_benchmarks import write_data

        from tutelage.models.checkpoints.save import without_progress_bars

        tokens = tokenizer(CHATML)
        for name, layers, seed in (("teacher", 4, 1), ("student", 2, 0)):
            model = tiny.llama(layers=layers, vocab=len(tokens), seed=seed, packed=False)
            model.config.max_position_embeddings = 4096 if name == "teacher" else 512
            for config in (model.config, model.generation_config):
                config.eos_token_id = tokens.eos_token_id
            with without_progress_bars():
                model.save_pretrained(self.folder / name)
            tokens.save_pretrained(self.folder / name)
        rows = [
            {
                "id": f"r{i}",
                "prompt": f"The {'cat' if i % 2 else 'dog'} sat?\n{i % 4}",
                "completion": f"The dog. {i % 3}",
            }
            for i in range(12)
        ]
        tests = [{"prompt": f"Was it bird number {i}?", "completion": f"Bird {i}."} for i in range(4)]
        for name, lines in (("train", rows), ("test", tests)):
            text = "".join(json.dumps(row) + "\n" for row in lines)
            (self.folder / f"{name}.jsonl").write_text(text)
        write_data(self.folder / "data")

    def __getitem__(self, name: str) -> Load:
        if name not in self._made:
            self._made[name] = getattr(self, f"_{name}")()
            self._made[name].measure()
        return self._made[name]

    def write(self, name: str, stages: list[dict[str, Any]], **more: Any) -> Path:
        """Write a recipe of these stages; returns its file."""
        recipe = {
            "name": name,
            "device": "cpu",
            "data": {"train": {"path": "train.jsonl"}, "test": {"path": "test.jsonl"}},
            "teacher": {"path": str(self.folder / "teacher")},
            "student": {"path": str(self.folder / "student")},
            "training": TRAINING,
            "tasks": {"test": {"data": "test", "metrics": ["rouge_l"], "sampling": SHORT | {"temperature": 0.0}}},
            "stages": stages,
        } | more
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(recipe, sort_keys=False))
        return file

    def command(self, file: Path, report: bool = False) -> Callable[[], None]:
        """`tutelage run`; without `report`, no figures are drawn."""

        def work() -> None:
            if not report:
                import matplotlib.figure as figure

                figure.Figure.savefig = _undrawn  # type: ignore[method-assign]
            tutelage("run", file, "--runs", self.runs)

        return work

    def _load(self, name: str, stages: list[dict[str, Any]], start: Path | None = None, **more: Any) -> Load:
        return Load(name, self.command(self.write(name, stages, **more)), self.runs, self.folder, start)

    def _training(self) -> Load:
        return self._load("training", [GKD, SCORES | {"models": ["gkd"]}])

    def _seqkd(self) -> Load:
        return self._load("seqkd", [SEQKD, SCORES | {"models": ["seqkd"]}])

    def _synthesis(self) -> Load:
        """After the SFT of the teacher, which is done before."""
        start = self.folder / "teacher-runs"
        if not start.is_dir():
            loads = Loads(self.folder, start)
            ended = Program(loads.command(self.write("begin", [TEACHER, SCORES | {"models": ["tsft"]}])),
                            self.folder / "begin.log").ended()  # fmt: skip
            assert ended.code == 0, ended.said
        sft = {"name": "sft", "kind": "sft", "data": "new", "training": {"epochs": 1}}
        return self._load("synthesis", [TEACHER, MADE, sft, SCORES | {"models": ["tsft", "sft"]}], start)

    def _evaluation(self) -> Load:
        words = ["--model", self.folder / "student", "--tasks", SCORED, "--data-dir", self.folder / "data"]
        words += ["--out", self.runs, "--batch-size", 4, "--batch-tokens", 6000]
        return Load("evaluation", lambda: tutelage("evaluate", *words), self.runs, self.folder)

    def _search(self) -> Load:
        sft = {"name": "sft", "kind": "sft", "data": "train", "search": True}
        grid = {"task": "test", "grid": {"learning_rate": [1e-4, 1e-3, 1e-2], "epochs": [1, 2]}}
        return self._load("search", [sft, SCORES | {"models": ["sft"]}], search=grid)

    def _study(self) -> Load:
        stages = [TEACHER | {"shared": False, "training": {"epochs": 2}}]
        stages += [{"name": "sft", "kind": "sft", "data": "train"}]
        stages += [GKD | {"name": "gkd_sft", "student": "sft", "teacher": "tsft"}]
        names, training = {"teacher": "<teacher>", "student": "<student>"}, TRAINING | {"epochs": 2}
        data = {"train": {"path": "train.jsonl", "size": "<size>"}, "test": {"path": "test.jsonl"}}
        self.write("template", stages, training=training, data=data, **names)
        grid = {"template": "template.yaml", "sizes": [4, 8], "students": ["small"], "teachers": ["large"]}
        grid |= {"methods": {"teacher": "tsft", "sft": "sft", "gkd_sft": "gkd_sft"}, "tasks": ["test", "held_out"]}
        models = {"small": {"path": str(self.folder / "student")}, "large": {"path": str(self.folder / "teacher")}}
        study = {"name": "study", "models": models, "grids": [grid]}
        study["tasks"] = {"held_out": {"data": "test", "teacher": "teacher"}}
        file = self.folder / "study.yaml"
        file.write_text(yaml.safe_dump(study, sort_keys=False))
        work = lambda: tutelage("study", "run", file, "--runs", self.runs, "--jobs", 4)  # noqa: E731
        return Load("study", work, self.runs, self.folder)


def _undrawn(_: object, file: Any, *, format: str = "png", **__: object) -> None:
    file.write(b"<svg></svg>" if format == "svg" else b"")


def fork_workers() -> None:
    """From now on the workers of several jobs are forked: spawned ones would import torch for seconds each."""
    import multiprocessing
    import os
    from concurrent.futures import ProcessPoolExecutor

    from tutelage.runs import scheduler
    from tutelage.runs.worker import begin_worker

    context = multiprocessing.get_context("fork")
    scheduler._processes = lambda resources: ProcessPoolExecutor(
        resources.jobs, context, initializer=begin_worker, initargs=(os.getpid(),)
    )
