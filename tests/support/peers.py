"""Servers of a few lines that behave badly: a function gets each connection."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from pathlib import Path
from typing import Callable, Iterator

Handler = Callable[[socket.socket], None]


@contextlib.contextmanager
def peer(handle: Handler, certificate: Path | None = None) -> Iterator[int]:
    """The port of a server on loopback that gives each connection to *handle*.

    With *certificate*, a directory that holds server.pem and server.key, it speaks TLS.
    When the ``with`` ends, the connections are shut and the threads joined.
    """
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "server.pem", certificate / "server.key")

    def serve(plain: socket.socket) -> None:
        with plain, contextlib.suppress(OSError):
            if context is None:
                handle(plain)
                return
            with context.wrap_socket(plain, server_side=True) as sock:
                connections.append(sock)
                handle(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                connections.append(connection)
                threads.append(threading.Thread(target=serve, args=[connection]))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        _shut(listener)
        listener.close()
        accepting.join()
        for connection in connections:
            _shut(connection)
        for thread in threads:
            thread.join()


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def read_head(sock: socket.socket) -> str:
    """The request line and the headers, to the last byte of them and no further."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise OSError("closed")
        head += byte
    return head.decode()


def read_body(sock: socket.socket, head: str) -> bytes:
    """The body that *head* announces."""
    left = int(head.lower().partition("content-length:")[2].split("\r\n")[0] or 0)
    parts = []
    while left and (part := sock.recv(min(left, 65536))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def answer(status: int = 200, body: bytes = b"", *headers: str) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status} Words", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def reset(sock: socket.socket) -> None:
    """Close *sock* with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_for_end(sock: socket.socket) -> None:
    """Read and drop until the other side closes."""
    while sock.recv(65536):
        pass
