"""What a recipe has made so far, row by row, read from its runs' folders: the value that its report shows.

Reading starts nothing and writes nothing, so it works at any time: evaluations that are not done are in the rows as
folders without results, and rows whose settings a search has not found yet have no folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tutelage.common import run_folder
from tutelage.common.progress import each_cause_once
from tutelage.data.sources import paths_of, resolve_sources
from tutelage.recipe.load import default_student
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.stages import EvaluateStage, SftStage, TaughtStage, TrainStage
from tutelage.runs.cost.facts import shape_at
from tutelage.runs.fingerprints import InputFingerprints
from tutelage.runs.perplexity import PERPLEXITY, perplexity_fact
from tutelage.runs.planner import Planner, resolve_device
from tutelage.runs.rows.notes import SectionRows, known_rows, left_out_notes, row_notes, section_rows, shared_questions
from tutelage.runs.run import Run, adapter_text, steps_of, with_parents
from tutelage.runs.search import Search, SearchPoint, evaluations, restricted, search_task, trained
from tutelage.runs.stages.earlier import reading_note

PLAIN_LABELS = {"lead_1": "lead-1 (first utterance)", "teacher": "Teacher", "base": "Base student"}


@dataclass(frozen=True)
class RowRun:
    """One seed of a row."""

    seed: int | None  # None: one run serves all seeds
    trained: Path | None  # folder of the run that made the model; None for a model that no stage makes
    evaluations: dict[str, Path]  # by task: the evaluation's folder, whether it is done or not


@dataclass(frozen=True)
class ResultRow:
    """A model or baseline that evaluate stages name."""

    stage: str  # a stage's name, or base, teacher, lead_1
    label: str
    kind: str  # the stage's kind; `model` for a model as given, `baseline` for lead_1
    runs: tuple[RowRun, ...]
    chosen: dict[str, Any] = field(default_factory=dict)  # settings that a search or `epochs_of` found
    searched: bool = False
    control: bool = False  # SFT, then SFT again on the same data: what more training gives without a teacher
    steps: int | None = None  # of the optimizer, from the recipe's student on; None: no training, or it is not done
    weights: int | None = None  # of the model; None: not known
    teacher: str | None = None  # of a row that a teacher taught: the teacher's stage, or `teacher`
    start: str | None = None  # the model that its stage began with, by its label; None: no stage made it
    data: tuple[str, ...] = ()  # the sections that its stage read
    of_teacher: bool = False  # it is the recipe's teacher, as it is or trained further, and no student


@dataclass(frozen=True)
class ResultTask:
    headline: str
    metrics: tuple[str, ...]
    rows: tuple[str, ...] | None = None  # None: all rows
    reference: str | None = None  # where the task has its own rows, the one that they are compared with
    data: str = ""  # the name of the file, folder or hub set of its examples, or their section's if there are several


@dataclass(frozen=True)
class SearchResults:
    tasks: tuple[str, ...]  # the tasks that decided, each for its stages
    grid: dict[str, list[Any]]
    points: tuple[SearchPoint, ...]

    @property
    def task(self) -> str:
        """The tasks that decided, for people."""
        return ", ".join(self.tasks)


@dataclass(frozen=True)
class TrainingData:
    """A data section that a model was trained on, or that a model which it builds on was."""

    files: tuple[str, ...]  # names of local files, without their folders
    hub: tuple[str, ...]  # names of hub data sets
    made_by: str | None  # the synthesize stage that wrote it
    fingerprint: str


@dataclass(frozen=True)
class TrainedModel:
    """A model that a training stage makes, with its chosen settings."""

    stage: str
    label: str
    seed: int | None  # None: the recipe has one seed, or the stage serves all of them
    run: Run
    data: dict[str, TrainingData]  # by name of the section

    def name_in(self, recipe: str) -> str:
        """Its name in the folder `models`."""
        return f"{recipe}-{self.stage}" + ("" if self.seed is None else f"-s{self.seed}")


@dataclass(frozen=True)
class RecipeResults:
    name: str
    description: str
    seeds: tuple[int, ...]
    tasks: dict[str, ResultTask]
    reference: str | None  # the row that others are compared with
    rows: tuple[ResultRow, ...]
    search: SearchResults | None
    facts: dict[str, Any]  # label → value
    done: int  # runs
    planned: int  # runs; while a search is open, as many as if the first point of each grid were the best
    notices: tuple[str, ...] = ()  # what flatters scores or could not be scored, approximate losses; what to do
    # by task, the ids of rows that are also, or nearly, in what models are trained or settings are chosen on
    known_rows: dict[str, frozenset[str]] = field(default_factory=dict)
    sections: tuple[SectionRows, ...] = ()  # the data that its models are trained, chosen and scored on
    said: frozenset[str] = frozenset()  # the notices that the call that did the runs has printed
    elsewhere: str = ""  # the device on which the runs were made, where this machine would use another
    models: tuple[TrainedModel, ...] = ()  # made or not
    overrides: tuple[str, ...] = ()  # keys of the recipe file that the command changed, as key=value

    @property
    def row_notes(self) -> tuple[str, ...]:
        """Notes about rows that repeat or contradict others of their section."""
        return row_notes(self.sections)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Notes about rows that were not used or have gaps, for all sections."""
        return left_out_notes(self.sections)


