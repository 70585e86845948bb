"""Who may do what: challenges, and the authorization that answers them.

Rules: credentials and tokens go to the registry's own origin, and to the token server
that its challenge names, once that was vetted; to nobody else. A token is fetched once
for all threads that wait for it, lives by the monotonic clock, and is refreshed before
a request that would outlive it. A second 401 with a token that was fetched for this
very request means no, and is never asked again.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from typing import Callable, Iterable, Mapping

from ..credentials.identity import Credentials, CredentialSource, Secret
from ..expressions import expression
from ..values import field, record, value
from .tokens import Token, TokenServer, vetted_realm
from .transport import Transport

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = expression(
    rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))', re.DOTALL
)
_SCHEME = expression(rf"({_TOKEN})(?=[\s,]|\Z)")
_BETWEEN = expression(r"[\s,]*")
_NEXT = expression(r"[^,]*")
_ESCAPED = expression(r"\\(.)", re.DOTALL)


@value
class Challenge:
    """One way to authenticate that a server offers; *scheme* is lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """The challenges in the lines of a WWW-Authenticate header, in order.

    (RFC 9110, 11.6.1.) Scheme and names come in lower case, the first of two equal
    names counts. What makes no sense is passed over; never raises.
    """
    return [challenge for value in values for challenge in _challenges(value)]


def _challenges(value: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    position = _skip(_BETWEEN, value, 0)
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        scheme = None if parameter else _SCHEME.match(value, position)
        if parameter and found:
            quoted, bare = parameter[2], parameter[3]
            text = bare if quoted is None else _ESCAPED.sub(r"\1", quoted)
            found[-1][1].setdefault(parameter[1].lower(), text)
        elif scheme:
            found.append((scheme[1].lower(), {}))
        match = parameter or scheme
        position = match.end() if match else _skip(_NEXT, value, position)
        position = _skip(_BETWEEN, value, position)
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def _skip(pattern: re.Pattern[str], value: str, position: int) -> int:
    match = pattern.match(value, position)
    return match.end() if match else position


def choose(challenges: Iterable[Challenge]) -> Challenge | None:
    """The one to answer: Bearer with a realm before Basic; None when there is none."""
    known = list(challenges)
    for challenge in known:
        if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
            return challenge
    return next((one for one in known if one.scheme == "basic"), None)


@value
class Grant:
    """What goes into an Authorization header; *fresh* when it was made just now."""

    header: Secret
    fresh: bool
    token: Token | None = None
    key: tuple[str, ...] = ()


@record
class _Entry:
    """The token for one realm, service and list of scopes."""

    lock: threading.Lock = field(default_factory=threading.Lock)  # one fetch at a time
    token: Token | None = None


class Authenticator:
    """The authorization at one registry, *registry* as the user names it."""

    def __init__(
        self,
        registry: str,
        source: CredentialSource,
        transport: Transport,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._source = source
        self._server = TokenServer(transport, registry, clock)
        self._clock = clock
        self._lock = threading.Lock()  # guards the three below
        self._challenge: Challenge | None = None
        self._entries: dict[tuple[str, ...], _Entry] = {}
        self._credentials: dict[str, Credentials | None] = {}

    def credentials(self, repository: str) -> Credentials | None:
        """Ours at *repository*; the source is asked once. Raises what it raises."""
        with self._lock:
            if repository not in self._credentials:
                found = self._source(self._registry, repository)
                self._credentials[repository] = found
            return self._credentials[repository]

    def learn(self, lines: Iterable[str], url: str) -> bool:
        """Remember the challenge of a 401 from *url*; False when it has none for us.

        Raises NetworkError when its token server must not be trusted.
        """
        challenge = choose(parse_challenges(lines))
        if challenge is None:
            return False
        if challenge.scheme == "bearer":
            realm = vetted_realm(challenge.parameters["realm"], url)
            challenge = Challenge("bearer", {**challenge.parameters, "realm": realm})
        with self._lock:
            self._challenge = challenge
        return True

    @property
    def challenge(self) -> Challenge | None:
        """The challenge that was learned; None when there was none so far."""
        with self._lock:
            return self._challenge

    def can_answer(self, repository: str) -> bool:
        """True when `authorization` has something to send to the challenge known."""
        credentials = self.credentials(repository)
        with self._lock:
            challenge = self._challenge
        if challenge is None or challenge.scheme != "basic":
            return challenge is not None
        return basic(credentials) is not None

    def authorization(
        self, repository: str, scopes: tuple[str, ...], needed_seconds: float = 0.0
    ) -> Grant | None:
        """What to send for *scopes*, the most wanted first; None for nothing.

        A token will be good for *needed_seconds*, if the server gives such tokens.
        Raises Unauthorized, RegistryError, NetworkError or TransientError when the
        token server does not give one, and Cancelled.
        """
        credentials = self.credentials(repository)
        if credentials is not None and credentials.registry_token:
            text = credentials.registry_token.reveal()
            return Grant(Secret(f"Bearer {text}"), fresh=True)
        with self._lock:
            challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return basic(credentials)
        return self._bearer(challenge, scopes, credentials, needed_seconds)

    def _bearer(
        self,
        challenge: Challenge,
        scopes: tuple[str, ...],
        credentials: Credentials | None,
        needed_seconds: float,
    ) -> Grant:
        realm = challenge.parameters["realm"]
        service = challenge.parameters.get("service", "")
        key = (realm, service, *scopes)
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
        with entry.lock:
            token, fresh = entry.token, False
            if token is None or not token.lasts(needed_seconds, self._clock()):
                token = self._server.fetch(realm, service, scopes, credentials)
                entry.token, fresh = token, True
        header = Secret(f"Bearer {token.text.reveal()}")
        return Grant(header, fresh=fresh, token=token, key=key)

    def refuse(self, grant: Grant) -> bool:
        """Take note that *grant* got a 401; True when a new one may do better."""
        if grant.fresh or grant.token is None:
            return False
        with self._lock:
            entry = self._entries[grant.key]
        with entry.lock:
            if entry.token is grant.token:
                entry.token = None
        return True


def basic(credentials: Credentials | None) -> Grant | None:
    """Username and password as RFC 7617 has them; None when there are none."""
    if credentials is None or not credentials.username:
        return None
    pair = f"{credentials.username}:{credentials.password.reveal()}"
    encoded = base64.b64encode(pair.encode()).decode()
    return Grant(Secret(f"Basic {encoded}"), fresh=True)
