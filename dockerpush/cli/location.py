"""What a word on the command line means as an image or a place of a registry.

A registry is contacted only when the user named it. Docker Hub is meant by a name such
as ``ubuntu:22.04`` or ``team/app``, never by a mistyped registry, file or directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidReference, UsageError

if TYPE_CHECKING:
    from ..reference import Place, Reference

REGISTRY = "docker://"
"""What may stand before an image of a registry, as skopeo writes it."""


def source(text: str, *, if_file: str = "") -> Reference:
    """The image that is read. *if_file* says what to write when *text* is a file.

    Raises InvalidReference, also for a name of one part that a file or a directory has.
    """
    from ..reference import DOCKER_HUB, LooksLikeFile, parse_source

    name = without_scheme(text)
    try:
        reference = parse_source(name)
    except LooksLikeFile as error:
        raise _with_hint(error, if_file) from error
    if name == text and "/" not in text and Path(text).exists():
        hint = if_file and f"{if_file}; "
        raise InvalidReference(
            f"{text!r:.200} is a {_kind(text)} here, not an image: {hint}"
            f"{DOCKER_HUB}/library/{text} means the image of Docker Hub"
        )
    return reference


def target(text: str, *, if_file: str = "") -> Reference:
    """The image that is written. Raises InvalidReference, as `source` does."""
    from ..reference import LooksLikeFile, OnePart, parse_target

    try:
        return parse_target(without_scheme(text))
    except (LooksLikeFile, OnePart) as error:
        raise _with_hint(error, if_file) from error


def place(text: str) -> Place:
    """``HOST[:PORT][/PREFIX]``, where repositories are.

    Raises InvalidReference, and UsageError for what is rather a file or a directory.
    """
    from ..reference import Place, looks_like_file

    name = without_scheme(text)
    found = Place.parse(name)
    is_host = "." in found.registry or ":" in found.registry
    here = not is_host and name == text and Path(text).exists()
    if here or (name == text and "/" not in text and looks_like_file(text)):
        raise UsageError(
            f"{text!r:.200} is a {_kind(text)}, not a registry: write HOST[:PORT]"
            "[/PREFIX], or oci:DIR where a directory is meant"
        )
    return found


def without_scheme(text: str) -> str:
    """*text* without ``docker://``."""
    return text[len(REGISTRY) * text.startswith(REGISTRY) :]


def _kind(text: str) -> str:
    return "directory" if Path(text).is_dir() else "file"


def _with_hint(error: InvalidReference, hint: str) -> InvalidReference:
    return InvalidReference(f"{error}; {hint}" if hint else str(error))
