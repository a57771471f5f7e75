"""`tutelage init`: a recipe for one's own files. Heavy imports stay inside functions."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tutelage.cli.options import Debug, RunsFolder, visible
from tutelage.common.progress import print_lines

if TYPE_CHECKING:
    from tutelage.start.look import Look
    from tutelage.start.models import Cut, Pair

HEALING = 320  # rows that heal the built-in student, in 40 steps: 800 did no better on short rows (LOG.md)
# Of GKD for that student, in batches of 8: 6e-4, which the mini study found best in batches of 128, undoes what SFT has
# taught (LOG.md).
GKD_RATE = 2e-4
Names = Annotated[list[str] | None, typer.Option(help="A file for this alone; may be repeated.")]


def init(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Your data: files, a folder or a hub set. Names with test, dev or val in them are that."),
    ] = None,
    student: Annotated[str | None, typer.Option(help="The small model: hub id, folder or GGUF file.")] = None,
    teacher: Annotated[str | None, typer.Option(help="The large one, of the same family.")] = None,
    train: Names = None,
    dev: Names = None,
    test: Names = None,
    prompt: Annotated[str | None, typer.Option(help="Column of the question, or a template: 'Q: {question}'.")] = None,
    completion: Annotated[str | None, typer.Option(help="Column of the answer, or a template.")] = None,
    distinct: Annotated[
        bool | None,
        typer.Option(
            help="Leave out rows that repeat earlier ones exactly, or keep them.", show_default="asks, or yes"
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the recipe.", show_default="the file's")] = None,
    out: Annotated[Path | None, typer.Option(help="The recipe to write.", show_default="NAME.yaml")] = None,
    runs: RunsFolder = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take what is proposed.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a recipe that is there.")] = False,
    debug: Debug = False,
) -> None:
    """Look at your data, models and machine, and write a recipe that fits them: SFT against GKD, on dev and test rows.

    Without a GPU, --teacher and --student it takes the built-in 135M model and a student cut from it, as the demo does.

    tutelage init train.csv

    tutelage init rows.jsonl --test test.jsonl --teacher Qwen/Qwen3-4B --student Qwen/Qwen3-0.6B --yes
    """
    from tutelage.common.errors import TutelageError
    from tutelage.common.files import refuse_unwritable, write_atomically
    from tutelage.recipe.base import NAME_PATTERN
    from tutelage.runs.preflight.machine import look_at_machine
    from tutelage.start.draft import draft
    from tutelage.start.look import first_rows

    asks = not yes and sys.stdin.isatty()
    if (prompt is None) != (completion is None):
        raise TutelageError("--prompt and --completion go together: give both")
    roles = _files(files or [], {"train": train, "dev": dev, "test": test}, asks)
    called = name or _name(out, roles["train"][0])
    if not re.fullmatch(NAME_PATTERN, called):
        raise TutelageError(f"--name {called}: a name has letters, digits, `_`, `.` and `-` only: give another")
    for paths in filter(None, roles.values()):
        first_rows(paths)  # can they be read? before anything is said of the recipe
    out = out or Path(f"{called}.yaml")
    if out.is_dir():
        raise TutelageError(f"{out} is a folder: give the file to write, such as --out {out / called}.yaml")
    if out.exists() and not force:
        raise TutelageError(f"{out} exists: give another --name or --out, or --force to replace it")
    refuse_unwritable(out.parent, "--out")

    looks: dict[str, Look] = {}
    for role in (role for role, paths in roles.items() if paths):
        looks[role] = _once(_look(role, roles[role], prompt, completion, asks), distinct, asks)
        print_lines(map(visible, looks[role].lines()))
    here = look_at_machine()
    print_lines([f"machine: {here.said}"])
    command = " ".join(shlex.join(["tutelage", "init", *(path for paths in roles.values() for path in paths)]).split())
    found = None
    for pair in _pairs(teacher, student, here.device, asks):
        found = draft(called, looks, out, pair, here, command, runs, force)
        if found.fits:
            break
    assert found is not None
    print_lines(map(visible, [*found.seen, *(f"note: {warning}" for warning in found.warnings)]))
    print_lines(found.stages)
    write_atomically(out, found.text)
    at = "" if runs == Path("runs") else f" --runs {runs}"
    print_lines(["", f"Wrote {out}: {found.needs}."])
    print_lines([f"Next: tutelage data inspect {out}    rows as the model sees them"], 6)
    print_lines([f"      tutelage run {out}{at}    its last lines say which model to use"], 6)


def _files(named: Sequence[str], flags: Mapping[str, list[str] | None], asks: bool) -> dict[str, list[str]]:
    """The files by role: of the options, else told by their names; without any, what lies here."""
    from tutelage.common.errors import TutelageError
    from tutelage.start.files import sort_files

    if not named and not flags["train"]:
        here = _data_here()
        if asks:
            named = [_ask("Your data (a file)", here, _readable)]
        elif here is None:
            raise TutelageError("no data: name your file, for example tutelage init train.csv")
        else:
            named = [here]
    roles = sort_files(named, alone=not flags["train"]) if named else {"train": [], "dev": [], "test": []}
    for role, paths in flags.items():
        if paths:
            sort_files(paths, alone=False)  # are they there?
            roles[role] = list(paths)
    return roles


def _data_here() -> str | None:
    """The data file of the working folder, if it has one that is called train or only one."""
    from tutelage.data.sources import SUFFIXES

    files = sorted(file.name for file in Path().iterdir() if file.name.endswith(SUFFIXES))
    trains = [file for file in files if file.startswith("train")]
    return trains[0] if len(trains) == 1 else files[0] if len(files) == 1 else None


def _name(out: Path | None, first: str) -> str:
    """The name of the recipe: of its file, else of the data, unless that says only what it is for."""
    stem = out.stem if out is not None else Path(first).name.partition(".")[0]
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-._")
    return clean if clean and (out is not None or clean.lower() not in ("train", "data", "rows")) else "mine"


def _look(role: str, paths: list[str], prompt: str | None, completion: str | None, asks: bool) -> Look:
    """Read a section; where the columns are not known, ask, or say that they were guessed."""
    from tutelage.start.files import text_columns
    from tutelage.start.look import UnknownFormError, first_rows, look_at

    try:
        found = look_at(role, paths, prompt, completion)
    except UnknownFormError as error:
        if not asks:
            raise
        print_lines([visible(f"{error.place}: columns {', '.join(error.columns)}")])
        return _ask_columns(role, paths, error.columns, error.likely)
    if not found.form.sure and not asks:
        print_lines([f"note: {role}: the columns are guessed; --prompt and --completion set them"])
    elif not found.form.sure and not typer.confirm(visible(f"{role}: {found.form.said}. Right?"), default=True):
        keys = found.form.keys
        return _ask_columns(role, paths, text_columns(first_rows(paths)), (keys["completion"], keys["prompt"]))
    return found


def _once(look: Look, distinct: bool | None, asks: bool) -> Look:
    """The section without rows that repeat earlier ones, unless somebody wants to keep them."""
    from tutelage.common.errors import listed

    if distinct is False or not (again := look.repetitions):
        return look
    if distinct is None and asks:
        rows = "row repeats an earlier one" if len(again) == 1 else "rows repeat earlier ones"
        question = f"{look.role}: {len(again):,} {rows} exactly: {listed([*again.values()])}. Leave out?"
        if not typer.confirm(visible(question), default=True):
            return look
    return look.distinct()


def _ask_columns(role: str, paths: list[str], columns: Sequence[str], likely: tuple[str, str]) -> Look:
    """Ask for the columns until they can be read. `likely`: what is proposed."""
    from tutelage.common.errors import TutelageError
    from tutelage.start.files import check_columns
    from tutelage.start.look import look_at

    def known(text: str) -> str:
        check_columns(text, columns)
        return text

    while True:
        prompt = _ask("Column of the question, or a template", likely[0], known)
        completion = _ask("Column of the answer, or a template", likely[1], known)
        try:
            return look_at(role, paths, prompt, completion)
        except TutelageError as error:
            print_lines([visible(str(error))])


def _ask(question: str, default: str | None, check: Callable[[str], str]) -> str:
    """The answer as `check` gives it; one for which that raises TutelageError is asked for again."""
    from tutelage.common.errors import TutelageError

    while True:
        try:
            return check(typer.prompt(visible(question), default=default))
        except TutelageError as error:
            print_lines([visible(str(error))])


def _readable(file: str) -> str:
    from tutelage.start.files import sort_files
    from tutelage.start.look import first_rows

    first_rows(sort_files([file])["train"])
    return file


def _pairs(teacher: str | None, student: str | None, device: str, asks: bool) -> Iterator[Pair]:
    """Teacher and student: as asked for, else proposals for the device, the first of which that fits is taken."""
    from tutelage.common.errors import TutelageError
    from tutelage.start.models import BUILT_IN, PAIRS, look_at_models

    if (teacher is None) != (student is None):
        raise TutelageError("--teacher and --student go together: give both, two models of one family")
    if teacher is not None and student is not None:
        yield look_at_models(teacher, student)
        return
    proposed: list[tuple[str, str | Cut]] = [*PAIRS] if device == "cuda" else [(BUILT_IN, built_in_student())]
    other = _ask_models(*proposed[0]) if asks else None
    yield from (look_at_models(*pair) for pair in proposed) if other is None else [other]


def _ask_models(large: str, small: str | Cut) -> Pair | None:
    """Ask for models until they can be used together; None for those that are proposed, `large` and `small`."""
    from tutelage.common.errors import TutelageError
    from tutelage.start.models import look_at_models

    named = small if isinstance(small, str) else None
    while True:
        teacher: str = typer.prompt("Teacher", default=large)
        if teacher == large and named is None:
            return None
        student: str = typer.prompt("Student", default=named)
        if (teacher, student) == (large, named):
            return None
        try:
            pair = look_at_models(teacher, student)
        except TutelageError as error:
            print_lines([visible(str(error))])
            continue
        print_lines(map(visible, pair.unseen))
        if not pair.unseen or typer.confirm("Take it all the same?", default=False):
            return pair


def built_in_student() -> Cut:
    """The demo's student, which is cut out of the built-in model and healed on the demo's exercises."""
    import tempfile
    from importlib.resources import as_file, files

    from tutelage.cli.demo.data import write_demo_data
    from tutelage.recipe.load import load_recipe, read_yaml
    from tutelage.start.models import Cut

    with as_file(files("tutelage.cli.demo") / "recipe.yaml") as path:
        config, written = load_recipe(path), read_yaml(path)
    made = [stage.name for stage in config.stages].index(str(config.student)) + 1
    shared = {key: written["training"][key] for key in ("batch_size", "max_length", "epochs")}
    stages = [
        stage
        if stage["kind"] == "prune"
        else stage | {"training": {**shared, "validation": None, **stage.get("training", {})}}
        for stage in written["stages"][:made]
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = write_demo_data(Path(folder), train=7, dev=7, test=14, heal=800)["heal"].read_text(encoding="utf-8")
    # The demo's teacher learns for a few steps only, to save time; on other rows it reads them as often as the student.
    teachers = next((stage for stage in written["stages"] if stage.get("student") == "teacher"), {})
    teaching = {key: value for key, value in teachers.get("training", {}).items() if key != "max_steps"}
    training = {"learning_rate": written["training"]["learning_rate"]}
    heal, own = str(config.student), {"teacher_sft": teaching, "gkd": {"learning_rate": GKD_RATE}}
    reasons = {
        heal: f"trains what was cut until it writes again, on {HEALING} of 800 rows of other text; a better student: a "
        "larger `size` of data.heal",
        "gkd": "the same start and steps, with the teacher; the rate matters most: docs/recipe.md has a search",
    }
    return Cut(heal, stages, stages[-1]["data"], rows, HEALING, training, own, reasons)
