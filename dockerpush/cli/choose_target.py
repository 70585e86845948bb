"""Where a push goes that names no target, and one push at a time for each target.

A repository that was confirmed before is taken without a question: on a terminal after
a short pause that any key interrupts. A new one is asked for, or refused where nobody
can be asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from ..errors import InvalidReference, PusherError, UsageError
from . import console, location, prompts

if TYPE_CHECKING:
    from ..reference import Reference
    from .connect import Connections
    from .infer import Inference
    from .session import Session

PAUSE = 3.0
"""Seconds before a push goes on to a repository that was confirmed before."""

BEAT = 20.0
"""Seconds between two signs of life that the owner of a target's lock gives."""

SILENCE = 120.0
"""Seconds without one after which a lock is not waited for: a machine that died may
leave it behind on a network file system."""

_STEP = 0.2  # seconds between two looks at a lock
_SWITCHES = (
    "all_tags",
    "dry_run",
    "json",
    "password_stdin",
    "quiet",
    "strict",
    "trust_target",
)
_VALUES = ("runtime", "name", "username", "password_file", "digestfile", "config")


def add_target_options(parser: ArgumentParser) -> None:
    """How far to trust an inferred target, and what to do when it is in use."""
    parser.add_argument("--yes", action="store_true", help="accept an inferred target")
    parser.add_argument(
        "--if-busy",
        choices=("wait", "leave"),
        default="wait",
        help="when another run pushes to the same target: wait for it, or leave with "
        "exit code 1 (default: wait)",
    )


def infer(name: str, args: Namespace, connections: Connections) -> Reference:
    """Where the image called *name* goes; agreed to by somebody, now or before.

    Raises UsageError when there is no way to tell, or nobody to agree.
    """
    from ..state.history import PushHistory
    from .infer import Known, infer_target

    history = PushHistory(connections.state)
    known = Known(history.destinations(), history.logins(), history.is_confirmed)
    inferred = infer_target(name, known, registry=args.registry)
    if args.yes or args.dry_run:
        return _announced(inferred, args)
    if not prompts.is_interactive():
        return _announced(_confirmed(inferred, args), args)
    if inferred.confirmed:
        return _after_a_pause(inferred)
    console.say(f"{name} may go to {inferred.reference}: {inferred.why}")
    return _asked(inferred.reference)


def _announced(inferred: Inference, args: Namespace) -> Reference:
    if not args.quiet:
        console.say(f"pushing to {inferred.reference} ({inferred.why})")
    return inferred.reference


def _confirmed(inferred: Inference, args: Namespace) -> Inference:
    if inferred.confirmed:
        return inferred
    target = inferred.reference
    raise UsageError(
        f"nobody has confirmed a push to {target.name} yet ({inferred.why}): run "
        f"{command_for(target, args)} once, or add --yes"
    )


def _after_a_pause(inferred: Inference) -> Reference:
    text = (
        f"pushing to {inferred.reference} ({inferred.why}) in {PAUSE:g} s; any key to "
        "choose another target "
    )
    if prompts.pause(text, PAUSE):
        return _asked(inferred.reference)
    return inferred.reference


_YES = ("", "y", "yes")
_NO = ("n", "no", "q", "quit")


def _asked(default: Reference) -> Reference:
    """The target that is typed; one that makes no sense is asked for again.

    Raises UsageError for a no.
    """
    while True:
        answer = prompts.ask(f"Push to [{default}]")
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


def parse_named(text: str) -> tuple[Reference, bool]:
    """What ``-t`` gives, *text*, and whether ``http://`` stands before it.

    Raises InvalidReference.
    """
    from ..reference import split_scheme

    scheme, rest = split_scheme(text)
    plain = scheme == "http"
    return location.target(rest if plain else text), plain


def repository(text: str, connections: Connections) -> Reference:
    """What ``-t`` gives, perhaps without a tag; ``http://`` before it means plain HTTP.

    Raises InvalidReference.
    """
    reference, plain = parse_named(text)
    if plain:
        connections.use_plain_http(reference.registry)
    return reference


