"""zstd from wherever this machine has it: Python itself, a package, or the program.

Each `Zstd` compresses a block into one frame, and reads a stream of frames (RFC 8878)
forward. A frame that wants a window of more than WINDOW_LIMIT bytes is refused.
"""

from __future__ import annotations

import importlib
import io
import os
import selectors
import shutil
import subprocess
import threading
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Callable, Protocol

from ..errors import ArchiveError, PusherError, UsageError
from ..system.streams import RawReader
from .compressed_streams import PIECE, Format, Readable, StreamReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

WINDOW_LOG = 27
WINDOW_LIMIT = 1 << WINDOW_LOG
"""Bytes of memory that a frame may ask for: what the program allows by itself."""

MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE_MAGICS = tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(80, 96))


class Zstd(Protocol):
    """A source of zstd; *name* is what a user would call it."""

    @property
    def name(self) -> str: ...  # noqa: D102

    def compress(self, block: memoryview, level: int) -> bytes:
        """*block* as one frame, without a checksum."""

    def open(self, file: Readable, name: str) -> io.RawIOBase:
        """A reader of what the frames in *file* hold; *name* stands in its errors."""


def find_zstd() -> Zstd:
    """The best that is here. Raises UsageError, which says what to install."""
    for module, kind in (
        ("compression.zstd", StandardZstd),
        ("zstandard", PackageZstd),
    ):
        try:
            return kind(importlib.import_module(module))
        except ImportError:
            continue
    program = shutil.which("zstd")
    if program is None or os.name != "posix":
        raise UsageError(
            "zstd is not available: install the Python package zstandard (pip install "
            "zstandard) or the zstd program, or use gzip"
        )
    return ProgramZstd(program)


def _format(decoder: Any, error: type[Exception]) -> Format:
    return Format("zstd", (MAGIC, *SKIPPABLE_MAGICS), decoder, (error,))


class StandardZstd:
    """The module ``compression.zstd`` of Python 3.14 (or its backport)."""

    name = "python"

    def __init__(self, module: ModuleType) -> None:
        self._module: Any = module

    def compress(self, block: memoryview, level: int) -> bytes:
        """*block* as one frame, without a checksum."""
        packed: bytes = self._module.compress(block, level)
        return packed

    def open(self, file: Readable, name: str) -> io.RawIOBase:
        """A reader of what the frames in *file* hold."""
        limit = {self._module.DecompressionParameter.window_log_max: WINDOW_LOG}
        decoder = partial(self._module.ZstdDecompressor, options=limit)
        return StreamReader(file, _format(decoder, self._module.ZstdError), name)


class PackageZstd:
    """The package ``zstandard``."""

    name = "zstandard"

    def __init__(self, module: ModuleType) -> None:
        self._module: Any = module
        self._threads = threading.local()

    def compress(self, block: memoryview, level: int) -> bytes:
        """*block* as one frame, without a checksum.

        Each thread has a compressor for each level: a new one for each block would cost
        a fifth of the time, and leave holes in the heap.
        """
        compressors = vars(self._threads).setdefault("by_level", {})
        if level not in compressors:
            compressors[level] = self._module.ZstdCompressor(level=level)
        packed: bytes = compressors[level].compress(block)
        return packed

    def open(self, file: Readable, name: str) -> io.RawIOBase:
        """A reader of what the frames in *file* hold."""
        kind = _format(partial(FrameDecoder, self._module), self._module.ZstdError)
        return StreamReader(file, kind, name)


