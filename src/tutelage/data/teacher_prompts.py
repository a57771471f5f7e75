"""A teacher with another chat template: it reads each prompt in its own rendering, and scores the student's responses.

What stands between responses (system and user turns, headers, the opening of the assistant's turn) is rendered by the
teacher's template; the response tokens are the student's own. `batch.teacher_view` puts the two together. The token
that ends the teacher's turns is exchanged with the student's in what it reads, as `teacher.exchange_tokens` does in its
weights: so it ends its turns with the student's token and reads its own everywhere else.
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
    """Whether both render every conversation alike, but for the token that ends a turn."""
    return student.text == teacher.text and student.tokenizer.bos_token == teacher.tokenizer.bos_token


def align(
    sequences: Sequence[TokenSequence],
    conversations: Sequence[Conversation],
    student: ChatTemplate,
    teacher: ChatTemplate,
) -> list[TokenSequence]:
    """The sequences with `teacher_prompts`; `conversations[sequence.index]` is what a sequence was made of.

    Raises TutelageError for a conversation that the teacher's template cannot render.
    """
    if same_rendering(student, teacher):
        return list(sequences)
    own, others = teacher.end_of_turn_id, student.end_of_turn_id
    exchanged = {own: others, others: own}
    rows = dict.fromkeys(sequence.index for sequence in sequences if not conversations[sequence.index].plain)
    rendered = dict(zip(rows, teacher.prompt_parts([conversations[row] for row in rows]), strict=True))
    out = []
    for sequence in sequences:
        prompts: tuple[Tensor, ...] = (sequence.ids[: sequence.prompt_length],)  # plain text: the same to both
        if sequence.index in rendered:
            parts = rendered[sequence.index]
            prompts = tuple(torch.tensor([exchanged.get(token, token) for token in ids]) for ids in parts)
        out.append(replace(sequence, teacher_prompts=prompts))
    return out


def teacher_view(sequence: TokenSequence) -> TokenSequence:
    """The sequence as the teacher reads it: its own rendering of what stands between responses, the same responses.

    The response tokens are the student's, one by one and in the same order, so predictions align as they are.
    """
    if sequence.teacher_prompts is None:
        return sequence
    prompts = iter(sequence.teacher_prompts)
    mask = sequence.loss_mask
    borders = [0, *((mask[1:] != mask[:-1]).nonzero().squeeze(-1) + 1).tolist(), len(mask)]
    ids, response, prompt_length = [], [], 0
    for start, end in pairwise(borders):
        if bool(mask[start]):
            prompt_length = sum(map(len, ids))
            ids.append(sequence.ids[start:end])
        else:
            ids.append(next(prompts))
        response.append(torch.full((len(ids[-1]),), bool(mask[start])))
    return replace(
        sequence, ids=torch.cat(ids), loss_mask=torch.cat(response), prompt_length=prompt_length, teacher_prompts=None
    )
