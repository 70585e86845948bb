"""What a word on the command line means: an image, a registry, a file, a directory.

A registry is contacted only when the user named it. A name such as ``ubuntu:22.04`` or
``team/app`` means Docker Hub; a mistyped registry, file or directory never does.

``oci:DIR[:NAME]``, ``oci-archive:FILE[:NAME]`` and ``docker-archive:FILE[:NAME]`` are
skopeo's words; a plain path is enough where it cannot be an image.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..errors import InvalidReference, UsageError
from ..expressions import expression
from ..reference import (
    DOCKER,
    DOCKER_HUB,
    TRANSPORTS,
    LooksLikeFile,
    OnePart,
    Place,
    Reference,
    check_no_runtime,
    looks_like_file,
    parse_source,
    parse_target,
    without_docker,
)
from ..transfer.choices import DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_DIRECTORY
from ..values import replace, value


def source(text: str, *, if_file: str = "") -> Reference:
    """The image that is read. *if_file* says what to write when *text* is a file.

    Raises InvalidReference, also for a name of one part that a file or a directory has.
    """
    name = without_docker(text)
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
    try:
        return parse_target(without_docker(text))
    except (LooksLikeFile, OnePart) as error:
        raise _with_hint(error, if_file) from error


def place(text: str) -> Place:
    """``HOST[:PORT][/PREFIX]``, where repositories are.

    Raises InvalidReference, and UsageError for what is rather a file or a directory.
    """
    name = without_docker(text)
    if text.startswith(TRANSPORTS):
        raise UsageError(_no_registry(text, "an archive or a directory"))
    found = Place.parse(name)
    is_host = "." in found.registry or ":" in found.registry
    here = not is_host and name == text and Path(text).exists()
    if here or (name == text and "/" not in text and looks_like_file(text)):
        raise UsageError(_no_registry(text, f"a {_kind(text)}"))
    return found


def _no_registry(text: str, what: str) -> str:
    return (
        f"{text!r:.200} is {what}, not a registry: write HOST[:PORT][/PREFIX], or "
        "oci:DIR where a directory is meant"
    )


def short_path(name: Reference) -> str:
    """The repository of *name* as people write it: ``library/nginx`` is ``nginx``."""
    official = name.registry == DOCKER_HUB and name.repository.startswith("library/")
    return name.repository[len("library/") :] if official else name.repository


def _kind(text: str) -> str:
    return "directory" if Path(text).is_dir() else "file"


def _with_hint(error: InvalidReference, hint: str) -> InvalidReference:
    return type(error)(f"{error}; {hint}" if hint else str(error))


STDOUT = "-"
_STDOUT_NAMES = (STDOUT, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")

OCI_PREFIX = "oci:"
_ARCHIVE_PREFIX = "oci-archive:"

_PREFIXES = {
    OCI_PREFIX: OCI_DIRECTORY,
    _ARCHIVE_PREFIX: OCI_ARCHIVE,
    "docker-archive:": DOCKER_ARCHIVE,
}
_ENDING = expression(r"\.(tar|tgz|tar\.(gz|bz2|xz|zst))(\.[0-9]{3})?\Z")
_NAME = expression(r"[!-~]+")
_DRIVE = expression(r"[A-Za-z]:[\\/]")


@value
class Local:
    """A file or a directory. *form* is one of `FORMS` where a prefix says so.

    *name* is that of the image in it, None when nobody says one.
    """

    path: str
    form: str | None = None
    name: str | None = None


def local(text: str) -> Local | None:
    """The file or directory that *text* means; None when it means an image.

    Raises UsageError for a prefix without a path, and for what can be no name.
    """
    for prefix, form in _PREFIXES.items():
        if text.startswith(prefix):
            path, name = _split(text[len(prefix) :])
            if not path or not (name is None or _NAME.fullmatch(name)):
                raise UsageError(f"{text!r:.200}: wanted {prefix}PATH[:NAME]")
            return Local(path, form, name)
    if text.startswith(DOCKER):
        return None
    is_path = text == STDOUT or text.startswith(("/", "./", "../", "~"))
    if is_path or _ENDING.search(text) or is_here(text):
        return Local(text)
    return None


def output(text: str) -> Local | None:
    """As `local`, for what is written: standard output by its other names is STDOUT."""
    place = local(text)
    return place and replace(place, path=output_path(place.path))


def output_path(path: str) -> str:
    """*path*, or STDOUT for a name that the system has for it.

    A file of that name would be written beside what goes to standard output.
    """
    return STDOUT if path in _STDOUT_NAMES else path


def is_here(text: str) -> bool:
    """True when there is a file or directory *text*, or an archive in volumes."""
    with contextlib.suppress(OSError):  # too long for a name
        return Path(text).exists() or Path(f"{text}.001").exists()
    return False


def archive_path(text: str) -> str:
    """*text* without the prefix of an archive or a directory, which is to be read.

    Raises UsageError for one image in it, which only `copy` and `load` name so, and
    InvalidReference for an image of a runtime.
    """
    if is_here(text):
        return text
    check_no_runtime(text)
    if not text.startswith(tuple(_PREFIXES)):
        return text
    place = local(text)
    if place is None or place.name is not None:
        raise UsageError(f"{text!r:.200}: write the path alone, without an image")
    return place.path


def directory(text: str) -> Path | None:
    """The OCI directory that ``oci:DIR`` means; None for what is not written so.

    Raises UsageError for the name of one image in it.
    """
    return _whole(text, OCI_PREFIX, "DIR, a whole directory")


def archive(text: str) -> Path | None:
    """The file that ``oci-archive:FILE`` means; otherwise as `directory`."""
    return _whole(text, _ARCHIVE_PREFIX, "FILE, a whole archive")


def _whole(text: str, prefix: str, what: str) -> Path | None:
    if not text.startswith(prefix):
        return None
    path, name = _split(text[len(prefix) :])
    if name is not None or not path:
        raise UsageError(f"{text!r:.200}: wanted {prefix}{what}")
    return Path(path)


def _split(text: str) -> tuple[str, str | None]:
    """Path and name; the drive of a Windows path is no name."""
    start = 2 if _DRIVE.match(text) else 0
    path, colon, name = text[start:].partition(":")
    return text[:start] + path, name if colon else None
