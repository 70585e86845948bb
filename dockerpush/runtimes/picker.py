"""Local images as runtimes list them, and what a person chooses from such a list.

Pure: texts go in, values come out. The three forms of listing are an object a line
(docker, nerdctl) and an array (podman); the fields differ, and are read for what they
hold, not for who printed them.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from datetime import datetime, timezone
from typing import Any, Iterator, Mapping, Sequence

from ..errors import InvalidJSON, UsageError
from ..expressions import expression
from ..strict_json import values_in
from ..values import value

_NONE = "<none>"
_DIGEST_NAME = expression(r"(sha256:)?[0-9a-f]{64}")
_SIZE = expression(r"([0-9.]+) ?([kKMGTP]?)(i?)B")
_DOCKER_TIME = "%Y-%m-%d %H:%M:%S %z"
_IMPLIED_PREFIX = expression(r"^(docker\.io/(library/)?|localhost/)")
_MULTIPLES = "KMGTP"
_RANGE = expression(r"([0-9]{1,9})-([0-9]{1,9})")
_SPACED_RANGE = expression(r"(?<=[0-9])\s+-\s+(?=[0-9])")


@value
class LocalImage:
    """An image of a runtime, under one of its names.

    *name* is "" for an image that has none; *id* is hexadecimal, whole or its start;
    *size* is bytes, as exact as the runtime says; None where it does not.
    """

    name: str
    id: str
    size: int | None = None
    created: datetime | None = None

    @property
    def reference(self) -> str:
        """What the runtime knows it by: the name, else the id."""
        return self.name or self.id


def parse_images(listing: bytes, what: str) -> tuple[LocalImage, ...]:
    """The images of a *listing*, newest first, each name once.

    Raises InvalidJSON, which names *what* was parsed.
    """
    images = [
        image for record in _records(listing, what) for image in _images(record, what)
    ]
    named = {image.id for image in images if image.name}
    unique = {
        (image.name, image.id): image
        for image in reversed(images)
        if image.name or image.id not in named
    }
    return tuple(sorted(unique.values(), key=_newest_first))


def numbered_lines(images: Sequence[LocalImage]) -> list[str]:
    """The list to choose from, a line for each image, aligned."""
    rows = [
        (
            f"{number})",
            image.name or _NONE,
            image.id[:12],
            "" if image.size is None else _size_text(image.size),
            "" if image.created is None else image.created.strftime("%Y-%m-%d"),
        )
        for number, image in enumerate(images, 1)
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(5)]
    return [
        f"{number:>{widths[0]}} {name:<{widths[1]}}  {id_:<{widths[2]}}  "
        f"{size:>{widths[3]}}  {created}".rstrip()
        for number, name, id_, size, created in rows
    ]


def parse_selection(text: str, images: Sequence[LocalImage]) -> tuple[LocalImage, ...]:
    """The images that *text* chooses, in its order, each once.

    It holds numbers of the list (from 1), ranges ``2-4``, names, ids and patterns
    (``*`` is all, ``team/*`` some), between commas or spaces. Raises UsageError, which
    names the part that fits nothing.
    """
    words = _SPACED_RANGE.sub("-", text).replace(",", " ").split()
    if not words:
        raise UsageError(
            "nothing chosen: wanted numbers, ranges (2-4), names, or * for all"
        )
    chosen = [image for word in words for image in _chosen(word, images)]
    return tuple(dict.fromkeys(chosen))


def _chosen(word: str, images: Sequence[LocalImage]) -> Sequence[LocalImage]:
    if re.fullmatch("[0-9]{1,9}", word):
        return _numbers(word, int(word), int(word), images)
    if bounds := _RANGE.fullmatch(word):
        return _numbers(word, int(bounds[1]), int(bounds[2]), images)
    if any(character in word for character in "*?["):
        found = [
            image for image in images if fnmatch.fnmatchcase(image.reference, word)
        ]
    else:
        found = _by_name(word, images)
    if not found:
        raise UsageError(f"no image in the list is {word!r}")
    return found


def _numbers(
    word: str, first: int, last: int, images: Sequence[LocalImage]
) -> Sequence[LocalImage]:
    if not 1 <= first <= last <= len(images):
        raise UsageError(f"not in the list, which goes from 1 to {len(images)}: {word}")
    return images[first - 1 : last]


def _by_name(word: str, images: Sequence[LocalImage]) -> list[LocalImage]:
    """The images called *word*; failing that, the one that it abbreviates."""
    found = [image for image in images if word in _short_forms(image.name)]
    if found:
        return found
    found = [
        image
        for image in images
        if any(form.rpartition(":")[0] == word for form in _short_forms(image.name))
        or (re.fullmatch("[0-9a-f]{4,64}", word) and image.id.startswith(word))
    ]
    if len(found) > 1:
        names = ", ".join(image.reference for image in found[:4])
        raise UsageError(f"{word!r} may be any of {names}: choose by number")
    return found


def _short_forms(name: str) -> tuple[str, ...]:
    """*name*, and what people leave out of it."""
    bare = _IMPLIED_PREFIX.sub("", name)
    forms = (name, bare)
    return forms + tuple(form[:-7] for form in forms if form.endswith(":latest"))


def _newest_first(image: LocalImage) -> tuple[bool, float, str]:
    created = image.created
    return (created is None, -created.timestamp() if created else 0.0, image.reference)


def _size_text(size: int) -> str:
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def _records(listing: bytes, what: str) -> Iterator[Mapping[str, Any]]:
    """The objects of the listing, with their keys in lower case."""
    for found in values_in(listing.decode(errors="replace"), what):
        for record in found if isinstance(found, list) else [found]:
            if not isinstance(record, dict):
                raise InvalidJSON(f"{what}: not an image: {record!r:.80}")
            yield {str(key).lower(): item for key, item in record.items()}


def _images(record: Mapping[str, Any], what: str) -> Iterator[LocalImage]:
    id_ = record.get("id")
    if not isinstance(id_, str) or not id_.rpartition(":")[2]:
        raise InvalidJSON(f"{what}: an image without an id: {dict(record)!r:.80}")
    for name in _names(record) or [""]:
        yield LocalImage(
            name,
            id_.rpartition(":")[2],
            _size(record.get("size")),
            _created(record.get("created"), record.get("createdat")),
        )


def _names(record: Mapping[str, Any]) -> list[str]:
    if isinstance(record.get("names"), list):
        names = [name for name in record["names"] if isinstance(name, str)]
    else:
        repository, tag = record.get("repository"), record.get("tag")
        names = [f"{repository}:{tag}"] if repository and tag else []
    return [
        name for name in names if _NONE not in name and not _DIGEST_NAME.fullmatch(name)
    ]


def _size(value: Any) -> int | None:
    """Bytes, from a number or from ``72.9MB``, ``5.9 MiB``."""
    if isinstance(value, int):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1].count(".") > 1 or match[1] == ".":
        return None
    base = 1024 if match[3] else 1000
    power = _MULTIPLES.index(match[2].upper()) + 1 if match[2] else 0
    return int(float(match[1]) * float(base) ** power)


def _created(seconds: Any, text: Any) -> datetime | None:
    """From seconds since 1970, or from ``2021-03-04 03:24:42 +0100 CET``."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        if isinstance(seconds, int):
            return datetime.fromtimestamp(seconds, timezone.utc)
        if isinstance(text, str):
            return datetime.strptime(text[:25], _DOCKER_TIME)
    return None
