"""Credential helpers, as real programs: also such as fail, hang or are not there."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Callable

import pytest

from dockerpush.credentials.credential_helpers import CredentialHelpers
from dockerpush.credentials.identity import Credentials, Secret
from dockerpush.errors import Cancelled, HelperFailed
from dockerpush.system.cancellation import Cancellation

pytestmark = pytest.mark.skipif(os.name != "posix", reason="helpers are shell scripts")

Install = Callable[[str], None]


@pytest.fixture
def helpers(tmp_path: Path) -> CredentialHelpers:
    (tmp_path / "bin").mkdir()
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    return CredentialHelpers({"PATH": path, "KEYCHAIN": str(tmp_path)}, timeout=20)


@pytest.fixture
def install(tmp_path: Path, helpers: CredentialHelpers) -> Install:
    """Make ``docker-credential-fake`` of a shell script."""

    def write(script: str) -> None:
        program = tmp_path / "bin" / "docker-credential-fake"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return write


def test_a_user_and_a_password_are_read(
    helpers: CredentialHelpers, install: Install
) -> None:
    install('echo \'{"ServerURL": "r", "Username": "alice", "Secret": "p:w"}\'')
    source = "docker-credential-fake"
    expected = Credentials("alice", Secret("p:w"), source=source)
    assert helpers.get("fake", "r:5000") == expected


def test_the_user_token_means_an_identity_token(
    helpers: CredentialHelpers, install: Install
) -> None:
    install('echo \'{"Username": "<token>", "Secret": "refresh"}\'')
    found = helpers.get("fake", "r")
    assert found is not None
    assert found.identity_token.reveal() == "refresh"
    assert (found.username, bool(found.password)) == ("", False)


@pytest.mark.parametrize(
    "script",
    [
        "echo 'credentials not found in native keychain'; exit 1",
        "printf 'credentials not found in native keychain'; exit 1",
        'echo \'{"Username": "", "Secret": ""}\'',
        "echo '{}'",
    ],
)
def test_nothing_kept_is_no_error(
    helpers: CredentialHelpers, install: Install, script: str
) -> None:
    install(script)
    assert helpers.get("fake", "r") is None


def test_it_gets_the_server_and_the_secret_on_its_input_alone(
    tmp_path: Path, helpers: CredentialHelpers, install: Install
) -> None:
    log = tmp_path / "log"
    install(
        '{ echo "$@"; tr "\\0" " " </proc/$$/cmdline; cat; echo; } >>"$KEYCHAIN/log"'
    )
    helpers.store("fake", "r:5000", "alice", Secret("s3cret"))
    argv, rest = log.read_text().split("\n", 1)
    command, _, request = rest.partition("{")
    assert argv == "store"
    assert "s3cret" not in command
    assert '"Secret": "s3cret"' in request
    log.unlink()
    helpers.erase("fake", "r:5000")
    assert log.read_text().startswith("erase\n")
    assert log.read_text().endswith("r:5000\n")


def test_erasing_what_it_does_not_know_is_no_error(
    helpers: CredentialHelpers, install: Install
) -> None:
    install("echo 'credentials not found in native keychain'; exit 1")
    helpers.erase("fake", "r")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'no keychain'; exit 1", "get: no keychain"),
        ("echo 'gpg: locked' >&2; exit 2", "get: gpg: locked"),
        ("exit 3", "get: exit status 3"),
        ("kill -9 $$", "get: exit status -9"),
        ("echo 'one'; echo 'two'; exit 1", "get: one two"),
        ("""echo '{"Secret": "s3cret"}'; exit 1""", "is not shown"),
        ("echo 's3cret'", "its answer is not valid"),
        ("echo '[\"s3cret\"]'", "its answer is not valid"),
        ("""echo '{"Secret": ["s3cret"]}'""", "its answer is not valid"),
        ("printf '\\377\\376'; exit 1", "get: "),
    ],
)
def test_a_failure_is_one_line_without_secrets(
    helpers: CredentialHelpers, install: Install, script: str, said: str
) -> None:
    install(script)
    with pytest.raises(HelperFailed) as caught:
        helpers.get("fake", "r")
    text = str(caught.value)
    assert text.startswith("credential helper docker-credential-fake get: ")
    assert said in text
    assert "s3cret" not in text
    assert "\n" not in text


def test_a_helper_that_repeats_the_secret_is_not_quoted(
    helpers: CredentialHelpers, install: Install
) -> None:
    install("echo cannot keep s3cret; exit 1")
    with pytest.raises(HelperFailed, match=r"cannot keep \*\*\*$"):
        helpers.store("fake", "r", "alice", Secret("s3cret"))


@pytest.mark.parametrize("suffix", ["missing", "", "../fake", "a/b", "-x", "a b", "\0"])
def test_a_missing_helper_is_reported(
    helpers: CredentialHelpers, install: Install, suffix: str
) -> None:
    """And a suffix never leads out of the PATH."""
    install("echo '{}'")
    with pytest.raises(HelperFailed, match="is not installed: install it, or take"):
        helpers.get(suffix, "r")


def test_a_program_that_cannot_be_run_is_reported(
    tmp_path: Path, helpers: CredentialHelpers
) -> None:
    program = tmp_path / "bin" / "docker-credential-fake"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with pytest.raises(HelperFailed, match="it cannot be run: no such file"):
        helpers.get("fake", "r")


def test_one_that_does_not_read_its_input_is_no_problem(
    helpers: CredentialHelpers, install: Install
) -> None:
    install("exec <&-; exit 0")
    helpers.store("fake", "r", "alice", Secret("x" * 1_000_000))


@pytest.mark.parametrize("parent", ["exit 0", "sleep 600"])
def test_one_that_hangs_is_ended_with_its_children(
    tmp_path: Path, install: Install, helpers: CredentialHelpers, parent: str
) -> None:
    """Also when only a child is left, that holds the pipe."""
    install(f'sleep 600 &\necho $! >"$KEYCHAIN/child"\n{parent}')
    impatient = CredentialHelpers(helpers.environ, timeout=0.5)
    began = time.monotonic()
    with pytest.raises(HelperFailed, match=r"no answer within 0\.5 s; unlock"):
        impatient.get("fake", "r")
    assert time.monotonic() - began < 10
    assert ends(int((tmp_path / "child").read_text()))


def test_cancelling_does_not_wait_for_it(
    tmp_path: Path, install: Install, helpers: CredentialHelpers
) -> None:
    install('echo $$ >"$KEYCHAIN/child"; sleep 600')
    with Cancellation() as cancellation:
        patient = CredentialHelpers(helpers.environ, 60, cancellation)
        timer = threading.Timer(0.3, cancellation.cancel)
        timer.start()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            patient.get("fake", "r")
        timer.join()
    assert time.monotonic() - began < 10
    assert ends(int((tmp_path / "child").read_text()))


def ends(pid: int) -> bool:
    """True when the process is gone, or dead and not yet collected, within 5 s."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False