def recipe_results(recipe: RecipeConfig, base: Path, root: Path, only: Sequence[str] = ()) -> RecipeResults:
    """What is in the folder `root` of a recipe whose relative paths start at `base`.

    `only`: these evaluate stages. Where no run was begun on this machine's kind of device, the results are those of
    the device on which some were. Raises TutelageError when the recipe's data or models cannot be found.
    """
    recipe = restricted(Planner(recipe, base, root), only)
    here = resolve_device("auto") if recipe.device == "auto" else recipe.device
    others = [device for device in ("cuda", "cpu") if device != here] if recipe.device == "auto" else []
    inputs = InputFingerprints()
    searches: dict[str, Search] = {}
    for device in (here, *others):  # `auto` with a known device, so that torch is not asked for it
        asked = recipe.model_copy(update={"device": "auto"})
        searches[device] = Search(Planner(asked, base, root, inputs=inputs, auto_device=device))
        if any(run.folder.is_dir() for run in searches[device].known()):
            return read_results(searches[device], elsewhere="" if device == here else device)
    return read_results(searches[here])


def read_results(search: Search, seconds: float | None = None, elsewhere: str = "") -> RecipeResults:
    """The results of the runs that `search` knows by now. `seconds`: how long the call took that did them."""
    planner = search.planner
    recipe = planner.recipe
    stages = [stage for stage in recipe.stages if isinstance(stage, EvaluateStage)]
    asked = list(dict.fromkeys((subject, task) for s in stages for subject in s.models for task in s.tasks))
    subjects = list(dict.fromkeys(subject for subject, _ in asked))
    runs = with_parents(search.known())
    planned = evaluations(planner, search.settled)
    noticed = [*(run for run in runs if run.training is not None), *(run for _, _, run in planned)]
    return RecipeResults(
        name=recipe.name,
        description=recipe.description,
        seeds=tuple(recipe.seeds),
        tasks={task: _task(planner, task, asked, stages) for task in dict.fromkeys(task for _, task in asked)},
        reference=_reference(planner, stages, subjects),
        rows=tuple(_row(search, subject, planned) for subject in subjects),
        models=tuple(_models(search)),
        search=None if recipe.search is None else _search_results(search),
        facts=_facts(search, runs, seconds),
        done=sum(run.done for run in runs),
        planned=len(search.expected()) if search.open else len(runs),
        notices=(
            *shared_questions(planner),
            *reading_note(runs),
            *each_cause_once(notice for run in noticed for notice in _result(run).get("notices") or []),
        ),
        known_rows=known_rows(planner),
        sections=tuple(section_rows(planner, [_result(run).get("data", {}) for run in noticed])),
        elsewhere=elsewhere,
    )


def _result(run: Run) -> dict[str, Any]:
    return run_folder.read_json(run.folder, run_folder.RESULT) if run.done else {}


def _task(planner: Planner, task: str, asked: Sequence[tuple[str, str]], stages: Sequence[EvaluateStage]) -> ResultTask:
    config = planner.recipe.tasks[task]
    rows = tuple(subject for subject, name in asked if name == task)
    paths = paths_of(planner.recipe.data[config.data])
    known = ResultTask(
        config.headline_metric,
        tuple(config.metrics),
        data=Path(paths[0]).name if len(paths) == 1 else f"data.{config.data}",
    )
    if set(rows) == {subject for subject, _ in asked}:
        return known
    own = [stage for stage in stages if task in stage.tasks]
    return replace(known, rows=rows, reference=_reference(planner, own, rows))


