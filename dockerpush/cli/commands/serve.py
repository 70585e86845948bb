"""``serve``: the embedded registry, on a directory and on archives as they are."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, NamedTuple, Sequence

from ...errors import PusherError, UsageError
from ...settings.quantities import parse_size
from ...values import replace
from .. import console, location
from ..options import OPERANDS, RARE, add_volumes_option
from ..side_options import read_password_line

if TYPE_CHECKING:
    from ...archive import Archive, StoredImage
    from ...oci import Digest
    from ...reference import Reference
    from ...server import ReadOnlySource, RegistryServer
    from ...server.records import AccessLog
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``serve``."""
    parser.add_argument(
        "archives",
        metavar="ARCHIVE",
        nargs="*",
        help="archives and OCI directories to serve as they are, under their names",
    )
    parser.set_defaults(**{OPERANDS: "archives"})
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help="where pushed images are kept (default: registry in the state directory)",
    )
    parser.add_argument(
        "--addr",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        metavar="PORT",
        type=_port,
        default=5000,
        help="port to listen on, 0 for a free one (default: 5000)",
    )
    parser.add_argument(
        "--read-only", "--store-ro", action="store_true", help="refuse every change"
    )
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="accept manifests before their layers or platforms",
    )
    _add_user_options(parser)
    _add_web_options(parser)
    _add_disk_options(parser)
    add_volumes_option(parser.add_argument_group(RARE))


def _add_web_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("TLS, browsers and logs")
    group.add_argument(
        "--tls-cert", metavar="FILE", help="PEM certificate, for HTTPS; SIGHUP reloads"
    )
    group.add_argument("--tls-key", metavar="FILE", help="PEM key of the certificate")
    group.add_argument(
        "--host",
        metavar="NAME",
        action="append",
        default=[],
        help="a further name under which browsers reach it (may be repeated)",
    )
    group.add_argument("--no-ui", action="store_true", help="serve no pages for people")
    group.add_argument(
        "--access-log",
        metavar="FILE",
        help="append a line for each request to FILE (default: standard error)",
    )
    group.add_argument(
        "--log-json", action="store_true", help="write these lines as JSON"
    )
    group.add_argument(
        "--metrics-public",
        action="store_true",
        help="show /metrics to everybody (default: to users, else to this machine)",
    )


def _add_disk_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("disk")
    group.add_argument(
        "--max-size",
        metavar="SIZE",
        help="most bytes to keep: 50GiB, 800M (default: what the disk has)",
    )
    group.add_argument(
        "--no-delete",
        action="store_true",
        help="refuse to delete tags, manifests and blobs (default with --read-only)",
    )
    group.add_argument(
        "--gc",
        action="store_true",
        help="remove blobs that no manifest names, also while it serves, and end",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="with --gc: only show what would be removed",
    )


