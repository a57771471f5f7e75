"""The tables of a search: which settings were tried, and what each scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tutelage.report.numbers import number

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults
    from tutelage.runs.search import SearchPoint


@dataclass(frozen=True)
class SearchGroup:
    """One stage's search: a matrix where the grid has two keys, else a list of one column."""

    label: str
    row_key: str
    column_key: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[SearchPoint | None, ...]], ...]
    at_edge: tuple[str, ...]  # keys whose chosen value is the smallest or largest of the grid


def search_groups(results: RecipeResults) -> list[SearchGroup]:
    """One group per stage that was searched."""
    if results.search is None:
        return []
    labels = {row.stage: row.label for row in results.rows}
    by_stage: dict[str, list[SearchPoint]] = {}
    for point in results.search.points:
        by_stage.setdefault(point.stage, []).append(point)
    grid = results.search.grid
    return [_search_group(labels.get(stage, stage), points, grid) for stage, points in by_stage.items()]


def _search_group(label: str, points: Sequence[SearchPoint], grid: dict[str, list[Any]]) -> SearchGroup:
    keys = list(grid)
    row_keys, column_keys = (keys[:1], keys[1:]) if len(keys) == 2 else (keys, [])
    found: dict[tuple[Any, ...], dict[tuple[Any, ...], SearchPoint]] = {}
    for point in points:
        row, column = (tuple(point.settings.get(key) for key in part) for part in (row_keys, column_keys))
        found.setdefault(row, {})[column] = point
    columns = sorted({column for row in found.values() for column in row}, key=_order)
    chosen = next((point.settings for point in points if point.chosen), {})
    return SearchGroup(
        label=label,
        row_key=_names(row_keys),
        column_key=_names(column_keys),
        columns=tuple(_values(column) for column in columns),
        rows=tuple(
            (_values(row), tuple(found[row].get(column) for column in columns)) for row in sorted(found, key=_order)
        ),
        at_edge=tuple(_names([key]) for key in keys if key in chosen and _at_edge(chosen[key], grid[key])),
    )


def _names(keys: Sequence[str]) -> str:
    return " and ".join(key.replace("_", " ") for key in keys)


def _values(values: Sequence[Any]) -> str:
    return ", ".join(number(value) for value in values)


def _order(values: tuple[Any, ...]) -> list[tuple[bool, float, str]]:
    """Numbers by size, before anything else by name."""
    numeric = [isinstance(value, int | float) for value in values]
    return [
        (not is_number, float(v) if is_number else 0.0, str(v)) for is_number, v in zip(numeric, values, strict=True)
    ]


def _at_edge(value: Any, values: Sequence[Any]) -> bool:
    numbers = [one for one in values if isinstance(one, int | float)]
    return len(numbers) > 1 and len(numbers) == len(values) and value in (min(numbers), max(numbers))
