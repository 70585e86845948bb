"""Files of users: what is understood, what is refused, who gets in."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import stat
import sys
import threading
import time
from pathlib import Path

import pytest
from conformance import Client, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from registries import run, write_htpasswd, write_users

from dockerpush.server import Registry, RegistryServer, ServerError, logins
from dockerpush.server.logins import PasswordFile, parse_basic
from dockerpush.server.messages import (
    Disconnected,
    ProtocolError,
    UserFileError,
    UserNotFound,
)
from dockerpush.server.users import (
    MOST_MEMORY,
    bcrypt_check,
    parse_lines,
    put_user,
    read_htpasswd,
    read_users,
    remove_user,
    scrypt_check,
)

PASSWORDS = ["secret", "p:a s$s%", "pässwörd", "x" * 100, "-"]
BCRYPT = "$2y$05$" + "x" * 53
LINE = "scrypt:{}:{}:{}:" + "A" * 22 + "==:" + "A" * 43 + "="


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture(params=["htpasswd", "users"])
def kind(request) -> str:
    """Each kind of file; the name of the option, too."""
    if request.param == "htpasswd":
        pytest.importorskip("bcrypt")
    return request.param


def written(kind: str, path: Path, users: dict[str, str]) -> Path:
    return {"htpasswd": write_htpasswd, "users": write_users}[kind](path, users)


def read(kind: str, path: Path) -> PasswordFile:
    return {"htpasswd": read_htpasswd, "users": read_users}[kind](path)


@pytest.mark.parametrize("password", PASSWORDS)
def test_what_was_written_is_understood(kind, password, tmp_path):
    users = read(kind, written(kind, tmp_path / "file", {"alice": password}))
    for _ in range(2):  # the second is answered from memory
        assert users.accepts(basic("alice", password))
        assert not users.accepts(basic("alice", "y" + password))
        assert not users.accepts(basic("alice", ""))
        assert not users.accepts(basic("bob", password))


class TestChecks:
    """What the slow part is asked, by a check that counts."""

    def users(self) -> tuple[PasswordFile, list[bytes]]:
        asked: list[bytes] = []

        def check(password: bytes) -> bool:
            asked.append(password)
            return password == b"secret"

        def wrong(password: bytes) -> bool:
            asked.append(password)
            return False

        return PasswordFile({"alice": check, "bob": wrong}), asked

    def test_a_right_password_is_checked_once(self):
        users, asked = self.users()
        for _ in range(3):
            assert users.accepts(basic("alice", "secret"))
        assert asked == [b"secret"]

    def test_a_wrong_one_is_remembered_for_a_while(self, monkeypatch):
        users, asked = self.users()
        for word in ("wrong", "secret", "wrong", "wrong"):
            assert users.accepts(basic("alice", word)) == (word == "secret")
        assert asked == [b"wrong", b"secret"]
        later = time.monotonic() + logins.FAILURE_MEMORY
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert not users.accepts(basic("alice", "wrong"))
        assert asked == [b"wrong", b"secret", b"wrong"]

    def test_an_unknown_user_costs_a_check_and_gets_in_by_no_password(self):
        users, asked = self.users()
        for name in ("mallory", "eve"):
            assert not users.accepts(basic(name, "secret"))
        assert len(asked) == 2
        assert not users.accepts(basic("bob", "secret"))

    def test_an_unknown_user_costs_as_much_as_one_of_the_known_each_time(self):
        """So that neither the time nor its changes tell who is known."""
        asked: list[str] = []

        def check_of(name: str):
            return lambda _: asked.append(name) or False

        users = PasswordFile({name: check_of(name) for name in ("slow", "quick")})
        for unknown in ("x", "y", "z", "u", "v", "w"):
            asked.clear()
            for attempt in range(2):
                users._failures = logins.Memory()
                assert not users.accepts(basic(unknown, str(attempt)))
            assert len(asked) == 2 and len(set(asked)) == 1

    def test_no_password_is_kept_in_clear(self):
        users, _ = self.users()
        assert users.accepts(basic("alice", "secret"))
        kept = repr(vars(users))
        assert "secret" not in kept
        for plain in (hashlib.sha256(b"secret"), hashlib.sha1(b"secret")):
            assert repr(plain.digest())[2:-1] not in kept

    def test_many_at_once_pay_for_one_check(self):
        users, asked = self.users()
        answers: list[bool] = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(users.accepts(basic("alice", "secret")))
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [True] * 8
        assert asked == [b"secret"]


class Slow:
    """A check that counts, and takes its time or waits until it may go on."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.asked: list[bytes] = []
        self.most = 0
        self.may_end = threading.Event()
        self._seconds = seconds
        self._running = 0
        self._lock = threading.Lock()

    def __call__(self, password: bytes) -> bool:
        with self._lock:
            self.asked.append(password)
            self._running += 1
            self.most = max(self.most, self._running)
        self.may_end.wait(self._seconds)
        with self._lock:
            self._running -= 1
        return password == b"secret"


