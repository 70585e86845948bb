"""The keys under which tools keep credentials, and which of them fits; pure.

Docker writes hosts, and a URL for Docker Hub; podman also writes ``host/namespace``;
old files have ``https://host/v1/``. A key fits its own host and the repositories below
its path, and nothing else: a part of a name is never enough.
"""

from __future__ import annotations

from typing import Iterable, Iterator

HUB = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"
"""What Docker calls Docker Hub in its files, and what helpers know it by."""

_HUB_NAMES = (HUB, "index.docker.io", "registry-1.docker.io")
_VERSIONS = ("v1", "v2")


def registry_name(text: str) -> str:
    """The ``host[:port]`` of what a user may call a registry; Docker Hub's one name.

    A scheme and a path are dropped: ``https://Host/path`` is ``host``.
    """
    host = _without_scheme(text.strip()).partition("/")[0].lower()
    return HUB if host in _HUB_NAMES else host


def server_name(registry: str) -> str:
    """What a credential helper, and Docker's files, call this registry."""
    name = registry_name(registry)
    return HUB_KEY if name == HUB else name


def fitting(keys: Iterable[str], registry: str, repository: str) -> Iterator[str]:
    """Those of *keys* that fit, the best first.

    As they are written, from the repository up to the host; then in whatever other
    spelling, in the same order.
    """
    known = list(keys)
    host = registry_name(registry)
    names = list(_prefixes(host, repository))
    literal = [name for name in names if name in known]
    yield from literal
    for name in names:
        for key in known:
            if key not in literal and _plain(key) == name:
                yield key


def same_registry(key: str, registry: str) -> bool:
    """True when *key*, in any spelling, is for the whole of *registry*."""
    return _plain(key) == registry_name(registry)


def _prefixes(host: str, repository: str) -> Iterator[str]:
    """``host/a/b``, ``host/a``, ``host``."""
    parts = [part for part in repository.split("/") if part]
    for count in range(len(parts), 0, -1):
        yield "/".join((host, *parts[:count]))
    yield host


def _plain(key: str) -> str:
    """*key* as ``host[/path]``; the API version in a URL is no path."""
    stripped = _without_scheme(key)
    host, _, path = stripped.partition("/")
    name, path = registry_name(host), path.strip("/")
    if path in _VERSIONS and (stripped != key or name == HUB):
        path = ""
    return f"{name}/{path}" if path else name


def _without_scheme(text: str) -> str:
    for scheme in ("https://", "http://"):
        if text[: len(scheme)].lower() == scheme:
            return text[len(scheme) :]
    return text
