"""What a failed request means for the upload it belongs to; pure.

The table is that of the registries we know: the same status has different meanings in
different places, and the text decides.
"""

from __future__ import annotations

import enum

from ..errors import PusherError, RegistryError, TransientError, Unauthorized
from .limits import Observed, observed_in


class Fault(enum.Enum):
    """What is wrong, and so what may be done about it."""

    BROKEN = "it may pass by itself"
    SESSION_LOST = "the registry does not know the upload session any more"
    LIMIT = "the body has a size that does not pass"
    WRONG_OFFSET = "the registry stands elsewhere than we do"
    TOKEN = "the token has expired on the way"
    REFUSED = "the registry does not take a blob in this way"
    CORRUPTED = "the registry has other bytes than we sent"
    DEFINITE = "nothing that we can do helps"


_DEFINITE_CODES = frozenset(
    {"NAME_UNKNOWN", "NAME_INVALID", "DENIED", "UNAUTHORIZED", "TOOMANYREQUESTS"}
)
_REFUSALS = frozenset({400, 404, 405, 409, 411, 415, 422, 501})


def fault_of(error: PusherError) -> Fault:
    """What *error*, the end of a request of an upload, means."""
    if isinstance(error, TransientError):
        return Fault.BROKEN
    if not isinstance(error, RegistryError):
        return Fault.DEFINITE
    if isinstance(error, Unauthorized):
        return Fault.TOKEN if error.status == 401 else Fault.DEFINITE
    return _fault_of_answer(error)


def _fault_of_answer(error: RegistryError) -> Fault:
    observed = observed_in(error)
    if observed is not None and observed is not Observed.THROTTLED:
        return Fault.LIMIT
    if error.code == "DIGEST_INVALID":
        return Fault.CORRUPTED
    if error.code in _DEFINITE_CODES:
        return Fault.DEFINITE
    if error.status == 416:
        return Fault.WRONG_OFFSET
    if error.status == 404 or error.code.startswith("BLOB_UPLOAD_"):
        return Fault.SESSION_LOST
    return Fault.REFUSED if error.status in _REFUSALS else Fault.DEFINITE
