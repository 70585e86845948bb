"""One run of sync: both sides, the plan, and the copies."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Mapping, Sequence

from ..errors import UsageError
from ..system.workers import wide
from ..transfer.choices import OCI_ARCHIVE
from ..values import replace, value
from . import console, location
from .endpoints import Connections
from .image_files import ImageOutput, exists, output_form, say_volumes
from .recompress_options import copy_or_recompress
from .report import say_replaced, skipped

if TYPE_CHECKING:
    from ..oci import Descriptor, Digest
    from ..reference import Reference
    from ..sync.carried_directory import CarriedDirectory, DirectoryTargets
    from ..sync.lists import Defaults, SyncEntry, SyncList
    from ..sync.planner import SyncItem, TagLister
    from ..transfer.choices import CopyResult
    from ..transfer.delta_source import Base, Lacking, Places
    from ..transfer.engine import ConcurrencyLimits
    from ..transfer.inventory import HeldBlobs
    from ..transfer.registry_target import RegistryTarget
    from ..transfer.source import Source
    from ..transfer.target import Target
    from .session import Session

MOST_LOOKS = 32
"""Images that are compared at a time, within the budget of each registry."""


@value
class SyncRequest:
    """What one ``sync`` is asked for: *file* is a list, or *whole* an OCI directory.

    *origin* is the directory or archive that images come from, *into* the directory
    and *output* the archive they go to, None where that is registries. *place* is the
    word for the target. What one of *have* holds is left out.
    """

    file: str
    whole: bool
    origin: Path | None
    into: Path | None
    output: ImageOutput | None
    place: str
    defaults: Defaults
    variables: Mapping[str, str]
    dry_run: bool
    sums: bool
    recompress: str | None
    prune: bool
    yes: bool
    have: tuple[str, ...]
    report: Path | None
    retry: str | None

    @property
    def target(self) -> str:
        """Where the list goes, however it was written; "" when the list says it."""
        if self.into is not None:
            return f"oci:{os.path.realpath(self.into)}"
        if self.output is not None:
            return f"oci-archive:{os.path.realpath(self.output.place.path)}"
        return str(self.defaults.place or "")


class SyncRun:
    """Both sides of one run, opened before there are threads."""

    def __init__(
        self,
        wanted: SyncList,
        entries: Sequence[SyncEntry],
        request: SyncRequest,
        origin: CarriedDirectory | None,
        have: HeldBlobs | None,
        *,
        sources: Connections,
        targets: Connections,
    ) -> None:
        from ..sync.carried_directory import SourcePlaces
        from ..transfer.engine import ConcurrencyLimits

        self._have = have
        self._places = SourcePlaces(entries, request.defaults)
        self._entries = entries
        self._request = request
        self._session = sources.session
        for connections in (sources, targets):
            _apply(wanted.hosts, connections)
        from_registries = {entry.source.registry for entry in entries}
        self._from: RegistrySide | CarriedDirectory
        self._from = origin or RegistrySide(sources, from_registries)
        self._to = self._target_side(targets)
        budget = {**self._from.budget, **self._to.budget}
        self._jobs = wanted.parallel or max(budget.values(), default=0)
        self._jobs = self._jobs or sources.settings().jobs
        self._looks = max(1, min(MOST_LOOKS, sum(map(wide, budget.values()))))
        self._limits = ConcurrencyLimits(budget)
        self._settings, self._state = targets.settings(), targets.state
        self._lock = threading.Lock()  # guards stderr

    def _target_side(
        self, targets: Connections
    ) -> RegistrySide | DirectoryTargets | ArchiveSide:
        from ..sync.carried_directory import DirectoryTargets

        registries = {entry.target.registry for entry in self._entries}
        session = self._session
        if self._request.output:
            output = replace(self._request.output, have=self._have)
            return ArchiveSide(output, registries, session)
        if self._request.into is None:
            return RegistrySide(targets, registries)
        from ..transfer.inventory import NOTHING_HELD

        return DirectoryTargets(
            self._request.into,
            registries,
            session.cancellation,
            session.on_event,
            self._have or NOTHING_HELD,
        )

    def plan(self) -> list[SyncItem]:
        """What is to be done. Raises NotHeld for a delta whose base is not whole."""
        from ..sync.carried_directory import DirectoryTargets
        from ..sync.planner import Planner

        cancellation = self._session.cancellation
        planner = Planner(
            self._from.registries,
            self._to.registries,
            self._limits,
            cancellation,
            jobs=self._looks,
            created=self._created,
        )
        items = planner.plan(self._entries)
        self._check_base(items)
        if isinstance(self._to, DirectoryTargets):
            return self._to.leave_out(items)
        return items

    def _created(self, image: Reference) -> float | None:
        """When *image* was made."""
        from ..transfer.creation import created_at

        tags = self._from.registries[image.registry]
        found = tags.manifest_descriptor(image.repository, str(image.tag))
        targets = (e.target for e in self._entries if e.source.name == image.name)
        source = self._from.source(image, self._base(next(targets)))
        return created_at(source, str(found.digest)) if found else None

    def copy(self, items: list[SyncItem]) -> None:
        """Copy those of *items* that are to be, and have them say what was done."""
        from ..sync.carried_directory import DirectoryTargets
        from ..sync.planner import copy_all

        if isinstance(self._to, ArchiveSide):
            items[:] = self._to.write(
                items, self._from, jobs=self._jobs, limits=self._limits
            )
            for item in items:
                self._say(item)
            return
        copy_all(
            items,
            self._copy,
            self._say,
            cancellation=self._session.cancellation,
            jobs=1 if self._request.recompress else self._jobs,
        )
        if isinstance(self._to, DirectoryTargets):
            self._to.name_left_out()

    def _copy(self, item: SyncItem) -> SyncItem:
        """A worker thread's work."""
        from ..sync.planner import Action

        assert not isinstance(self._to, ArchiveSide), "that is written as a whole"
        with self._from.blaming(), self._to.target(item.target) as target:
            result = self._moved(item, target, self._to.names(item.target, item.digest))
        item = replace(
            item,
            digest=result.descriptor.digest,
            sent=result.sent,
            replaced=result.replaced,
            lost=result.lost,
        )
        if not result.manifests:
            return replace(item, action=Action.SKIP, why="unchanged")
        return item

    def _moved(
        self, item: SyncItem, target: Target, names: Sequence[str]
    ) -> CopyResult:
        from ..transfer.choices import CopyOptions

        entry = item.entry
        return copy_or_recompress(
            self._from.source(item.source, self._base(item.target)),
            target,
            str(item.digest or item.source.digest or item.source.tag),
            tags=names,
            options=CopyOptions(entry.platforms, entry.referrers, self._jobs),
            how=self._request.recompress,
            settings=self._settings,
            state=self._state,
            limits=self._limits,
        )

    def _check_base(self, items: Sequence[SyncItem]) -> None:
        from ..sync.carried_directory import CarriedDirectory
        from ..sync.planner import Action
        from ..system.workers import Workers

        origin = self._from
        if not isinstance(origin, CarriedDirectory) or not origin.is_delta:
            return
        copied = [item for item in items if item.action is Action.COPY]
        cancellation = self._session.cancellation
        with Workers(cancellation, self._looks, name="look") as workers:
            looking = [workers.submit(self._lacking, origin, item) for item in copied]
            origin.check(workers.wait(looking))

    def _lacking(self, origin: CarriedDirectory, item: SyncItem) -> Lacking:
        """A worker thread's work."""
        if not isinstance(self._to, RegistrySide):
            return origin.lacking(item, None)
        with self._to.target(item.target) as target:
            return origin.lacking(item, self._base(item.target), target.has_document)

    def _base(self, target: Reference) -> Base | None:
        """Where what a delta lacks may be on its way to *target*."""
        if not isinstance(self._to, RegistrySide):
            return None
        return self._to.base(target, self._places.places)

    def _say(self, item: SyncItem) -> None:
        from ..sync.planner import Action

        with self._lock:
            if item.action is Action.FAILED:
                console.say(f"failed: {item.target}: {item.why}")
            elif item.action is Action.COPY and not self._session.display.quiet:
                size = console.size_text(item.sent) if item.sent else "no blobs to send"
                into = self._request.into or self._request.output
                target = self._request.place if into else item.target
                console.say(f"copied {item.source} to {target} ({size})")
                say_replaced(item.target, item.replaced)


def _apply(hosts: Mapping[str, Mapping[str, object]], connections: Connections) -> None:
    """Use the settings of the list as those of the configuration."""
    known = connections.config.registries
    merged = {name: {**known.get(name, {}), **value} for name, value in hosts.items()}
    connections.config = replace(connections.config, registries={**known, **merged})


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
        """Do nothing: a registry's errors name the registry."""
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
    if location.output_path(str(path)) == location.STDOUT:
        raise UsageError("sync prints its result to standard output: name a file")
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
        """Copy the *items* that are to be copied; all of them, with what was done.

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
                None if item.entry.platforms or item.entry.referrers else item.root,
            )
            for item in items
            if item.action is Action.COPY
        ]
        if not wanted:
            return list(items)
        options, session = CopyOptions(jobs=jobs), self._session
        session.starts_over()
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
