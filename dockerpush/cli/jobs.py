"""Which image goes where: the whole list of a run's pushes, before a byte is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterable, Iterator, NamedTuple, Sequence

from ..archive.select import describe, identity, label, select_image
from ..errors import InvalidReference, UsageError
from ..reference import DOCKER_HUB, Place, Reference
from . import console, location
from .cached import is_file, open_pushed
from .choose_target import infer, named, repository
from .options import chosen_platforms
from .push_sources import STDIN, ForwardSource

if TYPE_CHECKING:
    from argparse import Namespace
    from contextlib import ExitStack

    from ..archive import StoredImage
    from .endpoints import Connections
    from .push_sources import Source
    from .report import Tally


class _Named(NamedTuple):
    """An image, one of the names that its archive gives it, and where that one goes."""

    image: StoredImage
    name: str
    target: Reference


class Job(NamedTuple):
    """One push: an image of *operand*, a word of the command line, to one target.

    *image* is None where the source is not looked into before it is pushed. *name* is
    what the archive calls the image.
    """

    operand: str
    source: Source
    image: StoredImage | None
    name: str
    target: Reference


def check_usage(args: Namespace) -> None:
    """Raises UsageError for what cannot go together, before anything is opened."""
    operands = [args.source, *args.more]
    if not all(operands):
        raise UsageError("an archive without a name was given: is a variable empty?")
    if args.more and (STDIN in operands or args.runtime is not None):
        raise UsageError("several sources have to be archives: no -, no --runtime")
    if not (args.registry and _all_images(operands)):
        for operand in args.more:
            _check_archive(operand)
    if args.verify and (STDIN in operands or args.runtime is not None):
        raise UsageError("--verify compares with the archive: a pipe is gone by then")
    if args.targets and args.registry:
        console.warn("push does not use --registry beside -t; leave it out")
    if args.all_tags and args.name:
        raise UsageError("--all-tags takes every image, so --name has no place")
    if args.all_tags and not (args.registry or args.targets):
        raise UsageError("--all-tags needs --registry HOST[/PREFIX] or -t REPOSITORY")


def _all_images(operands: Iterable[str]) -> bool:
    """True when every one of *operands* is an image by its reference."""
    return not any(map(is_file, operands))


def _check_archive(operand: str) -> None:
    """Raises UsageError unless *operand* is, or looks like, an archive."""
    if is_file(operand):
        return
    try:
        location.target(operand)
    except InvalidReference:
        raise UsageError(f"{operand}: no such archive") from None
    raise UsageError(f"{operand} is not an archive: did you mean -t {operand}?")


def all_jobs(
    args: Namespace, connections: Connections, stack: ExitStack, tally: Tally
) -> list[Job]:
    """Which image goes where; every operand is looked at before anything is sent."""
    jobs: list[Job] = []
    for operand in [args.source, *args.more]:
        with tally.attempt(operand):
            source = stack.enter_context(open_pushed(operand, args, connections))
            jobs += _jobs(operand, source, args, connections, tally)
    return _apart(jobs)


def _jobs(
    operand: str,
    source: Source,
    args: Namespace,
    connections: Connections,
    tally: Tally,
) -> list[Job]:
    if args.all_tags:
        return _jobs_of_all(operand, source, args, connections, tally)
    targets = [named(text, connections) for text in args.targets]
    if targets and _is_read_once(source, args):
        return [Job(operand, source, None, "", target) for target in targets]
    if args.runtime is not None and not (args.dry_run or args.name):
        target = infer(operand, args, connections)
        return [Job(operand, source, None, operand, target)]
    image = select_image(source.images, args.name, chosen_platforms(args.platform))
    if not targets:
        if not image.names:
            raise UsageError(
                f"{operand} names no image: name the target with -t "
                "REGISTRY/REPOSITORY:TAG"
            )
        targets = [infer(image.names[0], args, connections)]
    return [Job(operand, source, image, label(image), target) for target in targets]


def _jobs_of_all(
    operand: str,
    source: Source,
    args: Namespace,
    connections: Connections,
    tally: Tally,
) -> list[Job]:
    """One for each name of each image; an image that gets none counts as failed."""
    images = source.images
    if not args.targets:
        found = _below(location.place(args.registry), images)
    else:
        repositories = [repository(text, connections) for text in args.targets]
        found = [one for place in repositories for one in _inside(place, images)]
    for image in _left_out(images, found):
        tally.failed(
            f"{operand}:{label(image)}",
            f"it has no name that a registry takes: push it with --name {label(image)} "
            "and -t REGISTRY/REPOSITORY:TAG",
        )
    return [Job(operand, source, *one) for one in found]


def _is_read_once(source: Source, args: Namespace) -> bool:
    """True when nothing has to be known of the archive before it is pushed."""
    if not isinstance(source, ForwardSource) or args.dry_run:
        return False
    is_pipe = source.is_stream and args.runtime is None
    return is_pipe or not args.name


def _below(place: Place, images: Iterable[StoredImage]) -> list[_Named]:
    """Every image under each of its full names at *place*."""
    return [
        _Named(image, name, place.reference(short_path(parsed), parsed.tag or "latest"))
        for image in images
        for name, parsed in _parsed(image)
    ]


def _inside(repository: Reference, images: Iterable[StoredImage]) -> list[_Named]:
    """Every image in one *repository*, under the tags of its names.

    Raises UsageError when *repository* has a tag itself.
    """
    if repository.tag or repository.digest:
        raise UsageError(
            f"--all-tags takes the tags from the archive: write -t {repository.name}"
        )
    return [
        _Named(image, name, repository.with_tag(tag))
        for image in images
        for name, tag in [
            *((name, parsed.tag or "latest") for name, parsed in _parsed(image)),
            *((tag, tag) for tag in image.tags),
        ]
    ]


def _left_out(
    images: Sequence[StoredImage], found: Sequence[_Named]
) -> list[StoredImage]:
    """Those of *images* that got no target. Raises UsageError when none got one."""
    have = {id(one.image) for one in found}
    rest = [image for image in images if id(image) not in have]
    if not found:
        raise UsageError(
            f"no image of the archive has a name to push it under: {describe(images)}; "
            "name the target with -t REGISTRY/REPOSITORY:TAG, or with --all-tags and "
            "bare tags -t REGISTRY/REPOSITORY"
        )
    return rest


def _apart(jobs: Iterable[Job]) -> list[Job]:
    """*jobs*, each once. Raises UsageError when two images would go to one target."""
    first: dict[Reference, Job] = {}
    for job in jobs:
        other = first.setdefault(job.target, job)
        if other is not job and not _is_same(other, job):
            raise UsageError(
                f"{job.target} would get both {_called(other)} and {_called(job)}; "
                "nothing was pushed: push each with -t, and --name NAME or "
                "--name sha256:..."
            )
    return list(first.values())


def short_path(name: Reference) -> str:
    """The repository of *name* as people write it: ``library/nginx`` is ``nginx``."""
    official = name.registry == DOCKER_HUB and name.repository.startswith("library/")
    return name.repository[len("library/") :] if official else name.repository


def _parsed(image: StoredImage) -> Iterator[tuple[str, Reference]]:
    """The names of *image* that are references; others cannot be pushed under."""
    for name in image.names:
        try:
            yield name, Reference.parse(name)
        except InvalidReference:
            continue


def _is_same(one: Job, other: Job) -> bool:
    if one.image is None or other.image is None:
        return one.source is other.source
    return identity(one.image) == identity(other.image)


def _called(job: Job) -> str:
    if job.image is None:
        return job.operand
    name = job.name or label(job.image)
    return f"{job.operand}:{name} ({identity(job.image)[0]})"
