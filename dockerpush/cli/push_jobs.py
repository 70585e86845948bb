"""What one ``push`` is asked for, and the whole list of what goes where.

The list is made before a byte is sent.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterable, Iterator, NamedTuple, Sequence

from ..archive.select import describe, identity, label, select_image
from ..errors import InvalidReference, UsageError
from ..reference import Place, Reference
from ..settings.keys import PUSHING, SENDING
from ..values import value
from . import console, location
from .choose_target import (
    Consent,
    confirm_all,
    infer,
    parse_target_option,
    program,
    repository,
    target_of,
)
from .image_sources import (
    STDIN,
    ForwardSource,
    image_name,
    is_file,
    open_cached,
    open_source,
)
from .location import short_path

if TYPE_CHECKING:
    from contextlib import ExitStack

    from ..archive import StoredImage
    from ..oci import Platform
    from ..settings.config import Settings
    from ..transfer.choices import PushOptions
    from .endpoints import Connections
    from .image_sources import Source
    from .report import Outcomes


@value
class PushRequest:
    """What one ``push`` is asked for; *operands* are what it reads, words of a user.

    *targets* and *registry* say where it goes; without them a guess does, when it is
    *agreed*. *words* are the options to be repeated with an explicit target.
    *digestfile* gets the digests.
    """

    operands: tuple[str, ...]
    targets: tuple[str, ...] = ()
    registry: str | None = None
    runtime: str | None = None
    name: str | None = None
    all_tags: bool = False
    platforms: tuple[Platform, ...] = ()
    strict: bool = False
    trust_target: bool = False
    dry_run: bool = False
    verify: bool = False
    no_clobber: bool = False
    agreed: bool = False
    if_busy: str = "wait"
    digestfile: str | None = None
    recompress: str | None = None
    words: tuple[str, ...] = ()

    def options(self, settings: Settings) -> PushOptions:
        """How to push to a registry with *settings*."""
        from ..transfer.choices import PushOptions

        return PushOptions(
            compress=self.recompress or settings.compress,
            compress_level=settings.compress_level,
            jobs=settings.jobs,
            platforms=self.platforms,
            strict=self.strict,
            trust_target=self.trust_target,
            recompress=self.recompress is not None,
        )

    def remember(self, target: Reference, connections: Connections) -> None:
        """Note *target* for later pushes; of several targets none is the last one."""
        from ..state.history import PushHistory

        history = PushHistory(connections.state)
        if len(self.targets) > 1:
            history.confirm(target, time.time())
        else:
            history.record(target, time.time())

    def consent(self, operand: str) -> Consent:
        """How a guessed target of *operand* is agreed to."""

        def command(target: Reference) -> str:
            import shlex  # hardly any run shows a command

            words = (*program(), "push", operand, "-t", str(target), *self.words)
            return shlex.join(words)

        return Consent(self.agreed, command)


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


def check_usage(request: PushRequest) -> None:
    """Raises UsageError for what cannot go together, before anything is opened."""
    operands = request.operands
    if not all(operands):
        raise UsageError("an archive without a name was given: is a variable empty?")
    if len(operands) > 1 and (STDIN in operands or request.runtime is not None):
        raise UsageError(
            "several sources must all be archives: leave out - and --runtime"
        )
    if not (request.registry and _all_images(operands)):
        for operand in operands[1:]:
            _check_archive(operand)
    if request.verify and (STDIN in operands or request.runtime is not None):
        raise UsageError(
            "--verify reads the archive again, and a pipe can be read only once: "
            "push a file"
        )
    if request.targets and request.registry:
        console.warn("push does not use --registry beside -t; leave it out")
    if request.all_tags and request.name:
        raise UsageError("--all-tags pushes every image: leave out --name")
    if request.all_tags and not (request.registry or request.targets):
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
    request: PushRequest, connections: Connections, stack: ExitStack, tally: Outcomes
) -> list[Job]:
    """Which image goes where; every operand is looked at before anything is sent."""
    jobs: list[Job] = []
    for operand in request.operands:
        with tally.attempt(operand):
            source = stack.enter_context(_open_pushed(operand, request, connections))
            jobs += _jobs(operand, source, request, connections, tally)
    jobs = _without_repeats(jobs)
    if request.all_tags and not request.targets:
        targets = [job.target for job in jobs]
        confirm_all(targets, request.consent(request.operands[0]), connections)
    return jobs


@contextmanager
def _open_pushed(
    operand: str, request: PushRequest, connections: Connections
) -> Iterator[Source]:
    """What is to be pushed: an archive, or an image by its reference.

    A file or directory of that name always comes first. Raises NotFound, ArchiveError,
    and what `open_cached` raises.
    """
    runtime = request.runtime
    reference = None if runtime is not None else image_name(operand)
    if reference is None:
        cancellation = connections.session.cancellation
        with open_source(operand, cancellation, runtime=runtime) as source:
            yield source
        return
    what = "push of an image by its reference"
    used = PUSHING if request.recompress else SENDING
    connections.endpoint = connections.endpoint.using(what, used)
    there = connections.endpoint
    if not _is_at_target(reference, request):
        there = there.without_credentials()
    with (
        connections.reading(there) as reading,
        open_cached(reference, request.platforms, reading) as source,
    ):
        yield source


def _is_at_target(reference: Reference, request: PushRequest) -> bool:
    """True when the source's registry is one that is pushed to."""
    if request.targets:
        targets = [parse_target_option(text)[0] for text in request.targets]
        return any(target.registry == reference.registry for target in targets)
    return bool(request.registry) and (
        location.place(request.registry or "").registry == reference.registry
    )


