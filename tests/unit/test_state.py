"""State files: atomic, shared by many runs, never in the way."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dockerpush.state.directory import StateDirectory
from dockerpush.system import files as system_files

FILE = "some.json"


@pytest.fixture
def notices():
    return []


@pytest.fixture
def state(tmp_path, notices):
    return StateDirectory(tmp_path / "state", notices.append, lock_timeout=0.2)


def put(key, value):
    """A change that sets one key."""

    def change(record):
        record[key] = value
        return record

    return change


def files(state):
    return sorted(path.name for path in state.path.iterdir())


def test_the_environment_says_where_the_state_is(tmp_path):
    chosen = StateDirectory.locate({"DOCKERPUSH_STATE_DIR": "/a/b", "HOME": "/h"})
    assert chosen.path == Path("/a/b")
    relative = StateDirectory.locate({"DOCKERPUSH_STATE_DIR": "here"})
    assert relative.path == Path.cwd() / "here"


def test_without_a_choice_it_is_in_the_home():
    empty = {"DOCKERPUSH_STATE_DIR": "", "HOME": "/h"}
    assert StateDirectory.locate(empty).path == Path("/h/.dockerpush")


def test_without_home_the_user_database_says_where_it_is():
    """Cron and containers often set no HOME."""
    expected = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".dockerpush"
    assert StateDirectory.locate({}).path == expected
    assert StateDirectory.locate({"HOME": ""}).path == expected


def test_what_was_written_is_read(state, notices):
    assert state.read(FILE) == {}
    assert state.update(FILE, put("a", [1, "ü"]))
    assert state.update(FILE, put("b", None))
    assert state.read(FILE) == {"a": [1, "ü"], "b": None}
    assert notices == []


def test_directory_and_files_are_for_the_owner_alone(state):
    old = os.umask(0)
    try:
        state.update(FILE, put("a", 1))
    finally:
        os.umask(old)
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in state.path.iterdir()}
    assert modes == {0o600}


def test_a_file_that_others_could_read_is_closed_to_them_when_written(state):
    state.update(FILE, put("a", 1))
    (state.path / FILE).chmod(0o644)
    state.update(FILE, put("a", 2))
    assert stat.S_IMODE((state.path / FILE).stat().st_mode) == 0o600


def test_reading_makes_no_directory(state):
    state.read(FILE)
    assert not state.path.exists()


def test_a_change_that_changes_nothing_writes_nothing(state):
    state.update(FILE, put("a", 1))
    before = (state.path / FILE).stat()
    state.update(FILE, put("a", 1))
    after = (state.path / FILE).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


BROKEN = [
    b"",
    b"{",
    b'{"a": 1',
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe",
    b"[" * 100_000,
    b" " * (5 << 20) + b"{}",
]


@pytest.mark.parametrize("raw", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_set_aside_with_one_notice(state, notices, raw):
    """The content is kept for whoever wants to mend it."""
    state.path.mkdir()
    (state.path / FILE).write_bytes(raw)
    assert state.read(FILE) == {}
    assert state.read(FILE) == {}
    assert (state.path / f"{FILE}.broken").read_bytes() == raw
    assert not (state.path / FILE).exists()
    [notice] = notices
    assert str(state.path / FILE) in notice.text
    assert "renamed to some.json.broken" in notice.text
    assert "\n" not in notice.text and len(notice.text) < 400


def test_an_update_of_a_broken_file_starts_afresh(state, notices):
    state.path.mkdir()
    (state.path / FILE).write_bytes(b"{")
    assert state.update(FILE, put("a", 1))
    assert state.read(FILE) == {"a": 1}
    assert len(notices) == 1


@pytest.fixture
def unwritable(tmp_path):
    """A path below which nobody can make a directory, not even root."""
    (tmp_path / "file").write_bytes(b"")
    return tmp_path / "file" / "state"


def test_a_directory_that_cannot_be_made_stops_nothing(unwritable, notices):
    """One notice for each file, however often it is tried."""
    state = StateDirectory(unwritable, notices.append)
    assert state.read(FILE) == {}
    assert not state.update(FILE, put("a", 1))
    assert not state.update(FILE, put("b", 1))
    [notice] = notices
    assert notice.text.startswith(f"{unwritable / FILE}: cannot be written: ")
    assert notice.text.endswith("; continuing without it")


def test_a_directory_in_place_of_the_file_stops_nothing(state, notices):
    (state.path / FILE).mkdir(parents=True)
    assert state.read(FILE) == {}
    assert not state.update(FILE, put("a", 1))
    assert ["is a directory" in notice.text for notice in notices] == [True, True]


def test_a_read_only_directory_stops_nothing(state):
    """Root may write anywhere, so it becomes somebody else first."""
    state.update(FILE, put("a", 1))
    (state.path / FILE).chmod(0o444)
    state.path.chmod(0o555)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from dockerpush.state.directory import StateDirectory\n"
        "os.chdir(sys.argv[1])\n"
        "os.getuid() or os.setuid(65534)\n"
        "state = StateDirectory(Path(), lambda notice: print(notice.text))\n"
        "print(state.read('some.json'), state.update('some.json', lambda r: {'b': 2}))"
    )
    said = child(script, state.path)
    state.path.chmod(0o700)
    assert said == [
        "some.json: cannot be written: permission denied; continuing without it",
        "{'a': 1} False",
    ]


def test_a_lock_that_another_run_keeps_is_not_waited_for_forever(state, notices):
    state.update(FILE, put("a", 1))
    begun = time.monotonic()
    with system_files.locked(state.path / f".{FILE}.lock", timeout=0):
        assert not state.update(FILE, put("a", 2))
    assert time.monotonic() - begun < 3
    assert "another process holds this lock" in notices[0].text
    assert state.read(FILE) == {"a": 1}


def test_a_broken_file_under_anothers_lock_is_left_where_it_is(state, notices):
    state.update(FILE, put("a", 1))
    (state.path / FILE).write_bytes(b"{")
    with system_files.locked(state.path / f".{FILE}.lock", timeout=0):
        assert state.read(FILE) == {}
    assert "cannot be renamed" in notices[0].text
    assert (state.path / FILE).read_bytes() == b"{"


def test_the_rest_of_a_killed_run_is_in_nobodys_way(state):
    state.path.mkdir()
    (state.path / f".{FILE}.part").write_bytes(b"half")
    assert state.update(FILE, put("a", 1))
    assert files(state) == [f".{FILE}.lock", FILE]


def test_a_failed_write_leaves_the_old_file_and_no_other(state):
    """A change that cannot be written as JSON stands for any failure half-way."""
    state.update(FILE, put("a", 1))
    with pytest.raises(TypeError):
        state.update(FILE, put("a", object()))
    assert state.read(FILE) == {"a": 1}
    assert files(state) == [f".{FILE}.lock", FILE]


def test_a_full_disk_leaves_the_old_file_and_no_other(state, notices):
    """RLIMIT_FSIZE makes a long write fail as a full disk does."""
    state.update(FILE, put("a", 1))
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from dockerpush.state.directory import StateDirectory\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "state = StateDirectory(Path(sys.argv[1]), lambda n: print(n.text))\n"
        "print(state.update('some.json', lambda r: {'b': 'x' * 1000}))\n"
    )
    said = child(script, state.path)
    assert "file too large" in said[0] and said[1] == "False"
    assert state.read(FILE) == {"a": 1}
    assert files(state) == [f".{FILE}.lock", FILE]


def child(script, *arguments):
    """The lines that *script* prints, run by this Python."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout.splitlines()


