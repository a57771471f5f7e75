"""The teacher's signal, and the exchange of its end of turn with the student's."""

from __future__ import annotations

import jobs
import pytest
import tiny
import torch

from tutelage.data.batch import make_micro_batch
from tutelage.teachers.local import LocalTeacher, exchange_tokens

A, B = 2, 7
MAKERS = {
    "tied": lambda: tiny.llama(packed=False),
    "untied": lambda: tiny.llama(tie=False, packed=False),
    "capped and scaled": tiny.gemma2,
}


def swapped(ids: torch.Tensor) -> torch.Tensor:
    return torch.where(ids == A, B, torch.where(ids == B, A, ids))


@pytest.mark.parametrize("kind", MAKERS)
@torch.no_grad()
def test_exchanged_logits_are_the_original_ones_with_both_ids_swapped(kind: str):
    original, changed = MAKERS[kind](), MAKERS[kind]()
    exchange_tokens(changed, A, B)
    ids = torch.tensor([[5, A, 9, B, B, 30, A, 11]])
    expected = original(swapped(ids)).logits
    columns = torch.arange(97)
    got = changed(ids).logits
    torch.testing.assert_close(got, expected[..., swapped(columns)], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got, original(ids).logits, atol=1e-2)
    exchange_tokens(changed, B, A)
    assert torch.equal(changed(ids).logits, original(ids).logits)  # its own inverse


@torch.no_grad()
def test_the_heads_bias_is_exchanged_too():
    model = tiny.llama(tie=False, packed=False)
    model.lm_head.bias = torch.nn.Parameter(torch.arange(97.0))
    before = model(torch.tensor([[5, 9]])).logits
    exchange_tokens(model, A, B)
    after = model(torch.tensor([[5, 9]])).logits
    torch.testing.assert_close(after, before[..., swapped(torch.arange(97))])


@pytest.mark.parametrize("tie", [True, False])
@torch.no_grad()
def test_the_students_end_gets_the_probability_of_the_teachers(tie: bool):
    """The teacher ends turns with `</s>` (2), the student with `w7` (7)."""
    sequence = tiny.sequences((20,))[0]
    sequence.ids[[6, 19]] = B  # the student's end token
    original = tiny.llama(tie=tie, packed=False)
    expected = original(swapped(sequence.ids)[None]).logits[0, 3:-1].softmax(-1)

    loaded = jobs.loaded(tiny.llama(tie=tie))
    assert loaded.template.end_of_turn_id == A
    signal = LocalTeacher(loaded, student_end_id=B).signal(make_micro_batch([sequence], [1.0], False))
    got = (signal.hidden @ signal.head.weight.t()).softmax(-1)
    torch.testing.assert_close(got[:, B], expected[:, A], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got[:, A], expected[:, B], rtol=1e-5, atol=1e-7)
    others = [i for i in range(97) if i not in (A, B)]
    torch.testing.assert_close(got[:, others], expected[:, others], rtol=1e-5, atol=1e-7)
    unmapped = LocalTeacher(jobs.loaded(tiny.llama(tie=tie))).signal(make_micro_batch([sequence], [1.0], False))
    assert not torch.allclose((unmapped.hidden @ unmapped.head.weight.t()).softmax(-1)[:, B], expected[:, A], rtol=1e-2)


@pytest.mark.parametrize("end", [None, A])
def test_an_equal_end_leaves_the_teacher_unchanged_and_frozen(end: int | None):
    reference, model = tiny.llama(), tiny.llama().train()
    teacher = LocalTeacher(jobs.loaded(model), student_end_id=end)
    for a, b in zip(reference.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    signal = teacher.signal(make_micro_batch(tiny.sequences((9, 6)), [1.0, 1.0], False))
    assert (tuple(signal.hidden.shape), signal.hidden.requires_grad) == ((7, 32), False)


def test_the_students_autocast_does_not_affect_the_teacher():
    batch = make_micro_batch(tiny.sequences((9, 6)), [1.0, 1.0], False)
    teacher = LocalTeacher(jobs.loaded(tiny.llama()))
    plain = teacher.signal(batch).hidden
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher.signal(batch).hidden, plain)
