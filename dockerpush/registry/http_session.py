"""One registry as a place to send calls to: authorization, redirects, warnings.

Rules: an Authorization goes to the registry's own origin alone. Redirects are followed
up to five times as they stand, with the same method and the body once more; 301, 302
and 303 only for GET and HEAD; never from https to http. A loopback registry that does
not answer TLS is asked in plain HTTP from then on.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from typing import Callable, Iterable, Mapping

from ..credentials.identity import CredentialSource
from ..errors import NetworkError
from ..events import Notice, OnEvent
from ..expressions import expression
from ..system.cancellation import Cancellation
from ..values import field, replace, value
from .answers import Answer, failure
from .auth import Authenticator, Grant
from .connections import Piece
from .debug import log_request, one_line, requests_log, show_url
from .failures import SpeaksPlainHTTP
from .locations import Origin, UrlParts, is_loopback, resolve_location, same_origin
from .refusals import Asked
from .transport import Transport, TransportSettings

log = logging.getLogger(__name__)

DOCKER_HUB = ("docker.io", "index.docker.io")
DOCKER_HUB_API = "registry-1.docker.io"
MOVED = frozenset((301, 302, 303, 307, 308))
SAME_METHOD = frozenset((307, 308))
MOST_REDIRECTS = 5
ENDLESS = (
    "too many redirects; check the configuration of the registry, or of the proxy in "
    "front of it"
)
MOST_CHALLENGES = 3
"""Times that one call is sent, each time with an answer to another challenge."""
BODY_NEEDS = 60.0
"""Seconds that a token must be good for, at least, before a body is sent."""
SLOW_LINK = 1024 * 1024.0
"""Bytes a second that a body is expected to go at, at least."""

LONGEST_WARNING = 1024
_WARNING = expression(r'\s*299\s+\S+\s+"((?:[^"\\]|\\.)*)"')

OCTETS = {"Content-Type": "application/octet-stream"}
CATALOG = ("registry:catalog:*",)
"""What a token for the list of all repositories is asked for."""


def scope(repository: str, actions: str) -> str:
    """What a token is asked for (distribution, docs/spec/auth/scope.md)."""
    return f"repository:{repository}:{actions}"


@value
class Call:
    """One request and what is an answer to it.

    *url* is absolute, or a path of the registry; *accept* the statuses that are a
    success. *content* is a small body, *stream* a large one of *size* bytes, which is
    iterated once for each time that it is sent. The answer may take *patience* times
    the time-out.
    """

    method: str
    url: str
    accept: tuple[int, ...]
    repository: str = ""
    scopes: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    stream: Iterable[Piece] | None = None
    size: int = 0
    patience: float = 1.0

    @property
    def has_body(self) -> bool:
        """True when bytes go along."""
        return self.content is not None or self.stream is not None


class HttpSession:
    """Calls to *registry* (``host[:port]``, as the user names it)."""

    def __init__(
        self,
        registry: str,
        settings: TransportSettings,
        cancellation: Cancellation,
        *,
        credentials: CredentialSource,
        on_event: OnEvent,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self._settings = settings
        self._on_event = on_event
        self._clock = clock
        host = api_host(registry)
        scheme = "http" if settings.plain_http else "https"
        self._origin = UrlParts.parse(f"{scheme}://{host}/").origin
        self.transport = Transport(settings, cancellation, host)
        self.auth = Authenticator(registry, credentials, self.transport, clock=clock)
        self._lock = threading.Lock()  # guards _warned
        self._warned: set[str] = set()
        self._asked_root = False
        self.was_reached = False
        """Whether a call was answered; how and by whom we are known is settled then."""

    @property
    def base(self) -> str:
        """Scheme, host and port that the registry is reached at."""
        return str(self._origin)

    def send(self, call: Call) -> Answer:
        """The answer to *call*, one of its accepted statuses, for the caller to close.

        Raises Unauthorized, NotFoundInRegistry or another RegistryError, NetworkError,
        TransientError or Cancelled. Tries once, but for what authorization takes.
        """
        url = self.base + call.url if call.url.startswith("/") else call.url
        response, grant = self._authorized(call, url)
        for _ in range(MOST_REDIRECTS):
            if response.status not in MOVED or response.status in call.accept:
                break
            with response:
                url = self._redirected(call, response)
            response, grant = self._authorized(call, url)
        self.was_reached = self.was_reached or response.status != 401
        if response.status in call.accept:
            self._pass_on_warnings(response)
            return response
        with response:
            advice = ENDLESS if response.status in MOVED else ""
            asked = self._asked(call, response, was_sent=grant is not None)
            raise failure(response, asked, advice)

    def _authorized(self, call: Call, url: str) -> tuple[Answer, Grant | None]:
        """The answer to *call*, and what it was sent with.

        After a refusal the answer to another try, if that may help. A stream is not
        sent again at once: its 401 is final here, but what was learned makes the next
        call with it a better one.
        """
        for attempt in itertools.count(1):
            grant = self._grant(call, url)
            response = self._once(call, url, grant)
            url = response.url
            try:
                again = self._should_retry_auth(call, response, grant)
            except BaseException:
                response.close()
                raise
            if not again or call.stream is not None or attempt == MOST_CHALLENGES:
                return response, grant
            response.close()
        raise AssertionError("unreachable")

    def _grant(self, call: Call, url: str) -> Grant | None:
        if not self._is_registry_origin(url):
            return None
        needed = max(BODY_NEEDS, call.size / SLOW_LINK) if call.has_body else 0.0
        return self.auth.authorization(call.repository, call.scopes, needed)

    def _is_registry_origin(self, url: str) -> bool:
        return same_origin(url, self.base + "/")

    def _should_retry_auth(
        self, call: Call, response: Answer, grant: Grant | None
    ) -> bool:
        """Learn from a refusal; True when there is an authorization that may do.

        403 and 404 may be the answer to strangers, when we sent no credentials.
        """
        if not self._is_registry_origin(response.url):
            return False
        if response.status == 401:
            known = self._store_challenge(call, response)
            if grant is None:
                known = known or self._ask_root(call)
                return known and self.auth.can_answer(call.repository)
            refused = self.auth.refuse(grant)
            return refused or self.auth.is_outdated(grant, call.repository, call.scopes)
        if response.status not in (403, 404) or grant is not None or self._asked_root:
            return False
        if self.auth.credentials(call.repository) is None:
            return False
        return self._ask_root(call) and self.auth.can_answer(call.repository)

    def _store_challenge(self, call: Call, response: Answer) -> bool:
        return self.auth.store_challenge(
            response.header_lines("WWW-Authenticate"),
            response.url,
            repository=call.repository,
            scopes=call.scopes,
        )

    def _ask_root(self, call: Call) -> bool:
        """Ask ``/v2/`` for the challenge that an answer left out (gcr.io)."""
        self._asked_root = True
        url = self.base + "/v2/"
        with self._once(Call("GET", url, (200, 401)), url, None) as response:
            return response.status == 401 and self._store_challenge(call, response)

    def _once(self, call: Call, url: str, grant: Grant | None) -> Answer:
        headers = dict(call.headers)
        if self._is_registry_origin(url):
            headers.update(self._settings.headers)
        if grant is not None:
            headers["Authorization"] = grant.header.reveal()
        body = call.stream if call.content is None else [call.content]
        asked = Asked(self.registry, call.method, call.url, call.repository)
        started = self._clock()
        try:
            response = self.transport.request(
                *(call.method, url),
                headers=headers,
                body=body,
                size=call.size,
                patience=call.patience,
                task=asked.task,
            )
        except SpeaksPlainHTTP as error:
            if not self._falls_back(url):
                raise
            log.debug("%s", error)
            return self._once(call, self.base + UrlParts.parse(url).target, grant)
        except NetworkError as error:
            requests_log.debug("%s %s -> %s", call.method, show_url(url), error)
            raise
        log_request(
            call.method,
            url,
            response.status,
            scopes=call.scopes,
            seconds=self._clock() - started,
        )
        return response

    def _falls_back(self, url: str) -> bool:
        """Turn to plain HTTP for good at a registry on loopback, or an insecure one."""
        origin = UrlParts.parse(url).origin
        home = self._origin
        allowed = self._settings.insecure or is_loopback(origin.host)
        if not allowed or (origin.host, origin.port) != (home.host, home.port):
            return False
        log.info("%s does not use TLS: continuing in plain HTTP", origin.host_port)
        self._origin = Origin("http", origin.host, origin.port)
        return True

    def _redirected(self, call: Call, response: Answer) -> str:
        """Where *response* sends *call*. Raises when it must not go there."""
        location = response.header("Location")
        if not location:
            asked = self._asked(call, response)
            raise failure(response, asked, "a redirect without a Location")
        url = resolve_location(location, response.url)
        requests_log.debug("redirect to %s", show_url(url))
        keeps_method = response.status in SAME_METHOD or call.method in ("GET", "HEAD")
        if keeps_method:
            return url
        place = UrlParts.parse(url).origin
        advice = f"redirects to {place}, where the request would get lost; "
        if place.host == self._origin.host and place.scheme != self._origin.scheme:
            raise NetworkError(f"{self.base} {advice}leave out --plain-http")
        asked = self._asked(call, response)
        raise failure(response, asked, f"{advice}name that registry instead")

    def _pass_on_warnings(self, response: Answer) -> None:
        """Show each ``Warning: 299`` of the registry once (distribution-spec)."""
        for line in response.header_lines("Warning"):
            match = _WARNING.match(line[:LONGEST_WARNING])
            text = one_line(match[1].replace('\\"', '"')) if match else ""
            with self._lock:
                new = bool(text) and text not in self._warned and len(self._warned) < 50
                if new:
                    self._warned.add(text)
            if new:
                self._on_event(Notice(f"{self.registry} warns: {text}"))

    def _asked(self, call: Call, response: Answer, *, was_sent: bool = False) -> Asked:
        """What *call* was for. Credentials, or a token for them, went along or not."""
        asked = Asked(self.registry, call.method, call.url, call.repository)
        if not self._is_registry_origin(response.url):
            return replace(asked, elsewhere=response.host)
        if response.status not in (401, 403, 404):
            return asked
        credentials = self.auth.credentials(call.repository)
        asked = replace(asked, credentials=credentials, was_sent=was_sent)
        if response.status != 404 and any(s.endswith("push") for s in call.scopes):
            return replace(asked, method="POST", path="")  # a look before a push
        return asked

    def close(self) -> None:
        """Close the connections that are not in use."""
        self.transport.close()


def api_host(registry: str) -> str:
    """The host that *registry* is reached at; another one for Docker Hub alone."""
    return DOCKER_HUB_API if registry in DOCKER_HUB else registry
