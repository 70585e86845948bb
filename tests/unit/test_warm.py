"""A command that is forked is like one that was started."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path
from typing import Iterator

import pytest
from conftest import Command
from images import small_archive
from warm import WarmPython


@pytest.fixture(scope="module")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmPython]:
    directory = tmp_path_factory.mktemp("warm")
    with WarmPython(Command(directory, directory).environment()) as warm:
        yield warm


@pytest.fixture
def both(forking, tmp_path):
    """The command forked, and started; each in a directory of its own."""
    commands = []
    for name, warm in (("forked", forking), ("started", None)):
        directory = tmp_path / name
        directory.mkdir()
        commands.append(Command(directory, tmp_path / "temporary", warm))
    return commands


@pytest.mark.parametrize(
    "words",
    [["--version"], ["push", "--help"], [], ["push"], ["inspect", "none.tar"]],
    ids=" ".join,
)
def test_it_says_and_ends_the_same(words, both):
    forked, started = (command(*words) for command in both)
    assert forked.returncode == started.returncode
    assert (forked.stdout, forked.stderr) == (started.stdout, started.stderr)


def test_directory_environment_and_input_are_its_own(both, tmp_path):
    content = small_archive(tmp_path / "image.tar").read_bytes()
    once = ("--retry-times", "0")
    for command in both:
        (command.home.parent / "here.tar").write_bytes(content)
        assert command("inspect", "here.tar").returncode == 0
        done = command("push", "-", "-t", "127.0.0.1:9/a:1", *once, stdin=content)
        assert done.returncode == 5, done.stderr
        env = {"DOCKERPUSH_TIMEOUT": "never"}
        assert command("tags", "127.0.0.1:9/a", env=env).returncode == 2


def test_many_at_once_and_none_waits_for_another(both):
    done = []
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Path(os.devnull).open("r+b") as nothing,
    ):
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        slow = both[0]._warm.start(
            ["tags", f"{host}/a", "--timeout", "60"],
            both[0].environment(),
            str(both[0].home),
            [nothing] * 3,
        )
        assert slow.poll() is None
        thread = threading.Thread(target=lambda: done.append(both[0]("--version")))
        thread.start()
        thread.join(30)
        assert [one.returncode for one in done] == [0]
        assert slow.poll() is None
        slow.kill()
        assert slow.wait() == slow.poll() == -signal.SIGKILL
