"""What repositories of a registry hold, found by reading the manifests of their tags.

Registries list no blobs, so what no tag leads to is not found. Many repositories and
tags are looked at at a time, and no more is kept than some repositories at a time have.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Iterable, Iterator

from ..documents import Walk, children_of, held
from ..errors import (
    Cancelled,
    InvalidDigest,
    InvalidJSON,
    NetworkError,
    NotFoundInRegistry,
    PusherError,
)
from ..events import Notice, OnEvent
from ..oci import Descriptor, Digest
from ..system.cancellation import Cancellation
from ..system.workers import Workers
from .inventory import Holding

if TYPE_CHECKING:
    from ..registry.client import RegistryClient

LOOKS = 16
"""Requests at a time."""

_TOGETHER = 32  # repositories that are looked at at a time
_TAGS = 1000  # tags that wait for their turn


class RegistryScan:
    """Looks into repositories of the registry that *client* talks to.

    *failed* are those of which not everything could be read, and why.
    """

    def __init__(
        self, client: RegistryClient, cancellation: Cancellation, on_event: OnEvent
    ) -> None:
        self.failed: list[tuple[str, PusherError]] = []
        self.missing: list[str] = []
        self._client = client
        self._cancellation = cancellation
        self._on_event = on_event

    def holdings(self, repositories: Iterable[str]) -> Iterator[Holding]:
        """What each of *repositories* has, in their order. Raises NetworkError."""
        names = iter(repositories)
        with Workers(self._cancellation, LOOKS, name="look") as workers:
            while together := list(itertools.islice(names, _TOGETHER)):
                found = [_Repository(name, self._client) for name in together]
                listed = workers.wait([workers.submit(self._tags, r) for r in found])
                pairs = ((r, tag) for r, tags in zip(found, listed) for tag in tags)
                while some := list(itertools.islice(pairs, _TAGS)):
                    workers.wait([workers.submit(self._look, *one) for one in some])
                yield from (one.holding() for one in found if one.exists)

    def _tags(self, repository: _Repository) -> list[str]:
        """A worker thread's work."""
        try:
            return held(self._client.tags(repository.name))
        except NotFoundInRegistry:
            repository.exists = False
            self.missing.append(repository.name)
        except (Cancelled, NetworkError):
            raise
        except PusherError as error:
            self.failed.append((repository.name, error))
        return []

    def _look(self, repository: _Repository, tag: str) -> None:
        """A worker thread's work."""
        place = f"{self._client.registry}/{repository.name}:{tag}"
        try:
            repository.read(tag)
        except NotFoundInRegistry:
            text = f"{place} is listed, but is not there or not whole: left out"
            self._on_event(Notice(text, warning=True))
        except (Cancelled, NetworkError):
            raise
        except (InvalidJSON, InvalidDigest) as error:  # not an image that we read
            self._on_event(Notice(f"{place}: left out: {error}", warning=True))
        except PusherError as error:
            self.failed.append((f"{repository.name}:{tag}", error))


class _Repository:
    """What is found in one repository; several threads add to it."""

    def __init__(self, name: str, client: RegistryClient) -> None:
        self.name = name
        self.exists = True
        self._client = client
        self._lock = threading.Lock()  # guards the three below
        self._tags: dict[str, Digest] = {}
        self._manifests: dict[Digest, None] = {}
        self._blobs: dict[Digest, None] = {}

    def read(self, tag: str) -> None:
        """Take what *tag* leads to, a manifest only with all that it names."""
        root, first = self._client.read_manifest(self.name, tag)
        manifests: list[Digest] = []
        blobs: list[Digest] = []
        waiting, walk = [(root, 0)], Walk(f"{self.name}:{tag}")
        while waiting:
            node, depth = waiting.pop()
            if node.digest in self._manifests or not walk.enters(node, depth):
                continue
            raw = first if node is root else self._read(node)
            walk.takes(raw, node.size)
            children = children_of(node, raw)
            manifests.append(node.digest)
            blobs += [blob.digest for blob in children.blobs if not blob.urls]
            waiting += [(child, depth + 1) for child in children.documents]
        with self._lock:
            self._tags[tag] = root.digest
            self._manifests.update(dict.fromkeys(manifests))
            self._blobs.update(dict.fromkeys(blobs))

    def _read(self, node: Descriptor) -> bytes:
        return self._client.read_manifest(self.name, str(node.digest))[1]

    def holding(self) -> Holding:
        """All that was found."""
        tags = dict(sorted(self._tags.items()))
        name = f"{self._client.registry}/{self.name}"
        return Holding(name, tags, sorted(self._manifests), sorted(self._blobs))
