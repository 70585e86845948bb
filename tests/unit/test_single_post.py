"""A small blob in one POST: where a registry takes that, lies about it, or does not."""

from __future__ import annotations

import hashlib
from typing import Callable

import pytest
from fake_registry import CUT, Answer, FakeRegistry, Incoming, cut_after, error
from uploading import MIB, Sender, Source, holds, noise, uploading

from dockerpush.errors import ContentMismatch, RegistryError
from dockerpush.upload.limits import (
    FIRST_POST,
    HostLimits,
    default_limits,
)

UNKNOWN = HostLimits(single_post=None)


class TakesPosts(FakeRegistry):
    """As the specification allows it (distribution-spec, Single POST)."""

    def post(self, request: Incoming) -> Answer:
        digest = request.query.get("digest")
        if digest is None:
            return super().post(request)
        body = request.body()
        if digest != "sha256:" + hashlib.sha256(body).hexdigest():
            return error(400, "DIGEST_INVALID", "provided digest did not match")
        self.blobs[digest] = body
        return Answer(201, {"Location": f"/v2/team/app/blobs/{digest}"})


class ReadsAndForgets(FakeRegistry):
    """docker-registry: the body of the POST is of no use to it."""

    def post(self, request: Incoming) -> Answer:
        request.body()
        return super().post(request)


class Lies(FakeRegistry):
    """It knows no ``digest`` here, and its 201 means nothing."""

    def post(self, request: Incoming) -> Answer:
        if "digest" in request.query:
            request.body()
            return Answer(201)
        return super().post(request)


def refusing(answer: Answer | Callable[[Incoming], Answer]) -> FakeRegistry:
    registry = FakeRegistry()
    registry.script("POST", answer)
    return registry


def send(sender: Sender, *contents: bytes) -> None:
    for content in contents:
        sender.send(content, known_absent=True)


def test_a_host_that_takes_them_gets_one_request_for_each():
    registry, contents = TakesPosts(), [noise(1000 + n) for n in range(4)]
    with uploading(registry, UNKNOWN) as sender:
        send(sender, *contents)
    assert registry.methods() == ["POST", "HEAD", "POST", "POST", "POST"]  # one proof
    assert all(holds(registry, content) for content in contents)


@pytest.mark.parametrize("kind", [FakeRegistry, ReadsAndForgets])
def test_a_session_in_its_place_takes_the_blob(kind):
    """Whether the body was read, and the connection kept, or not."""
    registry, contents = kind(), [noise(1000 + n) for n in range(3)]
    with uploading(registry, UNKNOWN) as sender:
        send(sender, *contents)
    assert registry.methods() == ["POST", "PUT"] * 3
    assert registry.sizes("POST") == [1000, 0, 0]  # learned from the first
    assert all(holds(registry, content) for content in contents)


def test_a_201_that_means_nothing_is_found_out():
    registry, contents = Lies(), [noise(1000), noise(2000)]
    with uploading(registry, UNKNOWN) as sender:
        send(sender, *contents)
    assert registry.methods() == ["POST", "HEAD", "POST", "PUT", "POST", "PUT"]
    assert all(holds(registry, content) for content in contents)


@pytest.mark.parametrize(
    "answer",
    [
        *(Answer(status) for status in (400, 403, 404, 405, 411, 413, 415, 500, 503)),
        error(400, "DIGEST_INVALID", "?"),
        error(404, "NAME_UNKNOWN", "?"),
        error(429, "TOOMANYREQUESTS", "?"),
        CUT,
        cut_after(500),
    ],
    ids=lambda answer: str(getattr(answer, "status", "cut after 500 bytes")),
)
def test_whatever_becomes_of_the_try_the_blob_is_stored(answer):
    """What counts is the answer to the requests that every registry knows."""
    registry, contents = refusing(answer), [noise(1000), noise(2000)]
    with uploading(registry, UNKNOWN) as sender:
        send(sender, *contents)
    assert all(holds(registry, content) for content in contents)


def test_a_repository_that_may_not_be_written_is_known_by_the_usual_request():
    registry = FakeRegistry()
    denied = error(403, "DENIED", "no")
    registry.script("POST", denied, denied)
    with uploading(registry, UNKNOWN) as sender:
        sender.fails(RegistryError, "403", noise(10), known_absent=True)


def test_a_host_that_took_them_is_believed_through_a_break():
    registry, contents = TakesPosts(), [noise(1000), noise(2000), noise(3000)]
    registry.script("POST", lambda request: None, CUT)
    with uploading(registry, UNKNOWN) as sender:
        send(sender, *contents)
    assert "PUT" not in registry.methods()
    assert all(holds(registry, content) for content in contents)


@pytest.mark.parametrize("size", [0, FIRST_POST + 1, MIB + 1])
def test_nothing_large_and_nothing_empty_is_tried(size):
    registry = TakesPosts()
    with uploading(registry, UNKNOWN) as sender:
        send(sender, noise(size))
    assert registry.methods() == ["POST", "PUT"]
    assert registry.sizes("POST") == [0]


def test_once_it_is_known_blobs_of_up_to_1_mib_go_so():
    registry, contents = TakesPosts(), [noise(10), noise(MIB), noise(MIB + 1)]
    with uploading(registry, UNKNOWN) as sender:
        send(sender, *contents)
    assert registry.sizes("POST") == [10, MIB, 0]
    assert all(holds(registry, content) for content in contents)


def test_a_damaged_blob_is_never_stored():
    registry = TakesPosts()
    with uploading(registry, UNKNOWN) as sender:
        send(sender, noise(10))
        wrong = Source(noise(1000, seed=2))
        sender.fails(
            ContentMismatch, "wanted", noise(1000), source=wrong, known_absent=True
        )
    assert len(registry.blobs) == 1


@pytest.mark.parametrize("host", ["ghcr.io", "europe-docker.pkg.dev", "docker.io"])
def test_hosts_whose_ways_are_known_are_not_tried(host):
    assert default_limits(host).single_post is False
    assert default_limits("registry.example.com:5000").single_post is None
