"""``save [IMAGE ...]``: images of docker, nerdctl or podman as tar archives."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Iterator, Sequence, cast

from ...errors import NotFound, UsageError
from ...events import BytesSaved
from ...transfer.choices import DOCKER_ARCHIVE
from .. import console, location
from ..image_files import check_split, exists
from ..options import OPERANDS, add_split_option

if TYPE_CHECKING:
    from ...runtimes.picker import LocalImage
    from ...runtimes.runtime import Runtime
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``save``."""
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="*",
        help="image to save (default: choose from a list)",
    )
    parser.set_defaults(**{OPERANDS: "images"})
    parser.add_argument(
        "--runtime",
        "--engine",
        metavar="NAME",
        help="docker, nerdctl, podman or a path (default: the first that works)",
    )
    parser.add_argument(
        "--output-dir",
        metavar="DIR",
        default=".",
        help="write NAME_TAG.tar for each image there (default: .)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write one archive with all images; - for standard output",
    )
    add_split_option(parser)
    parser.add_argument(
        "-f", "--force", action="store_true", help="overwrite without asking"
    )


def run(args: Namespace, session: Session) -> int:
    """Save the images that are named or chosen; prints the paths written."""
    from ...runtimes.runtime import find_runtime

    output = location.output_path(args.output or "")
    place = location.local(output)
    if place is not None and place.form is not None:
        raise UsageError(
            f"{output!r:.200}: save writes a docker-archive: give its path alone"
        )
    to_stdout = output == location.STDOUT
    if to_stdout and sys.stdout.isatty():
        raise UsageError("an archive is not for a terminal: redirect it, or use -o")
    check_split(location.Local(output), DOCKER_ARCHIVE, args.split)
    runtime = find_runtime(args.runtime, cancellation=session.cancellation)
    names = args.images or _choose(runtime, session)
    if to_stdout:
        _save(runtime, names, None, args, session)
        return console.DONE
    plan = _plan(names, args)
    for path in plan:
        _may_write(path, args)
    for path, together in plan.items():
        for written in _save(runtime, together, path, args, session):
            console.result(str(written))
    return console.DONE


def _choose(runtime: Runtime, session: Session) -> list[str]:
    """What the person at the terminal picks from the list. Raises UsageError."""
    from ...runtimes.picker import numbered_lines
    from ...runtimes.runtime import list_images

    if not console.is_interactive():
        raise UsageError(
            "no image is named, and there is no terminal to choose at: name one, as "
            f"`{runtime.name} images` lists them"
        )
    images = list_images(runtime, cancellation=session.cancellation)
    console.say(f"local images, by {runtime.name}:")
    for line in numbered_lines(images):
        console.say(line)
    return [image.reference for image in _picked(images)]


def _picked(images: Sequence[LocalImage]) -> Sequence[LocalImage]:
    """Asks until the answer makes sense."""
    from ...runtimes.picker import parse_selection

    while True:
        answer = console.ask("Which (numbers, 2-4, names, * for all)")
        try:
            return parse_selection(answer, images)
        except UsageError as error:
            console.say(str(error))


def _plan(names: Sequence[str], args: Namespace) -> dict[Path, list[str]]:
    """What goes into which file. Raises UsageError when two images want one."""
    from ...runtimes.runtime import default_file_name

    if args.output is not None:
        return {Path(args.output): list(names)}
    directory = Path(args.output_dir)
    if not directory.is_dir():
        raise NotFound(f"--output-dir {args.output_dir}: no such directory; make it")
    plan: dict[Path, list[str]] = {}
    for name in dict.fromkeys(names):
        path = directory / default_file_name(name)
        if path in plan:
            raise UsageError(
                f"{plan[path][0]} and {name} would both become {path}: save them one "
                "by one with -o FILE, or together into one"
            )
        plan[path] = [name]
    return plan


def _may_write(path: Path, args: Namespace) -> None:
    """Raises UsageError when *path* exists and nobody agrees to overwrite it."""
    is_there = exists(location.Local(str(path)), DOCKER_ARCHIVE, args.split)
    if args.force or not is_there or (path.exists() and not path.is_file()):
        return
    shown = f"{path}.001" if args.split else path
    if not console.is_interactive():
        raise UsageError(f"{shown} exists: --force overwrites it, -o names another")
    if not console.confirm(f"{shown} exists. Overwrite it?"):
        raise UsageError(f"{shown} exists, and stays as it is")


def _save(
    runtime: Runtime,
    names: Sequence[str],
    path: Path | None,
    args: Namespace,
    session: Session,
) -> list[Path]:
    """The files that were written; standard output for no *path*."""
    from ...runtimes.runtime import save

    what, started = ", ".join(names), time.monotonic()
    session.starts_over()
    with _output(path, args.split) as (output, written):
        size = save(
            runtime,
            names,
            output,
            cancellation=session.cancellation,
            on_progress=lambda count: session.on_event(
                BytesSaved(f"saving {what}", count)
            ),
        )
    session.end_progress()
    if path is None:
        sys.stdout.buffer.flush()
    if not args.quiet:
        seconds = time.monotonic() - started
        console.say(f"saved {what}: {console.size_text(size)} in {seconds:.1f} s")
    return written


@contextmanager
def _output(
    path: Path | None, split: int | None
) -> Iterator[tuple[Path | BinaryIO, list[Path]]]:
    """Where an archive is written to, and a list of its files, full afterwards."""
    written: list[Path] = []
    if path is None:
        yield sys.stdout.buffer, written
    elif split is None:
        yield path, written
        written.append(path)
    else:
        from ...archive.volume_writer import VolumeWriter
        from ...archive.writers import translate_write_errors

        with translate_write_errors(path), VolumeWriter(path, split) as writer:
            yield cast("BinaryIO", writer), written
        written += writer.written
