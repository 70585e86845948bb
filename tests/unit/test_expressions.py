"""An expression is a compiled one, from its first use on."""

from __future__ import annotations

import re

import pytest

from dockerpush.expressions import expression


def test_an_expression_matches_as_a_compiled_one():
    words = expression(r"(?P<first>[a-z]+) [0-9]+", re.IGNORECASE)
    match = words.fullmatch("Layer 12")
    assert match is not None
    assert match["first"] == "Layer"
    assert words.match("Layer 12", 3) is not None
    assert words.sub("x", "a 1, b 2") == "x, x"
    assert words.groupindex == {"first": 1}
    assert expression(rb"\xff+").fullmatch(b"\xff\xff") is not None


def test_an_expression_is_compiled_when_it_is_used():
    """What cannot be compiled is told then, and not before."""
    broken = expression("(")
    with pytest.raises(re.error):
        broken.fullmatch("")
