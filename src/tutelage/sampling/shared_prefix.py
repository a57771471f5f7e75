"""Finding prompts with a common prefix, which is then read once (few-shot examples, several samples per prompt).

In sorted order, prompts with a common prefix are neighbours, and the prefixes form a tree: a branch is a run of
neighbours that share a prefix, and branches with longer prefixes are inside it. For each branch the cheaper choice is
taken: one group of all its prompts, or the groups of its inner branches and one group of the prompts left over.

Example: prompts A and B share 1,000 tokens (a system message and few-shot examples), C shares only the 70 tokens of the
system message with them. The branch {A, B, C} as one group saves 2 × 70 = 140 tokens; the inner branch {A, B} as a
group saves 1,000. So A and B form a group that shares 1,000 tokens, and C is read alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

MIN_SHARED_TOKENS = 64  # shorter prefixes are not shared
MIN_PROMPTS = 2  # in a group


@dataclass(frozen=True)
class GroupedPrompt:
    """A prompt's group and its place in the reading order."""

    index: int  # in the caller's list
    group: int
    shared: int  # length of the group's common prefix; 0: the prompt is alone in its group


@dataclass(frozen=True)
class Prefill:
    """A prompt to be read into `slot`. Its first `start` tokens are already cached in slot `holder`, or will be by this
    very pass."""

    ids: Sequence[int]
    slot: int
    start: int
    holder: int


def reading_order(
    prompts: Sequence[Sequence[int]],
    *,
    min_tokens: int = MIN_SHARED_TOKENS,
    min_prompts: int = MIN_PROMPTS,
    share: bool = True,
) -> list[GroupedPrompt]:
    """All prompts, one group after the other; the longest first within a group, and the groups by their longest prompt.

    min_tokens: shortest prefix that is shared; min_prompts: smallest group; share=False: every prompt is alone.
    """
    groups = find_groups(prompts, min_tokens, min_prompts) if share else []
    grouped = {i for rows, _ in groups for i in rows}
    groups += [([i], 0) for i in range(len(prompts)) if i not in grouped]
    ordered = [(sorted(rows, key=lambda i: (-len(prompts[i]), i)), shared) for rows, shared in groups]
    ordered.sort(key=lambda group: (-len(prompts[group[0][0]]), group[0][0]))
    return [GroupedPrompt(i, number, shared) for number, (rows, shared) in enumerate(ordered) for i in rows]


def find_groups(prompts: Sequence[Sequence[int]], min_tokens: int, min_prompts: int) -> list[tuple[list[int], int]]:
    """(indices of the prompts, length of their common prefix) for every group that saves tokens.

    A prompt's last token is never part of a shared prefix: it must be read to get the first new token.
    """
    shareable = [np.asarray(prompt[:-1], dtype=">u4") for prompt in prompts]
    sort_keys = [prefix.tobytes() for prefix in shareable]  # big-endian, so that bytes sort like the token ids
    order = sorted(range(len(prompts)), key=lambda i: sort_keys[i])
    path = [_Branch(0, 0)]  # from the root to the last prompt
    for place, i in enumerate(order):
        shared = _common_prefix(shareable[order[place - 1]], shareable[i]) if place else 0
        _close_branches(path, shared, order, min_tokens, min_prompts)
        if len(shareable[i]) > path[-1].length:
            path.append(_Branch(len(shareable[i]), place))
        path[-1].count += 1
        path[-1].ungrouped.append(i)
    _close_branches(path, 0, order, min_tokens, min_prompts)
    return path[0].groups


def passes(prefills: Sequence[Prefill], tokens: int, keys_per_token: int) -> Iterator[list[Prefill]]:
    """Split into packed passes of at most `tokens` tokens to read and `keys_per_token` × `tokens` keys to attend to.

    The order is kept, so that no prompt comes before the holder of its prefix. A longer prompt gets a pass of its own.
    """
    part: list[Prefill] = []
    used = 0
    for prefill in prefills:
        cost = max(len(prefill.ids) - prefill.start, len(prefill.ids) // keys_per_token)
        if part and used + cost > tokens:
            yield part
            part, used = [], 0
        part.append(prefill)
        used += cost
    if part:
        yield part


@dataclass
class _Branch:
    """Prompts that share `length` tokens: the `count` prompts from position `start` of the sorted order."""

    length: int
    start: int
    count: int = 0
    saved: int = 0  # tokens that `groups` save
    groups: list[tuple[list[int], int]] = field(default_factory=list)
    ungrouped: list[int] = field(default_factory=list)  # in none of the groups


def _close_branches(path: list[_Branch], length: int, order: list[int], min_tokens: int, min_prompts: int) -> None:
    """Close the branches that share more than `length` tokens; the next prompt shares `length` with the last one."""
    while path[-1].length > length:
        branch = path.pop()
        if branch.length >= min_tokens:
            _form_groups(branch, order, min_prompts)
        if path[-1].length < length:
            path.append(_Branch(length, branch.start))
        parent = path[-1]
        parent.count += branch.count
        parent.saved += branch.saved
        parent.groups += branch.groups
        parent.ungrouped += branch.ungrouped


def _form_groups(branch: _Branch, order: list[int], min_prompts: int) -> None:
    """Decide between one group for the whole branch, and the inner groups plus one of the prompts left over."""
    as_one_group = (branch.count - 1) * branch.length
    left_over = (len(branch.ungrouped) - 1) * branch.length if len(branch.ungrouped) >= min_prompts else 0
    if branch.count >= min_prompts and as_one_group >= branch.saved + left_over:
        branch.groups = [(order[branch.start : branch.start + branch.count], branch.length)]
        branch.ungrouped, branch.saved = [], as_one_group
    elif left_over:
        branch.groups.append((branch.ungrouped, branch.length))
        branch.ungrouped, branch.saved = [], branch.saved + left_over


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """The number of tokens that two prompts have in common at their start."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length
