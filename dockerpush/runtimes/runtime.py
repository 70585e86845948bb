"""Docker, nerdctl and podman: what images they have, and how to get them out.

A runtime is a program that we start, never a socket that we speak to.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
from pathlib import Path
from typing import (
    BinaryIO,
    Callable,
    Iterator,
    Sequence,
    Union,
)

from ..errors import NotFound, PusherError, UsageError, file_error
from ..expressions import expression
from ..system.cancellation import Cancellation
from ..system.files import (
    followed,
    only_writer,
    open_own,
    own_name,
    share,
    try_lock,
    write_whole,
)
from ..values import replace, value
from .picker import LocalImage, parse_images
from .programs import PIECE, UNPRINTABLE, ProgramInput, ProgramOutput

RUNTIMES = ("docker", "nerdctl", "podman")
"""In the order in which they are looked for."""

_LISTING_LIMIT = 64 * 1024 * 1024

_LISTING = {
    "docker": ("images", "--no-trunc", "--format", "{{json .}}"),
    "nerdctl": ("images", "--no-trunc", "--format", "{{json .}}"),
    "podman": ("images", "--format", "json"),
}
_UNKNOWN_IMAGE = expression(
    r"no such image|image not known|reference does not exist|image not found", re.I
)
_NOT_IN_FILE_NAMES = expression(r"[^A-Za-z0-9._-]+")


@value
class Runtime:
    """A program to ask: *name* is its kind, one of RUNTIMES; *program* its path.

    *arguments* go before every command.
    """

    name: str
    program: str
    arguments: tuple[str, ...] = ()


def find_runtime(
    wanted: str | None, *, cancellation: Cancellation, search_path: str | None = None
) -> Runtime:
    """The runtime that *wanted* (a name or a path) names; without it, one that works.

    Of several that are installed, the first that can list its images counts, so that a
    docker whose daemon is down does not hide a podman. *search_path* stands in for
    PATH. Raises UsageError for a name that we do not know, and NotFound.
    """
    if wanted is not None:
        return _named(wanted, search_path, cancellation)
    found = [
        Runtime(name, program)
        for name in RUNTIMES
        if (program := shutil.which(name, path=search_path))
    ]
    if not found:
        raise NotFound(
            f"no runtime found ({', '.join(RUNTIMES)}): install one, name one with "
            "--runtime, or use an archive that was saved elsewhere"
        )
    for runtime in found[:-1]:
        with contextlib.suppress(PusherError):
            _output(runtime, ("images", "-q"), cancellation)
            return _resolve_podman_alias(runtime, cancellation)
        cancellation.check()
    return _resolve_podman_alias(found[-1], cancellation)


def list_images(
    runtime: Runtime, *, cancellation: Cancellation
) -> tuple[LocalImage, ...]:
    """The images that *runtime* has, newest first; one for each name.

    Raises NotFound when there are none, PusherError when the runtime fails, InvalidJSON
    when it says what we do not understand, and Cancelled.
    """
    output = _output(runtime, _LISTING[runtime.name], cancellation)
    images = parse_images(output, f"{runtime.name} images")
    if not images:
        raise NotFound(
            f"{runtime.name} has no local images: pull or build one first, or choose "
            "another runtime with --runtime"
        )
    return images


def default_file_name(name: str) -> str:
    """Where image *name* goes when nobody says: ``nginx`` is ``nginx_latest.tar``."""
    path, _, digest = name.partition("@")
    last = path.rpartition("/")[2]
    if digest:
        last += "_" + digest.partition(":")[2][:12]
    elif ":" not in last and not re.fullmatch("[0-9a-f]{12,}", last):
        last += "_latest"
    return (_NOT_IN_FILE_NAMES.sub("_", last).strip("._") or "image") + ".tar"


def open_save(
    runtime: Runtime, names: Sequence[str], *, cancellation: Cancellation
) -> ProgramOutput:
    """The archive of the images *names*, as *runtime* writes it; for a ``with``.

    Raises UsageError for names that cannot be, and PusherError when the program cannot
    be started. Its later failures, such as NotFound, come from reading.
    """
    if not names:
        raise UsageError("no image to save: name one")
    for name in names:
        if not name or name.startswith("-") or UNPRINTABLE.search(name):
            raise UsageError(f"not the name of an image: {name!r}")
    options = ["--quiet"] if runtime.name == "podman" else []
    if runtime.name == "podman" and len(names) > 1:
        options.append("--multi-image-archive")  # else the others are mere tags
    return _start(runtime, ("save", *options, *names), names, cancellation)


def save(
    runtime: Runtime,
    names: Sequence[str],
    output: Union[Path, BinaryIO],
    *,
    cancellation: Cancellation,
    on_progress: Callable[[int], object] = lambda count: None,
) -> int:
    """Write the archive of the images *names* to *output*; the bytes written.

    A path gets a whole archive or none: ``.NAME.part`` beside it is renamed at the end
    and removed on any failure. *on_progress* hears of every piece, in bytes. Raises
    what `open_save` and reading raise, PusherError when *output* cannot be written,
    BrokenPipeError when nobody reads it any more, and Cancelled.
    """
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(
            open_save(runtime, names, cancellation=cancellation)
        )
        if isinstance(output, Path):
            output = stack.enter_context(_written_whole(output))
        return _copy(source, output, on_progress)


_LOADED = expression(r"loaded image(?:s|\(s\))?(?: id)?:\s*(\S.*)", re.I)


def open_load(runtime: Runtime, *, cancellation: Cancellation) -> ProgramInput:
    """What takes an archive into *runtime*; for a ``with``. Raises PusherError."""
    options = [] if runtime.name == "nerdctl" else ["-q"]
    return ProgramInput(
        [runtime.program, *runtime.arguments, "load", *options],
        functools.partial(_failure, f"{runtime.name} load", ()),
        cancellation=cancellation,
    )


def loaded_names(printed: str) -> list[str]:
    """What ``load`` of a runtime says that it has loaded, in its own words."""
    found = [match[1] for match in map(_LOADED.search, printed.splitlines()) if match]
    names = [name.strip() for words in found for name in words.split(",")]
    return list(dict.fromkeys(names))


def _start(
    runtime: Runtime,
    arguments: Sequence[str],
    names: Sequence[str],
    cancellation: Cancellation,
) -> ProgramOutput:
    return ProgramOutput.start(
        [runtime.program, *runtime.arguments, *arguments],
        functools.partial(_failure, f"{runtime.name} {arguments[0]}", names),
        cancellation=cancellation,
    )


def _failure(command: str, names: Sequence[str], code: int, said: str) -> PusherError:
    program = command.partition(" ")[0]
    if names and _UNKNOWN_IMAGE.search(said):
        unknown = [name for name in names if name in said] or names
        return NotFound(
            f"{program} has no image {', '.join(map(repr, unknown))}: "
            f"`{program} images` lists what it has"
        )
    how = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
    return PusherError(
        f"{command} failed ({how}): {said}; see whether `{command}` works by hand, or "
        "choose another runtime with --runtime"
    )


def _output(
    runtime: Runtime, arguments: Sequence[str], cancellation: Cancellation
) -> bytes:
    """All that a command prints, which must not be much. Raises PusherError."""
    pieces, size = [], 0
    with _start(runtime, arguments, (), cancellation) as stream:
        while piece := stream.read(PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > _LISTING_LIMIT:
                raise PusherError(
                    f"{runtime.name} {arguments[0]} printed more than "
                    f"{_LISTING_LIMIT} bytes: name the image instead of choosing it"
                )
    return b"".join(pieces)


def _named(wanted: str, search_path: str | None, cancellation: Cancellation) -> Runtime:
    name = Path(wanted).stem if Path(wanted).suffix == ".exe" else Path(wanted).name
    if name not in RUNTIMES:
        raise UsageError(f"not a runtime: {wanted!r} (wanted {', '.join(RUNTIMES)})")
    program = shutil.which(wanted, path=search_path)
    if program is None:
        raise NotFound(
            f"{wanted} is not installed, or not on the PATH: install it, or choose "
            "another runtime with --runtime"
        )
    return _resolve_podman_alias(Runtime(name, program), cancellation)


def _resolve_podman_alias(runtime: Runtime, cancellation: Cancellation) -> Runtime:
    """*runtime*, or podman where that only poses as docker (package podman-docker)."""
    if runtime.name != "docker":
        return runtime
    version = _output(runtime, ("--version",), cancellation)
    return replace(runtime, name="podman") if b"podman" in version.lower() else runtime


def _copy(
    source: ProgramOutput, output: BinaryIO, on_progress: Callable[[int], object]
) -> int:
    total, buffer = 0, memoryview(bytearray(PIECE))
    while count := source.readinto(buffer):
        write_whole(output, buffer[:count])
        total += count
        on_progress(count)
    if not total:
        raise PusherError("the runtime reported success, but wrote no archive")
    return total


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that becomes *path* when the ``with`` ends well, else leaves no trace.

    What is no regular file, such as a named pipe, is written as it is.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a directory: name a file, or use --output-dir")
    try:
        path = followed(path)
        if path.exists() and not path.is_file():
            with path.open("wb", buffering=0) as file:
                yield file
            return
        with _partial(path) as file:
            yield file
    except OSError as error:
        raise file_error(f"cannot write {path}", error) from error


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[BinaryIO]:
    part = own_name(path.with_name(f".{path.name}.part"))
    # Windows lets nobody rename a file that is open.
    posix = os.name == "posix"
    lock = try_lock(part) if posix else contextlib.nullcontext(enter_result=True)
    with only_writer(path, lock):
        try:
            with open_own(part) as file:
                file.truncate(0)
                yield file
                share(file)
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
