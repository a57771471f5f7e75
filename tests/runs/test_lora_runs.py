"""Recipes with `lora`: what is planned, trained, saved, gone on with, searched, scored and delivered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_recipe import GKD, TWO
from recipes_fixture import ROWS, Workshop
from safetensors.torch import load_file

pytest.importorskip("peft", reason="peft is not installed: pip install 'tutelage[lora]'")

from tutelage.common.errors import TutelageError
from tutelage.common.metrics_log import CLOCK_KEYS, read_metrics
from tutelage.models.load import load_model
from tutelage.models.surgery.lora import add_adapter, load_adapter
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import LoraConfig, ModelConfig
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run, adapter_line, frozen_base, with_parents
from tutelage.runs.worker import attempt

SFT: dict[str, Any] = {"name": "sft", "kind": "sft", "data": "train"}
DISTIL: dict[str, Any] = {
    "name": "gkd", "kind": "distill", "data": "train", "sampling": {"max_new_tokens": 6}, "on_policy": 0.5
}  # fmt: skip
IDS = torch.randint(5, 90, (2, 12), generator=torch.Generator().manual_seed(0))


def planned(workshop: Workshop, name: str, **changes: Any) -> Run:
    changes = {"student__lora": {"r": 4}, "training__learning_rate": 0.01} | changes
    return Planner(load_recipe(workshop.write(**changes)), workshop.folder, workshop.runs).stage_run(name, 0)


def done(run: Run) -> dict[str, Any]:
    for one in with_parents([run]):
        result = do_run(one)
    return result


def logits(path: Path | str) -> torch.Tensor:
    return load_model(ModelConfig(path=str(path), attention="padded")).model(IDS).logits


def metrics(run: Run) -> list[dict[str, Any]]:
    lines = read_metrics(run.folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in lines]


# --- plans ------------------------------------------------------------------------------------------------------------


def test_which_stages_train_an_adapter(workshop: Workshop):
    stages = [{**SFT, "name": "teacher_sft", "student": "teacher"}, SFT, {**DISTIL, "teacher": "teacher_sft"}]
    plain = planned(workshop, "gkd", student__lora=None, stages=stages)
    run = planned(workshop, "gkd", stages=stages)
    sft, teacher_sft = run.parents
    assert [one.lora for one in (run, sft, teacher_sft)] == [LoraConfig(r=4), LoraConfig(r=4), None]
    assert teacher_sft.fingerprint == plain.parents[1].fingerprint
    assert sft.fingerprint != plain.parents[0].fingerprint
    assert planned(workshop, "gkd", stages=stages, student__lora={"r": 8}).fingerprint != run.fingerprint
    assert [one.stage for one in adapter_line(run)] == ["gkd", "sft"]
    assert frozen_base(run).path == str(workshop.models / "student")
    both = planned(workshop, "gkd", stages=stages, teacher__lora={"r": 2})
    assert both.parents[1].lora == LoraConfig(r=2)


def test_a_base_is_scored_once_with_and_without_an_adapter(workshop: Workshop):
    keys = [
        Planner(load_recipe(workshop.write(student__lora=one)), workshop.folder, workshop.runs)
        .evaluation("base", "test", 0)
        .fingerprint
        for one in ({"r": 4}, None)
    ]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student__lora": {"r": 0}}, "student.lora.r"),
        ({"student__lora": {"rank": 4}}, "unknown key `rank`"),
        ({"student__lora": {"targets": []}}, "student.lora.targets"),
        ({"student__precision": "int8"}, "student.precision: is for teachers"),
        ({"search": {"grid": {"lora.r": [0]}, "task": "test"}}, "search.grid.lora.r"),
        ({"search": {"grid": {"lora.r": [2]}, "task": "test"}, "student__lora": None}, "set `student.lora`"),
    ],
)
def test_wrong_keys_are_named(workshop: Workshop, changes: dict[str, Any], message: str):
    with pytest.raises(TutelageError) as error:
        load_recipe(workshop.write(**({"student__lora": {"r": 4}} | changes)))
    assert message in str(error.value)


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stage_goes_on_with_the_adapter_of_the_one_before(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    """Two stages with one adapter: the second starts where the first ended, on the same frozen weights."""
    run = planned(workshop, "gkd", stages=[SFT, DISTIL])
    result = done(run)
    (sft,) = run.parents
    out = capsys.readouterr().out
    assert "sft: trains a new adapter" in out
    assert "gkd: goes on with the adapter of `sft`" in out
    assert result["adapter"]["trained"] == sum(
        w.numel() for w in load_file(run.folder / "adapter" / "adapter_model.safetensors").values()
    )
    config = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(workshop.models / "student")
    for one in (sft, run):  # the merged model is the base with the adapter
        assert (logits(one.folder / "model") - logits(one.folder / "adapter")).abs().max() < 1e-5
    assert (logits(sft.folder / "model") - logits(workshop.models / "student")).abs().max() > 0.01
    # with other settings it starts a new adapter on the merged weights
    stages = [SFT, {**DISTIL, "on_policy": 0.0}]
    other = Planner(load_recipe(workshop.write(student__lora={"r": 4}, stages=stages)), workshop.folder, workshop.runs)
    trial = other.stage_run("gkd", 0, {"lora.r": 2})
    assert (trial.lora, trial.parents[0].lora) == (LoraConfig(r=2), LoraConfig(r=4))
    assert frozen_base(trial).path == str(trial.parents[0].folder / "model")
    done(trial)
    assert "gkd: trains a new adapter" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("stage", [SFT, DISTIL, {**DISTIL, "kind": "seqkd", "name": "seqkd"}, "policy_gradient"])
def test_a_kept_adapter_and_a_merged_model_are_one_model(workshop: Workshop, stage: Any):
    """For every kind that trains; `seqkd` without the keys of `distill`."""
    if stage == "policy_gradient":
        stage = {**DISTIL, "kind": "method", "name": "pg", "method": "policy_gradient"}
    stage = {k: v for k, v in stage.items() if not (k == "on_policy" and stage["kind"] == "seqkd")}
    stage = stage if stage["kind"] == "sft" else {**stage, "student": "base"}
    merged = planned(workshop, stage["name"], stages=[stage])
    kept = planned(workshop, stage["name"], stages=[stage], student__lora={"r": 4, "keep_adapter": True})
    done(merged)
    done(kept)
    assert metrics(merged) == metrics(kept)
    assert sorted(p.name for p in (kept.folder / "model").glob("*.safetensors")) == ["adapter_model.safetensors"]
    assert not (kept.folder / "adapter").exists()
    assert (logits(kept.folder / "model") - logits(merged.folder / "model")).abs().max() < 1e-5
    again = planned(
        workshop, "more", student__lora={"r": 4, "keep_adapter": True},
        stages=[stage, {**SFT, "name": "more", "student": stage["name"]}],
    )  # fmt: skip
    done(again)
    assert (logits(again.folder / "model") - logits(kept.folder / "model")).abs().max() > 1e-3


@pytest.mark.slow
def test_a_teacher_that_is_the_base_is_held_once(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Self-distillation of an SFT adapter from its base: shared weights train as a second copy does."""
    from tutelage.runs.stages import teacher as stage

    stages = [SFT, {**DISTIL, "teacher": "teacher"}]
    same = {"teacher": {"path": str(workshop.models / "student")}, "stages": stages}
    run = planned(workshop, "gkd", **same)
    assert done(run)["adapter"]["shared_base"]
    assert "the teacher is the student's frozen base: its weights are held once" in capsys.readouterr().out
    monkeypatch.setattr(stage, "_same_weights", lambda *_: False)
    monkeypatch.setattr(workshop, "folder", workshop.folder)
    apart = Planner(load_recipe(workshop.write(student__lora={"r": 4}, training__learning_rate=0.01, **same)),
                    workshop.folder, workshop.folder / "apart").stage_run("gkd", 0)  # fmt: skip
    assert not done(apart)["adapter"]["shared_base"]
    assert metrics(run) == metrics(apart)
    assert torch.equal(logits(run.folder / "model"), logits(apart.folder / "model"))


