"""What is closed at the end of a ``with``."""

from __future__ import annotations

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