class FrameDecoder:
    """A frame decoded block by block, each of which holds 128 KiB at the most.

    The package has no limit for the output of one step, and does not notice a stream
    that ends too early; knowing where blocks begin gives both (RFC 8878, 3.1.1).
    """

    def __init__(self, module: Any) -> None:
        package = module.ZstdDecompressor(max_window_size=WINDOW_LIMIT)
        self._package = package.decompressobj()
        self._error: type[Exception] = module.ZstdError
        self._input = bytearray()
        self._wanted = 5
        # A bound method would make a cycle, and a window outlive its frame.
        self._step: Callable[[FrameDecoder, bytes], bytes] = FrameDecoder._begin
        self._checksum = 0  # bytes after the last block
        self._skipped = 0  # bytes of a skippable frame still to come
        self.eof = False

    @property
    def needs_input(self) -> bool:
        """True when the next element of the frame is not there in full."""
        return not self.eof and len(self._input) < self._wanted

    @property
    def unused_data(self) -> bytes:
        """What was fed and lies behind the frame."""
        return bytes(self._input) if self.eof else b""

    def decompress(self, data: memoryview | bytes, max_length: int) -> bytes:
        """The content of the next block that has any."""
        self._input += data
        while not self.eof and len(self._input) >= self._wanted:
            element = bytes(self._input[: self._wanted])
            del self._input[: self._wanted]
            output = self._step(self, element)
            if output:
                return output
        return b""

    def _begin(self, start: bytes) -> bytes:
        """The magic number and the byte that says how long the header is."""
        if start[:4] in SKIPPABLE_MAGICS:
            low = start[4:]
            return self._expect(3, lambda self, rest: self._begin_skipping(low + rest))
        if start[:4] != MAGIC:
            raise self._error("no frame begins here")
        flags = start[4]
        single = flags >> 5 & 1
        size = (1 if single else 0, 2, 4, 8)[flags >> 6]
        self._checksum = 4 if flags & 4 else 0
        window = 0 if single else 1
        rest = window + (0, 1, 2, 4)[flags & 3] + size
        return self._expect(rest, lambda self, more: self._header(start + more))

    def _header(self, header: bytes) -> bytes:
        self._package.decompress(header)
        return self._expect(3, FrameDecoder._block)

    def _block(self, header: bytes) -> bytes:
        value = int.from_bytes(header, "little")
        last, kind, size = value & 1, value >> 1 & 3, value >> 3
        stored = 1 if kind == 1 else size  # one byte, repeated
        return self._expect(
            stored + (self._checksum if last else 0),
            lambda self, content: self._content(header + content, last=bool(last)),
        )

    def _content(self, block: bytes, *, last: bool) -> bytes:
        output: bytes = self._package.decompress(block)
        if last:
            self.eof = True
        else:
            self._expect(3, FrameDecoder._block)
        return output

    def _begin_skipping(self, size: bytes) -> bytes:
        self._skipped = int.from_bytes(size, "little")
        return self._skip(b"")

    def _skip(self, skipped: bytes) -> bytes:
        self._skipped -= len(skipped)
        self.eof = not self._skipped
        return self._expect(min(self._skipped, PIECE), FrameDecoder._skip)

    def _expect(self, wanted: int, step: Any) -> bytes:
        self._wanted, self._step = wanted, step
        return b""


class ProgramZstd:
    """The program ``zstd``, fed through pipes."""

    name = "program"

    def __init__(self, path: str) -> None:
        self._path = path

    def compress(self, block: memoryview, level: int) -> bytes:
        """*block* as one frame, without a checksum. Raises PusherError."""
        # One thread each, else newer programs cut the input by the number of cores.
        options = ["-q", "-c", "-T1", "--no-check", f"-{level}"]
        if level > 19:
            options.append("--ultra")
        done = subprocess.run(
            [self._path, *options], input=block, capture_output=True, check=False
        )
        if done.returncode:
            raise PusherError(f"{self._path} failed: {_last_line(done.stderr)}")
        return done.stdout

    def open(self, file: Readable, name: str) -> io.RawIOBase:
        """A reader of what the frames in *file* hold."""
        return ProgramReader(self._path, file, name)


class ProgramReader(RawReader):
    """What ``zstd -d`` makes of *file*; closing it ends the program and closes *file*.

    One thread feeds and reads, so the pipe to the program never blocks, and is written
    to only when the program has no output.
    """

    def __init__(self, path: str, file: Readable, name: str) -> None:
        super().__init__()
        self._file = file
        self._name = name
        self._buffer = memoryview(bytearray(PIECE))
        self._pending = self._buffer[:0]
        self._process = subprocess.Popen(
            [path, "-q", "-d", "-c", f"--memory={WINDOW_LIMIT >> 20}MB"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._feed = self._process.stdin.fileno()
        self._output = self._process.stdout
        os.set_blocking(self._feed, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._feed, selectors.EVENT_WRITE)
        self._selector.register(self._output, selectors.EVENT_READ)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill *buffer* from its start; the count of bytes, 0 at the end.

        Raises ArchiveError when the program does not like its input.
        """
        while True:
            ready = {key.fileobj for key, _ in self._selector.select()}
            if self._output in ready:
                count: int = self._output.readinto(buffer)  # type: ignore[attr-defined]
                if not count and memoryview(buffer).nbytes:
                    self._finish()
                return count
            self._push()

    def close(self) -> None:
        """End the program, and close the file below as well."""
        if self.closed:
            return
        super().close()
        self._selector.close()
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        self._file.close()

    def _push(self) -> None:
        """Give the program what it takes of the input without waiting."""
        if not self._pending:
            count = self._file.readinto(self._buffer) or 0
            self._pending = self._buffer[:count]
        if not self._pending:
            self._stop_feeding()
            return
        try:
            self._pending = self._pending[os.write(self._feed, self._pending) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it has ended, and its status says why
            self._stop_feeding()

    def _stop_feeding(self) -> None:
        assert self._process.stdin is not None
        self._selector.unregister(self._feed)
        self._process.stdin.close()

    def _finish(self) -> None:
        assert self._process.stderr is not None
        reason = _last_line(self._process.stderr.read())
        if self._process.wait():
            raise ArchiveError(
                f"{self._name}: the zstd stream cannot be unpacked ({reason}): get it "
                "again, or unpack it first"
            )


def _last_line(output: bytes) -> str:
    return output.decode(errors="replace").strip().rpartition("\n")[2]
