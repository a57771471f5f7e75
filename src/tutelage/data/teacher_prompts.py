"""A teacher with another chat template than the student: it reads each prompt in its own rendering (GKD-IT).

The text between responses (system and user turns, headers, the beginning of the assistant's turn) is rendered by the
teacher's template; the response tokens are the student's. `teacher_view` joins the two. In the teacher's prompts its
end-of-turn token is exchanged with the student's, as `teachers.local.exchange_tokens` does in its weights. So the
teacher reads its own end of turn in prompts and predicts the student's in responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from tutelage.common.types import Conversation, TokenSequence
from tutelage.data.chat_template import ChatTemplate


def same_rendering(student: ChatTemplate, teacher: ChatTemplate) -> bool:
    """Whether both templates render every conversation alike, except for the end-of-turn token."""
    return student.text == teacher.text and student.tokenizer.bos_token == teacher.tokenizer.bos_token


def align(
    sequences: Sequence[TokenSequence],
    conversations: Sequence[Conversation],
    student: ChatTemplate,
    teacher: ChatTemplate,
) -> list[TokenSequence]:
    """The sequences with `teacher_prompts`, or unchanged if both templates render alike.

    `conversations[sequence.index]` is the conversation of a sequence. Raises TutelageError for a conversation that the
    teacher's template cannot render.
    """
    if same_rendering(student, teacher):
        return list(sequences)
    teacher_end, student_end = teacher.end_of_turn_id, student.end_of_turn_id
    exchanged = {teacher_end: student_end, student_end: teacher_end}
    templated = dict.fromkeys(sequence.index for sequence in sequences if not conversations[sequence.index].plain)
    rendered = dict(zip(templated, teacher.prompt_parts([conversations[row] for row in templated]), strict=True))
    out = []
    for sequence in sequences:
        prompts: tuple[Tensor, ...] = (sequence.ids[: sequence.prompt_length],)  # plain text has no template
        if sequence.index in rendered:
            parts = rendered[sequence.index]
            prompts = tuple(torch.tensor([exchanged.get(token, token) for token in ids]) for ids in parts)
        out.append(replace(sequence, teacher_prompts=prompts))
    return out


def teacher_view(sequence: TokenSequence) -> TokenSequence:
    """The sequence as the teacher reads it: its own rendering of the text between responses, and the same responses.

    The response tokens are those of `sequence` in the same order, so predictions align one to one.
    """
    if sequence.teacher_prompts is None:
        return sequence
    prompts = iter(sequence.teacher_prompts)
    mask = sequence.loss_mask
    boundaries = [0, *((mask[1:] != mask[:-1]).nonzero().squeeze(-1) + 1).tolist(), len(mask)]
    ids, loss_masks, prompt_length = [], [], 0
    for start, end in pairwise(boundaries):
        if bool(mask[start]):
            prompt_length = sum(map(len, ids))
            ids.append(sequence.ids[start:end])
        else:
            ids.append(next(prompts))
        loss_masks.append(torch.full((len(ids[-1]),), bool(mask[start])))
    return replace(
        sequence, ids=torch.cat(ids), loss_mask=torch.cat(loss_masks), prompt_length=prompt_length, teacher_prompts=None
    )
