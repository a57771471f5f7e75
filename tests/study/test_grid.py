"""Studies: grids become cells and runs, placeholders are filled, equal runs are one; the counts of the paper's."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes_fixture import Workshop
from tiny_study import TEMPLATE, write_study

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.recipe.load import load_recipe, read_yaml
from tutelage.runs.cost.facts import machine
from tutelage.runs.kinds import label_of
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run, with_parents
from tutelage.study.grid import load_study, plan_study
from tutelage.study.plan import cells
from tutelage.study.plan_text import counts, plan_json, plan_lines, priced, served

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
MINI = Path(__file__).parents[2] / "recipes" / "mini"


def kinds(file: Path) -> dict[str, int]:
    return counts(plan_study(file, Path("runs"), partial=True))


def test_every_run_once_and_every_cell(workshop: Workshop):
    plan = plan_study(write_study(workshop), workshop.runs)
    assert counts(plan) == {"teacher SFT": 2, "evaluation": 6, "student SFT": 2, "distill": 2}
    assert len(plan.runs) == len({run.folder for run in plan.runs}) == 12
    made = cells(plan, Path("/elsewhere"))
    assert [(c.size, c.student, c.method, c.teacher, c.seed, c.task) for c in made[:3]] == [
        (4, "large", "teacher", None, 0, "test"),
        (4, "small", "sft", None, 0, "test"),
        (4, "small", "gkd_sft", "large", 0, "test"),
    ]
    assert {cell.folder.parent for cell in made} == {Path("/elsewhere")}
    places = {run.fingerprint: place for place, run in enumerate(plan.runs)}
    assert all(places[p.fingerprint] < places[run.fingerprint] for run in plan.runs for p in run.parents)
    sft = next(run for run in plan.runs if run.stage == "sft")
    assert sft.config.label == "SFT of small, 4 rows"
    assert sft.data["train"].size == 4


def test_a_run_has_the_fingerprint_that_a_recipe_gives_it(workshop: Workshop):
    plan = plan_study(write_study(workshop), workshop.runs)
    filled = copy.deepcopy(TEMPLATE)
    filled["data"]["train"]["size"] = 4
    filled |= {
        "teacher": {"path": str(workshop.models / "teacher")},
        "student": {"path": str(workshop.models / "student")},
    }
    workshop.recipe = filled
    planner = Planner(load_recipe(workshop.write()), workshop.folder, workshop.runs)
    assert planner.stage_run("gkd_sft", 0).folder in {run.folder for run in plan.runs}


def test_all_that_is_not_here_is_named_at_once(workshop: Workshop, capfd: pytest.CaptureFixture):
    template = copy.deepcopy(TEMPLATE)
    template["data"]["train"]["path"] = "absent.jsonl"
    file = write_study(workshop, template=template)
    study = read_yaml(file)
    study["models"]["large"]["path"] = str(workshop.folder / "nowhere")
    file.write_text(yaml.safe_dump(study))
    plan = plan_study(file, workshop.runs, partial=True)
    assert sorted(line.partition(":")[0].partition("/")[0] for line in plan.absent) == [
        "data.train.path",
        "model folder ",
    ]
    with pytest.raises(SystemExit, match="1"):
        main(["study", "run", str(file), "--runs", str(workshop.runs)])
    said = capfd.readouterr().err
    assert "problem: data.train.path: no file `absent.jsonl`" in said
    assert f"problem: model folder {workshop.folder / 'nowhere'} does not exist" in said


def test_who_only_looks_sees_what_was_done_on_another_machines_device(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
):
    file = write_study(workshop, template=TEMPLATE | {"device": "auto"})
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("tutelage.runs.planner.resolve_device", lambda wanted: "cuda")
        there = plan_study(file, workshop.runs)
    here = plan_study(file, workshop.runs, partial=True)
    assert {run.device for run in here.runs} == {"cpu"}
    there.runs[0].folder.mkdir(parents=True)
    (there.runs[0].folder / "result.json").write_text("{}")
    assert plan_study(file, workshop.runs, partial=True).runs == there.runs
    assert plan_study(file, workshop.runs).runs == here.runs  # what would be run here
    here.runs[0].folder.mkdir(parents=True)
    (here.runs[0].folder / "result.json").write_text("{}")
    assert plan_study(file, workshop.runs, partial=True).runs == here.runs


def test_sft_again_needs_no_stage_and_is_priced_as_the_training_it_is(workshop: Workshop):
    file = write_study(workshop)
    study = yaml.safe_load(file.read_text())
    study["grids"][0]["methods"] = ["sft", "sft_again", "gkd_sft"]
    file.write_text(yaml.safe_dump(study))
    plan = plan_study(file, workshop.runs)
    assert counts(plan) == {"student SFT": 4, "teacher SFT": 2, "distill": 2, "evaluation": 6}
    again = {run.data["train"].size: run for run in plan.runs if run.stage == "sft_again"}
    first = {run.data["train"].size: run for run in plan.runs if run.stage == "sft"}
    assert {size: run.parents for size, run in again.items()} == {size: (run,) for size, run in first.items()}
    assert again[4].training == first[4].training
    assert [cell.teacher for cell, _ in plan.points if cell.method == "sft_again"] == [None, None]
    assert all(run.parents[0].stage == "sft" for run in plan.runs if run.kind == "distill")
    cost = priced(plan, "H100").costs
    for size in (4, 8):
        known, added = cost[first[size].fingerprint], cost[again[size].fingerprint]
        assert known is not None
        assert added is not None
        assert (added.flops, added.memory_gib) == (known.flops, known.memory_gib)
        assert added.flops > 0
    # a stage of that name in the template is taken as it is
    own = copy.deepcopy(TEMPLATE)
    own["stages"].append({"name": "sft_again", "kind": "sft", "student": "sft", "data": "train",
                          "training": {"epochs": 3}})  # fmt: skip
    (workshop.folder / "template.yaml").write_text(yaml.safe_dump(own))
    epochs = {run.training.epochs for run in plan_study(file, workshop.runs).runs if run.stage == "sft_again"
              if run.training is not None}  # fmt: skip
    assert epochs == {3}


def test_exclusions_seeds_and_tasks(workshop: Workshop):
    file = write_study(workshop, seeds=[3, 4])
    study = yaml.safe_load(file.read_text())
    study["grids"][0] |= {
        "exclude": [{"method": "gkd_sft", "size": [8]}],
        "tasks": ["test", "held_out", "arc_challenge"],
    }
    file.write_text(yaml.safe_dump(study))
    plan = plan_study(file, workshop.runs)
    assert counts(plan) == {"teacher SFT": 4, "student SFT": 4, "distill": 2, "evaluation": 30}
    assert {run.kind for _, run in plan.points} == {"evaluate", "held_out", "benchmark"}
    assert Counter(cell.method for cell, _ in plan.points) == {"teacher": 12, "sft": 12, "gkd_sft": 6}
    # The KL is to the recipe's teacher, which no stage makes.
    held = next(run for cell, run in plan.points if cell.task == "held_out")
    assert held.models["teacher"].path == str(workshop.models / "teacher")


def test_what_differs_by_template_in_name_alone_is_one_run(workshop: Workshop):
    file = write_study(workshop)
    other = copy.deepcopy(TEMPLATE)
    other["stages"][1]["name"] = other["stages"][2]["student"] = "first"
    (workshop.folder / "other.yaml").write_text(yaml.safe_dump(other))
    study = yaml.safe_load(file.read_text())
    study["grids"].append(
        study["grids"][0] | {"template": "other.yaml", "methods": {"start": "first", "gkd": "gkd_sft"}}
    )
    file.write_text(yaml.safe_dump(study))
    plan = plan_study(file, workshop.runs)
    assert counts(plan)["student SFT"] == counts(plan)["distill"] == 2
    folders = {run.folder for run in plan.runs}
    assert all(parent.folder in folders for run in plan.runs for parent in run.parents)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizs": [1]}, "did you mean `sizes`"),
        ({"sizes": [-3]}, r"grids \(number 1\)\.sizes \(number 1\): Input should be greater"),
        ({"students": ["tiny"]}, "no model is called `tiny`"),
        ({"methods": ["sft", "magic"]}, "the template has no stage `magic`"),
        ({"tasks": ["nothing"]}, "no benchmark is called `nothing`"),
        ({"exclude": [{"sise": 1}]}, "exclude: keys are"),
        ({"template": "absent.yaml"}, "absent.yaml does not exist"),
    ],
)
def test_mistakes_are_one_line(workshop: Workshop, change: dict[str, Any], message: str):
    file = write_study(workshop)
    study = yaml.safe_load(file.read_text())
    study["grids"][0] |= change
    file.write_text(yaml.safe_dump(study))
    with pytest.raises(TutelageError, match=message) as error:
        plan_study(file, workshop.runs)
    assert "\n" not in str(error.value)


def test_a_placeholder_that_nothing_fills(workshop: Workshop):
    template = copy.deepcopy(TEMPLATE)
    template["stages"][1]["label"] = "with <rank>"
    with pytest.raises(TutelageError, match="nothing fills `<rank>`"):
        plan_study(write_study(workshop, template=template), workshop.runs)


def test_includes_do_not_go_in_circles(workshop: Workshop):
    file = write_study(workshop, include=["study.yaml"])
    with pytest.raises(TutelageError, match="`include` goes in a circle"):
        plan_study(file, workshop.runs)


# --- the paper's ----------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No data are on this machine, and every connection is an error."""
    import socket

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("planning asked the network")

    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.mark.usefixtures("offline")
