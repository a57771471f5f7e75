"""A teacher with another template: it reads its own prompts and predicts the student's response tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch
from chat_templates import CHATML, LLAMA3, MULTI, OPEN_THOUGHT, chat, tokenizer
from recipes_fixture import ROWS, Workshop, save_tiny

from tutelage.common.types import Conversation, Message, Sample, TokenSequence
from tutelage.data.batch import make_micro_batch, make_micro_batches
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.teacher_prompts import align, same_rendering, teacher_view
from tutelage.loss.divergence import generalized_jsd
from tutelage.loss.objective import Divergence
from tutelage.models.load import LoadedModel
from tutelage.models.vocabulary import check_vocabularies
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import SamplingConfig
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.teachers.local import LocalTeacher
from tutelage.training.on_policy import RolloutPlan, with_response, write_responses
from tutelage.training.trainer import Trainer

STUDENT = ChatTemplate(tokenizer(CHATML))
# Another template and another end token; the same template with another end token; another template, the same end.
TEACHERS = {"llama3": (LLAMA3, "<|eot|>"), "chatml-eot": (CHATML.replace("<|im_end|>", "<|eot|>"), "<|eot|>")}
TEACHERS["open thought"] = (OPEN_THOUGHT, "<|im_end|>")
SIZE = len(STUDENT.tokenizer)


def ending_in(text: str, eos: str) -> Any:
    """The same vocabulary with another template and another eos."""
    tokens = tokenizer(text)
    tokens.eos_token = eos
    return tokens


def teacher_template(kind: str) -> ChatTemplate:
    tokens = ending_in(*TEACHERS[kind])
    assert check_vocabularies(tokens, STUDENT.tokenizer) is None
    return ChatTemplate(tokens)


def encode(conversations: list[Conversation], max_length: int = 10_000) -> list[TokenSequence]:
    return [STUDENT.encode(c, i, max_length) for i, c in enumerate(conversations)]


def texts_between(template: ChatTemplate, conversation: Conversation) -> list[str]:
    """The text before each assistant turn, found by rendering markers in place of the answers."""
    with_markers, count = [], 0
    for message in conversation.messages:
        if message.role == "assistant":
            with_markers.append(Message("assistant", f"MARK{count}"))
            count += 1
        else:
            with_markers.append(message)
    rest, out = template.render(with_markers, False), []
    end = template.tokenizer.convert_ids_to_tokens(template.end_of_turn_id)
    for n in range(count):
        before, _, rest = rest.partition(f"MARK{n}{end}")
        out.append(before)
    return out


def by_hand(
    template: ChatTemplate, conversation: Conversation, student: TokenSequence
) -> tuple[torch.Tensor, list[int]]:
    """The teacher's own tokens [L] around the student's responses, with its own ends, and the responses' positions."""
    responses, run = [], []
    for token, response in zip(student.ids.tolist(), student.loss_mask.tolist(), strict=True):
        run = [*run, token] if response else run
        if response and token == STUDENT.end_of_turn_id:
            responses, run = [*responses, run], []
    responses = [*responses, run] if run else responses
    ids, positions = [], []
    opened = "[think]" if "[think]" in template.text else ""
    for text, response in zip(texts_between(template, conversation), responses, strict=False):
        if opened and not text.endswith(opened):
            text += opened  # the generation prompt is longer than the start of a rendered turn
        ids += template.tokenizer(text, add_special_tokens=False)["input_ids"]
        positions += range(len(ids), len(ids) + len(response))
        ids += [template.end_of_turn_id if t == STUDENT.end_of_turn_id else t for t in response]
    return torch.tensor(ids), positions


def swapped(template: ChatTemplate) -> torch.Tensor:
    columns = torch.arange(SIZE)
    a, b = template.end_of_turn_id, STUDENT.end_of_turn_id
    columns[[a, b]] = columns[[b, a]]
    return columns


