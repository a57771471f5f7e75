"""Synthesis in a recipe: tiny models write rows, and other stages learn from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recipes_fixture import ROWS, Workshop
from synthesize_recipe import MADE, TEACHER

from tutelage.common.errors import TutelageError
from tutelage.recipe.load import load_recipe
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.runs.run_recipe import run_recipe
from tutelage.runs.stages import synthesize as synthetic_stage
from tutelage.synthesis.blocks import read_rows

pytestmark = pytest.mark.slow


def planner(workshop: Workshop, *overrides: str, **changes: Any) -> Planner:
    return Planner(load_recipe(workshop.write(**changes), list(overrides)), workshop.folder, workshop.runs)


@pytest.mark.long
def test_mix_and_two_stages_learn_from_what_was_made(long_context: Workshop):
    workshop = long_context
    results = run_recipe(load_recipe(workshop.write(seeds=[0, 1])), workshop.folder, workshop.runs)
    (folder,) = workshop.runs.glob("new-s0-*")  # once for both seeds
    result = json.loads((folder / "result.json").read_text())
    assert (result["kind"], result["rows"]) == ("synthesize", 10)
    assert 0.0 < result["sampler_share"] <= 1.0
    assert result["variety"]["texts_compared"] == 10
    assert (folder / "sample.html").is_file()
    rows = read_rows(folder, "accepted")
    assert len(rows) == 10
    (teacher,) = workshop.runs.glob("tsft-s0-*")
    assert {row["provenance"]["generator"] for row in rows} == {teacher.name}
    assert {one for row in rows for one in row["provenance"]["demonstrations"]} <= {row["id"] for row in ROWS}
    counts = {}
    for name in ("mix", "warm", "two", "few"):
        trained = [json.loads(p.read_text()) for p in workshop.runs.glob(f"{name}-s*/result.json")]
        assert len(trained) == 2
        counts[name] = {section: report["rows"] for section, report in trained[0]["data"].items()}
    assert counts == {"mix": {"train": 12, "new": 10}, "warm": {"new": 10}, "two": {"train": 12}, "few": {"new_4": 4}}
    assert [row.stage for row in results.rows] == ["mix", "two", "few"]
    facts = results.facts
    assert facts["new: synthetic rows"].startswith("10 of ")


def test_benchmarks_to_avoid_count_as_evaluation_data(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    folder = workshop.folder / "data" / "dialogsum"
    folder.mkdir(parents=True)
    row = {"fname": "test_0", "dialogue": "A: Hello.", **{f"summary{n}": f"They greet, {n}." for n in (1, 2, 3)}}
    (folder / "dialogsum.test.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv("TUTELAGE_DATA", str(workshop.folder / "data"))
    plan = planner(workshop, stages=[TEACHER, MADE | {"avoid": ["dialogsum"]}])
    run = plan.stage_run("new", 0)
    texts = synthetic_stage._evaluation_texts(run, run.config, synthetic_stage.Frame())
    assert {"A: Hello.", "They greet, 1.", "They greet, 2.", "They greet, 3."} <= set(texts)
    assert {row["prompt"] for row in ROWS} & set(texts)  # and the recipe's own task


def test_what_gives_up_may_be_changed_without_losing_rows(workshop: Workshop):
    fingerprints = {planner(workshop, stages=[TEACHER, MADE | {"min_acceptance": a}]).stage_run("new", 0).fingerprint
             for a in (0.02, 0.5)}  # fmt: skip
    assert len(fingerprints) == 1


def test_subsets_of_what_a_stage_makes_lie_within_one_another(long_context: Workshop):
    from tutelage.data.dataset import load_dataset

    workshop = long_context
    workshop.recipe["data"]["new_7"] = {"path": "stage:new", "size": 7}
    plan = planner(workshop)
    do_run(plan.stage_run("tsft", 0))
    do_run(plan.stage_run("new", 0))
    ids = {}
    for name in ("new_4", "new_7", "new"):
        config, key, run = plan.section(name, 0, True)
        assert run is plan.stage_run("new", 0)
        ids[name] = [c.id for c in load_dataset(name, config, workshop.folder).conversations], key
    assert set(ids["new_4"][0]) < set(ids["new_7"][0]) < set(ids["new"][0])
    assert len({key for _, key in ids.values()}) == 3


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("stages.new.label=Rows", False),
        ("stages.new.rows=11", True),
        ("stages.new.filters.near_duplicate=0.5", True),
        ("stages.new.inputs.temperature=1.0", True),
        ("stages.new.generator=teacher", True),
        ("stages.tsft.training.epochs=2", True),
        ("stages.sft.training.epochs=2", False),
        ("data.train.size=11", True),
        ("data.test.size=3", True),  # what must not be contaminated
    ],
)
def test_what_changes_the_rows_changes_the_fingerprint(long_context: Workshop, override: str, changed: bool):
    before = planner(long_context)
    after = planner(long_context, override)
    for name in ("new", "warm", "few"):
        assert (before.stage_run(name, 0).fingerprint != after.stage_run(name, 0).fingerprint) == changed, name


def test_the_evaluation_data_of_the_recipe_is_what_rows_are_checked_against(
    long_context: Workshop, monkeypatch: pytest.MonkeyPatch
):
    workshop = long_context
    seen: list[list[str]] = []

    class Watched(synthetic_stage.Filters):
        def __init__(self, config: Any, gold: Any, evaluation: Any) -> None:
            seen.append(list(evaluation))
            super().__init__(config, gold, evaluation)

    monkeypatch.setattr(synthetic_stage, "Filters", Watched)
    plan = planner(workshop)
    do_run(plan.stage_run("tsft", 0))
    do_run(plan.stage_run("new", 0))
    assert [sorted(texts) for texts in seen] == [
        sorted([f"Was it bird number {i}?" for i in range(4)] + [f"Bird {i}." for i in range(4)])
    ]


def test_too_many_demonstrations(long_context: Workshop):
    plan = planner(long_context, "stages.new.demonstrations=13")
    do_run(plan.stage_run("tsft", 0))
    with pytest.raises(TutelageError, match=r"stage `new`: `demonstrations: 13` is more than data\.train has .*\(12\)"):
        do_run(plan.stage_run("new", 0))


@pytest.mark.long
def test_a_killed_stage_goes_on(long_context: Workshop, monkeypatch: pytest.MonkeyPatch):
    from tutelage.synthesis.synthesis import Synthesis

    workshop = long_context
    plan = planner(workshop, "stages.new.rows=20", "stages.new.min_acceptance=0.001")
    do_run(plan.stage_run("tsft", 0))
    run = plan.stage_run("new", 0)
    do_run(run)
    run.folder.rename(workshop.folder / "whole")
    finish, done = Synthesis._finish, []

    def killed(self: Any, block: Any, *more: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(block.number)
        return finish(self, block, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Synthesis, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            do_run(run)
    assert not run.done
    do_run(run)

    def rows(folder: Path) -> dict[str, bytes]:
        return {
            f"{kind}/{p.name}": p.read_bytes() for kind in ("accepted", "rejected") for p in (folder / kind).iterdir()
        }

    assert rows(run.folder) == rows(workshop.folder / "whole")
