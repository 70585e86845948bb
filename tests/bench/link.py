"""A slow link: a TCP proxy with a rate and a round-trip time.

Every byte arrives half a round trip after it was sent, a new connection has waited a
whole one before its first byte, and all connections share the rate of each direction.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Iterator

READ_SIZE = 16 * 1024
IN_FLIGHT = 64
"""Reads of one connection that are under way at a time, as in a sender's window."""


class Direction:
    """One way of the link: *rate* is bytes a second, *latency* seconds."""

    def __init__(self, rate: float, latency: float) -> None:
        self._rate = rate
        self._latency = latency
        self._free = 0.0  # the moment at which the line is free again

    def arrival(self, size: int) -> float:
        """When *size* bytes that are sent now arrive, by the loop's clock."""
        now = asyncio.get_running_loop().time()
        self._free = max(self._free, now) + size / self._rate
        return self._free + self._latency

    async def carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        """Bring what comes from *source* to *target*, late."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)
        delivering = asyncio.ensure_future(self._deliver(queue, target))
        try:
            while data := await source.read(READ_SIZE):
                await queue.put((self.arrival(len(data)), data))
        finally:
            await queue.put((self.arrival(0), b""))
            await delivering

    async def _deliver(
        self,
        queue: asyncio.Queue[tuple[float, bytes]],
        target: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        data = b" "
        while data:
            arrival, data = await queue.get()
            await asyncio.sleep(arrival - loop.time())
            with contextlib.suppress(ConnectionError):
                target.write(data)
                await target.drain()
        with contextlib.suppress(OSError):
            target.write_eof()


async def serve(port: int, rate: float, delay: float) -> None:
    """Lead to 127.0.0.1:*port* over *rate* bytes a second, *delay* seconds there and
    back; print the port that leads there."""
    up, down = Direction(rate, delay / 2), Direction(rate, delay / 2)

    async def connected(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await asyncio.sleep(delay)
        with contextlib.suppress(ConnectionError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(
                up.carry(reader, far_writer),
                down.carry(far_reader, writer),
                return_exceptions=True,
            )
            far_writer.close()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def slow_link(host: str, *, rate: float, delay: float) -> Iterator[str]:
    """Another ``127.0.0.1:PORT`` for *host*, over *rate* and *delay*."""
    words = [sys.executable, str(Path(__file__)), host.rpartition(":")[2]]
    words += [str(rate), str(delay)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        try:
            yield f"127.0.0.1:{int(child.stdout.readline())}"
        finally:
            child.terminate()


def main() -> None:
    """Run the link until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float, help="bytes a second")
    parser.add_argument("delay", type=float, help="seconds of a round trip")
    args = parser.parse_args()
    asyncio.run(serve(args.port, args.rate, args.delay))


if __name__ == "__main__":
    main()
