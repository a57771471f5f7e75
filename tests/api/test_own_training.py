"""`tutelage.Trainer` trains objects in memory as a recipe trains the same models, and leaves them as they were."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch
from recipes_fixture import ROWS, Workshop
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import tutelage
from tutelage.recipe import load_recipe
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner

SETTINGS = {"batch_size": 4, "epochs": 1, "max_length": 96, "learning_rate": 0.001}


class Recurrent(nn.Module):
    """A language model that transformers does not know."""

    def __init__(self, vocabulary: int, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.cell = nn.Embedding(vocabulary, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def get_decoder(self) -> Any:
        return lambda input_ids, **_: self.cell(self.embedding(input_ids))[0]


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def models(tiny_models: Path) -> tuple[Any, Any, Any]:
    """Student, tokenizer, teacher."""
    words = AutoTokenizer.from_pretrained(tiny_models / "student")
    return loaded(tiny_models / "student"), words, loaded(tiny_models / "teacher")


def weights_of_recipe(workshop: Workshop, stage: dict[str, Any]) -> dict[str, torch.Tensor]:
    file = workshop.write(stages=[{"name": "it", "data": "train", "student": "base", **stage}])
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run("it", 0)
    do_run(run)
    return load_file(run.folder / "model" / "model.safetensors")


def same(model: nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    own = dict(model.named_parameters())
    return own.keys() == weights.keys() and all(torch.equal(own[name], one) for name, one in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("on_policy", [0.0, 0.5])
def test_gkd_gives_the_weights_of_the_recipe(workshop: Workshop, models: Any, on_policy: float) -> None:
    student, words, teacher = models
    keys = {"on_policy": on_policy, "beta": 0.3, "sampling": {"max_new_tokens": 6}}
    before = {name: one.clone() for name, one in teacher.named_parameters()}
    result = tutelage.Trainer(student, words, ROWS, teacher=teacher, **keys, **SETTINGS).run()
    assert same(student, weights_of_recipe(workshop, {"kind": "distill", **keys}))
    assert same(teacher, before)
    assert [line["step"] for line in result.metrics] == [1, 2, 3]
    assert list(result.frame()["step"]) == [1, 2, 3]
    assert result.rows["rows"]["rows"] == 12
    assert "loss" in repr(result)


@pytest.mark.slow
def test_sft_by_single_steps_gives_the_weights_of_the_recipe(workshop: Workshop, models: Any) -> None:
    student, words, _ = models
    attention = student.config._attn_implementation
    trainer = tutelage.Trainer(student, words, ROWS, **SETTINGS)
    prompt = torch.tensor([[5, 6, 7]])
    for step in range(trainer.steps):
        trainer.step(step)
        student.generate(prompt, max_new_tokens=2)  # between two steps it is a plain transformers model
        assert (student.config._attn_implementation, student.training) == (attention, False)
    assert same(student, weights_of_recipe(workshop, {"kind": "sft"}))


def test_a_module_of_ones_own_learns_from_one_of_ones_own(models: Any) -> None:
    words = models[1]
    student, teacher = Recurrent(len(words)), Recurrent(len(words), 24, seed=1)
    rows, options = ROWS[:4], {"batch_size": 4, "max_length": 96, "learning_rate": 0.01, "max_steps": 12}
    trainer = tutelage.Trainer(
        student, words, rows, teacher=teacher, validation=ROWS[:4], sampling={"max_new_tokens": 4}, **options
    )
    result = trainer.run()
    assert result.metrics[-1]["loss"] < 0.9 * result.metrics[0]["loss"]
    with pytest.raises(tutelage.TutelageError, match="this training is done"):
        trainer.run()
    assert result.perplexity_after is not None
    assert result.perplexity_before is not None
    assert "Held-out perplexity" in str(result)


def test_the_loss_of_a_module_is_that_of_its_logits(models: Any) -> None:
    words = models[1]
    student = Recurrent(len(words))
    trainer = tutelage.Trainer(student, words, ROWS[:3], batch_size=3, max_length=96)
    terms = []
    for one in trainer._trainer.job.examples:
        logits = student.head(student.get_decoder()(one.ids[None]))[0, :-1]
        terms.append(nn.functional.cross_entropy(logits, one.ids[1:], reduction="none")[one.loss_mask[1:]])
    assert trainer.step(0)["loss"] == pytest.approx(torch.cat(terms).mean().item(), rel=1e-5)


def test_a_transformers_teacher_and_a_module_fit(models: Any) -> None:
    _, words, teacher = models
    student = Recurrent(teacher.config.vocab_size)
    metrics = tutelage.Trainer(student, words, ROWS[:4], teacher=teacher, on_policy=0.0, max_length=96).step(0)
    assert metrics["forward_kl"] > 0


def test_a_stopped_training_goes_on_in_its_folder(
    models: Any, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, words, _ = models
    options = {**SETTINGS, "checkpoint_every": 1}
    whole = loaded(tiny_models / "student")
    tutelage.Trainer(whole, words, ROWS, **options).run()
    trainer = tutelage.Trainer(student, words, ROWS, folder=tmp_path / "it", **options)
    step = trainer._trainer.step

    def killed(number: int) -> dict[str, Any]:
        if number == 2:
            raise KeyboardInterrupt
        return step(number)

    monkeypatch.setattr(trainer._trainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    again = loaded(tiny_models / "student")
    result = tutelage.Trainer(again, words, ROWS, folder=tmp_path / "it", **options).run()
    assert same(again, dict(whole.named_parameters()))
    assert len(result.metrics) == 3
    assert not (tmp_path / "it" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learnig_rate": 1e-3}, "unknown setting `learnig_rate`: did you mean `learning_rate`?"),
        ({"learning_rate": 0}, "learning_rate: Input should be greater than 0"),
        ({"beta": 0.1}, "`beta` is a setting of GKD: give a `teacher`"),
        ({"teacher": nn.Linear(2, 2), "signal": {"cache": "exact"}}, "`signal` is a setting of recipes and"),
        ({"rows": []}, "rows: there is no row"),
        ({"rows": [{"question": "?"}]}, r"rows-\w+.jsonl:1: neither `messages` nor `prompt` and `completion`"),
        ({"student": nn.Linear(2, 2)}, r"Linear is neither a transformers model nor has it `get_decoder\(\)`"),
        ({"teacher": nn.Linear(2, 2)}, r"Linear is neither a transformers model nor has it `get_decoder\(\)`"),
    ],
)
def test_a_mistake_is_one_line(models: Any, changes: dict[str, Any], message: str) -> None:
    arguments = {"student": models[0], "tokenizer": models[1], "rows": ROWS, **changes}
    with pytest.raises(tutelage.TutelageError, match=message) as error:
        tutelage.Trainer(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_teacher_whose_turns_end_otherwise_teaches_and_is_as_it_was(workshop: Workshop, models: Any) -> None:
    student, words, teacher = models
    other = copy.deepcopy(words)
    other.chat_template, other.eos_token = None, "<|stop|>"
    before = {name: one.clone() for name, one in teacher.named_parameters()}
    trainer = tutelage.Trainer(
        student, words, ROWS, teacher=teacher, teacher_tokenizer=other, on_policy=0.0, **SETTINGS
    )
    assert same(teacher, before)
    trainer.run()
    assert same(teacher, before)
    teacher.save_pretrained(workshop.folder / "other")
    other.save_pretrained(workshop.folder / "other")
    workshop.recipe["teacher"]["path"] = str(workshop.folder / "other")
    assert same(student, weights_of_recipe(workshop, {"kind": "distill", "on_policy": 0.0}))
    assert trainer._exchanged is not None


def test_models_that_do_not_fit_are_one_line(models: Any) -> None:
    student, words, _ = models
    with pytest.raises(tutelage.TutelageError, match="teacher and student are one object"):
        tutelage.Trainer(student, words, ROWS, teacher=student)
    with pytest.raises(
        tutelage.TutelageError, match="teacher and student have different tokenizers: token 0 is '<pad>'"
    ):
        tutelage.Trainer(student, words, ROWS, teacher=tiny.llama(seed=1), teacher_tokenizer=jobs.words())
    with pytest.raises(tutelage.TutelageError, match="the student's weights are bfloat16"):
        tutelage.Trainer(tiny.llama(packed=False).bfloat16(), words, ROWS)
    with pytest.raises(tutelage.TutelageError, match="step 1: there are 1 steps"):
        tutelage.Trainer(student, words, ROWS, max_length=96, max_steps=1).step(1)
