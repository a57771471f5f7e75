"""SeqKD: the teacher's samples are written once, and the weighted loss equals the loss on all of them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch
from chat_templates import CHATML, tokenizer
from recipes_fixture import ROWS, Workshop, save_tiny

from tutelage.common.types import Conversation, Message, Sample, TokenSequence
from tutelage.data.batch import Order
from tutelage.data.chat_template import ChatTemplate
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import SamplingConfig
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.runs.run_recipe import run_recipe
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.training.job import Job
from tutelage.training.teacher_answers import Answer, answer_examples, read_answers, retokenise, write_answers
from tutelage.training.trainer import Trainer

END = 2
# row, tokens: row 0 has one answer three times, row 1 two answers twice, row 2 five different ones
SAMPLES = [
    (0, (5, 6, END)),
    (0, (5, 6, END)),
    (0, (7, END)),
    (0, (5, 6, END)),
    (0, (9, 8, 4, 3)),
    (1, (11, END)),
    (1, (11, END)),
    (1, (12, 13, END)),
    (1, (12, 13, END)),
    (1, (14,)),
    *((2, (20 + k, *range(30, 30 + 3 * k), END)) for k in range(5)),
]
ANSWERS = [Answer(row, i % 5, 1, tokens, "", tokens[-1] == END) for i, (row, tokens) in enumerate(SAMPLES)]
ONE_TURN = [Conversation(f"r{i}", (Message("user", "?"), Message("assistant", "!"))) for i in range(3)]
WORDS = ChatTemplate(jobs.words())  # ends a turn with END


def weighted_examples(max_length: int = 64) -> list[TokenSequence]:
    made = tiny.sequences((9, 6, 14))
    examples, left_out = answer_examples(made, [0, 1, 2], ONE_TURN, ANSWERS, WORDS, [END], max_length)
    assert left_out == []
    return examples


def copies_of(examples: list[TokenSequence]) -> list[TokenSequence]:
    return [dataclasses.replace(s, weight=1.0) for s in examples for _ in range(int(s.weight))]


def job(folder: Path, examples: list[TokenSequence], **config: Any) -> Job:
    folder.mkdir(exist_ok=True)
    base = jobs.sft(folder, model=tiny.llama(), **{"max_grad_norm": None} | config)
    return dataclasses.replace(base, examples=examples)


def gradients(trainer: Trainer) -> tuple[torch.Tensor, float]:
    trainer.optimizer.zero_grad = lambda **_: None
    loss = trainer.step(0)["loss"]
    return torch.cat([p.grad.flatten() for p in trainer.module.parameters() if p.grad is not None]), loss


def test_each_distinct_answer_is_kept_once_with_its_number():
    examples = weighted_examples()
    found = [(s.index, tuple(s.ids[s.prompt_length :].tolist()), s.weight) for s in examples]
    counted = Counter(SAMPLES)
    assert {(row, tokens): weight for row, tokens, weight in found} == counted
    assert sum(s.weight for s in examples) == 15
    assert {s.author for s in examples} == {"teacher"}
    assert [s.cut for s in examples if s.ids[-1] != END] == [True, True]
    for s in examples:
        assert s.loss_mask.tolist() == [False] * 4 + [True] * (len(s.ids) - 4)


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_the_weighted_loss_and_gradient_are_those_of_all_copies(tmp_path: Path, reduction: str):
    examples = weighted_examples()
    options = {"batch_size": 15, "reduction": reduction}
    once, loss = gradients(Trainer(job(tmp_path / "once", examples, **options)))
    copies, expected = gradients(Trainer(job(tmp_path / "copies", copies_of(examples), **options)))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert (once - copies).norm() <= 1e-5 * copies.norm()
    unweighted = [dataclasses.replace(s, weight=1.0) for s in examples]
    other, _ = gradients(Trainer(job(tmp_path / "other", unweighted, **options)))
    assert (once - other).norm() > 1e-2 * copies.norm()


def test_batches_have_as_many_copies_as_without_weights():
    examples, size = weighted_examples(), 4
    order = torch.tensor([3, 0, 6, 1, 9, 4, 2, 8, 5, 7])
    weights = torch.tensor([s.weight for s in examples], dtype=torch.float64)
    apart = [int(i) for i in order for _ in range(int(examples[int(i)].weight))]
    for first in range(0, 15, size):
        got = Order(weights, order).take(examples, first, first + size)
        counted = {next(i for i, e in enumerate(examples) if e.ids is s.ids): s.weight for s in got}
        assert counted == Counter(apart[first : first + size])


def test_training_with_weights_equals_training_on_all_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Four steps per epoch, of 4, 4, 4 and 3 copies; some answers are split between two steps."""
    examples = weighted_examples()
    options = {"batch_size": 4, "epochs": 2, "learning_rate": 1e-2}
    once = Trainer(job(tmp_path / "once", examples, **options))
    assert (once.steps_per_epoch, once.total_steps) == (4, 8)
    apart = Trainer(job(tmp_path / "apart", copies_of(examples), **options))
    assert apart.total_steps == 8
    batches = [copies_of(once._examples(step)) for step in range(8)]
    assert [len(batch) for batch in batches] == [4, 4, 4, 3] * 2
    apart._examples = lambda step: batches[step]
    once.run()
    apart.run()
    for a, b in zip(once.module.parameters(), apart.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_examples_of_weight_one_are_cut_by_number():
    examples = tiny.sequences((9, 6, 14, 7, 30))
    order = torch.tensor([4, 2, 0, 1, 3])
    weights = torch.ones(5, dtype=torch.float64)
    assert [s.index for s in Order(weights, order).take(examples, 2, 4)] == [0, 1]
    assert [s.index for s in Order(weights, order).take(examples, 4, 6)] == [3]


def test_the_teachers_end_becomes_the_students():
    answers = [Answer(0, 0, 1, (5, 7), "", True), Answer(0, 1, 1, (5, 7), "", False)]
    (ended, cut), _ = answer_examples(tiny.sequences((9,)), [0], ONE_TURN, answers, WORDS, [7], 64)
    assert ended.ids[-2:].tolist() == [5, END]
    assert (cut.ids[-2:].tolist(), cut.cut) == ([5, 7], True)  # not an end token: the sample was cut there


def test_an_answer_beyond_max_length_is_cut():
    answers = [Answer(0, 0, 1, tuple(range(10, 30)), "", True)]
    examples, _ = answer_examples(tiny.sequences((9,)), [0], ONE_TURN, answers, WORDS, [END], 12)
    assert [(len(s.ids), s.cut) for s in examples] == [(12, True)]


# --- writing ---------------------------------------------------------------------------------------------------------

TEMPLATE = ChatTemplate(tokenizer(CHATML))
SAMPLING = SamplingConfig(max_new_tokens=8, batch_size=2)
PROMPTS = [Conversation(f"r{i}", (Message("user", f"The cat {i}"), Message("assistant", "1"))) for i in range(5)]
QUESTIONS = {row: conversation.prompt for row, conversation in enumerate(PROMPTS)}


class Watched:
    """A sampler of a tiny model that raises KeyboardInterrupt at call `dies_at`."""

    def __init__(self, dies_at: int = 0) -> None:
        ends = [TEMPLATE.end_of_turn_id, *range(300, 340)]
        self.inner = TorchSampler(tiny.llama(vocab=len(TEMPLATE.tokenizer)), ends, True)
        self.calls, self.dies_at = 0, dies_at

    def sample(self, prompts: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        return self.inner.sample(prompts, **options)


def write(folder: Path, sampler: Any, seed: int = 0) -> list[Answer]:
    folder.mkdir(exist_ok=True)
    return write_answers(folder, QUESTIONS, TEMPLATE, sampler, SAMPLING, 5, seed)


def test_five_answers_per_prompt_each_with_its_own_seed(tmp_path: Path):
    answers = write(tmp_path / "a", Watched())
    assert [(a.row, a.number) for a in answers] == [(row, k) for row in range(5) for k in range(5)]
    assert len({a.tokens for a in answers if a.row == 0}) > 1
    assert read_answers(tmp_path / "a") == answers
    assert write(tmp_path / "b", Watched(), seed=1) != answers
    for answer in answers:
        assert answer.text == TEMPLATE.decode(answer.tokens)


@pytest.mark.parametrize("torn", [b"", b'{"row": 3, "numb', b"\xe0"])
def test_a_killed_and_resumed_run_writes_the_same_file(tmp_path: Path, torn: bytes):
    write(tmp_path / "whole", Watched())
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", Watched(dies_at=3))
    file = tmp_path / "killed" / "answers.jsonl"
    assert len(file.read_text().splitlines()) == 16
    file.write_bytes(file.read_bytes() + torn)
    second = Watched()
    write(tmp_path / "killed", second)
    assert second.calls == 2  # the first two writes of eight are not repeated
    assert file.read_bytes() == (tmp_path / "whole" / "answers.jsonl").read_bytes()


@pytest.mark.parametrize("line", [0, 5, 15])
def test_a_damaged_answer_and_those_after_it_are_written_again(tmp_path: Path, line: int, capsys):
    write(tmp_path, Watched())
    file = tmp_path / "answers.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    for damaged in (lines[line].replace(b'"finished"', b'"Finished"'), lines[line].replace(b": [", b": [1", 1), b""):
        file.write_bytes(b"".join([*lines[:line], damaged, *lines[line + 1 :]]))
        write(tmp_path, Watched())
        assert file.read_bytes() == whole
        if damaged:
            assert f"goes on after line {line}, since" in capsys.readouterr().out


def test_answers_of_another_tokenizer_are_encoded_again_from_text():
    answers = [Answer(0, 0, 1, (1, 2, 3), "The dog", True), Answer(1, 1, 1, (1, 2), "ran", False)]
    ended, cut = retokenise(answers, TEMPLATE, PROMPTS)
    ids = TEMPLATE.tokenizer("The dog", add_special_tokens=False)["input_ids"]
    assert list(ended.tokens) == [*ids, TEMPLATE.end_of_turn_id]
    assert list(cut.tokens) == TEMPLATE.tokenizer("ran", add_special_tokens=False)["input_ids"]


def test_answers_that_are_no_text_are_not_encoded_again(tmp_path: Path):
    """Cut in a letter they lose it; bytes that are no text, or none at all, are not trained on."""
    letters = [TEMPLATE.tokenizer.convert_tokens_to_ids(letter) for letter in ("ð", "Ł", "Ľ", "¶")]  # F0 9F 9B B6: 🛶
    (a,) = TEMPLATE.tokenizer("a")["input_ids"]
    end = TEMPLATE.end_of_turn_id
    tokens = [(a, *letters, a, end), (a, *letters[:3]), (a, letters[0], a), (*letters[:2], end), (end,), (letters[0],)]

    class Fixed:
        def sample(self, prompts: Any, **_: Any) -> list[Sample]:
            return [Sample(one, (), one[-1] == end) for one in tokens]

    sampling = SamplingConfig(max_new_tokens=8, batch_size=6)
    written = write_answers(tmp_path, {0: PROMPTS[0].prompt}, TEMPLATE, Fixed(), sampling, 6, 0)  # type: ignore[arg-type]
    assert [answer.text for answer in written] == ["a🛶a", "a", "aa", "", "", ""]
    assert [answer.whole for answer in written] == [True, True, False, False, True, True]
    assert read_answers(tmp_path) == written
    old = dataclasses.replace(written[1], text="a\ufffd")  # as written by earlier versions
    again = retokenise([*written, old], TEMPLATE, PROMPTS)
    assert [answer.tokens for answer in again] == [(a, *letters, a, end), (a,)]


# --- in a recipe -----------------------------------------------------------------------------------------------------


def seqkd(**keys: Any) -> dict[str, Any]:
    return {
        "name": "kd",
        "kind": "seqkd",
        "student": "base",
        "data": "train",
        "sampling": {"max_new_tokens": 6},
        **keys,
    }


@pytest.mark.slow
def test_a_search_writes_the_answers_once(workshop: Workshop):
    file = workshop.write(
        stages=[seqkd(search=True), {"name": "scores", "kind": "evaluate", "models": ["kd"], "tasks": ["test"]}],
        search={"task": "test", "grid": {"learning_rate": [1e-3, 1e-2]}},
        training__validation="test",
    )
    results = run_recipe(load_recipe(file), workshop.folder, workshop.runs)
    assert len(list(workshop.runs.glob("kd-s0-*"))) == 2
    (folder,) = workshop.runs.glob("kd-answers-s0-*")
    result = json.loads((folder / "result.json").read_text())
    assert (result["prompts"], result["samples"]) == (12, 60)
    answers = read_answers(folder)
    assert result["distinct"] == len({(a.row, a.tokens) for a in answers}) <= 60
    made = results.rows[0].runs[0].trained
    assert made is not None
    trained = json.loads((made / "result.json").read_text())
    assert trained["data"]["answers"]["samples"] == 60
    assert trained["data"]["answers"]["distinct"] == result["distinct"]
    assert trained["last"]["step"] == 15  # 60 copies in batches of 4
    assert trained["last"]["forward_kl"] is None


def test_a_change_of_the_answers_changes_both_fingerprints(workshop: Workshop):
    def both(*overrides: str) -> tuple[str, str]:
        plan = Planner(load_recipe(workshop.write(stages=[seqkd()]), list(overrides)), workshop.folder, workshop.runs)
        run = plan.stage_run("kd", 0)
        return run.parents[0].fingerprint, run.fingerprint

    first = both()
    assert both() == first
    for override in ("stages.kd.samples_per_prompt=3", "stages.kd.sampling.temperature=0.5"):
        assert all(a != b for a, b in zip(first, both(override), strict=True)), override
    assert all(a != b for a, b in zip(first, both("training.max_length=80"), strict=True))  # which questions fit
    other = both("training.learning_rate=0.5")
    assert (other[0] == first[0], other[1] == first[1]) == (True, False)


def test_a_teacher_of_another_family_teaches_by_text(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    strange = jobs.words()
    strange.chat_template = "{% for m in messages %}{{ m.content }} </s> {% endfor %}"
    save_tiny(workshop.folder / "strange", layers=2, seed=4, tokens=strange)
    workshop.rows("train", ROWS)
    file = workshop.write(teacher__path=str(workshop.folder / "strange"), stages=[seqkd(samples_per_prompt=2)])
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run("kd", 0)
    do_run(run.parents[0])
    assert do_run(run)["data"]["answers"]["samples"] == 24
    assert "its answers are decoded to text" in capsys.readouterr().out


@pytest.mark.parametrize("thinking", [None, False])
def test_answers_to_other_prompts_than_the_students_are_told(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], thinking: bool | None
):
    """A teacher whose prompt opens a thought, and a student that does not think."""
    qwen = Path(__file__).parents[1] / "helpers/rows/look_alikes/qwen_3_5.jinja"
    section = {"chat_template": str(qwen)}
    student = section if thinking is None else section | {"thinking": thinking}
    models = {role: {"path": str(workshop.models / role)} for role in ("teacher", "student")}
    workshop.rows("train", ROWS[:4])
    stages = [seqkd(samples_per_prompt=1)]
    file = workshop.write(teacher=models["teacher"] | section, student=models["student"] | student, stages=stages)
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run("kd", 0)
    do_run(run.parents[0])
    do_run(run)
    said = capsys.readouterr().out
    assert ("teacher and student have different chat templates" in said) == (thinking is False)
    assert ("with the thought that they open" in said) == (thinking is False)


def test_only_a_teacher_whose_prompts_open_a_thought_is_said_to_open_one(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
):
    plain = workshop.folder / "plain.jinja"
    plain.write_text("{% for m in messages %}{{ m.content }} </s> {% endfor %}")
    models = {role: {"path": str(workshop.models / role)} for role in ("teacher", "student")}
    workshop.rows("train", ROWS[:4])
    teacher = models["teacher"] | {"chat_template": str(plain)}
    file = workshop.write(teacher=teacher, student=models["student"], stages=[seqkd(samples_per_prompt=1)])
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run("kd", 0)
    do_run(run.parents[0])
    do_run(run)
    said = " ".join(capsys.readouterr().out.split())
    assert "what the teacher wrote after prompts in its own" in said
    assert "thought" not in said


def test_answers_belong_to_the_rows_they_were_written_for(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    """Two data sets: a row of the first is too long, and the second is named twice."""
    long = {"prompt": "The cat sat? " * 40, "completion": "The dog ran."}
    workshop.rows("train", [long, *ROWS])
    seen: list[TokenSequence] = []
    monkeypatch.setattr(Trainer, "run", lambda self: seen.extend(self.job.examples) or {})
    stage = seqkd(data=["train", "test", "test"], samples_per_prompt=1)
    file = workshop.write(stages=[stage], data__train__max_bad_rows=0.2)
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run("kd", 0)
    do_run(run.parents[0])
    do_run(run)
    written = {a.row: a.tokens for a in read_answers(run.parents[0].folder)}
    assert 0 not in written  # it is not asked in vain
    assert [tuple(s.ids[s.prompt_length :].tolist()) for s in seen] == [
        written[row] for row in [*range(1, 13), *range(13, 17), *range(13, 17)]
    ]
    assert [s.index for s in seen] == list(range(1, 21))


def test_a_section_that_also_validates_gets_answers_too(workshop: Workshop):
    stage = seqkd(data=["train", "test"], samples_per_prompt=1, training={"validation": "train"})
    run = Planner(load_recipe(workshop.write(stages=[stage])), workshop.folder, workshop.runs).stage_run("kd", 0)
    assert list(run.parents[0].data) == ["train", "test"]
