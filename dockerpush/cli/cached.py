"""Images of the cache as what is pushed; one that is missing is pulled first."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from ..errors import InvalidReference
from . import console, location
from .connect import Connections
from .options import chosen_platforms
from .push_sources import STDIN, CachedImage, Source, open_source
from .transfer_options import SENDING, warn_of_unused

if TYPE_CHECKING:
    from ..reference import Reference


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
    from .pull_to_cache import pulled, usable_cache

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
