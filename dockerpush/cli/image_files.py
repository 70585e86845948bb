"""Images in files: archives, also in volumes, and OCI directories; read and written."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Iterator, Sequence

from ..errors import UsageError
from ..events import Notice
from ..expressions import expression
from ..transfer.choices import (
    DOCKER_ARCHIVE,
    OCI_ARCHIVE,
    OCI_DIRECTORY,
)
from ..values import value
from . import console, location

if TYPE_CHECKING:
    from ..archive import Archive
    from ..archive.opened import OpenLayout
    from ..archive.stored import StoredImage
    from ..events import OnEvent
    from ..oci import Digest, Platform
    from ..state.directory import StateDirectory
    from ..transfer.archive_target import ForDocker
    from ..transfer.choices import CopyOptions, CopyResult, PushOptions
    from ..transfer.inventory import HeldBlobs
    from ..transfer.plan import Wanted
    from ..transfer.source import Source
    from ..transfer.target import Target
    from .report import Outcomes
    from .session import Session


_NUMBERED = expression(r"\.[0-9]{3}")
_COMPRESSED = (".gz", ".tgz", ".zst", ".xz", ".bz2")


@value
class ImageOutput:
    """A file or directory to be written to, in one of the FORMS.

    *only* is the platform that is taken of an index when none is asked for. With
    *split* an archive is in volumes of so many bytes, with *sums* a directory gets a
    list of the sums of its files. A *pipe* gets the archive in place of a file; *place*
    is what it is called then. What *have* holds is left out. In *state* is what became
    of layers before.
    """

    place: location.Local
    form: str
    no_clobber: bool
    only: Platform | None = None
    split: int | None = None
    sums: bool = False
    pipe: BinaryIO | None = None
    have: HeldBlobs | None = None
    state: StateDirectory | None = None

    def for_docker(self, *, chosen: bool) -> ForDocker | None:
        """What docker gets of it; *chosen* platforms count as the user put them."""
        from ..transfer.archive_target import LINUX_AMD64, ForDocker

        if self.form != DOCKER_ARCHIVE:
            return None
        required = self.place.form == DOCKER_ARCHIVE
        return ForDocker(None if chosen else LINUX_AMD64, required)

    @contextmanager
    def opened(
        self,
        options: CopyOptions,
        session: Session,
        on_event: OnEvent,
        *,
        resumable: bool = True,
    ) -> Iterator[Target]:
        """The target that writes it; complete when the ``with`` ends well.

        Raises UsageError for what the form cannot hold.
        """
        from ..archive.writers import write_sums
        from ..transfer.archive_target import open_output
        from ..transfer.inventory import NOTHING_HELD

        docker = self.for_docker(chosen=bool(options.platforms))
        if docker and docker.required and options.referrers:
            raise UsageError(
                "a docker-archive cannot hold referrers: write an oci-archive instead"
            )
        to_stdout = self.place.path == location.STDOUT
        pipe = sys.stdout.buffer if to_stdout else self.pipe
        with open_output(
            pipe or Path(self.place.path),
            self.form,
            docker=docker,
            no_clobber=self.no_clobber,
            resumable=resumable,
            split=self.split,
            have=self.have or NOTHING_HELD,
            cancellation=session.cancellation,
            on_event=on_event,
        ) as target:
            yield target
        if self.sums:
            write_sums(Path(self.place.path))


@value
class ImageOrigin:
    """An image to be copied: what *reference* names in *source*.

    *label* is what it is called in reports. *names* are the full references that it
    has, *tags* the names of an archive that are only a tag.
    """

    source: Source
    reference: str
    label: str
    names: tuple[str, ...]
    tags: tuple[str, ...] = ()


def exists(place: location.Local, form: str, split: int | None) -> bool:
    """True when *place* has a file that an image of *form* would replace."""
    if form == OCI_DIRECTORY or place.path == location.STDOUT:
        return False
    path = Path(place.path)
    return bool(volumes_of(path)) if split else path.exists()


def output_form(
    place: location.Local,
    split: int | None = None,
    *,
    sums: bool = False,
    is_delta: bool = False,
) -> str:
    """The form that is written to *place*, of `FORMS`, with *split* in volumes.

    One that *is_delta* is no docker-archive, which docker could not load. Raises
    UsageError for what cannot be written there.
    """
    path = Path(place.path)
    if place.path == location.STDOUT:
        if sys.stdout.isatty():
            raise UsageError("an archive is not for a terminal: redirect it")
        if place.form == OCI_DIRECTORY:
            raise UsageError("a directory cannot go to standard output")
    form = place.form or _guessed(place)
    if is_delta and form == DOCKER_ARCHIVE:
        if place.form:
            raise UsageError(
                "--have leaves blobs out, and docker loads no such archive: make it an "
                "oci-archive, or write to oci:DIR"
            )
        form = OCI_ARCHIVE
    if form == OCI_DIRECTORY:
        check_directory(path)
    if form != OCI_DIRECTORY and place.path != location.STDOUT:
        if path.is_dir():
            raise UsageError(f"{path} is a directory: name a file for the {form}")
        if path.suffix in _COMPRESSED:
            raise UsageError(
                f"{path}: archives are written plain, their layers are compressed "
                "already: name it .tar"
            )
    check_split(place, form, split)
    check_sums(sums=sums, is_directory=form == OCI_DIRECTORY)
    return form


def check_directory(path: Path) -> None:
    """Raises UsageError when there is a file where an OCI directory is to be."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file: name a directory")


