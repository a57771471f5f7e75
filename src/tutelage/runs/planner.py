"""From a recipe's stages to runs.

A *stage* is what the recipe file says; a *run* is a stage with its seed, settings and inputs resolved. Equal runs have
equal fingerprints (`fingerprints.py`), so nothing is computed twice, whichever recipe asks for it.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError, did_you_mean
from tutelage.common.hashing import canonical, fingerprint
from tutelage.common.run_folder import MODEL, is_done
from tutelage.evaluation.benchmarks import BENCHMARKS, JUDGED, WITH_COMET, benchmark
from tutelage.evaluation.judges.comet import comet_ready
from tutelage.evaluation.judges.endpoint import judge_of
from tutelage.evaluation.readers.fingerprint import reading_fingerprint
from tutelage.recipe.load import data_names, default_student, made_by
from tutelage.recipe.recipe import LORA, RecipeConfig
from tutelage.recipe.sections import DataConfig, LoraConfig, ModelConfig, TaskConfig, TrainingConfig
from tutelage.recipe.stages import MethodStage, PruneStage, SeqkdStage, SftStage, SynthesizeStage, TrainStage
from tutelage.recipe.study import BenchmarkTask, JudgeConfig
from tutelage.runs.fingerprints import NOT_READ, InputFingerprints, evaluation_fingerprint, scored_by, stage_fingerprint
from tutelage.runs.run import Run
from tutelage.runs.stages.earlier import with_other_metrics
from tutelage.training.methods import METHODS, method_fingerprint


@dataclass
class _Inputs:
    """What a run reads, resolved."""

    models: dict[str, ModelConfig] = field(default_factory=dict)  # by role
    model_fingerprints: dict[str, str] = field(default_factory=dict)
    planned_models: dict[str, str] = field(default_factory=dict)  # of these, the ones that no stage makes
    data: dict[str, DataConfig] = field(default_factory=dict)  # by name of the section
    data_fingerprints: list[str] = field(default_factory=list)
    planned_data: dict[str, tuple[str, bool]] = field(default_factory=dict)  # as in `Run`
    parents: tuple[Run, ...] = ()  # the runs that make them


class Planner:
    """Turns the stages of a recipe into runs.

    `recipe_folder`: where relative data paths start. `root`: the folder of all runs. `known`: runs by fingerprint,
    shared by a study's planners so that equal runs are one. `inputs`: fingerprints of data and models, shared likewise.
    `declared`: do not ask the hub, nor torch for a device that the recipe names. `auto_device`: what `device: auto`
    means; by default, what this machine has. `choices[stage]`: the settings that a search has found.
    """

    def __init__(
        self,
        recipe: RecipeConfig,
        recipe_folder: Path,
        root: Path,
        *,
        declared: bool = False,
        known: dict[str, Run] | None = None,
        inputs: InputFingerprints | None = None,
        auto_device: str | None = None,
    ) -> None:
        self.recipe, self.recipe_folder, self.root = recipe, recipe_folder, root
        self.declared, self.auto_device = declared, auto_device
        self.known = {} if known is None else known
        self.inputs = InputFingerprints(declared) if inputs is None else inputs
        self.stages = {s.name: s for s in recipe.stages}
        self.choices: dict[str, dict[str, Any]] = {}
        self._stage_runs: dict[tuple[Any, ...], Run] = {}
        _check_names(recipe)

    @property
    def device(self) -> str:
        """`cpu` or `cuda`. Raises TutelageError when the recipe asks for CUDA and there is none."""
        wanted = self.recipe.device
        if wanted == "auto" and self.auto_device:
            return self.auto_device
        return wanted if self.declared and wanted != "auto" else resolve_device(wanted)

    def settings(self, name: str) -> dict[str, Any]:
        """The training keys that the recipe leaves open for a stage: the searched ones, and epochs by `epochs_of`."""
        stage = self.stages[name]
        chosen = dict(self.choices.get(name, {}))
        if isinstance(stage, TrainStage) and stage.epochs_of:
            chosen["epochs"] = sum(self.training(other, self.settings(other)).epochs for other in stage.epochs_of)
        return chosen

    def training(self, name: str, overrides: dict[str, Any]) -> TrainingConfig:
        """The training section of stage `name`, with `overrides` on top."""
        stage = self.stages[name]
        assert isinstance(stage, TrainStage)
        return self.recipe.training_of(stage, overrides)

    def lora(self, name: str, settings: dict[str, Any] | None = None) -> LoraConfig | None:
        """The adapter that training stage `name` trains, if any. `settings`: as in `training`; only `lora.…` count."""
        stage = self.stages[name]
        assert isinstance(stage, TrainStage)
        declared = self._origin(stage.student or default_student(self.recipe, name)).lora
        own = {k.removeprefix(LORA): v for k, v in (settings or {}).items() if k.startswith(LORA)}
        return None if declared is None else LoraConfig.model_validate(declared.model_dump() | own)

    def stage_run(self, name: str, seed: int, settings: dict[str, Any] | None = None) -> Run:
        """The run that does stage `name`. `settings` other than the chosen ones make a search's trial."""
        stage = self.stages[name]
        if stage.shared:
            seed = self.recipe.seeds[0]
        settings = self.settings(name) if settings is None else settings
        key = (name, seed, fingerprint(settings))
        if key not in self._stage_runs:
            self._stage_runs[key] = self._plan_stage(stage, seed, settings)
        return self._stage_runs[key]

    def evaluation(self, subject: str, task: str, seed: int, settings: Any = None, called: str = "") -> Run:
        """The run in which `subject` (a stage, base, teacher or lead_1) answers a task of the recipe. `called`: what
        results call it, where that is not its place in the recipe."""
        roles, config = {} if subject == "lead_1" else {"model": subject}, self.recipe.tasks[task]
        return self._plan_evaluation("evaluate", called or subject, task, config, roles, seed, settings)

    def measurement(
        self,
        subject: str,
        task: str,
        kind: str,
        config: Any,
        roles: dict[str, str],
        seed: int,
        judge: JudgeConfig | None = None,
    ) -> Run:
        """The run of a task that only the study defines: `kind` is `benchmark` or `held_out`, `config` its config;
        `roles`: the models it needs by role, `model` among them; `judge`: the study's."""
        return self._plan_evaluation(kind, subject, task, config, roles, seed, judge=judge)

    def section(self, name: str, seed: int, require_response: bool = True) -> tuple[DataConfig, str, Run | None]:
        """Data section or synthesize stage `name`: its config, its fingerprint, and the run that makes its rows, if
        one does."""
        config = self.recipe.data.get(name)
        stage = name if config is None else made_by(config.path)
        if stage is None:
            assert config is not None
            return config, self.inputs.data(name, config, self.recipe_folder, require_response), None
        run = self.stage_run(stage, seed)
        files = f"{glob.escape(str(run.folder.resolve()))}/accepted/*.jsonl"
        own = {} if config is None else config.content("path")
        return DataConfig(path=files, **own), fingerprint(run.fingerprint, own), run

    # --- one kind of run each -----------------------------------------------------------------------------------------

    def _plan_stage(self, stage: Any, seed: int, settings: dict[str, Any]) -> Run:
        if isinstance(stage, PruneStage):
            calibration = [stage.prune.calibration] if stage.prune.calibration else []
            inputs = self._resolve({"model": stage.model}, seed, calibration, changed="model")
            return self._build_stage(stage, seed, inputs)
        if isinstance(stage, SynthesizeStage):
            roles = {"generator": stage.generator, "annotator": stage.annotator}
            evaluated = sorted({task.data for task in self.recipe.tasks.values()} - {stage.gold})
            return self._build_stage(stage, seed, self._resolve(roles, seed, [stage.gold], evaluated, writes=True))
        training = self.recipe.training_of(stage, settings)
        roles = {"student": stage.student or default_student(self.recipe, stage.name)}
        names, extra, answers = data_names(stage, training), [], ()
        if isinstance(stage, SeqkdStage):
            # The teacher's answers do not depend on what a search tries, so they are a run of their own.
            data = names[:-1] if training.validation else names  # a section may be both trained on and validation
            answers = (self._plan_answers(stage, roles["student"], seed, data, training.max_length),)
            extra = [answers[0].fingerprint]
        elif not isinstance(stage, SftStage):
            roles["teacher"] = stage.teacher
            # Where both go back to one model their chat templates agree; else the teacher reads prompts in its own.
            extra = [] if self._origin(roles["student"]) == self._origin(stage.teacher) else ["aligned"]
        if isinstance(stage, MethodStage):
            extra.append(method_fingerprint(stage.method))
        lora = self.lora(stage.name, settings)
        extra += [] if lora is None else [f"lora {canonical(lora)}"]
        inputs = self._resolve(roles, seed, names)
        inputs.parents = (*answers, *inputs.parents)
        return self._build_stage(stage, seed, inputs, training, extra, lora=lora)

    def _plan_answers(self, stage: SeqkdStage, student: str, seed: int, data: Sequence[str], max_length: int) -> Run:
        inputs = self._resolve({"teacher": stage.teacher}, seed, data, writes=True)
        # Which questions fit: students that read as the teacher does share one run.
        origin = self._origin(student).model_copy(update={"lora": None})
        length, rendering = self.inputs.questions(origin, self._origin(stage.teacher), max_length)
        if stage.own_answers and not rendering:  # how it reads may not be known here
            rendering = fingerprint(origin.model_copy(update=NOT_READ), self.inputs.model(origin, local=True))
        extra = ["answers", f"max_length {length}", *([f"rendering {rendering}"] if rendering else [])]
        own: dict[str, Any] = {"max_length": max_length}
        if rendering or length < max_length:
            own["answers_for"] = origin
            inputs.planned_models["student"] = fingerprint(origin, self.inputs.model(origin, local=True))
        return self._build_stage(stage, seed, inputs, extra=extra, name=f"{stage.name}-answers", kind="answers", **own)

    def _plan_evaluation(
        self,
        kind: str,
        subject: str,
        task: str,
        config: Any,
        roles: dict[str, str],
        seed: int,
        settings: dict[str, Any] | None = None,
        judge: JudgeConfig | None = None,
    ) -> Run:
        inputs = self._resolve(roles, seed, settings=settings, writes=kind in ("evaluate", "benchmark"))
        seed = inputs.parents[0].seed if inputs.parents else self.recipe.seeds[0]  # what is made once is asked once
        if not isinstance(config, BenchmarkTask):
            section = self.recipe.data[config.data]
            inputs.data[config.data] = section
            rows = self.inputs.data(config.data, section, self.recipe_folder, require_response=kind != "evaluate")
            inputs.data_fingerprints.append(rows)
            inputs.planned_data[config.data] = rows, kind != "evaluate"
        models = inputs.model_fingerprints or {"model": subject}
        reading, data = _reading(kind, config), inputs.data_fingerprints
        key = evaluation_fingerprint(kind, config, seed, models, data, self.device, reading)
        folder, comet, also = f"{subject}-on-{task}", False, list[str]()
        if isinstance(config, TaskConfig) and not is_done(self.root / f"{folder}-s{seed}-{key}"):
            for other in with_other_metrics(config, self.root, f"{folder}-s{seed}"):
                also.append(evaluation_fingerprint(kind, other, seed, models, data, self.device))
        if isinstance(config, BenchmarkTask):
            judge = judge if config.benchmark == JUDGED else None
            if config.benchmark == WITH_COMET:  # what it has scored is shown on machines without it, too
                comet = comet_ready() or is_done(self.root / f"{folder}-s{seed}-{scored_by(key, comet=True)}")
            key = scored_by(key, judge_of(judge), comet)
        return self._build(
            key,
            folder,
            inputs,
            stage=f"{subject} on {task}",
            kind=kind,
            seed=seed,
            config=config,
            training=None,
            task=task,
            subject=subject,
            judge=judge,
            comet=comet,
            also=tuple(also),
        )

    def _build_stage(
        self,
        stage: Any,
        seed: int,
        inputs: _Inputs,
        training: TrainingConfig | None = None,
        extra: Sequence[str] = (),
        name: str = "",
        kind: str = "",
        **own: Any,
    ) -> Run:
        name, kind = name or stage.name, kind or stage.kind
        models, data = inputs.model_fingerprints, inputs.data_fingerprints
        key = stage_fingerprint(stage, training, seed, models, data, self.device, extra)
        return self._build(key, name, inputs, stage=name, kind=kind, seed=seed, config=stage, training=training, **own)

    def _build(self, key: str, folder: str, inputs: _Inputs, *, seed: int, **own: Any) -> Run:
        """The run with fingerprint `key`: a new one, unless an equal one is known, which then names the folder. `own`:
        what else it has, by the names of `Run`."""
        run = Run(
            seed=seed,
            folder=self.root / f"{folder}-s{seed}-{key}",
            fingerprint=key,
            recipe=self.recipe.name,
            recipe_folder=self.recipe_folder,
            device=self.device,
            data=inputs.data,
            models=inputs.models,
            planned_data=inputs.planned_data,
            planned_models=inputs.planned_models,
            parents=inputs.parents,
            **own,
        )
        return self.known.setdefault(key, run)

    # --- inputs -------------------------------------------------------------------------------------------------------

    def _resolve(
        self,
        roles: dict[str, str],
        seed: int,
        data: Sequence[str] = (),
        prompts: Sequence[str] = (),
        settings: dict[str, Any] | None = None,
        changed: str = "student",
        writes: bool = False,
    ) -> _Inputs:
        """Models by role and data by name. `prompts`: sections that may lack responses. `settings`: of the stages that
        make the models. `changed`: the role that is trained or cut. `writes`: they only write, so vLLM may be used."""
        found = _Inputs()
        for role, name in roles.items():
            source, uncut = self._source(name), self._uncut(name)
            precision = uncut.precision if uncut and role != changed else None
            parallel = uncut.tensor_parallel if uncut and writes and self.device == "cuda" else None
            held: dict[str, Any] = {"precision": precision, "tensor_parallel": parallel}
            if isinstance(source, str):
                run = self.stage_run(source, seed, settings)
                found.parents += (run,)
                origin = self._origin(source)  # tokenizer and template are saved with a stage's model; these are not:
                kept = {key: getattr(origin, key) for key in ("attention", "trust_remote_code", "thinking")}
                found.models[role] = ModelConfig(path=str(run.folder / MODEL), **kept, **held)
                key = fingerprint(run.fingerprint, precision) if precision else run.fingerprint
            else:
                found.models[role] = source = source.model_copy(update={"lora": None, **held})
                try:
                    key = fingerprint(source, self.inputs.model(source))
                except TutelageError as error:
                    raise TutelageError(f"{'student' if name == 'base' else name}.path: {error}") from error
                found.planned_models[role] = fingerprint(source, self.inputs.model(source, local=True))
            found.model_fingerprints[role] = fingerprint(key, "vllm") if parallel else key
        sections = {name: self.section(name, seed) for name in data}
        sections |= {name: self.section(name, seed, require_response=False) for name in prompts}
        for name, (config, key, maker) in sections.items():
            found.data[name] = config
            found.data_fingerprints.append(key)
            if maker is None:
                found.planned_data[name] = key, name in data
            else:
                found.parents += (maker,)
        return found

    def _source(self, name: str) -> str | ModelConfig:
        """What a model's name in a recipe stands for: a stage, or a model that no stage makes."""
        return {"base": self.recipe.student, "teacher": self.recipe.teacher}.get(name, name)

    def _uncut(self, name: str) -> ModelConfig | None:
        """The model that `name` was trained from, whose precision and number of GPUs it has where nothing changes it;
        None after a cut, which makes a student of it."""
        source = self._source(name)
        while isinstance(source, str):
            stage: Any = self.stages[source]
            if isinstance(stage, PruneStage):
                return None
            source = self._source(stage.student or default_student(self.recipe, source))
        return source

    def _origin(self, name: str) -> ModelConfig:
        """The model that `name` was made from, through all stages that trained or pruned it."""
        source = self._source(name)
        while isinstance(source, str):
            stage: Any = self.stages[source]
            pruned = isinstance(stage, PruneStage)
            source = self._source(stage.model if pruned else stage.student or default_student(self.recipe, source))
        return source


