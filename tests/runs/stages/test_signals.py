"""Signals before training: against sums by hand in float64, and calibration on made-up confidences."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from recipes_fixture import Workshop
from tiny_study import write_study

from tutelage.evaluation.records import read_records
from tutelage.models.load import load_model
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.cost.facts import machine
from tutelage.runs.do_run import do_run
from tutelage.runs.kinds import cost_of
from tutelage.runs.run import Run
from tutelage.runs.stages.encode import encoded
from tutelage.runs.stages.signals import calibration_error, logit_signals
from tutelage.study.grid import plan_study


def planned(workshop: Workshop, teacher: str = "teacher") -> Run:
    task = {"kind": "signals", "data": "test", "teacher": teacher, "rows": 3, "sampling": {"max_new_tokens": 5}}
    file = write_study(workshop, tasks={"signals": task})
    study = yaml.safe_load(file.read_text())
    study["grids"][0] |= {"tasks": ["signals"], "methods": ["base"], "sizes": []}
    file.write_text(yaml.safe_dump(study))
    ((_, run),) = plan_study(file, workshop.runs).points
    return run


def by_hand(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    loaded = load_model(ModelConfig(path=str(folder), attention="padded"))
    with torch.no_grad():
        return loaded.model(ids[None]).logits[0].double().log_softmax(-1)


def test_the_two_parts_of_kl_are_those_of_the_chain_rule() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(50, 11, dtype=torch.float64, generator=generator) * 3 for _ in range(2))
    labels = torch.randint(11, (50,), generator=generator)
    found = logit_signals(student, teacher, labels)
    t, s = teacher.softmax(-1), student.softmax(-1)
    kl = (t * (t.log() - s.log())).sum(-1)
    ty, sy = t.gather(-1, labels[:, None])[:, 0], s.gather(-1, labels[:, None])[:, 0]
    binary = ty * (ty / sy).log() + (1 - ty) * ((1 - ty) / (1 - sy)).log()
    others_t, others_s = (p.scatter(-1, labels[:, None], 0.0) for p in (t, s))
    others_t, others_s = others_t / (1 - ty)[:, None], others_s / (1 - sy)[:, None]
    rest = (1 - ty) * torch.where(others_t > 0, others_t * (others_t / others_s).log(), 0.0).nan_to_num().sum(-1)
    torch.testing.assert_close(found.kl, kl)
    torch.testing.assert_close(found.kl_label, binary)
    torch.testing.assert_close(found.kl - found.kl_label, rest)
    torch.testing.assert_close(found.teacher_entropy, -(t * t.log()).sum(-1))
    torch.testing.assert_close(found.teacher_loss, -ty.log())


def test_a_sure_teacher_has_finite_parts() -> None:
    logits = torch.zeros(1, 5)
    logits[0, 2] = 200.0
    found = logit_signals(torch.zeros(1, 5), logits, torch.tensor([2]))
    assert found.kl_label.item() == pytest.approx(found.kl.item(), rel=1e-5)
    assert found.kl.item() == pytest.approx(1.6094379, rel=1e-5)


def test_calibration_error_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.92, 0.35, 0.31, 1.0])
    right = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    # bins 9 (0.95, 0.92, 1.0: mean right 2/3) and 3 (mean right 1/2)
    expected = abs(2.0 - 2.87) / 5 + abs(1.0 - 0.66) / 5
    assert calibration_error(confidence, right) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_a_run_measures_what_sums_by_hand_give(workshop: Workshop) -> None:
    run = planned(workshop)
    result = do_run(run)
    records = read_records(run.folder)
    assert [record.id for record in records] == ["r0", "r1", "r2"]
    losses, kls, count = 0.0, 0.0, 0
    student = load_model(ModelConfig(path=str(workshop.models / "student")))
    for sequence in encoded(run, "test", student, 96).sequences[:3]:
        mine, theirs = (by_hand(workshop.models / name, sequence.ids) for name in ("student", "teacher"))
        places = sequence.loss_mask[1:].nonzero().squeeze(-1)
        losses -= float(theirs[places, sequence.ids[places + 1]].sum())
        kls += float((theirs[places].exp() * (theirs[places] - mine[places])).sum())
        count += len(places)
    metrics = result["metrics"]
    assert metrics["teacher_loss"]["value"] == pytest.approx(losses / count, rel=1e-4)
    assert metrics["kl"]["value"] == pytest.approx(kls / count, rel=1e-4)
    assert metrics["kl"]["value"] == pytest.approx(metrics["kl_label"]["value"] + metrics["kl_rest"]["value"], rel=1e-5)
    assert metrics["kl_own"]["value"] > 0
    assert 0 <= metrics["teacher_ece"]["value"] <= 1
    assert result["response_tokens"] == count
    cost = cost_of(run, CostModel(machine("H100")))
    assert cost is not None
    assert cost.sampled > 0
    assert cost.hours > 0


@pytest.mark.slow
def test_a_model_has_nothing_to_learn_from_itself(workshop: Workshop) -> None:
    run = planned(workshop)
    metrics = do_run(_with_teacher(run, run.models["model"]))["metrics"]
    assert metrics["kl"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["kl_own"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["agreement"]["value"] == 1.0


def _with_teacher(run: Run, teacher: ModelConfig) -> Run:
    from dataclasses import replace

    planned = {role: key for role, key in run.planned_models.items() if role != "teacher"}
    return replace(run, models=run.models | {"teacher": teacher}, planned_models=planned)
