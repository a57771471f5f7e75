"""What messages are made of."""

from __future__ import annotations

import pytest

from tutelage.common.errors import first_of, listed


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2, 3"), (5, "0, 1, 2 and 2 more"), (2003, "0, 1, 2 and 2,000 more")],
)
def test_a_list_never_leaves_out_exactly_one(count: int, said: str) -> None:
    items = [str(number) for number in range(count)]
    assert listed(items) == said
    assert listed(items[:4], count=count) == said  # the first are enough
    assert listed(items, between="; ") == said.replace(" and ", "; ").replace(", ", "; ")
    shown, left = first_of(items, 1)
    assert (len(shown), left) in ((count, 0), (1, count - 1))
    assert left != 1
