"""The page that a sync writes: what is on it, that it is sound, and lets nothing in."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_server_page import HOSTILE, Page, judge

from dockerpush.cli.sync_report import SyncReport, report_page
from dockerpush.markup import STYLE_HASH
from dockerpush.oci import Digest
from dockerpush.reference import Reference
from dockerpush.sync.lists import SyncEntry
from dockerpush.sync.planner import Action, SyncItem
from dockerpush.sync.pruning import PruneAction, PruneItem

DIGEST = Digest("sha256:" + "a" * 64)


def item(action: Action, why: str = "", sent: int = 0) -> SyncItem:
    source = Reference.parse("ghcr.io/team/app:1")
    target = Reference.parse(f"r.test/m/{action.value}:1")
    entry = SyncEntry(1, source, target)
    return SyncItem(entry, source, target, action, DIGEST, why, sent, seconds=1.25)


def report(*, dry_run: bool = False, file: str = "images.txt", **more) -> SyncReport:
    found = SyncReport(file, "r.test/m", dry_run=dry_run, prunes=True, **more)
    found.started, found.seconds = 1704067200.0, 83.21
    return found


def read(found: SyncReport) -> Page:
    """The page, judged: sound HTML, landmarks, headings, and a strict policy in it."""
    page = Page(report_page(found))
    judge(page)
    policies = [one for one in page.all("meta") if "http-equiv" in one]
    assert policies == [
        {
            "http-equiv": "Content-Security-Policy",
            "content": f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; "
            "base-uri 'none'",
        }
    ]
    assert [href["href"] for href in page.all("a")] == ["#content"]
    return page


def test_the_whole_of_it():
    page = read(
        report(
            items=[
                item(Action.COPY, sent=12 * 1024 * 1024),
                item(Action.SKIP, "unchanged"),
                item(Action.MISSING, "ghcr.io/team/app:1 does not exist"),
                item(Action.FAILED, "503 after 3 attempts"),
            ],
            pruned=[
                PruneItem("r.test/m/app:old", DIGEST),
                PruneItem("r.test/m/app:kept", DIGEST, PruneAction.KEEP, "also tag 2"),
                PruneItem("r.test/m/app", None, PruneAction.FAILED, "403"),
            ],
        )
    )
    assert page.text("h1") == ["Sync"]
    assert page.text("h2") == [
        *("Failed (1)", "Missing (1)", "Copied (1)", "Unchanged (1)"),
        *("Pruning failed (1)", "Pruned (1)", "Not pruned (1)"),
    ]
    for words in (
        *("images.txt", "r.test/m", "2024-01-01 00:00 UTC", "83.2 s", "12.0 MiB"),
        "1 failed, 1 missing, 1 copied, 1 unchanged, 1 pruned",
        *("r.test/m/copy:1", "from ghcr.io/team/app:1", "12.0 MiB in 1.2 s"),
        *("503 after 3 attempts", "does not exist", "also tag 2", "r.test/m/app:old"),
        str(DIGEST),
    ):
        assert words in page.words, words


def test_a_dry_run_says_what_would_be_done():
    found = report(
        dry_run=True,
        items=[item(Action.COPY)],
        pruned=[PruneItem("r.test/m/app:old", DIGEST)],
    )
    page = read(found)
    assert page.text("h1") == ["Sync, dry run"]
    assert page.text("h2") == ["To copy (1)", "To prune (1)"]
    assert "1 to copy, 1 to prune" in page.words


def test_nothing_at_all():
    found = report()
    found.prunes = False
    page = read(found)
    assert page.text("h2") == []
    assert ("dd", "none") in page.texts


@pytest.mark.parametrize("action", Action)
def test_the_cause_of_a_failure_is_no_small_print(action):
    text = report_page(report(items=[item(action, "because of x")]))
    is_small = "<small><bdi>because of x</bdi></small>" in text
    assert is_small == (action in (Action.COPY, Action.SKIP))
    assert "<bdi>because of x</bdi>" in text


def test_hostile_names_are_text():
    found = report(
        file=HOSTILE,
        items=[item(Action.FAILED, HOSTILE)],
        pruned=[PruneItem(HOSTILE, DIGEST, PruneAction.KEEP, HOSTILE)],
    )
    found.target = HOSTILE
    page = read(found)
    assert page.words.count("<script>alert(1)</script>") == 5
    text = report_page(found)
    assert not re.search("[\u202e\x00\x1b]", text)


@given(st.text(max_size=60), st.sampled_from(Action))
def test_messages_stay_text(text, action):
    found = report(file=text, items=[item(action, text)])
    found.target = text
    read(found)


@pytest.mark.parametrize("planned", [False, True])
def test_what_needs_attention_comes_first(planned):
    items = [item(action) for action in Action]
    headings = read(report(dry_run=planned, items=items)).text("h2")
    assert "ail" in headings[0] and "Missing" in headings[1]
