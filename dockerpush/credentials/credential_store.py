"""What `login` keeps: our own credentials.json, or a file in Docker's format.

Rules: a file is replaced in one step, by its owner's temp file, under a lock beside it,
so that any number of logins lose nothing of each other; what we do not know in it is
kept; a file that we cannot read is never written over. A symbolic link stays one, and
the file that it leads to is replaced.

Keys in Docker's format: Docker writes hosts, and a URL for Docker Hub; podman also
writes ``host/namespace``; old files have ``https://host/v1/``. A key fits its own host
and the repositories below its path, and nothing else: a part of a name is never enough.
"""

from __future__ import annotations

import base64
import contextlib
import json
import stat
from pathlib import Path
from typing import Any, Iterable, Iterator

from ..errors import InvalidJSON, StateError, reason_of
from ..oci import JSON_LIMIT, parse_json
from ..reference import DOCKER_HUB
from ..system.files import locked, make_directories, replace_file
from ..values import value
from .credential_helpers import CredentialHelpers
from .identity import Credentials, Secret

HUB_KEY = "https://index.docker.io/v1/"
"""What Docker calls Docker Hub in its files, and what helpers know it by."""

_HUB_NAMES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
_VERSIONS = ("v1", "v2")


def registry_name(text: str) -> str:
    """The ``host[:port]`` of what a user may call a registry; Docker Hub's one name.

    A scheme and a path are dropped: ``https://Host/path`` is ``host``.
    """
    host = _without_scheme(text.strip()).partition("/")[0].lower()
    return DOCKER_HUB if host in _HUB_NAMES else host


def server_name(registry: str) -> str:
    """What a credential helper, and Docker's files, call this registry."""
    name = registry_name(registry)
    return HUB_KEY if name == DOCKER_HUB else name


