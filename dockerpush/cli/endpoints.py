"""From arguments, environment and files to clients of registries.

Credentials and TLS options without a prefix, and credentials of the environment, are
the destination's alone: they never go to a source. Everything else counts for both.

Credentials that the command line or the environment give for one run.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping

from ..errors import PusherError, UsageError
from . import console
from .options import PUSHING, flag, given

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


_VARIABLES = (
    ("DOCKERPUSH_USERNAME", "DOCKERPUSH_PASSWORD"),
    ("DOCKER_USERNAME", "DOCKER_PASSWORD"),
)


def add_credential_options(
    parser: ArgumentParser, *, passwords_only: bool = False
) -> None:
    """The ways to say who one is; hidden what is none with *passwords_only*."""
    group = parser.add_argument_group(
        "credentials", "without these: what login, docker and podman have stored"
    )
    group.add_argument("-u", "--username", metavar="NAME")
    group.add_argument(
        "-p",
        "--password",
        metavar="PASSWORD",
        help="others can see it in the process list: prefer --password-stdin",
    )
    group.add_argument(
        "--password-stdin",
        "--pass-stdin",
        action="store_true",
        help="read the password from standard input",
    )
    group.add_argument("--password-file", metavar="FILE", help="read it from FILE")
    group.add_argument("--creds", metavar="NAME:PASSWORD", help="both in one")
    token, none = "a bearer token", "use no credentials at all"
    if passwords_only:
        token = none = SUPPRESS
    group.add_argument("--registry-token", metavar="TOKEN", help=token)
    group.add_argument("--no-creds", action="store_true", help=none)


def given_credentials(
    args: Namespace, environ: Mapping[str, str]
) -> Credentials | None:
    """What the options say, else the environment; None when neither does.

    Raises UsageError for half of a pair.
    """
    from ..credentials.identity import Credentials, Secret

    if args.registry_token:
        token = Secret(args.registry_token)
        return Credentials(registry_token=token, source="--registry-token")
    username, password, source = given_pair(args, environ)
    if username is None and password is None:
        return None
    if not username or not password:
        raise UsageError(
            "credentials need both parts: --username with --password-stdin"
        )
    return Credentials(username, Secret(password), source=source)


def given_pair(
    args: Namespace, environ: Mapping[str, str]
) -> tuple[str | None, str | None, str]:
    """Username, password and where they are from; from the options, None for a part
    that is missing, else from the environment, where only both count."""
    username, password = _from_options(args)
    source = "--username"
    if username is None and password is None:
        for source, secret in _VARIABLES:
            if environ.get(source) and environ.get(secret):
                username, password = environ[source], environ[secret]
                break
    for text in (username, password):
        _check_text(text or "", source)
    return username, password, source


def _check_text(text: str, source: str) -> None:
    """Raises UsageError for bytes that the system could only pass on as they were."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the username or the password is not UTF-8 (from {source})"
        ) from error


def _from_options(args: Namespace) -> tuple[str | None, str | None]:
    username, password = args.username, args.password
    if args.creds is not None:
        username, colon, password = args.creds.partition(":")
        password = password if colon else None
    if args.password_stdin and getattr(args, "source", "") == "-":
        raise UsageError(
            "--password-stdin and the source - both want standard input: use "
            "--password-file, or DOCKERPUSH_USERNAME and DOCKERPUSH_PASSWORD"
        )
    if args.password_stdin:
        password = read_password_line()
    if args.password_file is not None:
        password = _read_file(args.password_file)
    if args.password is not None and not args.quiet:
        console.say(
            "note: a password on the command line can be seen in the process list; "
            "--password-stdin avoids that"
        )
    return username, password


def read_password_line() -> str:
    """The password on standard input, without the end of its line.

    Raises UsageError when there is none.
    """
    raw = sys.stdin.buffer.read(64 * 1024)
    try:
        password = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError("--password-stdin: what came is not UTF-8") from error
    if not password:
        raise UsageError("--password-stdin: standard input is empty")
    return password


