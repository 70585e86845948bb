"""``cache ls|verify|prune|rm``: what was pulled and is kept on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ...errors import ContentMismatch, NotFound, StateError, UsageError
from .. import console, location
from ..choose_target import with_tag
from ..options import OPERANDS
from ..report import Outcomes

if TYPE_CHECKING:
    from ...state.cache import Cache, CachedImage, Pruned
    from ...state.directory import StateDirectory
    from ..session import Session

DAY = 24 * 3600.0


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``cache``."""
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=("ls", "verify", "prune", "rm"),
        help="ls: list the images; verify: hash every blob and remove damaged ones; "
        "prune: remove what no image needs; rm: remove the images REF",
    )
    parser.add_argument(
        "references", metavar="REF", nargs="*", help="with rm: an image, as ls shows it"
    )
    parser.set_defaults(**{OPERANDS: "references"})
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--keep-since",
        metavar="AGE",
        help="with prune: remove images not used within this time, such as 30d or 12h",
    )
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        help="with prune: remove images, those used longest ago first, until the rest "
        "fits into SIZE",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="with prune: show what would be removed, remove nothing",
    )


def run(args: Namespace, session: Session) -> int:
    """Do what *args* ask for; the exit code."""
    from ...state.cache import Cache
    from ...state.directory import StateDirectory

    if args.action != "prune" and (args.keep_since or args.max_size or args.dry_run):
        raise UsageError("--keep-since, --max-size and --dry-run go with 'cache prune'")
    if args.action == "rm" and not args.references:
        raise UsageError(
            "'cache rm' needs an image: dockerpush cache rm REGISTRY/REPO:TAG"
        )
    if args.action != "rm" and args.references:
        raise UsageError(
            f"'cache {args.action}' takes no image; only 'cache rm' does: leave out "
            f"{args.references[0]!r:.200}"
        )
    state = StateDirectory.locate(os.environ, session.on_event)
    cache = Cache(state.path / "cache")
    if args.action == "ls":
        _list(cache, args)
    elif args.action == "verify":
        _verify(cache, args, session)
    elif args.action == "rm":
        _remove(cache, args, session)
    else:
        _prune(cache, state, args)
    return console.DONE


def _remove(cache: Cache, args: Namespace, session: Session) -> None:
    """Remove images, and the blobs that no other image needs. Raises NotFound."""
    from ...state.cache import prune

    wanted = [str(with_tag(location.source(text))) for text in args.references]
    tally = Outcomes("removals", session)
    tally.expect(len(wanted))
    removed = []
    for reference in wanted:
        with tally.attempt(reference):
            if cache.find(reference) is None:
                raise NotFound(
                    f"{reference} is not in the cache; see: dockerpush cache ls"
                )
            cache.forget(reference)
            removed.append(reference)
    done = prune(cache)
    if args.json:
        found = {"images": removed, "files": done.files, "bytes": done.size}
        console.json_result(found)
    else:
        for reference in removed:
            console.result(f"removed {reference}")
        console.result(f"removed {_files(done)}")
    tally.finish()


def _list(cache: Cache, args: Namespace) -> None:
    images = cache.images()
    sizes = [_size(cache, image) for image in images]
    total = sum(status.st_size for _, status in cache.blobs())
    if args.json:
        console.json_result(
            {
                "images": [
                    {
                        "ref": image.reference,
                        "digest": image.root.digest,
                        "mediaType": image.root.media_type,
                        "size": size,
                        "used": round(image.used_at),
                    }
                    for image, size in zip(images, sizes)
                ],
                "size": total,
            }
        )
        return
    rows = [("IMAGE", "DIGEST", "SIZE", "USED")]
    for image, size in zip(images, sizes):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(image.used_at))
        digest = image.root.digest.short
        rows.append((image.reference, digest, console.size_text(size), used))
    console.table(rows)
    if not args.quiet:
        console.say(f"{console.size_text(total)} in {cache.directory}")


def _size(cache: Cache, image: CachedImage) -> int:
    """Bytes on disk of what *image* needs, shared or not."""
    return sum(cache.size_of(digest) or 0 for digest in cache.occupied(image.root))


def _files(done: Pruned) -> str:
    return f"{console.counted(done.files, 'file')}, {console.size_text(done.size)}"


def _verify(cache: Cache, args: Namespace, session: Session) -> None:
    from ...state.cache import damaged

    count, size = 0, 0
    for _, status in cache.blobs():
        count, size = count + 1, size + status.st_size
    wrong = damaged(cache, session.cancellation)
    if args.json:
        console.json_result({"blobs": count, "bytes": size, "damaged": wrong})
    for digest in wrong:
        console.say(f"damaged, removed: {digest}")
    if wrong:
        raise ContentMismatch(
            f"{len(wrong)} of {count} blobs were damaged, and are removed: pull the "
            "images again"
        )
    if not args.json:
        blobs = console.counted(count, "blob")
        console.result(f"verified {blobs}, {console.size_text(size)}: none is damaged")


def _prune(cache: Cache, state: StateDirectory, args: Namespace) -> None:
    from ...settings.quantities import parse_size
    from ...state.cache import prune
    from ...state.upload_sessions import UploadSessions

    since = None if args.keep_since is None else time.time() - _age(args.keep_since)
    done = prune(
        cache,
        keep_since=since,
        max_size=None if args.max_size is None else parse_size(args.max_size),
        dry_run=args.dry_run,
    )
    uploads = state.path / "uploads"
    if uploads.is_dir() and not args.dry_run:
        with contextlib.suppress(OSError, StateError):
            UploadSessions(uploads).purge()
    if args.json:
        console.json_result(
            {"images": done.images, "files": done.files, "bytes": done.size}
        )
        return
    verb = "would remove" if args.dry_run else "removed"
    for reference in done.images:
        console.result(f"{verb} {reference}")
    console.result(f"{verb} {_files(done)}")


def _age(text: str) -> float:
    """Seconds from ``30d`` and what `parse_duration` knows. Raises UsageError."""
    from ...settings.quantities import parse_duration

    days = re.fullmatch(r"([0-9]{1,5})d", text.strip().lower())
    return int(days[1]) * DAY if days else parse_duration(text)
