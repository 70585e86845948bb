"""From settings and an environment to what a client needs: trust, proxies, users."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Mapping

from .. import __version__
from ..credentials.credential_files import CredentialFiles, CredentialPlaces
from ..credentials.credential_helpers import CredentialHelpers
from ..credentials.identity import CredentialSource
from ..events import OnEvent
from ..settings.config import Settings
from ..system.cancellation import Cancellation
from ..system.files import home_directory, user_id
from ..system.rate import RateLimiter
from .http_session import api_host
from .proxies import ProxySettings
from .retry import RetryPolicy
from .transport import TransportSettings

if TYPE_CHECKING:
    import ssl

    from .tls import Trust

log = logging.getLogger(__name__)

CREDENTIALS_FILE = "credentials.json"
"""Where ``login`` keeps what it was told, in the state directory."""


def retry_policy(settings: Settings) -> RetryPolicy:
    """How often a request is tried, and how long between."""
    return RetryPolicy(
        attempts=settings.retry_times + 1,
        base=settings.retry_delay,
        patience=settings.patience,
    )


def trust_for(
    registry: str, settings: Settings, environ: Mapping[str, str], *, on_event: OnEvent
) -> Trust:
    """Whom to trust on the way to *registry* and where that leads."""
    from .tls import Trust, TrustPlaces, TrustSettings  # plain HTTP needs none of it

    own = TrustSettings(
        settings.cacert,
        settings.cert,
        settings.key,
        settings.cert_dir,
        settings.tls_verify,
    )
    return Trust(
        {registry: own, api_host(registry): own},
        own.for_other_hosts(),
        TrustPlaces.from_environ(environ, home_directory(environ)),
        on_event=on_event,
    )


def proxies_for(settings: Settings, environ: Mapping[str, str]) -> ProxySettings:
    """Which proxies are in force."""
    return ProxySettings.from_environ(environ, settings.proxy, settings.no_proxy)


def transport_for(
    registry: str,
    settings: Settings,
    environ: Mapping[str, str],
    *,
    on_event: OnEvent,
    rate: RateLimiter | None = None,
) -> TransportSettings:
    """How to reach *registry*; the limit *rate* is shared with other transports."""
    proxies = proxies_for(settings, environ)
    for note in proxies.notes:
        log.debug("%s", note)

    def ssl_context(host: str) -> ssl.SSLContext:
        trust = trust_for(registry, settings, environ, on_event=on_event)
        return trust.ssl_context(host)

    return TransportSettings(
        plain_http=settings.plain_http,
        insecure=not settings.tls_verify,
        timeout=settings.timeout,
        jobs=settings.jobs,
        user_agent=f"dockerpush/{__version__}",
        ssl_context=ssl_context,
        proxy_for=proxies.address_for,
        rate=rate,
        min_rate=min(settings.min_rate, settings.limit_rate or settings.min_rate),
        allow_private_redirects=settings.allow_private_redirects,
    )


def stored_credentials(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    state: Path,
    cancellation: Cancellation,
    on_event: OnEvent,
) -> CredentialSource:
    """What ``login`` (in the directory *state*), docker and podman have stored."""
    places = CredentialPlaces.from_environ(
        environ,
        home=home_directory(environ),
        uid=user_id(),
        own=state / CREDENTIALS_FILE,
        authfile=settings.authfile,
    )
    helpers = CredentialHelpers(environ, cancellation=cancellation)
    return CredentialFiles(places, helpers, on_event=on_event)
