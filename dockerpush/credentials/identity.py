"""Who we are at a registry, as a value that cannot be printed by accident."""

from __future__ import annotations

import hmac
from typing import Callable, Optional

from ..values import value


class Secret:
    """A text that shows only as ``***``, wherever it is printed, logged or formatted.

    `reveal` is the one way to the text, so that every use can be found.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself; for a header or a form field, never for a message."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return "***"


NO_SECRET = Secret("")
"""The secret that is not there; false."""


@value
class Credentials:
    """What to show to one registry; the fields are those of Docker's config.json.

    *identity_token* is an OAuth2 refresh token, to be exchanged at the token server;
    *registry_token* is a bearer token, sent as it is. *source* says in a few words
    where all this was found, for messages: ``--username``, or a file and its key.
    """

    username: str = ""
    password: Secret = NO_SECRET
    identity_token: Secret = NO_SECRET
    registry_token: Secret = NO_SECRET
    source: str = "the command line"


CredentialSource = Callable[[str, str], Optional[Credentials]]
"""(registry as the user names it, repository) → credentials, None for anonymous.

May raise any PusherError, for example when a credential helper fails.
"""


def anonymous(registry: str, repository: str) -> Credentials | None:
    """The CredentialSource of whoever has none."""
    return None
