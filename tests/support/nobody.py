"""A user who is not root, to whom not everything is permitted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator


@contextlib.contextmanager
def as_nobody(directory: Path) -> Iterator[None]:
    """Not root, to whom everything is permitted, but able to reach *directory*."""
    if os.geteuid():
        yield
        return
    parents = (directory, *directory.parents)
    modes = {path: path.stat().st_mode for path in parents}
    modes = {path: mode for path, mode in modes.items() if not mode & 0o001}
    for path in modes:
        path.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)
