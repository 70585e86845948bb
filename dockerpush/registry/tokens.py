"""Tokens: what a registry's token server gives for credentials.

(distribution, docs/spec/auth/token.md and oauth.md.) Asked with GET and Basic; with
POST for an identity token, or where GET is not allowed. A redirect of a token server is
never followed: it would take the credentials along.
"""

from __future__ import annotations

import base64
import threading
from typing import Any, Callable
from urllib.parse import urlencode, urljoin

from ..credentials.identity import NO_SECRET, Credentials, Secret
from ..errors import InvalidJSON, NetworkError, RegistryError
from ..expressions import expression
from ..oci import parse_json, require
from ..values import value
from .answers import failure
from .debug import log_request, show_url
from .locations import Place
from .transport import Response, Transport

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


def vetted_realm(realm: str, registry_url: str) -> str:
    """The absolute URL of a token server that the registry at *registry_url* names.

    Raises NetworkError when it is no URL, and when it is plain HTTP although the
    registry is not: the password would go out in the clear. Which addresses it may
    have is seen when it is connected to.
    """
    place = Place.parse(urljoin(registry_url, realm))
    registry = Place.parse(registry_url).origin
    if place.origin.scheme == "http" and registry.scheme == "https":
        raise NetworkError(
            f"{registry.host_port} wants the credentials sent in plain HTTP to "
            f"{place.origin}; refused"
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

        Raises Unauthorized or RegistryError when there is none to be had,
        TransientError, NetworkError or Cancelled.
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
            record = self._record(response, credentials)
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
    ) -> Response:
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
    ) -> Response:
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
    ) -> Response:
        started = self._clock()
        response = self._transport.request(
            method,
            url,
            headers=headers,
            body=None if content is None else [content],
            size=len(content or b""),
        )
        seconds = self._clock() - started
        log_request(method, url, response.status, scopes=scopes, seconds=seconds)
        return response

    def _record(
        self, response: Response, credentials: Credentials | None
    ) -> dict[str, Any]:
        where = show_url(response.url)
        if 300 <= response.status < 400:
            raise NetworkError(
                f"the token server {where} redirects; refused, since credentials "
                "would go along"
            )
        if response.status != 200:
            raise failure(response, advice_for(self._registry, credentials))
        try:
            content = response.read_json("a token", TOKEN_LIMIT)
            record = require(parse_json(content, "token"), dict, "token")
        except InvalidJSON as error:
            raise RegistryError("GET", where, 200, "", str(error)) from error
        return dict(record)


def _token(record: dict[str, Any], started: float, response: Response) -> Token:
    text = record.get("token") or record.get("access_token")
    if not isinstance(text, str) or not _PRINTABLE.fullmatch(text):
        where = show_url(response.url)
        raise RegistryError(response.method, where, 200, "", "the answer has no token")
    lifetime = SHORTEST_LIFE
    try:
        stated = float(record.get("expires_in") or 0)
    except (TypeError, ValueError, OverflowError):
        stated = 0.0
    if stated > lifetime:  # false for NaN
        lifetime = min(stated, LONGEST_LIFE)
    return Token(Secret(text), started + lifetime, lifetime)


def advice_for(registry: str, credentials: Credentials | None) -> str:
    """What to do about a refusal by *registry*, and whose credentials were refused."""
    if credentials is None:
        return (
            f"no credentials were given; run 'dockerpush login {registry}', "
            "or use --username and --password-stdin"
        )
    who = f" of {credentials.username!r}" if credentials.username else ""
    return (
        f"refused with the credentials{who} from {credentials.source}; correct them "
        f"(dockerpush login {registry}), or have them given the right to do this"
    )
