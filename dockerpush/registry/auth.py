"""Who may do what: challenges, and the authorization that answers them.

Rules: credentials and tokens go to the registry's own origin, and to the token server
that its challenge names, once that was vetted; to nobody else. A token is fetched once
for all threads that wait for it, lives by the monotonic clock, and is refreshed before
a request that would outlive it. The challenge of the latest 401 for a repository counts
for that repository, and the scope that it names is asked for beside our own. A second
401 that says nothing new, to a token that was fetched for this very request, means no.

A token server (distribution, docs/spec/auth/token.md and oauth.md) is asked with GET
and Basic; with POST for an identity token, or where GET is not allowed. Its redirects
are never followed: they would take the credentials along.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from typing import Any, Callable, Iterable, Mapping
from urllib.parse import urlencode

from ..credentials.identity import (
    NO_SECRET,
    Credentials,
    CredentialSource,
    Secret,
)
from ..errors import InvalidJSON, NetworkError, RegistryError
from ..expressions import expression
from ..oci import parse_json, require
from ..strict_json import ANY
from ..values import field, record, value
from .answers import Answer, failure
from .debug import log_request, show_url
from .locations import UrlParts, joined
from .refusals import Asked
from .transport import Transport

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# a quote that is never closed matches as well, so that nothing is read twice
_PARAMETER = expression(
    rf'({_TOKEN})\s*=\s*(?:"([^"\\]*(?:\\.[^"\\]*)*)("|\\?\Z)|([^\s,"]*))',
    re.DOTALL,
)
_SCHEME = expression(rf"({_TOKEN})(?=[\s,]|\Z)")
_BETWEEN = expression(r"[\s,]*")
_NEXT = expression(r"[^,]*")
_ESCAPED = expression(r"\\(.)", re.DOTALL)

MOST_CHALLENGE_BYTES = 16 * 1024
"""Characters of all challenges that are looked at; real ones have a few hundred."""


@value
class Challenge:
    """One way to authenticate that a server offers; *scheme* is lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """The challenges in the lines of a WWW-Authenticate header, in order.

    (RFC 9110, 11.6.1.) Scheme and names come in lower case, the first of two equal
    names counts. What makes no sense is skipped; never raises.
    """
    found: list[Challenge] = []
    left = MOST_CHALLENGE_BYTES
    for line in values:
        left -= len(line)
        if left < 0:
            break
        found += _challenges(line)
    return found


