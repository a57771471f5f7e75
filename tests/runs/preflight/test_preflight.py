"""What is missing is told before the first run, all of it at once; what is done is not looked at again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from recipes_fixture import Workshop
from safetensors.torch import load_file
from tiny_benchmarks import write_data
from tiny_study import TEMPLATE, write_study

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.recipe.load import load_recipe
from tutelage.recipe.stages import SynthesizeStage
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.cost.disk import disk_of
from tutelage.runs.cost.facts import machine
from tutelage.runs.cost.memory import GIB
from tutelage.runs.kinds import cost_of
from tutelage.runs.planner import Planner
from tutelage.runs.preflight import Problem, find_problems, refuse_problems
from tutelage.runs.preflight import hub as hub_module
from tutelage.runs.preflight import machine as machine_module
from tutelage.runs.preflight.inputs import input_problems
from tutelage.runs.preflight.machine import this_machine
from tutelage.runs.run_recipe import run_recipe
from tutelage.study.grid import plan_study
from tutelage.study.run_study import run_study

BENCHED = {
    "flores": {"benchmark": "flores"},
    "ifeval": {"benchmark": "ifeval"},
    "infobench": {"benchmark": "infobench"},
}


@pytest.fixture(autouse=True)
def _no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUTELAGE_JUDGE_URL", raising=False)
    monkeypatch.setattr("tutelage.evaluation.judges.comet.comet_ready", lambda: False)
    monkeypatch.setattr("tutelage.evaluation.benchmarks.ifeval.find_punkt", lambda: None)


def benched(workshop: Workshop, **changes: Any) -> Path:
    """A study that also measures three benchmarks."""
    file = write_study(workshop)
    study = yaml.safe_load(file.read_text())
    study |= {"tasks": study["tasks"] | BENCHED, "judge": {"model": "judge"}}
    study["grids"][0] |= {"tasks": list(BENCHED), "sizes": [4], "methods": ["sft"]} | changes
    file.write_text(yaml.safe_dump(study))
    return file


def problems_of(file: Path, workshop: Workshop, **options: Any) -> list[Problem]:
    return find_problems(plan_study(file, workshop.runs).runs, workshop.runs, **options)


def test_all_that_a_study_lacks_is_told_before_it_trains(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], done: list[str]
):
    data = write_data(workshop.folder / "benchmarks")
    shutil.rmtree(data / "infobench")
    (data / "flores/devtest/eng_Latn.devtest").unlink()
    monkeypatch.setenv("TUTELAGE_DATA", str(data))
    file = benched(workshop)
    with pytest.raises(SystemExit):
        main(["study", "run", str(file), "--runs", str(workshop.runs)])
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("problem: ")] == [
        f"problem: flores: {data}/flores/devtest/eng_Latn.devtest is missing: put the file there (docs/evaluation.md)",
        f"problem: infobench: its data are not in {data}/infobench/InFoBench.jsonl, and `kqsong/InFoBench` is not in "
        "the local cache while HF_HUB_OFFLINE is set: unset it, or put the file there (docs/evaluation.md)",
        "problem: infobench is judged by `judge`: set `judge.url`, or export TUTELAGE_JUDGE_URL, the address of its "
        "endpoint",
    ]
    assert any("flores: COMET is not set up" in line for line in errors if line.startswith("note: "))
    assert "tutelage: 3 problems (above), so nothing was started: correct them and try again" in errors
    assert done == []
    assert not list(workshop.runs.glob("*/result.json"))


def test_benchmarks_are_read_and_asked_before_the_first_run(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    """A task's wrong group, a prompt with a column that no row has, and data that cannot be read."""
    data = write_data(workshop.folder / "benchmarks")
    monkeypatch.setenv("TUTELAGE_DATA", str(data))
    (data / "dialogsum/dialogsum.test.jsonl").write_text('{"fname": "x"}\n')
    (data / "infobench/InFoBench.jsonl").write_text("{")
    tasks = {
        "flores": {"benchmark": "flores", "group": "tset"},
        "arc_challenge": {"benchmark": "arc_challenge", "prompt": "{qestion}"},
        "dialogsum": {"benchmark": "dialogsum"},
    }
    file = benched(workshop, tasks=[*tasks])
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"tasks": tasks, "judge": None}))
    plan = plan_study(file, workshop.runs)
    told = [one.text for one in find_problems(plan.runs, workshop.runs, network=False) if one.stops]
    assert len(told) == 3
    assert told[0] == "flores: no example is in group `tset` (there are: dev)"
    assert told[1].startswith("`prompt` of a task on arc_challenge: no column `qestion`, did you mean `question`?")
    assert told[2].startswith(f"{data}/dialogsum/dialogsum.test.jsonl:1: has no `dialogue`, ")
    stage = SynthesizeStage(name="new", kind="synthesize", gold="train", rows=1, avoid=["infobench"])
    run = replace(plan.runs[0], config=stage, models={}, parents=())
    (wrong,) = [one.text for one in input_problems([run], False, False, False, 1)]
    assert wrong.startswith(f"{data}/infobench/InFoBench.jsonl:1: not valid JSON")


