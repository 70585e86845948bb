"""Over a slow link a blob goes in parts, so that a break costs seconds of it.

Time here is what was read of the blob, at the rate that the test wants.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from fake_registry import CUT, Answer, FakeRegistry, Incoming, error, serving
from uploading import MIB, Sender, Source, holds, noise, sender_to, uploading

from dockerpush.errors import Cancelled
from dockerpush.state.upload_sessions import UploadSessions
from dockerpush.upload import blob_upload
from dockerpush.upload.limits import (
    CHUNK,
    HostLimits,
    LearnedLimits,
    Status,
    default_limits,
    limits_for,
)
from dockerpush.upload.link import LOOK, SlowLink, TimedBody

ADAPTS = HostLimits(adapts=True)
SIZE = 4 * MIB
SLOW = 150_000.0
FAST = 10_000_000.0
"""Bytes a second at which 4 MiB take longer than 20 s, and less than that."""


class Keeps(FakeRegistry):
    """`serve` and distribution 3: what came of a PUT that broke stays."""

    def put(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        if upload is None:
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        body = request.body()
        upload += body
        return self.closed(request, upload) if len(body) == request.length else CUT


class Drops(Keeps):
    """docker-registry 2.8: a session that broke is over once it is asked for."""

    def status(self, request: Incoming) -> Answer:
        self.uploads.pop(self.id_of(request), None)
        return error(404, "BLOB_UPLOAD_INVALID")


@contextlib.contextmanager
def over_a_link(
    registry: FakeRegistry | str,
    monkeypatch: pytest.MonkeyPatch,
    limits: HostLimits = ADAPTS,
    **options: Any,
) -> Iterator[tuple[Sender, Callable[..., Source]]]:
    """A sender to *registry*, or to the one at that host; and content at a rate."""
    sources: list[tuple[Source, float]] = []

    def clock() -> float:
        return sum(source.read_bytes / rate for source, rate in sources)

    def content(seed: int, rate: float, size: int = SIZE) -> Source:
        sources.append((Source(noise(size, seed)), rate))
        return sources[-1][0]

    class Clocked(LearnedLimits):
        def __init__(self, limits: HostLimits) -> None:
            super().__init__(limits, clock)

    monkeypatch.setattr("uploading.LearnedLimits", Clocked)
    reach = sender_to if isinstance(registry, str) else uploading
    with reach(registry, limits, **options) as sender:
        yield sender, content


def sent(registry: FakeRegistry) -> int:
    return sum(one.size for one in registry.seen if one.method in ("PUT", "PATCH"))


def methods_with(registry: FakeRegistry, puts: int) -> list[str]:
    """What was asked for, once so many PUTs are in it.

    One that was stopped is seen when its connection has ended, which may be late.
    """
    while registry.methods().count("PUT") < puts:
        time.sleep(0.01)
    return registry.methods()


def test_a_fast_link_keeps_the_one_put(monkeypatch):
    registry = Keeps()
    with over_a_link(registry, monkeypatch) as (sender, content):
        sender.send(content(1, FAST).content, source=content(1, FAST))
    assert registry.methods() == ["HEAD", "POST", "PUT"]


@pytest.mark.parametrize(("kind", "more"), [(Keeps, 0.02), (Drops, 0.25)])
def test_a_slow_one_stops_the_put_and_goes_on_in_parts(kind, more, monkeypatch):
    registry = kind()
    with over_a_link(registry, monkeypatch) as (sender, content):
        for seed in (1, 2):
            source = content(seed, SLOW)
            sender.send(source.content, source=source)
            assert holds(registry, source.content)
            if seed == 1:
                first = methods_with(registry, 2)
                assert first[:2] == ["HEAD", "POST"] and "STATUS" in first[2:4]
                assert sent(registry) < SIZE * (1 + more) + 3 * MIB * (kind is Drops)
    assert first.count("PUT") == 2 and first.count("PATCH") in (4, 5)
    later = registry.methods()[len(first) :]
    parts = later.count("PATCH")
    assert later == ["HEAD", "POST", *["PATCH"] * parts, "PUT"]  # it is known by now
    assert parts in (4, 5)
    assert set(registry.sizes("PATCH")) <= {MIB, registry.sizes("PATCH")[-5]}


def test_a_link_that_got_fast_again_gets_one_put(monkeypatch):
    registry = Keeps()
    with over_a_link(registry, monkeypatch) as (sender, content):
        for seed, rate in ((1, SLOW), (2, FAST / 10), (3, FAST)):
            size = SIZE if rate == SLOW else 16 * MIB
            source = content(seed, rate, size)
            before = len(methods_with(registry, 2 if seed > 1 else 0))
            sender.send(source.content, source=source)
    assert registry.methods()[before:] == ["HEAD", "POST", "PUT"]


def advertising(registry: FakeRegistry, **headers: str) -> FakeRegistry:
    registry.script("POST", lambda _: registry.opened(registry.new_upload(), **headers))
    return registry


EQUAL = {"OCI-Chunk-Max-Length": str(64 * MIB), "OCI-Chunk-Min-Length": str(2 * MIB)}


@pytest.mark.parametrize(
    ("limits", "headers"),
    [
        (HostLimits(), {}),
        (HostLimits(adapts=True, chunked=False), {}),
        (HostLimits(adapts=True, equal_chunks=True), {}),
        (ADAPTS, EQUAL),
        (limits_for(ADAPTS, 32 * MIB), {}),
    ],
    ids=["unknown ways", "one PUT only", "equal parts", "advertised", "--blob-chunk"],
)
def test_where_parts_would_do_harm_there_is_one_put(limits, headers, monkeypatch):
    registry = advertising(Keeps(), **headers)
    with over_a_link(registry, monkeypatch, limits) as (sender, content):
        source = content(1, SLOW)
        sender.send(source.content, source=source)
    assert registry.methods() == ["HEAD", "POST", "PUT"]


def test_no_part_is_below_what_the_registry_wants(monkeypatch):
    registry = advertising(Drops(), **{"OCI-Chunk-Min-Length": str(2 * MIB)})
    with over_a_link(registry, monkeypatch) as (sender, content):
        source = content(1, SLOW, 5 * MIB)
        sender.send(source.content, source=source)
    assert registry.sizes("PATCH") == [2 * MIB, 2 * MIB, MIB]
    assert holds(registry, source.content)


def test_a_host_whose_status_is_worth_nothing_gets_a_new_session(monkeypatch):
    registry = Keeps()
    limits = HostLimits(adapts=True, status=Status.NEVER)
    with over_a_link(registry, monkeypatch, limits) as (sender, content):
        source = content(1, SLOW)
        sender.send(source.content, source=source)
    assert registry.methods().count("STATUS") == 0
    rest = [one for one in methods_with(registry, 2) if one not in ("PUT", "PATCH")]
    assert rest == ["HEAD", "POST", "DELETE", "POST"]
    assert holds(registry, source.content)


def off(*_: object) -> None:
    """What stands for the end of a run."""
    raise Cancelled("the machine is off")


def test_the_next_run_resumes_though_it_knows_no_rate(tmp_path: Path, monkeypatch):
    """A run that ends in the middle leaves its session; the blob could go whole."""
    registry, content = Keeps(), noise(SIZE)

    def ended(request: Incoming) -> Answer | None:
        if len(registry.uploads["1"]) < 2 * MIB:
            return None
        request.read(1)
        return CUT

    sessions = UploadSessions(tmp_path)
    registry.script("PATCH", *[ended] * 3)
    with serving(registry) as host:
        with over_a_link(host, monkeypatch, sessions=sessions) as (sender, sources):
            monkeypatch.setattr(blob_upload.BlobUpload, "_count", off)
            with pytest.raises(Cancelled):
                sender.send(content, source=sources(1, SLOW))
        monkeypatch.undo()
        with over_a_link(host, monkeypatch, sessions=sessions) as (sender, sources):
            sender.send(content, source=sources(1, FAST))
    assert holds(registry, content)
    assert sent(registry) <= 1.1 * SIZE


@pytest.mark.parametrize(("rate", "again"), [(SLOW, "PATCH"), (FAST, "PUT")])
def test_the_next_run_knows_a_slow_link_by_a_session_that_is_gone(
    rate, again, tmp_path: Path, monkeypatch
):
    """docker-registry 2.8 drops it; what was learned of the link need not go too."""
    registry, content = Drops(), noise(SIZE)
    sessions = UploadSessions(tmp_path)
    with serving(registry) as host:
        with over_a_link(host, monkeypatch, sessions=sessions) as (sender, sources):
            registry.script(again, lambda _: registry.uploads.clear() or CUT)
            monkeypatch.setattr(blob_upload.BlobUpload, "_count", off)
            with pytest.raises(Cancelled):
                sender.send(content, source=sources(1, rate))
        monkeypatch.undo()
        before = len(methods_with(registry, 1))
        with over_a_link(host, monkeypatch, sessions=sessions) as (sender, sources):
            sender.send(content, source=sources(1, rate))
    assert holds(registry, content)
    bodies = [one for one in registry.methods()[before:] if one in ("PUT", "PATCH")]
    assert bodies[0] == again


@pytest.mark.parametrize(
    ("size", "rate", "chunk"),
    [
        (90_000_000, 1e6, 9 * MIB),
        (90_000_000, 4.4e6, 41 * MIB),
        (90_000_000, 4.6e6, None),
        (30_000_000, 20e3, MIB),
        (1_000_000, 20e3, None),  # smaller than the smallest part
        (5_000_000_000, 1e6, 9 * MIB),
        (5_000_000_000, 5e6, None),  # a chunk of 50 MiB takes 10 s
        (90_000_000, None, None),
    ],
)
def test_a_part_takes_about_ten_seconds(size, rate, chunk):
    limits = default_limits("registry.example.com").for_link(size, rate)
    assert limits.is_monolithic(size) is (chunk is None and size < 100_000_000)
    assert limits.chunk_size == (chunk or CHUNK)


def test_a_body_is_stopped_early_or_not_at_all():
    """Between three and fifteen seconds: later too much would go twice."""
    assert _given(0.5) == (7, LOOK)
    assert _given(20.0) == (10, 200.0)


def _given(step: float) -> tuple[int, float]:
    """Of ten pieces, one each so many seconds: those that went, and the time."""
    rates: list[float] = []
    now, gone = 0.0, 0

    def pieces() -> Iterator[bytes]:
        nonlocal now
        for _ in range(10):
            yield b"x" * 1000
            now += step

    body = TimedBody(pieces(), lambda: now, rates.append, lambda rate: True)
    with contextlib.suppress(SlowLink):
        for _ in body:
            gone += 1
    assert rates
    return gone, now
