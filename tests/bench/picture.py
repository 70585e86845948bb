"""``python -m tests.bench.picture``: draw a push at a terminal, from a real run.

The command pushes an image of several layers to the embedded registry, a little slowly,
at a pseudo-terminal. The picture shows the window in the middle of the push and at its
end.
"""

from __future__ import annotations

import argparse
import codecs
import fcntl
import hashlib
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import Iterator, Sequence
from xml.sax.saxutils import escape

from dockerpush.server import Registry, RegistryServer
from tests.support.images import MIB, docker_archive, tar_of
from tests.support.screen import Frame, Screen

COLUMNS = 96
LAYERS = (2, 6, 9, 4)
"""MiB of the layers, as they are in the archive."""
RATE = "4M"
ARCHIVE = "app.tar"
NAME = "team/app:1"
USUAL_PORT = 5000

CELL_WIDTH, CELL_HEIGHT, FONT = 8.4, 19, 14
MARGIN, TITLE, GAP = 16, 30, 18
STYLE = f"""
text {{ font: {FONT}px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  fill: #1f2328; white-space: pre }}
.window {{ fill: #f6f8fa; stroke: #d1d9e0 }}
.title, .prompt {{ fill: #59636e }}
.bar {{ fill: #0b6e99 }}
.rest {{ fill: #d1d9e0 }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #e6edf3 }}
  .window {{ fill: #161b22; stroke: #3d444d }}
  .title, .prompt {{ fill: #9198a1 }}
  .bar {{ fill: #58a6d6 }}
  .rest {{ fill: #3d444d }}
}}
"""
BLOCKS = "▏▎▍▌▋▊▉█"


def main(argv: Sequence[str] | None = None) -> int:
    """Write ``push.svg``; 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.picture")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="dockerpush-picture-") as name:
        command, screen = run(Path(name))
    (args.out / "push.svg").write_text(picture(command, screen), encoding="utf-8")
    return 0


def run(directory: Path) -> tuple[str, Screen]:
    """Push an image, and what the command was and showed. Raises CalledProcessError."""
    layers = [tar_of({f"srv/{mib}": _text(mib)}) for mib in LAYERS]
    docker_archive(directory / ARCHIVE, layers)
    with _serving(directory / "registry") as server:
        target = f"{server.host.replace('127.0.0.1', 'localhost')}/{NAME}"
        words = ["push", ARCHIVE, "-t", target]
        screen = _screen_of([*words, "--limit-rate", RATE], directory)
    return f"dockerpush {' '.join(words)}", screen


def _text(mib: int) -> bytes:
    """So many MiB that shrink to half."""
    half = hashlib.shake_128(b"%d" % mib).digest(mib * MIB // 2)
    return half.hex().encode()


def _serving(directory: Path) -> RegistryServer:
    """The embedded registry, at its usual port where that is free."""
    try:
        return RegistryServer(Registry(directory), "127.0.0.1", USUAL_PORT)
    except OSError:
        return RegistryServer(Registry(directory), "127.0.0.1", 0)


def _screen_of(words: Sequence[str], directory: Path) -> Screen:
    """What the command shows at a terminal."""
    screen = Screen(COLUMNS)
    master, slave = pty.openpty()
    size = struct.pack("4H", screen.rows, screen.columns, 0, 0)
    fcntl.ioctl(master, termios.TIOCSWINSZ, size)
    root = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
        "HOME": str(directory),
        "DOCKERPUSH_STATE_DIR": str(directory / "state"),
        "PYTHONPATH": root,
    }
    command = [sys.executable, "-m", "dockerpush", *words]
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdin=slave, stdout=slave, stderr=slave
    ) as child:
        os.close(slave)
        for text in _read(master):
            screen.feed(text)
    os.close(master)
    if child.returncode:
        output = "\n".join(screen.text)
        raise subprocess.CalledProcessError(child.returncode, command, output)
    return screen


def _read(master: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # what Linux says when the other side is closed
            return
        if not piece:
            return
        yield decoder.decode(piece)


def picture(command: str, screen: Screen) -> str:
    """The SVG: the window in the middle of the run, and at its end."""
    prompt = f"$ {command}"
    middle = _middle(screen.frames)
    windows = [
        ("in the middle of the push", [prompt, *middle.above, *middle.lines]),
        ("at the end", [prompt, *screen.text]),
    ]
    parts, top = [], 1.0
    for title, lines in windows:
        lines = list(_wrapped(lines))
        parts += _window(title, lines, top)
        top += _height(lines) + GAP
    width, height = _width(), top - GAP + 1
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" '
            f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            f"<title>{escape(command)}</title>",
            f"<style>{STYLE}</style>",
            *parts,
            "</svg>\n",
        ]
    )


def _middle(frames: Sequence[Frame]) -> Frame:
    """The frame with the most lines that is nearest to the middle."""
    most = max(len(frame.lines) for frame in frames)
    fullest = [frame for frame in frames if len(frame.lines) == most]
    return fullest[len(fullest) // 2]


def _wrapped(lines: Sequence[str]) -> Iterator[str]:
    """*lines* as the window shows them."""
    for line in lines:
        for start in range(0, max(1, len(line)), COLUMNS):
            yield line[start : start + COLUMNS]


def _width() -> float:
    return COLUMNS * CELL_WIDTH + 2 * MARGIN + 2


def _height(lines: Sequence[str]) -> float:
    return TITLE + len(lines) * CELL_HEIGHT + MARGIN


def _window(title: str, lines: Sequence[str], top: float) -> Iterator[str]:
    yield (
        f'<rect class="window" x="1" y="{top:.1f}" width="{_width() - 2:.1f}" '
        f'height="{_height(lines):.1f}" rx="6"/>'
    )
    yield (
        f'<text class="title" x="{_width() / 2:.1f}" y="{top + 20:.1f}" '
        f'text-anchor="middle">{escape(title)}</text>'
    )
    for number, line in enumerate(lines):
        bottom = top + TITLE + (number + 0.8) * CELL_HEIGHT
        yield from _line(line, bottom)


def _line(line: str, bottom: float) -> Iterator[str]:
    """One line: what is no bar as text, each piece in the columns that it has."""
    name, bar, rest = line, "", ""
    if line.count("|") == 2:
        name, bar, rest = line.split("|")
    yield from _piece(name.rstrip(), 0, bottom)
    if bar:
        yield from _bar(bar, len(name), bottom)
        start = len(name) + len(bar) + 2
        yield from _piece(rest.strip(), start + rest.index(rest.strip()), bottom)


def _piece(text: str, column: int, bottom: float) -> Iterator[str]:
    if text:
        kind = ' class="prompt"' if text.startswith("$ ") else ""
        yield (
            f'<text{kind} x="{MARGIN + column * CELL_WIDTH:.1f}" y="{bottom:.1f}" '
            f'textLength="{len(text) * CELL_WIDTH:.1f}" xml:space="preserve">'
            f"{escape(text)}</text>"
        )


def _bar(bar: str, column: int, bottom: float) -> Iterator[str]:
    """A rectangle in place of block characters, which fonts draw with gaps."""
    eighths = sum(BLOCKS.index(block) + 1 for block in bar if block in BLOCKS)
    for kind, cells in (("rest", float(len(bar))), ("bar", eighths / 8)):
        yield (
            f'<rect class="{kind}" x="{MARGIN + (column + 1) * CELL_WIDTH:.1f}" '
            f'y="{bottom - 11:.1f}" width="{cells * CELL_WIDTH:.1f}" height="13" '
            'rx="2"/>'
        )


if __name__ == "__main__":
    sys.exit(main())