def _challenges(value: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    position = _skip(_BETWEEN, value, 0)
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        scheme = None if parameter else _SCHEME.match(value, position)
        if parameter and found:
            _, quoted, closed, bare = parameter.groups()
            text = bare or ""
            if closed == '"':
                text = _ESCAPED.sub(r"\1", quoted)
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
    """What goes into an Authorization header; *fresh* when it was made just now.

    *key* says which challenge it answers: for a token realm, service and scopes.
    """

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
        self._lock = threading.Lock()  # guards what is below
        self._challenges: dict[str, Challenge] = {}  # by repository
        self._latest: Challenge | None = None
        self._named_scopes: dict[str, tuple[str, ...]] = {}  # by repository
        self._entries: dict[tuple[str, ...], _Entry] = {}
        self._credentials: dict[str, Credentials | None] = {}

    def credentials(self, repository: str) -> Credentials | None:
        """Ours at *repository*; the source is asked once. Raises what it raises."""
        with self._lock:
            if repository not in self._credentials:
                found = self._source(self._registry, repository)
                self._credentials[repository] = found
            return self._credentials[repository]

    def store_challenge(
        self,
        lines: Iterable[str],
        url: str,
        *,
        repository: str = "",
        scopes: Iterable[str] = (),
    ) -> bool:
        """Remember the challenge of a 401 from *url*; False when it has none for us.

        It is that of *repository*, and of all others that have none of their own. A
        scope that it names beside *scopes* is asked for from now on. Raises
        NetworkError when its token server must not be trusted.
        """
        challenge = choose(parse_challenges(lines))
        if challenge is None:
            return False
        if challenge.scheme == "bearer":
            realm = validate_realm(challenge.parameters["realm"], url)
            challenge = Challenge("bearer", {**challenge.parameters, "realm": realm})
        with self._lock:
            self._challenges[repository] = self._latest = challenge
            named = self._named_scopes.get(repository, ())
            words = challenge.parameters.get("scope", "").split()
            new = [one for one in words if not _covered(one, (*scopes, *named))]
            self._named_scopes[repository] = (*named, *new)
        return True

    @property
    def challenge(self) -> Challenge | None:
        """The latest challenge; None when there was none so far."""
        with self._lock:
            return self._latest

    def can_answer(self, repository: str) -> bool:
        """True when `authorization` has something to send to the challenge known."""
        challenge, credentials = self._challenge(repository)
        if challenge is None or challenge.scheme != "basic":
            return challenge is not None
        return basic(credentials) is not None

    def _challenge(
        self, repository: str
    ) -> tuple[Challenge | None, Credentials | None]:
        credentials = self.credentials(repository)
        with self._lock:
            return self._challenges.get(repository, self._latest), credentials

    def authorization(
        self, repository: str, scopes: tuple[str, ...], needed_seconds: float = 0.0
    ) -> Grant | None:
        """What to send for *scopes*, the most wanted first; None for nothing.

        A token will be good for *needed_seconds*, if the server gives such tokens.
        Raises Unauthorized, RegistryError, NetworkError or TransientError when the
        token server of *repository* does not give one, and Cancelled.
        """
        challenge, credentials = self._challenge(repository)
        key = self._key(repository, scopes)
        if credentials is not None and credentials.registry_token:
            text = credentials.registry_token.reveal()
            return Grant(Secret(f"Bearer {text}"), fresh=True, key=key)
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return basic(credentials)
        try:
            return self._bearer(key, credentials, needed_seconds)
        except RegistryError:
            with self._lock:
                is_own = repository in self._challenges
            if is_own:
                raise
            return None  # another repository's token server: what is ours?

    def is_outdated(
        self, grant: Grant, repository: str, scopes: tuple[str, ...]
    ) -> bool:
        """True when another challenge is known by now than the one *grant* answers."""
        return grant.key != self._key(repository, scopes)

    def _key(self, repository: str, scopes: tuple[str, ...]) -> tuple[str, ...]:
        challenge, credentials = self._challenge(repository)
        if credentials is not None and credentials.registry_token:
            return ("registry token",)
        if challenge is None or challenge.scheme == "basic":
            return ("basic",)
        with self._lock:
            named = self._named_scopes.get(repository, ())
        wanted = challenge.parameters
        return (wanted["realm"], wanted.get("service", ""), *scopes, *named)

    def _bearer(
        self,
        key: tuple[str, ...],
        credentials: Credentials | None,
        needed_seconds: float,
    ) -> Grant:
        realm, service, *scopes = key
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
        with entry.lock:
            token, fresh = entry.token, False
            if token is None or not token.lasts(needed_seconds, self._clock()):
                token = self._server.fetch(realm, service, tuple(scopes), credentials)
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
    return Grant(Secret(f"Basic {encoded}"), fresh=True, key=("basic",))


def _covered(scope: str, wanted: Iterable[str]) -> bool:
    """True when *wanted* has what *scope* asks for, or that is no scope of ours.

    ``repository:team/app:pull`` is covered by ``repository:team/app:pull,push``, and
    Gitea's ``*`` asks for nothing.
    """
    name, _, actions = scope.rpartition(":")
    have = {
        action
        for one in wanted
        if one.rpartition(":")[0] == name
        for action in one.rpartition(":")[2].split(",")
    }
    return ":" not in name or have.issuperset(actions.split(","))


SHORTEST_LIFE = 60.0
"""Seconds that a token lives at least, and when the server does not say (token.md)."""
LONGEST_LIFE = 24 * 3600.0
TOKEN_LIMIT = 1024 * 1024
CLIENT_ID = "dockerpush"

_PRINTABLE = expression(r"[\x21-\x7e]+")


@value
class Token:
    """A bearer token; *expires* is a time of the monotonic clock, in seconds."""

    text: Secret
    expires: float
    lifetime: float

    def lasts(self, seconds: float, now: float) -> bool:
        """True when it is good for *seconds* more, or for as long as a new one.

        The last five seconds of its life do not count.
        """
        wanted = min(seconds, 0.8 * self.lifetime)
        return self.expires - now > max(wanted, 5.0)


def validate_realm(realm: str, registry_url: str) -> str:
    """The absolute URL of a token server that the registry at *registry_url* names.

    Raises NetworkError when it is no URL, and when it is plain HTTP although the
    registry is not: the password would go out in the clear. Which addresses it may
    have is seen when it is connected to.
    """
    place = UrlParts.parse(joined(registry_url, realm))
    registry = UrlParts.parse(registry_url).origin
    if place.origin.scheme == "http" and registry.scheme == "https":
        raise NetworkError(
            f"{registry.host_port} names a token server without TLS, {place.origin}: "
            "dockerpush sends no credentials there; report it to its operator"
        )
    return place.url


class TokenServer:
    """Fetches tokens for *registry* (as the user names it) over *transport*."""

    def __init__(
        self, transport: Transport, registry: str, clock: Callable[[], float]
    ) -> None:
        self._transport = transport
        self._registry = registry
        self._clock = clock
        self._lock = threading.Lock()  # guards _refresh
        self._refresh: dict[tuple[str, str], Secret] = {}

    def fetch(
        self,
        realm: str,
        service: str,
        scopes: tuple[str, ...],
        credentials: Credentials | None,
    ) -> Token:
        """A new token, anonymous without *credentials*; one attempt.

        Raises Unauthorized or RegistryError when it gets none, TransientError,
        NetworkError or Cancelled.
        """
        started = self._clock()
        identity = self._identity(realm, credentials)
        fields = [("service", service)] if service else []
        if identity:
            response = self._post(realm, fields, scopes, refresh_token=identity)
        else:
            response = self._get(realm, fields, scopes, credentials)
        if response.status in (404, 405) and credentials is not None:
            response.close()
            if identity:
                response = self._get(realm, fields, scopes, credentials)
            else:
                response = self._post(realm, fields, scopes, credentials=credentials)
        with response:
            record = self._record(response, scopes, credentials)
        self._keep(realm, credentials, record.get("refresh_token"))
        return _token(record, started, response)

    def _identity(self, realm: str, credentials: Credentials | None) -> Secret:
        if credentials is None:
            return NO_SECRET
        with self._lock:
            kept = self._refresh.get((realm, credentials.username))
        return kept or credentials.identity_token

    def _keep(self, realm: str, credentials: Credentials | None, text: Any) -> None:
        if credentials is not None and isinstance(text, str) and text:
            with self._lock:
                self._refresh[realm, credentials.username] = Secret(text)

    def _get(
        self,
        realm: str,
        fields: list[tuple[str, str]],
        scopes: tuple[str, ...],
        credentials: Credentials | None,
    ) -> Answer:
        headers = {"Accept": "application/json"}
        query = list(fields)
        if credentials is not None:
            user = credentials.username or "<token>"
            password = credentials.password or credentials.identity_token
            if credentials.username:
                query.append(("account", credentials.username))
            pair = f"{user}:{password.reveal()}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        query += [("scope", scope) for scope in scopes]
        joint = "&" if "?" in realm else "?"
        url = f"{realm}{joint}{urlencode(query)}" if query else realm
        return self._send("GET", url, headers, scopes)

    def _post(
        self,
        realm: str,
        fields: list[tuple[str, str]],
        scopes: tuple[str, ...],
        *,
        refresh_token: Secret = NO_SECRET,
        credentials: Credentials | None = None,
    ) -> Answer:
        form = [*fields, ("client_id", CLIENT_ID)]
        if scopes:
            form.append(("scope", " ".join(scopes)))
        if credentials is not None:
            form += [
                ("grant_type", "password"),
                ("username", credentials.username),
                ("password", credentials.password.reveal()),
            ]
        else:
            form += [
                ("grant_type", "refresh_token"),
                ("refresh_token", refresh_token.reveal()),
            ]
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        return self._send("POST", realm, headers, scopes, urlencode(form).encode())

    def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        scopes: tuple[str, ...],
        content: bytes | None = None,
    ) -> Answer:
        started = self._clock()
        response = self._transport.request(
            method,
            url,
            headers=headers,
            body=None if content is None else [content],
            size=len(content or b""),
            task=f"cannot get a token for {self._registry}",
        )
        seconds = self._clock() - started
        log_request(method, url, response.status, scopes=scopes, seconds=seconds)
        return response

    def _asked(self, scopes: tuple[str, ...], credentials: Credentials | None) -> Asked:
        """What a token for *scopes* is needed for."""
        repository, _, actions = "".join(scopes[:1]).partition(":")[2].rpartition(":")
        method = "POST" if "push" in actions else "GET"
        sent = credentials is not None
        return Asked(self._registry, method, "", repository, credentials, sent)

    def _record(
        self,
        response: Answer,
        scopes: tuple[str, ...],
        credentials: Credentials | None,
    ) -> dict[str, Any]:
        where = show_url(response.url)
        if 300 <= response.status < 400:
            raise NetworkError(
                f"the token server {where} redirects, and dockerpush sends no "
                "credentials elsewhere; report it to the registry's operator"
            )
        if response.status != 200:
            raise failure(response, self._asked(scopes, credentials))
        try:
            content = response.read_json("a token", TOKEN_LIMIT)
            record = require(parse_json(content, "token", ANY), dict, "token")
        except InvalidJSON as error:
            raise _no_token(response, str(error)) from error
        return dict(record)


def _no_token(response: Answer, why: str) -> RegistryError:
    where = show_url(response.url)
    error = RegistryError(response.method, where, response.status, "", why)
    return error.in_words(
        f"the token server {response.host} sent no token: {why}; report it to the "
        "registry's operator"
    )


def _token(record: dict[str, Any], started: float, response: Answer) -> Token:
    text = record.get("token") or record.get("access_token")
    if not isinstance(text, str) or not _PRINTABLE.fullmatch(text):
        raise _no_token(response, "its answer has none")
    lifetime = SHORTEST_LIFE
    try:
        stated = float(record.get("expires_in") or 0)
    except (TypeError, ValueError, OverflowError):
        stated = 0.0
    if stated > lifetime:  # false for NaN
        lifetime = min(stated, LONGEST_LIFE)
    return Token(Secret(text), started + lifetime, lifetime)
