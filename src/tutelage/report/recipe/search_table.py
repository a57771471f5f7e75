"""The tables of a search: which settings were tried, and what each scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.report.numbers import number


@dataclass(frozen=True)
class SearchGroup:
    """One stage's search: a matrix when the grid has two keys, else a list of one column."""

    label: str
    row_key: str
    column_key: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[dict[str, Any] | None, ...]], ...]
    at_edge: tuple[str, ...]  # keys whose chosen value is the smallest or largest of the grid


def search_groups(manifest: dict[str, Any]) -> list[SearchGroup]:
    """The manifest's search, one group a stage; empty without a search."""
    search = manifest.get("search")
    if not search:
        return []
    labels = {row["stage"]: row.get("label") or row["stage"] for row in manifest["rows"]}
    stages = dict.fromkeys(point["stage"] for point in search["points"])
    return [
        _search_group(labels.get(stage, stage), [p for p in search["points"] if p["stage"] == stage], search["grid"])
        for stage in stages
    ]


def _search_group(label: str, points: list[dict[str, Any]], grid: dict[str, list[Any]]) -> SearchGroup:
    keys = list(grid)
    row_keys, column_keys = (keys[:1], keys[1:]) if len(keys) == 2 else (keys, [])
    found: dict[tuple[Any, ...], dict[tuple[Any, ...], dict[str, Any]]] = {}
    for point in points:
        row, column = (tuple(point.get(key) for key in part) for part in (row_keys, column_keys))
        found.setdefault(row, {})[column] = point
    columns = sorted({column for row in found.values() for column in row}, key=_order)
    chosen = next((point for point in points if point.get("chosen")), {})
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
