"""Looks that only save work: whether something is there, where not knowing is no harm.

A registry that answers a look by a refusal gives no information: the work is done as if
nothing were there, and its own answer counts. Where the look is the work (may this tag
be replaced?), the registry is asked without these.
"""

from __future__ import annotations

from typing import Callable, TypeVar

from ..errors import ContentMismatch, InvalidDigest, InvalidJSON, RegistryError
from .debug import requests_log

T = TypeVar("T")

_TELLS_NOTHING = (RegistryError, InvalidJSON, InvalidDigest, ContentMismatch)


def unless_refused(look: Callable[[], T]) -> T | None:
    """What *look* finds; None when the registry refuses it, or answers nonsense.

    401 is no such refusal: nothing else will work either. Raises that, NetworkError
    when the attempts for a failure that may pass are used up, and Cancelled.
    """
    try:
        return look()
    except _TELLS_NOTHING as error:
        if isinstance(error, RegistryError) and error.status == 401:
            raise
        requests_log.info("a look-up failed: %s", error)
        return None
