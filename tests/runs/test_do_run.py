"""One run: what the trainer is given, what is written down, and going on after a stop."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes_fixture import ROWS, Workshop, save_tiny
from safetensors.torch import load_file

from tutelage.common import run_folder
from tutelage.common.errors import TutelageError
from tutelage.common.metrics_log import CLOCK_KEYS, read_metrics
from tutelage.data.dataset import load_dataset
from tutelage.data.encode_rows import encode_all
from tutelage.models.load import load_model
from tutelage.models.surgery.prune import perplexity
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.do_run import do_run
from tutelage.runs.fingerprints import refuse_changed
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run
from tutelage.training.trainer import Trainer

pytestmark = pytest.mark.slow


def planned(workshop: Workshop, name: str, seed: int = 0, **changes: Any) -> Run:
    return Planner(load_recipe(workshop.write(**changes)), workshop.folder, workshop.runs).stage_run(name, seed)


def gkd(**keys: Any) -> dict[str, Any]:
    return {"name": "gkd", "kind": "distill", "data": "train", "student": "base", "on_policy": 0.0, **keys}


def metrics(run: Run) -> list[dict[str, Any]]:
    lines = read_metrics(run.folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in lines]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "model" / "model.safetensors")


def test_a_finished_run_is_read_not_done(workshop: Workshop):
    run = planned(workshop, "sft")
    first = do_run(run)
    assert (first["stage"], first["kind"], first["seed"], first["fingerprint"]) == ("sft", "sft", 0, run.fingerprint)
    run_folder.finish(run.folder, first | {"extra": 5})
    assert do_run(run)["extra"] == 5


@pytest.mark.parametrize("what", ["data.train", "data.test", "student `"])
def test_a_file_that_changes_after_planning_is_never_used_silently(workshop: Workshop, what: str):
    shutil.copytree(workshop.models / "student", workshop.folder / "student")
    recipe = load_recipe(workshop.write(student__path=str(workshop.folder / "student")))
    plan = Planner(recipe, workshop.folder, workshop.runs)
    run = plan.evaluation("base", "test", 0) if what == "data.test" else plan.stage_run("sft", 0)
    if what.startswith("data."):
        workshop.rows(what.removeprefix("data."), ROWS[:6])
    else:
        save_tiny(workshop.folder / "student", layers=2, seed=7)
    with pytest.raises(TutelageError, match=f"{what}.*changed after this run was planned: run the same command"):
        do_run(run)
    assert not run.done


@pytest.mark.parametrize("declared", [False, True])
def test_local_files_of_a_model_on_the_hub_count_and_its_commit_does_not(
    workshop: Workshop, declared: bool, monkeypatch: pytest.MonkeyPatch
):
    """A study is planned without asking the hub; a hub that moves on, or is away, is no changed file."""
    commits = iter(range(100))
    monkeypatch.setattr("tutelage.models.files._hub_commit", lambda _: f"commit {next(commits)}")
    template, folder = workshop.folder / "mine.jinja", str(workshop.models / "student")
    template.write_text("{{ messages }}")
    stage = {"name": "sft", "kind": "sft", "data": "train"}

    def run_of(**model: str) -> Run:
        recipe = load_recipe(workshop.write(student=model, stages=[stage]))
        return Planner(recipe, workshop.folder, workshop.runs, declared=declared).stage_run("sft", 0)

    refuse_changed(run_of(path=folder, tokenizer="who/else"))
    refuse_changed(run_of(path="who/model"))
    run = run_of(path="who/model", chat_template=str(template))
    refuse_changed(run)
    template.write_text("{{ messages[0] }}")
    with pytest.raises(TutelageError, match="student `who/model`: its files changed after this run was planned"):
        refuse_changed(run)


def test_held_out_perplexity_is_that_of_the_models_before_and_after(workshop: Workshop):
    run = planned(workshop, "sft", training__validation="test", training__evaluate_every=3)
    result = do_run(run)
    for folder, key in ((workshop.models / "student", "before"), (run.folder / "model", "after")):
        loaded = load_model(ModelConfig(path=str(folder)))
        held_out = encode_all(loaded.template, load_dataset("test", run.data["test"], run.recipe_folder), 96)[0]
        expected = perplexity(loaded, held_out, torch.device("cpu"))
        assert result[f"perplexity_{key}"] == pytest.approx(expected, rel=1e-5)
    last = metrics(run)[-1]
    assert math.exp(last["validation_cross_entropy"]) == pytest.approx(result["perplexity_after"], rel=1e-6)


@pytest.mark.parametrize("ce_weight", [0.0, 0.25])
def test_a_distilled_model_has_its_divergence_from_the_teacher_before_and_after(workshop: Workshop, ce_weight: float):
    run = planned(workshop, "gkd", stages=[gkd(ce_weight=ce_weight)], training__validation="test",
                  training__evaluate_every=1)  # fmt: skip
    result, name = do_run(run), "validation_kd_loss" if ce_weight else "validation_loss"
    assert result["divergence_after"] == pytest.approx(metrics(run)[-1][name], rel=1e-6)
    assert 0 < result["divergence_before"] != result["divergence_after"]
    sft = planned(workshop, "sft", training__validation="test")
    assert "divergence_after" not in do_run(sft)


def test_rows_of_several_data_sets_stay_apart(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    """A row's number keys its chance to be on policy: two rows with one number would always go together."""
    seen: list[list[int]] = []
    run_trainer = Trainer.run

    def watched(self: Trainer) -> dict[str, Any]:
        seen.append([example.index for example in self.job.examples])
        return run_trainer(self)

    monkeypatch.setattr(Trainer, "run", watched)
    result = do_run(planned(workshop, "gkd", stages=[gkd(data=["train", "test"])]))
    assert seen == [list(range(16))]
    assert {name: report["rows"] for name, report in result["data"].items()} == {"train": 12, "test": 4}


