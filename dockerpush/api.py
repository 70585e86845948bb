"""The library: `push`, `pull`, `copy` and `connect` as plain functions.

They keep no state: nothing is remembered between two calls, on disk or in memory, and
nothing is printed. What happens is reported to *on_event* (see `dockerpush.events`),
from any thread. Another thread, or a signal handler, ends a call by ``cancel()`` of the
*cancellation* that it was given; the call then raises Cancelled.

Without *username* the credentials count that ``dockerpush login``, docker and podman
have stored. Proxies and certificate authorities come from the usual places, *cacert*
adds a file of authorities. Every error is a `PusherError`.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Iterator, Sequence, Union

from .archive import Archive, open_archive, select_image
from .archive.forward import is_lasting, open_forward
from .archive.sniff import is_forward
from .credentials.identity import Credentials, CredentialSource, Secret
from .errors import MORE_TEMP_SPACE, PusherError, UsageError
from .events import OnEvent, ignore
from .oci import Platform
from .reference import Reference
from .registry.client import PULL, PUSH, RegistryClient
from .registry.setup import retry_policy, stored_credentials, transport_for
from .settings.config import Config, Settings, resolve
from .state.cache import Cache
from .state.directory import StateDirectory
from .system.cancellation import Cancellation
from .transfer.archive_target import LINUX_AMD64, ForDocker, open_output
from .transfer.choices import (
    DOCKER_ARCHIVE,
    FORMS,
    CopyOptions,
    CopyResult,
    PulledImage,
    PushOptions,
    PushResult,
)
from .transfer.copy_image import copy_image
from .transfer.pull import Pull, notices_of, pull_images
from .transfer.push_image import push_image
from .transfer.registry_target import RegistryTarget, open_target
from .transfer.source import RegistrySource
from .transfer.stream import push_stream
from .values import value

__all__ = [
    "Archive",
    "Cancellation",
    "CopyOptions",
    "CopyResult",
    "Platform",
    "PulledImage",
    "PushOptions",
    "PushResult",
    "PusherError",
    "Reference",
    "RegistryClient",
    "connect",
    "copy",
    "open_archive",
    "pull",
    "push",
]

StrPath = Union[str, "os.PathLike[str]"]
AnyReference = Union[str, Reference]


def push(
    source: StrPath,
    target: AnyReference,
    *,
    name: str | None = None,
    username: str | None = None,
    password: str | None = None,
    plain_http: bool = False,
    cacert: StrPath | None = None,
    options: PushOptions = PushOptions(),  # noqa: B008 -- a frozen value
    on_event: OnEvent = ignore,
    cancellation: Cancellation | None = None,
) -> PushResult:
    """Push the image in the archive *source* to *target*; what the registry holds then.

    *source* is the path of a tar, plain or compressed, of a pipe or of a directory;
    *name* says which image when it holds several. A *target* without a tag gets
    ``latest``. Raises NotFound, ArchiveError, RegistryError, NetworkError, Cancelled
    and the like; then the tag was not moved.
    """
    reference = _parsed(target)
    user = _User(username, password)
    access = _Access(user, _settings(plain_http, cacert, options.jobs), on_event)
    with _running(cancellation) as running, access.target(reference, running) as place:
        return _push(os.fspath(source), name, place, reference, options)


def pull(
    source: AnyReference,
    output: StrPath,
    *,
    form: str | None = None,
    platforms: Sequence[Platform] = (),
    all_platforms: bool = False,
    cache: StrPath | None = None,
    username: str | None = None,
    password: str | None = None,
    plain_http: bool = False,
    cacert: StrPath | None = None,
    jobs: int = 3,
    on_event: OnEvent = ignore,
    cancellation: Cancellation | None = None,
) -> PulledImage:
    """Write the image *source* to *output*, which gets its name when it is complete.

    *form* is ``docker-archive``, ``oci-archive`` or ``oci-dir``; None is a
    docker-archive that also holds what docker cannot load. *platforms* narrows an
    index. Without them a docker-archive holds linux/amd64 only, which *on_event* and
    `PulledImage.taken` report; *all_platforms* keeps the index whole, and docker
    loads linux/amd64 of it, else its first platform. *cache* is a directory of blobs to
    keep for other pulls, None for a temporary one. Raises what `push` does, UsageError
    for what a ``docker-archive`` cannot hold, and NotFound for a platform.
    """
    if form not in (None, *FORMS):
        raise UsageError(f"unknown form {form!r:.80}; choose one of {', '.join(FORMS)}")
    if platforms and all_platforms:
        raise UsageError("platforms and all_platforms cannot be used together")
    reference, path = _parsed(source), Path(output)
    narrow = None if platforms else LINUX_AMD64
    access = _Access(
        _User(username, password), _settings(plain_http, cacert, jobs), on_event
    )
    with (
        _running(cancellation) as running,
        _cache(cache) as store,
        access.source(reference, running) as repository,
        open_output(
            path,
            form or DOCKER_ARCHIVE,
            docker=ForDocker(narrow, form == DOCKER_ARCHIVE),
            resumable=False,
            cancellation=running,
            on_event=notices_of(on_event),
        ) as into,
        store.pins() as pins,
        running.child() as child,
    ):
        is_one = form in (None, DOCKER_ARCHIVE) and not all_platforms
        (image,) = pull_images(
            [Pull(repository, reference, _names(reference))],
            store,
            pins,
            options=CopyOptions(tuple(platforms), jobs=jobs),
            only=LINUX_AMD64 if is_one else None,
            into=into,
            cancellation=child,
            on_event=on_event,
        )
    if image.taken:
        on_event(image.taken.notice(str(path), "all_platforms=True"))
    return image


def copy(
    source: AnyReference,
    target: AnyReference,
    *,
    source_username: str | None = None,
    source_password: str | None = None,
    username: str | None = None,
    password: str | None = None,
    plain_http: bool = False,
    cacert: StrPath | None = None,
    options: CopyOptions = CopyOptions(),  # noqa: B008 -- a frozen value
    on_event: OnEvent = ignore,
    cancellation: Cancellation | None = None,
) -> CopyResult:
    """Copy *source* to *target* from registry to registry, digests kept.

    Nothing goes to the disk. An index is copied whole, unless *options* name platforms.
    *username* is for the registry of *target* alone. A *target* without a tag gets that
    of the source. Raises what `push` does.
    """
    origin, reference = _parsed(source), _parsed(target, latest=False)
    if not reference.tag:
        reference = reference.with_tag(origin.tag or "latest")
    settings = _settings(plain_http, cacert, options.jobs)
    reader = _Access(_User(source_username, source_password), settings, on_event)
    writer = _Access(_User(username, password), settings, on_event)
    with (
        _running(cancellation) as running,
        reader.source(origin, running) as repository,
        writer.target(reference, running) as place,
    ):
        return copy_image(
            repository,
            place,
            str(origin.digest or origin.tag),
            tags=[str(reference.tag)],
            options=options,
        )


@contextmanager
def connect(
    registry: str,
    *,
    username: str | None = None,
    password: str | None = None,
    plain_http: bool = False,
    cacert: StrPath | None = None,
    actions: str = PULL,
    on_event: OnEvent = ignore,
    cancellation: Cancellation | None = None,
) -> Iterator[RegistryClient]:
    """A client of *registry* (``host[:port]``): one method for each of its endpoints.

    *actions* is what its tokens are asked to allow: ``pull``, or ``pull,push``. Raises
    InvalidReference for a *registry* that is none.
    """
    settings = _settings(plain_http, cacert, PushOptions().jobs)
    access = _Access(_User(username, password), settings, on_event)
    with (
        _running(cancellation) as running,
        access.client(registry, actions, running) as client,
    ):
        yield client


@value
class _User:
    """Who we are, None for whoever was stored. Raises UsageError for half a pair."""

    username: str | None
    password: str | None

    def __post_init__(self) -> None:
        if (self.username is None) != (self.password is None):
            raise UsageError("username and password go together")

    @property
    def credentials(self) -> Credentials | None:
        if self.username is None or self.password is None:
            return None
        return Credentials(self.username, Secret(self.password), source="username")


@value
class _Access:
    """How the clients of one call are made."""

    user: _User
    settings: Settings
    on_event: OnEvent

    @contextmanager
    def client(
        self, registry: str, actions: str, cancellation: Cancellation
    ) -> Iterator[RegistryClient]:
        with RegistryClient(
            registry,
            transport_for(registry, self.settings, os.environ, on_event=self.on_event),
            cancellation,
            credentials=self._credentials(cancellation),
            policy=retry_policy(self.settings),
            on_event=self.on_event,
            actions=actions,
        ) as client:
            yield client

    @contextmanager
    def source(
        self, reference: Reference, cancellation: Cancellation
    ) -> Iterator[RegistrySource]:
        with self.client(reference.registry, PULL, cancellation) as client:
            yield RegistrySource(client, reference.repository)

    @contextmanager
    def target(
        self, reference: Reference, cancellation: Cancellation
    ) -> Iterator[RegistryTarget]:
        with (
            self.client(reference.registry, PUSH, cancellation) as client,
            open_target(
                client,
                reference,
                self.settings,
                cancellation=cancellation,
                on_event=self.on_event,
            ) as target,
        ):
            yield target

    def _credentials(self, cancellation: Cancellation) -> CredentialSource:
        given = self.user.credentials
        if given is not None:
            return lambda registry, repository: given
        return stored_credentials(
            self.settings,
            os.environ,
            state=StateDirectory.locate(os.environ).path,
            cancellation=cancellation,
            on_event=self.on_event,
        )


def _push(
    source: str,
    name: str | None,
    place: RegistryTarget,
    reference: Reference,
    options: PushOptions,
) -> PushResult:
    tags = [str(reference.tag or reference.digest)]
    if is_forward(source):
        again = partial(open_forward, source, place.cancellation)
        with again() as forward:
            return push_stream(
                place,
                forward,
                lambda images: select_image(images, name),
                tags=tags,
                options=options,
                again=again if is_lasting(source) else None,
            )
    with open_archive(source) as archive:
        image = select_image(archive.images, name)
        return push_image(place, archive, image, tags=tags, options=options)


def _names(reference: Reference) -> tuple[str, ...]:
    """What an archive calls *reference*: a name with a tag, as docker wants it."""
    if reference.tag is None and reference.digest is not None:
        return ()
    return (str(reference.with_digest(None)),)


def _parsed(reference: AnyReference, *, latest: bool = True) -> Reference:
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    if latest and not (reference.tag or reference.digest):
        return reference.with_tag("latest")
    return reference


def _settings(plain_http: bool, cacert: StrPath | None, jobs: int) -> Settings:  # noqa: FBT001
    """The built-in settings but for what the caller says."""
    said = {
        "plain_http": plain_http,
        "cacert": Path(cacert) if cacert else None,
        "jobs": jobs,
    }
    return resolve(said, {}, Config(Path()))


@contextmanager
def _cache(directory: StrPath | None) -> Iterator[Cache]:
    """The cache in *directory*, or one for this call."""
    if directory:
        yield Cache(Path(directory))
        return
    with tempfile.TemporaryDirectory(prefix="dockerpush-") as temporary:
        yield Cache(Path(temporary), room=MORE_TEMP_SPACE)


@contextmanager
def _running(cancellation: Cancellation | None) -> Iterator[Cancellation]:
    """The caller's cancellation, or one of this call."""
    if cancellation is not None:
        yield cancellation
        return
    with Cancellation() as own:
        yield own