@contextlib.contextmanager
def guessing(users: PasswordFile, count: int, *, names: int = 1, address="192.0.2.1"):
    """*count* threads that try one password after the other; what became of them."""
    found: list[object] = []
    stop = threading.Event()

    def guess(number: int) -> None:
        for attempt in itertools.count():
            if stop.is_set():
                return
            header = basic(f"alice{number % names or ''}", f"{number}-{attempt}")
            try:
                found.append(users.accepts(header, address))
            except (ProtocolError, Disconnected) as error:
                found.append(error)

    threads = [threading.Thread(target=guess, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        users.close()
        for thread in threads:
            thread.join(20)


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestGuessers:
    """64 at once; each has another password each time."""

    @pytest.mark.parametrize("names", [1, 64])
    @pytest.mark.parametrize("address", ["192.0.2.1", "192.0.2.2"])
    def test_a_right_login_overtakes_them(self, names, address):
        """From their own address and to the user they guess at, too."""
        slow = Slow()
        users = PasswordFile({"alice": slow})
        with guessing(users, 64, names=names):
            wait_until(lambda: len(slow.asked) > 20)
            before = len(slow.asked)
            assert users.accepts(basic("alice", "secret"), address)
            assert slow.asked.index(b"secret") - before < 24
            assert users.accepts(basic("alice", "secret"), address)
        assert slow.most == 2

    @pytest.mark.long
    def test_their_answers_come_later_each_time(self):
        """So that few checks are made for many guesses."""
        slow = Slow(0.001)
        users = PasswordFile({"alice": slow})
        with guessing(users, 8) as found:
            wait_until(lambda: len(found) > 8)
            time.sleep(0.5)
            assert len(slow.asked) < 60
        assert not any(one is True for one in found)

    def test_who_waits_too_long_in_line_is_asked_to_come_back(self):
        slow = Slow(20)
        users = PasswordFile({"alice": slow})
        with guessing(users, logins.QUEUE + 4) as found:
            wait_until(lambda: found)
            assert isinstance(found[0], ProtocolError)
            assert found[0].status == 429
            assert found[0].code == "TOOMANYREQUESTS"
            assert found[0].headers["Retry-After"] == "1"
            slow.may_end.set()

    def test_nothing_that_waits_outlives_the_server(self):
        slow = Slow(20)
        users = PasswordFile({"alice": slow})
        with guessing(users, 20) as found:
            wait_until(lambda: len(slow.asked) == 2)
            users.close()
            wait_until(lambda: len(found) >= 20)
            assert all(isinstance(one, Disconnected) for one in found)
        assert len(slow.asked) == 2
        slow.may_end.set()

    def test_what_is_remembered_of_them_has_a_bound(self):
        memory = logins.Memory()
        for number in range(2 * logins.REMEMBERED):
            memory.add(str(number))
        assert len(vars(memory)["_found"]) == logins.REMEMBERED
        assert memory.count(str(number)) == 1 and memory.count("0") == 0


class TestHtpasswd:
    @pytest.mark.parametrize("cost", [4, 5, 6])
    def test_any_cost_and_any_form_of_bcrypt(self, cost):
        pytest.importorskip("bcrypt")
        said = run("htpasswd", "-nbBC", cost, "alice", "secret").decode().strip()
        stored = said.partition(":")[2]
        for form in ("$2y$", "$2b$", "$2a$"):
            check = bcrypt_check(stored.replace("$2y$", form))
            assert check(b"secret")
            assert not check(b"Secret")
            assert not check(b"secret\0")

    def test_72_bytes_count(self):
        """As in every implementation, so that the same files work."""
        pytest.importorskip("bcrypt")
        said = run("htpasswd", "-nbB", "alice", "x" * 72).decode().strip()
        check = bcrypt_check(said.partition(":")[2])
        assert check(b"x" * 80)
        assert not check(b"x" * 71)

    def test_a_salt_that_the_package_refuses_lets_nobody_in(self, monkeypatch):
        class Strict:
            @staticmethod
            def checkpw(password: bytes, stored: bytes) -> bool:
                raise ValueError("Invalid salt")

        monkeypatch.setitem(sys.modules, "bcrypt", Strict)
        assert not bcrypt_check(BCRYPT)(b"secret")

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("alice:secret", "no bcrypt hash"),
            ("alice:", "no bcrypt hash"),
            ("alice", "no bcrypt hash"),
            ("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "no bcrypt hash"),
            ("alice:$apr1$salt$" + "x" * 22, "no bcrypt hash"),
            ("alice:rl.3StKT.4T8M", "no bcrypt hash"),
            ("alice:$2y$05$tooshort", "no bcrypt hash"),
            ("alice:$6$salt$" + "x" * 86, "no bcrypt hash"),
            ("alice:$2y$03$" + "x" * 53, "cost 3"),
            ("alice:$2y$18$" + "x" * 53, "cost 18"),
            (f":{BCRYPT}", "no name"),
            (BCRYPT, "no bcrypt hash"),
        ],
    )
    def test_a_line_that_cannot_be_checked_is_refused(self, line, complaint):
        """By its number and name, with what to do, and never by its hash."""
        with pytest.raises(UserFileError) as caught:
            parse_lines(["", line], "users", bcrypt_check)
        user, _, stored = line.partition(":")
        message = str(caught.value)
        assert "users, line 2" in message and complaint in message
        assert not stored or stored not in message
        assert user == "alice" or not user or user not in message

    def test_without_the_package_the_line_is_refused(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "bcrypt", None)
        with pytest.raises(UserFileError, match=r"pip install 'dockerpush\[serve\]'"):
            parse_lines([f"alice:{BCRYPT}"], "users", bcrypt_check)

    def test_a_user_who_is_there_twice_is_refused(self):
        pytest.importorskip("bcrypt")
        with pytest.raises(UserFileError, match=r"line 3 .*earlier line has this user"):
            lines = [f"alice:{BCRYPT}", "# why", f"alice:{BCRYPT}"]
            parse_lines(lines, "users", bcrypt_check)


class TestOwnFile:
    def test_users_are_added_replaced_and_removed(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("# who may push\n")
        assert not put_user(path, "alice", b"one")
        assert not put_user(path, "bob", b"two")
        assert put_user(path, "alice", b"three")
        users = read_users(path)
        assert [users.accepts(basic("alice", word)) for word in ("one", "three")] == [
            False,
            True,
        ]
        assert users.accepts(basic("bob", "two"))
        remove_user(path, "alice")
        assert not read_users(path).accepts(basic("alice", "three"))
        with pytest.raises(UserNotFound, match="no user 'alice'"):
            remove_user(path, "alice")
        assert path.read_text().startswith("# who may push\nbob:scrypt:16384:8:1:")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["file"]

    def test_the_same_password_has_another_hash_for_each(self, tmp_path):
        path = write_users(tmp_path / "file", {"alice": "secret", "bob": "secret"})
        hashes = [line.rpartition(":")[2] for line in path.read_text().splitlines()]
        assert len(set(hashes)) == 2
        assert "secret" not in path.read_text()

    def test_a_link_stays_one(self, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "file")
        for name in ("alice", "bob"):
            put_user(link, name, b"secret")
        assert link.is_symlink()
        assert read_users(tmp_path / "file").accepts(basic("bob", "secret"))

    def test_many_runs_at_once_lose_nobody(self, tmp_path):
        path, names = tmp_path / "file", [f"user{number}" for number in range(12)]
        threads = [
            threading.Thread(target=put_user, args=(path, name, name.encode()))
            for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = sorted(line.partition(":")[0] for line in path.read_text().splitlines())
        assert found == sorted(names)

    @pytest.mark.parametrize(
        "name", ["", "a:b", " a", "a ", "#a", "a\nb", "a\x85b", "x" * 256, "\ud800"]
    )
    def test_a_name_that_would_not_be_read_again_is_refused(self, name, tmp_path):
        with pytest.raises(UserFileError, match="cannot be the name"):
            put_user(tmp_path / "file", name, b"secret")
        assert not (tmp_path / "file").exists()

    @settings(deadline=None, max_examples=30)
    @given(name=st.text(min_size=1, max_size=20))
    def test_a_name_is_read_as_it_was_written_or_refused(self, tmp_path_factory, name):
        path = tmp_path_factory.mktemp("users") / "file"
        try:
            put_user(path, name, b"secret")
        except UserFileError:
            return
        assert read_users(path).accepts(basic(name, "secret"))

    @pytest.mark.parametrize("broken", ["alice", f"alice:{BCRYPT}", b"\xff"])
    def test_what_cannot_be_read_is_not_written_over(self, broken, tmp_path):
        path = tmp_path / "file"
        raw = broken if isinstance(broken, bytes) else broken.encode()
        path.write_bytes(raw)
        with pytest.raises(UserFileError):
            put_user(path, "bob", b"secret")
        assert path.read_bytes() == raw

    @pytest.mark.parametrize(
        "numbers",
        [
            *[(0, 8, 1), (1, 8, 1), (3, 8, 1), (2**14, 0, 1), (2**14, 8, 0)],
            *[(2**14, 8, 5), (2**17, 8, 1), (2**29, 8, 1), (2, 999_999_999, 1)],
        ],
    )
    def test_no_line_asks_for_more_than_a_check_may_take(self, numbers):
        with pytest.raises(UserFileError, match=r"is not checked here: at most 64 MiB"):
            scrypt_check(LINE.format(*numbers))

    def test_other_parameters_within_the_limits_are_checked(self):
        assert not scrypt_check(LINE.format(2**15, 8, 2))(b"secret")
        assert not scrypt_check(LINE.format(MOST_MEMORY // 2048, 8, 1))(b"secret")

    @pytest.mark.parametrize(
        "stored",
        [
            *["", "secret", BCRYPT, "scrypt", LINE.format(2**14, 8, 1) + "x"],
            *["scrypt:16384:8:1::", "scrypt:16384:8:1:AAAA:AAAA"],
            "scrypt:16384:8:1:" + "A" * 22 + "==:",
        ],
    )
    def test_a_line_of_another_kind_is_refused(self, stored):
        with pytest.raises(UserFileError, match="serve --add-user") as caught:
            parse_lines([f"alice:{stored}"], "users", scrypt_check)
        assert "users, line 1 ('alice')" in str(caught.value)
        assert not stored or "AAAA" not in str(caught.value)

    @pytest.mark.parametrize("fault", ["absent", "refused"])
    def test_a_python_without_scrypt_says_so_at_the_start(
        self, fault, tmp_path, monkeypatch
    ):
        path = write_users(tmp_path / "file", {"alice": "secret"})

        def refused(*_: object, **__: object) -> bytes:
            raise ValueError("unsupported")

        if fault == "absent":
            monkeypatch.delattr(hashlib, "scrypt")
        else:
            monkeypatch.setattr(hashlib, "scrypt", refused)
        with pytest.raises(UserFileError, match="no scrypt"):
            read_users(path)
        with pytest.raises(UserFileError, match="no scrypt"):
            put_user(path, "bob", b"secret")


READERS = pytest.mark.parametrize("reader", [read_htpasswd, read_users])


@READERS
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "directory"])
def test_a_file_that_cannot_be_read_is_refused(reader, content, tmp_path):
    path = tmp_path / "users"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.mkdir()
    with pytest.raises(UserFileError, match="cannot read the password file"):
        reader(path)


@READERS
@pytest.mark.parametrize("content", ["", "\n", "# alice:secret\n"])
def test_a_file_without_users_is_refused(reader, content, tmp_path):
    (tmp_path / "users").write_text(content)
    with pytest.raises(UserFileError, match="no user in this file"):
        reader(tmp_path / "users")


@READERS
def test_a_file_that_is_not_there_is_refused(reader, tmp_path):
    with pytest.raises(UserNotFound, match="there is no password file"):
        reader(tmp_path / "users")


@READERS
def test_a_file_without_end_is_refused(reader):
    with pytest.raises(UserFileError, match="larger than"):
        reader(Path("/dev/zero"))


def test_two_files_at_once_are_refused(tmp_path):
    path = write_users(tmp_path / "file", {"alice": "secret"})
    with pytest.raises(ServerError, match="give one"):
        RegistryServer(Registry(tmp_path / "r"), htpasswd=path, users=path)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_header_breaks_the_parser(text):
    parse_basic(text)
    parse_basic("Basic " + text)


@pytest.mark.parametrize(
    "header", [None, "", "Basic", "Basic !", "Bearer x", basic("alice", "")[:-4]]
)
def test_a_header_without_credentials_is_nobody(header):
    assert parse_basic(header) is None


def test_everything_asks_for_a_password(kind, tmp_path):
    """401 with a challenge, on every endpoint, and nothing happens before it."""
    users = written(kind, tmp_path / "users", {"alice": "secret"})
    good, bad = basic("alice", "secret"), basic("alice", "wrong")
    with serving(tmp_path / "registry", **{kind: users}) as (_, client):
        for method, target in (
            ("GET", "/v2/"),
            ("GET", "/v2/_catalog"),
            ("GET", "/nonsense"),
            ("POST", "/v2/a/blobs/uploads/"),
            ("PUT", "/v2/a/manifests/v1"),
            ("DELETE", "/v2/a/manifests/v1"),
        ):
            for headers in ({}, {"Authorization": bad}):
                answer = client(method, target, b"body", **headers)
                assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
                assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert not (tmp_path / "registry/repositories").exists()
        assert client("GET", "/v2/", Authorization=good).status == 200
        started = client("POST", "/v2/a/blobs/uploads/", b"", Authorization=good)
        assert started.status == 202


def test_who_asks_first_is_refused_before_sending_the_body(tmp_path):
    """A big layer is not sent twice because of a password."""
    users = write_users(tmp_path / "users", {"alice": "secret"})
    with serving(tmp_path / "registry", users=users) as (server, _):
        client = Client(server.host)
        client.connection.putrequest("PUT", "/v2/a/blobs/uploads/x")
        client.connection.putheader("Expect", "100-continue")
        client.connection.putheader("Content-Length", "5000000000")
        client.connection.endheaders()
        assert client.connection.getresponse().status == 401
        client.close()