def test_the_plan_shows_them(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("TUTELAGE_DATA", str(write_data(workshop.folder / "benchmarks")))
    monkeypatch.setattr(hub_module.Hub, "_ask", lambda *_: pytest.fail("the plan asks no network"))
    file = benched(workshop)
    main(["study", "plan", str(file), "--runs", str(workshop.runs)])
    out = capsys.readouterr().out
    assert "missing here: infobench is judged by `judge`: set `judge.url`, or export TUTELAGE_JUDGE_URL" in out
    assert "note: flores: COMET is not set up" in out
    monkeypatch.setenv("TUTELAGE_JUDGE_URL", "localhost:8000")
    (wrong,) = [problem for problem in problems_of(file, workshop) if problem.stops]
    assert wrong.text.startswith("infobench is judged by `judge`: its address is `localhost:8000`, not one such as")
    monkeypatch.setenv("TUTELAGE_JUDGE_URL", "http://localhost:8000/v1")
    assert [problem for problem in problems_of(file, workshop, network=False) if problem.stops] == []


def test_a_benchmark_that_the_folder_lacks_comes_from_the_hub_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    asked: list[str] = []

    def load_dataset(name: str, *_: Any, **__: Any) -> list[dict[str, Any]]:
        asked.append(name)
        return [{"id": "test_0_1", "dialogue": "Hi.", "summary": "A greeting."}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = write_data(tmp_path)
    shutil.rmtree(data / "dialogsum")
    items = {name: BENCHMARKS[name].load(data) for name in ("dialogsum", "ifeval", "arc_challenge", "bbh")}
    assert asked == ["knkarthick/dialogsum"]
    assert [item.targets for item in items["dialogsum"]] == [("A greeting.",)]
    assert len(items["bbh"]) == 28


def test_the_sources_of_every_benchmark_are_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The files are those that it reads, and the hub's name is the one that it asks."""
    import datasets

    asked: list[str] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *_, **__: asked.append(name) or [])
    data = write_data(tmp_path)
    for bench in BENCHMARKS.values():
        assert bench.source(data) == data
        assert bench.source(tmp_path / "empty") is bench.source(None) is None
        for file in bench.files:
            assert (data / file).is_file() or (data / f"{file}.gz").is_file()
        asked.clear()
        bench.items(None, 0)
        assert set(asked) == {bench.hub}


def test_the_hub_is_asked_once_per_name(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    asked: list[str] = []

    def repo_info(self: Any, name: str, **_: Any) -> Any:
        asked.append(name)
        if name == "a/none":
            raise RepositoryNotFoundError("no", response=Answered())
        return type("Info", (), {"gated": name == "a/gated"})()

    class Answered:
        headers: dict[str, str] = {}  # noqa: RUF012
        request = None

    def auth_check(self: Any, name: str, **_: Any) -> None:
        raise GatedRepoError("no", response=Answered())

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    monkeypatch.setattr(HfApi, "auth_check", auth_check)
    hub = hub_module.Hub(network=True)
    for _ in range(2):
        assert hub.problem("a/open", "dataset") is None
        assert "is gated on the hub: accept its terms" in (hub.problem("a/gated", "model") or "")
        assert "the hub has no model `a/none`" in (hub.problem("a/none", "model") or "")
    assert asked == ["a/open", "a/gated", "a/none"]
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("down")))
    hub = hub_module.Hub(network=True)
    assert hub.problem("a/one", "model") == hub.problem("a/two", "model")
    assert "cannot be asked (ConnectionError): check the network" in (hub.problem("a/one", "model") or "")
    assert hub_module.Hub(network=False).problem("a/open", "dataset") is None


