"""Sequences → micro-batches, by a token budget, without padding where the attention allows. The only label shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tutelage.common.types import MicroBatch, TokenSequence
from tutelage.data.teacher_prompts import teacher_view


def take_copies(
    examples: Sequence[TokenSequence], weights: Tensor, order: Tensor, first: int, last: int
) -> list[TokenSequence]:
    """Copies `first` to `last` (exclusive) of the examples in this order, example i counting as `weights[i]` copies.

    An example that crosses an end is taken with as much weight as lies inside. So batches hold the same number of
    copies whether copies are kept apart or once with a weight, and an epoch has the same number of steps.
    """
    ends = weights[order].cumsum(0)
    inside = ends.clamp(max=last) - (ends - weights[order]).clamp(min=first)
    out = []
    for place in (inside > 0).nonzero().squeeze(-1).tolist():
        example, weight = examples[int(order[place])], float(inside[place])
        out.append(example if weight == example.weight else replace(example, weight=weight))
    return out


def rank_share(sequences: Sequence[TokenSequence], rank: int, ranks: int) -> list[TokenSequence]:
    """What falls to a rank: as many sequences as to others, one more or less, and nearly as many tokens.

    They are dealt out from the longest to the shortest, each second round from the last rank to the first.
    """
    if ranks == 1:
        return list(sequences)
    ordered = sorted(sequences, key=lambda sequence: -len(sequence.ids))
    places = {rank, 2 * ranks - 1 - rank}
    return [sequence for i, sequence in enumerate(ordered) if i % (2 * ranks) in places]


def group_by_budget(lengths: Sequence[int], budget: int, padded: bool) -> list[list[int]]:
    """Positions grouped so that each group holds at most `budget` tokens (padding counted when `padded`).

    Packed: longest first, each into the fullest group that still has room. Padded: neighbours in length together.
    A sequence longer than the budget gets a group of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    free: list[int] = []  # tokens of room left, or for padded groups: rows
    for i in order:
        if padded:
            fits = [len(groups) - 1] if groups and free[-1] > 0 else []
        else:
            fits = [g for g, room in enumerate(free) if room >= lengths[i]]
        if fits:
            best = min(fits, key=lambda g: free[g])
            groups[best].append(i)
            free[best] -= 1 if padded else lengths[i]
        else:
            groups.append([i])
            free.append(budget // max(1, lengths[i]) - 1 if padded else budget - lengths[i])
    return groups


def make_micro_batch(
    sequences: Sequence[TokenSequence], token_weights: Sequence[float], padded: bool, pad_id: int = 0
) -> MicroBatch:
    """Lay sequences out for one forward pass. `token_weights[i]` is the weight of each response token of sequence i.

    Where the teacher reads prompts in its own rendering, `.teacher` is the same batch as it sees it.
    """
    lengths = [len(s.ids) for s in sequences]
    teacher = None
    if any(s.teacher_prompts is not None for s in sequences):
        teacher = make_micro_batch([teacher_view(s) for s in sequences], token_weights, padded, pad_id)
    width = max(lengths)
    starts = [i * width for i in range(len(lengths))] if padded else [sum(lengths[:i]) for i in range(len(lengths))]
    predict, labels, weights, rows = [], [], [], []
    for row, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
        # The label shift: position p predicts token p + 1, and carries loss where that token is a response token.
        positions = sequence.loss_mask[1:].nonzero().squeeze(-1)
        predict.append(positions + start)
        labels.append(sequence.ids[positions + 1])
        weights.append(torch.full((len(positions),), token_weights[row], dtype=torch.float32))
        rows.append(torch.full((len(positions),), row))
    common = {
        "predict": torch.cat(predict),
        "labels": torch.cat(labels),
        "weights": torch.cat(weights),
        "rows": torch.cat(rows),
        "indices": tuple(s.index for s in sequences),
        "max_seqlen": width,
        "teacher": teacher,
    }
    if not padded:
        return MicroBatch(
            input_ids=torch.cat([s.ids for s in sequences])[None],
            position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
            cu_seqlens=torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32),
            lengths=tuple(lengths),
            **common,
        )
    input_ids = torch.full((len(lengths), width), pad_id)
    mask = torch.zeros((len(lengths), width), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        input_ids[row, : lengths[row]] = sequence.ids
        mask[row, : lengths[row]] = 1
    position_ids = torch.arange(width).expand(len(lengths), width)
    return MicroBatch(
        input_ids=input_ids, position_ids=position_ids, attention_mask=mask, lengths=tuple(lengths), **common
    )


def make_micro_batches(
    sequences: Sequence[TokenSequence], token_weights: Sequence[float], budget: int, padded: bool, pad_id: int = 0
) -> list[MicroBatch]:
    """All sequences of a rank's share of an optimizer batch, in micro-batches of at most `budget` tokens."""
    lengths = [max(len(s.ids), len(teacher_view(s).ids)) for s in sequences]
    groups = group_by_budget(lengths, budget, padded)
    return [
        make_micro_batch([sequences[i] for i in group], [token_weights[i] for i in group], padded, pad_id)
        for group in groups
    ]
