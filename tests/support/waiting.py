"""Waiting for something that another thread or process does."""

from __future__ import annotations

import subprocess
import time
from typing import Callable


def wait_for(
    happened: Callable[[], object],
    child: subprocess.Popen[bytes] | None = None,
    seconds: float = 30,
) -> None:
    """Return once *happened* is true; fail when it is not, or when *child* ends."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert child is None or child.poll() is None, child.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
