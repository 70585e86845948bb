"""Images of the cache as what is pushed; one that is missing is pulled first."""

from __future__ import annotations

import contextlib
import re
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from ..errors import InvalidReference
from . import output
from .connect import Connections
from .sources import STDIN, PlainSource, Source, open_source

if TYPE_CHECKING:
    from ..reference import Reference

_FILE = re.compile(r"[./~].*|.*\.(tar|oci|zip|t?[gx]z|zst|bz2|tbz2?)", re.DOTALL)


@contextlib.contextmanager
def open_pushed(args: Namespace, connections: Connections) -> Iterator[Source]:
    """What ``push`` is to push: an archive, or an image by its reference.

    A file or directory of that name always comes first. Raises NotFound, ArchiveError,
    and what `pull_image` raises.
    """
    reference = None if args.runtime is not None else image_name(args.source)
    if reference is None:
        cancellation = connections.session.cancellation
        with open_source(args.source, cancellation, runtime=args.runtime) as source:
            yield source
        return
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

    if text == STDIN or _FILE.fullmatch(text) or Path(text).exists():
        return None
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return None
    if reference.tag or reference.digest:
        return reference
    return None if reference.registry == DOCKER_HUB else reference.with_tag("latest")


@contextlib.contextmanager
def _open_cached(
    reference: Reference, args: Namespace, connections: Connections
) -> Iterator[Source]:
    from ..pull import PullSource, cached_image, pull_image
    from ..pull.cached import CachedArchive
    from .options import chosen_platforms
    from .pull import source_of, usable_cache

    platforms = chosen_platforms(args.platform)
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(usable_cache(connections, needed=False))
        pins = stack.enter_context(cache.pins())
        source: PullSource = source_of(reference, connections, cache, pins)
        image = cached_image(source, reference, platforms=platforms)
        if image is None:
            image = pull_image(source, reference, platforms=platforms)
            connections.session.end_progress()
            if not args.quiet:
                size = output.size_text(image.received)
                output.say(f"pulled {reference}: {size} received")
        archive = CachedArchive(cache, image.chosen, str(reference))
        yield PlainSource(archive, as_it_is=True)


def _is_at_target(reference: Reference, args: Namespace) -> bool:
    """True when one registry is both source and target."""
    from ..reference import Place, Reference, split_scheme

    if args.target is not None:
        target = Reference.parse(split_scheme(args.target)[1])
        return target.registry == reference.registry
    return bool(args.registry) and (
        Place.parse(args.registry).registry == reference.registry
    )


def _for_source(args: Namespace) -> Namespace:
    """The same options, but the credentials given are for the target alone."""
    kept = {name: value for name, value in vars(args).items() if name != "username"}
    return Namespace(**kept)
