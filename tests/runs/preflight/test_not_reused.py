"""What a run says of earlier runs that it does not reuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from recipes_fixture import ROWS, Workshop

import tutelage
from tutelage.common import run_folder
from tutelage.common.types import Conversation
from tutelage.data.dataset import load_dataset
from tutelage.evaluation.records import ExampleRecord, write_records
from tutelage.evaluation.tasks import score_response
from tutelage.recipe.load import load_recipe
from tutelage.runs.do_run import description
from tutelage.runs.planner import Planner
from tutelage.runs.preflight.not_reused import not_reused
from tutelage.runs.run import with_parents
from tutelage.runs.run_recipe import run_recipe
from tutelage.runs.search import Search


def record(row: Conversation) -> ExampleRecord:
    return score_response(row, "?", ["exact_match"], finished=True, tokens=1)


def said(workshop: Workshop, finish: bool = False, **changes: Any) -> list[str]:
    """The lines before the recipe is run with these changes. `finish`: its runs are then done, as far as their folders
    tell."""
    planner = Planner(load_recipe(workshop.write(**changes)), workshop.folder, workshop.runs)
    runs = with_parents(Search(planner).known())
    lines = not_reused(planner, runs)
    for run in runs if finish else []:
        run_folder.write_json(run.folder, run_folder.CONFIG, description(run))
        run_folder.write_json(run.folder, run_folder.ENVIRONMENT, {"tutelage": "0.0.1"})
        if run.training is not None:
            counts = {name: {"rows": len(ROWS), "too_long": []} for name in run.data}
            run_folder.write_json(run.folder, run_folder.DATA, counts)
        run_folder.write_json(run.folder, run_folder.RESULT, {"n": 4, "metrics": {}})
    return lines


def test_a_first_run_and_one_that_changes_nothing_say_nothing(workshop: Workshop) -> None:
    assert said(workshop, finish=True) == []
    assert said(workshop) == []
    assert said(workshop, name="other", training__epochs=3) == []  # another recipe with the same names of stages
    assert said(workshop, seeds=[0, 1]) == []


def test_a_changed_file_is_named_with_its_rows(workshop: Workshop) -> None:
    said(workshop, finish=True)
    workshop.rows("train", ROWS[:-2])
    line = "earlier runs of `sft` and `gkd` are not reused, nor what builds on them: train.jsonl has changed"
    assert said(workshop) == [f"{line} (data.train: 10 rows now, 12 then)"]
    workshop.rows("train", [*ROWS[:-1], ROWS[0] | {"id": "new"}])
    assert said(workshop) == [line]
    workshop.rows("train", ROWS)
    workshop.rows("test", ROWS[:3])
    (line,) = said(workshop)
    assert line.startswith(
        "earlier runs of `lead_1 on test`, `sft on test` and `gkd on test` are not reused: test.jsonl has"
    )
    assert line.endswith(" (data.test: 3 rows now, 4 then)")


def test_that_a_part_of_a_grown_file_has_other_test_rows_is_said(workshop: Workshop) -> None:
    part = {"data__test__order": "question", "data__test__size": 4}
    rows = [row | {"id": str(n), "prompt": f"{n} {row['prompt']}"} for n, row in enumerate(ROWS)]
    workshop.rows("test", rows[:8])
    said(workshop, finish=True, **part)
    recipe = load_recipe(workshop.write(**part))
    asked = load_dataset("test", recipe.data["test"], workshop.folder, False).conversations
    for folder in workshop.runs.glob("*-on-test-*"):
        write_records(folder, [record(row) for row in asked])
    workshop.rows("test", rows)
    now = load_dataset("test", recipe.data["test"], workshop.folder, False).conversations
    stay = len({row.prompt for row in asked} & {row.prompt for row in now})
    assert 0 < stay < 4
    *_, line = said(workshop, **part)
    assert line == (
        f"data.test has other rows than then: {stay} of 4 stayed, so earlier scores are on other rows. To keep them "
        "all, put test rows into a file of their own (`data.test.path`)"
    )


def test_changed_keys_are_named_with_both_values_and_at_most_three(workshop: Workshop) -> None:
    said(workshop, finish=True)
    lines = said(workshop, training__epochs=3, stages__1__beta=0.1)
    start = "earlier runs of `{}` are not reused, nor what builds on them: {}"
    assert lines == [
        start.format("sft", "training.epochs 1 → 3"),
        start.format("gkd", "beta 0.5 → 0.1, training.epochs 1 → 3"),
    ]
    many = {f"training__{key}": 7 for key in ("batch_size", "epochs", "weight_decay", "max_grad_norm", "max_steps")}
    lines = said(workshop, **many)
    assert len(lines) == 1
    assert lines[0].endswith(", training.epochs 1 → 7, training.max_steps null → 7 and 2 more")
    assert said(workshop, training__checkpoint_every=7) == []
    lines = said(workshop, student={"path": str(workshop.models / "student"), "lora": {"r": 2}})
    assert "lora.r unset → 2" in lines[0]


def test_a_file_and_a_key_of_its_section(workshop: Workshop) -> None:
    said(workshop, finish=True)
    (line,) = said(workshop, data__train__size=8)
    assert line.endswith(": data.train.size null → 8")
    workshop.rows("train", ROWS[:-2])
    (line,) = said(workshop, data__train__size=8)
    assert line.endswith(": train.jsonl has changed (data.train: 8 rows now, 12 then), data.train.size null → 8")
    workshop.rows("more", ROWS)
    (line,) = said(workshop, data__train__path="more.jsonl")
    assert line.endswith(': data.train.path "train.jsonl" → "more.jsonl"')


def test_only_the_stage_that_changed_is_named_and_the_closest_run_compared(workshop: Workshop) -> None:
    chain = {"stages__1__student": "sft"}
    said(workshop, finish=True, **chain)
    said(workshop, finish=True, **chain, training__epochs=2, training__batch_size=2)
    (line,) = said(workshop, **chain, stages__0__training={"epochs": 4})
    assert line == "earlier runs of `sft` are not reused, nor what builds on them: training.epochs 1 → 4"


def test_runs_that_another_point_of_the_search_made_are_no_earlier_ones(workshop: Workshop) -> None:
    search: dict[str, Any] = {"search": {"task": "test", "grid": {"learning_rate": [0.001]}}, "stages__0__search": True}
    said(workshop, finish=True, **search)
    search["search"]["grid"]["learning_rate"].append(0.002)
    assert said(workshop, **search) == []


def test_what_no_key_and_no_file_explains_is_the_tools_own_version(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(workshop, finish=True)
    monkeypatch.setattr("tutelage.runs.fingerprints.METHOD_VERSION", 99)
    (line,) = said(workshop)
    start = "earlier runs of `sft` and `lead_1 on test` are not reused, nor what builds on them: "
    assert line == f"{start}the tool's own version (0.0.1 → {tutelage.__version__})"


def test_damaged_and_older_folders_stop_nothing(workshop: Workshop) -> None:
    said(workshop, finish=True)
    (file,) = workshop.runs.glob("sft-s0-*/config.json")
    content = json.loads(file.read_text())
    for damaged in (content | {"data": None}, {k: v for k, v in content.items() if k != "data_files"}, {}):
        file.write_text(json.dumps(damaged))
        assert said(workshop, training__epochs=2)
    for damaged in ("{", "[]"):
        file.write_text(damaged)
        assert said(workshop, training__epochs=2)


@pytest.mark.slow
def test_a_run_says_it_before_it_trains(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    run_recipe(load_recipe(workshop.write()), workshop.folder, workshop.runs)
    assert "reused" not in capsys.readouterr().out
    workshop.rows("train", ROWS[:-2])
    run_recipe(load_recipe(workshop.write()), workshop.folder, workshop.runs)
    out = capsys.readouterr().out
    assert (
        "tiny: earlier runs of `sft` and `gkd` are not reused, nor what builds on them: train.jsonl has changed "
        "(data.train: 10 rows now, 12 then)\n"
    ) in out
    assert out.index("not reused") < out.index("runs done")
