"""YAML by rules of our own: PyYAML is the oracle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.sync.image_search import _library_events
from dockerpush.sync.yaml_lines import DOCUMENT, Event, read_events

yaml = pytest.importorskip("yaml")


def own(text: str) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]]]:
    """What the own rules make of *text*, and what they skipped."""
    skipped: list[tuple[int, str]] = []
    events = list(read_events(text, lambda line, why: skipped.append((line, why))))
    return shown(events), skipped


def library(text: str) -> list[tuple[Any, ...]]:
    return shown(list(_library_events(yaml, text, "x")))


def shown(events: list[Event]) -> list[tuple[Any, ...]]:
    """Without lines, which differ for values that are not there, and line ends."""
    return [
        (kind, text.strip(), anchor)
        for kind, _, text, anchor in events
        if kind != DOCUMENT
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb:\n  c: x # comment\n  d:\ne:\n",
        "a:\n- 1\n- b: 2\n  c: 3\n-\n  d: 4\n- - 5\n  - 6\n- \nf: 7\n",
        "a: &x [1, {b: c, d}, 'e', \"f\\n\"]\ng: *x\n",
        "a: {b: 1,\n    # why\n    c: [2,\n 3], }\nd: 4\n",
        '{"a":"b","c":[1,2,{"d":null}],"e":{}}\n',
        "a: |\n  one\n\n    two\n  three\n",
        "b: >-\n  one\n  two\n\n  three\n   four\n  five\n",
        "a: |2\n    x\n   y\nb: |+\n  z\n\n\nc: 1\n",
        "a: one\n  two\n\n  three # end\n",
        "b: 'one\n  two\n\n  three'\nc: \"a \\\n  b\n  c\"\n",
        "a: 'it''s'\nb: \"\\u0041\\x42\\t\\\\\\\"\"\n'c d': e\n\"f\": g\n",
        "# c\n%YAML 1.1\n---\na: 1\n...\n---\nb\n--- # c\n- d\n--- e\n--- |\n f\n",
        "a: b:c\nd: e#f\ng: http://h:1/i\nj: -k\nl: ?m\n",
        "a: !!str 1\nb: !x {c: d}\ne: &f !!seq\n- g\nh: &i\n  j: k\nl: &m\n",
        "<<: *x\na: {<<: [*x, *y]}\n",
        "a:\r\n  - b\r\n  - |\r\n    c\r\n    d\r\n",
        "{ {{ a }} : b, c: '{{ d }}' }\n",
    ],
)
def test_what_people_write_means_the_same(text):
    events, skipped = own(text)
    assert events == library(text)
    assert skipped == []


TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            *("", "x: y", " a ", "it's", 'q"q', "#no", "a #b", "multi\nline", "k:"),
            *("a\n\n  deep\nb", "- d", "{x", "*a", "&b", "!t", "%p", "| x", "? q"),
            *("long words " * 12, "tab\tx", "a, b", "back\\slash", "nginx:1.2"),
        ]
    ),
)
TREES = st.recursive(
    TEXTS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    TREES,
    st.sampled_from([None, True, False]),
    st.sampled_from([None, '"', "'", "|", ">"]),
    st.sampled_from([20, 80]),
)
def test_what_pyyaml_writes_means_the_same_or_is_reported(tree, flow, style, width):
    text = yaml.dump(tree, default_flow_style=flow, default_style=style, width=width)
    events, skipped = own(text)
    assert events == library(text) or skipped


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\n? b\n", 2),
        ("a: 1\n\tb: 2\n", 2),
        ("a: x\n  b: 2\n", 2),
        ("a:\n    b: 1\n  c: 2\n", 3),
        ("a: [1,\n 'x' 'y']\nb: 1\n", 2),
        ("a: [1\nb: 1\n", 2),
        ("a: @x\n", 1),
        ('a: "x\n', 1),
        ("a: 'b' c\n", 1),
        ("a: 1\nb\n", 2),
    ],
)
def test_what_is_not_understood_is_reported_with_its_line(text, line):
    assert own(text)[1][0][0] == line