def fitting(keys: Iterable[str], registry: str, repository: str) -> Iterator[str]:
    """The *keys* that fit, the best first.

    First those that are written alike, from the repository up to the host; then other
    spellings, in the same order.
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


def is_for_part(key: str) -> bool:
    """True when *key*, in any spelling, is for some repositories of a registry."""
    return "/" in _plain(key)


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
    if path in _VERSIONS and (stripped != key or name == DOCKER_HUB):
        path = ""
    return f"{name}/{path}" if path else name


def _without_scheme(text: str) -> str:
    for scheme in ("https://", "http://"):
        if text[: len(scheme)].lower() == scheme:
            return text[len(scheme) :]
    return text


_SECRET_FIELDS = ("auth", "username", "password", "identitytoken", "registrytoken")


@value
class CredentialStore:
    """Our own ``credentials.json``: registry → username and password.

    *path* need not exist; the directory is made, for its owner alone, when something
    is saved. *timeout* bounds the wait for another process, in seconds. Registries are
    named as `registry_name` gives them. All methods raise StateError when the file
    cannot be read or written, or is not ours to replace.
    """

    path: Path
    timeout: float = 10.0

    def load(self) -> dict[str, Credentials]:
        """All that is kept; entries of a form we do not know are left out."""
        found = {}
        for registry, entry in _read(self.path).items():
            known = isinstance(entry, dict)
            username, password = _pair(entry) if known else (None, None)
            if username is not None and password is not None:
                source = f"{self.path}, from login to {registry}"
                secret = Secret(password)
                found[registry] = Credentials(username, secret, source=source)
        return found

    def find(self, registry: str) -> Credentials | None:
        """What is kept for *registry*."""
        return self.load().get(registry_name(registry))

    def list(self) -> tuple[str, ...]:
        """The registries that something is kept for, in the order of their logins."""
        return tuple(self.load())

    def save(self, registry: str, username: str, password: Secret) -> None:
        """Keep these for *registry*, in place of what was kept before."""
        name = registry_name(registry)
        with _changing(self.path, self.timeout, mode=0o600) as record:
            old = record.pop(name, None)
            kept = old if isinstance(old, dict) else {}
            pair = {"username": username, "password": password.reveal()}
            record[name] = {**kept, **pair}

    def erase(self, registry: str) -> bool:
        """Forget *registry*; false when nothing was kept for it."""
        name = registry_name(registry)
        if name not in _read(self.path):
            return False
        with _changing(self.path, self.timeout, mode=0o600) as record:
            return record.pop(name, None) is not None

    def erase_all(self) -> tuple[str, ...]:
        """Forget everything that `list` names; the registries that were forgotten."""
        if not self.list():
            return ()
        with _changing(self.path, self.timeout, mode=0o600) as record:
            names = tuple(name for name in record if isinstance(record[name], dict))
            for name in names:
                del record[name]
            return names


@value
class AuthFile:
    """A file in the format of Docker's config.json, named by ``--authfile``.

    When the file names a credential helper for a registry, the helper keeps the secret,
    and the file gets the empty entry that Docker writes. A new file is for its owner
    alone, an existing one keeps its mode. All methods raise StateError as
    `CredentialStore` does, and HelperFailed.
    """

    path: Path
    helpers: CredentialHelpers
    timeout: float = 10.0

    def save(self, registry: str, username: str, password: Secret) -> None:
        """Keep these for *registry*, in place of what is there under any spelling."""
        key = server_name(registry)
        with _changing(self.path, self.timeout) as record:
            auths = record["auths"] = _object(record, "auths", self.path)
            entry = _taken_out(auths, registry)
            helper = self._helper(record, registry)
            if helper:
                self.helpers.store(helper, key, username, password)
            else:
                pair = f"{username}:{password.reveal()}"
                raw = pair.encode("utf-8", "surrogateescape")
                entry["auth"] = base64.b64encode(raw).decode()
            auths[key] = entry

    def erase(self, registry: str) -> bool:
        """Forget *registry*, here and in its helper; false when it was not here."""
        kept = _object(_read(self.path), "auths", self.path)
        if not any(same_registry(key, registry) for key in kept):
            return False
        with _changing(self.path, self.timeout) as record:
            auths = record["auths"] = _object(record, "auths", self.path)
            _taken_out(auths, registry)
            helper = self._helper(record, registry)
            if helper:
                self.helpers.erase(helper, server_name(registry))
        return True

    def _helper(self, record: dict[str, Any], registry: str) -> str:
        """The suffix of the helper that is to keep *registry*, or ""."""
        for key, suffix in _object(record, "credHelpers", self.path).items():
            if same_registry(key, registry):
                return str(suffix)
        return str(record.get("credsStore") or "")


def _pair(entry: dict[str, Any]) -> tuple[str | None, str | None]:
    username, password = entry.get("username"), entry.get("password")
    return (
        username if isinstance(username, str) else None,
        password if isinstance(password, str) else None,
    )


def _taken_out(auths: dict[str, Any], registry: str) -> dict[str, Any]:
    """What the entries of this registry hold apart from secrets; they are removed."""
    kept: dict[str, Any] = {}
    for key in [key for key in auths if same_registry(key, registry)]:
        entry = auths.pop(key)
        kept.update(entry if isinstance(entry, dict) else {})
    return {key: kept[key] for key in kept if key not in _SECRET_FIELDS}


@contextlib.contextmanager
def _changing(
    path: Path, timeout: float, mode: int | None = None
) -> Iterator[dict[str, Any]]:
    """The content, written back at the end of the ``with`` unless that raises.

    *mode* None: the one that the file has, 0600 for a new one.
    """
    try:
        target = path.resolve()
        make_directories(target.parent)
        with locked(target.with_name(target.name + ".lock"), timeout=timeout):
            record = _read(target)
            yield record
            if mode is None and target.exists():
                mode = stat.S_IMODE(target.stat().st_mode)
            content = json.dumps(record, indent=2).encode() + b"\n"
            replace_file(target, content, mode=0o600 if mode is None else mode)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise _failed(path, "written", error) from error


def _read(path: Path) -> dict[str, Any]:
    """The object in *path*; empty when the file is missing or empty."""
    try:
        with path.open("rb") as file:
            raw = file.read(JSON_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _failed(path, "read", error) from error
    try:
        value = parse_json(raw, "file") if raw.strip() else {}
    except InvalidJSON:  # its text might quote a secret
        raise _broken(path, "not JSON") from None
    return _checked(value, path, "not a JSON object")


def _object(record: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """The object under *key*, empty when there is none."""
    value = record.get(key)
    return _checked(
        {} if value is None else value, path, f"wrong: {key!r} is not an object"
    )


def _checked(value: Any, path: Path, wrong: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _broken(path, wrong)
    return value


def _broken(path: Path, wrong: str) -> StateError:
    return StateError(
        f"{path} is {wrong}, and is left as it is: repair it, or move it away and log "
        "in again"
    )


def _failed(path: Path, verb: str, error: Exception) -> StateError:
    kept = "; nothing was changed" if verb == "written" else ""
    return StateError(f"{path} cannot be {verb}: {reason_of(error)}{kept}")