def _guessed(place: location.Local) -> str:
    path = Path(place.path)
    if place.path != location.STDOUT and (path.is_dir() or place.path.endswith("/")):
        return OCI_DIRECTORY
    if path.name.endswith((".oci", ".oci.tar")):
        return OCI_ARCHIVE
    return DOCKER_ARCHIVE


def archive_origins(
    place: location.Local,
    session: Session,
    stack: ExitStack,
    *,
    every: bool,
    referrers: bool,
    tally: Outcomes,
) -> list[ImageOrigin]:
    """The image of an archive that is meant, or *every* one, with *referrers* or not.

    *tally* is called with those that cannot be copied. Raises UsageError, NotFound,
    ArchiveError.
    """
    from ..archive import open_archive
    from ..archive.select import label
    from ..archive.sniff import is_forward
    from ..transfer.archive_source import ArchiveSource

    if is_forward(place.path):
        raise UsageError(
            f"{place.path}: copy cannot read a compressed file or a pipe: unpack it "
            "first, or use push"
        )
    archive = stack.enter_context(open_archive(place.path))
    images = _chosen(archive, place, every=every)
    source = ArchiveSource(archive)
    origins = []
    for image in images:
        if image.problem and every:
            tally.failed(f"{place.path}:{label(image)}", image.problem)
            continue
        plan = source.add(image, session.cancellation)
        for notice in plan.notices:
            session.on_event(notice)
        digest = plan.documents[-1].descriptor.digest
        called = _label(image, digest, place)
        origin = ImageOrigin(source, str(digest), called, image.names, image.tags)
        origins.append(origin)
    if referrers:
        for image in (*archive.images, *archive.referrers()):
            if not image.problem:
                source.add(image, session.cancellation)
    return origins


def _chosen(
    archive: Archive | OpenLayout, place: location.Local, *, every: bool
) -> list[StoredImage]:
    from ..archive.select import describe, select_image

    if every and place.name is not None:
        raise UsageError(f"--all-tags takes every image: leave out {place.name!r:.200}")
    if every:
        return list(archive.images)
    sound = [image for image in archive.images if not image.problem]
    if place.name is None and len(sound) > 1:
        raise UsageError(
            f"{place.path} holds {len(sound)} images, name one, as in "
            f"{location.OCI_PREFIX}DIR:NAME or {DOCKER_ARCHIVE}:FILE:NAME: "
            + describe(sound)
        )
    return [select_image(archive.images, place.name)]


def own_tag(place: location.Local) -> str | None:
    """The first tag of the image that *place* means; None where it says none.

    Raises what `archive_origins` does.
    """
    from ..archive.opened import open_any
    from ..archive.sniff import is_forward

    if is_forward(place.path):
        return None
    archive = open_any(place.path)
    with archive:
        (image,) = _chosen(archive, place, every=False)
    return next(iter(tags_of(image.names, image.tags)), None)


def tags_of(names: Sequence[str], tags: Sequence[str]) -> list[str]:
    """The tags among the *names* and *tags* of an image, each once."""
    found = [loadable.rpartition(":")[2] for loadable in map(_loadable, names)]
    return list(dict.fromkeys([*filter(None, found), *tags]))


def _loadable(name: str) -> str:
    """*name* as docker takes it, with a tag; "" when it has a digest, or is no name."""
    from ..errors import InvalidReference
    from ..reference import Reference

    try:
        reference = Reference.parse(name)
    except InvalidReference:
        return ""
    if reference.digest:
        return str(reference.with_digest(None)) if reference.tag else ""
    return name if reference.tag else f"{name}:latest"


def _label(image: StoredImage, digest: Digest, place: location.Local) -> str:
    return f"{place.path}:{(*image.names, *image.tags, digest)[0]}"


def loadable_origins(
    origins: Sequence[ImageOrigin], into: ImageOutput, session: Session
) -> Sequence[ImageOrigin]:
    """The *origins* that *into* can hold; a warning names each of the others.

    A repository has tags of artifacts, such as signatures, among those of images.
    """
    from ..transfer.archive_target import why_not_loadable

    docker = into.for_docker(chosen=True)
    if docker is None or not docker.required or len(origins) < 2:
        return origins
    kept = []
    for one in origins:
        why = why_not_loadable(one.source, one.source.document(one.reference), docker)
        if why is None:
            kept.append(one)
            continue
        text = f"left out {one.label}: {why}, which docker cannot load"
        session.on_event(Notice(text, warning=True))
    return kept or origins


