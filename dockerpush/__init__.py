"""Push container images to registries: no daemon, flat memory, resumable.

What is listed in ``__all__`` is the library; see `dockerpush.api`. It is loaded when it
is first asked for, so that importing the package costs nothing.
"""

# Nothing is imported here, not even __future__: of python -m, the current directory
# could hold a file of that name.
TYPE_CHECKING = False  # that of typing is the same to mypy

if TYPE_CHECKING:
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


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