def _read_file(name: str) -> str:
    try:
        with open(name, encoding="utf-8") as file:  # noqa: PTH123
            return file.read(64 * 1024).rstrip("\r\n")
    except OSError as error:
        raise PusherError(f"--password-file {name}: {error.strerror}") from error
    except ValueError as error:
        raise PusherError(f"--password-file {name}: it is not UTF-8") from error


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
        from ..transfer.push_run import open_target

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


SIDES = {"src": "source", "dest": "destination"}

_TRUST = ("plain_http", "tls_verify", "cacert", "cert", "key", "cert_dir", "authfile")
_SECRETS = {
    "username": {"metavar": "NAME"},
    "password": {"metavar": "PASSWORD", "help": "prefer the ways that hide it"},
    "password_stdin": {"action": "store_true"},
    "password_file": {"metavar": "FILE"},
    "creds": {"metavar": "NAME:PASSWORD"},
    "registry_token": {"metavar": "TOKEN"},
    "no_creds": {"action": "store_true"},
}


def add_side_options(parser: ArgumentParser, used: Collection[str]) -> None:
    """Everything about connections: for both sides, and for each of them."""
    add_transfer_options(parser, used)
    add_credential_options(parser)
    add_connection_options(parser)
    for side, name in SIDES.items():
        group = parser.add_argument_group(
            f"for the {name} alone", "as the options without the prefix"
        )
        for secret, more in _SECRETS.items():
            group.add_argument(flag(f"{side}_{secret}"), **more)  # type: ignore[arg-type]
        for key in _TRUST:
            _add_trust(group, side, key)
        group.add_argument(
            f"--{side}-no-tls-verify",
            dest=f"{side}_tls_verify",
            action="store_const",
            const="false",
        )


def _add_trust(group: Any, side: str, key: str) -> None:
    name = flag(f"{side}_{key}")
    if key == "plain_http":
        group.add_argument(name, action="store_const", const="true")
    else:
        group.add_argument(name, metavar=key.upper().replace("_", "-"))


def warn_of_unused_sides(args: Namespace, *, source: bool, target: bool) -> None:
    """Warn of options for a side that is no registry: *source*, *target* are local."""
    names = (*_SECRETS, *_TRUST)
    for side, is_local in (("src", source), ("dest", target)):
        for name in given([f"{side}_{name}" for name in names] * is_local, args):
            console.warn(
                f"the {SIDES[side]} is local and does not use {flag(name)}; "
                "leave it out"
            )
    for name in given(names if target else (), args):
        advice = "leave it out" if source else f"for the source: {flag(f'src_{name}')}"
        console.warn(
            f"the destination is local and does not use {flag(name)}; {advice}"
        )


def source_connections(args: Namespace, session: Session) -> Connections:
    """Those to sources. Raises UsageError."""
    if args.src_password_stdin and (args.dest_password_stdin or args.password_stdin):
        raise UsageError(
            "standard input holds one password: give the other by --src-password-file"
        )
    return Connections(source_arguments(args), session, writes=False)


def source_arguments(args: Namespace) -> Namespace:
    """*args* as a command with one side has them, for the source.

    Without credentials of its own nothing is in there that could hold any, so that
    neither the options without prefix nor the environment count.
    """
    shared = {
        name: value
        for name, value in vars(args).items()
        if name not in _SECRETS and name not in _TRUST
    }
    trust = {name: getattr(args, f"src_{name}") for name in _TRUST}
    secrets = {name: getattr(args, f"src_{name}") for name in _SECRETS}
    no_creds = secrets.pop("no_creds")
    if not any(secrets.values()):
        secrets.clear()
    return Namespace(**shared, **trust, **secrets, no_creds=no_creds)


def target_arguments(args: Namespace) -> Namespace:
    """*args* as a command with one side has them, for the destination."""
    own = {name: getattr(args, f"dest_{name}") for name in (*_SECRETS, *_TRUST)}
    given = {name: value for name, value in own.items() if value not in (None, False)}
    if given.keys() & _SECRETS.keys():
        given = {**{name: own[name] for name in _SECRETS}, **given}
    return Namespace(**{**vars(args), **given})
