"""From arguments, environment and files to clients of registries."""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentParser, Namespace
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Collection, Iterator

from .given_credentials import given_credentials
from .transfer_options import PUSHING

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
    from ..transfer.registry_target import PushTarget
    from .session import Session

_ALIASES = {
    "jobs": ("-j", "--parallel", "--concurrency"),
    "cacert": ("--ca-file",),
    "cert": ("--cert-file",),
    "key": ("--key-file",),
    "authfile": ("--registry-config", "--compat-auth-file"),
    "retry_times": ("--retry",),
}
_SWITCHES = ("plain_http",)


def add_connection_options(parser: ArgumentParser) -> None:
    """How to reach a registry: one option for each setting that is about that."""
    from ..settings.keys import KEYS

    group = parser.add_argument_group("connection")
    for key in KEYS:
        if key.flag and key.name not in PUSHING:
            _add_setting(group, key)
    group.add_argument(
        "--no-tls-verify",
        "--insecure",
        dest="tls_verify",
        action="store_const",
        const="false",
        help="the same as --tls-verify=false",
    )
    group.add_argument(
        "--config", metavar="FILE", help="configuration instead of the state's own"
    )


def add_transfer_options(parser: ArgumentParser, used: Collection[str]) -> None:
    """How to move bytes: the *used* settings, and hidden what else is still taken."""
    from ..settings.keys import KEYS

    group = parser.add_argument_group("transfer")
    for key in KEYS:
        if key.name in PUSHING:
            _add_setting(group, key, hidden=key.name not in used)


def _add_setting(group: Any, key: Any, *, hidden: bool = False) -> None:
    names = [*_ALIASES.get(key.name, ()), key.flag]
    names.sort(key=lambda name: name.startswith("--"))
    default = key.shown(key.default)
    text = key.help + f" (default: {default})" * bool(default)
    more: dict[str, Any] = {"help": SUPPRESS if hidden else text}
    if key.name in _SWITCHES:
        more.update(action="store_const", const="true")
    else:
        more["metavar"] = key.name.upper().replace("_", "-")
    group.add_argument(*names, dest=key.name, default=None, **more)


class Connections:
    """The clients of one run, each made when it is first asked for."""

    def __init__(
        self,
        args: Namespace,
        session: Session,
        given: Credentials | None = None,
        *,
        writes: bool = True,
    ) -> None:
        """*given* are this run's credentials; None: those in *args*, or stored ones.

        What never *writes* asks for tokens that allow no more.
        """
        from ..settings.config import Config
        from ..state.directory import StateDirectory

        self.session = session
        self.was_asked = False
        self._writes = writes
        self._args = args
        self._stack = ExitStack()
        self.state: StateDirectory = StateDirectory.locate(os.environ, session.on_event)
        named = Path(args.config) if args.config else None
        self.config: Config = Config.find(named, self.state.path)
        self._clients: dict[str, RegistryClient] = {}
        self._plain: set[str] = set()
        if given is None and "username" in args:
            given = given_credentials(args, os.environ)
        self._given = given

    def reading(self) -> Connections:
        """The same with the same credentials, but tokens that only allow reading."""
        other = Connections(self._args, self.session, self._given, writes=False)
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

        flags = vars(self._args)
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

    @contextmanager
    def target(self, reference: Reference) -> Iterator[PushTarget]:
        """Where a push to *reference* goes, for one push."""
        from ..transfer.push_target import open_target

        settings = self.settings(reference.registry)
        with open_target(
            self.client(reference.registry),
            reference,
            settings,
            cancellation=self.session.cancellation,
            on_event=self.session.on_event,
            state=self.state,
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
        """Those of this run, else those that were stored. Raises UsageError."""
        from ..credentials.identity import anonymous
        from ..registry.setup import stored_credentials

        given = self._given
        if self._args.no_creds:
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

    def use(self, given: Credentials) -> None:
        """Go on with these credentials, which were asked for, and with new clients."""
        self._given = given
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
