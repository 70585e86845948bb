"""What only some systems have, and what stands in for it elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dockerpush.errors import StateError
from dockerpush.system import files, processes
from dockerpush.system.files import SharedFile

CONTENT = bytes(range(256)) * 64


@pytest.fixture(params=[True, False], ids=["pread", "seek and read"])
def shared(request, tmp_path):
    """One file, with what the system offers and with the fallback."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    file = SharedFile(path.open("rb", buffering=0), positioned=request.param)
    yield file
    file.close()


@pytest.mark.parametrize("offset", [0, 1, 255, 16383, 16384, 99999])
def test_a_shared_file_is_read_from_any_place(shared, offset):
    buffer = bytearray(100)
    count = shared.readinto(memoryview(buffer), offset)
    assert bytes(buffer[:count]) == CONTENT[offset : offset + 100]


def test_a_shared_file_knows_its_size(shared):
    assert shared.size() == len(CONTENT)


def test_many_threads_read_a_shared_file_without_getting_in_each_others_way(shared):
    wrong = []

    def read(start):
        for step in range(200):
            offset = (start + step * 37) % (len(CONTENT) - 64)
            buffer = bytearray(64)
            shared.readinto(memoryview(buffer), offset)
            if buffer != CONTENT[offset : offset + 64]:
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(n * 997,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        SharedFile.open(tmp_path / "missing")


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    path = tmp_path / "lock"
    with files.try_lock(path) as first, files.try_lock(path) as second:
        assert (first, second) == (True, False)
    with files.try_lock(path) as again:
        assert again


def test_a_lock_is_waited_for_as_long_as_allowed(tmp_path):
    path = tmp_path / "lock"
    with files.locked(path, timeout=0):
        begun = time.monotonic()
        with (
            pytest.raises(StateError, match=r"lock: another process holds this lock"),
            files.locked(path, timeout=0.2),
        ):
            raise AssertionError("the lock was given away twice")
        assert 0.2 <= time.monotonic() - begun < 2


def test_a_lock_comes_free_while_one_waits(tmp_path):
    path = tmp_path / "lock"
    with files.try_lock(path):
        waiter = threading.Thread(target=lambda: taken.append(take(path)))
        taken = []
        waiter.start()
        time.sleep(0.1)
    waiter.join()
    assert taken == [True]


def take(path):
    with files.try_lock(path, timeout=5) as held:
        return held


def test_a_lock_that_is_held_for_moments_is_asked_for_again_at_once(
    tmp_path, monkeypatch
):
    """Threads that begin together hold it for less than a millisecond each."""
    waited: list[float] = []
    monkeypatch.setattr(files.time, "sleep", waited.append)
    path = tmp_path / "lock"
    with files.try_lock(path), files.try_lock(path, timeout=0.2) as held:
        assert not held
    assert waited[0] <= 0.001
    assert waited == sorted(waited)
    assert max(waited) <= 0.02


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from dockerpush.system import files\n"
        "with files.locked(Path(sys.argv[1]), timeout=0):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "lock"
    command = [sys.executable, "-c", script, str(path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as child:
        assert child.stdout.readline() == b"held\n"
        with files.try_lock(path) as held:
            assert not held
        child.kill()
    with files.try_lock(path) as held:
        assert held


def test_the_lock_file_is_for_its_owner_alone(tmp_path):
    with files.locked(tmp_path / "lock", timeout=0):
        mode = (tmp_path / "lock").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_lock_that_cannot_be_made_is_an_os_error(tmp_path):
    with (
        pytest.raises(FileNotFoundError),
        files.try_lock(tmp_path / "missing" / "lock"),
    ):
        raise AssertionError("there is no such directory")


def test_a_file_system_without_locks_is_an_os_error_and_not_a_wait(tmp_path):
    """A descriptor that cannot be locked stands for one; it fails at once."""
    read_end, write_end = os.pipe()
    os.close(write_end)
    os.close(read_end)
    with pytest.raises(OSError) as caught:
        files._lock_within(read_end, 60)
    assert caught.value.errno == errno.EBADF


class TestClaimed:
    def test_one_has_it_at_a_time_and_the_file_is_gone_afterwards(self, tmp_path):
        path = tmp_path / "lock"
        with files.claimed(path) as first, files.claimed(path) as second:
            assert (first, second) == (True, False)
            assert path.exists()
        assert not path.exists()

    def test_who_does_not_get_it_leaves_the_file_to_its_owner(self, tmp_path):
        path = tmp_path / "lock"
        with files.claimed(path) as first:
            with files.claimed(path, timeout=0.05) as second:
                assert not second
            assert first
            assert path.exists()
            with files.claimed(path) as third:
                assert not third

    def test_the_file_is_gone_after_a_failure_too(self, tmp_path):
        with pytest.raises(ZeroDivisionError), files.claimed(tmp_path / "lock"):
            raise ZeroDivisionError
        assert not (tmp_path / "lock").exists()

    def test_what_somebody_dead_has_left_is_free(self, tmp_path):
        (tmp_path / "lock").touch()
        with files.claimed(tmp_path / "lock") as held:
            assert held

    def test_a_file_that_was_removed_by_its_owner_is_nobodys(
        self, tmp_path, monkeypatch
    ):
        """Who waited for it must not hold what no other can find."""
        path, asked = tmp_path / "lock", []
        really = files._lock_within

        def lock(descriptor, timeout):
            asked.append(descriptor)
            if len(asked) == 1:  # its owner is done just now
                path.unlink()
            return really(descriptor, timeout)

        monkeypatch.setattr(files, "_lock_within", lock)
        with files.claimed(path) as first, files.claimed(path) as second:
            assert (first, second) == (True, False)

    def test_many_threads_have_it_one_after_the_other(self, tmp_path):
        path = tmp_path / "lock"
        inside, most = [], []

        def work():
            for _ in range(60):
                with files.claimed(path, timeout=20) as held:
                    assert held
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(most) == 240
        assert max(most) == 1
        assert not path.exists()

    def test_it_is_an_os_error_where_it_cannot_be_made(self, tmp_path):
        with (
            pytest.raises(FileNotFoundError),
            files.claimed(tmp_path / "missing" / "lock"),
        ):
            raise AssertionError("there is no such directory")


def test_the_home_is_what_the_environment_says():
    assert files.home_directory({"HOME": "/somewhere"}) == Path("/somewhere")


def test_without_home_the_user_database_decides():
    assert files.home_directory({}, user=0) == Path("/root")


def test_a_user_whom_nobody_knows_has_no_home():
    """A container that runs under any number."""
    assert files.home_directory({}, user=1_234_567_891) is None


def test_free_space_is_what_may_be_written(tmp_path):
    space = os.statvfs(tmp_path)
    expected = space.f_bavail * space.f_frsize
    assert abs(files.free_space(tmp_path) - expected) < 1 << 30


def test_a_user_has_a_number():
    assert files.user_id() == os.getuid()


FAMILY = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True); time.sleep(60)\n"
)


@pytest.fixture(params=[True, False], ids=["leader", "not a leader"])
def family(request):
    """A process, whether it leads a group, and the id of the child that it started."""
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY],
        stdout=subprocess.PIPE,
        start_new_session=request.param,
    )
    grandchild = int(process.stdout.readline())
    yield process, request.param, grandchild
    process.stdout.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(grandchild, signal.SIGKILL)


def test_a_group_is_killed_and_never_our_own(family):
    """A process that leads no group is in ours, so it goes alone."""
    process, leads, grandchild = family
    processes.kill_group(process)
    assert process.wait(10) == -signal.SIGKILL
    assert is_gone(grandchild) == leads


def is_gone(pid):
    """True once the process has ended, or is about to be reaped."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_killing_what_has_ended_harms_nobody():
    process = subprocess.Popen(["true"], start_new_session=True)
    process.wait()
    processes.kill_group(process)