def copy_to_file(
    origins: Sequence[ImageOrigin],
    into: ImageOutput,
    options: CopyOptions,
    session: Session,
    *,
    recompress: PushOptions | None = None,
) -> list[tuple[ImageOrigin, CopyResult | None]]:
    """Write *origins*, and report what each is then; None if it was before."""
    from ..transfer.plan import Wanted

    named = [(one, _names(one, into, len(origins))) for one in origins]
    _check_apart(named, into)
    with into.opened(options, session, session.on_event) as target:
        skipped = [
            one
            for one, names in named
            if into.no_clobber and any(map(target.digest_of, names))
        ]
        wanted = [
            Wanted(one.source, one.reference, names)
            for one, names in named
            if one not in skipped
        ]
        results = iter(_copied(wanted, target, into, options, recompress))
    return [(one, None if one in skipped else next(results)) for one, _ in named]


def _copied(
    wanted: Sequence[Wanted],
    target: Target,
    into: ImageOutput,
    options: CopyOptions,
    recompress: PushOptions | None,
) -> Sequence[CopyResult]:
    if recompress is None:
        from ..transfer.copy_image import copy_images

        return copy_images(wanted, target, options=options, only=into.only)
    from ..state.known_blobs import KnownBlobs
    from ..transfer.recompress import recompress_images

    target.blobs = KnownBlobs(into.state) if into.state else None
    return recompress_images(
        wanted, target, options=recompress, referrers=options.referrers
    )


def _check_apart(
    named: Sequence[tuple[ImageOrigin, tuple[str, ...]]], into: ImageOutput
) -> None:
    """Raises UsageError when two images would have one name."""
    first: dict[str, ImageOrigin] = {}
    for origin, names in named:
        for name in names:
            other = first.setdefault(name, origin)
            if other.reference != origin.reference:
                raise UsageError(
                    f"{into.place.path} would hold two images called {name}, "
                    f"{other.reference} and {origin.reference}: copy them one by one"
                )


def _names(origin: ImageOrigin, into: ImageOutput, count: int) -> tuple[str, ...]:
    """What *origin* is called where it goes to."""
    name = into.place.name
    if name is not None and count > 1:
        raise UsageError(f"{name!r:.200} names one image, and these are {count}")
    names = origin.names if name is None else (name,)
    if into.form == OCI_DIRECTORY:
        return (
            names or origin.tags or (_own_name(origin, Path(into.place.path), count),)
        )
    loadable = names_in(into, names)
    if name is not None and not loadable:
        raise UsageError(
            f"{name!r:.200}: no name that docker can load: wanted NAME:TAG"
        )
    return loadable


def names_in(into: ImageOutput, names: Sequence[str]) -> tuple[str, ...]:
    """The *names* that its form can hold; docker loads none with a digest."""
    if into.form != DOCKER_ARCHIVE:
        return tuple(names)
    return tuple(filter(None, map(_loadable, names)))


def _own_name(origin: ImageOrigin, path: Path, count: int) -> str:
    """For an image without a name: that of the directory, unless there are several."""
    if count > 1:
        return origin.reference.replace(":", "-")
    return Path(os.path.realpath(path)).name  # which no circle of links ends


def check_sums(*, sums: bool, is_directory: bool) -> None:
    """Raises UsageError for *sums* of anything but a directory."""
    if sums and not is_directory:
        raise UsageError(
            "--sums is for an OCI directory as the destination: leave it out; --split "
            "writes the sums of its volumes by itself"
        )


def volumes_of(path: Path) -> list[Path]:
    """The volumes of the archive *path*, in their order."""
    from ..archive.volumes import find

    found = find(path)
    return [found.volumes[number] for number in sorted(found.volumes)] if found else []


def say_volumes(path: Path) -> None:
    """Say what files an archive in volumes, which was written just now, is in."""
    first, *others = volumes_of(path)
    names = f"{first} to {others[-1].name}" if others else str(first)
    console.say(f"wrote {names} and {path.name}.sha256")


def check_split(place: location.Local, form: str, split: int | None) -> None:
    """Raises UsageError when what is written to *place* cannot be in volumes."""
    if not split:
        return
    if place.path == location.STDOUT or form == OCI_DIRECTORY:
        what = "a directory" if form == OCI_DIRECTORY else "standard output"
        raise UsageError(f"--split is for an archive in a file, not for {what}")
    if not Path(place.path).name.isprintable():
        raise UsageError(
            f"{place.path!r}: --split writes the name into a file of sums: choose one "
            "without control characters"
        )
    if _NUMBERED.fullmatch(Path(place.path).suffix):
        raise UsageError(
            f"{place.path}: --split adds .001 and so on: leave "
            f"{Path(place.path).suffix} out"
        )
