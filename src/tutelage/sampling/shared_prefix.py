"""Which prompts begin alike, so that what they share is read once: few-shot examples, or one prompt many times.

Sorted prompts form a tree: two neighbours part at some length, and all between two earlier partings is one
branch. Each branch of at least `fewest` prompts is either one group (all of it shares what the branch shares), or its
own branches' groups and what they left over, whichever saves more tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

SHORTEST = 64  # tokens that a shared prefix must have
FEWEST = 2  # prompts that must share it


@dataclass(frozen=True)
class Turn:
    """Prompt `index` begins with the `shared` tokens that all of its group begin with; 0: it is alone in its group."""

    index: int
    group: int
    shared: int


@dataclass(frozen=True)
class Reading:
    """A prompt for `slot`. Its first `start` tokens are in slot `holder`, since long or from the same pass."""

    ids: Sequence[int]
    slot: int
    start: int
    holder: int


def reading_order(
    prompts: Sequence[Sequence[int]], *, shortest: int = SHORTEST, fewest: int = FEWEST, share: bool = True
) -> list[Turn]:
    """All prompts, group by group and the longest first: prompts of a group, and groups by their longest prompt."""
    groups = find_groups(prompts, shortest, fewest) if share else []
    together = {i for rows, _ in groups for i in rows}
    groups += [([i], 0) for i in range(len(prompts)) if i not in together]
    ordered = [(sorted(rows, key=lambda i: (-len(prompts[i]), i)), shared) for rows, shared in groups]
    ordered.sort(key=lambda group: (-len(prompts[group[0][0]]), group[0][0]))
    return [Turn(i, number, shared) for number, (rows, shared) in enumerate(ordered) for i in rows]


def find_groups(prompts: Sequence[Sequence[int]], shortest: int, fewest: int) -> list[tuple[list[int], int]]:
    """(prompts, tokens they share) of every group worth forming. A prompt never shares its last token: reading that
    one gives its first new token."""
    heads = [np.asarray(prompt[:-1], dtype=">u4") for prompt in prompts]
    keys = [head.tobytes() for head in heads]  # big-endian, so that bytes sort as numbers do
    order = sorted(range(len(prompts)), key=lambda i: keys[i])
    path = [_Branch(0, 0)]  # from the root to the last prompt
    for place, i in enumerate(order):
        _close(path, _common(heads[order[place - 1]], heads[i]) if place else 0, order, shortest, fewest)
        if len(heads[i]) > path[-1].length:
            path.append(_Branch(len(heads[i]), place))
        path[-1].count += 1
        path[-1].loose.append(i)
    _close(path, 0, order, shortest, fewest)
    return path[0].groups


def passes(readings: Sequence[Reading], tokens: int, keys_a_token: int) -> Iterator[list[Reading]]:
    """Parts of at most so many tokens to read, and that many keys for each, in the order given: no prompt comes before
    the one that begins like it. A longer prompt gets a part of its own."""
    part: list[Reading] = []
    used = 0
    for reading in readings:
        cost = max(len(reading.ids) - reading.start, len(reading.ids) // keys_a_token)
        if part and used + cost > tokens:
            yield part
            part, used = [], 0
        part.append(reading)
        used += cost
    if part:
        yield part


@dataclass
class _Branch:
    """Prompts that share `length` tokens: `count` of them in sorted order from `start`."""

    length: int
    start: int
    count: int = 0
    saved: int = 0
    groups: list[tuple[list[int], int]] = field(default_factory=list)
    loose: list[int] = field(default_factory=list)  # in none of the groups


def _close(path: list[_Branch], length: int, order: list[int], shortest: int, fewest: int) -> None:
    """The next prompt shares `length` tokens with the last: branches longer than that are complete."""
    while path[-1].length > length:
        branch = path.pop()
        if branch.length >= shortest:
            _form_groups(branch, order, fewest)
        if path[-1].length < length:
            path.append(_Branch(length, branch.start))
        parent = path[-1]
        parent.count += branch.count
        parent.saved += branch.saved
        parent.groups += branch.groups
        parent.loose += branch.loose


def _form_groups(branch: _Branch, order: list[int], fewest: int) -> None:
    together = (branch.count - 1) * branch.length
    left_over = (len(branch.loose) - 1) * branch.length if len(branch.loose) >= fewest else 0
    if branch.count >= fewest and together >= branch.saved + left_over:
        branch.groups = [(order[branch.start : branch.start + branch.count], branch.length)]
        branch.loose, branch.saved = [], together
    elif left_over:
        branch.groups.append((branch.loose, branch.length))
        branch.loose, branch.saved = [], branch.saved + left_over


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two prompts begin with alike."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length
