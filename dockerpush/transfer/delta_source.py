"""The images of a delta as a source: what it lacks is in the target's registry.

What was left out is mounted by the target, where the registry does that, else read from
a repository that has it. The delta's word for where that is only saves looking.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Callable, Iterator, Mapping, NamedTuple, Sequence

from ..archive.needs import hosts_of
from ..documents import RawManifest, Walk, children_of, is_document
from ..errors import ArchiveError, ContentMismatch, InvalidReference, some_of
from ..oci import Descriptor, Digest
from ..reference import check_repository
from ..upload.content import FileReader
from .manifests import as_referrer

if TYPE_CHECKING:
    from ..archive.opened import OpenLayout
    from ..registry.client import RegistryClient
    from ..state.blobs import Reader

Places = Callable[[str], Sequence[str]]
"""Repositories that may be what a delta calls by a full name."""

_SHOWN = 5


class NotHeld(ContentMismatch):
    """What a delta left out is not where it should be."""


class Base(NamedTuple):
    """The registry that a delta is for: what it lacks may be in *repository*.

    Also in those that *places* gives for the names that the delta has.
    """

    client: RegistryClient
    repository: str
    places: Places = lambda name: [name.partition("/")[2]]


class DeltaSource:
    """Images of *layout*, a delta that stays open, on their way to one repository.

    *place* is its path, for messages. Without a *base* it gives only what it holds.
    """

    repository = ""

    def __init__(self, layout: OpenLayout, base: Base | None) -> None:
        self.place = str(layout.path)
        self._layout = layout
        self._base = base
        self._found: dict[Digest, str | None] = {}
        self._parents: dict[Digest, str] = {}
        self._known = {d: need.descriptor for d, need in layout.needs.items()}

    def document(self, reference: str) -> RawManifest:
        """The manifest with the digest *reference*. Raises NotHeld, ArchiveError."""
        return self.child(self.entry(reference))

    def entry(self, reference: str) -> Descriptor:
        """The descriptor of the image with the digest *reference*."""
        for entry in self._layout.entries:
            if entry.digest == reference:
                return entry
        known = self._known.get(Digest(reference))
        if known is None:
            raise ArchiveError(f"{self.place}: it names no image {reference}")
        return known

    def child(self, descriptor: Descriptor) -> RawManifest:
        """The manifest that *descriptor* names. Raises NotHeld, ArchiveError."""
        repository = None
        if self._layout.has(descriptor):
            raw = self._layout.document(descriptor)
        else:
            repository, client = self._holder(descriptor)
            raw = client.read_manifest(repository, str(descriptor.digest))[1]
        for child in _below(descriptor, raw):
            self._known.setdefault(child.digest, child)
            if repository is not None:
                self._parents.setdefault(child.digest, repository)
        return RawManifest(descriptor, raw)

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked."""
        if self._layout.has(descriptor):
            return self._layout.document(descriptor)
        repository, client = self._holder(descriptor)
        return client.read_blob(repository, descriptor)

    def open_blob(self, digest: Digest, offset: int) -> Reader:
        """The bytes of a blob from *offset* on; whoever reads checks them."""
        descriptor = self._known.get(digest)
        if descriptor is None or self._layout.has(descriptor):
            return FileReader(self._layout.open_at(digest, offset), self.place)
        repository, client = self._holder(descriptor)
        return client.download(repository, digest, offset)

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """The manifests of the delta that have *subject* as theirs."""
        return self._referrers.get(subject, [])

    @cached_property
    def _referrers(self) -> Mapping[Digest, list[Descriptor]]:
        found: dict[Digest, list[Descriptor]] = {}
        for entry in self._layout.entries:
            told = as_referrer(self.child(entry)) if self._layout.has(entry) else None
            if told:
                found.setdefault(told[0], []).append(told[1])
        return found

    def has(self, blob: Descriptor) -> bool:
        """True when the delta holds *blob*, or the target's registry does."""
        return self._layout.has(blob) or self._finds(blob) is not None

    def find_document(self, node: Descriptor) -> RawManifest | None:
        """None: a layout does not say it, so it is a blob."""
        return None

    def repositories(self, place: str, digest: Digest) -> Sequence[str]:
        """Those of *place* that *digest* may be mounted from."""
        found = self._found.get(digest)
        at_home = self._base is not None and place == self._base.client.registry
        return [found] if found and at_home else []

    def lacks(
        self,
        root: Descriptor,
        is_there: Callable[[Descriptor], bool] = lambda document: False,
    ) -> Iterator[Descriptor]:
        """What *root* needs, and neither the delta nor the registry has.

        *is_there* says of a manifest that the target has it with all that it needs.
        """
        walk, blobs = Walk(self.place), dict[Digest, Descriptor]()
        waiting = [(root, 0)]
        while waiting:
            node, depth = waiting.pop()
            if is_there(node) or not walk.enters(node, depth):
                continue
            try:
                document = self.child(node)
            except NotHeld:
                yield node
                continue
            walk.takes(document.raw, node.size)
            children = children_of(node, document.raw)
            waiting += [(child, depth + 1) for child in children.documents]
            blobs.update((one.digest, one) for one in children.blobs if not one.urls)
        yield from (blob for blob in blobs.values() if not self.has(blob))

    def _holder(self, descriptor: Descriptor) -> tuple[str, RegistryClient]:
        """The repository that has it. Raises NotHeld."""
        found = self._finds(descriptor)
        if found is None or self._base is None:
            registry = self._base.client.registry if self._base else "the target"
            raise NotHeld(
                f"{self.place} is a delta, and {registry} does not hold "
                f"{descriptor.digest}; {_advice(self._layout)}"
            )
        return found, self._base.client

    def _finds(self, descriptor: Descriptor) -> str | None:
        """A repository of the registry that has what *descriptor* names."""
        digest = descriptor.digest
        if digest not in self._found:
            names = self._candidates(digest)
            holding = (name for name in names if self._looks(name, descriptor))
            self._found[digest] = next(holding, None)
        return self._found[digest]

    def _candidates(self, digest: Digest) -> Iterator[str]:
        """Repositories that may have it, likely ones first, each once."""
        if self._base is None:
            return
        need = self._layout.needs.get(digest)
        named = need.repositories if need else ()
        found = (
            self._base.repository,
            *(one for name in named for one in self._base.places(name)),
            *(_beside(self._base.repository, name) for name in named),
            self._parents.get(digest, ""),
        )
        yield from filter(_is_repository, dict.fromkeys(found))

    def _looks(self, repository: str, descriptor: Descriptor) -> bool:
        assert self._base is not None, "there is no candidate without a registry"
        client, digest = self._base.client, str(descriptor.digest)
        if not is_document(descriptor):
            return client.has_blob(repository, descriptor)
        return client.find_manifest(repository, digest) is not None


