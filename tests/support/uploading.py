"""Contents to upload, and an uploader that sends them to a registry of the test's."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import Any, Iterator, Sequence

import pytest
from fake_registry import FakeRegistry, serving

from dockerpush.events import Event, Outcome
from dockerpush.oci import OCI_LAYER, Descriptor, Digest
from dockerpush.registry.client import RegistryClient
from dockerpush.registry.retry import RetryPolicy
from dockerpush.registry.transport import TransportSettings
from dockerpush.system.cancellation import Cancellation
from dockerpush.upload.content import PreparedBlob
from dockerpush.upload.limits import HostLimits, LearnedLimits
from dockerpush.upload.uploader import Uploader
from dockerpush.values import replace

MIB = 1024 * 1024
QUICK = RetryPolicy(attempts=4, base=0.01, cap=0.02, jitter=0.0)
PATIENT = replace(QUICK, patience=60.0, outage_cap=0.01)
"""Waits an outage out."""


def noise(size: int, seed: int = 1) -> bytes:
    """*size* bytes that do not repeat."""
    return hashlib.shake_128(b"%d" % seed).digest(size)


class Source:
    """Content that remembers where it was opened and how much was read."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.opened: list[int] = []
        self.read_bytes = 0
        self.open_now = 0

    def open_at(self, offset: int) -> Reader:
        self.opened.append(offset)
        self.open_now += 1
        return Reader(self, offset)


class Reader:
    """One reader of a Source; gives at most 100,000 bytes at a time."""

    def __init__(self, source: Source, offset: int) -> None:
        self.source = source
        self.at = offset

    def readinto(self, buffer: memoryview) -> int:
        data = self.source.content[self.at : self.at + min(len(buffer), 100_000)]
        buffer[: len(data)] = data
        self.at += len(data)
        self.source.read_bytes += len(data)
        return len(data)

    def close(self) -> None:
        self.source.open_now -= 1


def blob_of(content: bytes, source: Source | None = None) -> PreparedBlob:
    """*content* promised; *source* may give something else."""
    source = source or Source(content)
    return PreparedBlob("key", Descriptor.of(OCI_LAYER, content), source.open_at)


def small(chunk: int = 1000, **changes: Any) -> HostLimits:
    """Limits that make thousands of bytes behave like gigabytes."""
    return replace(HostLimits(monolithic_max=chunk, chunk=chunk), **changes)


@dataclass
class Sender:
    """An uploader, what it told, and what it shares."""

    host: str
    uploader: Uploader
    limits: LearnedLimits
    cancellation: Cancellation
    events: list[Event]

    def send(
        self,
        content: bytes,
        *,
        source: Source | None = None,
        mount_from: Sequence[str] = (),
        known_absent: bool = False,
    ) -> Outcome:
        """Upload *content*; *source* may give something else."""
        return self.uploader.upload(
            blob_of(content, source), mount_from=mount_from, known_absent=known_absent
        )

    def fails(
        self, kind: type[BaseException], match: str, content: bytes, **options: Any
    ) -> Any:
        """The error that uploading *content* ends with."""
        with pytest.raises(kind, match=match) as caught:
            self.send(content, **options)
        return caught.value

    def told(self, kind: type) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


@contextlib.contextmanager
def sender_to(
    host: str, limits: HostLimits | None = None, **options: Any
) -> Iterator[Sender]:
    """An uploader to ``team/app`` at *host*; *options* are the Uploader's own,
    but for the *rate* of all connections and their *timeout*."""
    events: list[Event] = []
    policy = options.pop("policy", QUICK)
    settings = TransportSettings(
        plain_http=True,
        timeout=options.pop("timeout", 10),
        rate=options.pop("rate", None),
    )
    with (
        Cancellation() as cancellation,
        RegistryClient(
            host, settings, cancellation, policy=policy, on_event=events.append
        ) as client,
    ):
        learned = LearnedLimits(limits or HostLimits())
        uploader = Uploader(
            client,
            options.pop("repository", "team/app"),
            learned,
            policy,
            cancellation=cancellation,
            on_event=events.append,
            **options,
        )
        yield Sender(host, uploader, learned, cancellation, events)


@contextlib.contextmanager
def uploading(
    registry: FakeRegistry, limits: HostLimits | None = None, **options: Any
) -> Iterator[Sender]:
    """An uploader to *registry*, which is served meanwhile."""
    with serving(registry) as host, sender_to(host, limits, **options) as sender:
        yield sender


def holds(registry: FakeRegistry, content: bytes) -> bool:
    """True when the registry has exactly *content*."""
    return registry.blobs.get(str(Digest.of(content))) == content
