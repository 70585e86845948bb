"""What people read keeps the rules of plain English that a program can check."""

from __future__ import annotations

import pytest
from plain_english import COLLECTION, broken_rules, collection, sentences


def test_messages_help_readme_and_docstrings_break_no_rule():
    assert list(broken_rules()) == []


def test_a_change_of_words_is_in_the_collection_of_messages():
    again = "collect them: .venv-test/bin/python tests/support/plain_english.py --write"
    assert collection() == COLLECTION.read_text("utf-8"), again


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two?\n\n```\ncode.\n```\n\nThree", ["One.", "Two?", "Three"]),
        ("| a | b `c` |\n|---|---|\n| d | e |", ["a", "b X", "d", "e"]),
        ("- a <b>\n  c\n- d", ["a X c", "d"]),
    ],
)
def test_sentences_are_found_in_markdown(text, expected):
    assert list(sentences(text)) == expected
