"""How the calls of a client are made; the endpoints build on this."""

from __future__ import annotations

from typing import Callable, Iterable, TypeVar
from urllib.parse import urlencode

from ..credentials.identity import CredentialSource, anonymous
from ..errors import InvalidReference
from ..events import OnEvent, ignore
from ..expressions import expression
from ..oci import Digest
from ..system.cancellation import Cancellation
from .auth import Challenge
from .connections import Piece
from .http_session import Call, Session
from .retry import RetryPolicy, retrying
from .transport import PIECE, Response, TransportSettings

T = TypeVar("T")

PULL = "pull"
PUSH = "pull,push"
"""What a client may do; tokens are asked for accordingly."""

_REPOSITORY = expression(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG = expression(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class Caller:
    """What all endpoints share: the session, the policy, the names that are checked."""

    def __init__(
        self,
        registry: str,
        settings: TransportSettings,
        cancellation: Cancellation,
        *,
        credentials: CredentialSource = anonymous,
        policy: RetryPolicy | None = None,
        on_event: OnEvent = ignore,
        actions: str = PUSH,
    ) -> None:
        self.registry = registry
        self._cancellation = cancellation
        self._rate = settings.rate
        self._policy = policy or RetryPolicy()
        self._on_event = on_event
        self._actions = actions
        self._session = Session(
            registry, settings, cancellation, credentials=credentials, on_event=on_event
        )

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._session.close()

    @property
    def base(self) -> str:
        """Scheme, host and port in use; plain HTTP may turn out with the first call."""
        return self._session.base

    @property
    def challenge(self) -> Challenge | None:
        """How this registry wants to be told who we are; None: it did not ask yet."""
        return self._session.auth.challenge

    @property
    def piece_size(self) -> int:
        """Bytes that a piece of a body should have at most, so that it flows evenly."""
        return PIECE if self._rate is None else min(PIECE, self._rate.grant)

    def _call(
        self,
        method: str,
        repository: str,
        where: str,
        accept: tuple[int, ...],
        *,
        scopes: tuple[str, ...] = (),
        actions: str = "",
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        stream: Iterable[Piece] | None = None,
        size: int = 0,
    ) -> Call:
        """A call about *repository*; *where* is a URL, or what follows its path."""
        name = checked_repository(repository)
        url = where if "://" in where else f"/v2/{name}/{where}"
        wanted = scopes or (self._scope(name, actions or self._actions),)
        return Call(
            method, url, accept, name, wanted, headers or {}, content, stream, size
        )

    @staticmethod
    def _scope(repository: str | None, actions: str) -> str:
        return f"repository:{repository}:{actions}"

    def _retrying(self, call: Callable[[], T], what: str) -> T:
        return retrying(
            call, self._policy, self._cancellation, on_event=self._on_event, what=what
        )

    def _sent(self, call: Call, what: str) -> Response:
        return self._retrying(lambda: self._session.send(call), what)

    def _done(self, call: Call, what: str) -> None:
        self._sent(call, what).close()


def checked_repository(repository: str) -> str:
    """*repository*, fit for a URL. Raises InvalidReference."""
    if len(repository) > 255 or not _REPOSITORY.fullmatch(repository):
        raise InvalidReference(f"not the name of a repository: {repository[:160]!r}")
    return repository


def checked_reference(reference: str) -> str:
    """*reference*, a tag or a digest, fit for a URL.

    Raises InvalidReference or InvalidDigest.
    """
    if ":" in reference:
        return Digest(reference)
    if not _TAG.fullmatch(reference):
        raise InvalidReference(f"not a tag: {reference[:160]!r}")
    return reference


def query(**parameters: str) -> str:
    """``?name=value&...`` of those that have a value, or ""."""
    given = {name: value for name, value in parameters.items() if value}
    return "?" + urlencode(given) if given else ""
