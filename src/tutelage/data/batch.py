"""Token sequences → micro-batches of a token budget, packed if the model allows it; labels are shifted only here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tutelage.common.types import MicroBatch, TokenSequence
from tutelage.data.teacher_prompts import teacher_view


class Order:
    """An order of examples, and where their copies end in it, so that a step reads those of its own batch alone.

    weights: float64 [n], example i is weights[i] copies; order: int64 [n].
    """

    def __init__(self, weights: Tensor, order: Tensor) -> None:
        self.order, self.weights = order, weights
        self.ends = weights[order].cumsum(0)

    def take(self, examples: Sequence[TokenSequence], first: int, last: int) -> list[TokenSequence]:
        """Copies `first` to `last` (exclusive) of the examples.

        An example that crosses `first` or `last` is taken with the part of its weight between them. So a batch has the
        same number of copies, and an epoch the same number of steps, whether copies are stored separately or once with
        a weight.
        """
        start = int(torch.searchsorted(self.ends, first, right=True))
        stop = int(torch.searchsorted(self.ends, last)) + 1
        ends, places = self.ends[start:stop], self.order[start:stop]
        taken = ends.clamp(max=last) - (ends - self.weights[places]).clamp(min=first)
        out = []
        for position in (taken > 0).nonzero().squeeze(-1).tolist():
            example, weight = examples[int(places[position])], float(taken[position])
            out.append(example if weight == example.weight else replace(example, weight=weight))
        return out


def rank_share(sequences: Sequence[TokenSequence], rank: int, ranks: int) -> list[TokenSequence]:
    """A rank's share of the batch: equally many sequences (±1) and nearly equally many tokens.

    Sequences are dealt out from the longest to the shortest, in alternating directions over the ranks.
    """
    if ranks == 1:
        return list(sequences)
    ordered = sorted(sequences, key=lambda sequence: -len(sequence.ids))
    places = {rank, 2 * ranks - 1 - rank}
    return [sequence for i, sequence in enumerate(ordered) if i % (2 * ranks) in places]


def group_by_budget(lengths: Sequence[int], budget: int, padded: bool) -> list[list[int]]:
    """Indices of `lengths` in groups of at most `budget` tokens each; with `padded`, padding counts too.

    Packed: longest first, each into the fullest group with enough space. Padded: sequences of similar length together.
    A sequence longer than the budget gets a group of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    free: list[int] = []  # space left per group, in tokens, or in rows if padded
    for i in order:
        if padded:
            fits = [len(groups) - 1] if groups and free[-1] > 0 else []
        else:
            fits = [g for g, space in enumerate(free) if space >= lengths[i]]
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
    """Lay sequences out for one forward pass; token_weights[i] is the loss weight of each response token of sequence i.

    `padded`: rows [B, L] padded with `pad_id`, else one packed row [1, T]. If the sequences have `teacher_prompts`,
    `.teacher` is the same batch with the teacher's rendering of the prompts.
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
        "sampled": any(s.author == "student" for s in sequences),
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
    sequences: Sequence[TokenSequence],
    token_weights: Sequence[float],
    budget: int,
    padded: bool,
    pad_id: int = 0,
    by_author: bool = False,
) -> list[MicroBatch]:
    """A rank's sequences of an optimizer batch in micro-batches of at most `budget` tokens; see `make_micro_batch`.

    A sequence counts as long as the longer of its two renderings, the student's and the teacher's. With `by_author`, a
    micro-batch has either only responses of the student or none.
    """
    lengths = [max(len(s.ids), len(teacher_view(s).ids)) for s in sequences]
    parts = [range(len(sequences))]
    if by_author:
        parts = [[i for i in parts[0] if (sequences[i].author == "student") == own] for own in (False, True)]
    groups = [
        [part[k] for k in group]
        for part in parts
        for group in group_by_budget([lengths[i] for i in part], budget, padded)
    ]
    return [
        make_micro_batch([sequences[i] for i in group], [token_weights[i] for i in group], padded, pad_id)
        for group in groups
    ]