def _reference(planner: Planner, stages: Sequence[EvaluateStage], subjects: Sequence[str]) -> str | None:
    """What an evaluate stage asks to compare with; else the first control of equal training that is evaluated, else the
    first SFT of the student."""
    named = [stage.compare_to for stage in stages if stage.compare_to]
    student_sft = [s.name for s in planner.recipe.stages
                   if isinstance(s, SftStage) and s.student != "teacher" and not s.shared]  # fmt: skip
    controls = [name for name in student_sft if _is_control(planner, name)]
    return next(iter(named or [name for name in (*controls, *student_sft) if name in subjects]), None)


def _is_control(planner: Planner, name: str) -> bool:
    """Whether a stage is SFT on the data that the SFT stage which it starts from was trained on."""
    stage = planner.stages.get(name)
    before = planner.stages.get(stage.student) if isinstance(stage, SftStage) else None
    return isinstance(stage, SftStage) and isinstance(before, SftStage) and before.data == stage.data


def _row(search: Search, subject: str, planned: Sequence[tuple[str, str, Run]]) -> ResultRow:
    planner, stage = search.planner, search.planner.stages.get(subject)
    seeds: list[int | None] = [*planner.recipe.seeds]
    one_for_all = len(seeds) > 1 and _is_shared(planner, subject)
    runs: dict[int | None, RowRun] = {}
    for name, task, run in planned:
        if name == subject:
            seed, made_by = None if one_for_all else run.seed, run.parents[0].folder if run.parents else None
            runs.setdefault(seed, RowRun(seed, made_by, {})).evaluations.setdefault(task, run.folder)
    if not runs:  # it waits for a search
        runs = {seed: RowRun(seed, None, {}) for seed in ([None] if one_for_all else seeds)}
    return ResultRow(
        stage=subject,
        label=(stage.label if stage is not None else None) or PLAIN_LABELS.get(subject, subject),
        kind=stage.kind if stage is not None else "baseline" if subject == "lead_1" else "model",
        runs=tuple(runs.values()),
        chosen=planner.settings(subject) if stage is not None and search.settled(subject) else {},
        searched=isinstance(stage, TrainStage) and bool(stage.search),
        control=_is_control(planner, subject),
        steps=_steps(planner, subject) if search.settled(subject) else None,
        teacher=stage.teacher if isinstance(stage, TaughtStage) else None,
        start=_start(planner, stage) if isinstance(stage, TrainStage) else None,
        data=tuple(names_of(stage.data)) if isinstance(stage, TrainStage) else (),
        weights=_weights(planner, subject, runs.values()),
        of_teacher=_of_teacher(planner, subject),
    )


def _start(planner: Planner, stage: TrainStage) -> str:
    name = stage.student or default_student(planner.recipe, stage.name)
    if name == "base" and isinstance(planner.recipe.student, str):
        name = planner.recipe.student
    before = planner.stages.get(name)
    return (before.label if before is not None else None) or {"base": "the student"}.get(name, name)


def _of_teacher(planner: Planner, name: str) -> bool:
    stage = planner.stages.get(name)
    before = stage.student if isinstance(stage, TrainStage) else None
    return name == "teacher" or (before is not None and _of_teacher(planner, before))


def _steps(planner: Planner, name: str) -> int | None:
    if not isinstance(planner.stages.get(name), TrainStage):
        return None
    # What made the student that all begin with (its healing, say) is not part of an arm's training.
    student = planner.recipe.student if planner.recipe.student != name else None
    run = planner.stage_run(name, planner.recipe.seeds[0])
    return steps_of(run, planner.root, student if isinstance(student, str) else None)


def _weights(planner: Planner, name: str, runs: Iterable[RowRun]) -> int | None:
    """The number of weights of a row's model; None where it is not made, and for shapes that are not known."""
    made = next((run.trained for run in runs if run.trained is not None), None)
    student = planner.recipe.student
    given = student.path if name == "base" and not isinstance(student, str) else None
    given = planner.recipe.teacher.path if name == "teacher" else given
    path = given if made is None else str(made / run_folder.MODEL)
    shape = shape_at(path) if path is not None else None
    return None if shape is None else shape.weights