def _reading(kind: str, config: Any) -> str:
    """The fingerprint of the code that scores an evaluation's replies; empty for losses, which read none."""
    if kind == "benchmark":
        return benchmark(config.benchmark).reading
    return reading_fingerprint("tutelage.evaluation.tasks") if kind == "evaluate" else ""


def _check_names(recipe: RecipeConfig) -> None:
    """Refuse names of benchmarks and methods that this installation does not have; `recipe/` knows neither."""
    for stage in recipe.stages:
        where = f"{recipe.name}: stages.{stage.name}"
        for name in stage.avoid if isinstance(stage, SynthesizeStage) else ():
            if name not in BENCHMARKS:
                known = ", ".join(BENCHMARKS)
                raise TutelageError(f"{where}.avoid: no benchmark is called `{name}` (there are: {known})")
        if isinstance(stage, MethodStage) and stage.method not in METHODS:
            hint = did_you_mean(stage.method, METHODS, f"there are: {', '.join(METHODS)}; docs/method.md adds one")
            raise TutelageError(f"{where}.method: no method is called `{stage.method}`: {hint}")


def resolve_device(wanted: str) -> str:
    """`cpu` or `cuda` for `auto`, `cpu` or `cuda`. Raises TutelageError when CUDA is wanted and there is none."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise TutelageError("`device: cuda` needs a CUDA device, and torch sees none: use `device: auto`")
    return "cuda" if wanted == "auto" and torch.cuda.is_available() else wanted if wanted != "auto" else "cpu"