def run(args: Namespace, session: Session) -> int:
    """Serve until SIGINT or SIGTERM, which is the way to end it: exit code 0."""
    from ...archive import open_archive

    if _changes_users(args):
        return _change_users(args)
    if args.dry_run and not args.gc:
        raise UsageError("--dry-run goes with --gc only")
    directory = _directory(args, session)
    if args.gc:
        return _collect(args, directory)
    if (args.tls_cert is None) != (args.tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    with ExitStack() as stack:
        archives = [
            stack.enter_context(open_archive(location.archive_path(name)))
            for name in args.archives
        ]
        sources = _sources(archives, session)
        log = _access_log(args, session)
        server = _server(args, directory, sources, log)
        if log is not None:
            stack.callback(log.close)
        with server, _reloading(server, log):
            _warn_of_readers(directory)
            _warn_of_strangers(args, server.host)
            console.result(server.url)
            sys.stdout.flush()
            session.wait_for_signal()
    if not server.settled:
        sys.stderr.flush()
        os._exit(console.DONE)  # a check of a password runs on, and nothing else
    return console.DONE


def _server(
    args: Namespace,
    directory: Path,
    sources: Sequence[ReadOnlySource],
    log: AccessLog | None,
) -> RegistryServer:
    """The registry and its server, as *args* want them. Raises ServerError."""
    from ...server import Registry, RegistryServer

    registry = Registry(
        directory,
        read_only=args.read_only,
        sparse=args.sparse,
        sources=sources,
        max_size=None if args.max_size is None else parse_size(args.max_size),
        deletes=not args.no_delete,
    )
    return RegistryServer(
        registry,
        args.addr,
        args.port,
        htpasswd=_path(args.htpasswd),
        users=_path(args.users),
        tls=_tls(args),
        on_access=log,
        names=args.host,
        metrics_public=args.metrics_public,
        page=not args.no_ui,
    )


def _directory(args: Namespace, session: Session) -> Path:
    from ...state.directory import StateDirectory

    if args.dir:
        return Path(args.dir)
    return StateDirectory.locate(os.environ, session.on_event).path / "registry"


def _collect(args: Namespace, directory: Path) -> int:
    """Remove what no manifest names; the exit code."""
    from ...server.garbage import collect

    if args.archives or args.read_only:
        raise UsageError("--gc serves nothing: leave ARCHIVE and --read-only out")
    done = collect(directory, dry_run=args.dry_run)
    for name in done.unread:
        console.warn(f"{name} has a manifest that cannot be read: all its blobs stay")
    verb = "would remove" if args.dry_run else "removed"
    blobs = console.counted(done.files, "blob")
    console.result(f"{verb} {blobs}, {console.size_text(done.size)}")
    return console.DONE


def _access_log(args: Namespace, session: Session) -> AccessLog | None:
    from ...server.records import AccessLog

    path = _path(args.access_log)
    if path is None and session.display.quiet:
        return None
    return AccessLog(path, sys.stderr, as_json=args.log_json)


def _warn_of_strangers(args: Namespace, host: str) -> None:
    """Say who may do what when more than this machine reaches an open *host*."""
    from ...server.slots import is_loopback

    if args.users or args.htpasswd or is_loopback(args.addr):
        return
    rights = "pull" if args.read_only else "pull, push and delete"
    if args.no_delete and not args.read_only:
        rights = "pull and push"
    console.warn(
        f"everybody who reaches {host} may {rights}: give --users FILE, or --addr "
        "127.0.0.1"
    )


def _warn_of_readers(directory: Path) -> None:
    """Say that other users of this machine reach what is kept."""
    if os.name != "posix" or not directory.is_dir():
        return
    if directory.stat().st_mode & 0o077:
        console.warn(
            f"other users of this machine can look into {directory}; to keep them out: "
            f"chmod 700 {directory}"
        )


@contextlib.contextmanager
def _reloading(server: RegistryServer, log: AccessLog | None) -> Iterator[None]:
    """On SIGHUP read the certificate again and begin the access log again."""

    def reload(*_: object) -> None:
        try:
            server.reload()
            if log is not None:
                log.reopen()
        except PusherError as error:
            console.warn(f"{error}; the certificate loaded before stays in use")

    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, reload)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _tls(args: Namespace) -> tuple[Path, Path] | None:
    certificate = _path(args.tls_cert)
    key = _path(args.tls_key)
    return None if certificate is None or key is None else (certificate, key)


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


class _Served(NamedTuple):
    """What stands under one repository and tag, and which image that is."""

    root: Digest
    label: str


def _sources(archives: Sequence[Archive], session: Session) -> list[ReadOnlySource]:
    """What *archives* hold. Raises UsageError when two images have one name."""
    names: dict[tuple[str, str], _Served] = {}
    sources = [_source(archive, session, names) for archive in archives]
    for (repository, tag), served in names.items():
        if session.display.quiet:
            break
        console.say(f"serving {repository}:{tag} {served.root}")
    return sources


def _source(
    archive: Archive, session: Session, names: dict[tuple[str, str], _Served]
) -> ReadOnlySource:
    """*archive* as it is, layers as they are compressed. *names* gets its names."""
    from ...archive.select import label as name_of
    from ...server import ReadOnlySource, ServedManifest, SourceBlob
    from ...transfer.archive_source import ArchiveSource

    repositories: dict[str, dict[str, Digest]] = {}
    manifests, blobs = {}, {}
    source = ArchiveSource(archive)
    for image in archive.images:
        if image.problem:
            console.warn(f"not served: {name_of(image)}: {image.problem}")
            continue
        plan = source.add(image, session.cancellation)
        for notice in plan.notices:
            text = f"{archive.path}: {notice.text}"
            session.on_event(replace(notice, text=text))
        for document in plan.documents:
            digest = document.descriptor.digest
            manifests[digest] = ServedManifest(
                document.descriptor.media_type, digest, document.raw
            )
        for blob in filter(None, (planned.descriptor for planned in plan.moving)):
            opened = partial(source.open_blob, blob.digest)
            blobs[blob.digest] = SourceBlob(blob.size, opened)
        root = plan.documents[-1].descriptor.digest
        for name, text in _names(archive, image):
            place = (location.short_path(name), name.tag or "latest")
            label = f"{archive.path}:{text} ({root})"
            _claim(place, _Served(root, label), names)
            repositories.setdefault(place[0], {})[place[1]] = root
    return ReadOnlySource(repositories, manifests, blobs)


