"""Image references as values: ``registry/repository[:tag][@digest]``.

The grammar and Docker's normalisation are those of github.com/distribution/reference;
stricter only where such a name could never be reached: ports end at 65535, a part of a
host name at 63 characters, and what stands in brackets is an IPv6 address.
"""

from __future__ import annotations

import ipaddress
import re

from .errors import InvalidDigest, InvalidReference
from .expressions import expression
from .oci import Digest
from .values import replace, value

DOCKER_HUB = "docker.io"
"""The registry that a name without one belongs to."""

DOCKER = "docker://"
"""What may stand before an image of a registry."""

REPOSITORY_LIMIT = 255
TAG_LIMIT = 128
HOST_LIMIT = 253
LABEL_LIMIT = 63

_LEGACY_DOCKER_HUB = "index.docker.io"
_OFFICIAL = "library/"
_SCHEME = expression(r"(https?)://", re.IGNORECASE)
_ANY_SCHEME = expression(r"(https?:/|[A-Za-z][A-Za-z0-9+.-]*://).*", re.DOTALL)
_IMAGE_ID = expression(r"[a-f0-9]{64}")
_LABEL = expression(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?")
_PORT = expression(r"[0-9]{1,9}")
_COMPONENT = expression(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = expression(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FILE = expression(
    r"[./~].*|.*\.(tar|oci|zip|json|ya?ml|txt|t?[gx]z|zst|bz2|tbz2?)(\.[0-9]{3})?",
    re.DOTALL,
)
TRANSPORTS = (
    *("oci:", "oci-archive:", "docker-archive:", "dir:", "tarball:", "sif:"),
    "ostree:",
)
"""What skopeo writes before archives and directories."""
_RUNTIMES = {"docker-daemon:": "docker", "containers-storage:": "podman"}
_YEARS = range(1990, 2100)  # amazonlinux:2023 is an image, host:5000 is a registry


@value
class Reference:
    """What a registry is asked for; ``str()`` gives it in full.

    *registry* is a host with an optional port, *repository* the path in it. Without
    *tag* and *digest* the reference names a repository. Raises InvalidReference, which
    names the part that is wrong, whichever way it is made.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        _check_registry(self.registry)
        check_repository(self.repository)
        if self.tag is not None:
            check_tag(self.tag)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference that *text* means to Docker.

        ``ubuntu`` is ``library/ubuntu`` of Docker Hub; the part before the first slash
        is a registry only if it holds a dot, a colon or an upper case letter, or is
        ``localhost``. Raises InvalidReference, which quotes *text*.
        """
        try:
            return cls._parse(text)
        except InvalidReference as error:
            raise InvalidReference(
                f"not an image reference: {_quoted(text)}: {error}"
            ) from error

    @classmethod
    def _parse(cls, text: str) -> Reference:
        _check_beginning(text)
        name, at, digest = text.partition("@")
        registry, rest = _split_registry(name)
        repository, colon, tag = rest.partition(":")
        if registry == DOCKER_HUB and "/" not in repository:
            repository = _OFFICIAL + repository
        return cls(
            registry,
            repository,
            tag if colon else None,
            _parse_digest(digest) if at else None,
        )

    def __str__(self) -> str:
        return self.name + self._suffix

    @property
    def name(self) -> str:
        """``registry/repository``, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return tag + (f"@{self.digest}" if self.digest is not None else "")

    def with_tag(self, tag: str | None) -> Reference:
        """The same with another tag, or without one. Raises InvalidReference."""
        return replace(self, tag=tag)

    def with_digest(self, digest: Digest | None) -> Reference:
        """The same with another digest, or without one."""
        return replace(self, digest=digest)


@value
class Place:
    """Where repositories are: ``HOST[/PREFIX]``, *prefix* "" when there is none.

    Raises InvalidReference, which names the part that is wrong.
    """

    registry: str
    prefix: str = ""

    def __post_init__(self) -> None:
        _check_registry(self.registry)
        if self.prefix:
            check_repository(self.prefix)

    @classmethod
    def parse(cls, text: str) -> Place:
        """*text* as ``HOST[:PORT][/PREFIX]``; what comes first is always the host.

        Raises InvalidReference, which quotes *text*.
        """
        try:
            _check_scheme(text)
            registry, slash, prefix = text.rstrip("/").partition("/")
            if slash:
                check_repository(prefix)
            return cls(_modern(registry), prefix)
        except InvalidReference as error:
            raise InvalidReference(
                f"not a registry (HOST[:PORT][/PREFIX]): {_quoted(text)}: {error}"
            ) from error

    @classmethod
    def of(cls, reference: Reference) -> Place:
        """Where *reference* is: its registry, and all but its last path component."""
        return cls(reference.registry, reference.repository.rpartition("/")[0])

    def __str__(self) -> str:
        return f"{self.registry}/{self.prefix}" if self.prefix else self.registry

    def reference(self, repository: str, tag: str | None = None) -> Reference:
        """*repository* below this place. Raises InvalidReference."""
        path = f"{self.prefix}/{repository}" if self.prefix else repository
        if self.registry == DOCKER_HUB and "/" not in path:
            path = _OFFICIAL + path
        return Reference(self.registry, path, tag)


def parse_source(text: str) -> Reference:
    """The image that *text* names, to be read: as `Reference.parse`, but never a guess.

    A name without a registry belongs to Docker Hub, unless it looks like a registry
    without a repository (``host:5000``) or like a file. Raises InvalidReference, which
    says what to write instead.
    """
    _check_is_image(text)
    return Reference.parse(text)


def parse_target(text: str) -> Reference:
    """The image that *text* names, to be written: as `parse_source`, but stricter.

    A name of one part is refused: nobody can push to Docker Hub's official images.
    Raises InvalidReference.
    """
    reference = parse_source(text)
    if "/" not in text:
        raise OnePart(
            f"{_quoted(text)} names no registry: write REGISTRY/{text}, or "
            f"{DOCKER_HUB}/USER/{text} for Docker Hub"
        )
    return reference


class OnePart(InvalidReference):
    """The name of a target is one of Docker Hub's official images."""


def has_registry(text: str) -> bool:
    """True when *text*, an image reference, begins with a registry."""
    return _split_registry(text)[1] != text


def looks_like_file(text: str) -> bool:
    """True when *text* has the form of a path or the name of an archive or a list."""
    return _FILE.fullmatch(text) is not None


def _check_is_image(text: str) -> None:
    """Raises InvalidReference for what is rather a registry or a file."""
    path = text[len("./") :] if text.startswith("./") else text
    if text.startswith((".", "/", "~")) or (
        not has_registry(text) and _is_file_name(path)
    ):
        raise LooksLikeFile(f"{_quoted(text)} looks like a file, not like an image")
    if text.startswith(TRANSPORTS):
        raise LooksLikeFile(
            f"{_quoted(text)} is an archive or a directory, not an image of a registry"
        )
    check_no_runtime(text)
    if "/" in text or not text:
        return
    host, _, tag = text.partition("@")[0].partition(":")
    hub = f" (for an image of Docker Hub: {DOCKER_HUB}/{_OFFICIAL}{text})"
    if _is_host(host) or _is_port(tag):
        raise NoRepository(
            f"{_quoted(text)} is a registry without a repository: write "
            f"{text}/REPOSITORY:TAG" + hub * (not _is_host(host))
        )


def check_no_runtime(text: str) -> None:
    """Raises InvalidReference for what skopeo calls an image of docker or podman."""
    for prefix, runtime in _RUNTIMES.items():
        if text.startswith(prefix):
            raise InvalidReference(
                f"{_quoted(text)} is an image of {runtime}, not of a registry: push "
                f"--runtime {runtime} pushes one, save and load read and write one"
            )


def _is_file_name(text: str) -> bool:
    """True for an archive's name, also with the name of an image behind a colon."""
    return looks_like_file(text) or looks_like_file(text.rpartition(":")[0])


class NoRepository(InvalidReference):
    """What was given in the place of an image is a registry alone."""


class LooksLikeFile(InvalidReference):
    """What was given in the place of an image is rather a file or a directory."""


def _is_host(name: str) -> bool:
    return "." in name or name == "localhost"


def _is_port(tag: str) -> bool:
    if not _PORT.fullmatch(tag):
        return False
    number = int(tag)
    return number in (80, 443) or (1024 <= number <= 65535 and number not in _YEARS)


def without_docker(text: str) -> str:
    """*text* without ``docker://``, which skopeo writes before images of registries."""
    return text[len(DOCKER) * text.startswith(DOCKER) :]


def split_scheme(text: str) -> tuple[str | None, str]:
    """``http`` or ``https`` where *text* starts with such a scheme, and the rest."""
    match = _SCHEME.match(text)
    return (match[1].lower(), text[match.end() :]) if match else (None, text)


def _split_registry(name: str) -> tuple[str, str]:
    """The registry of *name*, and what follows it (normalize.go, splitDockerDomain)."""
    first, slash, rest = name.partition("/")
    is_registry = slash and (
        first in ("", "localhost")
        or any(sign in first for sign in ".:")
        or first.lower() != first
    )
    return (_modern(first), rest) if is_registry else (DOCKER_HUB, name)


def _modern(registry: str) -> str:
    return DOCKER_HUB if registry == _LEGACY_DOCKER_HUB else registry


def _parse_digest(text: str) -> Digest:
    try:
        return Digest(text)
    except InvalidDigest as error:
        raise InvalidReference(f"the text after '@' is {error}") from error


def _check_beginning(text: str) -> None:
    if not text:
        raise InvalidReference("it is empty")
    _check_scheme(text)
    if _IMAGE_ID.fullmatch(text):
        raise InvalidReference("64 hex digits are an image ID, name a repository")
    if text.startswith("[") and "/" not in text:
        raise InvalidReference("it names a registry, but no repository in it")


def _check_scheme(text: str) -> None:
    scheme, rest = split_scheme(text)
    if scheme:
        plain = ", and give --plain-http" if scheme == "http" else ""
        raise InvalidReference(f"leave out '{scheme}://', write {_quoted(rest)}{plain}")
    if match := _ANY_SCHEME.fullmatch(text):
        raise InvalidReference(
            f"{match[1]!r:.80} is no scheme of a registry; leave it out"
        )


def _check_registry(registry: str) -> None:
    if not registry:
        raise InvalidReference("the registry before the first '/' is missing")
    if registry.startswith("["):
        address, bracket, after = registry[1:].partition("]")
        _check_ipv6(address, bracket)
        colon, port = after[:1], after[1:]
        if colon not in ("", ":"):
            raise InvalidReference(
                f"registry {_quoted(registry)}: wanted ':' after ']'"
            )
    else:
        host, colon, port = registry.partition(":")
        if ":" in port:
            raise InvalidReference(
                f"registry {_quoted(registry)} has several colons, and an IPv6 address "
                "needs brackets, as in [::1]:5000"
            )
        _check_host(host)
    if colon:
        _check_port(port)


def _check_ipv6(address: str, bracket: str) -> None:
    try:
        good = bracket and "." not in address and "%" not in address
        ipaddress.IPv6Address(address if good else "")
    except ValueError as error:
        raise InvalidReference(
            f"registry: {_quoted(address)} between brackets is not an IPv6 address "
            "(no zone and no IPv4 notation in it)"
        ) from error


def _check_host(host: str) -> None:
    labels = host.split(".")
    if len(host) > HOST_LIMIT or any(len(label) > LABEL_LIMIT for label in labels):
        raise InvalidReference(
            f"registry host {_quoted(host)} is too long (at most {LABEL_LIMIT} "
            f"characters between dots, {HOST_LIMIT} in all)"
        )
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidReference(
            f"registry host {_quoted(host)} must be parts of letters, digits and inner "
            "'-', joined by single dots"
        )


def _check_port(port: str) -> None:
    if not (_PORT.fullmatch(port) and 1 <= int(port) <= 65535):
        raise InvalidReference(
            f"registry port {_quoted(port)} is not a number from 1 to 65535"
        )


def check_repository(repository: str) -> None:
    """Raises InvalidReference unless *repository* is the name of one."""
    if not repository or repository == _OFFICIAL:
        raise InvalidReference("the repository is missing")
    if len(repository) > REPOSITORY_LIMIT:
        raise InvalidReference(
            f"the repository has {len(repository)} characters, "
            f"at most {REPOSITORY_LIMIT} are allowed"
        )
    if repository.lower() != repository:
        raise InvalidReference(f"repository {_quoted(repository)} must be lower case")
    for component in repository.split("/"):
        _check_component(component, repository)


def _check_component(component: str, repository: str) -> None:
    if not component:
        raise InvalidReference(
            f"repository {_quoted(repository)} has an empty part beside a '/'"
        )
    if not _COMPONENT.fullmatch(component):
        raise InvalidReference(
            f"repository part {_quoted(component)} must be lower case letters and "
            "digits, joined by one '.', one or two '_', or any number of '-'"
        )


def is_tag(text: str) -> bool:
    """True for a tag alone, which is no full reference."""
    return len(text) <= TAG_LIMIT and _TAG.fullmatch(text) is not None


def check_tag(tag: str) -> None:
    """Raises InvalidReference unless *tag* is one."""
    if not tag:
        raise InvalidReference("the tag after ':' is missing")
    if len(tag) > TAG_LIMIT:
        raise InvalidReference(
            f"the tag has {len(tag)} characters, at most {TAG_LIMIT} are allowed"
        )
    if not _TAG.fullmatch(tag):
        raise InvalidReference(
            f"tag {_quoted(tag)} must be letters, digits, '_', '.' and '-', and begin "
            "with a letter, a digit or '_'"
        )


def _quoted(text: str) -> str:
    """*text* as it is shown in an error: in quotes, on one line, and not endless."""
    return repr(text if len(text) <= 160 else text[:157] + "...")
