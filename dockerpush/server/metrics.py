"""What the registry counts, in the text form of Prometheus."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Callable

from .access_log import Access
from .request_head import METHODS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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
