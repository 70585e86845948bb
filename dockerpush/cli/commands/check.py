"""``check REGISTRY[/REPOSITORY]``: try, step by step, what a push would need.

It leaves nothing behind: the one upload session that it opens is cancelled.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any, Callable

from ...errors import Cancelled, PusherError
from ...values import field, record
from .. import console
from ..choose_target import registry_of, target_of
from ..endpoints import Connections
from ..side_options import add_registry_options, endpoint

if TYPE_CHECKING:
    from ...reference import Reference
    from ...registry.client import RegistryClient
    from ...registry.locations import Origin
    from ...registry.proxies import Proxy
    from ..session import Session

CONNECT_TIMEOUT = 10.0
"""Seconds that the handshake may take at most."""

OK, FAILED, SKIPPED = "ok", "failed", "not tried"


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``check``."""
    parser.add_argument(
        "target",
        metavar="REGISTRY[/REPO]",
        help="the target of the push; with a registry alone, check tries "
        "only the login",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_registry_options(parser)


def run(args: Namespace, session: Session) -> int:
    """Take every step; the exit code is that of the first failure."""
    with Connections(endpoint(args), session) as connections:
        check = _Check(args.target, connections)
        report = Report()
        _take_steps(report, check)
    session.end_progress()
    if args.json:
        console.json_result({"target": check.name_of_target, **report.record()})
    else:
        console.table([("STEP", "RESULT", "WHAT"), *report.rows()])
    if report.failure is not None:
        raise report.failure
    return console.DONE


@record
class Report:
    """What the steps came to; after a failure those that follow are not tried."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    failure: PusherError | None = None

    def step(
        self, name: str, take: Callable[[], dict[str, Any]], *, always: bool = False
    ) -> None:
        """Take one step; what it returns is ``detail`` and facts for ``--json``.

        Raises Cancelled.
        """
        if self.failure is not None and not always:
            self.skip(name)
            return
        try:
            facts = take()
        except Cancelled:
            raise
        except PusherError as error:
            self.failure = self.failure or error
            text = " ".join(str(error).split())
            self.steps.append({"step": name, "result": FAILED, "detail": text})
        else:
            self.steps.append({"step": name, "result": OK, **facts})

    def skip(self, name: str, why: str = "") -> None:
        """Note a step that is not tried."""
        self.steps.append({"step": name, "result": SKIPPED, "detail": why})

    def rows(self) -> list[tuple[str, str, str]]:
        """For people."""
        return [(one["step"], one["result"], one["detail"]) for one in self.steps]

    def record(self) -> dict[str, Any]:
        """For scripts."""
        return {"ok": self.failure is None, "steps": self.steps}


def _take_steps(report: Report, check: _Check) -> None:
    report.step("proxy", check.proxy)
    report.step("name", check.name)
    report.step("TLS", check.tls)
    report.step("credentials", check.credentials)
    report.step("API", check.api)
    report.step("authentication", check.authentication)
    if check.reference is None:
        for name in ("pull", "push", "chunks"):
            report.skip(name, "no repository was named")
    else:
        report.step("pull", check.pull)
        report.step("push", check.push)
        report.step("chunks", check.chunks)
    report.step("round trip", check.round_trip)


class _Check:
    """The steps, for one repository; each returns its detail and facts."""

    def __init__(self, target: str, connections: Connections) -> None:
        """Raises InvalidReference."""
        from ...registry.http_session import api_host
        from ...registry.locations import UrlParts

        self._connections = connections
        self.reference: Reference | None = None
        if "/" in target.rpartition("://")[2]:
            self.reference = target_of(target, connections)
            self._registry = self.reference.registry
        else:
            self._registry = registry_of(target, connections)
        self._settings = connections.settings(self._registry)
        scheme = "http" if self._settings.plain_http else "https"
        host = api_host(self._registry)
        self._origin: Origin = UrlParts.parse(f"{scheme}://{host}/").origin
        self._proxy: Proxy | None = None
        self._limits: tuple[int | None, int | None] = (None, None)

    @property
    def name_of_target(self) -> str:
        """The repository, or the registry alone."""
        return self.reference.name if self.reference else self._registry

    @property
    def _repository(self) -> str:
        return self.reference.repository if self.reference else ""

    @property
    def _client(self) -> RegistryClient:
        return self._connections.client(self._registry)

    def proxy(self) -> dict[str, Any]:
        """Which one stands between, if any."""
        self._proxy = self._connections.proxies(self._settings).proxy_for(
            f"{self._origin}/"
        )
        if self._proxy is None:
            return {"detail": "none, the registry is reached directly", "proxy": None}
        return {
            "detail": f"{self._proxy.url} (from {self._proxy.source})",
            "proxy": self._proxy.url,
        }

    def name(self) -> dict[str, Any]:
        """What the name resolves to."""
        from ...registry.failures import cannot_resolve
        from ...registry.locations import resolve

        if self._proxy is not None:
            return {"detail": "left to the proxy", "addresses": []}
        try:
            found = resolve(self._origin.host, self._origin.port)
        except (OSError, UnicodeError) as error:
            known = error if isinstance(error, OSError) else OSError(str(error))
            raise cannot_resolve(self._origin.host, known) from error
        addresses = list(dict.fromkeys(address.ip for address in found))
        return {"detail": ", ".join(addresses), "addresses": addresses}

    def tls(self) -> dict[str, Any]:
        """Who says that the server is what it claims to be, and until when."""
        from ...registry.failures import SpeaksPlainHTTP
        from ...registry.locations import is_loopback
        from ...registry.tls import certificate_of

        if self._origin.scheme == "http":
            return {"detail": "none: plain HTTP was asked for", "issuer": None}
        trust = self._connections.trust(self._registry, self._settings)
        try:
            seen = certificate_of(
                self._origin,
                trust.ssl_context(self._origin.host_port),
                self._proxy,
                timeout=min(CONNECT_TIMEOUT, self._settings.timeout),
            )
        except SpeaksPlainHTTP:
            if not (is_loopback(self._origin.host) or not self._settings.tls_verify):
                raise
            return {"detail": "none: the registry speaks plain HTTP", "issuer": None}
        detail = "not verified: --tls-verify=false"
        if seen.issuer:
            detail = f"issued by {seen.issuer}, until {seen.expires} ({seen.days} days)"
        return {
            "detail": f"{seen.protocol}, {detail}",
            "issuer": seen.issuer or None,
            "expires": seen.expires or None,
        }

    def credentials(self) -> dict[str, Any]:
        """Which would be used, never what they are."""
        registry = self._registry
        found = self._connections.credentials(registry)(registry, self._repository)
        if found is None:
            return {"detail": "none found: anonymous", "source": None}
        who = f"{found.username}, " if found.username else ""
        return {"detail": f"{who}from {found.source}", "source": found.source}

    def api(self) -> dict[str, Any]:
        """Whether this is a registry."""
        version = self._client.api_version()
        text = version or "answers on /v2/ without a version"
        return {"detail": text, "version": version or None}

    def authentication(self) -> dict[str, Any]:
        """What the registry asked for so far."""
        challenge = self._client.challenge
        if challenge is None:
            return {"detail": "none was asked for", "scheme": None}
        if challenge.scheme != "bearer":
            return {"detail": "Basic", "scheme": challenge.scheme}
        return {"scheme": "bearer", **self._token_server(challenge.parameters["realm"])}

    def _token_server(self, realm: str) -> dict[str, Any]:
        """Who gives the tokens: a password may go to another host than the registry."""
        from ...registry.locations import UrlParts

        is_foreign = UrlParts.parse(realm).origin.host != self._origin.host
        detail = f"Bearer, tokens from {realm}"
        if is_foreign:
            detail += ", another host than the registry: your password goes there"
        return {"detail": detail, "realm": realm, "foreign": is_foreign}

    def pull(self) -> dict[str, Any]:
        """The right to read, which the check for known blobs needs."""
        tag = (self.reference and self.reference.tag) or "latest"
        found = self._client.manifest_descriptor(self._repository, tag)
        if found is None:
            return {"detail": f"allowed; there is no {tag} yet"}
        return {"detail": f"allowed; {tag} is {found.digest}"}

    def push(self) -> dict[str, Any]:
        """The right to write: opens an upload and cancels it."""
        repository = self._repository
        upload = self._client.start_upload(repository)
        if upload is None:  # only a mount makes none
            return {"detail": "allowed"}
        self._limits = (upload.min_chunk, upload.max_chunk)
        try:
            self._client.cancel_upload(repository, upload)
        except Cancelled:
            raise
        except PusherError:
            return {
                "detail": "allowed; the registry cannot cancel the upload that was "
                "opened, it will expire"
            }
        return {"detail": "allowed; the upload that was opened is cancelled"}

    def chunks(self) -> dict[str, Any]:
        """What the registry says about the size of chunks."""
        lowest, highest = self._limits
        facts = {"min": lowest, "max": highest}
        if lowest is None and highest is None:
            return {"detail": "no limits announced", **facts}
        parts = [
            f"{word} {console.size_text(size)}"
            for word, size in (("at least", lowest), ("at most", highest))
            if size is not None
        ]
        return {"detail": ", ".join(parts), **facts}

    def round_trip(self) -> dict[str, Any]:
        """The time of one small request on an open connection."""
        started = time.monotonic()
        self._client.ping()
        seconds = time.monotonic() - started
        return {"detail": f"{seconds * 1000:.1f} ms", "seconds": round(seconds, 4)}
