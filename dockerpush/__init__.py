"""Push container images to registries: no daemon, flat memory, resumable.

What is listed in ``__all__`` is the library; see `dockerpush.api`. It is loaded when it
is first asked for, so that importing the package costs nothing.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # that of typing is the same to mypy, and takes 5 ms to load

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from .api import (
        Archive,
        Cancellation,
        CopyOptions,
        CopyResult,
        Platform,
        PulledImage,
        PusherError,
        PushOptions,
        PushResult,
        Reference,
        RegistryClient,
        connect,
        copy,
        open_archive,
        pull,
        push,
    )

else:
    ModuleType = type(sys)

__version__ = "0.1.0"

__all__ = [
    "Archive",
    "Cancellation",
    "CopyOptions",
    "CopyResult",
    "Platform",
    "PulledImage",
    "PushOptions",
    "PushResult",
    "PusherError",
    "Reference",
    "RegistryClient",
    "__version__",
    "connect",
    "copy",
    "open_archive",
    "pull",
    "push",
]


class _Package(ModuleType):
    """This package, in which `push` is the function, not the subpackage."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in __all__ and isinstance(value, ModuleType):
            return  # importing dockerpush.push notes the subpackage here
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
