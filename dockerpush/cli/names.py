"""Which of an archive's names goes to which target, for ``--registry`` and all tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterable, Iterator

from ..errors import UsageError
from ..reference import DOCKER_HUB, Place, Reference

if TYPE_CHECKING:
    from ..archive import StoredImage


def targets_below(
    location: str, images: Iterable[StoredImage]
) -> list[tuple[StoredImage, Reference]]:
    """Every image under its own names at *location* (``HOST[/PREFIX]``)."""
    place = Place.parse(location)
    return [
        (image, place.reference(short_path(name), name.tag or "latest"))
        for image, name in _named(images)
    ]


def short_path(name: Reference) -> str:
    """The repository of *name* as people write it: ``library/nginx`` is ``nginx``."""
    official = name.registry == DOCKER_HUB and name.repository.startswith("library/")
    return name.repository[len("library/") :] if official else name.repository


def targets_in(
    repository: Reference, images: Iterable[StoredImage]
) -> list[tuple[StoredImage, Reference]]:
    """Every image in one *repository*, under the tags of its own names."""
    if repository.tag or repository.digest:
        raise UsageError(
            f"--all-tags takes the tags from the archive: -t {repository.name}"
        )
    images = tuple(images)
    tagged = ((image, tag) for image in images for tag in image.tags)
    named = ((image, name.tag or "latest") for image, name in _named(images))
    targets = {repository.with_tag(tag): image for image, tag in (*tagged, *named)}
    return [(image, reference) for reference, image in targets.items()]


def _named(images: Iterable[StoredImage]) -> Iterator[tuple[StoredImage, Reference]]:
    found = False
    for image in images:
        for name in image.names:
            found = True
            yield image, Reference.parse(name)
        found = found or bool(image.tags)
    if not found:
        raise UsageError("the archive names no image: say -t REGISTRY/REPOSITORY:TAG")
