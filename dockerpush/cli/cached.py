"""Images of the cache as what is pushed; one that is missing is pulled first.

An image pulled into the cache: by ``pull``, and by ``push`` of a reference.
"""

from __future__ import annotations

import contextlib
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Sequence

from ..errors import InvalidReference, StateError
from . import console, location
from .endpoints import Connections
from .options import SENDING, chosen_platforms, warn_of_unused
from .push_sources import STDIN, CachedImage, Source, open_source

if TYPE_CHECKING:
    from ..reference import Reference
    from ..state.cache import Cache, Pins
    from ..transfer.choices import CopyOptions, PulledImage
    from ..transfer.source import RegistrySource


@contextlib.contextmanager
def usable_cache(connections: Connections, *, needed: bool) -> Iterator[Cache]:
    """The cache; unless it is *needed*, one for this run where it cannot be written."""
    from ..events import Notice
    from ..state.cache import Cache

    cache = Cache(connections.state.path / "cache")
    try:
        with cache.guarded():
            pass
    except StateError as error:
        if needed:
            raise
        connections.session.on_event(Notice(f"{error}; going on without it"))
        with tempfile.TemporaryDirectory(prefix="dockerpush-") as directory:
            yield Cache(Path(directory) / "cache")
        return
    yield cache


def pulled(
    reference: Reference,
    connections: Connections,
    cache: Cache,
    *,
    pins: Pins,
    args: Namespace,
) -> PulledImage:
    """*reference*, which *cache* holds then, as far as *args* want it."""
    from ..transfer.pull import Pull, pull_images

    session = connections.session
    with session.cancellation.child() as cancellation:
        image = pull_images(
            [Pull(registry_source(reference, connections), reference)],
            cache,
            pins,
            options=receiving_options([reference], connections, args),
            cancellation=cancellation,
            on_event=session.on_event,
        )[0]
    session.end_progress()
    return image


def registry_source(reference: Reference, connections: Connections) -> RegistrySource:
    """The repository of *reference*, to be read."""
    from ..transfer.source import RegistrySource

    client = connections.client(reference.registry)
    return RegistrySource(client, reference.repository)


def receiving_options(
    references: Sequence[Reference], connections: Connections, args: Namespace
) -> CopyOptions:
    """What *args* and the settings say."""
    from ..transfer.choices import CopyOptions

    jobs = connections.settings(references[0].registry).jobs
    return CopyOptions(chosen_platforms(args.platform), jobs=jobs)


@contextlib.contextmanager
def open_pushed(
    operand: str, args: Namespace, connections: Connections
) -> Iterator[Source]:
    """What ``push`` is to push: an archive, or an image by its reference.

    A file or directory of that name always comes first. Raises NotFound, ArchiveError,
    and what `pull_image` raises.
    """
    reference = None if args.runtime is not None else image_name(operand)
    if reference is None:
        cancellation = connections.session.cancellation
        with open_source(operand, cancellation, runtime=args.runtime) as source:
            yield source
        return
    warn_of_unused("push of an image by its reference", SENDING, args)
    with contextlib.ExitStack() as stack:
        if _is_at_target(reference, args):
            alone = connections.reading()
        else:
            alone = Connections(_for_source(args), connections.session, writes=False)
        reading = stack.enter_context(alone)
        yield stack.enter_context(_open_cached(reference, args, reading))


def image_name(text: str) -> Reference | None:
    """The image that *text* names; None when it is, or looks like, a file.

    Without a registry, a tag or a digest it is taken for the name of a file.
    """
    from ..reference import DOCKER_HUB, Reference

    name = location.without_scheme(text)
    if name == text and is_file(text):
        return None
    try:
        Reference.parse(name)
    except InvalidReference:
        return None
    reference = location.source(text)
    if reference.tag or reference.digest:
        return reference
    is_clear = name != text or reference.registry != DOCKER_HUB
    return reference.with_tag("latest") if is_clear else None


def is_file(text: str) -> bool:
    """True when *text* names a file or directory, or has the form of a file's name."""
    from ..reference import looks_like_file

    return text == STDIN or looks_like_file(text) or Path(text).exists()


@contextlib.contextmanager
def _open_cached(
    reference: Reference, args: Namespace, connections: Connections
) -> Iterator[Source]:
    from ..transfer.pull import cached_image

    platforms = chosen_platforms(args.platform)
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(usable_cache(connections, needed=False))
        pins = stack.enter_context(cache.pins())
        image = cached_image(cache, pins, reference, platforms)
        if image is None:
            image = pulled(reference, connections, cache, pins=pins, args=args)
            if not args.quiet:
                size = console.size_text(image.received)
                console.say(f"pulled {reference}: {size} received")
        yield CachedImage(cache, image)


def _is_at_target(reference: Reference, args: Namespace) -> bool:
    """True when the source's registry is one that is pushed to."""
    from .choose_target import parse_named

    if args.targets:
        targets = [parse_named(text)[0] for text in args.targets]
        return any(target.registry == reference.registry for target in targets)
    return bool(args.registry) and (
        location.place(args.registry).registry == reference.registry
    )


def _for_source(args: Namespace) -> Namespace:
    """The same options, but the credentials given are for the target alone."""
    kept = {name: value for name, value in vars(args).items() if name != "username"}
    return Namespace(**kept)