@pytest.mark.slow
def test_table_3_and_figure_1():
    found = kinds(PAPER / "table3.yaml")
    assert found == {"teacher SFT": 9, "student SFT": 54, "distill": 27, "evaluation": 405}
    plan = plan_study(PAPER / "table3.yaml", Path("runs"))
    evaluated = {run.parents[0].fingerprint for _, run in plan.points}
    assert len(evaluated) == 81
    # The teacher of a size serves three students; an SFT student is an arm and a start of GKD and of SFT again.
    models = served(plan)
    assert {len(models[r.fingerprint]) for r in plan.runs if label_of(r) == "teacher SFT"} == {3}
    assert {len(models[r.fingerprint]) for r in plan.runs if r.stage == "sft"} == {3}
    assert {len(models[r.fingerprint]) for r in plan.runs if r.stage == "sft_again"} == {1}
    known = {run.fingerprint for run in plan.runs}
    new = [r for r in plan_study(PAPER / "figure1.yaml", Path("runs")).runs if r.fingerprint not in known]
    assert Counter(label_of(run) for run in new) == {"distill": 9, "evaluation": 45}
    assert {run.stage for run in new if run.kind == "distill"} == {"gkd_base"}


@pytest.mark.usefixtures("offline")
@pytest.mark.slow
def test_all_shares_what_the_seven_have_in_common(monkeypatch: pytest.MonkeyPatch):
    reads: Counter[str] = Counter()

    def counted(path: Path) -> dict[str, Any]:
        reads[path.name] += 1
        return read_yaml(path)

    monkeypatch.setattr("tutelage.study.grid.read_yaml", counted)
    plan = plan_study(PAPER / "all.yaml", Path("runs"), partial=True)
    assert reads["domain.yaml"] == reads["general.yaml"] == 1  # templates, of several hundred combinations
    assert counts(plan) == {
        "student SFT": 117,  # 27 on Tulu 3; 9 on a task's rows; as many again; 45 on synthetic rows
        "evaluation": 544,
        "teacher SFT": 12,  # 9 sizes, 3 tasks
        "distill": 100,  # 27 SFT-S, 9 Base-S, GKD-IT; 9 GKD, 9 Mix, 45 Two-stage
        "answers": 1,
        "seqkd": 1,
        "synthesize": 3,
    }
    parts = [run for name in load_study(PAPER / "all.yaml").include
             for run in plan_study(PAPER / name, Path("runs"), partial=True).runs]  # fmt: skip
    assert {run.fingerprint for run in parts} == {run.fingerprint for run in plan.runs}
    assert "not set" in plan.absent[0]


