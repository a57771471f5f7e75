"""Two recipes or studies of one name: the second neither overwrites the first's results, nor is lost itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from recipes_fixture import ROWS, Workshop
from tiny_study import write_study

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.delivery.export import export_model
from tutelage.delivery.find_model import FoundModel
from tutelage.delivery.folders import deliver_models
from tutelage.delivery.outdated import outdated_notes
from tutelage.recipe.load import load_recipe
from tutelage.recipe.owner import claim, refuse_other, replaces
from tutelage.runs.recipe_results import recipe_results
from tutelage.study.grid import plan_study
from tutelage.study.run_study import write_plan


def recipe(file: Path, name: str = "x", more: str = "") -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"name: {name}\n{more}")
    return file


def test_another_file_of_the_name_is_refused_and_the_same_one_is_not(tmp_path: Path) -> None:
    one, two = recipe(tmp_path / "one.yaml"), recipe(tmp_path / "two.yaml", more="seeds: [1]\n")
    out = tmp_path / "runs" / "x-report"
    refuse_other(out, two, "report")
    claim(out, one, "x")
    recipe(one, more="seeds: [2]\n")  # edited
    refuse_other(out, one, "report")
    with pytest.raises(TutelageError, match=r"x-report has the report of another file, .*one\.yaml, named `x`: give"):
        refuse_other(out, two, "report")
    shutil.copy(one, copy := tmp_path / "copy.yaml")
    refuse_other(out, copy, "report")
    recipe(one, name="y")
    refuse_other(out, two, "report")
    claim(out, two, "x")
    two.rename(moved := tmp_path / "moved.yaml")
    refuse_other(out, recipe(one), "report")
    assert moved.is_file()


def test_a_name_by_override_is_its_files_as_long_as_that_keeps_its_own(tmp_path: Path) -> None:
    one, two = recipe(tmp_path / "one.yaml"), recipe(tmp_path / "two.yaml", name="z")
    out = tmp_path / "runs" / "z-report"
    claim(out, one, "z")  # tutelage run one.yaml name=z
    refuse_other(out, one, "report")
    with pytest.raises(TutelageError, match=r"z-report has the report of another file, .*one\.yaml, named `z`: give"):
        refuse_other(out, two, "report")
    recipe(one, name="y")
    refuse_other(out, two, "report")
    claim(out, two, "z")
    with pytest.raises(TutelageError, match=r"two\.yaml, named `z`"):
        refuse_other(out, one, "report")


def test_results_of_other_settings_are_said_to_be_replaced(tmp_path: Path) -> None:
    stages = "training: {learning_rate: 4e-4}\nstages:\n- {name: sft, kind: sft}\n- {name: gkd, kind: distill}\n"
    file, out = recipe(tmp_path / "one.yaml", more=stages), tmp_path / "x-report"

    def said(*overrides: str) -> list[str]:
        return replaces(out, file, "x", " and models/x-…", overrides)

    assert said() == said("training.learning_rate=1") == []  # nothing is there
    claim(out, file, "x")
    assert said() == said("description=better", "training.learning_rate=0.0004") == []
    assert said("stages.gkd.beta=0.1", "training.learning_rate=1e-3") == [
        f"{out} and models/x-…: made with other settings (training.learning_rate 0.0004 → 0.001, stages.gkd.beta unset "
        "→ 0.1), replaced when this is done; finished runs are kept. To keep both, give this one another name: name=x-2"
    ]
    claim(out, file, "x", ["training.learning_rate=1e-3"])
    assert said("training.learning_rate=1e-3") == []
    (note,) = said()
    assert "(training.learning_rate 0.001 → 0.0004)" in note
    recipe(file, more=stages.replace("4e-4", "1e-3"))  # the file says now what the command did
    assert said() == []
    recipe(file, more="a: {b: 1, c: 2}\nd: [1]\ne: 3\n")
    (note,) = said()
    assert note.count("→") == 3
    assert " and 4 more)" in note
    claim(out, None, "x")
    assert said("e=4") == []


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_second_recipe_of_the_name_takes_neither_report_nor_model(workshop: Workshop, capsys: Any) -> None:
    one = workshop.write().rename(workshop.folder / "one.yaml")
    two = workshop.write(training__learning_rate=0.5)
    runs = ["--runs", str(workshop.runs)]
    main(["run", str(one), *runs])
    page = (workshop.runs / "tiny-report" / "report.html").read_text()
    before = sorted(workshop.runs.iterdir())
    assert "tiny-report has the report of another file, " in fails(["run", str(two), *runs], capsys)
    assert sorted(workshop.runs.iterdir()) == before
    out = ["--out", str(workshop.folder / "page")]
    main(["report", str(one), *runs, *out])
    assert "one.yaml, named `tiny`" in fails(["report", str(two), *runs, *out], capsys)
    capsys.readouterr()
    main(["report", str(one), "training.learning_rate=0.25", *runs, *out])
    said = capsys.readouterr()
    assert "page: made with other settings (training.learning_rate " in said.err
    assert "Changed in the command: training.learning_rate=0.25\n" in said.out
    changed = (workshop.folder / "page" / "report.html").read_text()
    assert "<code>training.learning_rate=0.25</code>." in changed
    main(["report", str(one), "name=else", *runs, *out])
    assert "one.yaml, named `else`" in fails(["report", str(two), *runs, *out], capsys)
    assert (workshop.runs / "tiny-report" / "report.html").read_text() == page
    other = workshop.folder / "others"
    main(["run", str(two), "--runs", str(other)])  # `models` is beside both folders
    assert "is the model of another recipe of this name" in capsys.readouterr().err
    results = recipe_results(
        load_recipe(one), workshop.folder, shutil.copytree(workshop.runs, workshop.folder / "third")
    )
    notes = deliver_models(results, workshop.folder / "third", file=one).notes
    assert ["was the model of" in note and "third" in note for note in notes] == [True, True], notes


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_an_unfinished_report_leaves_a_finished_one_unless_asked(workshop: Workshop, capsys: Any) -> None:
    """And a model of the recipe before its change says so."""
    file, folder = workshop.write(), workshop.runs / "tiny-report"
    model, runs = workshop.folder / "models" / "tiny-gkd", ["--runs", str(workshop.runs)]
    main(["report", str(file), "--runs", str(workshop.folder)])  # of nothing that is done: a first page, and a second
    main(["report", str(file), "--runs", str(workshop.folder)])
    main(["run", str(file), *runs])
    assert list(outdated_notes(model)) == []
    page = (folder / "report.html").read_text()
    workshop.write(training__epochs=2, tasks__test__metrics=["exact_match"], stages__2__models=["sft", "gkd"])
    capsys.readouterr()
    said = fails(["report", str(file), *runs], capsys)
    assert (
        f"{folder} has a finished report, which stays: settings or data have changed since, and 4 runs or cells" in said
    )
    assert f"--out {folder}-now puts this report there (--out {folder}: in its place)" in said
    assert (folder / "report.html").read_text() == page
    change = "was made with other settings or data than recipe.yaml has now"
    (note,) = outdated_notes(model)
    assert note == f"{model} {change} (training.epochs 1 → 2); `tutelage run` makes it anew"
    workshop.write()
    workshop.rows("train", ROWS[1:])
    assert "has a finished report, which stays" in fails(["report", str(file), *runs], capsys)
    assert list(outdated_notes(model)) == [f"{model} {change} (train.jsonl has changed); `tutelage run` makes it anew"]
    main(["report", str(file), *runs, "--out", str(folder)])
    assert (folder / "report.html").read_text() != page


def test_two_studies_of_one_name(workshop: Workshop) -> None:
    one = write_study(workshop)
    write_plan(plan_study(one, workshop.runs))
    two = one.with_name("other.yaml")
    two.write_text(one.read_text() + "\n")
    with pytest.raises(TutelageError, match=r"study\.study\.json is of another study of this name, .*study\.yaml"):
        write_plan(plan_study(two, workshop.runs))
    assert json.loads((workshop.runs / "study.study.json").read_text())["file"].endswith(one.name)
    write_plan(plan_study(one, workshop.runs))


def test_two_models_of_one_name_are_not_exported_over_each_other(tiny_models: Path, tmp_path: Path) -> None:
    for size in ("teacher", "student"):
        shutil.copytree(tiny_models / size, tmp_path / size / "model")
    export_model(FoundModel("model", str(tmp_path / "teacher" / "model")), tmp_path / "out")
    kept = (tmp_path / "out" / "model.safetensors").read_bytes()
    export_model(FoundModel("model", str(tmp_path / "teacher" / "model")), tmp_path / "out")
    with pytest.raises(TutelageError, match=r"out is the export of another `model`: give another --out"):
        export_model(FoundModel("model", str(tmp_path / "student" / "model")), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == kept
