"""An OCI directory or archive that is carried by hand, as one side of a sync."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterable, Iterator, Mapping, Sequence, Union

from ..errors import (
    ArchiveError,
    ContentMismatch,
    InvalidJSON,
    InvalidReference,
    NotFound,
    PusherError,
    RegistryError,
)
from ..reference import Reference
from ..values import replace
from .lists import target_of

if TYPE_CHECKING:
    from ..archive import Archive
    from ..events import OnEvent
    from ..oci import Descriptor, Digest
    from ..system.cancellation import Cancellation
    from ..transfer.delta_source import Base, DeltaSource, Lacking
    from ..transfer.inventory import HeldBlobs
    from ..transfer.local_targets import DirectoryTarget
    from ..transfer.source import Source
    from .lists import Defaults, SyncEntry
    from .planner import SyncItem, TagLister

    Found = Union[Descriptor, PusherError]


_FOR_THE_COPY = (RegistryError, ArchiveError, InvalidJSON, ContentMismatch)
"""Failures of a look that the copy of the same image will meet, and tell."""


class CarriedDirectory:
    """The images of an OCI directory or archive, by the names that it has for them.

    *images* has an error instead of what is damaged, or there in part. *nameless* are
    the names of those without a full one.
    """

    def __init__(
        self, path: Path, cancellation: Cancellation, stack: ExitStack
    ) -> None:
        """Raises NotFound, ArchiveError for what is none."""
        from ..archive.opened import Archive, open_any

        self.path = path
        self.images: dict[Reference, Found] = {}
        self.nameless: list[str] = []
        opened = open_any(path)
        stack.enter_context(opened)
        self.blaming = opened.blaming
        if isinstance(opened, Archive):
            self._whole: Source | None = self._of_archive(opened, cancellation)
        else:
            self._whole = None
            self._delta = opened
            self._take_names()
        self.registries: Mapping[str, TagLister] = _ByRegistry(str(path), self.images)
        self._sources: dict[tuple[str, str] | None, DeltaSource] = {}

    budget: Mapping[str, int] = {}

    @property
    def is_delta(self) -> bool:
        """True when it lacks what the target's registry should have."""
        return self._whole is None

    def source(self, reference: Reference, base: Base | None) -> Source:
        """Where every image is read from; *base* has what a delta lacks."""
        return self._whole or self.delta_source(base)

    def delta_source(self, base: Base | None) -> DeltaSource:
        """The same for a delta, one object for each target."""
        from ..transfer.delta_source import DeltaSource

        key = (base.client.registry, base.repository) if base else None
        made = DeltaSource(self._delta, base)
        return self._sources.setdefault(key, made)

    def lacking(
        self,
        item: SyncItem,
        base: Base | None,
        is_there: Callable[[Descriptor], bool] = lambda document: False,
    ) -> Lacking:
        """What the image of *item*, of a delta, would lack at its target.

        *is_there* says of a manifest that the target has it with all that it needs.
        """
        from ..transfer.delta_source import Lacking

        source = self.delta_source(base)
        found: list[Descriptor] = []
        with suppress(*_FOR_THE_COPY):
            found += source.lacks(source.entry(str(item.digest)), is_there)
        return Lacking(str(item.target), found)

    def check(self, lacking: Sequence[Lacking]) -> None:
        """Raises NotHeld when images of a delta are *lacking* something."""
        from ..transfer.delta_source import refuse_lacking

        if self.is_delta:
            refuse_lacking(lacking, self._delta)

    def _of_archive(self, archive: Archive, cancellation: Cancellation) -> Source:
        from ..transfer.archive_source import ArchiveSource

        source = ArchiveSource(archive)
        for image in archive.images:
            found: Found
            try:
                plan = source.add(image, cancellation, strict=True)
                found = plan.documents[-1].descriptor
            except (ArchiveError, InvalidJSON) as error:
                found = type(error)(f"{self.path}: {error}")
            self.images.update((name, found) for name in parsed(image.names))
            self.nameless += image.tags
        for image in archive.referrers():
            source.add(image, cancellation)
        return source

    def _take_names(self) -> None:
        for image in self._delta.images:
            root = image.root.descriptor if image.root else None
            assert root is not None, "index.json names manifests"
            self.images.update((name, root) for name in parsed(image.names))
            self.nameless += image.tags


class SourcePlaces:
    """Where a list puts what its images are called at the source."""

    def __init__(self, entries: Sequence[SyncEntry], defaults: Defaults) -> None:
        self._defaults = defaults
        self._targets: dict[str, list[str]] = {}
        for entry in entries:
            targets = self._targets.setdefault(entry.source.name, [])
            targets.append(entry.target.repository)

    def places(self, name: str) -> list[str]:
        """Repositories at a target that may be what a delta calls *name*, likely first.

        That is one there by the name that it has, or what a sync made of it.
        """
        found = [name.partition("/")[2], *self._targets.get(name, ())]
        with suppress(InvalidReference):
            source = Reference.parse(name)
            found.append(target_of(source, None, self._defaults).repository)
        return found


