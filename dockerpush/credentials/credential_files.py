"""Finds what `login`, Docker and podman have kept for a repository.

Strategy: the sources form one list, in order, and the first with something that fits
wins: ``--authfile`` alone when it is given; else our own credentials.json, then
REGISTRY_AUTH_FILE and no other file when that is set, else DOCKER_AUTH_CONFIG, Docker's
config.json, podman's auth.json files, and ``~/.dockercfg``. Inside a file: the helper
of this registry, the helper of all, then what the file holds itself. What is broken is
reported once, and skipped. Each file is read once in the life of a `CredentialFiles`.
"""

from __future__ import annotations

import base64
import binascii
import errno
import itertools
import threading
from pathlib import Path
from typing import Any, Iterator, Mapping

from ..errors import HelperFailed, InvalidJSON, StateError, UsageError, reason_of
from ..events import Notice, OnEvent, ignore
from ..oci import JSON_LIMIT, parse_json
from ..values import replace, value
from .credential_helpers import CredentialHelpers
from .credential_store import (
    CredentialStore,
    fitting,
    is_for_part,
    same_registry,
    server_name,
)
from .identity import Credentials, Secret


@value
class CredentialPlaces:
    """Where to look. *own* is our credentials.json; *files* are auth.json files.

    *authfile* (a flag) and *registry_auth_file* shut out what comes after them;
    *docker_auth_config* is the text of a file; *dockercfg* has an older form.
    """

    authfile: Path | None = None
    own: Path | None = None
    registry_auth_file: Path | None = None
    docker_auth_config: Secret | None = None
    files: tuple[Path, ...] = ()
    dockercfg: Path | None = None

    @classmethod
    def from_environ(
        cls,
        environ: Mapping[str, str],
        *,
        home: Path | None,
        uid: int | None,
        own: Path | None = None,
        authfile: Path | None = None,
    ) -> CredentialPlaces:
        """What *environ* says, *home* and *uid* None: there is none.

        Without XDG_RUNTIME_DIR, as in cron, the usual directories of *uid* count.
        """
        text = environ.get("DOCKER_AUTH_CONFIG")
        return cls(
            authfile,
            own,
            _path(environ.get("REGISTRY_AUTH_FILE")),
            Secret(text) if text else None,
            tuple(_default_files(environ, home, uid)),
            home / ".dockercfg" if home else None,
        )


RUN = Path("/run")
"""Where podman's files of a session are."""


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _default_files(
    environ: Mapping[str, str], home: Path | None, uid: int | None
) -> Iterator[Path]:
    """Docker's file, then podman's of this session, then podman's lasting one."""
    docker = _path(environ.get("DOCKER_CONFIG")) or (home and home / ".docker")
    if docker:
        yield docker / "config.json"
    runtime = _path(environ.get("XDG_RUNTIME_DIR"))
    if runtime:
        yield runtime / "containers" / "auth.json"
    elif uid is not None:
        guessed = (f"user/{uid}/containers/auth.json", f"containers/{uid}/auth.json")
        yield from itertools.filterfalse(_is_closed, (RUN / one for one in guessed))
    config = _path(environ.get("XDG_CONFIG_HOME")) or (home and home / ".config")
    if config:
        yield config / "containers" / "auth.json"


