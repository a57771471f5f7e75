"""Every mistake of a user gives one line (what is wrong, where, what to do) and no traceback."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from recipes_fixture import ROWS, Workshop, save_tiny
from safetensors.torch import load_file, save_file

from tutelage.cli.main import main
from tutelage.common.checksums import seal, unseal

DOWN, EMBED = "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"


@dataclasses.dataclass(frozen=True)
class Case:
    """`change`: keys of the recipe. `prepare`: breaks something else. `words`: must be in the one line."""

    id: str
    words: tuple[str, ...]
    change: dict[str, Any] = dataclasses.field(default_factory=dict)
    prepare: Callable[[Workshop, pytest.MonkeyPatch], Any] = lambda workshop, patch: None
    overrides: tuple[str, ...] = ()
    text: str | bytes | None = None  # the content of the recipe file
    arguments: tuple[str, ...] | None = None  # the command; {recipe}, {runs} and {folder} are filled in


def rows(*lines: Any) -> Callable[..., None]:
    """Put `lines` after 3 good rows of train.jsonl."""
    return lambda workshop, patch: workshop.rows("train", [*ROWS[:3], *lines])


def copied(name: str, then: Callable[[Path], Any]) -> Callable[..., None]:
    """A copy of the student model in the folder `name`, damaged by `then`."""

    def prepare(workshop: Workshop, patch: pytest.MonkeyPatch) -> None:
        shutil.copytree(workshop.models / "student", workshop.folder / name)
        patch.setitem(sys.modules, "peft", None)  # as where it is not installed
        then(workshop.folder / name)
        workshop.recipe["student"] = {"path": str(workshop.folder / name)}

    return prepare


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def put_nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).view(-1)[:4] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def weight(name: str, value: torch.Tensor | None) -> Callable[[Path], None]:
    """Put `value` in place of a weight, or nothing."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights | ({} if value is None else {name: value}), folder / "model.safetensors", {"format": "pt"})

    return change


def cut_weights(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(9_000)


def lose_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {DOWN: "model-00001-of-00002.safetensors", EMBED: "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def make_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))


def shorten_context(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8}))


def other_tokenizer(workshop: Workshop, patch: pytest.MonkeyPatch) -> None:
    save_tiny(workshop.folder / "strange", layers=2, seed=0, tokens=jobs.words())
    workshop.recipe["student"] = {"path": str(workshop.folder / "strange")}


def full_disk(workshop: Workshop, patch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(workshop.folder)
    patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))


def foreign_checkpoint(workshop: Workshop, patch: pytest.MonkeyPatch) -> None:
    """A first call that fails in its second step, and a checkpoint that claims to be another run's."""
    with pytest.raises(SystemExit):
        main(["run", str(workshop.write(**DIVERGING)), "--runs", str(workshop.runs)])
    (step,) = workshop.runs.glob("sft-*/checkpoints/checkpoint-*/step.json")
    step.write_text(seal(unseal(step.read_text()) | {"run": "0123456789ab"}))


ONLY_SFT = {"stages": [{"name": "sft", "kind": "sft", "data": "train"}]}
ONLY_GKD = {"stages": [{"name": "gkd", "kind": "distill", "data": "train", "on_policy": 0.0}]}
DIVERGING = {**ONLY_SFT, "training__learning_rate": 1e30, "training__checkpoint_every": 1, "training__epochs": 3}
SFT: dict[str, Any] = {"name": "sft", "kind": "sft", "data": "train"}
NEW: dict[str, Any] = {"name": "new", "kind": "synthesize", "gold": "train", "rows": 4}
PRUNE = {"name": "cut", "kind": "prune"}
SEARCH = {"search": {"task": "test", "grid": {"epochs": [1, 2]}}, "stages__0__search": True}


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