class _ByRegistry(Mapping[str, "_NamedImages"]):
    """The images of a directory for any registry, also one of which it has none."""

    def __init__(self, path: str, images: Mapping[Reference, Found]) -> None:
        self._path = path
        self._images = images

    def __getitem__(self, registry: str) -> _NamedImages:
        return _NamedImages(self._path, self._images, registry)

    def __iter__(self) -> Iterator[str]:
        return iter({name.registry for name in self._images})

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _NamedImages:
    """The images of an OCI directory that have names of one registry."""

    def __init__(
        self, path: str, images: Mapping[Reference, Found], registry: str
    ) -> None:
        self._path = path
        self._images = {
            name: root for name, root in images.items() if name.registry == registry
        }
        self._registry = registry

    def tags(self, repository: str) -> Iterator[str]:
        """The tags of *repository*. Raises NotFound."""
        found = [
            name.tag
            for name in self._images
            if name.repository == repository and name.tag
        ]
        if not found:
            wanted = f"{self._registry}/{repository}"
            raise NotFound(f"{self._path}: it holds no image of {wanted}")
        return iter(found)

    def manifest_descriptor(self, repository: str, reference: str) -> Descriptor | None:
        """What *reference*, a tag or a digest, names.

        Raises ArchiveError, InvalidJSON when that is damaged.
        """
        for name, found in self._images.items():
            if name.repository != repository:
                continue
            is_named = reference in (name.tag, name.digest)
            if isinstance(found, PusherError):
                if is_named:
                    raise found
            elif is_named or reference == found.digest:
                return found
        return None


class DirectoryTargets:
    """An OCI directory that gets images under the names they have in registries."""

    budget: Mapping[str, int] = {}

    def __init__(
        self,
        path: Path,
        registries: set[str],
        cancellation: Cancellation,
        on_event: OnEvent,
        have: HeldBlobs,
    ) -> None:
        """What *have* holds is left out.

        Raises ArchiveError for a directory with something else in it.
        """
        from ..transfer.local_targets import DirectoryTarget

        self._path = path
        self._cancellation = cancellation
        self._on_event = on_event
        self._have = have
        self._left_out: dict[str, Descriptor] = {}
        target = DirectoryTarget(path, cancellation, on_event, have)
        self.registries: Mapping[str, TagLister] = {
            name: _Held(target, name) for name in registries
        }

    @contextmanager
    def target(self, reference: Reference) -> Iterator[DirectoryTarget]:
        """The directory, for one image."""
        with self._cancellation.child() as cancellation:
            yield self._target(cancellation)

    def _target(self, cancellation: Cancellation) -> DirectoryTarget:
        from ..transfer.local_targets import DirectoryTarget

        return DirectoryTarget(self._path, cancellation, self._on_event, self._have)

    def leave_out(self, items: Sequence[SyncItem]) -> list[SyncItem]:
        """*items*, of which those that are left out whole are not to be copied.

        Not those of which only a part is wanted, or more than they hold.
        """
        from .planner import Action

        for item in items:
            if item.action is Action.COPY and item.root and _is_held(item, self._have):
                self._left_out[str(item.target)] = item.root
        return [
            replace(item, action=Action.SKIP, why="left out: --have holds it")
            if str(item.target) in self._left_out
            else item
            for item in items
        ]

    def name_left_out(self) -> None:
        """Write into the directory what was left out whole, in one step."""
        target = self._target(self._cancellation)
        target.name_left_out(list(self._left_out.items()))

    def names(self, reference: Reference, digest: Digest | None) -> list[str]:
        """Under which names an image is stored that is called *reference*."""
        return [str(reference)]


def _is_held(item: SyncItem, have: HeldBlobs) -> bool:
    entry = item.entry
    is_whole = not (entry.platforms or entry.referrers)
    return is_whole and item.digest is not None and item.digest in have


class _Held:
    """What the directory has of one registry by now, whole."""

    def __init__(self, target: DirectoryTarget, registry: str) -> None:
        self._target = target
        self._registry = registry

    def tags(self, repository: str) -> Iterator[str]:
        """The tags of *repository*."""
        for reference in parsed(self._target.names()):
            here = reference.registry == self._registry
            if here and reference.repository == repository and reference.tag:
                yield reference.tag

    def manifest_descriptor(self, repository: str, reference: str) -> Descriptor | None:
        """What *reference*, a tag or a digest, names."""
        joint = "@" if ":" in reference else ":"
        place = Reference(self._registry, repository)
        return self._target.entry(f"{place}{joint}{reference}")


def parsed(names: Iterable[str]) -> Iterator[Reference]:
    """The *names* that are references: other programs write what they like."""
    for name in names:
        with suppress(InvalidReference):
            yield Reference.parse(name)
