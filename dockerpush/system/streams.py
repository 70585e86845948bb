"""What streams share: a ``with`` closes them, and readers can be read."""

from __future__ import annotations

import io
from typing import TypeVar

Closing = TypeVar("Closing", bound="Closeable")


class Closeable:
    """Base of what holds something open: a ``with`` calls `close` at its end."""

    def __enter__(self: Closing) -> Closing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is held."""
        raise NotImplementedError


class RawReader(io.RawIOBase):
    """Base of streams that are read: `readinto` says where the bytes come from."""

    def readable(self) -> bool:
        """Always."""
        return True
