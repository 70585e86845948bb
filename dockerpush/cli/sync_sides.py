"""What a sync reads and writes: registries, and an OCI archive with all images.

An archive, plain or in volumes, is written at once, or not.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Mapping, Sequence

from ..errors import UsageError
from ..transfer.choices import OCI_ARCHIVE
from ..values import replace
from . import location
from .image_files import ImageOutput, exists, output_form
from .report import skipped
from .volume_options import say_volumes

if TYPE_CHECKING:
    from ..oci import Descriptor, Digest
    from ..reference import Reference
    from ..sync.carried_directory import CarriedDirectory
    from ..sync.planner import SyncItem, TagLister
    from ..transfer.choices import CopyResult
    from ..transfer.delta_source import Base, Places
    from ..transfer.engine import ConcurrencyLimits
    from ..transfer.registry_target import RegistryTarget
    from ..transfer.source import Source
    from .endpoints import Connections
    from .session import Session


class RegistrySide:
    """Registries; each client is made before there are threads."""

    def __init__(self, connections: Connections, registries: set[str]) -> None:
        self._connections = connections
        self._clients = {name: connections.client(name) for name in sorted(registries)}
        self._lock = threading.Lock()  # guards _connections

    @property
    def registries(self) -> Mapping[str, TagLister]:
        """The clients."""
        return self._clients

    @property
    def budget(self) -> Mapping[str, int]:
        """The setting ``jobs`` of each."""
        return {name: self._connections.settings(name).jobs for name in self._clients}

    def source(self, reference: Reference, base: Base | None) -> Source:
        """The repository of *reference*."""
        from ..transfer.source import RegistrySource

        client = self._clients[reference.registry]
        return RegistrySource(client, reference.repository)

    def base(self, reference: Reference, places: Places) -> Base:
        """Where what a delta lacks of *reference* may be, by *places*."""
        from ..transfer.delta_source import Base

        client = self._clients[reference.registry]
        return Base(client, reference.repository, places)

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Nothing, since a registry's errors name the registry."""
        yield

    @contextmanager
    def target(self, reference: Reference) -> Iterator[RegistryTarget]:
        """The repository of *reference*, for one image."""
        with ExitStack() as stack:
            with self._lock:
                target = stack.enter_context(self._connections.target(reference))
            yield target

    def names(self, reference: Reference, digest: Digest | None) -> list[str]:
        """Under which names an image is stored that is called *reference*.

        *digest* is what it has: not that of its name when a directory holds a part.
        """
        digest = (digest or reference.digest) if reference.digest else None
        return [str(name) for name in (digest, reference.tag) if name]


def archive_output(place: str, split: int | None) -> ImageOutput | None:
    """The archive that *place* means, written as ``oci-archive:FILE``; None for others.

    Raises UsageError for what cannot be written.
    """
    path = location.archive(place)
    if path is None:
        if split:
            raise UsageError("--split is for oci-archive:FILE as the destination")
        return None
    local = location.Local(str(path), OCI_ARCHIVE)
    return ImageOutput(local, output_form(local, split), no_clobber=False, split=split)


def keeps(output: ImageOutput, on_exists: str, source: str, session: Session) -> bool:
    """True, and a note, when *output* exists and is to stay. Raises UsageError."""
    if on_exists == "compare" or not exists(output.place, output.form, output.split):
        return False
    if on_exists == "error":
        raise UsageError(f"{output.place.path} exists: --on-exists compare replaces it")
    skipped(source, output.place.path, session.display)
    return True


class _Nothing:
    """What an archive that is written again holds of a registry."""

    def tags(self, repository: str) -> Iterator[str]:
        """None."""
        return iter(())

    def manifest_descriptor(self, repository: str, reference: str) -> Descriptor | None:
        """None."""
        return None


class ArchiveSide:
    """The archive *output*, which gets all images or is not written."""

    budget: Mapping[str, int] = {}

    def __init__(
        self, output: ImageOutput, registries: set[str], session: Session
    ) -> None:
        self._output = output
        self._session = session
        self.registries: Mapping[str, TagLister] = {
            name: _Nothing() for name in registries
        }

    def write(
        self,
        items: Sequence[SyncItem],
        source: RegistrySide | CarriedDirectory,
        *,
        jobs: int,
        limits: ConcurrencyLimits,
    ) -> list[SyncItem]:
        """Those of *items* that are to be copied, copied; the others as they are.

        Raises what `copy_images` does: the failure of one image fails the archive.
        """
        from ..sync.planner import Action, named
        from ..transfer.choices import CopyOptions
        from ..transfer.copy_image import copy_images
        from ..transfer.plan import Wanted

        wanted = [
            Wanted(
                source.source(item.source, None),
                str(item.digest or named(item.source)),
                (str(item.target),),
                CopyOptions(item.entry.platforms, item.entry.referrers, jobs),
            )
            for item in items
            if item.action is Action.COPY
        ]
        if not wanted:
            return list(items)
        options, session = CopyOptions(jobs=jobs), self._session
        with (
            source.blaming(),
            self._output.opened(options, session, session.on_event) as target,
        ):
            results = copy_images(wanted, target, options=options, limits=limits)
        session.end_progress()
        if self._output.split and not session.display.quiet:
            say_volumes(Path(self._output.place.path))
        copied = iter(results)
        return [
            _after(item, next(copied)) if item.action is Action.COPY else item
            for item in items
        ]


def _after(item: SyncItem, result: CopyResult) -> SyncItem:
    return replace(item, digest=result.descriptor.digest, sent=result.sent)