@pytest.mark.usefixtures("offline")
@pytest.mark.slow
def test_the_recipes_say_appendix_a2():
    for run in plan_study(PAPER / "all.yaml", Path("runs"), partial=True).runs:
        if run.training is not None:
            t = run.training
            teacher = "70B" in run.models["student"].path  # its SFT alone has other moments, and half the file
            assert (t.optimizer, t.save_precision) == (("adamw_8bit", "bfloat16") if teacher else ("adamw", None))
            assert (t.learning_rate, t.batch_size, t.epochs, t.schedule, t.warmup_ratio, t.max_length) == (
                5e-6, 128, 2, "linear", 0.03, 4096
            )  # fmt: skip
        if run.kind == "distill":
            assert (run.config.on_policy, run.config.beta, run.config.divergence) == (0.5, 0.5, "jsd")
            assert (run.config.sampling.temperature, run.config.sampling.top_p) == (1.0, 1.0)
        if run.kind == "seqkd":
            assert run.config.samples_per_prompt == 5
        if run.kind == "synthesize":
            assert (run.config.rows, run.config.demonstrations, run.config.inputs.temperature) == (100_000, 10, 0.8)
            assert (run.config.answers.temperature, run.config.inputs.max_new_tokens) == (0.6, 4096)
            # T_gen is the teacher after Tulu 3, T the one after the task's own rows.
            assert {len(with_parents([p])) for p in run.parents} == {1}
            assert run.models["generator"] != run.models["annotator"]