@pytest.mark.slow
def test_copies_of_a_model_are_the_same_weights(workshop: Workshop, tmp_path: Path):
    import shutil

    from tutelage.runs.stages.teacher import _same_weights

    copied = shutil.copytree(workshop.models / "student", tmp_path / "copy")
    (copied / "chat_template.jinja").write_text("{{ messages }}")
    student, teacher = (ModelConfig(path=str(workshop.models / name)) for name in ("student", "teacher"))
    assert _same_weights(student, ModelConfig(path=str(copied)))
    assert not _same_weights(student, teacher)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_search_over_rank_scale_and_rate(workshop: Workshop, done: list[str]):
    from tutelage.cli.main import main

    grid = {"lora.r": [2, 4], "lora.alpha": [8], "learning_rate": [0.01, 0.001]}
    stages = [
        {**SFT, "name": "teacher_sft", "student": "teacher", "search": True},
        {**SFT, "search": True},
        {"name": "scores", "kind": "evaluate", "models": ["sft"], "tasks": ["test"]},
    ]
    search = {"grid": grid, "task": "test"}
    file = workshop.write(student__lora={"r": 16}, search=search, stages=stages)
    main(["run", str(file), "--runs", str(workshop.runs)])
    assert (done.count("sft"), done.count("teacher_sft")) == (4, 2)  # the teacher has no adapter to search
    ranks = {json.loads((f / "config.json").read_text())["lora"]["r"] for f in workshop.runs.glob("sft-s0-*")}
    assert ranks == {2, 4}
    page = next(workshop.folder.rglob("report.html")).read_text()
    assert "lora.r" in page
    assert re.search(
        r"sft: weights trained.*[24],[0-9]{3} of a LoRA adapter \(r = [24], α = 8, on all linear maps\)", page, re.S
    )
    card = (workshop.folder / "models" / "tiny-sft" / "README.md").read_text()
    assert re.search(
        r"What was trained is a LoRA adapter \(r = [24], α = 8, on all linear maps\), added to the weights", card
    )
    assert "keep_adapter: false" in card


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
def test_two_ranks_share_a_base_and_an_adapter(workshop: Workshop, warm_children: None, keep: bool):
    workshop.rows("train", ROWS)
    found = []
    for name, extra, share in (("one", {}, None), ("two", {"shard": True}, TWO)):
        training = GKD["training"] | {"max_steps": 3, "learning_rate": 0.01} | extra
        lora = {"r": 4, "keep_adapter": keep}
        recipe = load_recipe(workshop.write(stages=[{**GKD, "training": training}], student__lora=lora))
        run = Planner(recipe, workshop.folder, workshop.folder / name).stage_run("gkd", 0)
        assert attempt(run, **({} if share is None else {"share": share})) is None, (run.folder / "log.txt").read_text()
        found.append(logits(run.folder / "model"))
    assert (found[0] - found[1]).abs().max() < 1e-4


