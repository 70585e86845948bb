"""``copy`` from and to archives and OCI directories, as they lie there."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Iterator, Sequence

from ..errors import UsageError
from . import places

if TYPE_CHECKING:
    from ..copy import CopyOptions, CopyResult, Source
    from ..oci import Descriptor
    from ..push.whole import WholeImage
    from .session import Session


@dataclass(frozen=True)
class Into:
    """A file or directory to be written to, in one of the FORMS."""

    place: places.Local
    form: str
    no_clobber: bool


@dataclass(frozen=True)
class Origin:
    """An image to be copied: what *reference* names in *source*.

    *label* is what it is called in reports, *names* are what it is called in an
    archive.
    """

    source: Source
    reference: str
    label: str
    names: tuple[str, ...]


def archive_origins(
    place: places.Local, args: Namespace, session: Session, stack: ExitStack
) -> list[Origin]:
    """The image of an archive that is meant, or with ``--all-tags`` all of them.

    Raises UsageError, NotFound, ArchiveError.
    """
    from ..archive import open_archive, select_image
    from ..archive.forward import is_forward
    from ..copy import ArchiveSource
    from ..push.whole import whole_image

    if place.path == places.STDOUT or is_forward(place.path):
        raise UsageError(
            f"{place.path}: what is compressed or a pipe can be pushed, but not copied "
            "to a file: unpack it first"
        )
    archive = stack.enter_context(open_archive(place.path))
    images = list(archive.images)
    if not args.all_tags:
        images = [select_image(images, place.name)]
    chosen = [whole_image(archive, one, session.cancellation) for one in images]
    everything = chosen
    if args.referrers:
        everything = [
            whole_image(archive, one, session.cancellation) for one in archive.images
        ]
    source = ArchiveSource(everything, str(archive.path))
    return [
        Origin(source, str(root_of(one).digest), _label(one, place), one.names)
        for one in chosen
    ]


def root_of(image: WholeImage) -> Descriptor:
    """What the archive's index names."""
    return image.documents[-1].descriptor


def _label(image: WholeImage, place: places.Local) -> str:
    return f"{place.path}:{(*image.names, *image.tags, root_of(image).digest)[0]}"


def copy_to_file(
    origins: Sequence[Origin], into: Into, options: CopyOptions, session: Session
) -> Iterator[tuple[Origin, CopyResult]]:
    """Write *origins*, and tell of each what is there then."""
    write = _into_archive
    if into.form == places.OCI_DIRECTORY:
        write = _into_directory
    named = [(one, _names(one, into.place, len(origins))) for one in origins]
    return write(named, into, options, session)


def _names(origin: Origin, place: places.Local, count: int) -> tuple[str, ...]:
    if place.name is None:
        return origin.names
    if count > 1:
        raise UsageError(f"{place.name!r:.200} names one image, and these are {count}")
    return (place.name,)


def _into_archive(
    named: Sequence[tuple[Origin, tuple[str, ...]]],
    into: Into,
    options: CopyOptions,
    session: Session,
) -> Iterator[tuple[Origin, CopyResult]]:
    from ..copy.archive import Wanted, copy_to_archive
    from ..oci import Platform

    docker = into.form == places.DOCKER_ARCHIVE
    output: Path | BinaryIO = Path(into.place.path)
    if into.place.path == places.STDOUT:
        output = sys.stdout.buffer
    results = copy_to_archive(
        [Wanted(one.source, one.reference, names) for one, names in named],
        output,
        docker=docker,
        options=options,
        default=Platform("linux", "amd64") if docker else None,
        no_clobber=into.no_clobber,
        cancellation=session.cancellation,
        on_event=session.on_event,
    )
    yield from zip((one for one, _ in named), results)


def _into_directory(
    named: Sequence[tuple[Origin, tuple[str, ...]]],
    into: Into,
    options: CopyOptions,
    session: Session,
) -> Iterator[tuple[Origin, CopyResult]]:
    from ..copy import DirectoryTarget, copy_image

    path = Path(into.place.path)
    with session.cancellation.child() as cancellation:
        target = DirectoryTarget(path, cancellation, session.on_event)
        for origin, names in named:
            wanted = names or (path.name,)
            taken = [name for name in wanted if target.named(name)]
            if taken and into.no_clobber:
                raise UsageError(f"{path} has {taken[0]}, which stays as it is")
            result = copy_image(
                origin.source, target, origin.reference, tags=wanted, options=options
            )
            yield origin, result
