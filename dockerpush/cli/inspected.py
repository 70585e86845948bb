"""What an archive holds, with the digests that it does not hold itself."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator, Mapping, Sequence

if TYPE_CHECKING:
    from ..archive.compressed_streams import Readable
    from ..archive.forward import ForwardArchive
    from ..archive.stored import StoredBlob, StoredImage
    from ..oci import Digest
    from ..system.cancellation import Cancellation


class Inspected:
    """The *images* of an archive; *digests*, by member, were read for it."""

    def __init__(
        self, images: Sequence[StoredImage], digests: Mapping[str, Digest]
    ) -> None:
        self.images = images
        self._digests = digests

    def digest_of(self, layer: StoredBlob) -> Digest | None:
        """That of the stored bytes of *layer*, where the archive does not say."""
        return self._digests.get(layer.member or "")


@contextmanager
def contents_of(
    path: str, cancellation: Cancellation, *, hashed: bool
) -> Iterator[Inspected]:
    """What the archive at *path* holds; with *hashed* every stored layer has a digest.

    ``-`` is standard input. Raises NotFound, ArchiveError.
    """
    from ..archive import open_archive
    from ..archive.forward import open_forward
    from ..archive.sniff import is_forward
    from ..archive.stored import manifests
    from ..system.workers import in_parallel

    if is_forward(path):
        with open_forward(path, cancellation) as forward:
            digests = _read_forward(forward, cancellation, hashed=hashed)
            with forward.explained():
                images = forward.index.images()
        yield Inspected(images, digests)
        return
    with open_archive(path) as archive:
        wanted = dict.fromkeys(
            layer.member
            for image in archive.images
            for manifest in manifests(image.root or image.entry)
            for layer in manifest.layers
            if hashed and layer.member and layer.digest is None
        )

        def hashed_member(name: str) -> Digest:
            return _hash(archive.open_at(name), cancellation)

        found = in_parallel(hashed_member, list(wanted), cancellation)
        yield Inspected(archive.images, dict(zip(wanted, found)))


def _read_forward(
    archive: ForwardArchive, cancellation: Cancellation, *, hashed: bool
) -> dict[str, Digest]:
    """Read *archive* to its end; the digests of what is compressed, by member."""
    from ..archive.contents import blob_digest
    from ..archive.sniff import compression_of
    from ..archive.stored import Compression
    from ..oci import Digest

    found = {}
    for member in archive.files():
        cancellation.check()
        packing = compression_of(archive.index.heads[member.name])
        is_named = blob_digest(member.name) is not None
        if hashed and not is_named and packing is not Compression.NONE:
            found[member.name] = _hash(archive, cancellation)
    for name, content in archive.index.documents.items():
        found.setdefault(name, Digest.of(content))
    return found


def _hash(file: Readable, cancellation: Cancellation) -> Digest:
    """The digest of what *file* holds, which is closed."""
    from ..archive.decompress import digests
    from ..archive.stored import Compression

    return digests(
        file, Compression.NONE, cancellation=cancellation, on_read=lambda count: None
    ).digest
