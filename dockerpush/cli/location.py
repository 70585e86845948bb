"""What a word on the command line means as an image of a registry.

A registry is contacted only when the user named it. Docker Hub is meant by a name such
as ``ubuntu:22.04`` or ``team/app``, never by a mistyped registry, file or directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidReference

if TYPE_CHECKING:
    from ..reference import Reference

REGISTRY = "docker://"
"""What may stand before an image of a registry, as skopeo writes it."""


def source(text: str, *, hint: str = "") -> Reference:
    """The image that is read. *hint* says what else *text* may have been meant as.

    Raises InvalidReference, also for a name of one part that a file or a directory has.
    """
    from ..reference import DOCKER_HUB, parse_source

    name = without_scheme(text)
    try:
        reference = parse_source(name)
    except InvalidReference as error:
        raise _with_hint(error, hint) from error
    if name == text and "/" not in text and Path(text).exists():
        kind = "directory" if Path(text).is_dir() else "file"
        raise InvalidReference(
            f"{text!r:.200} is a {kind} here, not an image: "
            + (hint and f"{hint}; ")
            + f"{DOCKER_HUB}/library/{text} means the image of Docker Hub"
        )
    return reference


def target(text: str, *, hint: str = "") -> Reference:
    """The image that is written. Raises InvalidReference, as `source` does."""
    from ..reference import parse_target

    try:
        return parse_target(without_scheme(text))
    except InvalidReference as error:
        raise _with_hint(error, hint) from error


def without_scheme(text: str) -> str:
    """*text* without ``docker://``."""
    return text[len(REGISTRY) * text.startswith(REGISTRY) :]


def _with_hint(error: InvalidReference, hint: str) -> InvalidReference:
    return InvalidReference(f"{error}; {hint}" if hint else str(error))