@pytest.mark.slow
def test_a_mixture_trains_says_what_has_no_adapter_and_is_saved_whole(workshop: Workshop, capsys: Any):
    import shutil

    from transformers import AutoConfig, MixtralConfig, MixtralForCausalLM

    folder = Path(shutil.copytree(workshop.models / "student", workshop.folder / "mixture"))
    keys = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    of_student = {key: getattr(AutoConfig.from_pretrained(folder), key) for key in keys}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_local_experts": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    MixtralForCausalLM(MixtralConfig(**of_student, **sizes, **heads)).save_pretrained(folder)
    run = planned(workshop, "sft", student__path=str(folder), stages=[SFT])
    (notice,) = done(run)["notices"]
    assert "weights get no adapter and stay as they are" in notice
    assert notice.partition(": ")[2] in capsys.readouterr().out
    assert (logits(run.folder / "model") - logits(run.folder / "adapter")).abs().max() < 1e-4


# --- four and eight bits ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_adapter_on_four_bits_beside_a_teacher_in_eight(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    """QLoRA, SFT then GKD: the second stage goes on with the adapter, for its weights would be rounded again."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'tutelage[quant]'")
    pytest.importorskip("torchao", reason="torchao is not installed: pip install 'tutelage[quant]'")
    same = {"student__lora": {"r": 4, "base": "nf4"}, "teacher__precision": "int8", "stages": [SFT, DISTIL]}
    run = planned(workshop, "gkd", **same)
    result = done(run)
    said = capsys.readouterr().out
    assert "gkd: goes on with the adapter of `sft`" in said
    assert f"gkd: {result['teacher_precision']['text']}" in said
    assert result["teacher_precision"]["precision"] == "int8"
    assert 0.0 < result["teacher_precision"]["share"] < 0.1
    assert result["notices"] == []
    # The saved model is the four-bit weights' numbers with the adapter added: those of peft on the same base.
    base = load_model(ModelConfig(path=str(workshop.models / "student"), precision="nf4")).model
    add_adapter(base, LoraConfig(r=4), 0)
    load_adapter(base, run.folder / "adapter")
    assert (logits(run.folder / "model") - base(IDS).logits).abs().max() < 1e-4
    assert (logits(run.folder / "model") - logits(run.folder / "adapter")).abs().max() > 1e-3
    four = {"teacher__path": str(workshop.models / "student"), "teacher__precision": "nf4"}
    again = planned(workshop, "gkd", **(same | four))
    assert done(again)["adapter"]["shared_base"]


