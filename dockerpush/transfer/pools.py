"""The threads and the temp space of one push, all gone when it ends."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import Iterator

from ..system.cancellation import Cancellation
from ..system.workers import Workers, block_threads
from ..values import value
from .push_options import PushOptions
from .spool import TempSpace, temp_directory


@value
class Pools:
    """*producer* is one thread that reads, *blocks* compress, *uploads* send."""

    space: TempSpace
    blocks: Workers
    uploads: Workers
    producer: Workers


@contextmanager
def open_pools(options: PushOptions, cancellation: Cancellation) -> Iterator[Pools]:
    """Pools for one push; leaving the ``with`` joins every thread, then frees space."""
    directory = options.temp_directory or temp_directory(os.environ)
    with ExitStack() as stack:
        space = stack.enter_context(TempSpace(directory, options.temp_budget))

        def workers(count: int, name: str) -> Workers:
            return stack.enter_context(Workers(cancellation, count, name=name))

        blocks = workers(block_threads(), "block")
        uploads = workers(options.jobs, "upload")
        yield Pools(space, blocks, uploads, workers(1, "producer"))
