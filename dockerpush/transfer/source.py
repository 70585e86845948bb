"""Where images come from: a repository of a registry, or the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Sequence

from ..documents import RawManifest
from ..errors import InvalidDigest, NotFound
from ..oci import Descriptor, Digest
from ..upload.content import FileReader

if TYPE_CHECKING:
    from ..registry.client import RegistryClient
    from ..state.blobs import Reader
    from ..state.cache import Cache, Pins


class Named(Protocol):
    """*place* is a registry (``host[:port]``) or a path, *repository* is in it."""

    place: str
    repository: str


def label(one: Named) -> str:
    """What *one* is called in messages."""
    return "/".join(filter(None, (one.place, one.repository)))


class Source(Named, Protocol):
    """What the engine asks of a source; several threads do. It raises PusherError."""

    def document(self, reference: str) -> RawManifest:
        """The manifest that *reference*, a tag or a digest, names."""

    def child(self, descriptor: Descriptor) -> RawManifest:
        """The manifest that *descriptor* names."""

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked."""

    def open_blob(self, digest: Digest, offset: int) -> Reader:
        """The bytes of a blob from *offset* on; whoever reads checks them."""

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """The manifests that have *subject* as theirs."""

    def has(self, blob: Descriptor) -> bool:
        """True when it holds *blob*, which may be fetched elsewhere."""

    def find_document(self, node: Descriptor) -> RawManifest | None:
        """The entry *node* of an index, of an unknown type; None when it is a blob."""

    def repositories(self, place: str, digest: Digest) -> Sequence[str]:
        """Those at *place*, a registry, that have the blob *digest*."""


class RegistrySource:
    """A repository of the registry that *client* talks to."""

    def __init__(self, client: RegistryClient, repository: str) -> None:
        self.place = client.registry
        self.repository = repository
        self._client = client

    def document(self, reference: str) -> RawManifest:
        """The manifest that *reference*, a tag or a digest, names."""
        return RawManifest(*self._client.read_manifest(self.repository, reference))

    def child(self, descriptor: Descriptor) -> RawManifest:
        """The manifest that *descriptor* names."""
        return self.document(str(descriptor.digest))

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked."""
        return self._client.read_blob(self.repository, descriptor)

    def open_blob(self, digest: Digest, offset: int) -> Reader:
        """The bytes of a blob from *offset* on, whatever happens to the connection."""
        return self._client.download(self.repository, digest, offset)

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """The manifests that have *subject* as theirs."""
        return self._client.referrers(self.repository, subject)

    def has(self, blob: Descriptor) -> bool:
        """True when it holds *blob*, as far as it says."""
        return self._client.has_blob(self.repository, blob)

    def find_document(self, node: Descriptor) -> RawManifest | None:
        """The entry *node* of an index, of an unknown type; None when it is a blob."""
        raw = self._client.find_document(self.repository, node)
        return None if raw is None else RawManifest(node, raw)

    def repositories(self, place: str, digest: Digest) -> Sequence[str]:
        """This one, when it is at *place*."""
        return [self.repository] if place == self.place else []


class GoneFromCache(NotFound):
    """The cache does not hold what was asked for, or holds it damaged."""


class CacheSource:
    """The images of *cache* as they are, asked of nobody else. *place* is its path.

    *root* is the manifest that is wanted, where it is not one that a name stands for.
    """

    repository = ""

    def __init__(self, cache: Cache, root: Descriptor | None = None) -> None:
        self.place = str(cache.directory)
        self._cache = cache
        self._root = root

    def document(self, reference: str) -> RawManifest:
        """The manifest that *reference*, a digest or a full name, names.

        Raises GoneFromCache.
        """
        if self._root and reference == self._root.digest:
            return self.child(self._root)
        known = _digest_document(self._cache, reference)
        if known is not None:
            return known
        found = self._cache.find(reference)
        if found is not None:
            return self.child(found.root)
        raise GoneFromCache(f"the cache does not hold {reference}; pull it again")

    def child(self, descriptor: Descriptor) -> RawManifest:
        """The manifest that *descriptor* names. Raises NotFound."""
        return RawManifest(descriptor, self.read_blob(descriptor))

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked. Raises NotFound."""
        raw = self._cache.read_document(descriptor)
        if raw is None:
            raise GoneFromCache(
                f"blob {descriptor.digest} is gone from the cache, or damaged; pull "
                "the image again"
            )
        return raw

    def open_blob(self, digest: Digest, offset: int) -> Reader:
        """The bytes of a blob from *offset* on."""
        return FileReader(self._cache.open_blob(digest, offset), self.place)

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """None: the cache keeps no list of them."""
        return ()

    def has(self, blob: Descriptor) -> bool:
        """True when the cache holds *blob*."""
        return self._cache.has(blob)

    def find_document(self, node: Descriptor) -> RawManifest | None:
        """None: the cache does not say, so it is a blob."""
        return None

    def repositories(self, place: str, digest: Digest) -> Sequence[str]:
        """None: it is in no registry."""
        return ()


class CachingSource:
    """A repository of a registry; manifests that *cache* holds are not asked for."""

    def __init__(self, source: RegistrySource, cache: Cache, pins: Pins) -> None:
        self.place = source.place
        self.repository = source.repository
        self._source = source
        self._cache = cache
        self._pins = pins

    def document(self, reference: str) -> RawManifest:
        """The manifest that *reference* names; what a tag means is always asked."""
        if ":" in reference:  # a digest, which nothing may prune from now on
            self._pins.add([Digest(reference)])
        known = _digest_document(self._cache, reference)
        return known or self._kept(self._source.document(reference))

    def child(self, descriptor: Descriptor) -> RawManifest:
        """The manifest that *descriptor* names."""
        raw = self._read(descriptor)
        if raw is not None:
            return RawManifest(descriptor, raw)
        return self._kept(self._source.child(descriptor))

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked."""
        raw = self._read(descriptor)
        if raw is None:
            raw = self._source.read_blob(descriptor)
            self._cache.put(descriptor.digest, raw)
        return raw

    def open_blob(self, digest: Digest, offset: int) -> Reader:
        """The bytes of a blob from *offset* on, whatever happens to the connection."""
        return self._source.open_blob(digest, offset)

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """The manifests that have *subject* as theirs."""
        return self._source.referrers(subject)

    def has(self, blob: Descriptor) -> bool:
        """True when the cache or the registry holds *blob*."""
        return self._cache.has(blob) or self._source.has(blob)

    def find_document(self, node: Descriptor) -> RawManifest | None:
        """The entry *node* of an index, of an unknown type; None when it is a blob."""
        found = self._source.find_document(node)
        return found and self._kept(found)

    def repositories(self, place: str, digest: Digest) -> Sequence[str]:
        """This one, when it is at *place*."""
        return self._source.repositories(place, digest)

    def _read(self, descriptor: Descriptor) -> bytes | None:
        self._pins.add([descriptor.digest])
        return self._cache.read_document(descriptor)

    def _kept(self, document: RawManifest) -> RawManifest:
        digest = document.descriptor.digest
        self._pins.add([digest])
        self._cache.put(digest, document.raw)
        return document


def _digest_document(cache: Cache, reference: str) -> RawManifest | None:
    """What *cache* has for *reference*, when that is a digest."""
    try:
        known = cache.document_with(Digest(reference))
    except InvalidDigest:
        return None
    return RawManifest(*known) if known else None