@pytest.mark.slow
def test_precision_leaves_other_runs_alone(workshop: Workshop):
    def runs(precision: str | None) -> dict[str, str]:
        stages = [
            {**SFT, "name": "teacher_sft", "student": "teacher"}, SFT, {**DISTIL, "teacher": "teacher_sft"},
            {"name": "cut", "kind": "prune", "prune": {"layers": 2, "method": "even"}},
        ]  # fmt: skip
        recipe = load_recipe(workshop.write(teacher__precision=precision, stages=stages))
        planner = Planner(recipe, workshop.folder, workshop.runs)
        found = {stage.name: planner.stage_run(stage.name, 0) for stage in recipe.stages}
        found |= {f"{name} on test": planner.evaluation(name, "test", 0) for name in ("teacher_sft", "sft", "cut")}
        assert found["gkd"].models["teacher"].precision == (None if precision == "bfloat16" else precision)
        assert found["cut on test"].models["model"].precision is None  # a cut makes a student of it
        return {name: run.fingerprint for name, run in found.items()}

    plain, bfloat16, four = runs(None), runs("bfloat16"), runs("nf4")
    assert plain == bfloat16
    assert {name for name in plain if plain[name] != four[name]} == {"gkd", "teacher_sft on test"}


# --- what one does with it --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_kept_adapter_is_talked_to_scored_and_exported(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from tutelage.cli.main import main

    monkeypatch.chdir(workshop.folder)
    stages = [SFT, {"name": "scores", "kind": "evaluate", "models": ["base", "sft"], "tasks": ["test"]}]
    workshop.write(student__lora={"r": 4, "keep_adapter": True}, training__learning_rate=0.01, stages=stages)
    main(["run", "recipe.yaml"])
    (run,) = workshop.runs.glob("sft-s0-*")
    card = (workshop.folder / "models" / "tiny-sft" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "kept apart from its base, which it names" in card
    main(["export", "tiny-sft"])
    assert (workshop.folder / "exports" / "tiny-sft" / "adapter_config.json").is_file()
    main(["export", "tiny-sft", "--merge", "--out", "whole"])
    assert not (workshop.folder / "whole" / "adapter_config.json").exists()
    assert torch.equal(logits("whole"), logits(run / "model"))
    (workshop.folder / "questions.txt").write_text("The cat sat?\n")
    said = []
    for name in ("whole", "tiny-sft"):
        capsys.readouterr()
        with (workshop.folder / "questions.txt").open() as questions:
            monkeypatch.setattr("sys.stdin", questions)
            main(["chat", name, "--max-new-tokens", "6"])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != ""


def test_a_missing_package_is_named_before_the_first_run(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    from tutelage.runs.preflight import find_problems

    run = planned(workshop, "gkd", student__lora={"r": 4, "base": "nf4"}, teacher__precision="int8")
    for package in ("peft", "torchao", "bitsandbytes"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    texts = [problem.text for problem in find_problems([run], workshop.runs, network=False)]
    assert texts.count("`lora` needs peft: pip install 'tutelage[lora]'") == 1
    for name, package in (("nf4", "bitsandbytes"), ("int8", "torchao")):
        assert f"`{name}` needs {package}: pip install 'tutelage[quant]'" in texts
