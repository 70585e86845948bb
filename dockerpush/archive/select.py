"""Which image of an archive is meant, when it holds several or has several names."""

from __future__ import annotations

from collections import Counter
from typing import Iterator, Sequence

from ..errors import ArchiveError, NotFound, UsageError, some_of
from ..events import Notice
from ..oci import Digest, Platform
from ..platforms import best_match
from ..values import replace
from .headers import canonical, quoted
from .stored import StoredImage, manifests, platform_of

_SHOWN = 20


def select_image(
    images: Sequence[StoredImage],
    name: str | None = None,
    platforms: Sequence[Platform] = (),
) -> StoredImage:
    """The one of *images* that *name* means, under the names it means alone.

    Of several that it means the one for *platforms*, where they say one.

    *name* is a RepoTag as written, a reference that means the same to Docker, the end
    of one (``app:1`` for ``localhost/app:1``), a tag, a repository without its tag, or
    a digest, tried in this order. Raises NotFound when it means none; UsageError when
    it, or its absence, leaves the choice among several; ArchiveError when it means one
    that cannot be pushed.
    """
    if name is None:
        return _only(_for(images, platforms))
    found = _for(_matching(images, name), platforms)
    if not found:
        raise NotFound(
            f"no image {quoted(name)} in the archive, it holds: {describe(images)}"
        )
    _check(found)
    if len(found) > 1:
        raise UsageError(
            f"{quoted(name)} means {len(found)} images of the archive, pick one with "
            f"--name: {describe(found)}"
        )
    return found[0]


def _only(images: Sequence[StoredImage]) -> StoredImage:
    """The only one of *images* that can be pushed; it names the others."""
    sound = [image for image in images if not image.problem]
    if len(sound) > 1:
        raise UsageError(
            f"the archive holds {len(sound)} images, pick one with --name: "
            + describe(sound)
        )
    broken = [image for image in images if image.problem]
    if not broken:
        return sound[0]
    if not sound or any(_keys(image) & _keys(sound[0]) for image in broken):
        _check(broken)
    notices = [
        Notice(f"left out: {label(image)}: {image.problem}", warning=True)
        for image in broken
    ]
    return replace(sound[0], notices=(*sound[0].notices, *notices))


def _keys(image: StoredImage) -> set[str]:
    return {*map(canonical, image.names), *image.tags}


def _check(images: Sequence[StoredImage]) -> None:
    """Raises ArchiveError when one of *images* cannot be pushed."""
    for image in images:
        if image.problem:
            raise ArchiveError(image.problem)


def _for(
    images: Sequence[StoredImage], platforms: Sequence[Platform]
) -> Sequence[StoredImage]:
    """*images*, or the only one of them that has all of *platforms*."""
    fitting = [
        image
        for image in images
        if platforms and all(_runs_on(image, platform) for platform in platforms)
    ]
    return fitting if len(fitting) == 1 else images


def _runs_on(image: StoredImage, platform: Platform) -> bool:
    have = [platform_of(one) for one in manifests(image.root or image.entry)]
    return best_match(platform, have) is not None


def describe(images: Sequence[StoredImage]) -> str:
    """What picks each of *images*: its names, its digest where others have them too."""
    labels = [(name, image) for image in images for name in _labels(image)]
    images_of = Counter(name for name, _ in labels)
    found = [
        name if images_of[name] == 1 else f"{_digest(image)} ({name})"
        for name, image in labels
    ]
    return some_of(found, _SHOWN)


def label(image: StoredImage) -> str:
    """What *image* is called where one name is enough; ``--name`` takes it."""
    return (*image.names, *image.tags, *map(str, _digests(image)))[0]


def identity(image: StoredImage) -> tuple[Digest, ...]:
    """What sets *image* apart from others of its name: its manifest and config."""
    return tuple(_digests(image))


def _labels(image: StoredImage) -> tuple[str, ...]:
    return image.names + image.tags or (f"(no name) {_digest(image)}",)


def _digest(image: StoredImage) -> str:
    return str(next(_digests(image), "no digest"))


def _matching(images: Sequence[StoredImage], name: str) -> list[StoredImage]:
    """What the first rule that fits anything fits."""
    meant = canonical(name)
    rules = (
        lambda text: text == name,
        lambda text: canonical(text) == meant,
        lambda text: canonical(text).endswith(f"/{name}"),
        lambda text: canonical(text).rpartition(":")[2] == name,
        lambda text: (
            f"/{_untagged(text)}".endswith((f"/{name}", f"/{_untagged(name)}"))
            and ":" not in name.rpartition("/")[2]
        ),
    )
    for rule in rules:
        names = [tuple(filter(rule, image.names)) for image in images]
        found = [
            replace(image, names=kept, tags=())
            for image, kept in zip(images, names)
            if kept
        ]
        if found:
            return found
    by_tag = [replace(i, names=(), tags=(name,)) for i in images if name in i.tags]
    return by_tag or [image for image in images if name in map(str, _digests(image))]


def _untagged(name: str) -> str:
    """*name* without its tag, so that ``app`` finds the only one of its tags."""
    return meant[: meant.rindex(":")] if ":" in (meant := canonical(name)) else meant


def _digests(image: StoredImage) -> Iterator[Digest]:
    """What identifies *image* without a name: its manifest, its config."""
    if image.root is not None and image.root.descriptor is not None:
        yield image.root.descriptor.digest
    if image.entry is not None:
        yield image.entry.config_descriptor.digest
