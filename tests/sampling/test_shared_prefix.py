"""Groups of prompts with a common prefix, and the order in which they are read."""

import random

import pytest

from tutelage.sampling.shared_prefix import Prefill, find_groups, passes, reading_order


def words(count, seed):
    return [random.Random(f"{seed} {i}").randrange(100_000) for i in range(count)]


def groups_of(prompts, min_tokens=64, min_prompts=2):
    """The groups, sorted."""
    return sorted((sorted(rows), shared) for rows, shared in find_groups(prompts, min_tokens, min_prompts))


def category(start, examples, seed, questions, length=50):
    return [start + words(examples, seed) + words(length, f"{seed} q{i}") for i in range(questions)]


def test_long_prefixes_of_categories_are_preferred_to_a_short_one_of_all():
    system = words(70, "system")
    prompts = [p for c in "abcd" for p in category(system, 930, c, 6)]
    random.Random(0).shuffle(prompts)
    by_start = {}
    for i, prompt in enumerate(prompts):
        by_start.setdefault(prompt[70], []).append(i)
    assert groups_of(prompts) == sorted((rows, 1000) for rows in by_start.values())


def test_prompts_outside_the_categories_share_the_short_prefix():
    system = words(70, "system")
    prompts = category(system, 930, "a", 6) + [system + words(20, f"alone {i}") for i in range(3)]
    assert groups_of(prompts) == [([0, 1, 2, 3, 4, 5], 1000), ([6, 7, 8], 70)]


def test_a_medium_prefix_of_many_prompts_is_preferred_to_a_long_one_of_two():
    start = words(500, "start")
    prompts = category(start, 0, "a", 20) + [start + words(100, "pair") + [i] for i in range(2)]
    assert groups_of(prompts) == [(list(range(22)), 500)]


def test_a_prompts_last_token_is_never_shared():
    prompt = words(100, "p")
    assert groups_of([prompt] * 5) == [([0, 1, 2, 3, 4], 99)]
    assert groups_of([prompt, [*prompt, 1, 2], [*prompt, 1, 3]]) == [([0, 1, 2], 99)]
    assert groups_of([prompt[:64], prompt[:64]], min_tokens=64) == []
    assert groups_of([prompt[:65], prompt[:65]], min_tokens=64) == [([0, 1], 64)]


def test_too_few_prompts_or_too_short_a_prefix_make_no_group():
    prompts = category([], 200, "a", 3)
    assert groups_of(prompts, min_prompts=3) == [([0, 1, 2], 200)]
    assert groups_of(prompts, min_prompts=4) == []
    assert groups_of(prompts, min_tokens=201) == []
    assert groups_of([[1], [1], [], [2]], min_tokens=1) == []


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_right_and_never_save_less_than_one_length_for_all(seed):
    """Random trees of prompts: groups have a common prefix, no prompt is in two groups, and the grouping saves at least
    as much as grouping all prompts by prefixes of any one length."""
    draw = random.Random(seed)
    prompts = [[]]
    for _ in range(60):
        parent = draw.choice(prompts)
        prompts.append(parent[: draw.randint(0, len(parent))] + [draw.randrange(3) for _ in range(draw.randint(1, 12))])
    min_tokens, min_prompts = 4, draw.choice([2, 4])
    groups = find_groups(prompts, min_tokens, min_prompts)
    grouped = [i for rows, _ in groups for i in rows]
    assert len(grouped) == len(set(grouped))
    for rows, shared in groups:
        assert len(rows) >= min_prompts
        assert shared >= min_tokens
        assert len({tuple(prompts[i][:shared]) for i in rows}) == 1
        assert all(len(prompts[i]) > shared for i in rows)
    saved = sum((len(rows) - 1) * shared for rows, shared in groups)
    assert saved > 0
    for length in range(min_tokens, max(map(len, prompts))):
        alike = {}
        for prompt in prompts:
            if len(prompt) > length:
                alike[tuple(prompt[:length])] = alike.get(tuple(prompt[:length]), 0) + 1
        assert saved >= sum((n - 1) * length for n in alike.values() if n >= min_prompts)


def test_reading_order_is_group_by_group_and_longest_first():
    a = [words(100, "a") + words(n, f"a{n}") for n in (5, 30, 10)]
    b = [words(80, "b") + words(n, f"b{n}") for n in (100, 2)]
    prompts = [*a, [1, 2, 3], *b, words(160, "c"), words(120, "d")]
    order = reading_order(prompts)
    assert [t.index for t in order] == [4, 5, 6, 1, 2, 0, 7, 3]
    assert [t.shared for t in order] == [80, 80, 0, 100, 100, 100, 0, 0]
    assert [t.group for t in order] == [0, 0, 1, 2, 2, 2, 3, 4]
    plain = reading_order(prompts, share=False)
    assert [t.index for t in plain] == [4, 6, 1, 7, 2, 0, 5, 3]
    assert {t.shared for t in plain} == {0}
    assert len({t.group for t in plain}) == len(prompts)


def test_passes_keep_the_order_and_both_budgets():
    rows = [Prefill(range(n), i, start, 0) for i, (n, start) in enumerate([(90, 0), (90, 80), (90, 80), (90, 80)])]
    rows += [Prefill(range(300), 4, 0, 4), Prefill(range(5), 5, 0, 5)]
    slots = [[r.slot for r in part] for part in passes(rows, tokens=120, keys_per_token=100)]
    assert slots == [[0, 1, 2, 3], [4], [5]]
    # 90 keys cost as much as 22 tokens.
    slots = [[r.slot for r in part] for part in passes(rows, tokens=120, keys_per_token=4)]
    assert slots == [[0, 1], [2, 3], [4], [5]]
    assert list(passes([], 10, 4)) == []