@pytest.mark.usefixtures("offline")
@pytest.mark.slow
def test_what_the_paper_cannot_start_on_eight_gpus():
    plan = plan_study(PAPER / "all.yaml", Path("runs"), partial=True)
    lines = plan_lines(plan, "8xH100")
    end = lines[next(i for i, line in enumerate(lines) if line.startswith("cannot start on 8xH100: 12 of 778 runs")) :]
    assert end[1].split(":")[0].strip() == "12 teacher SFT (teacher_sft)"
    assert end[3].strip() == "needs 13 GPUs, or 8 of 118 GiB, or a smaller teacher"
    made = [line for line in lines if line[:12].isalnum() and "-s0" in line]
    assert sum("cannot start" in line for line in made) == 12
    assert {int(line.split()[2]) for line in made if "new-s0" in line or "answers-s0" in line} == {8}
    content = plan_json(plan, "8xH100")
    assert len(content["runs"]) == 778
    assert [(one["kind"], len(one["runs"])) for one in content["misfits"] if one["stops"]] == [("teacher SFT", 12)]
    assert {run["placed"] for run in content["runs"] if run["kind"] == "synthesize"} == {
        "8 GPUs of a host hold its models together (vLLM)"
    }
    saved = {None: 4, "bfloat16": 2}
    trained = [run for run in plan.runs if run.training]
    assert content["disk"]["models"] == sum(saved[r.training.save_precision] * weights_of(r) for r in trained)
    narrow = plan_lines(plan, "8x8xH100", ranks=8)  # GPUs that runs need, not all that there are
    assert narrow[-1].strip() == "set --gpus-per-run 16"
    one = plan_lines(plan, "8xH200", ranks=1)
    assert any("set training.shard" not in line and "set --gpus-per-run 8" in line for line in one)


@pytest.mark.usefixtures("offline")
@pytest.mark.slow
def test_hours_side_by_side_are_those_of_the_longest_chain_or_of_all_gpus_busy():
    for name, on, ranks in (("table1", "8x8xH100", 32), ("table3", "8xH200", 8)):
        plan = plan_study(PAPER / f"{name}.yaml", Path("runs"), partial=True)
        cost = priced(plan, on, ranks)
        hours = {run.fingerprint: cost.costs[run.fingerprint] for run in plan.runs}
        longest = max(sum(hours[one.fingerprint].hours for one in chain) for run in plan.runs for chain in chains(run))
        busy = sum(one.hours * one.gpus for one in hours.values()) / machine(on).gpus
        assert cost.least_hours(plan.runs) == pytest.approx(max(longest, busy))
        assert (longest > busy) == (ranks == 32)


def chains(run: Run) -> list[list[Run]]:
    """Each way from a run that builds on nothing to this one."""
    return [[*chain, run] for parent in run.parents for chain in chains(parent)] or [[run]]


def weights_of(run: Run) -> int:
    """Published parameter counts."""
    path = run.models["student"].path
    maker = next((parent for parent in run.parents if str(parent.folder) in path), None)
    if maker is not None:
        return weights_of(maker)
    name = next(n for n in ("70B", "1B", "3B", "8B") if path.endswith(f"-{n}"))
    return {"1B": 1_235_814_400, "3B": 3_212_749_824, "8B": 8_030_261_248, "70B": 70_553_706_496}[name]


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_plan_in_words_and_as_json(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    file = write_study(workshop)
    main(["study", "plan", str(file), "--runs", str(workshop.runs)])
    output = capsys.readouterr().out
    assert "12 runs: 2 teacher SFT, 6 evaluation, 2 student SFT, 2 distill" in output
    assert "done once for several measured models: 2 teacher SFT, 2 student SFT" in output
    main(["study", "plan", str(file), "--runs", str(workshop.runs), "--json", "--machine", "2xA100"])
    content = json.loads(capsys.readouterr().out)
    again = json.loads(json.dumps(plan_json(plan_study(file, workshop.runs), "2xA100")))
    assert content["disk"].pop("free") > 0
    assert again["disk"].pop("free") > 0
    assert content == again
    by_fingerprint = {run["fingerprint"]: run for run in content["runs"]}
    assert len(by_fingerprint) == 12
    assert all(cell["run"] in by_fingerprint for cell in content["cells"])
    assert all(run["cost"]["extrapolated"] for run in content["runs"])
    with pytest.raises(SystemExit):
        main(["study", "plan", str(file), "--machine", "abacus"])
    assert "no machine `abacus`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_plan_says_that_forecasts_are_not_in_its_figures(workshop: Workshop):
    def said(**forecast: Any) -> list[str]:
        lines = plan_lines(plan_study(write_study(workshop, **forecast), workshop.runs), "H100")
        return [line for line in lines if "not counted" in line]

    assert said() == []
    (line,) = said(forecast={"budget": 0.2})
    assert "not counted: 2 forecasts, made before these runs" in line
    assert line.endswith("pilots for up to 20% of both arms each (the first in any case)")
    (line,) = said(forecast={"pilot": "none"})
    assert line.endswith("untrained models")


def test_listing_evaluations(workshop: Workshop):
    plan = plan_study(write_study(workshop), workshop.runs)
    short, long = plan_lines(plan, "H100"), plan_lines(plan, "H100", evaluations=True)
    assert sum("gkd_sft-on-test-s0" in line for line in long) == 2
    assert not any("-on-test" in line for line in short)
