"""Names of models that are not there yet: which recipe makes them, and how far it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipes_fixture import ROWS, Workshop

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.common.locks import own_mark
from tutelage.common.planned import announce
from tutelage.delivery.find_model import find_loadable, find_model
from tutelage.recipe.load import load_recipe
from tutelage.runs.planner import Planner
from tutelage.runs.preflight import find_problems
from tutelage.runs.preflight.unfinished import made_here

RUN = "sft-s0-0123456789ab"  # of no recipe here


@pytest.fixture
def here(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """The working folder of a recipe `tiny` with the stages `sft`, `gkd` and `scores`, which has not been run."""
    workshop.write()
    monkeypatch.chdir(workshop.folder)
    return workshop


def why(name: str) -> str:
    with pytest.raises(TutelageError) as caught:
        find_model(name)
    return str(caught.value)


def begin(*files: str, stage: str = "sft", recipe: str = "recipe.yaml") -> Path:
    """Begin the run of a stage of the recipe, or `RUN` where that is not there."""
    folder = Path("runs") / RUN
    if Path(recipe).exists():
        folder = Planner(load_recipe(Path(recipe)), Path.cwd(), Path("runs")).stage_run(stage, 0).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).write_text("{}")
    return folder


NAMES = ["tiny-sft", "models/tiny-sft", "./models/tiny-sft", "models/tiny-sft/", "tiny-sft-s3", "sft"]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_a_recipe_here_is_yet_to_make(here: Workshop, name: str) -> None:
    short = name.removeprefix("./").removeprefix("models/").rstrip("/")
    assert why(name) == f"`{short}` is not there yet: `tutelage run recipe.yaml` makes it"
    end = "models/tiny-sft is written at the end of `tutelage run recipe.yaml`"
    folder = begin("config.json")
    stopped = f"`{short}` is not finished yet: {folder} was stopped; `tutelage run recipe.yaml` goes on with it"
    assert why(name) == stopped
    begin("error.txt")
    assert why(name) == stopped.replace("was stopped", "failed")
    (folder / "lock").write_text(own_mark())
    found = why(name)
    assert found.startswith(f"`{short}` is not finished yet: process ")
    assert found.endswith(f" is at its stage `sft`, in {folder}; {end}")
    (folder / "lock").unlink()
    begin("result.json")
    done = f"`{short}` is not finished yet: {end}; its stage `sft` is done: give {folder} for now"
    assert why(name) == done


def test_a_stage_that_a_running_recipe_has_not_come_to(here: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    begin("config.json")
    announce(Path("runs"), [], "tiny")
    monkeypatch.setattr("platform.node", lambda: "elsewhere")  # so that the list is another process's
    found = why("tiny-gkd")
    assert found.startswith("`tiny-gkd` is not finished yet: process ")
    assert " has not come to its stage `gkd`; models/tiny-gkd is written at the end of `tutelage run" in found


def test_a_recipe_that_lies_elsewhere_is_told_by_its_runs(here: Workshop) -> None:
    Path("recipe.yaml").unlink()
    begin("config.json")
    whose = f"no recipe here makes `tiny-sft`; runs/{RUN}, of a stage `sft`,"
    assert why("tiny-sft") == f"{whose} was stopped: `tutelage run` with its recipe goes on with it"
    begin("result.json")
    assert why("tiny-sft") == f"{whose} is done: give runs/{RUN} if it is that"
    assert find_model("tiny-gkd").path == "tiny-gkd"  # may be on the hub


def test_a_run_of_another_recipe_with_a_stage_of_that_name_is_not_its_run(here: Workshop) -> None:
    done = begin("config.json", "result.json", stage="gkd")  # of the recipe `tiny`
    here.rows("other", ROWS[:5])
    own = Path("recipe.yaml").read_text().replace("name: tiny", "name: one")
    Path("one.yaml").write_text(own.replace("path: train.jsonl", "path: other.jsonl"))
    assert why("one-gkd") == "`one-gkd` is not there yet: `tutelage run one.yaml` makes it"
    assert made_here() == (
        f"recipe.yaml makes tiny-gkd (done: give {done}), tiny-sft (not begun); one.yaml makes one-sft (not begun), "
        "one-gkd (not begun): `tutelage run` with its recipe makes one"
    )
    assert f"`tutelage run recipe.yaml`; its stage `gkd` is done: give {done} for now" in why("gkd")
    Path("models/tiny-gkd").mkdir(parents=True)
    assert why("gkd") == "models/ has no `gkd`: did you mean `models/tiny-gkd`?"
    assert why("one-gkd") == "`one-gkd` is not there yet: `tutelage run one.yaml` makes it"


def test_a_run_that_a_process_does_with_other_settings_is_its_recipes(here: Workshop) -> None:
    folder = Path("runs") / RUN
    folder.mkdir(parents=True)
    (folder / "lock").write_text(own_mark())
    assert why("tiny-sft") == "`tiny-sft` is not there yet: `tutelage run recipe.yaml` makes it"
    announce(Path("runs"), [{"folder": RUN}], "tiny")
    assert f" is at its stage `sft`, in {folder}; " in why("tiny-sft")


def test_names_of_runs_and_misspelt_names(here: Workshop) -> None:
    Path("runs", RUN).mkdir(parents=True)
    assert why(RUN) == f"models/ has no `{RUN}`, but runs/ has: give runs/{RUN}"
    assert why(f"runs/{RUN[:-1]}c").endswith(f"did you mean `runs/{RUN}`?")
    assert why("tiny-gdk") == "models/ has no `tiny-gdk`: did you mean `tiny-gkd`?"
    Path("models/tiny-sft").mkdir(parents=True)
    assert why("sft") == "models/ has no `sft`: did you mean `models/tiny-sft`?"
    Path("models/tiny-gkd-s0").mkdir()
    assert why("tiny-gkd") == "models/ has no `tiny-gkd`: did you mean `models/tiny-gkd-s0`?"
    for name in ("gpt2", "owner/tiny-sft", "tiny-scores-of-mine", "package:tiny"):
        assert find_model(name).path == name


def test_the_name_of_a_recipe_is_answered_with_all_its_models(here: Workshop) -> None:
    for stage in ("gkd", "sft"):
        Path("models", f"my-long-recipe-{stage}").mkdir(parents=True)
    assert why("my-long-recipe") == (
        "`my-long-recipe` is no model: models/my-long-recipe-gkd, models/my-long-recipe-sft are of that recipe; its "
        "report says which one to use"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["chat", "tiny-sft"],
        ["export", "tiny-sft"],
        ["serve-teacher", "tiny-sft"],
        ["evaluate", "--model", "tiny-sft", "--tasks", "ifeval"],
        ["evaluate", "recipe.yaml", "--model", "models/tiny-sft", "--tasks", "test"],
    ],
)
def test_every_command_that_takes_a_model_says_so(
    here: Workshop, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(command)
    assert capsys.readouterr().err == "tutelage: `tiny-sft` is not there yet: `tutelage run recipe.yaml` makes it\n"


def test_a_file_is_no_model(here: Workshop) -> None:
    assert why("recipe.yaml") == "recipe.yaml is a file and no model: give a folder, a name in models/ or a GGUF file"


def test_of_the_models_of_many_recipes_five_are_named_each_once(here: Workshop) -> None:
    own = Path("recipe.yaml").read_text()
    Path("copy.yaml").write_text(own)  # makes models of the same names
    for n in range(4):
        Path(f"r{n}.yaml").write_text(own.replace("name: tiny", f"name: r{n}"))
    said = made_here()
    assert (said.count("not begun"), said.count("tiny-sft")) == (5, 1)
    assert said.endswith(" (not begun) and 5 more: `tutelage run` with its recipe makes one")
    for name in ("tiny-sft", "r0-sft"):
        Path("models", name).mkdir(parents=True)
    assert "tiny-sft" not in made_here()  # `models` has it
    assert made_here().count("not begun") == 5


def test_a_name_that_nothing_has_is_answered_with_the_models_of_the_recipes_here(here: Workshop) -> None:
    def said(name: str) -> str:
        with pytest.raises(TutelageError) as caught:
            find_loadable(name)
        return str(caught.value)

    first = "no model is called `tiny`: recipe.yaml makes tiny-sft"
    assert said("tiny") == f"{first} (not begun), tiny-gkd (not begun): `tutelage run` with its recipe makes one"
    folder = begin("config.json")
    assert said("tiny").startswith(f"{first} (stopped), ")
    (folder / "lock").write_text(own_mark())
    assert said("tiny").startswith(f"{first} (at work), ")
    begin("result.json")
    assert said("tiny").startswith(f"{first} (done: give {folder}), ")
    Path("models/tiny-sft").mkdir(parents=True)
    there = "no model is called `tiny`: models/ has tiny-sft; recipe.yaml makes tiny-gkd (not begun)"
    assert said("tiny").startswith(there)
    assert said("owner/tiny").startswith("cannot load `owner/tiny`: it is no folder; models/ has tiny-sft; and ")


def test_a_recipe_that_reads_such_a_model_is_told(here: Workshop) -> None:
    config = load_recipe(here.write(teacher__path="models/other-sft"))
    here.write(name="other").rename("other.yaml")
    begin("config.json", recipe="other.yaml")
    plan = [Planner(config, here.folder, here.runs).evaluation("teacher", "test", 0)]
    said = [problem.text for problem in find_problems(plan, here.runs, network=False, data=False)]
    assert any(text.startswith("`other-sft` is not finished yet: ") for text in said), said
