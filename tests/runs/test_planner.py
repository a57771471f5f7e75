"""Recipes: overrides, the paper's defaults, what a stage is given, and what its fingerprint depends on."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes_fixture import ROWS, Workshop, save_tiny

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.models.files import model_fingerprint
from tutelage.recipe.load import default_student, load_recipe
from tutelage.recipe.sections import DataConfig, ModelConfig, TrainingConfig
from tutelage.recipe.stages import DistillStage, SftStage
from tutelage.recipe.study import BenchmarkTask, HeldOutTask
from tutelage.runs.fingerprints import _NOT_CONTENT, METHOD_VERSION, _code_of, evaluation_fingerprint, stage_fingerprint
from tutelage.runs.planner import Planner

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "src" / "tutelage" / "cli").rglob("*.yaml")])
# Studies and their templates are read by tests/study/test_grid.py.
RECIPES = [file for file in FILES if "\nstages:" in (text := file.read_text()) and "<teacher>" not in text]


def planner(workshop: Workshop, *overrides: str, **changes: Any) -> Planner:
    return Planner(load_recipe(workshop.write(**changes), list(overrides)), workshop.folder, workshop.runs)


# --- reading -----------------------------------------------------------------------------------------------------


def test_overrides_reach_sections_stages_and_new_keys(workshop: Workshop):
    recipe = load_recipe(
        workshop.write(),
        ["training.epochs=3", "stages.gkd.beta=0.1", "stages.sft.training.schedule=cosine", "seeds=[4, 5]", "name=b"],
    )
    sft, gkd = recipe.stages[0], recipe.stages[1]
    assert isinstance(sft, SftStage)
    assert isinstance(gkd, DistillStage)
    assert (recipe.training.epochs, gkd.beta, recipe.seeds, recipe.name) == (3, 0.1, [4, 5], "b")
    assert recipe.training_of(sft).schedule == "cosine"
    assert recipe.training_of(gkd).schedule == "linear"


def test_a_later_override_wins_and_the_file_is_left_alone(workshop: Workshop):
    file = workshop.write()
    before = file.read_bytes()
    assert load_recipe(file, ["training.epochs=3", "training.epochs=7"]).training.epochs == 7
    assert file.read_bytes() == before


def test_stage_keys_lie_over_the_recipe_and_found_settings_over_both(workshop: Workshop):
    recipe = load_recipe(
        workshop.write(training__epochs=3, training__weight_decay=0.5, stages__0__training={"epochs": 4})
    )
    (sft, *_) = recipe.stages
    assert isinstance(sft, SftStage)
    merged = recipe.training_of(sft, {"learning_rate": 0.25})
    assert (merged.epochs, merged.weight_decay, merged.learning_rate) == (4, 0.5, 0.25)


def test_defaults_are_those_of_the_papers_appendix():
    training = TrainingConfig()
    assert training.learning_rate == 5e-6
    assert (training.batch_size, training.epochs, training.max_length) == (128, 2, 4096)
    assert (training.schedule, training.warmup_ratio) == ("linear", 0.03)
    assert (training.reduction, training.precision) == ("token", "auto")
    stage = DistillStage(name="gkd", kind="distill", data="train")
    assert (stage.beta, stage.on_policy, stage.divergence, stage.temperature) == (0.5, 0.5, "jsd", 1.0)
    assert (stage.sampling.temperature, stage.sampling.top_p) == (1.0, 1.0)


def test_anchors_and_merge_keys_are_not_keys_given_twice(workshop: Workshop):
    file = workshop.write()
    section = "  a: &a {path: x.jsonl, size: 5}\n  b: &b {<<: *a, size: 6}\n  c: {<<: *b, path: y.jsonl}\n"
    file.write_text(file.read_text().replace("data:\n", f"data:\n{section}", 1))
    data = load_recipe(file).data
    assert [(data[k].path, data[k].size) for k in "abc"] == [("x.jsonl", 5), ("x.jsonl", 6), ("y.jsonl", 6)]
    file.write_text(file.read_text().replace("{path: x.jsonl, size: 5}", "{path: x.jsonl, size: 5, size: 7}"))
    with pytest.raises(TutelageError, match=r"recipe\.yaml:\d+: .*`size` is given twice"):
        load_recipe(file)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_projects_own_recipes_load_and_fit_the_schema(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    recipe = load_recipe(file)
    assert recipe.name in (file.parent.name if file.stem == "recipe" else file.stem, f"{file.parent.name}_{file.stem}")
    main(["schema"])
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["required"]) == {"name", "data", "teacher", "student", "stages"}
    if importlib.util.find_spec("jsonschema") is None:
        return
    import jsonschema

    content = yaml.safe_load(file.read_text())
    jsonschema.validate(content, schema)
    content["trianing"] = {}
    with pytest.raises(jsonschema.ValidationError, match="trianing"):
        jsonschema.validate(content, schema)


def test_there_are_recipes():
    assert {"recipe", "dialogsum"} <= {file.stem for file in RECIPES}


# --- what a stage is given ------------------------------------------------------------------------------------------


def stage(name: str, kind: str = "sft", **keys: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "data": "train", **keys}


def cut(name: str, model: str) -> dict[str, Any]:
    return {"name": name, "kind": "prune", "model": model, "prune": {"keep": [0, 1]}}


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ([], "base"),
        ([stage("a")], "a"),
        ([stage("a"), stage("b", student="a")], "b"),
        ([stage("a"), stage("t", student="teacher")], "a"),
        ([stage("t", student="teacher"), stage("t2", student="t")], "base"),
        ([stage("a"), stage("k", "distill")], "a"),  # not itself an SFT
        ([cut("c", "teacher"), stage("heal", student="c")], "heal"),  # made from the teacher, yet a student
        ([stage("t", student="teacher"), cut("c", "t"), stage("heal", student="c")], "heal"),
    ],
)
def test_distill_starts_from_the_latest_sft_of_the_student(
    workshop: Workshop, before: list[dict[str, Any]], expected: str
):
    plan = planner(workshop, stages=[*before, stage("gkd", "distill"), stage("later")])
    assert default_student(plan.recipe, "gkd") == expected
    run = plan.stage_run("gkd", 0)
    assert [p.stage for p in run.parents] == ([] if expected == "base" else [expected])
    trained = run.parents[0].folder / "model" if run.parents else workshop.models / "student"
    assert run.models["student"].path == str(trained)
    assert run.models["teacher"].path == str(workshop.models / "teacher")


def test_the_base_student_may_be_made_by_a_stage(workshop: Workshop):
    plan = planner(workshop, student="heal", stages=[cut("c", "teacher"), stage("heal", student="c"), stage("next")])
    run = plan.stage_run("next", 0)
    assert [p.stage for p in run.parents] == ["heal"]
    assert [p.stage for p in run.parents[0].parents] == ["c"]


def test_epochs_of_is_the_sum_of_what_the_named_stages_chose(workshop: Workshop):
    stages = [
        stage("sft", training={"epochs": 3}),
        stage("gkd", "distill"),
        stage("long", epochs_of=["sft", "gkd"]),
        stage("longer", epochs_of=["long", "sft"]),
    ]
    plan = planner(workshop, stages=stages, training__epochs=2)
    assert plan.settings("long") == {"epochs": 5}
    assert plan.settings("longer") == {"epochs": 8}
    plan.choices["gkd"] = {"epochs": 8, "learning_rate": 0.5}
    run = plan.stage_run("long", 0)
    assert run.training is not None
    assert (run.training.epochs, run.training.learning_rate) == (11, 0.001)


def test_shared_stages_run_with_the_first_seed_alone(workshop: Workshop):
    plan = planner(workshop, seeds=[7, 8], stages__0__shared=True)
    assert plan.stage_run("sft", 7) is plan.stage_run("sft", 8)
    assert plan.stage_run("sft", 8).seed == 7
    gkd = plan.stage_run("gkd", 8)
    assert (gkd.seed, gkd.parents[0].seed) == (8, 7)
    assert gkd.fingerprint != plan.stage_run("gkd", 7).fingerprint


# --- fingerprints ---------------------------------------------------------------------------------------------------


def fingerprints(workshop: Workshop, *overrides: str, seed: int = 0, **changes: Any) -> tuple[str, str, str]:
    """Fingerprints of the SFT, of the distillation that builds on it, and of the distilled model's evaluation."""
    plan = planner(workshop, *overrides, **changes)
    names = [s.name for s in plan.recipe.stages]
    runs = [plan.stage_run(name, seed) for name in names[:2]]
    return runs[0].fingerprint, runs[1].fingerprint, plan.evaluation(names[1], "test", seed).fingerprint


