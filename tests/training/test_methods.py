"""Further training methods: policy_gradient, the example of docs/method.md, computes what it claims."""

from __future__ import annotations

import importlib
import re
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
import yaml
from recipes_fixture import Workshop

from tutelage.common.errors import TutelageError
from tutelage.loss.divergence import reverse_kl
from tutelage.recipe.load import load_recipe
from tutelage.recipe.stages import MethodStage
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.training import methods
from tutelage.training.methods import METHODS, method_fingerprint, policy_gradient
from tutelage.training.methods.policy_gradient import PolicyGradient
from tutelage.training.trainer import Trainer

DOCUMENT = (Path(__file__).parents[2] / "docs" / "method.md").read_text()


def test_the_document_names_the_file_and_the_keys_as_they_are():
    [file] = re.findall(r"`training/(methods/\w+\.py)` is a whole method", DOCUMENT)
    assert Path(policy_gradient.__file__) == Path(methods.__file__).parents[1] / file
    [recipe] = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    stage = MethodStage.model_validate(yaml.safe_load(recipe)[0])
    assert METHODS[stage.method] is policy_gradient.build
    assert stage.on_policy == MethodStage.model_fields["on_policy"].default
    assert stage.options == vars(PolicyGradient())


def test_its_expected_gradient_is_that_of_the_reverse_kl():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 11, dtype=torch.float64), torch.randn(3, 11, dtype=torch.float64)
    student.requires_grad_()
    expected = torch.autograd.grad(reverse_kl(student, teacher).sum(), student)[0]
    got = torch.zeros_like(expected)
    for label in range(11):  # every token that could be sampled, with its probability
        probability = student.softmax(-1)[:, label].detach()
        values = PolicyGradient()(student, teacher, torch.full((3,), label))
        got += torch.autograd.grad((probability * values).sum(), student)[0]
    torch.testing.assert_close(got, expected)
    twice = PolicyGradient(2.0)(student, teacher, torch.tensor([1, 2, 3]))
    torch.testing.assert_close(twice, 2 * PolicyGradient()(student, teacher, torch.tensor([1, 2, 3])))


@pytest.mark.long
def test_training_brings_the_student_nearer_to_the_teacher(tmp_path: Path):
    job = jobs.gkd(tmp_path, 1.0, [9] * 32, batch_size=32, max_steps=25, epochs=25, learning_rate=1e-2)
    trainer = Trainer(METHODS["policy_gradient"](job, {}))
    first = trainer.step(0)
    assert first["on_policy"] == 1.0
    later = [trainer.step(step) for step in range(1, 25)]
    assert later[-1]["reverse_kl"] < 0.6 * first["reverse_kl"]


def pg(**keys: Any) -> dict[str, Any]:
    return {"name": "pg", "kind": "method", "method": "policy_gradient", "data": "train", "student": "base", **keys}


def test_a_recipe_runs_it(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    file = workshop.write(stages=[pg(sampling={"max_new_tokens": 6}, options={"scale": 0.5})])
    plan = Planner(load_recipe(file), workshop.folder, workshop.runs)
    run = plan.stage_run("pg", 0)
    last = do_run(run)["last"]
    assert (last["step"], last["on_policy"]) == (3, 1.0)
    other = Planner(load_recipe(file, ["stages.pg.options={scale: 1.0}"]), workshop.folder, workshop.runs)
    assert other.stage_run("pg", 0).fingerprint != run.fingerprint


def test_an_unknown_option_is_a_one_line_error(workshop: Workshop):
    file = workshop.write(stages=[pg(options={"scal": 0.5}, sampling={"max_new_tokens": 6})])
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run("pg", 0)
    with pytest.raises(TutelageError, match=r"`options` of method `policy_gradient`: .*'scal'"):
        do_run(run)


def test_a_changed_method_file_changes_the_fingerprint(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    changed = tmp_path / "changed.py"
    changed.write_text(Path(policy_gradient.__file__).read_text() + "\n# changed\n")
    before = method_fingerprint("policy_gradient")
    monkeypatch.setattr("inspect.getfile", lambda _: str(changed))
    assert method_fingerprint("policy_gradient") != before


def test_modules_of_its_folder_that_a_method_imports_change_the_fingerprint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    files = {
        "own/__init__.py": "",
        "own/method.py": "from own.near import A\nfrom . import beside\nimport json, apart\n\n"
        "def build(job, options):\n    from .inner.deep import D\n    return job\n",
        "own/near.py": "A = 1\n",
        "own/beside.py": "import own.further\n",
        "own/further.py": "B = 1\n",
        "own/inner/__init__.py": "",
        "own/inner/deep.py": "D = 1\n",
        "own/unread.py": "C = 1\n",
        "apart.py": "E = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    method = importlib.import_module("own.method")
    monkeypatch.setattr("tutelage.training.methods.METHODS", {"own": method.build})
    before, changed = method_fingerprint("own"), set()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}X = 1\n")
        changed |= {name} if method_fingerprint("own") != before else set()
        (tmp_path / name).write_text(text)
    assert changed == {f"own/{one}.py" for one in ("method", "near", "beside", "further", "inner/deep")}


def test_arguments_bound_by_partial_change_the_fingerprint(monkeypatch: pytest.MonkeyPatch):
    found = []
    for scale in (1.0, 2.0):
        monkeypatch.setattr(
            "tutelage.training.methods.METHODS", {"pg": partial(policy_gradient.build, options={"scale": scale})}
        )
        found.append(method_fingerprint("pg"))
    assert found[0] != found[1]


def test_an_error_inside_the_method_is_not_reported_as_an_option(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    def build(job: Any, options: dict[str, Any]) -> Any:
        return job + options

    for module in ("tutelage.training.methods", "tutelage.runs.planner", "tutelage.runs.stages.train"):
        monkeypatch.setattr(f"{module}.METHODS", {"broken": build})
    file = workshop.write(stages=[pg(method="broken", sampling={"max_new_tokens": 6})])
    with pytest.raises(TypeError, match="unsupported operand"):
        do_run(Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run("pg", 0))


def test_a_new_method_needs_one_entry(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    seen: list[dict[str, Any]] = []

    def build(job: Any, options: dict[str, Any]) -> Any:
        seen.append(options)
        return job  # cross-entropy on the student's own samples

    table = {**METHODS, "echo": build}
    for module in ("tutelage.training.methods", "tutelage.runs.planner", "tutelage.runs.stages.train"):
        monkeypatch.setattr(f"{module}.METHODS", table)
    stage = pg(method="echo", options={"a": 1}, sampling={"max_new_tokens": 6})
    run = Planner(load_recipe(workshop.write(stages=[stage])), workshop.folder, workshop.runs).stage_run("pg", 0)
    assert do_run(run)["last"]["loss"] == pytest.approx(do_run(run)["last"]["cross_entropy"])
    assert seen == [{"a": 1}]