WRITER = """
import sys
from pathlib import Path
from dockerpush.state.directory import StateDirectory
state = StateDirectory(Path(sys.argv[1]), print, lock_timeout=60)
for number in range(5):
    def change(record):
        record[f"{sys.argv[2]}-{number}"] = "x" * 2000
        return record
    state.update("some.json", change)
    assert state.read("some.json")
"""


def test_twenty_runs_at_once_lose_nothing_of_each_others(state):
    """Readers meanwhile never see half a file."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(state.path), str(number)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for number in range(20)
    ]
    while any(writer.poll() is None for writer in writers):
        state.read(FILE)
        time.sleep(0.002)
    assert [writer.communicate()[0] for writer in writers] == [b""] * 20
    assert [writer.returncode for writer in writers] == [0] * 20
    expected = {f"{run}-{number}" for run in range(20) for number in range(5)}
    assert state.read(FILE).keys() == expected
    assert files(state) == [f".{FILE}.lock", FILE]


def test_the_file_is_json_that_people_can_read(state):
    state.update(FILE, put("a", "ü"))
    state.update(FILE, put("b", {"c": 1, "d": [2]}))
    text = (state.path / FILE).read_text("ascii")
    assert json.loads(text) == {"a": "ü", "b": {"c": 1, "d": [2]}}
    assert text.splitlines() == ['{"a": "\\u00fc",', '"b": {"c": 1,', '"d": [2]}}']


def test_the_file_is_written_by_the_fast_half_of_json(state, monkeypatch):
    """The other half takes milliseconds for each image of a sync."""
    monkeypatch.setattr(json.encoder, "_make_iterencode", None)
    state.update(FILE, put("a", {"b": [1]}))
    assert state.read(FILE) == {"a": {"b": [1]}}
