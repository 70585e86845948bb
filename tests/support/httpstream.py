"""HTTP/1.1 messages as they pass by: heads, and bodies of every framing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Iterator

PIECE = 16 * 1024
HEAD_LIMIT = 64 * 1024


class Broken(Exception):
    """A connection is to break, by RST when *reset*."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self.reset = reset


@dataclass
class Head:
    """The first line and the header lines of a message."""

    line: str
    headers: list[tuple[str, str]]

    def get(self, name: str) -> str:
        """The header's value, "" when it is absent."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), "")

    def to_bytes(self, *leave_out: str, **add: str) -> bytes:
        """The message's head as it goes over the wire."""
        kept = [pair for pair in self.headers if pair[0].lower() not in leave_out]
        kept += [(name.replace("_", "-"), value) for name, value in add.items()]
        lines = [self.line, *(f"{name}: {value}" for name, value in kept), "", ""]
        return "\r\n".join(lines).encode("latin-1")


def read_head(reader: BinaryIO) -> Head | None:
    """The next message's head; None at the end. Raises Broken for what is no HTTP."""
    line = reader.readline(HEAD_LIMIT)
    if not line:
        return None
    headers: list[tuple[str, str]] = []
    while (header := reader.readline(HEAD_LIMIT)) not in (b"\r\n", b"\n"):
        name, colon, value = header.decode("latin-1").partition(":")
        if not colon or len(headers) > 200:
            raise Broken(reset=False)
        headers.append((name, value.strip()))
    text = line.decode("latin-1").rstrip("\r\n")
    if len(text.split(" ")) < 2:
        raise Broken(reset=False)
    return Head(text, headers)


def has_body(head: Head) -> bool:
    """Whether a body follows the *head* of a request."""
    length = head.get("Content-Length")
    return head.get("Transfer-Encoding") != "" or length not in ("", "0")


def body_pieces(reader: BinaryIO, head: Head, method: str = "") -> Iterator[bytes]:
    """The body that follows *head*, as it is on the wire, chunk sizes and all.

    *method* is that of the request when *head* is an answer. Raises Broken when the
    body ends early.
    """
    is_answer = head.line.startswith("HTTP/")
    status = head.line.split(" ")[1]
    if is_answer and (method == "HEAD" or status in ("204", "304")):
        return
    if head.get("Transfer-Encoding").lower() == "chunked":
        yield from _chunks(reader)
    elif length := head.get("Content-Length"):
        yield from _exactly(reader, int(length))
    elif is_answer:
        while piece := reader.read1(PIECE):  # type: ignore[attr-defined]
            yield piece


def _exactly(reader: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = reader.read1(min(PIECE, size))  # type: ignore[attr-defined]
        if not piece:
            raise Broken(reset=False)
        size -= len(piece)
        yield piece


def _chunks(reader: BinaryIO) -> Iterator[bytes]:
    size = 1
    while size:
        line = reader.readline(HEAD_LIMIT)
        yield line
        size = int(line.partition(b";")[0], 16)
        yield from _exactly(reader, size)
        yield reader.readline(HEAD_LIMIT)  # what ends the chunk; no trailers here
