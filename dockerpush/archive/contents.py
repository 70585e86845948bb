"""The parts of an archive that assembly looks at, found by name and by digest.

Bounds keep a hostile archive from taking memory: JSON is refused by name when one
document is large, and as a whole when all of it is.
"""

from __future__ import annotations

import contextlib
from typing import Iterator, Mapping

from ..errors import ArchiveError, InvalidDigest, InvalidJSON
from ..expressions import expression
from ..oci import JSON_LIMIT, Digest, ImageConfig, value_count
from .headers import quoted, resolved
from .sniff import compression_of
from .stored import Compression, Member, MemberKind

DOCUMENTS_LIMIT = 12 * 1024 * 1024
"""Bytes that all manifests, indexes and configs of an archive may have together."""

DESCRIPTOR_LIMIT = 50_000
"""Layers and manifests that an archive may name, every mention counted."""

DOCUMENT_DESCRIPTOR_LIMIT = 20_000
"""Layers or manifests that one document may name, about a kilobyte each once read."""

DESCRIPTOR_VALUES = 3
"""Values that a descriptor has at least."""

_JSON_HEAD = expression(rb"\s*(?:[{\[]|\Z)|\xef\xbb\xbf|\xff\xfe|\xfe\xff")
_BLOB_NAME = expression(r"blobs/(sha256|sha384|sha512)/([0-9a-f]+)")
_CONFIG_NAME = expression(r"(?:sha256:)?([0-9a-f]{64})(?:\.json)?")


class LimitExceeded(ArchiveError):
    """The archive would take more memory or time than any honest one."""


class Contents:
    """Members, small JSON and first bytes of one archive, with what was used of them.

    *documents* holds the bytes of JSON members and *heads* the first bytes of any, both
    by the name of a member that is no link. Both may read only when they are asked; a
    file that is not among the documents counts as something else than JSON.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        documents: Mapping[str, bytes],
        heads: Mapping[str, bytes],
    ) -> None:
        self.members = members
        self._documents = documents
        self._heads = heads
        self._kept: dict[str, bytes] = {}
        self._kept_size = 0
        self._configs: dict[str, ImageConfig | None] = {}
        self._descriptors = 0

    def find(self, name: str) -> Member | None:
        """The file that *name* leads to; None when the archive lacks it.

        Raises ArchiveError when it is no regular file, or leads out of the archive.
        """
        member = resolved(self.members, name)
        if member is not None and member.kind is not MemberKind.FILE:
            advice = (
                "; pack it again without -S" if member.kind is MemberKind.SPARSE else ""
            )
            raise ArchiveError(
                f"{quoted(name)}: a {member.kind.value}, wanted a file{advice}"
            )
        return member

    def find_blob(self, digest: Digest) -> Member | None:
        """The file with the blob *digest*; None when the archive lacks it.

        (image-spec, image-layout.md; and the form that skopeo writes as ``dir:``)
        """
        found = self.find(f"blobs/{digest.algorithm}/{digest.hex}")
        return (
            found or self.find(digest.hex) or self.find(f"{digest.hex}.manifest.json")
        )

    def document(self, member: Member) -> bytes:
        """The bytes of the JSON file *member*. Raises ArchiveError when too many."""
        if member.name in self._kept:
            return self._kept[member.name]
        if member.size > JSON_LIMIT:
            raise ArchiveError(
                f"{quoted(member.name)}: {member.size} bytes of JSON, the limit is "
                f"{JSON_LIMIT}"
            )
        self._kept_size += member.size
        if self._kept_size > DOCUMENTS_LIMIT:
            raise LimitExceeded(
                f"{quoted(member.name)}: the JSON of the archive has more than "
                f"{DOCUMENTS_LIMIT >> 20} MiB, which is the limit"
            )
        content = self._documents.get(member.name)
        if content is None:
            raise InvalidJSON(
                f"{quoted(member.name)}: dockerpush reads a pipe once, and did not "
                "keep this document of it; write the archive to a file, unpacked, and "
                "push the file instead"
            )
        self._kept[member.name] = content
        return content

    def image_config(self, member: Member) -> ImageConfig | None:
        """The image config in *member*; None when that is none, such as ``{}``.

        Raises ArchiveError, InvalidJSON, InvalidDigest.
        """
        if member.name not in self._configs:
            with naming(member.name):
                config = ImageConfig.find(self.document(member))
            self._configs[member.name] = config
        return self._configs[member.name]

    def may_be_json(self, member: Member) -> bool:
        """True unless the first bytes of *member* say that it is something else."""
        return (
            member.size > 0 and _JSON_HEAD.match(self._heads[member.name]) is not None
        )

    def compression(self, member: Member) -> Compression:
        """How the blob in *member* is compressed."""
        return compression_of(self._heads[member.name] if member.size else b"")

    def count_mentions(self, raw: bytes, name: str) -> None:
        """Take note of what the document *raw* names, before it is decoded."""
        written = raw.count(b'"digest"')  # which JSON may write otherwise, too
        values = value_count(raw)
        count = max(written, values // DESCRIPTOR_VALUES)
        if count > DOCUMENT_DESCRIPTOR_LIMIT:
            raise LimitExceeded(
                f"{quoted(name)}: it names {written} layers or manifests in {values} "
                f"values, the limits are {DOCUMENT_DESCRIPTOR_LIMIT} and "
                f"{DOCUMENT_DESCRIPTOR_LIMIT * DESCRIPTOR_VALUES}"
            )
        self.count_descriptors(count)

    def count_descriptors(self, count: int) -> None:
        """Take note of *count* more layers or manifests. Raises ArchiveError."""
        self._descriptors += count
        if self._descriptors > DESCRIPTOR_LIMIT:
            raise LimitExceeded(
                f"it names more than {DESCRIPTOR_LIMIT} layers and manifests"
            )


def path_of(digest: Digest) -> str:
    """Where a layout has the blob *digest* (image-spec, image-layout.md, Blobs)."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def blob_digest(name: str) -> Digest | None:
    """The digest that *name* gives the blob of an OCI layout."""
    match = _BLOB_NAME.fullmatch(name)
    try:
        return Digest(f"{match[1]}:{match[2]}") if match else None
    except InvalidDigest:
        return None


def config_digest(name: str) -> Digest | None:
    """The digest that *name* gives a config; docker, ko and nix name theirs so."""
    match = _CONFIG_NAME.fullmatch(name)
    return Digest(f"sha256:{match[1]}") if match else blob_digest(name)


def check_bytes(content: bytes, digest: Digest, name: str) -> None:
    """Check that *content* has the *digest*. Raises ArchiveError."""
    hasher = digest.hasher()
    hasher.update(content)
    found = Digest.from_hash(hasher)
    if found != digest:
        raise ArchiveError(
            f"{quoted(name)}: its digest is {found}, it should be {digest}; the "
            "archive is damaged, save it again"
        )


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Put *name* before what the ``with`` raises about a document."""
    try:
        yield
    except (InvalidJSON, InvalidDigest) as error:
        raise type(error)(f"{quoted(name)}: {error}") from error
