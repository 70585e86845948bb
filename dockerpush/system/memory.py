"""What the process may take of the address space, where that is limited."""

from __future__ import annotations

import contextlib

_M_ARENA_MAX = -8  # mallopt(3), of glibc alone


def share_arenas() -> None:
    """Under ``ulimit -v``, have all threads share one arena of malloc.

    Each would take 64 MiB of the address space for its own: of 160 MiB nothing is left
    for the stack of a third thread then.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import resource  # POSIX

        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            import ctypes  # 5 ms, for the few that need it

            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
