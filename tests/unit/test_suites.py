"""The quick suite has one of each kind, and nothing is in neither suite."""

from __future__ import annotations

from typing import Any

import pytest
from suites import all_but, crossed, first


def split(parameters: list[Any]) -> tuple[list[Any], list[Any]]:
    """Those of the quick suite, and those of the long one."""
    marked = type(pytest.param())
    long = [one for one in parameters if isinstance(one, marked)]
    assert all([mark.name for mark in one.marks] == ["long"] for one in long)
    quick = [one for one in parameters if not isinstance(one, marked)]
    return quick, [one.values for one in long]


def test_the_first_ones():
    assert split(first(2, "abc")) == (["a", "b"], [("c",)])


def test_all_but_some():
    assert split(all_but("b", "abc")) == (["b"], [("a",), ("c",)])


@pytest.mark.parametrize(("rows", "columns"), [("abcde", "xyz"), ("ab", "vwxyz")])
def test_of_pairs_each_row_and_each_column_once(rows, columns):
    quick, long = split(crossed(rows, columns))
    assert {row for row, _ in quick} == set(rows)
    assert {column for _, column in quick} == set(columns)
    assert len(quick) == 5
    assert sorted([*quick, *long]) == [(r, c) for r in rows for c in columns]