def named(text: str, connections: Connections) -> Reference:
    """The target that ``-t`` gives, as `repository` does, ``latest`` by default."""
    return with_tag(repository(text, connections))


def registry_of(text: str, connections: Connections) -> str:
    """The ``host[:port]`` that *text* is; ``http://`` before it means plain HTTP.

    Raises InvalidReference.
    """
    from ..credentials.credential_keys import registry_name
    from ..reference import split_scheme

    registry = location.place(registry_name(text)).registry
    if split_scheme(text)[0] == "http":
        connections.use_plain_http(registry)
    return registry


def with_tag(reference: Reference, tag: str | None = "latest") -> Reference:
    """*reference*, under *tag* if it has neither tag nor digest."""
    named = reference.tag or reference.digest
    return reference if named else reference.with_tag(tag)


def command_for(target: Reference, args: Namespace) -> str:
    """This push with an explicit *target*, as a shell takes it; without secrets."""
    import shlex  # hardly any run shows a command

    from ..settings.keys import KEYS, PROXY

    words = [*_program(), "push", args.source, "-t", str(target)]
    for name in _SWITCHES:
        words += [f"--{name}".replace("_", "-")] * bool(getattr(args, name))
    words += [word for text in args.platform for word in ("--platform", text)]
    for name in _VALUES:
        if getattr(args, name, None) is not None:
            words += [f"--{name}".replace("_", "-"), getattr(args, name)]
    for key in KEYS:
        value = getattr(args, key.name, None)
        if key.flag and value is not None and key.kind is not PROXY:
            words.append(key.flag if value == "true" else f"{key.flag}={value}")
    return shlex.join(words)


def _program() -> list[str]:
    """How we were called: the script, or Python with ``-m``."""
    if Path(sys.argv[0]).stem == "dockerpush":
        return [sys.argv[0]]
    return [sys.executable, "-m", "dockerpush"]


@contextlib.contextmanager
def one_at_a_time(
    target: Reference, state: Path, session: Session, *, if_busy: str
) -> Iterator[None]:
    """Hold the lock of *target* for the ``with``, when the state can be written.

    Another run that has it is waited for while it lives, or with *if_busy* ``leave``
    PusherError is raised. Raises Cancelled.
    """
    from ..system.files import try_lock
    from ..system.workers import ticker

    path = _lock_path(target, state)
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = stack.enter_context(try_lock(path))
        except OSError:
            yield  # no state directory, no locks: see the README
            return
        if not free:
            _busy(target, if_busy)
            stack.close()
            free = _wait_for(path, stack, session)
        if free:
            stack.enter_context(ticker(BEAT, partial(_give_sign, path)))
        else:
            console.say(f"the other run gives no sign of life: pushing to {target}")
        yield


def _lock_path(target: Reference, state: Path) -> Path:
    digest = hashlib.sha256(str(target).encode()).hexdigest()
    return state / "locks" / f"{digest[:32]}.lock"


def _busy(target: Reference, if_busy: str) -> None:
    text = f"another run is pushing to {target}"
    if if_busy == "leave":
        raise PusherError(f"{text}: left it alone; --if-busy wait waits for it")
    console.say(f"{text}: waiting for it; --if-busy leave would not")


def _wait_for(path: Path, stack: contextlib.ExitStack, session: Session) -> bool:
    """True once *stack* holds the lock, False when its owner is silent for too long."""
    from ..system.files import try_lock

    sign, since = _last_sign(path), time.monotonic()
    while not stack.enter_context(try_lock(path)):
        stack.close()
        session.cancellation.check()
        if _last_sign(path) != sign:
            sign, since = _last_sign(path), time.monotonic()
        if time.monotonic() - since > SILENCE:
            return False
        time.sleep(_STEP)
    return True


def _give_sign(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


def _last_sign(path: Path) -> float:
    """The time of the lock file; only whether it changes counts, not the clock."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