CASES = [
    # --- the recipe file
    Case("missing recipe", ("nowhere.yaml", "does not exist"), arguments=("run", "nowhere.yaml")),
    Case("recipe is a folder", ("is a folder",), arguments=("run", "{folder}")),
    Case("broken YAML", ("recipe.yaml:4", "YAML"), text="name: x\nstages:\n  - {name: a\nseeds: [0]\n"),
    Case("recipe is a list", ("recipe.yaml", "mapping", "`stages`"), text="- a\n"),
    Case("recipe is empty", ("recipe.yaml", "mapping"), text=""),
    Case("recipe not UTF-8", ("recipe.yaml", "UTF-8"), text=b"name: caf\xe9\n"),
    Case("key given twice", ("recipe.yaml:4", "`name`", "twice"), text="name: x\ndata: {}\nseeds: [0]\nname: y\n"),
    Case("missing section", ("recipe.yaml", "teacher", "required"), text="name: x\ndata: {}\nstudent: a\nstages: []\n"),
    Case("no stages", ("stages", "at least 1"), {"stages": []}),
    # --- keys and values
    Case("unknown key at top", ("`teachr`", "did you mean `teacher`?"), {"teachr": {}}),
    Case("key of a section at top", ("`epochs`", "did you mean `training.epochs`?"), {"epochs": 3}),
    Case("unknown key in stage", ("stages.gkd", "`bta`", "did you mean `beta`?"), {"stages__1__bta": 0.5}),
    Case("unknown key in training", ("training", "`epoch`", "`epochs`"), {"training__epoch": 2}),
    Case("unknown key in its training", ("stages.sft.training", "`epochs`"), {"stages__0__training": {"epoch": 2}}),
    Case("unknown key in data", ("data.train", "`pth`", "`path`"), {"data__train__pth": "x"}),
    Case("unknown kind of stage", ("stages.sft.kind", "did you mean `distill`?"), {"stages__0__kind": "distil"}),
    Case("on_policy above 1", ("stages.gkd.on_policy", "less than or equal to 1"), {"stages__1__on_policy": 1.5}),
    Case(
        "cross-entropy on no data",
        ("stages.gkd", "`ce_weight`", "lower `on_policy`"),
        {"stages__1__ce_weight": 0.5, "stages__1__on_policy": 1.0},
    ),
    Case("only cross-entropy", ("stages.gkd.ce_weight", "less than 1"), {"stages__1__ce_weight": 1.0}),
    Case("beta below 0", ("stages.gkd.beta", "greater than or equal to 0"), {"stages__1__beta": -0.1}),
    Case("negative rate", ("training.learning_rate", "greater than 0"), {"training__learning_rate": -1.0}),
    Case("name with a slash", ("stages (number 1).name", "pattern"), {"stages__0__name": "a/b"}),
    # --- names that stages use
    Case("stage name twice", ("`sft` is taken", "own name"), {"stages__1__name": "sft"}),
    Case("unknown stage", ("stages.gkd", "`sftt`", "there are", "sft"), {"stages__1__student": "sftt"}),
    Case("later stage", ("stages.sft", "earlier stage", "`gkd`"), {"stages__0__student": "gkd"}),
    Case(
        "scores as student",
        ("stages.next", "`scores`"),
        {
            "stages": [
                {"name": "scores", "kind": "evaluate", "models": ["base"], "tasks": ["test"]},
                {"name": "next", "kind": "sft", "data": "train", "student": "scores"},
            ]
        },
    ),
    Case("student made from itself", ("stages.sft", "`base`", "student"), {"student": "sft"}),
    Case("student is no stage", ("student", "`nobody`", "sft"), {"student": "nobody"}),
    Case("unknown task", ("stages.scores.tasks", "`tst`", "test"), {"stages__2__tasks": ["tst"]}),
    Case("unknown data", ("stages.sft.data", "`trian`", "train"), {"stages__0__data": "trian"}),
    Case("unknown compare_to", ("stages.scores.compare_to", "`best`", "sft"), {"stages__2__compare_to": "best"}),
    Case("epochs_of a model", ("stages.gkd.epochs_of", "`teacher`"), {"stages__1__epochs_of": ["teacher"]}),
    Case("search without section", ("`sft`", "`search` section"), {"stages__0__search": True}),
    Case("search over unknown key", ("search.grid", "`epoch`", "`epochs`"), {**SEARCH, "search__grid": {"epoch": [1]}}),
    Case("search over nothing", ("search.grid.epochs", "value"), {**SEARCH, "search__grid": {"epochs": []}}),
    Case("search over bad value", ("search.grid", "epochs", "greater"), {**SEARCH, "search__grid": {"epochs": [0]}}),
    Case("unknown task of a search", ("stages.sft.search", "`tst`", "test"), {**SEARCH, "stages__0__search": "tst"}),
    Case(
        "search over unknown data",
        ("stages.sft.data", "`nix`", "train"),
        {**SEARCH, "search__grid": {"validation": ["test", "nix"]}},
    ),
    Case("seed twice", ("seeds", "named twice"), {"seeds": [0, 0]}),
    Case("no data", ("stages.sft", "names no data section"), {"stages__0__data": []}),
    Case("nothing to score", ("stages.scores.models", "at least 1"), {"stages__2__models": []}),
    Case("no task", ("stages.scores.tasks", "at least 1"), {"stages__2__tasks": []}),
    # --- synthetic rows and further methods
    Case("unknown benchmark", ("stages.new.avoid", "`arc`", "arc_challenge"), {"stages": [NEW | {"avoid": ["arc"]}]}),
    Case("no rows requested", ("stages.new.rows", "greater than or equal to 1"), {"stages": [NEW | {"rows": 0}]}),
    Case("rows missing", ("stages.new.rows", "required"), {"stages": [{k: v for k, v in NEW.items() if k != "rows"}]}),
    Case("unknown gold", ("stages.new.gold", "`gld`", "train"), {"stages": [NEW | {"gold": "gld"}]}),
    Case("unknown generator", ("stages.new.generator", "`big`", "teacher"), {"stages": [NEW | {"generator": "big"}]}),
    Case("later annotator", ("stages.new.annotator", "`sft`"), {"stages": [NEW | {"annotator": "sft"}, SFT]}),
    Case(
        "unknown filter",
        ("stages.new.filters", "`near_dup`", "`near_duplicate`"),
        {"stages": [NEW | {"filters": {"near_dup": 1}}]},
    ),
    Case("no filter", ("stages.new.filters.skip", "preamble"), {"stages": [NEW | {"filters": {"skip": ["x"]}}]}),
    Case(
        "similarity above 1",
        ("stages.new.filters.near_duplicate", "less than 1"),
        {"stages": [NEW | {"filters": {"near_duplicate": 7}}]},
    ),
    Case("data of a later stage", ("stages.sft.data", "`new`", "synthesize"), {"stages": [SFT | {"data": "new"}, NEW]}),
    Case("data of no stage", ("data.few.path", "`nwe`", "new"), {"data__few": {"path": "stage:nwe"}, "stages": [NEW]}),
    Case("rows as a model", ("stages.sft", "`new`", "teacher"), {"stages": [NEW, SFT | {"student": "new"}]}),
    Case(
        "rows as evaluation data",
        ("tasks.test.data", "`few`"),
        {"data__few": {"path": "stage:new"}, "stages": [NEW, SFT], "tasks__test__data": "few"},
    ),
    Case("one name for two", ("stages.train", "same name"), {"stages": [NEW | {"name": "train"}]}),
    Case(
        "more demonstrations than rows",
        ("`new`", "`demonstrations: 13`", "12"),
        {"stages": [NEW | {"demonstrations": 13}]},
    ),
    Case(
        "prompt beyond the context",
        ("a prompt of", "512", "`demonstrations`"),
        {"stages": [NEW | {"demonstrations": 9}]},
    ),
    Case(
        "no samples",
        ("stages.sft.samples_per_prompt", "greater"),
        {"stages": [SFT | {"kind": "seqkd", "samples_per_prompt": 0}]},
    ),
    Case("unknown teacher of seqkd", ("stages.sft", "`big`"), {"stages": [SFT | {"kind": "seqkd", "teacher": "big"}]}),
    Case(
        "unknown method",
        ("stages.sft.method", "`policy_gradent`", "did you mean `policy_gradient`?"),
        {"stages": [SFT | {"kind": "method", "method": "policy_gradent"}]},
    ),
    # --- overrides
    Case("override without =", ("`training.epochs`", "key=value"), overrides=("training.epochs",)),
    Case("override of unknown stage", ("`stages.x.beta=1`", "`x`"), overrides=("stages.x.beta=1",)),
    Case("override of wrong type", ("training.epochs", "whole number"), overrides=("training.epochs=many",)),
    Case("override of unknown key", ("command line: training", "`epochs`"), overrides=("training.epoch=1",)),
    Case("override inside a value", ("`name.a.b=1`", "no keys"), overrides=("name.a.b=1",)),
    # --- data
    Case("missing data", ("data.train.path", "gone.jsonl", "correct the path"), {"data__train__path": "gone.jsonl"}),
    Case(
        "unset variable in data",
        ("data.train.path", "$UNSET_FOLDER", "export"),
        {"data__train__path": "$UNSET_FOLDER/a.jsonl"},
    ),
    Case("broken JSON", ("data.train", "train.jsonl:4", "broken JSON", "max_bad_rows"), prepare=rows('{"prompt": ')),
    Case(
        "wrong order of roles",
        ("train.jsonl:4", "turn 2 (user) follows user", "alternate"),
        prepare=rows(chat(("user", "a"), ("user", "b"), ("assistant", "c"))),
    ),
    Case(
        "empty reply", ("train.jsonl:4", "empty assistant turn"), prepare=rows(chat(("user", "a"), ("assistant", "")))
    ),
    Case("row of no known form", ("train.jsonl:4", "`prompt`", "text"), prepare=rows({"text": "a"})),
    Case("no rows", ("data.train", "no usable row"), prepare=lambda w, _: w.rows("train", [])),
    Case("size beyond the data", ("data.train.size", "50", "12", "lower"), {"data__train__size": 50}),
    Case(
        "prompt beyond max_length",
        ("data.train", "train.jsonl:1", "max_length is 8"),
        {**ONLY_SFT, "training__max_length": 8},
    ),
    # --- models
    Case("missing model folder", ("/gone", "does not exist", "path"), {"student__path": "/gone"}),
    Case("missing layer", (DOWN, "not in its files", "whole checkpoint"), ONLY_SFT, copied("part", weight(DOWN, None))),
    Case("missing embedding", ("model.embed_tokens", "not in its files"), prepare=copied("part", weight(EMBED, None))),
    Case("weight of another shape", (DOWN, "[3, 3]"), ONLY_SFT, copied("part", weight(DOWN, torch.ones(3, 3)))),
    Case("cut weights", ("model.safetensors", "cut or damaged", "copy it again"), ONLY_SFT, copied("cut", cut_weights)),
    Case("missing shard", ("model-00002", "copy the whole checkpoint"), ONLY_SFT, copied("shards", lose_shard)),
    Case("adapter", ("is an adapter of `some/base`", "merge_and_unload"), ONLY_SFT, copied("lora", make_adapter)),
    Case("context too short", ("reads 8 tokens", "max_length"), ONLY_SFT, copied("short", shorten_context)),
    Case(
        "unset variable in model",
        ("$UNSET_FOLDER", "not set", "export it"),
        {"student__path": "$UNSET_FOLDER/model"},
    ),
    Case(
        "no weights",
        ("bare", "no weights", "safetensors"),
        prepare=copied("bare", lambda f: (f / "model.safetensors").unlink()),
    ),
    Case("pickled weights", ("old", "pickled", "convert"), prepare=copied("old", pickle_weights)),
    Case("no config", ("half", "config.json"), prepare=copied("half", lambda f: (f / "config.json").unlink())),
    Case("package not installed", ("`no-such-package`", "pip install"), {"teacher__path": "package:no-such-package"}),
    Case("no tokenizer in common", ("different tokenizers", "token 0", "family"), ONLY_GKD, other_tokenizer),
    Case(
        "unknown model on the hub", ("no-such-model", "Check the name"), {**ONLY_SFT, "student__path": "no-such-model"}
    ),
    Case(
        "no CUDA",
        ("device: cuda", "device: auto"),
        {"device": "cuda"},
        lambda w, patch: patch.setattr(torch.cuda, "is_available", lambda: False),
    ),
    Case(
        "more layers than there are",
        ("`layers: 9`", "4"),
        {"stages": [PRUNE | {"prune": {"layers": 9, "method": "even"}}]},
    ),
    Case("layer that is not there", ("`keep: [0, 7]`", "0 to 3"), {"stages": [PRUNE | {"prune": {"keep": [0, 7]}}]}),
    Case("both", ("stages.cut.prune", "either"), {"stages": [PRUNE | {"prune": {"layers": 1, "keep": [0]}}]}),
    Case(
        "nothing to measure damage on",
        ("stages.cut.prune", "`calibration`"),
        {"stages": [PRUNE | {"prune": {"layers": 1}}]},
    ),
    # --- while it runs
    Case("loss goes to NaN", ("step 2", "learning_rate", "train"), DIVERGING | {"stages__0__name": "sft_train"}),
    Case("NaN weight", ("its weight model.", "holds NaN", "another copy"), ONLY_SFT, copied("nan", put_nan)),
    Case(
        "full disk",
        ("no room for a checkpoint", "free some space"),
        {**ONLY_SFT, "training__checkpoint_every": 1},
        full_disk,
    ),
    Case("another run's checkpoint", ("checkpoint-", "0123456789ab", "delete"), DIVERGING, foreign_checkpoint),
    Case(
        "runs folder is a file",
        ("train.jsonl", "folder"),
        arguments=("run", "{recipe}", "--runs", "{folder}/train.jsonl"),
    ),
    # --- the command line
    Case("unknown verb", ("rnu", "No such command"), arguments=("rnu",)),
    Case("unknown option", ("--job", "--jobs"), arguments=("run", "{recipe}", "--job", "2")),
    Case("no jobs", ("--jobs", "greater than or equal to 1"), arguments=("run", "{recipe}", "--jobs", "0")),
    Case("no recipe named", ("Missing argument", "recipe", "--help"), arguments=("run",)),
    Case(
        "evaluate: unknown task",
        ("`tst`", "test"),
        arguments=("evaluate", "{recipe}", "--model", "/gone", "--tasks", "tst"),
    ),
    Case(
        "evaluate: no such model",
        ("/gone", "does not exist"),
        arguments=("evaluate", "{recipe}", "--model", "/gone", "--tasks", "test"),
    ),
    Case("report: no file", ("gone.yaml", "does not exist"), arguments=("report", "gone.yaml")),
    Case("report: a JSON file", ("tiny.json", "YAML file", "--runs"), arguments=("report", "{folder}/tiny.json")),
    Case("report: a URL", ("a URL works for studies only",), arguments=("report", "{recipe}", "--runs", "s3://b/runs")),
    Case(
        "report: no data",
        ("data.train", "gone.jsonl"),
        {"data__train__path": "gone.jsonl"},
        arguments=("report", "{recipe}"),
    ),
    Case("report: not --only", ("--only tst", "scores"), arguments=("report", "{recipe}", "--only", "tst")),
    Case("study: a recipe", ("recipe.yaml", "a recipe, not a study"), arguments=("study", "plan", "{recipe}")),
    Case("study: no file", ("gone.yaml", "does not exist"), arguments=("study", "status", "gone.yaml")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_mistake_is_a_one_line_error(
    case: Case, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("UNSET_FOLDER", raising=False)
    case.prepare(workshop, monkeypatch)
    file = workshop.write(**case.change)
    if case.text is not None:
        file.write_bytes(case.text if isinstance(case.text, bytes) else case.text.encode())
    arguments = case.arguments or ("run", "{recipe}", *case.overrides, "--runs", "{runs}")
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([a.format(recipe=file, runs=workshop.runs, folder=workshop.folder) for a in arguments])
    output = capfd.readouterr()
    assert stopped.value.code not in (0, None)
    *notes, line = output.err.splitlines()  # notes on rows may come first
    lines = [*(one for one in notes if not one.startswith("note: ")), line]
    assert len(lines) == 1, output.err
    assert lines[0].startswith("tutelage: ")
    assert "Traceback" not in output.out + output.err
    assert [word for word in case.words if word not in lines[0]] == [], lines[0]


def test_there_are_enough_cases():
    assert len({case.id for case in CASES}) == len(CASES) >= 28


@pytest.mark.usefixtures("undrawn")
def test_padded_vocabularies_are_a_notice_not_an_error(workshop: Workshop, capfd: pytest.CaptureFixture[str]):
    save_tiny(workshop.folder / "padded", layers=2, seed=2, padding=13)
    file = workshop.write(**ONLY_GKD, teacher__path=str(workshop.folder / "padded"))
    main(["run", str(file), "--runs", str(workshop.runs)])
    output = capfd.readouterr()
    height = len(load_file(workshop.models / "student" / "model.safetensors")["model.embed_tokens.weight"])
    assert f"heads are cut to their common {height} rows (teacher {height + 13}, student {height})" in output.out
    assert workshop.result("gkd")["last"]["step"] == 3


def test_debug_shows_the_traceback(workshop: Workshop):
    from tutelage.common.errors import TutelageError

    with pytest.raises(TutelageError, match=r"data\.train\.path"):
        main(["run", str(workshop.write(data__train__path="gone.jsonl")), "--debug"])
