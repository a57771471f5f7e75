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

from tutelage.common.types import Conversation, TokenSequence
from tutelage.data.chat_template import ChatTemplate, Part, RenderError
from tutelage.data.columns import BadRow


def same_rendering(student: ChatTemplate, teacher: ChatTemplate) -> bool:
    """Whether both templates render every conversation alike, except for the end-of-turn token."""
    same = student.text == teacher.text and student.thinking == teacher.thinking
    return same and student.tokenizer.bos_token == teacher.tokenizer.bos_token


def align(
    sequences: Sequence[TokenSequence],
    conversations: Sequence[Conversation],
    student: ChatTemplate,
    teacher: ChatTemplate,
    refused: list[BadRow] | None = None,
) -> list[TokenSequence]:
    """The sequences with `teacher_prompts`, or unchanged if both templates render alike.

    `conversations[sequence.index]` is the conversation of a sequence. Where the teacher's template renders earlier
    turns differently in longer chats, a sequence of several turns becomes one per turn. A conversation that the
    teacher's template cannot render goes to `refused`, or raises RenderError if that is None.
    """
    if same_rendering(student, teacher):
        return list(sequences)
    rendered: list[tuple[TokenSequence, list[list[Part]]]] = []
    for sequence in sequences:
        row = conversations[sequence.index]
        try:
            rendered.append((sequence, [] if row.plain else teacher.parts(row.messages, sequence.turns)))
        except RenderError as error:
            if refused is None:
                raise RenderError(f"{row.source}: {error}") from error
            refused.append(BadRow(row.source, f"the teacher's template: {error}"))
    prompts = [part for _, groups in rendered for group in groups for part in group if part.turn is None]
    tokens = iter(teacher.tokens(prompts) if prompts else [])
    exchanged = {teacher.end_of_turn_id: student.end_of_turn_id, student.end_of_turn_id: teacher.end_of_turn_id}
    out: list[TokenSequence] = []
    for sequence, groups in rendered:
        if not groups:  # plain text has no template
            out.append(replace(sequence, teacher_prompts=(sequence.ids[: sequence.prompt_length],)))
        turns = [[part.turn for part in group if part.turn is not None] for group in groups]
        for group, own in zip(groups, _split(sequence, turns), strict=True):
            read = [[exchanged.get(t, t) for t in next(tokens)] for part in group if part.turn is None]
            part = out[-1].part + 1 if out and out[-1].index == own.index else 0
            out.append(replace(own, teacher_prompts=tuple(map(torch.tensor, read)), part=part))
    return out


def _split(sequence: TokenSequence, groups: Sequence[Sequence[int]]) -> list[TokenSequence]:
    """A sequence as one per group of its turns: the same tokens up to the group's last turn, with loss on the group."""
    if len(groups) < 2:
        return [sequence] * len(groups)
    mask = sequence.loss_mask
    starts = (mask[1:] & ~mask[:-1]).nonzero().squeeze(-1).add(1).tolist()
    ends = [*(mask[:-1] & ~mask[1:]).nonzero().squeeze(-1).add(1).tolist(), len(mask)]
    out, done = [], 0
    for group in groups:
        first, last = done, done + len(group) - 1
        end = ends[last]
        kept = mask[:end] & (torch.arange(end) >= starts[first])
        cut = sequence.cut and last == len(starts) - 1
        cuts = {"ids": sequence.ids[:end], "loss_mask": kept, "prompt_length": starts[last], "cut": cut}
        out.append(replace(sequence, **cuts, turns=tuple(group)))
        done += len(group)
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
