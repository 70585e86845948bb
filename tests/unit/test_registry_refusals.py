"""A refused request is told in the words of the user's task, not in those of HTTP."""

from __future__ import annotations

import pytest

from dockerpush.credentials.identity import Credentials, Secret
from dockerpush.registry.refusals import Asked

ALICE = Credentials("alice", Secret("wrong"), source="auth.json")
TYPED = Credentials("alice", Secret("wrong"), source="--username")
FLAG = Credentials("alice", Secret("wrong"), source="--src-creds")
DIGEST = "sha256:" + "a" * 64
LATEST = "/v2/team/app/manifests/latest"
UPLOAD = "/v2/team/app/blobs/uploads/"


def asked(
    method: str, path: str, *credentials: Credentials, sent: bool = True
) -> Asked:
    given = credentials[0] if credentials else None
    return Asked("r:5000", method, path, "team/app", given, bool(given) and sent)


def words(explained: tuple[str, str]) -> str:
    return ": ".join(part for part in explained if part)


@pytest.mark.parametrize(
    ("asked", "reason", "said"),
    [
        (
            asked("POST", UPLOAD, ALICE),
            "401 Unauthorized",
            "cannot push to r:5000/team/app: r:5000 rejected user 'alice' (from "
            "auth.json): wrong password, or no right to push here (401 Unauthorized); "
            "try: dockerpush login r:5000",
        ),
        (
            asked("GET", LATEST, FLAG),
            "403 Forbidden",
            "cannot read r:5000/team/app:latest: r:5000 rejected user 'alice' (from "
            "--src-creds): wrong password, or no right to read this (403 Forbidden); "
            "correct --src-creds, or ask for the right to do this",
        ),
        (
            asked("GET", LATEST, TYPED),
            "401 Unauthorized",
            "cannot read r:5000/team/app:latest: r:5000 rejected user 'alice' (from "
            "--username): wrong password, or no right to read this (401 Unauthorized); "
            "correct --username and the password, or ask for the right to do this",
        ),
        (
            asked("GET", LATEST),
            "401 Unauthorized",
            "cannot read r:5000/team/app:latest: r:5000 wants credentials, and none "
            "were given (401 Unauthorized); try: dockerpush login r:5000",
        ),
        (
            asked("GET", LATEST, ALICE),
            "404 Not Found",
            "no tag 'latest' in r:5000/team/app, or user 'alice' has no access; see: "
            "dockerpush tags r:5000/team/app",
        ),
        (
            asked("GET", LATEST, ALICE, sent=False),
            "404 Not Found",
            "no tag 'latest' in r:5000/team/app; see: dockerpush tags r:5000/team/app",
        ),
        (
            asked("DELETE", f"/v2/team/app/manifests/{DIGEST}"),
            "405 Method Not Allowed",
            "cannot delete r:5000/team/app@sha256:aaaaaaaaaaaa: r:5000 answered 405 "
            "Method Not Allowed",
        ),
        (
            asked("PATCH", "https://r:5000/uploads/1?state=secret"),
            "500 Internal Server Error",
            "cannot push to r:5000/team/app: r:5000 answered 500 Internal Server Error",
        ),
    ],
)
def test_a_refusal_says_what_failed_why_and_what_to_do(asked, reason, said):
    assert words(asked.explained(int(reason[:3]), reason, "")) == said


def test_an_unknown_repository_is_not_a_missing_tag():
    said = asked("GET", LATEST, ALICE).explained(404, "404 Not Found", "NAME_UNKNOWN")
    assert words(said) == (
        "cannot read r:5000/team/app:latest: no repository r:5000/team/app, or user "
        "'alice' has no access (NAME_UNKNOWN); check the name"
    )


def test_a_tag_that_is_surely_missing_needs_no_credentials():
    said = asked("GET", LATEST).explained(404, "404 Not Found", "MANIFEST_UNKNOWN: x")
    assert words(said) == (
        "no tag 'latest' in r:5000/team/app; see: dockerpush tags r:5000/team/app"
    )


def test_another_host_than_the_registry_is_named():
    path = f"/v2/team/app/blobs/{DIGEST}"
    elsewhere = Asked("r:5000", "GET", path, "team/app", elsewhere="storage:443")
    assert words(elsewhere.explained(403, "403 Forbidden", "expired")) == (
        "cannot read blob sha256:aaaaaaaaaaaa of r:5000/team/app: storage:443 answered "
        "403 Forbidden: expired"
    )