def _claim(
    place: tuple[str, str],
    served: _Served,
    names: dict[tuple[str, str], _Served],
) -> None:
    """Raises UsageError when *place* stands for another image already."""
    other = names.setdefault(place, served)
    if other.root != served.root:
        raise UsageError(
            f"{':'.join(place)} would stand for both {other.label} and {served.label}: "
            "serve them one at a time, or save them under different names"
        )


def _names(archive: Archive, image: StoredImage) -> list[tuple[Reference, str]]:
    """What *image* is called; one that has only tags is called as its file.

    Each name also as the archive has it.
    """
    from ...reference import Reference

    fallback = Reference.parse(_fallback_name(archive.path))
    names = [(Reference.parse(name), name) for name in image.names]
    names += [(fallback.with_tag(tag), tag) for tag in image.tags]
    return names or [(fallback, "(no name)")]


def _fallback_name(path: Path) -> str:
    """A repository for an image without a name: that of its file."""
    stem = path.name.partition(".")[0].lower()
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in stem).strip("-")
    return kept or "image"


def _port(text: str) -> int:
    from argparse import ArgumentTypeError

    if not text.isdecimal() or int(text) > 65535:
        raise ArgumentTypeError(f"not a port from 0 to 65535: {text!r}")
    return int(text)


def _add_user_options(parser: ArgumentParser) -> None:
    """Add the options of who may use the registry."""
    group = parser.add_argument_group(
        "users", "without a file of users everybody may pull, push and delete"
    )
    files = group.add_mutually_exclusive_group()
    files.add_argument(
        "--users", metavar="FILE", help="let in only the users in FILE, see --add-user"
    )
    files.add_argument(
        "--htpasswd",
        "--auth-basic",
        metavar="FILE",
        help="let in only the users in FILE, from htpasswd -B (needs the package "
        "bcrypt)",
    )
    changes = group.add_mutually_exclusive_group()
    changes.add_argument(
        "--add-user",
        metavar="NAME",
        help="put NAME into --users FILE, with the password that is asked for, and end",
    )
    changes.add_argument(
        "--remove-user", metavar="NAME", help="take NAME out of --users FILE, and end"
    )
    group.add_argument(
        "--password-stdin",
        action="store_true",
        help="with --add-user: read the password from standard input",
    )


def _changes_users(args: Namespace) -> bool:
    """True when a file of users is to be written, and nothing served.

    Raises UsageError for options that do not go together.
    """
    changing = args.add_user is not None or args.remove_user is not None
    if args.password_stdin and args.add_user is None:
        raise UsageError("--password-stdin goes with --add-user NAME only")
    if changing and not args.users:
        raise UsageError("--add-user and --remove-user need --users FILE")
    if changing and args.archives:
        raise UsageError(
            "--add-user and --remove-user serve nothing: leave ARCHIVE out"
        )
    return changing


def _change_users(args: Namespace) -> int:
    """Add or remove one user; the exit code."""
    from ...server.users import put_user, remove_user

    path = Path(args.users)
    if args.add_user is None:
        remove_user(path, args.remove_user)
        done = f"removed user {args.remove_user!r} from {path}"
    else:
        known = put_user(path, args.add_user, _password(args))
        verb = "changed the password of" if known else "added"
        done = f"{verb} user {args.add_user!r} in {path}"
    if not args.quiet:
        console.say(f"{done}; a registry that runs reads the file when it starts again")
    return console.DONE


def _password(args: Namespace) -> bytes:
    """Read once from standard input, or twice from the terminal. Raises UsageError."""
    if args.password_stdin:
        return read_password_line().encode()
    if not console.is_interactive():
        raise UsageError(
            "there is no terminal to ask for the password at: give --password-stdin"
        )
    password = console.ask_password(f"Password of {args.add_user}")
    if not password:
        raise UsageError("the password is empty; nothing was written")
    if console.ask_password("The same again") != password:
        raise UsageError("the two passwords differ; nothing was written")
    try:
        return password.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the password is not UTF-8; nothing was written") from error
