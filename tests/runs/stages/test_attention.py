"""A model whose `attention` is `auto` runs as the one beside it is set to run."""

from __future__ import annotations

import pytest
from recipes_fixture import Workshop

from tutelage.recipe.load import load_recipe
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run
from tutelage.runs.stages.students import load_student
from tutelage.runs.stages.teacher import check_pair, load_teacher


def planned(workshop: Workshop, **changes: object) -> Run:
    own = {"name": "gkd", "kind": "distill", "data": "train", "student": "base", "sampling": {"max_new_tokens": 6}}
    stages = [own, {"name": "scores", "kind": "evaluate", "models": ["gkd"], "tasks": ["test"]}]
    planner = Planner(load_recipe(workshop.write(stages=stages, **changes)), workshop.folder, workshop.runs)
    return planner.stage_run("gkd", 0)


@pytest.mark.parametrize("changes", [{"student__attention": "padded"}, {"teacher__attention": "padded"}])
def test_beside_a_padded_model(workshop: Workshop, changes: dict[str, str]):
    run = planned(workshop, **changes)
    student = load_student(run, False)
    teacher, _ = load_teacher(run, student, False)
    check_pair(run, student, teacher)
    assert (student.packed, teacher.packed) == (False, False)


def test_both_run_packed_where_they_can(workshop: Workshop):
    run = planned(workshop)
    student = load_student(run, False)
    assert student.packed
    assert load_teacher(run, student, False)[0].packed