def _is_closed(path: Path) -> bool:
    """True where this user may not look: root's podman makes such directories."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        pass
    return False


class CredentialFiles:
    """Looks credentials up; may be shared by threads, and asks one helper at a time."""

    def __init__(
        self,
        places: CredentialPlaces,
        helpers: CredentialHelpers,
        *,
        on_event: OnEvent = ignore,
    ) -> None:
        """Raises UsageError when ``--authfile`` names no file."""
        if places.authfile and not places.authfile.exists():
            raise UsageError(
                f"--authfile {str(places.authfile)!r}: no such file; "
                "dockerpush login --authfile makes one"
            )
        self._places = places
        self._helpers = helpers
        self._on_event = on_event
        self._lock = threading.RLock()  # guards all below, and the helpers
        self._files: dict[str, _File] = {}
        self._answers: dict[tuple[str, str], Credentials | None] = {}
        self._reported: set[str] = set()
        self._found: dict[str, Credentials | None] = {}  # by registry
        self._has_paths = False  # then a repository may have others

    def __call__(self, registry: str, repository: str) -> Credentials | None:
        """What fits best, None for nothing; this makes it a CredentialSource.

        Raises Cancelled.
        """
        with self._lock:
            if registry in self._found:
                return self._found[registry]
            found = next(filter(None, self._look(registry, repository)), None)
            if not self._has_paths:
                self._found[registry] = found
            return found

    def _look(self, registry: str, repository: str) -> Iterator[Credentials | None]:
        """What each place has, in order of precedence."""
        places = self._places
        if places.authfile:
            yield self._look_into(places.authfile, registry, repository)
            return
        if places.own:
            yield self._look_at_own(places.own, registry)
        if places.registry_auth_file:
            yield self._look_into(places.registry_auth_file, registry, repository)
            return
        if places.docker_auth_config:
            file = _parsed("DOCKER_AUTH_CONFIG", places.docker_auth_config.reveal())
            yield self._look_at(file, registry, repository)
        for path in places.files:
            yield self._look_into(path, registry, repository)
        if places.dockercfg:
            yield self._look_into(places.dockercfg, registry, repository)

    def _look_at_own(self, path: Path, registry: str) -> Credentials | None:
        try:
            return CredentialStore(path).find(registry)
        except StateError as error:
            self._report_once(str(error))
            return None

    def _look_into(
        self, path: Path, registry: str, repository: str
    ) -> Credentials | None:
        if str(path) not in self._files:
            self._files[str(path)] = _read(path, flat=path == self._places.dockercfg)
        return self._look_at(self._files[str(path)], registry, repository)

    def _look_at(
        self, file: _File, registry: str, repository: str
    ) -> Credentials | None:
        if file.problem:
            self._report_once(f"{file.name} {file.problem}, ignored")
        self._has_paths = self._has_paths or file.has_paths
        found = self._ask_helper(file, registry)
        return found or self._entry(file, registry, repository)

    def _ask_helper(self, file: _File, registry: str) -> Credentials | None:
        """What the helper has that *file* names for *registry*."""
        suffix = file.helper(registry)
        if not suffix:
            return None
        server = server_name(registry)
        if (suffix, server) not in self._answers:
            self._answers[suffix, server] = self._ask(suffix, server)
        answer = self._answers[suffix, server]
        if answer is None:
            return None
        return replace(answer, source=f"{answer.source}, which {file.name} names")

    def _ask(self, suffix: str, server: str) -> Credentials | None:
        try:
            return self._helpers.get(suffix, server)
        except HelperFailed as error:
            self._report_once(str(error))
            return None

    def _entry(self, file: _File, registry: str, repository: str) -> Credentials | None:
        """What *file* itself holds under the key that fits best and means something."""
        for key in fitting(file.auths, registry, repository):
            source = f"{file.name}, key {key!r}"
            entry = file.auths[key]
            try:
                found = _decode(entry if isinstance(entry, dict) else {}, source)
            except ValueError:
                self._report_once(f"{source}: 'auth' is not valid base64, ignored")
                continue
            if found:
                return found
        return None

    def _report_once(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._on_event(Notice(text, warning=True))


@value
class _File:
    """What counts in a file; it is empty with a *problem*, and for a missing file."""

    name: str
    auths: Mapping[str, Any]
    by_host: Mapping[str, Any]
    for_all: str = ""
    problem: str = ""

    @property
    def has_paths(self) -> bool:
        """True when a key may be for a part of a registry."""
        return any(map(is_for_part, self.auths))

    def helper(self, registry: str) -> str:
        """The suffix of the helper for *registry*, or ""."""
        for key, suffix in self.by_host.items():
            if same_registry(key, registry) and isinstance(suffix, str):
                return suffix
        return self.for_all


def _read(path: Path, *, flat: bool) -> _File:
    """*flat*: the file holds nothing but what others keep under ``auths``."""
    try:
        with path.open("rb") as file:
            raw = file.read(JSON_LIMIT + 1)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return _File(str(path), {}, {})
        return _problem(str(path), f"cannot be read: {reason_of(error)}")
    return _parsed(str(path), raw, flat=flat)


def _problem(name: str, problem: str) -> _File:
    return _File(name, {}, {}, problem=problem)


def _parsed(name: str, raw: bytes | str, *, flat: bool = False) -> _File:
    content = raw.encode("utf-8", "surrogateescape") if isinstance(raw, str) else raw
    try:
        record = parse_json(content, name) if content.strip() else {}
    except InvalidJSON:  # its text might quote a secret
        return _problem(name, "is not JSON")
    parts = [record, {}] if flat else _parts(record)
    if not isinstance(record, dict) or not all(isinstance(p, dict) for p in parts):
        return _problem(name, "does not have the form of Docker's config.json")
    for_all = record.get("credsStore") if not flat else None
    return _File(name, parts[0], parts[1], for_all if isinstance(for_all, str) else "")


def _parts(record: Any) -> list[Any]:
    if not isinstance(record, dict):
        return [None]
    return [record.get(key) or {} for key in ("auths", "credHelpers")]


def _decode(entry: Mapping[str, Any], source: str) -> Credentials | None:
    """The credentials of one entry, None when it is empty; ValueError for bad base64.

    Tokens count beside a user and password, as in Docker.
    """
    fields = {key: entry[key] for key in entry if isinstance(entry[key], str)}
    username, password = fields.get("username", ""), fields.get("password", "")
    if fields.get("auth"):
        username, password = _decode_pair(fields["auth"])
    found = Credentials(
        username,
        Secret(password),
        Secret(fields.get("identitytoken", "")),
        Secret(fields.get("registrytoken", "")),
        source,
    )
    return found if username or found.identity_token or found.registry_token else None


def _decode_pair(auth: str) -> tuple[str, str]:
    """User and password of base64(``user:password``), with or without padding."""
    packed = "".join(auth.split()).rstrip("=")
    try:
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
        username, colon, password = raw.decode().partition(":")
    except (binascii.Error, UnicodeError) as error:
        raise ValueError("not base64 of a text") from error
    if not username or not colon:
        raise ValueError("no user and password in it")
    return username, password.rstrip("\x00")
