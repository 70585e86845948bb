"""When an image was made, as its config says, and moments as people write them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Iterator, Mapping

from ..documents import RawManifest, children_of
from ..errors import ContentMismatch, InvalidDigest, InvalidJSON, NotFound
from ..expressions import expression
from ..oci import (
    DOCKER_CONFIG,
    INDEX_TYPES,
    JSON_LIMIT,
    MANIFEST_TYPES,
    OCI_CONFIG,
    Descriptor,
    Manifest,
    parse_json,
)
from ..strict_json import CONFIG, DOCUMENT
from .source import Source

NO_DATE_BEFORE = datetime(1990, 1, 1, tzinfo=timezone.utc).timestamp()
"""What is said to be older has no date: reproducible builds say 1970 or 1980."""

CREATED = "org.opencontainers.image.created"
"""(image-spec, annotations.md)"""

# 2024-01-31  2024-01-31T10:11:12Z  2024-01-31T10:11:12.123456789+01:00
_MOMENT = expression(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]+)?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2})))?"
)
_MOST_CHILDREN = 8
"""Images of an index that are asked for a date."""


def parse_moment(text: str) -> float | None:
    """Seconds since the epoch; None for what is no date and no time of RFC 3339.

    A date alone is its first moment in UTC.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(n or 0) for n in match.groups()[:6])
    sign, hours, minutes = match.groups()[6:]
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    try:
        zone = timezone(-offset if sign == "-" else offset)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


def created_at(source: Source, reference: str) -> float | None:
    """Seconds since the epoch at which the image *reference* was made.

    None for one that does not say, or cannot be read: who copies it says why. Raises
    what the source does.
    """
    try:
        for document in _images(source, source.document(reference)):
            for text in _texts(source, document):
                moment = parse_moment(text)
                if moment is not None and moment >= NO_DATE_BEFORE:
                    return moment
    except (InvalidJSON, InvalidDigest, ContentMismatch, NotFound):
        pass
    return None


def _images(source: Source, root: RawManifest) -> Iterator[RawManifest]:
    """*root*, and the images below it when it is an index."""
    yield root
    if root.descriptor.media_type in INDEX_TYPES:
        children = children_of(root.descriptor, root.raw).documents
        for child in children[:_MOST_CHILDREN]:
            if child.media_type in MANIFEST_TYPES:
                yield source.child(child)


def _texts(source: Source, document: RawManifest) -> Iterator[str]:
    """What the config of an image says, and then what annotations say."""
    record = parse_json(document.raw, "manifest", DOCUMENT)
    if document.descriptor.media_type in MANIFEST_TYPES:
        media_type = document.descriptor.media_type
        config = Manifest.from_bytes(document.raw, media_type).config
        yield _text(_read(source, config), "created")
    if isinstance(record, dict):
        yield _text(record.get("annotations"), CREATED)


def _read(source: Source, config: Descriptor) -> object:
    """The config of an image; None for what an artifact has in its place."""
    if config.media_type not in (OCI_CONFIG, DOCKER_CONFIG) or config.size > JSON_LIMIT:
        return None
    try:
        return parse_json(source.read_blob(config), "config", CONFIG)
    except InvalidJSON:
        return None


def _text(record: object, key: str) -> str:
    found = record.get(key) if isinstance(record, Mapping) else None
    return found if isinstance(found, str) else ""
