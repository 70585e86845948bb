"""What the registry records of the requests that it answered or refused.

The access log has one line for each, and why it was refused. A thread of its own writes
the lines: a full disk or a pipe that nobody reads never holds a client up. What does
not fit into the queue is counted and dropped. `Metrics` counts them for Prometheus.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, TextIO
from urllib.parse import quote

from ..values import value
from .http_request import METHODS
from .messages import ServerError

QUEUED = 4096
"""Lines that wait to be written."""

PATIENCE = 1.0
"""Seconds that the lines which still wait have at the end."""


@value
class Access:
    """A request, once its answer was sent. Empty texts stand for what is not known.

    *status* is 499 when the client was gone before the answer. *received* and *sent*
    count bytes of content. *why* says why it was refused.
    """

    address: str
    user: str
    method: str
    target: str
    status: int
    received: int
    sent: int
    seconds: float
    why: str


def as_text(access: Access, now: float) -> str:
    """``TIME ADDRESS USER METHOD PATH STATUS BYTES ms WHY``, the last in quotes."""
    moved = access.sent if access.method in ("GET", "HEAD") else access.received
    fields = (
        _time(now),
        access.address,
        _word(access.user),
        _word(access.method),
        _word(access.target),
        str(access.status),
        str(moved),
        f"{access.seconds * 1000:.0f}ms",
    )
    why = f" {json.dumps(access.why)}" if access.why else ""
    return " ".join(fields) + why


def as_json(access: Access, now: float) -> str:
    """The same as an object of JSON."""
    record: dict[str, Any] = {
        "time": _time(now),
        "address": access.address,
        "user": access.user or None,
        "method": access.method or None,
        "path": access.target or None,
        "status": access.status,
        "received": access.received,
        "sent": access.sent,
        "ms": round(access.seconds * 1000),
    }
    if access.why:
        record["why"] = access.why
    return json.dumps(record)


def _time(now: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))


def _word(text: str) -> str:
    """*text* as one word of ASCII without control characters."""
    return quote(text[:2048], safe="!#$%&'()*+,/:;=?@[]~") or "-"


class AccessLog:
    """Writes lines to *path*, which is made for its owner alone, or to *stream*.

    Raises ServerError when the file cannot be opened.
    """

    def __init__(
        self, path: Path | None, stream: TextIO, *, as_json: bool = False
    ) -> None:
        self._path = path
        self._stream = stream
        self._format = _FORMATS[as_json]
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUED)
        self._dropped = 0
        self._file = stream if path is None else _opened(path)
        self._thread = threading.Thread(
            target=self._write_all, name="serve-access-log", daemon=True
        )
        self._thread.start()

    def __call__(self, access: Access) -> None:
        """Queue the line of *access*."""
        try:
            self._lines.put_nowait(self._format(access, time.time()))
        except queue.Full:
            self._dropped += 1

    def reopen(self) -> None:
        """Begin the file again, which a log rotation moved away. Raises ServerError."""
        if self._path is not None:
            old, self._file = self._file, _opened(self._path)
            old.close()

    def close(self) -> None:
        """Write what waits, unless that takes too long."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=PATIENCE)
        self._thread.join(PATIENCE)
        if self._path is not None and not self._thread.is_alive():
            self._file.close()

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed file
                dropped, self._dropped = self._dropped, 0
                if dropped:
                    self._file.write(f"note: {dropped} requests are not in this log\n")
                self._file.write(f"{line}\n")
                self._file.flush()


_FORMATS = {False: as_text, True: as_json}


def _opened(path: Path) -> TextIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.fdopen(os.open(path, flags, 0o600), "a", encoding="utf-8")
    except OSError as error:
        raise ServerError(
            f"cannot write the access log {path}: {error.strerror}"
        ) from error


METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts requests; *gauges* are read when somebody asks, by name and help."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._bytes: Counter[str] = Counter({"received": 0, "sent": 0})
        self._lock = threading.Lock()  # guards both
        self._gauges: list[tuple[str, str, str, Callable[[], int]]] = []

    def add(self, name: str, help: str, read: Callable[[], int]) -> None:
        """Show what *read* returns; a name in ``_total`` is that of a counter."""
        kind = "counter" if name.endswith("_total") else "gauge"
        self._gauges.append((name, kind, help, read))

    def __call__(self, access: Access) -> None:
        """Count a request that was answered."""
        method = access.method if access.method in METHODS else "other"
        with self._lock:
            self._requests[method, access.status] += 1
            self._bytes["received"] += access.received
            self._bytes["sent"] += access.sent

    def text(self) -> str:
        """Everything, one value a line."""
        with self._lock:
            requests = sorted(self._requests.items())
            moved = sorted(self._bytes.items())
        lines = _head("requests_total", "counter", "Requests by method and status.")
        lines += [
            f'dockerpush_requests_total{{method="{method}",status="{status}"}} {count}'
            for (method, status), count in requests
        ]
        lines += _head("content_bytes_total", "counter", "Bytes of content.")
        lines += [
            f'dockerpush_content_bytes_total{{direction="{direction}"}} {count}'
            for direction, count in moved
        ]
        for name, kind, help, read in self._gauges:
            lines += [*_head(name, kind, help), f"dockerpush_{name} {read()}"]
        return "\n".join([*lines, ""])


def _head(name: str, kind: str, help: str) -> list[str]:
    return [f"# HELP dockerpush_{name} {help}", f"# TYPE dockerpush_{name} {kind}"]