def logits_of(
    teacher: LocalTeacher, sequences: list[TokenSequence], padded: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    batch = make_micro_batch(sequences, [1.0] * len(sequences), padded)
    signal = teacher.signal(batch)
    return signal.hidden @ signal.head.weight.t(), batch.labels


CONVERSATIONS = [
    chat("The cat?", "The dog ran."),
    MULTI,
    chat("Hello", "1 2", "3", "\n\nThe dog"),
    chat("a", "b", system="Fine, thank you."),
]


def test_plain_text_is_the_same_for_student_and_teacher():
    text = Conversation("x", (Message("assistant", "The cat sat."),), source="x")
    teacher, rows = teacher_template("llama3"), [text, CONVERSATIONS[0]]
    sequences = align(encode(rows), rows, STUDENT, teacher)
    assert torch.equal(teacher_view(sequences[0]).ids, sequences[0].ids)
    alone = align(encode(rows[1:]), rows[1:], STUDENT, teacher)[0]
    assert torch.equal(teacher_view(sequences[1]).ids, teacher_view(alone).ids)


@pytest.mark.parametrize("kind", ["llama3", "chatml-eot"])
def test_data_responses_are_scored_as_in_a_direct_forward_pass(kind: str):
    template = teacher_template(kind)
    original = tiny.llama(layers=3, vocab=SIZE, packed=False)
    sequences = align(encode(CONVERSATIONS), CONVERSATIONS, STUDENT, template)
    loaded = LoadedModel(tiny.llama(layers=3, vocab=SIZE), template.tokenizer, template, True, "")
    got, labels = logits_of(LocalTeacher(loaded, STUDENT.end_of_turn_id), sequences)
    expected, tokens = [], []
    for sequence, conversation in zip(sequences, CONVERSATIONS, strict=True):
        ids, positions = by_hand(template, conversation, sequence)
        with torch.no_grad():
            expected.append(original(ids[None]).logits[0, [p - 1 for p in positions]][:, swapped(template)])
        tokens += sequence.ids[sequence.loss_mask].tolist()
    assert labels.tolist() == tokens  # the student's tokens, one to one
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-4, atol=1e-4)
    # every turn has the student's end token
    ends = labels == STUDENT.end_of_turn_id
    assert int(ends.sum()) == sum(m.role == "assistant" for c in CONVERSATIONS for m in c.messages)


@pytest.mark.parametrize("kind", TEACHERS)
def test_sampled_responses_are_scored_as_in_a_direct_forward_pass(kind: str):
    template = teacher_template(kind)
    end = STUDENT.end_of_turn_id
    # a template that begins thoughts renders earlier turns differently, so it only takes single turns
    student = tiny.llama(vocab=SIZE)
    conversations = [CONVERSATIONS[0], CONVERSATIONS[3 if kind == "open thought" else 2]]
    examples = align(encode(conversations), conversations, STUDENT, template)
    plan = RolloutPlan(1.0, SamplingConfig(max_new_tokens=9), 0, 10_000)
    sampler = TorchSampler(student, [end, *range(300, 340)], True)
    sampled = write_responses(plan, examples, 0, 0, sampler, None)
    sampled += [with_response(examples[1], Sample((5, 9, end), (), True), 10_000)]
    loaded = LoadedModel(tiny.llama(layers=3, vocab=SIZE), template.tokenizer, template, True, "")
    got, labels = logits_of(LocalTeacher(loaded, end), sampled)
    original, expected = tiny.llama(layers=3, vocab=SIZE, packed=False), []
    for sequence in sampled:
        conversation = conversations[sequence.index]
        answer = sequence.ids[sequence.prompt_length :].tolist()
        # all turns before the last are from the data; the sample follows the teacher's prompt
        ids, positions = by_hand(template, conversation, encode(conversations)[sequence.index])
        last = [p for p in positions if p - 1 not in positions][-1]
        ids = torch.cat([ids[:last], torch.tensor([template.end_of_turn_id if t == end else t for t in answer])])
        with torch.no_grad():
            logits = original(ids[None]).logits[0, last - 1 : -1]
        expected.append(logits[:, swapped(template)])
    assert labels.tolist() == [t for s in sampled for t in s.ids[s.prompt_length :].tolist()]
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-4, atol=1e-4)


