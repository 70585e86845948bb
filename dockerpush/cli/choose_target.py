"""Where a push without ``-t`` goes, and one push at a time for each target.

The target is a place and a name. The place is ``HOST[/PREFIX]``: what ``--registry``
says; else the more recent of the last login (HOST) and the last confirmed push (its
repository without the last part); else the registry in the image's own name. Below a
HOST the image keeps the path of its name, below a PREFIX only the last part. A
repository that was pushed to before, and ends in the image's name, comes before the
newest PREFIX.

A repository that was confirmed before is used without a question: on a terminal after
a short pause that any key interrupts. A new one needs a yes, and is refused where
nobody can be asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterable, Iterator, Sequence

from ..errors import InvalidReference, PusherError, UsageError
from ..reference import DOCKER_HUB, Place, Reference, without_docker
from ..state.history import Destination, Login
from ..values import value
from . import console, location

if TYPE_CHECKING:
    from ..reference import Reference
    from .endpoints import Connections
    from .session import Session


_OFFICIAL = "library/"
_HUB_PREFIXES = ("docker.io/", "index.docker.io/")
_LOCAL = "localhost"
"""What podman and buildah put before names that have no registry. One that listens on
port 80 or 443 of this machine needs ``-t``."""


@value
class Known:
    """What earlier commands left behind. *destinations* are newest first."""

    destinations: Sequence[Destination] = ()
    logins: Sequence[Login] = ()
    is_confirmed: Callable[[Reference], bool] = lambda target: False


@value
class Inference:
    """Where to push, and *why* there, as a phrase.

    *confirmed* is true when somebody agreed to this repository before, with any tag.
    """

    reference: Reference
    confirmed: bool
    why: str


def infer_target(
    repo_tag: str, known: Known, *, registry: str | None = None
) -> Inference:
    """Where the image called *repo_tag* goes; *registry* is ``HOST[/PREFIX]``.

    Raises UsageError, which says how to name a target, when there is no way to know,
    and InvalidReference for a *registry* that cannot be.
    """
    name = _ImageName.parse(repo_tag)
    if registry is not None:
        target, why = name.below(Place.parse(without_docker(registry))), "--registry"
    else:
        target, why = _from_events(name, known)
    return Inference(target, known.is_confirmed(target), why)


@value
class _ImageName:
    """The parts of an image's own name; *registry* is None unless it stands there."""

    text: str
    registry: str | None
    path: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> _ImageName:
        try:
            reference = Reference.parse(text)
        except InvalidReference as error:
            raise UsageError(f"{error}; name the target with -t") from error
        if reference.tag is None and reference.digest is not None:
            raise UsageError(f"{text!r} has no tag: name the target with -t")
        is_named = reference.registry != DOCKER_HUB or text.startswith(_HUB_PREFIXES)
        is_named = is_named and reference.registry != _LOCAL
        path = reference.repository
        if reference.registry == DOCKER_HUB and path.count("/") == 1:
            path = path[len(_OFFICIAL) :] if path.startswith(_OFFICIAL) else path
        registry = reference.registry if is_named else None
        return cls(text, registry, path, reference.tag or "latest")

    @property
    def last(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def below(self, place: Place) -> Reference:
        """This image at *place*."""
        return place.reference(self.last if place.prefix else self.path, self.tag)


def _from_events(name: _ImageName, known: Known) -> tuple[Reference, str]:
    push = known.destinations[0] if known.destinations else None
    login = max(known.logins, key=lambda login: login.time, default=None)
    if login is not None and (push is None or login.time > push.time):
        return _after_login(name, login, known.destinations)
    if push is not None:
        same = _same_name(name, known.destinations)
        if same is not None:
            return same, "pushed there before"
        place = Place.of(push.target)
        return name.below(place), "the registry of your last push"
    if name.registry is not None:
        return name.below(Place(name.registry)), "the registry in the image's name"
    raise UsageError(
        f"no target for {name.text!r}: name it with -t REGISTRY/REPOSITORY:TAG, or "
        "with --registry HOST[/PREFIX], or log in there first"
    )


def _after_login(
    name: _ImageName, login: Login, destinations: Iterable[Destination]
) -> tuple[Reference, str]:
    """A login newer than every push says which registry, not where in it."""
    there = [item for item in destinations if item.target.registry == login.registry]
    same = _same_name(name, there)
    if same is not None:
        return same, "pushed there before"
    place = Place(login.registry)
    if login.registry == DOCKER_HUB and login.username and "/" not in name.path:
        with contextlib.suppress(InvalidReference):  # a user whose name is no path
            place = Place(DOCKER_HUB, login.username)
    return name.below(place), "the registry of your last login"


def _same_name(
    name: _ImageName, destinations: Iterable[Destination]
) -> Reference | None:
    """The newest repository that ends in the whole path, else in its last part."""
    repositories = [item.target for item in destinations]
    for ending in (name.path, name.last):
        for target in repositories:
            if f"/{target.repository}".endswith(f"/{ending}"):
                return Reference(target.registry, target.repository, name.tag)
    return None


PAUSE = 3.0
"""Seconds before a push goes to a repository that was confirmed before."""

HEARTBEAT_INTERVAL = 20.0
"""Seconds between two signs of life that the owner of a target's lock gives."""

HEARTBEAT_TIMEOUT = 120.0
"""Seconds without one after which a lock is not waited for: a machine that died may
leave it behind on a network file system."""

_STEP = 0.2  # seconds between two looks at a lock


@value
class Consent:
    """How a target that nobody named is agreed to.

    *given* says that the command line agrees. *command* gives the command that names a
    target, for a message.
    """

    given: bool
    command: Callable[[Reference], str]


def infer(
    name: str, registry: str | None, consent: Consent, connections: Connections
) -> Reference:
    """Where the image called *name* goes; agreed to by somebody, now or before.

    *registry* is ``HOST[/PREFIX]``, None where the command line names none. Raises
    UsageError when there is no way to know, or nobody to agree.
    """
    from ..state.history import PushHistory

    history = PushHistory(connections.state)
    known = Known(history.destinations(), history.logins(), history.is_confirmed)
    inferred = infer_target(name, known, registry=registry)
    quiet = connections.session.display.quiet
    if consent.given:
        return _announced(inferred, quiet=quiet)
    if not console.is_interactive():
        return _announced(_confirmed(inferred, consent), quiet=quiet)
    if inferred.confirmed:
        target = _after_a_pause(inferred)
    else:
        console.say(
            f"no target given for {name}; suggested: {inferred.reference} "
            f"({inferred.why})"
        )
        target = _asked(inferred.reference)
    connections.session.resume_with(consent.command(target))
    return target


def confirm_all(
    targets: Iterable[Reference], consent: Consent, connections: Connections
) -> None:
    """Return when somebody agreed to every one of *targets*, now or before.

    Raises UsageError otherwise.
    """
    from ..state.history import PushHistory

    history = PushHistory(connections.state)
    new = dict.fromkeys(one.name for one in targets if not history.is_confirmed(one))
    if consent.given or not new:
        return
    names = ", ".join(new)
    if not console.is_interactive():
        raise UsageError(f"no push to {names} was confirmed yet; add --yes")
    if not console.confirm(f"Push to {names}?"):
        raise UsageError(f"not pushed to {names}")


def _announced(inferred: Inference, *, quiet: bool) -> Reference:
    if not quiet:
        console.say(f"pushing to {inferred.reference} ({inferred.why})")
    return inferred.reference


def _confirmed(inferred: Inference, consent: Consent) -> Inference:
    if inferred.confirmed:
        return inferred
    target = inferred.reference
    raise UsageError(
        f"no push to {target.name} was confirmed yet ({inferred.why}): run "
        f"{consent.command(target)} once, or add --yes"
    )


def _after_a_pause(inferred: Inference) -> Reference:
    text = (
        f"pushing to {inferred.reference} ({inferred.why}) in {PAUSE:g} s; any key to "
        "choose another target "
    )
    if console.pause(text, PAUSE):
        return _asked(inferred.reference)
    return inferred.reference


_YES = ("", "y", "yes")
_NO = ("n", "no", "q", "quit")


def _asked(default: Reference) -> Reference:
    """The target that is typed; one that makes no sense is asked for again.

    Raises UsageError for a no.
    """
    while True:
        answer = console.ask(f"Push to [{default}]")
        if answer.lower() in _YES:
            return default
        if answer.lower() in _NO:
            raise UsageError(f"not pushed to {default}; name the target with -t")
        try:
            return with_tag(_answered(answer, default.registry), default.tag)
        except InvalidReference as error:
            console.say(str(error))


def _answered(answer: str, registry: str) -> Reference:
    """What *answer* names; without a registry of its own, at *registry*."""
    from ..reference import has_registry, parse_source, parse_target

    if has_registry(answer):
        return parse_target(answer)
    parse_source(answer)  # a registry without a repository, or a file, is neither
    return parse_target(f"{registry}/{answer}")


def parse_target_option(text: str) -> tuple[Reference, bool]:
    """What ``-t`` gives, *text*, and whether ``http://`` stands before it.

    ``https://`` changes nothing.

    Raises InvalidReference.
    """
    from ..reference import split_scheme

    scheme, rest = split_scheme(text)
    to_file = "to write a file: dockerpush copy SRC FILE"
    found = location.target(rest if scheme else text, if_file=to_file)
    return found, scheme == "http"


def repository(text: str, connections: Connections) -> Reference:
    """What ``-t`` gives, perhaps without a tag; ``http://`` before it means plain HTTP.

    Raises InvalidReference.
    """
    reference, plain = parse_target_option(text)
    if plain:
        connections.use_plain_http(reference.registry)
    return reference


def target_of(text: str, connections: Connections) -> Reference:
    """The target that ``-t`` gives, as `repository` does, ``latest`` by default."""
    return with_tag(repository(text, connections))


def registry_of(text: str, connections: Connections) -> str:
    """The ``host[:port]`` that *text* is; ``http://`` before it means plain HTTP.

    Raises InvalidReference.
    """
    from ..credentials.credential_store import registry_name
    from ..reference import split_scheme

    text = without_docker(text)
    registry = location.place(registry_name(text)).registry
    if split_scheme(text)[0] == "http":
        connections.use_plain_http(registry)
    return registry


def with_tag(reference: Reference, tag: str | None = "latest") -> Reference:
    """*reference*, under *tag* if it has neither tag nor digest."""
    named = reference.tag or reference.digest
    return reference if named else reference.with_tag(tag)


def program() -> list[str]:
    """How we were called: the script, or Python with ``-m``."""
    if Path(sys.argv[0]).stem == "dockerpush":
        return [sys.argv[0]]
    return [sys.executable, "-m", "dockerpush"]


@contextlib.contextmanager
def target_lock(
    target: Reference, state: Path, session: Session, *, if_busy: str
) -> Iterator[None]:
    """Hold the lock of *target* for the ``with``, when the state can be written.

    Another run that has it is waited for while it lives, or with *if_busy* ``leave``
    PusherError is raised. Raises Cancelled.
    """
    from ..system.files import make_directories, try_lock
    from ..system.workers import ticker

    path = _lock_path(target, state)
    with contextlib.ExitStack() as stack:
        try:
            make_directories(path.parent)
            free = stack.enter_context(try_lock(path))
        except OSError:
            yield  # no state directory, no locks: see the README
            return
        if not free:
            _busy(target, if_busy)
            stack.close()
            free = _wait_for(path, stack, session)
        if free:
            stack.enter_context(ticker(HEARTBEAT_INTERVAL, partial(_show_life, path)))
        else:
            console.say(f"the other run gives no sign of life: pushing to {target}")
        yield


def _lock_path(target: Reference, state: Path) -> Path:
    digest = hashlib.sha256(str(target).encode()).hexdigest()
    return state / "locks" / f"{digest[:32]}.lock"


def _busy(target: Reference, if_busy: str) -> None:
    text = f"another run is pushing to {target}"
    if if_busy == "leave":
        raise PusherError(f"{text}: nothing was sent; to wait for it: --if-busy wait")
    console.say(f"{text}: waiting for it; to leave instead: --if-busy leave")


def _wait_for(path: Path, stack: contextlib.ExitStack, session: Session) -> bool:
    """True once *stack* holds the lock, False when its owner is silent for too long."""
    from ..system.files import try_lock

    sign, since = _last_sign(path), time.monotonic()
    while not stack.enter_context(try_lock(path)):
        stack.close()
        session.cancellation.check()
        if _last_sign(path) != sign:
            sign, since = _last_sign(path), time.monotonic()
        if time.monotonic() - since > HEARTBEAT_TIMEOUT:
            return False
        time.sleep(_STEP)
    return True


def _show_life(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


def _last_sign(path: Path) -> float:
    """The time of the lock file; only whether it changes counts, not the clock."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