def _jobs(
    operand: str,
    source: Source,
    request: PushRequest,
    connections: Connections,
    tally: Outcomes,
) -> list[Job]:
    if request.all_tags:
        return _jobs_of_all(operand, source, request, connections, tally)
    targets = [target_of(text, connections) for text in request.targets]
    if targets and _is_read_once(source, request):
        return [Job(operand, source, None, "", target) for target in targets]
    if request.runtime is not None and not (request.dry_run or request.name):
        target = infer(operand, request.registry, request.consent(operand), connections)
        return [Job(operand, source, None, operand, target)]
    image = select_image(source.images, request.name, request.platforms)
    if not targets:
        if not image.names:
            raise UsageError(
                f"{operand} names no image: name the target with -t "
                "REGISTRY/REPOSITORY:TAG"
            )
        consent = request.consent(operand)
        targets = [infer(image.names[0], request.registry, consent, connections)]
    return [Job(operand, source, image, label(image), target) for target in targets]


def _jobs_of_all(
    operand: str,
    source: Source,
    request: PushRequest,
    connections: Connections,
    tally: Outcomes,
) -> list[Job]:
    """One for each name of each image; an image that gets none counts as failed."""
    images = [image for image in source.images if not image.problem]
    for image in source.images:
        if image.problem:
            tally.failed(f"{operand}:{label(image)}", image.problem)
    if not request.targets:
        found = _named_below(location.place(request.registry or ""), images)
    else:
        repositories = [repository(text, connections) for text in request.targets]
        found = [one for place in repositories for one in _named_inside(place, images)]
    for image in _left_out(images, found):
        tally.failed(
            f"{operand}:{label(image)}",
            f"it has no name that a registry takes: push it with --name {label(image)} "
            "and -t REGISTRY/REPOSITORY:TAG",
        )
    return [Job(operand, source, *one) for one in found]


def _is_read_once(source: Source, request: PushRequest) -> bool:
    """True when nothing has to be known of the archive before it is pushed."""
    if not isinstance(source, ForwardSource) or request.dry_run:
        return False
    is_pipe = source.is_stream and request.runtime is None
    return is_pipe or not request.name


def _named_below(place: Place, images: Iterable[StoredImage]) -> list[_Named]:
    """Every image under each of its full names at *place*."""
    return [
        _Named(image, name, place.reference(short_path(parsed), parsed.tag or "latest"))
        for image in images
        for name, parsed in _parsed(image)
    ]


def _named_inside(repository: Reference, images: Iterable[StoredImage]) -> list[_Named]:
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
    """The *images* that got no target. Raises UsageError when none got one."""
    have = {id(one.image) for one in found}
    rest = [image for image in images if id(image) not in have]
    if not found:
        raise UsageError(
            f"no image of the archive has a name to push it under: {describe(images)}; "
            "name the target with -t REGISTRY/REPOSITORY:TAG, or with --all-tags and "
            "bare tags -t REGISTRY/REPOSITORY"
        )
    return rest


def _without_repeats(jobs: Iterable[Job]) -> list[Job]:
    """*jobs*, each once. Raises UsageError when two images would go to one target."""
    first: dict[Reference, Job] = {}
    for job in jobs:
        other = first.setdefault(job.target, job)
        if other is not job and not _is_same(other, job):
            raise UsageError(
                f"{job.target} would get both {_shown(other)} and {_shown(job)}; "
                "nothing was pushed: push each with -t, and --name NAME or "
                "--name sha256:..."
            )
    return list(first.values())


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


def _shown(job: Job) -> str:
    if job.image is None:
        return job.operand
    name = job.name or label(job.image)
    place = job.operand if job.operand == name else f"{job.operand}:{name}"
    return f"{place} ({identity(job.image)[0]})"