def _is_shared(planner: Planner, name: str) -> bool:
    """Whether one run serves all seeds: a shared stage, or a model that no stage makes."""
    student = planner.recipe.student
    stage = planner.stages.get(student if name == "base" and isinstance(student, str) else name)
    return stage is None or stage.shared


def _models(search: Search) -> list[TrainedModel]:
    planner = search.planner
    seeds, found = planner.recipe.seeds, []
    for stage in planner.recipe.stages:
        if not isinstance(stage, TrainStage) or not search.settled(stage.name):
            continue
        one_for_all = stage.shared or len(seeds) == 1
        for seed in seeds[:1] if one_for_all else seeds:
            run = planner.stage_run(stage.name, seed)
            uses = {name: one.seed for one in with_parents([run]) if one.training for name in names_of(one.config.data)}
            data = {name: _training_data(planner, name, used) for name, used in uses.items()}
            label = stage.label or stage.name
            found.append(TrainedModel(stage.name, label, None if one_for_all else seed, run, data))
    return found


def names_of(data: str | Sequence[str]) -> list[str]:
    """The data sections of a training stage, whose key `data` is one name or several."""
    return [data] if isinstance(data, str) else list(data)


def _training_data(planner: Planner, name: str, seed: int) -> TrainingData:
    config, key, maker = planner.section(name, seed)
    if maker is not None:
        return TrainingData((), (), maker.stage, key)
    files, hub = [], []
    for path in paths_of(config):
        found = resolve_sources(f"data.{name}", path, planner.recipe_folder)
        hub += [found] if isinstance(found, str) else []
        files += [] if isinstance(found, str) else [file.name for file in found]
    return TrainingData(tuple(files), tuple(hub), None, key)


def _search_results(search: Search) -> SearchResults:
    planner, config = search.planner, search.planner.recipe.search
    assert config is not None
    names = [s.name for s in planner.recipe.stages if isinstance(s, TrainStage) and s.search]
    tasks = tuple(dict.fromkeys(search_task(planner, name) for name in names)) or (config.task,)
    return SearchResults(tasks, config.grid, tuple(search.points))


def _facts(search: Search, runs: Sequence[Run], seconds: float | None) -> dict[str, Any]:
    """What the runs that are done say beside their scores, in the order of the stages."""
    planner = search.planner
    stage_runs = trained(planner, search.settled)
    shown = [*stage_runs, *(run for _, _, run in evaluations(planner, search.settled))]
    facts: dict[str, Any] = {}
    for run in with_parents(stage_runs):
        if run.seed != planner.recipe.seeds[0] or not run.done:
            continue
        result = run_folder.read_json(run.folder, run_folder.RESULT)
        if "keep" in result:
            kept = f"{', '.join(map(str, result['keep']))} (of {result['layers']})"
            facts[f"{run.stage}: layers kept"] = f"{kept}; without the others it has to be trained again (healed)"
        if "teacher_precision" in result:
            facts[f"{run.stage}: teacher's precision"] = result["teacher_precision"]["text"]
        if run.lora is not None and "adapter" in result:
            once = "; the teacher shares the frozen weights" if result["adapter"]["shared_base"] else ""
            facts[f"{run.stage}: weights trained"] = (
                f"{result['adapter']['trained']:,} of a {adapter_text(run.lora)}{once}"
            )
        if result.get("kind") == "synthesize":
            facts[f"{run.stage}: synthetic rows"] = (
                f"{result['rows']:,} of {result['attempts']:,} attempts accepted (see {run.folder.name}/sample.html)"
            )
        if "perplexity_before" in result:
            facts.setdefault("perplexity", PERPLEXITY)
            facts |= perplexity_fact(run, result)
    some = next((run for run in [*shown, *runs] if run.done), None)
    if some is not None:
        environment = run_folder.read_json(some.folder, run_folder.ENVIRONMENT)
        facts["machine"] = f"{environment['device']}, torch {environment['torch']}"
        done = [run for run in with_parents(shown) if run.done]
        spent = sum(run_folder.read_json(run.folder, run_folder.RESULT)["seconds"] for run in done)
        which = "all runs" if all(run.done for run in runs) and not search.open else "runs done so far"
        facts[f"{which}, one after the other"] = f"{spent / 60:.1f} minutes"
    if seconds is not None:
        facts["the last call alone"] = f"{seconds / 60:.1f} minutes"
    return facts
