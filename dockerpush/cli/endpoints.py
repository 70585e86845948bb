"""The sides of a run, and the clients of registries that each side has."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping

from ..settings.keys import PUSHING, flag
from ..values import field, replace, value
from . import console

if TYPE_CHECKING:
    from ..credentials.credential_helpers import CredentialHelpers
    from ..credentials.credential_store import AuthFile, CredentialStore
    from ..credentials.identity import Credentials, CredentialSource
    from ..reference import Reference
    from ..registry.client import RegistryClient
    from ..registry.proxies import ProxySettings
    from ..registry.tls import Trust
    from ..registry.transport import TransportSettings
    from ..settings.config import Config, Settings
    from ..state.directory import StateDirectory
    from ..transfer.registry_target import RegistryTarget
    from ..upload.limits import LearnedLimits
    from .session import Session


@value
class Endpoint:
    """One side of a run: how its registries are reached, and as whom.

    *flags* are the settings of the command line, by the names of `KEYS`. *config* is
    read instead of the state's own file. *credentials* are those of this run; without
    them the stored ones count, and with *anonymous* none.
    """

    flags: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None
    credentials: Credentials | None = None
    anonymous: bool = False

    def without_credentials(self) -> Endpoint:
        """The same for a registry that the credentials of this run are not for."""
        return replace(self, credentials=None)

    def using(self, what: str, used: Collection[str]) -> Endpoint:
        """The same without the settings about bytes that *what* does not use.

        Each that the command line gives is warned of. What the environment and the
        configuration say is for all commands: no warning.
        """
        unused = [name for name in PUSHING if name in self.flags and name not in used]
        for name in unused:
            console.warn(f"{what} does not use {flag(name)}; leave it out")
        kept = {name: text for name, text in self.flags.items() if name not in unused}
        return replace(self, flags=kept)


class Connections:
    """The clients of one side, each made when it is first asked for."""

    def __init__(
        self, endpoint: Endpoint, session: Session, *, writes: bool = True
    ) -> None:
        """What never *writes* asks for tokens that allow no more."""
        from ..settings.config import Config
        from ..state.directory import StateDirectory

        self.endpoint = endpoint
        self.session = session
        self.was_asked = False
        self._writes = writes
        self._stack = ExitStack()
        self.state: StateDirectory = StateDirectory.locate(os.environ, session.on_event)
        self.config: Config = Config.find(endpoint.config, self.state.path)
        self._clients: dict[str, RegistryClient] = {}
        self._limits: dict[str, LearnedLimits] = {}  # for all images of the run
        self._plain: set[str] = set()

    def reading(self, endpoint: Endpoint) -> Connections:
        """Connections to *endpoint* of the same run, whose tokens only read."""
        other = Connections(endpoint, self.session, writes=False)
        other._plain = self._plain
        return other

    def __enter__(self) -> Connections:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def settings(self, registry: str | None = None) -> Settings:
        """What is in force for *registry*."""
        from ..settings.config import resolve

        flags = self.endpoint.flags
        if registry in self._plain:
            flags = {**flags, "plain_http": "true"}
        return resolve(flags, os.environ, self.config, registry)

    def use_plain_http(self, registry: str) -> None:
        """Speak HTTP without TLS to *registry*, whatever else is set."""
        self._plain.add(registry)

    def client(self, registry: str) -> RegistryClient:
        """The client for *registry* (``host[:port]``)."""
        if registry not in self._clients:
            self._clients[registry] = self._new_client(registry)
        return self._clients[registry]

    def has(self, reference: Reference) -> bool:
        """True when the registry has something under *reference*."""
        named = str(reference.digest or reference.tag or "latest")
        client = self.client(reference.registry)
        return client.manifest_descriptor(reference.repository, named) is not None

    @contextmanager
    def target(self, reference: Reference) -> Iterator[RegistryTarget]:
        """Where a push to *reference* goes, for one push."""
        from ..transfer.registry_target import first_limits, open_target

        registry = reference.registry
        settings = self.settings(registry)
        if registry not in self._limits:
            self._limits[registry] = first_limits(registry, settings)
        with open_target(
            self.client(registry),
            reference,
            settings,
            cancellation=self.session.cancellation,
            on_event=self.session.on_event,
            state=self.state,
            limits=self._limits[registry],
        ) as target:
            yield target

    def _new_client(self, registry: str) -> RegistryClient:
        from ..registry.client import PULL, PUSH, RegistryClient
        from ..registry.setup import retry_policy

        settings = self.settings(registry)
        return self._stack.enter_context(
            RegistryClient(
                registry,
                self._transport(registry, settings),
                self.session.cancellation,
                credentials=self.credentials(registry),
                policy=retry_policy(settings),
                on_event=self.session.on_event,
                actions=PUSH if self._writes else PULL,
            )
        )

    def trust(self, registry: str, settings: Settings) -> Trust:
        """Whom to trust on the way to *registry* and where that leads."""
        from ..registry.setup import trust_for

        return trust_for(registry, settings, os.environ, on_event=self.session.on_event)

    def proxies(self, settings: Settings) -> ProxySettings:
        """Which proxies are in force."""
        from ..registry.setup import proxies_for

        return proxies_for(settings, os.environ)

    def _transport(self, registry: str, settings: Settings) -> TransportSettings:
        from ..registry.setup import transport_for

        return transport_for(
            registry,
            settings,
            os.environ,
            on_event=self.session.on_event,
            rate=self.session.rate(settings),
        )

    def credentials(self, registry: str) -> CredentialSource:
        """The credentials of this run, else the stored ones. Raises UsageError."""
        from ..credentials.identity import anonymous
        from ..registry.setup import stored_credentials

        given = self.endpoint.credentials
        if self.endpoint.anonymous:
            return anonymous
        if given is not None:
            return lambda registry, repository: given
        return stored_credentials(
            self.settings(registry),
            os.environ,
            state=self.state.path,
            cancellation=self.session.cancellation,
            on_event=self.session.on_event,
        )

    def use(self, credentials: Credentials) -> None:
        """Continue with *credentials*, which were asked for, and with new clients."""
        self.endpoint = replace(self.endpoint, credentials=credentials)
        self.was_asked = True
        self._stack.close()
        self._clients.clear()

    def credential_store(self, registry: str | None) -> CredentialStore | AuthFile:
        """Where login keeps what is for *registry*: our own file, or --authfile."""
        from ..credentials.credential_store import AuthFile, CredentialStore
        from ..registry.setup import CREDENTIALS_FILE

        authfile = self.settings(registry).authfile
        if authfile is not None:
            return AuthFile(authfile, self._helpers)
        return CredentialStore(self.state.path / CREDENTIALS_FILE)

    @property
    def _helpers(self) -> CredentialHelpers:
        from ..credentials.credential_helpers import CredentialHelpers

        return CredentialHelpers(os.environ, cancellation=self.session.cancellation)
