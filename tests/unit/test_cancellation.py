"""Cancellation wakes whatever waits: sleeps, sockets, polled pipes, children."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dockerpush.errors import Cancelled
from dockerpush.system.cancellation import Cancellation


@pytest.fixture
def cancellation():
    with Cancellation() as cancellation:
        yield cancellation


@contextlib.contextmanager
def soon(call, *arguments):
    """Have another thread make the call in a moment; the ``with`` must end soon after.

    Yields nothing; fails when the body needed half a minute or more.
    """
    thread = threading.Timer(0.05, call, arguments)
    begun = time.monotonic()
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert 0.04 <= time.monotonic() - begun < 30


def test_nothing_happens_before_it_is_cancelled(cancellation):
    cancellation.check()
    cancellation.wait(0.001)
    assert not cancellation.cancelled
    assert select.select([cancellation], [], [], 0)[0] == []


def test_a_cancelled_check_raises_the_first_reason(cancellation):
    cancellation.cancel("the first reason")
    cancellation.cancel("another")
    assert cancellation.cancelled
    for _ in range(2):
        with pytest.raises(Cancelled, match="the first reason"):
            cancellation.check()


def test_a_sleep_ends_at_once(cancellation):
    with soon(cancellation.cancel, "enough"), pytest.raises(Cancelled, match="enough"):
        cancellation.wait(60)


def test_a_sleep_after_the_end_does_not_sleep(cancellation):
    cancellation.cancel()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        cancellation.wait(60)
    assert time.monotonic() - begun < 1


def test_a_poll_beside_a_pipe_ends_at_once_and_stays_ended(cancellation):
    with soon(cancellation.cancel):
        assert select.select([cancellation], [], [], 60)[0] == [cancellation]
    assert select.select([cancellation], [], [], 0)[0] == [cancellation]


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_blocked_receive_ends_at_once(cancellation, pair):
    cancellation.add_socket(pair[0])
    with soon(cancellation.cancel):
        assert pair[0].recv(1) == b""


def test_a_blocked_send_ends_at_once(cancellation, pair):
    cancellation.add_socket(pair[0])
    with soon(cancellation.cancel), pytest.raises(OSError):
        pair[0].sendall(b"x" * 100_000_000)


def test_a_socket_that_comes_too_late_is_shut_at_once(cancellation, pair):
    cancellation.cancel()
    cancellation.add_socket(pair[0])
    assert pair[0].recv(1) == b""


def test_a_socket_that_was_taken_out_is_left_alone(cancellation, pair):
    cancellation.add_socket(pair[0])
    cancellation.remove_socket(pair[0])
    cancellation.remove_socket(pair[0])
    cancellation.cancel()
    pair[1].sendall(b"x")
    assert pair[0].recv(1) == b"x"


def test_a_closed_socket_does_not_keep_the_others_open(cancellation, pair):
    closed = socket.socket()
    closed.close()
    cancellation.add_socket(closed)
    cancellation.add_socket(pair[0])
    cancellation.cancel()
    assert pair[0].recv(1) == b""


def test_a_child_ends_with_its_parent(cancellation, pair):
    with cancellation.child() as child:
        child.add_socket(pair[0])
        with soon(cancellation.cancel, "all"):
            assert pair[0].recv(1) == b""
        with pytest.raises(Cancelled, match="all"):
            child.check()


def test_a_child_can_end_alone(cancellation):
    with cancellation.child() as child, cancellation.child() as sibling:
        child.cancel("only this one")
        cancellation.check()
        sibling.check()
        with pytest.raises(Cancelled, match="only this one"):
            child.check()


def test_a_child_of_what_has_ended_has_ended(cancellation):
    cancellation.cancel("over")
    with cancellation.child() as child, pytest.raises(Cancelled, match="over"):
        child.check()


def test_a_closed_child_is_forgotten(cancellation):
    with cancellation.child() as child:
        pass
    cancellation.cancel()
    assert not child.cancelled


def test_closing_twice_and_cancelling_after_it_harm_nobody():
    cancellation = Cancellation()
    cancellation.close()
    cancellation.close()
    cancellation.cancel()
    assert cancellation.cancelled


def test_a_signal_handler_may_cancel(cancellation):
    """The handler runs in the thread that sleeps."""
    before = signal.signal(signal.SIGALRM, lambda *_: cancellation.cancel("alarm"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        begun = time.monotonic()
        with pytest.raises(Cancelled, match="alarm"):
            cancellation.wait(60)
        assert time.monotonic() - begun < 30
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_may_cancel_at_any_moment():
    """Also between the steps of a sleep that is about to begin or to end."""
    script = (
        "import signal, sys\n"
        "from dockerpush.system.cancellation import Cancellation\n"
        "from dockerpush.errors import Cancelled\n"
        "for number in range(300):\n"
        "    with Cancellation() as cancellation:\n"
        "        signal.signal(signal.SIGALRM, lambda *_: cancellation.cancel())\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.0003 + number * 1e-6)\n"
        "        try:\n"
        "            while True: cancellation.wait(0)\n"
        "        except Cancelled:\n"
        "            signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        timeout=5,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0