def test_equal_content_has_equal_fingerprints(workshop: Workshop):
    first = fingerprints(workshop)
    assert len({*first}) == 3
    file = workshop.folder / "recipe.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(dict(reversed(content.items())), default_flow_style=True))
    plan = Planner(load_recipe(file), workshop.folder, workshop.folder / "elsewhere")
    assert plan.stage_run("gkd", 0).fingerprint == first[1]


@pytest.mark.parametrize(
    "override",
    [
        "stages.sft.label=Better",
        "stages.gkd.label=Better",
        "training.checkpoint_every=7",
        "training.tokens_per_micro_batch=64",
        "training.gradient_checkpointing=true",
        "training.shard=true",
        "description=words",
        "name=other",
        "stages.sft.training.epochs=1",  # what it is anyway
        "stages.gkd.signal.served=http://localhost:8700",  # the same teacher
        "stages.gkd.signal.wait=9",
        "stages.gkd.signal.cache=exact",
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_fingerprint(workshop: Workshop, override: str):
    assert fingerprints(workshop) == fingerprints(workshop, override)


@pytest.mark.parametrize("kind", ["distill", "seqkd", "synthesize"])
def test_plain_text_asks_for_no_answers(workshop: Workshop, kind: str):
    workshop.recipe["data"]["train"]["text"] = "{prompt}"
    own = {"gold": "train", "rows": 3} if kind == "synthesize" else {"data": "train"}
    file = workshop.write(stages=[{"name": "made", "kind": kind, **own}])
    with pytest.raises(TutelageError, match=r"`data\.train` is plain text: give it data with prompts"):
        load_recipe(file)
    if kind == "distill":
        stages = [{"name": "made", "kind": kind, **own, "on_policy": 0.0}]
        load_recipe(workshop.write(stages=stages))
        with pytest.raises(TutelageError, match=r"task `test` needs prompts, and `data\.train` is plain text"):
            load_recipe(workshop.write(stages=stages, tasks__test__data="train"))


def test_a_key_that_came_later_leaves_fingerprints_as_they_were():
    config, younger = DataConfig(path="x.jsonl"), {"text", "messages", "distinct", "order"}
    assert config.content("path") == config.model_dump(mode="json", exclude={"path", *younger})
    assert DataConfig(path="x.jsonl", text="{a}").content()["text"] == "{a}"
    assert DataConfig(path="x.jsonl", messages="chosen").content()["messages"] == "chosen"
    later = ("thinking", "lora", "precision", "tensor_parallel")
    model = {key: field.default for key, field in ModelConfig.model_fields.items() if key not in later} | {"path": "m"}
    assert fingerprint(ModelConfig(path="m")) == fingerprint(model)
    assert fingerprint(ModelConfig(path="m", precision="bfloat16")) == fingerprint(model)
    assert fingerprint(ModelConfig(path="m", thinking=False)) == fingerprint(model | {"thinking": False})


def test_keys_of_a_benchmark_that_came_later_count_only_if_set():
    task = BenchmarkTask(benchmark="arc_challenge")
    before = task.model_dump(mode="json", exclude={"prompt", "group", "max_new_tokens"}) | {"judge_model": None}
    expected = fingerprint(METHOD_VERSION, "benchmark", before, 0, {}, [_code_of("chat_template")], "cpu")
    assert evaluation_fingerprint("benchmark", task, 0, {}, [], "cpu") == expected
    for own in ({"prompt": "{question}"}, {"group": "test"}, {"max_new_tokens": 9}):
        changed = task.model_copy(update=own)
        assert evaluation_fingerprint("benchmark", changed, 0, {}, [], "cpu") != expected


def test_a_signal_counts_if_it_changes_the_numbers(workshop: Workshop):
    _, plain, _ = fingerprints(workshop)
    keys = ["cache=bfloat16", "cache=top_k", "openai=http://here/v1"]
    rounded, few, endpoint = (fingerprints(workshop, f"stages.gkd.signal.{key}")[1] for key in keys)
    assert len({plain, rounded, few}) == 3
    assert few == endpoint  # the same likeliest tokens, wherever they come from
    assert fingerprints(workshop, "stages.gkd.signal.cache=top_k", "stages.gkd.signal.top_k=5")[1] != few


def test_ce_weight_counts_only_if_it_is_set(workshop: Workshop):
    """The digest of a stage is what it was before the key existed."""
    stage = planner(workshop).stages["gkd"]
    before = stage.model_dump(exclude={*_NOT_CONTENT, "ce_weight"})
    expected = fingerprint(METHOD_VERSION, before, None, 0, {}, [], "cpu")
    assert stage_fingerprint(stage, None, 0, {}, [], "cpu") == expected
    given = stage.model_copy(update={"ce_weight": 0.5})
    assert stage_fingerprint(given, None, 0, {}, [], "cpu") != expected


def test_a_stages_own_name_does_not_change_its_fingerprint(workshop: Workshop):
    before = fingerprints(workshop)
    assert fingerprints(workshop, stages__1__name="two", stages__2__models=["two"]) == before
    assert fingerprints(workshop, stages__0__name="one", stages__2__models=["one"]) == before


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("training.learning_rate=0.002", (True, True, True)),
        ("training.epochs=2", (True, True, True)),
        ("stages.sft.training.epochs=2", (True, True, True)),  # what a stage builds on counts
        ("stages.gkd.beta=0.1", (False, True, True)),
        ("stages.gkd.ce_weight=0.1", (False, True, True)),
        ("stages.gkd.on_policy=0.1", (False, True, True)),
        ("stages.gkd.sampling.temperature=0.5", (False, True, True)),
        ("stages.gkd.divergence=reverse_kl", (False, True, True)),
        ("stages.gkd.student=base", (False, True, True)),
        ("data.train.size=5", (True, True, True)),
        ("data.test.size=3", (False, False, True)),
        ("tasks.test.sampling.max_new_tokens=5", (False, False, True)),
    ],
)
def test_what_changes_the_result_changes_the_fingerprint(
    workshop: Workshop, override: str, changed: tuple[bool, bool, bool]
):
    pairs = zip(fingerprints(workshop), fingerprints(workshop, override), strict=True)
    assert tuple(a != b for a, b in pairs) == changed


