"""An OCI directory or archive that is carried by hand, as one side of a sync."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, Iterator, Mapping, Union

from ..errors import (
    ArchiveError,
    InvalidJSON,
    InvalidReference,
    NotFound,
    PusherError,
)
from ..reference import Reference

if TYPE_CHECKING:
    from ..events import OnEvent
    from ..oci import Descriptor, Digest
    from ..system.cancellation import Cancellation
    from ..transfer.local_targets import DirectoryTarget
    from ..transfer.source import Source
    from .planner import TagLister

    Found = Union[Descriptor, PusherError]


class CarriedDirectory:
    """The images of an OCI directory or archive, by the names that it has for them.

    *images* has an error instead of what is damaged, or there in part. *nameless* are
    the names of those without a full one.
    """

    def __init__(
        self, path: Path, cancellation: Cancellation, stack: ExitStack
    ) -> None:
        """Raises NotFound, ArchiveError for what is none."""
        from ..archive import open_archive
        from ..transfer.archive_source import ArchiveSource

        archive = stack.enter_context(open_archive(path))
        self.images: dict[Reference, Found] = {}
        self.nameless: list[str] = []
        source = ArchiveSource(archive)
        for image in archive.images:
            found: Found
            try:
                plan = source.add(image, cancellation, strict=True)
                found = plan.documents[-1].descriptor
            except (ArchiveError, InvalidJSON) as error:
                found = type(error)(f"{path}: {error}")
            self.images.update((name, found) for name in _parsed(image.names))
            self.nameless += image.tags
        for image in archive.referrers():
            source.add(image, cancellation)
        self._source = source
        self.blaming = archive.blaming
        self.registries: Mapping[str, TagLister] = _ByRegistry(str(path), self.images)

    budget: Mapping[str, int] = {}

    def source(self, reference: Reference) -> Source:
        """Where every image is read from."""
        return self._source


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
    """Those of an OCI directory that are called as those of one registry."""

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
    ) -> None:
        """Raises ArchiveError for a directory with something else in it."""
        from ..transfer.local_targets import DirectoryTarget

        self._path = path
        self._cancellation = cancellation
        self._on_event = on_event
        target = DirectoryTarget(path, cancellation, on_event)
        self.registries: Mapping[str, TagLister] = {
            name: _Held(target, name) for name in registries
        }

    @contextmanager
    def target(self, reference: Reference) -> Iterator[DirectoryTarget]:
        """The directory, for one image."""
        from ..transfer.local_targets import DirectoryTarget

        with self._cancellation.child() as cancellation:
            yield DirectoryTarget(self._path, cancellation, self._on_event)

    def names(self, reference: Reference, digest: Digest | None) -> list[str]:
        """Under which names an image is stored that is called *reference*."""
        return [str(reference)]


class _Held:
    """What the directory has of one registry by now, whole."""

    def __init__(self, target: DirectoryTarget, registry: str) -> None:
        self._target = target
        self._registry = registry

    def tags(self, repository: str) -> Iterator[str]:
        """The tags of *repository*."""
        for reference in _parsed(self._target.names()):
            here = reference.registry == self._registry
            if here and reference.repository == repository and reference.tag:
                yield reference.tag

    def manifest_descriptor(self, repository: str, reference: str) -> Descriptor | None:
        """What *reference*, a tag or a digest, names."""
        joint = "@" if ":" in reference else ":"
        place = Reference(self._registry, repository)
        return self._target.entry(f"{place}{joint}{reference}")


def _parsed(names: Iterable[str]) -> Iterator[Reference]:
    """Those of *names* that are references: other programs write what they like."""
    for name in names:
        with suppress(InvalidReference):
            yield Reference.parse(name)