def test_equal_templates_need_one_batch():
    sequences = encode(CONVERSATIONS)
    same = ChatTemplate(tokenizer(CHATML))
    assert same_rendering(STUDENT, same)
    assert align(sequences, CONVERSATIONS, STUDENT, same) == sequences
    assert make_micro_batch(sequences, [1.0] * 4, False).teacher is None
    assert not same_rendering(STUDENT, teacher_template("llama3"))


@pytest.mark.parametrize("padded", [False, True])
def test_cuts_budgets_and_padding_keep_the_alignment(padded: bool):
    template = teacher_template("llama3")
    sequences = align(encode(CONVERSATIONS, max_length=35), CONVERSATIONS, STUDENT, template)
    assert any(s.cut for s in sequences)
    batches = make_micro_batches(sequences, [0.25] * 4, 60, padded)
    assert len(batches) > 1
    for batch in batches:
        assert batch.teacher is not None
        assert torch.equal(batch.teacher.labels, batch.labels)
        assert torch.equal(batch.teacher.rows, batch.rows)
        assert torch.equal(batch.teacher.weights, batch.weights)
        moved = batch.to(torch.device("cpu")).teacher
        assert moved is not None
    view = teacher_view(sequences[1])
    assert view.ids[view.loss_mask].tolist() == sequences[1].ids[sequences[1].loss_mask].tolist()
    start = view.prompt_length
    assert not bool(view.loss_mask[start - 1])
    assert bool(view.loss_mask[start])


def test_a_steps_loss_is_the_divergence_of_direct_forward_passes(tmp_path: Path):
    """Loss of a whole step, half of it on policy, from plain forward passes."""
    template = teacher_template("llama3")
    examples = align(encode(CONVERSATIONS), CONVERSATIONS, STUDENT, template)
    job = jobs.sft(tmp_path, model=tiny.llama(vocab=SIZE), batch_size=4, max_length=10_000)
    student = LoadedModel(job.student.model, STUDENT.tokenizer, STUDENT, True, "")
    loaded = LoadedModel(tiny.llama(layers=3, vocab=SIZE, seed=1), template.tokenizer, template, True, "")
    job = dataclasses.replace(
        job,
        student=student,
        teacher=LocalTeacher(loaded, STUDENT.end_of_turn_id),
        objective=Divergence(0.5),
        examples=examples,
        rollouts=RolloutPlan(0.5, SamplingConfig(max_new_tokens=12), 3, 10_000),
        sampler=TorchSampler(student.model, STUDENT.end_of_turn_ids, True),
    )
    assert job.rollouts is not None
    sequences = write_responses(job.rollouts, examples, 0, 0, job.sampler, None)
    assert {s.author for s in sequences} == {"data", "student"}
    plain, teacher = tiny.llama(vocab=SIZE, packed=False), LocalTeacher(loaded)
    total, tokens = 0.0, 0
    with torch.no_grad():
        for sequence in sequences:
            view = teacher_view(sequence)
            teacher_logits = loaded.model(view.ids[None]).logits[0, :-1][view.loss_mask[1:]]
            student_logits = plain(sequence.ids[None]).logits[0, :-1][sequence.loss_mask[1:]]
            total += float(generalized_jsd(student_logits, teacher_logits, 0.5).sum())
            tokens += len(student_logits)
    assert teacher.loaded.template is template
    assert Trainer(job).step(0)["loss"] == pytest.approx(total / tokens, rel=1e-4)


def recipe_with(workshop: Workshop, text: str, eos: str, **keys: Any) -> Path:
    save_tiny(workshop.folder / "other", layers=3, seed=5, tokens=ending_in(text, eos))
    stage = {"name": "gkd", "kind": "distill", "student": "base", "data": "train", "sampling": {"max_new_tokens": 6}}
    return workshop.write(
        teacher__path=str(workshop.folder / "other"), training__validation="test", stages=[stage | keys]
    )


def test_a_recipe_with_another_teacher_template_runs_and_reports_it(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
):
    workshop.rows("train", ROWS)
    file = recipe_with(workshop, LLAMA3, "<|eot|>")
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run("gkd", 0)
    result = do_run(run)
    assert "gkd: teacher and student have different chat templates" in capsys.readouterr().out
    assert result["last"]["step"] == 3
    assert result["perplexity_after"] > 0
