"""What ``inspect`` shows of an archive, and of an image's config."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

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
        """The digest of *layer* as it is stored, where the archive does not say it."""
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


_FIELDS = {
    "env": ("Env", list),
    "entrypoint": ("Entrypoint", list),
    "cmd": ("Cmd", list),
    "user": ("User", str),
    "workingDir": ("WorkingDir", str),
    "exposedPorts": ("ExposedPorts", dict),
    "labels": ("Labels", dict),
}
"""Our name of a field → the config's name and the type that it must have."""


def runtime_settings(config: Any) -> dict[str, Any]:
    """The fields of *config*, a config as parsed, by our names; empty where absent."""
    known = _object(_object(config).get("config"))
    found: dict[str, Any] = {}
    for name, (theirs, kind) in _FIELDS.items():
        found[name] = _of_type(kind, known.get(theirs))
    found["exposedPorts"] = sorted(found["exposedPorts"])
    return found


def _object(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _of_type(kind: type, found: Any) -> Any:
    return found if isinstance(found, kind) else kind()


def settings_rows(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings in *record*, for people; what is empty is left out."""
    for name in ("entrypoint", "cmd"):
        if record[name]:
            yield f"  {name}", json.dumps(record[name])
    if record["user"]:
        yield "  user", record["user"]
    if record["workingDir"]:
        yield "  directory", record["workingDir"]
    for name, values in (("env", "env"), ("port", "exposedPorts")):
        yield from ((f"  {name}", str(value)) for value in record[values])
    yield from (("  label", f"{k}={v}") for k, v in record["labels"].items())
