"""The paper's domain tasks: a model is asked at the end what it was trained on, and on the paper's examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_benchmarks import ARC_ROWS, DIALOGUES, SENTENCES, write_data

from tutelage.data.rows import convert
from tutelage.evaluation.answer_items import Answerer
from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.arc import _item
from tutelage.evaluation.benchmarks.base import Reply
from tutelage.recipe.sections import DataConfig
from tutelage.recipe.study import BenchmarkTask
from tutelage.study.grid import load_study, plan_study
from tutelage.study.plan import StudyPlan
from tutelage.study.plan_text import placement, plan_lines, priced, problems

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
# One test row of each benchmark in the columns of the training data: the id of the benchmark's item, and the row.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "flores": ("0", {"id": "x", "assamese": SENTENCES[0][0], "english": SENTENCES[0][1]}),
    "dialogsum": ("test_0", {"id": "x", "dialogue": DIALOGUES[0][1], "summary": DIALOGUES[0][2][0]}),
    "arc_challenge": (
        "Q_1",
        {
            "id": "x",
            "question": ARC_ROWS[0][1],
            "choices": {"text": ARC_ROWS[0][2], "label": ARC_ROWS[0][3]},
            "answerKey": ARC_ROWS[0][4],
        },
    ),
}


def task_of(study: Any, name: str) -> BenchmarkTask:
    found = study.tasks.get(name) or BenchmarkTask(benchmark=name)
    assert isinstance(found, BenchmarkTask)
    return found


@pytest.mark.parametrize("name", ["figure4", "figure5", "table2"])
def test_what_is_trained_on_is_what_is_asked(name: str, tmp_path: Path):
    study, data = load_study(PAPER / f"{name}.yaml"), write_data(tmp_path / "data")
    seen = set()
    for grid in study.grids:
        (task,) = grid.tasks
        config, (item_id, row) = task_of(study, task), ROWS[task]
        bench = BENCHMARKS[config.benchmark]
        (item,) = [item for item in bench.load(data) if item.id == item_id]
        trained, _ = convert(row, "x", DataConfig(**grid.values["gold"]), True)
        answerer = Answerer(None, None, "", True, prompt=config.prompt)  # type: ignore[arg-type]
        asked = answerer.asking.prompt_of(bench, item, answerer.asking.shots(bench))
        assert asked.messages == trained.prompt
        assert asked.prefix == ""  # the reply begins freely, as the responses do
        if task == "arc_challenge":
            score = bench.score_reply(item, Reply(trained.response or ""))
            assert (score.answer, score.scores["accuracy"]) == ("A", 1.0)  # the trained answer is read as that letter
        seen.add(task)
    assert seen == set(ROWS)


def test_an_arc_row_with_digits_is_trained_on_as_it_is_asked():
    """A few of ARC's rows number their choices 1 to 4; the benchmark shows all of them with letters."""
    study, bench = load_study(PAPER / "table2.yaml"), BENCHMARKS["arc_challenge"]
    choices = {"text": ["a cat", "a dog", "a hen", "an ox"], "label": ["1", "2", "3", "4"]}
    row = {"id": "x", "question": "Which one lays eggs?", "choices": choices, "answerKey": "3"}
    (gold,) = {str(g.values["gold"]): g.values["gold"] for g in study.grids if g.tasks == ["arc_challenge"]}.values()
    trained, _ = convert(row, "x", DataConfig(**gold), True)
    item = _item(row)
    answerer = Answerer(None, None, "", True, prompt=task_of(study, "arc_challenge").prompt)  # type: ignore[arg-type]
    assert answerer.asking.prompt_of(bench, item, 0).messages == trained.prompt
    assert trained.response == "C" == item.targets[0]


@pytest.mark.parametrize("name", ["figure4", "figure5", "table2"])
def test_flores_is_scored_on_the_papers_512_sentences(name: str, data_folder: Path):
    config = task_of(load_study(PAPER / f"{name}.yaml"), "flores")
    items = BENCHMARKS["flores"].load(data_folder, config.limit, config.draw, config.group)
    assert [item.id for item in items] == [str(number) for number in range(500, 1012)]


@pytest.fixture(scope="module")
def all_of_it(tmp_path_factory: pytest.TempPathFactory) -> StudyPlan:
    return plan_study(PAPER / "all.yaml", tmp_path_factory.mktemp("all"), partial=True)


@pytest.mark.slow
def test_every_paper_study_asks_alike(tmp_path: Path):
    """The three have runs in common, which they would not if their tasks differed."""
    tasks = [
        {
            run.task: run.config
            for _, run in plan_study(PAPER / f"{name}.yaml", tmp_path, partial=True).points
            if run.task in ROWS
        }
        for name in ("figure4", "figure5", "table2", "all")
    ]
    assert all(found == tasks[0] for found in tasks)
    assert tasks[0]["flores"].group == "test"


@pytest.mark.slow
def test_the_plan_says_where_infobenchs_judge_is_to_be_named(all_of_it: StudyPlan):
    plan = all_of_it
    count = sum(run.task == "infobench" for run in plan.runs)
    (note,) = [problem for problem in problems(plan) if problem.text.startswith("infobench stays unscored")]
    assert count > 0
    assert f"in {count} runs, as no judge is named: fill in `model` in {PAPER}/judge.yaml" in note.text
    assert not note.stops


@pytest.mark.parametrize(
    ("machine", "cannot_start"),
    [
        ("8xH100", {"teacher SFT"}),
        ("2x8xH100", set()),
        ("8x8xH100", set()),
        ("8xH200", set()),
        ("H100", {"teacher SFT", "student SFT", "distill", "seqkd", "answers", "synthesize", "evaluation"}),
    ],
)
@pytest.mark.slow
def test_what_of_the_paper_starts_where(machine: str, cannot_start: set[str], all_of_it: StudyPlan):
    """docs/scale.md has this table."""
    plan = all_of_it
    cost = priced(plan, machine)
    assert {found.kind for found in cost.misfits if found.stops} == cannot_start
    trained, answers = (next(r for r in plan.runs if r.kind == kind) for kind in ("distill", "answers"))
    placed = {"8x8xH100": "64 ranks on 8 hosts, shared within each (HSDP)", "H100": "one GPU"}
    assert placement(trained, cost.model) == placed.get(machine, placement(trained, cost.model))
    assert placement(answers, cost.model) == "8 GPUs of a host hold its models together (vLLM)"
    lines = plan_lines(plan, machine)
    assert sum(line.startswith("  12 teacher SFT: ") for line in lines) == 1