def test_seed_data_and_weights_change_the_fingerprint(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    first = fingerprints(workshop)
    assert all(a != b for a, b in zip(first, fingerprints(workshop, seed=1), strict=True))

    workshop.rows("train", [*ROWS[:-1], ROWS[-1] | {"completion": "The dog ran! 2"}])
    assert all(a != b for a, b in zip(first, fingerprints(workshop), strict=True))
    workshop.rows("train", ROWS)
    assert fingerprints(workshop) == first

    shutil.copytree(workshop.models / "teacher", workshop.folder / "teacher")
    same = fingerprints(workshop, teacher__path=str(workshop.folder / "teacher"))
    save_tiny(workshop.folder / "teacher", layers=4, seed=9)
    other = fingerprints(workshop, teacher__path=str(workshop.folder / "teacher"))
    assert (same[0], other[0]) == (first[0], first[0])
    assert same[1] != other[1]

    monkeypatch.setattr("tutelage.runs.fingerprints.METHOD_VERSION", METHOD_VERSION + 1)
    assert all(a != b for a, b in zip(first, fingerprints(workshop), strict=True))


def test_the_files_that_a_model_section_names_change_the_fingerprint(workshop: Workshop):
    template, tokens = workshop.folder / "chat.jinja", workshop.folder / "tokens"
    own = workshop.models / "student" / "chat_template.jinja"
    shutil.copy(own, template)
    shutil.copytree(workshop.models / "student", tokens)
    keys: list[tuple[str, Path, Path]] = [
        ("chat_template", template, template),
        ("tokenizer", tokens, tokens / own.name),
    ]
    for key, path, file in keys:
        changes = {f"student__{key}": str(path)}
        first = fingerprints(workshop, **changes)
        file.write_text(own.read_text() + " ")
        assert all(a != b for a, b in zip(first, fingerprints(workshop, **changes), strict=True))


@pytest.mark.parametrize(("file", "changed"), [("vocab.txt", True), ("code.py", False)])
def test_other_files_of_a_folder_change_the_fingerprint_if_they_are_read(tmp_path: Path, file: str, changed: bool):
    save_tiny(tmp_path, layers=1, seed=0)
    (tmp_path / "tokenizer.json").unlink()
    config = ModelConfig(path=str(tmp_path))
    trusted = ModelConfig(path=str(tmp_path), trust_remote_code=True)
    first, with_code = model_fingerprint(config), model_fingerprint(trusted)
    (tmp_path / file).write_text("a")
    assert (model_fingerprint(config) != first) == changed
    assert model_fingerprint(trusted) != with_code


OTHER = {  # another value of every key of a model section
    "path": "student_b", "revision": "v2", "tokenizer": "student_b", "chat_template": "tulu", "thinking": True,
    "attention": "padded", "trust_remote_code": True, "lora": {"r": 4}, "precision": "int8",
}  # fmt: skip
# Runs that a key leaves as they are: an adapter counts where one is trained, a precision where the model is not cut.
SAME = {("student", "lora"): ["cut", "evaluate", "benchmark", "held_out"], ("teacher", "precision"): ["cut"]}
SAME["teacher", "lora"] = ["seq", "gkd", "cut", "answers", "evaluate", "benchmark", "held_out"]


# tensor_parallel has no effect on a CPU; tests/sampling/test_vllm_files.py has GPUs
@pytest.mark.parametrize("key", sorted(ModelConfig.model_fields.keys() - {"tensor_parallel"}))
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_every_key_of_a_model_section_is_in_the_fingerprint_of_every_run_that_loads_it(
    workshop: Workshop, role: str, key: str
):
    if (role, key) == ("student", "precision"):
        pytest.skip("a recipe refuses it")
    shutil.copytree(workshop.models / role, workshop.folder / "student_b")
    other = str(workshop.folder / OTHER[key]) if key in ("path", "tokenizer") else OTHER[key]
    stages = [
        {"name": "sft", "kind": "sft", "data": "train"},
        {"name": "gkd", "kind": "distill", "student": "sft", "teacher": "teacher", "data": "train"},
        {"name": "seq", "kind": "seqkd", "teacher": "teacher", "data": "train"},
        {"name": "cut", "kind": "prune", "model": role if role == "teacher" else "base", "prune": {"keep": [0]}},
    ]

    def runs(**changes: Any) -> dict[str, str]:
        plan = planner(workshop, stages=stages, **changes)
        subject = "base" if role == "student" else "teacher"
        found = {
            name: plan.stage_run(name, 0) for name in ("gkd", "seq", "cut", *(["sft"] if role == "student" else []))
        }
        if role == "teacher":
            found["answers"] = found["seq"].parents[0]
        found["evaluate"] = plan.evaluation(subject, "test", 0)
        measured = {"benchmark": BenchmarkTask(benchmark="ifeval"), "held_out": HeldOutTask(data="test")}
        for kind, config in measured.items():
            found[kind] = plan.measurement(subject, "task", kind, config, {"model": subject}, 0)
        return {name: run.fingerprint for name, run in found.items()}

    before, after = runs(), runs(**{f"{role}__{key}": other})
    assert {name for name in before if before[name] == after[name]} == {*SAME.get((role, key), [])}