def test_rows_left_out_keep_their_number(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    """Else rows of the next data set would share a number, and so their chance to be on policy, with these."""
    long = {"prompt": "The cat sat? " * 40, "completion": "The dog ran."}
    workshop.rows("train", [long, *ROWS])
    seen: list[list[int]] = []
    monkeypatch.setattr(Trainer, "run", lambda self: seen.append([e.index for e in self.job.examples]) or {})
    do_run(planned(workshop, "gkd", stages=[gkd(data=["train", "test"])], data__train__max_bad_rows=0.2))
    assert seen == [list(range(1, 17))]


@pytest.mark.parametrize(("name", "beta"), [("forward_kl", 0.0), ("reverse_kl", 1.0)])
def test_the_divergences_by_name_are_the_ends_of_jsd(workshop: Workshop, name: str, beta: float):
    named = planned(workshop, "gkd", stages=[gkd(divergence=name)])
    number = planned(workshop, "gkd", stages=[gkd(beta=beta)])
    assert named.folder != number.folder
    do_run(named)
    do_run(number)
    assert metrics(named) == metrics(number)
    first = metrics(named)[0]
    assert first["loss"] == pytest.approx(first[name], rel=1e-5)


def test_a_teacher_is_never_trained_and_its_own_copy_teaches_nothing(workshop: Workshop):
    run = planned(workshop, "gkd", stages=[gkd()], student__path=str(workshop.models / "teacher"))
    do_run(run)
    assert [line["loss"] for line in metrics(run)] == pytest.approx([0.0] * 3, abs=1e-6)
    assert metrics(run)[0]["agreement"] == 1.0


def test_padded_and_packed_do_not_mix(workshop: Workshop):
    run = planned(workshop, "gkd", stages=[gkd()], teacher__attention="padded", student__attention="packed")
    with pytest.raises(TutelageError, match="stage `gkd`: teacher and student need the same `attention`"):
        do_run(run)


def test_padded_attention_trains_to_the_same_weights(workshop: Workshop):
    changes = {"stages": [gkd(on_policy=0.5, sampling={"max_new_tokens": 6})]}
    packed = planned(workshop, "gkd", **changes)
    both = {"teacher__attention": "padded", "student__attention": "padded"}
    padded = planned(workshop, "gkd", **changes, **both)
    do_run(packed)
    do_run(padded)
    assert packed.folder != padded.folder
    after = weights(padded)
    assert all(torch.allclose(w, after[k], atol=1e-5) for k, w in weights(packed).items())


def test_a_stopped_run_goes_on_to_the_same_weights(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    changes = {"training__checkpoint_every": 2, "training__epochs": 2, "stages": [gkd(on_policy=0.5)]}
    changes["stages"][0]["sampling"] = {"max_new_tokens": 6}
    whole = planned(workshop, "gkd", **changes)
    do_run(whole)
    whole.folder.rename(workshop.folder / "whole")
    step = Trainer.step

    def killed(self: Trainer, number: int) -> dict[str, Any]:
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            do_run(whole)
    assert [p.name for p in (whole.folder / "checkpoints").glob("checkpoint-*")] == ["checkpoint-00000002"]
    assert not whole.done
    do_run(whole)
    resumed = weights(whole)
    unbroken = load_file(workshop.folder / "whole" / "model" / "model.safetensors")
    assert all(torch.equal(w, resumed[k]) for k, w in unbroken.items())
    assert not (whole.folder / "checkpoints").exists()


def test_rows_left_out_are_listed(workshop: Workshop):
    long = {"prompt": "The cat sat? " * 40, "completion": "The dog ran."}
    workshop.rows("train", [*ROWS, "{broken", long])
    run = planned(workshop, "sft", data__train__max_bad_rows=0.2)
    report = do_run(run)["data"]["train"]
    assert json.loads((run.folder / "data.json").read_text()) == {"train": report}
    assert (report["rows"], report["too_long"]) == (12, ["train.jsonl:14"])
    ((source, reason),) = report["bad_rows"]
    assert source == "train.jsonl:13"
    assert reason.startswith("broken JSON")


def test_pruning_keeps_the_weights_and_says_the_damage(workshop: Workshop):
    cut = {"name": "cut", "kind": "prune", "prune": {"layers": 2, "calibration": "test", "calibration_rows": 3}}
    run = planned(workshop, "cut", stages=[cut])
    result = do_run(run)
    old, new = load_file(workshop.models / "teacher" / "model.safetensors"), weights(run)
    for place, kept in enumerate(result["keep"]):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(new[name.format(place)], old[name.format(kept)])
    assert "model.layers.2.mlp.up_proj.weight" not in new
    for folder, key in ((workshop.models / "teacher", "before"), (run.folder / "model", "after")):
        loaded = load_model(ModelConfig(path=str(folder)))
        rows = encode_all(loaded.template, load_dataset("test", run.data["test"], run.recipe_folder), 1024)[0][:3]
        expected = perplexity(loaded, rows, torch.device("cpu"))
        assert result[f"perplexity_{key}"] == pytest.approx(expected, rel=1e-5)


def test_evaluations_hold_each_example(workshop: Workshop):
    planner = Planner(load_recipe(workshop.write()), workshop.folder, workshop.runs)
    result = do_run(planner.evaluation("lead_1", "test", 0))
    folder: Path = planner.evaluation("lead_1", "test", 0).folder
    records = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    assert [r["id"] for r in records] == ["r0", "r1", "r2", "r3"]
    assert records[0]["response"] == "The dog sat?"
    # "the dog" of "the dog sat" against "the dog ran 0": precision 2/3, recall 2/4
    assert records[0]["scores"]["rouge_l"] == pytest.approx(4 / 7)
    assert result["metrics"]["rouge_l"]["value"] == pytest.approx(25 * sum(r["scores"]["rouge_l"] for r in records))


def test_tokens_that_the_teacher_does_not_know_are_one_line(workshop: Workshop):
    from chat_templates import CHATML, tokenizer

    small, words = workshop.folder / "small", tokenizer(CHATML)
    end = words.convert_tokens_to_ids("<|im_end|>")
    save_tiny(small, layers=2, seed=2, padding=end - len(words))  # without the token that ends the student's turns
    run = planned(workshop, "gkd", stages=[gkd()], teacher__path=str(small))
    with pytest.raises(
        TutelageError, match=r"data.train: train.jsonl:1: has token \d+ `.*`, and the embedding of the teacher `"
    ) as error:
        do_run(run)
    assert "\n" not in str(error.value)


def test_a_longer_head_of_the_teacher_is_cut(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    save_tiny(workshop.folder / "padded", layers=2, seed=2, padding=13)
    run = planned(workshop, "gkd", stages=[gkd()], teacher__path=str(workshop.folder / "padded"))
    do_run(run)
    assert "gkd: heads are cut to their common" in capsys.readouterr().out
    assert all(math.isfinite(line["loss"]) for line in metrics(run))
