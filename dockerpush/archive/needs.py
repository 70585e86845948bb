"""What a delta needs: ``needs.json`` beside ``index.json`` of an OCI layout.

A delta is a layout without the blobs that a place holds already. It stays a valid
layout (image-spec, image-layout.md, Blobs: blobs may be missing), and this document
says which they are, and from which repositories they may come.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple

from ..errors import ArchiveError, InvalidJSON, some_of
from ..oci import (
    Descriptor,
    Digest,
    dump_json,
    optional,
    parse_json,
    require,
    required,
)
from ..strict_json import ANY
from .contents import Contents, naming

NEEDS_JSON = "needs.json"
VERSION = 1
"""Of this document, and of an inventory."""

_SHOWN = 3


class Need(NamedTuple):
    """A blob or manifest that was left out; *repositories* have it, by full name."""

    descriptor: Descriptor
    repositories: tuple[str, ...] = ()


Needs = Mapping[Digest, Need]


def to_bytes(needs: Needs) -> bytes:
    """The document, the same bytes for the same *needs*."""
    blobs = [
        {**_bare(need.descriptor).to_json(), "repositories": list(need.repositories)}
        for _, need in sorted(needs.items())
    ]
    return dump_json({"dockerpush": "needs", "version": VERSION, "blobs": blobs})


def _bare(descriptor: Descriptor) -> Descriptor:
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)


def parse_needs(raw: bytes) -> dict[Digest, Need]:
    """What the document *raw* says. Raises InvalidJSON, InvalidDigest."""
    record = require(parse_json(raw, "needs", ANY), dict, "needs")
    check_kind(record, "needs")
    found = {}
    for entry in required(record, "blobs", list, "needs"):
        descriptor = _bare(Descriptor.from_json(entry, "needs.blobs"))
        names = optional(entry, "repositories", list, "needs.blobs") or ()
        where = "needs.blobs.repositories"
        repositories = tuple(require(name, str, where) for name in names)
        found[descriptor.digest] = Need(descriptor, repositories)
    return found


def missing_needs(contents: Contents) -> dict[Digest, Need]:
    """What ``needs.json``, if there is one, names and *contents* do not hold.

    Raises ArchiveError, InvalidJSON, InvalidDigest.
    """
    member = contents.find(NEEDS_JSON)
    with naming(NEEDS_JSON):
        needs = parse_needs(contents.document(member)) if member else {}
    return {d: need for d, need in needs.items() if contents.find_blob(d) is None}


def check_kind(record: Mapping[str, Any], kind: str) -> None:
    """Check that *record* is a document of ours, of that *kind* and of our version.

    Raises InvalidJSON, which says what to do.
    """
    found = record.get("dockerpush")
    if found != kind:
        what = f"it is of the kind {found!r:.40}" if found else "it is something else"
        raise InvalidJSON(f"wanted a document {kind!r} of dockerpush, and {what}")
    version = required(record, "version", int, kind)
    if version > VERSION:
        raise InvalidJSON(
            f"version {version} of such a document, and this dockerpush knows "
            f"{VERSION}: install a newer dockerpush here"
        )


def refuse_delta(needs: Iterable[Need]) -> None:
    """Raises ArchiveError, which says where *needs*, if there are any, may be."""
    needs = list(needs)
    if not needs:
        return
    count = f"{len(needs)} blob{'s' * (len(needs) > 1)}"
    raise ArchiveError(
        f"a delta, without {count}{_held_by(needs)}; push, copy or sync it into the "
        "registry that has the rest"
    )


def _held_by(needs: Iterable[Need]) -> str:
    hosts = hosts_of(needs)
    return f" that {some_of(hosts, _SHOWN)} held" if hosts else ""


def hosts_of(needs: Iterable[Need]) -> list[str]:
    """The registries that are named as having *needs*."""
    names = (name for need in needs for name in need.repositories)
    return sorted({name.partition("/")[0] for name in names})