def test_what_is_in_the_cache_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    for name, file in (("a--m", "model.safetensors"), ("a--small", "config.json")):
        (tmp_path / f"hub/models--{name}/snapshots/abc").mkdir(parents=True)
        (tmp_path / f"hub/models--{name}/snapshots/abc/{file}").touch()
    (tmp_path / "datasets/a___d/default").mkdir(parents=True)
    hub = hub_module.Hub(network=True)
    assert hub.problem("a/m", "model") is hub.problem("a/d", "dataset") is None
    assert hub.problem("a/m", "dataset") is not None
    assert hub.problem("a/small", "model") is not None  # its weights are not there


def test_a_hub_set_and_a_template_of_a_study(workshop: Workshop):
    template = {**TEMPLATE, "data": {**TEMPLATE["data"], "train": {"path": "owner/rows", "size": "<size>"}}}
    file = write_study(workshop, template=template)
    study = yaml.safe_load(file.read_text())
    study["models"]["small"]["chat_template"] = "nowhere.jinja"
    file.write_text(yaml.safe_dump(study))
    texts = [problem.text for problem in problems_of(file, workshop)]
    assert texts[0].startswith(
        "data.train.path: `owner/rows` is not a local file, and `owner/rows` is not in the local"
    )
    assert "chat_template: there is no file `nowhere.jinja`: give auto, tulu or the path of a Jinja file" in texts
    assert len(texts) == 2


def test_packages_that_a_recipe_names(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    real = sys.modules["importlib.util"].find_spec
    absent = lambda name, *more: None if name in ("vllm", "wandb", "torchao") else real(name, *more)  # noqa: E731
    monkeypatch.setattr("tutelage.runs.preflight.inputs.find_spec", absent)
    monkeypatch.setattr("importlib.util.find_spec", absent)
    settings = {"training__trackers": ["wandb"], "training__optimizer": "adamw_8bit"}
    file = workshop.write(stages__1__sampling__backend="vllm", **settings)
    plan = Planner(load_recipe(file), workshop.folder, workshop.runs)
    runs = [plan.stage_run("sft", 0), replace(plan.stage_run("gkd", 0), device="cuda")]
    assert [problem.text for problem in find_problems(runs, workshop.runs)] == [
        "training.optimizer: `adamw_8bit` needs torchao: pip install 'tutelage[quant]'",
        "training.trackers: wandb is not installed: pip install wandb",
        "`backend: vllm`: vLLM is not installed: pip install 'tutelage[vllm]'",
    ]


@pytest.mark.parametrize(("bytes_per_weight", "stops"), [(33, None), (31, False), (17, False), (15, True)])
def test_disk(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, bytes_per_weight: int, stops: bool | None):
    """Two models of one student: 4 bytes per weight each, and two checkpoints of 12 while one replaces the other."""
    plan = Planner(load_recipe(workshop.write()), workshop.folder, workshop.runs)
    runs = [plan.stage_run("sft", 0), plan.stage_run("gkd", 0)]
    weights = disk_of(runs[0], CostModel(machine("H100"))).models / 4
    saved = load_file(workshop.models / "student" / "model.safetensors")
    assert weights == sum(tensor.numel() for tensor in saved.values())
    free = int(bytes_per_weight * weights)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=free, used=0, free=free))
    assert [problem.stops for problem in find_problems(runs, workshop.runs)] == ([] if stops is None else [stops])