def _is_repository(name: str) -> bool:
    """False for what no registry has: a delta may say anything."""
    try:
        check_repository(name)
    except InvalidReference:
        return False
    return True


def _beside(repository: str, name: str) -> str:
    """The repository beside *repository* with the last part of *name*."""
    folder, slash, _ = repository.rpartition("/")
    return folder + slash + name.rpartition("/")[2]


def _below(node: Descriptor, raw: bytes) -> list[Descriptor]:
    children = children_of(node, raw)
    return [*children.documents, *children.blobs]


class Lacking(NamedTuple):
    """An image that would be incomplete in the registry, and the *blobs* it lacks."""

    name: str
    blobs: Sequence[Descriptor]

    def __str__(self) -> str:
        return f"{self.name} lacks {some_of([one.digest for one in self.blobs], 2)}"


def refuse_lacking(found: Sequence[Lacking], delta: OpenLayout) -> None:
    """Raises NotHeld, which names images and blobs, unless nothing is lacking."""
    lacking = [one for one in found if one.blobs]
    if not lacking:
        return
    more = f"; {len(lacking) - _SHOWN} more images" if len(lacking) > _SHOWN else ""
    shown = "; ".join(map(str, lacking[:_SHOWN]))
    raise NotHeld(
        f"{delta.path} is a delta, and its base is not whole: {shown}{more}; nothing "
        f"was changed; {_advice(delta)}"
    )


def _advice(delta: OpenLayout) -> str:
    """What to do when the registry lacks what was left out."""
    hosts = hosts_of(delta.needs.values())
    made = f"it was made for {', '.join(hosts[:_SHOWN])}; " if hosts else ""
    return (
        f"{made}make it again with an inventory of the registry that it goes to, or "
        "without --have"
    )
