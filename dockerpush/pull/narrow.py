"""The part of an image that is for some platforms."""

from __future__ import annotations

from typing import Sequence

from ..copy.model import TakenPlatform
from ..copy.narrow import narrowed as chosen_of
from ..copy.narrow import taken_of
from ..errors import ContentMismatch
from ..events import Notice
from ..oci import INDEX_TYPES, Descriptor, Platform
from ..push.manifests import Document
from .fetch import PullSource, fetch_blob, fetch_document


def narrowed(
    source: PullSource, root: Descriptor, platforms: Sequence[Platform]
) -> Descriptor:
    """The manifest of *root* for the only one of *platforms*, or an index of several.

    Such an index is made here, so its digest is not that of *root*; the cache holds it
    then. Raises NotFound, which names what there is.
    """
    whole = Document(root, fetch_document(source, root))
    found = chosen_of(_CacheReader(source), whole, platforms)
    made = found.descriptor
    if made.media_type in INDEX_TYPES and made.digest != root.digest:
        source.pins.add([made.digest])
        source.cache.put(made.digest, found.raw)
        source.on_event(
            Notice(
                f"only {', '.join(map(str, platforms))}: the index is a new one, "
                f"{made.digest}"
            )
        )
    return made


def taken(
    source: PullSource, root: Descriptor, chosen: Descriptor, platform: Platform
) -> TakenPlatform | None:
    """What to say of *chosen*, taken of *root* for *platform*; None if it is all."""
    whole = Document(root, fetch_document(source, root))
    return taken_of(_CacheReader(source), whole, chosen, platform)


class _CacheReader:
    """Manifests and configs of an image, which the cache holds then."""

    def __init__(self, source: PullSource) -> None:
        self.place = source.client.registry
        self.repository = source.repository
        self._source = source

    def child(self, descriptor: Descriptor) -> Document:
        """The manifest that *descriptor* names."""
        return Document(descriptor, fetch_document(self._source, descriptor))

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """A config."""
        self._source.pins.add([descriptor.digest])
        fetch_blob(self._source, descriptor)
        content = self._source.cache.read_document(descriptor)
        if content is None:
            raise ContentMismatch(f"blob {descriptor.digest} is gone from the cache")
        return content