def test_memory(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    plan = Planner(load_recipe(workshop.write()), workshop.folder, workshop.runs)
    runs = [plan.stage_run("sft", 0), plan.stage_run("gkd", 0)]
    assert find_problems(runs, workshop.runs) == []
    here = this_machine("cpu")
    assert here is not None
    costs = [cost for run in runs if (cost := cost_of(run, CostModel(here)))]
    need = [cost.memory_gib - cost.memory_parts["activations"] - cost.memory_parts.get("caches", 0) for cost in costs]
    assert need[1] > need[0]  # it holds the teacher too
    monkeypatch.setattr(machine_module, "_devices", lambda _: (1, GIB * (need[0] + need[1]) / 2))
    close, problem = sorted(find_problems(runs, workshop.runs), key=lambda one: one.stops)
    assert problem.text.startswith("gkd: about ")
    assert (close.stops, problem.stops) == (False, True)
    assert close.text.startswith("sft: about ")  # with activations, which on CPUs are a guess, it is more
    assert find_problems(runs, workshop.runs, here=False) == []
    assert len(find_problems(runs, workshop.runs, ranks=2)) == 2  # ranks share the machine's memory


@pytest.mark.slow
def test_a_plan_and_a_run_say_the_same(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, done: list[str], capsys: pytest.CaptureFixture[str]
):
    """What `study plan` names for a machine, `study run` refuses there, in the same words, before anything is done."""
    file, here = write_study(workshop), replace(machine("H100"), memory=1e-3)
    monkeypatch.setattr("tutelage.study.plan_text.machine", lambda _: here)
    monkeypatch.setattr(machine_module, "this_machine", lambda *_: here)
    main(["study", "plan", str(file), "--runs", str(workshop.runs)])
    planned = capsys.readouterr().out.partition("cannot start on ")[2].split("\n  ")
    assert planned[0].endswith(": 12 of 12 runs")
    with pytest.raises(SystemExit):
        main(["study", "run", str(file), "--runs", str(workshop.runs)])
    refused = [line for line in capsys.readouterr().err.splitlines() if line.startswith("problem: ")]
    joined = "\n".join(planned)
    for line in refused:
        need, parts, fix = re.split(r" \(base |\): ", line.split("): ", 1)[1])
        assert f"): {need}\n" in joined
        assert f"most of it: base {parts}\n" in joined
        assert all(piece in joined for piece in fix.split("; "))
    assert len(refused) == 4  # teacher SFT, student SFT, distill, evaluation
    assert done == []


@pytest.mark.slow
def test_what_is_done_is_not_checked_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    file = write_study(workshop)
    run_study(plan_study(file, workshop.runs))
    for module, name in (("inputs", "input_problems"), ("machine", "disk_problems"), ("machine", "memory_problems")):
        monkeypatch.setattr(f"tutelage.runs.preflight.{module}.{name}", lambda *_: pytest.fail("looked at"))
    assert problems_of(file, workshop) == []
    run_study(plan_study(file, workshop.runs))


def test_a_recipe_is_refused_before_its_first_run(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, done: list[str], capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(machine_module, "_devices", lambda _: (1, 1.0))
    with pytest.raises(TutelageError, match="problems \\(above\\), so nothing was started"):
        run_recipe(load_recipe(workshop.write()), workshop.folder, workshop.runs)
    assert {line.split(":")[1].strip() for line in capsys.readouterr().err.splitlines() if "problem: " in line} == {
        "2 student SFT runs (sft)", "2 distill runs (gkd)", "4 evaluation runs (sft on test, gkd on test)"
    }  # fmt: skip
    assert done == []


def test_a_revision_of_a_folder_is_refused(workshop: Workshop):
    config = load_recipe(workshop.write(teacher__revision="v2"))
    plan = [Planner(config, workshop.folder, workshop.runs).evaluation("teacher", "test", 0)]
    (problem,) = find_problems(plan, workshop.runs, data=False)
    assert re.fullmatch(
        r"revision: is for models of the hub, and `.*/teacher` is a local one: remove `revision`", problem.text
    )


def test_notes_stop_nothing(capsys: pytest.CaptureFixture[str]):
    refuse_problems([Problem("without COMET", stops=False)])
    assert capsys.readouterr().err == "note: without COMET\n"
    with pytest.raises(TutelageError, match=r"^one$"):
        refuse_problems([Problem("one"), Problem("two", stops=False)])


@pytest.mark.slow
def test_it_loads_no_torch_itself():
    """`study plan` shows problems; only a GPU's memory needs torch."""
    code = (
        "import sys\nimport tutelage.runs.run\nbefore = set(sys.modules)\n"
        "import tutelage.runs.preflight.check, tutelage.runs.preflight.hub\n"
        "print(sorted(name for name in set(sys.modules) - before if name.split('.')[0] in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_size_that_a_study_wants_and_its_rows_do_not_have(workshop: Workshop):
    file = write_study(workshop, template=TEMPLATE | {"data": TEMPLATE["data"] | {"test": {"path": "test.jsonl"}}})
    assert problems_of(file, workshop) == []
    file.write_text(file.read_text().replace("- 8\n", "- 800\n"))
    (problem,) = problems_of(file, workshop)
    assert problem.stops
    assert problem.text == (
        "data.train.size: 800 after `skip: 0` is more than there is: at most 13 rows in train.jsonl; lower `size` or "
        "`skip`"
    )
