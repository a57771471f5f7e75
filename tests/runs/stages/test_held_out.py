"""The runs that only studies have: loss and KL on held-out rows against sums by hand; a benchmark."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from chat_templates import CHATML, tokenizer
from recipes_fixture import Workshop
from tiny_study import write_study

from tutelage.evaluation.records import read_records
from tutelage.models import load
from tutelage.models.load import load_model
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run
from tutelage.runs.stages.encode import encoded
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.study.grid import plan_study

pytestmark = pytest.mark.slow


def planned(workshop: Workshop, task: str, method: str = "base", **tasks) -> Run:
    file = write_study(workshop)
    study = yaml.safe_load(file.read_text())
    study["grids"][0] |= {"tasks": [task], "methods": [method], "sizes": []}
    study["tasks"] |= tasks
    file.write_text(yaml.safe_dump(study))
    ((_, run),) = plan_study(file, workshop.runs).points
    return run


def log_probs(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    loaded = load_model(ModelConfig(path=str(folder), attention="padded"))
    with torch.no_grad():
        return loaded.model(ids[None]).logits[0].double().log_softmax(-1)


def test_loss_and_kl_are_those_by_hand(workshop: Workshop):
    run = planned(workshop, "held_out")
    result = do_run(run)
    records = read_records(run.folder)
    assert [record.id for record in records] == ["r0", "r1", "r2", "r3"]
    loss, kl, tokens = 0.0, 0.0, 0
    student = load_model(ModelConfig(path=str(workshop.models / "student")))
    for sequence, record in zip(encoded(run, "test", student, 96).sequences, records, strict=True):
        student_lp, teacher_lp = (log_probs(workshop.models / name, sequence.ids) for name in ("student", "teacher"))
        places = sequence.loss_mask[1:].nonzero().squeeze(-1)
        losses = -student_lp[places, sequence.ids[places + 1]]
        kls = (teacher_lp[places].exp() * (teacher_lp[places] - student_lp[places])).sum(-1)
        assert record.scores["loss"] == pytest.approx(float(losses.mean()), rel=1e-4)
        assert record.scores["kl"] == pytest.approx(float(kls.mean()), rel=1e-4)
        assert record.tokens == len(places)
        loss, kl, tokens = loss + float(losses.sum()), kl + float(kls.sum()), tokens + len(places)
    assert result["metrics"]["loss"]["value"] == pytest.approx(loss / tokens, rel=1e-4)
    assert result["metrics"]["kl"]["value"] == pytest.approx(kl / tokens, rel=1e-4)
    assert 0 < result["metrics"]["loss"]["stderr"] < 1


def test_the_record_of_a_cut_conversation_shows_the_turn_that_is_left(workshop: Workshop):
    texts = [("user", "The cat sat?"), ("assistant", "1"), ("user", "Hello there. " * 20), ("assistant", "2")]
    workshop.rows("test", [{"id": "r", "messages": [{"role": role, "content": text} for role, text in texts]}])
    run = planned(workshop, "held_out", held_out={"data": "test", "max_length": 60})
    do_run(run)
    (record,) = read_records(run.folder)
    assert (record.prompt, record.response) == ("The cat sat?", "1")


def test_a_model_is_no_distance_from_itself(workshop: Workshop):
    run = planned(workshop, "held_out", "teacher")
    assert do_run(run)["metrics"]["kl"]["value"] == pytest.approx(0.0, abs=1e-6)


def write_arc(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}
    rows = [{"id": f"q{i}", "question": f"Is {i}?", "choices": choices, "answerKey": "ABC"[i]} for i in range(3)]
    file = workshop.folder / "arc_challenge" / "ARC-Challenge-test.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("TUTELAGE_DATA", str(workshop.folder))


def asked_by(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Do the run; return the prompts that its sampler was given."""
    asked: list[list[int]] = []
    real = TorchSampler.sample

    def sample(self: Any, prompts: Any, **options: Any) -> Any:
        asked.extend(list(prompt) for prompt in prompts)
        return real(self, prompts, **options)

    monkeypatch.setattr(TorchSampler, "sample", sample)
    do_run(run)
    return asked


@pytest.mark.parametrize("task", ["arc", "test"])  # a benchmark, and a task of the recipe
def test_a_measured_model_is_loaded_as_its_section_says(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, task: str):
    """A tokenizer from elsewhere and a chat template of its own make the prompt."""
    write_arc(workshop, monkeypatch)
    template = workshop.folder / "loud.jinja"
    template.write_text(CHATML.replace("<|im_start|>", "<|begin|><|im_start|>"))
    elsewhere = tokenizer("{{ 'not this one' }}")
    elsewhere.save_pretrained(workshop.folder / "tokens")
    own = {"chat_template": str(template), "tokenizer": str(workshop.folder / "tokens"), "attention": "padded"}
    file = write_study(workshop)
    study = yaml.safe_load(file.read_text())
    study["models"]["small"] |= own
    study["grids"][0] |= {"tasks": [task], "methods": ["base"], "sizes": []}
    study["tasks"]["arc"] = {"benchmark": "arc_challenge", "limit": 1}
    file.write_text(yaml.safe_dump(study))
    ((_, run),) = plan_study(file, workshop.runs).points
    loaded: list[tuple[Any, ...]] = []
    real = load.load_model
    watched = lambda config, device, *more: loaded.append((config, str(device))) or real(config, device, *more)  # noqa: E731
    for module in (load, import_module("tutelage.sampling.make_sampler")):
        monkeypatch.setattr(module, "load_model", watched)
    (prompt, *_) = asked_by(run, monkeypatch)
    begin = elsewhere.convert_tokens_to_ids("<|begin|>")
    assert prompt[0] == begin
    assert prompt.count(begin) == 2  # the user's turn and the start of the assistant's
    assert loaded == [(run.models["model"], "cpu")]
    assert {key: getattr(run.models["model"], key) for key in own} == own


def test_a_stages_model_keeps_how_its_origin_is_loaded(workshop: Workshop):
    file = workshop.write(student__attention="padded", student__trust_remote_code=True, student__revision="main")
    plan = Planner(load_recipe(file), workshop.folder, workshop.runs)
    model = plan.evaluation("gkd", "test", 0).models["model"]
    assert (model.attention, model.trust_remote_code, model.revision) == ("padded", True, None)
    assert plan.stage_run("gkd", 0).models["teacher"].trust_remote_code is False


def test_a_benchmark_in_a_runs_folder(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    write_arc(workshop, monkeypatch)
    run = planned(workshop, "arc", arc={"benchmark": "arc_challenge", "limit": 2, "chat": False})
    result = do_run(run)
    assert (result["n"], result["headline"], result["model"], result["task"]) == (
        2,
        "accuracy",
        "base",
        "arc_challenge",
    )
    assert len(read_records(run.folder)) == 2
    assert {p.name for p in run.folder.iterdir()} >= {
        "config.json",
        "environment.json",
        "examples.jsonl",
        "result.json",
    }
    assert do_run(run) == result
