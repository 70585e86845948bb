"""An image pulled into the cache: by ``pull``, and by ``push`` of a reference."""

from __future__ import annotations

import contextlib
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Sequence

from ..errors import StateError
from .connect import Connections
from .options import chosen_platforms

if TYPE_CHECKING:
    from ..reference import Reference
    from ..state.cache import Cache, Pins
    from ..transfer.copy_options import CopyOptions, PulledImage
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
    from ..transfer.copy_options import CopyOptions

    jobs = connections.settings(references[0].registry).jobs
    return CopyOptions(chosen_platforms(args.platform), jobs=jobs)
