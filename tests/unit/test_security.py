"""Each promise of SECURITY.md has tests that attack it, by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / ".github/SECURITY.md").read_text("utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", TEXT, re.MULTILINE)
NAMED = [name for _, _, tests in ROWS for name in re.findall(r"`(\S+)`", tests)]

POINTS = range(1, 19)
"""Eight of the client, nine of the server, and what is handed out."""


def test_every_point_has_a_row():
    assert [int(number) for number, _, _ in ROWS] == list(POINTS)
    assert all("::" in tests for _, _, tests in ROWS)


@pytest.mark.parametrize("name", NAMED)
def test_every_test_that_is_named_exists(name):
    module, _, function = name.partition("::")
    (path,) = TESTS.glob(f"*/{module}.py")
    assert re.search(rf"^ *def {function}\(", path.read_text("utf-8"), re.MULTILINE)


def test_it_says_what_is_promised_and_how_to_report():
    headings = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    wanted = ("How to report", "What is promised", "What is tested")
    assert headings[:3] == list(wanted)
