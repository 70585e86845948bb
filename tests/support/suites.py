"""Which parameters of a test the quick suite has; the long one has all others."""

from __future__ import annotations

from typing import Any, Iterable

import pytest


def long(value: Any) -> Any:
    """*value* as a parameter of the long suite."""
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.long)


def first(quick: int, values: Iterable[Any]) -> list[Any]:
    """All of *values*; those after the first *quick* belong to the long suite."""
    return [one if n < quick else long(one) for n, one in enumerate(values)]


def all_but(quick: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """All of *values*; those that are not among *quick* belong to the long suite."""
    kept = list(quick)
    return [one if one in kept else long(one) for one in values]


def crossed(names: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    """Every pair; the quick suite has each name and each of *others* at least once."""
    rows, columns = list(names), list(others)
    return [
        (name, other)
        if _is_on_the_diagonal(i, j, rows, columns)
        else long((name, other))
        for i, name in enumerate(rows)
        for j, other in enumerate(columns)
    ]


def _is_on_the_diagonal(i: int, j: int, rows: list[Any], columns: list[Any]) -> bool:
    return j == i % len(columns) or i == j % len(rows)
