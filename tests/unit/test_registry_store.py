"""What login keeps: never lost, never readable by others, never written over."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dockerpush.credentials.credential_helpers import CredentialHelpers
from dockerpush.credentials.credential_store import AuthFile, CredentialStore
from dockerpush.credentials.identity import Secret
from dockerpush.errors import HelperFailed, StateError
from dockerpush.system.files import locked

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
PASSWORD = "p:a s$s%ü\n"
HUB_KEY = "https://index.docker.io/v1/"


@pytest.fixture
def store(tmp_path: Path) -> CredentialStore:
    return CredentialStore(tmp_path / "state" / "credentials.json")


@pytest.fixture
def auth_file(tmp_path: Path) -> AuthFile:
    return AuthFile(tmp_path / "auth.json", CredentialHelpers({"PATH": str(tmp_path)}))


def written(path: Path) -> Any:
    return json.loads(path.read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def encoded(pair: str) -> str:
    return base64.b64encode(pair.encode()).decode()


class TestCredentialStore:
    def test_what_is_saved_is_found_again(self, store: CredentialStore) -> None:
        assert (store.load(), store.list(), store.find("r:5000")) == ({}, (), None)
        store.save("r:5000", "alice", Secret(PASSWORD))
        store.save("q", "bob", Secret(""))
        found = store.find("r:5000")
        assert found is not None
        assert (found.username, found.password.reveal()) == ("alice", PASSWORD)
        assert found.source == f"{store.path}, from login to r:5000"
        assert store.list() == ("r:5000", "q")
        assert written(store.path)["r:5000"] == {
            "username": "alice",
            "password": PASSWORD,
        }

    def test_a_registry_has_one_name(self, store: CredentialStore) -> None:
        store.save("https://Index.docker.io/v1/", "alice", Secret("1"))
        store.save("docker.io", "bob", Secret("2"))
        store.save("HTTPS://R.example/path", "eve", Secret("3"))
        assert store.list() == ("docker.io", "r.example")
        found = store.find("registry-1.docker.io")
        assert found is not None
        assert found.username == "bob"

    def test_nothing_of_another_host_is_found(self, store: CredentialStore) -> None:
        store.save("r.example", "alice", Secret("1"))
        for host in ("r.example:5000", "a.r.example", "r.exampl", "example"):
            assert store.find(host) is None

    @posix
    def test_only_the_owner_may_read(self, store: CredentialStore) -> None:
        store.save("r", "alice", Secret("1"))
        assert mode(store.path) == 0o600
        assert mode(store.path.parent) == 0o700
        store.path.chmod(0o644)
        store.save("r", "alice", Secret("2"))
        assert mode(store.path) == 0o600

    def test_the_newest_login_counts_and_is_the_last_listed(
        self, store: CredentialStore
    ) -> None:
        for registry, name in (("a", "old"), ("b", "bob"), ("a", "new")):
            store.save(registry, name, Secret("1"))
        assert store.list() == ("b", "a")
        assert store.load()["a"].username == "new"

    def test_what_we_do_not_know_is_kept(self, store: CredentialStore) -> None:
        store.path.parent.mkdir()
        strange = {"version": 7, "r": {"username": "x", "password": "y", "more": [1]}}
        store.path.write_text(json.dumps(strange))
        assert store.list() == ("r",)
        store.save("r", "alice", Secret("1"))
        store.save("q", "bob", Secret("2"))
        assert store.erase("q")
        assert written(store.path) == {
            "version": 7,
            "r": {"username": "alice", "password": "1", "more": [1]},
        }

    def test_erasing_says_whether_there_was_something(
        self, store: CredentialStore
    ) -> None:
        assert not store.erase("r")
        assert store.erase_all() == ()
        assert not store.path.parent.exists()
        for registry in ("r", "q", "docker.io"):
            store.save(registry, "alice", Secret("1"))
        assert store.erase(HUB_KEY)
        assert not store.erase("docker.io")
        assert store.erase_all() == ("r", "q")
        assert written(store.path) == {}

    @pytest.mark.parametrize(
        "content", ["{", '{"r": ', "[1]", '"secret-text"', "\x00", "[" * 100_000]
    )
    def test_a_broken_file_is_never_written_over(
        self, store: CredentialStore, content: str
    ) -> None:
        store.path.parent.mkdir()
        store.path.write_text(content)
        for change in (
            store.load,
            lambda: store.save("r", "alice", Secret("1")),
            lambda: store.erase("r"),
            store.erase_all,
        ):
            with pytest.raises(StateError, match="is left as it is") as caught:
                change()
            assert str(store.path) in str(caught.value)
            assert "secret-text" not in str(caught.value)
        assert store.path.read_text() == content

    @pytest.mark.parametrize("content", ["", " \n"])
    def test_an_empty_file_is_as_good_as_none(
        self, store: CredentialStore, content: str
    ) -> None:
        store.path.parent.mkdir()
        store.path.write_text(content)
        store.save("r", "alice", Secret("1"))
        assert store.list() == ("r",)

    def test_entries_of_another_form_are_no_credentials(
        self, store: CredentialStore
    ) -> None:
        store.path.parent.mkdir()
        store.path.write_text(
            '{"a": 1, "b": {}, "c": {"username": "x"}, "d": {"username": 1, '
            '"password": "y"}, "e": null}'
        )
        assert store.load() == {}

    def test_a_directory_that_cannot_be_made_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        store = CredentialStore(tmp_path / "file" / "credentials.json")
        with pytest.raises(StateError, match=r"credentials.json cannot be"):
            store.save("r", "alice", Secret("1"))

    def test_a_directory_in_its_place_is_reported(self, store: CredentialStore) -> None:
        store.path.mkdir(parents=True)
        with pytest.raises(StateError, match="cannot be read: is a directory"):
            store.save("r", "alice", Secret("1"))
        names = sorted(path.name for path in store.path.parent.iterdir())
        assert names == ["credentials.json", "credentials.json.lock"]

    def test_another_process_is_not_waited_for_without_end(
        self, tmp_path: Path
    ) -> None:
        store = CredentialStore(tmp_path / "credentials.json", timeout=0.05)
        held = locked(tmp_path / "credentials.json.lock", timeout=1)
        with held, pytest.raises(StateError, match="another process"):
            store.save("r", "alice", Secret("1"))
        assert not store.path.exists()

    @posix
    def test_links_in_a_circle_are_reported(self, tmp_path: Path) -> None:
        store = CredentialStore(tmp_path / "a")
        store.path.symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(store.path)
        with pytest.raises(StateError, match="cannot be"):
            store.save("r", "alice", Secret("1"))

    def test_logins_at_the_same_time_lose_nothing(self, store: CredentialStore) -> None:
        """Each of several processes saves several registries, and erases one."""
        code = (
            "import sys; from pathlib import Path\n"
            "from dockerpush.credentials.credential_store import CredentialStore\n"
            "from dockerpush.credentials.identity import Secret\n"
            "store = CredentialStore(Path(sys.argv[1]), timeout=60)\n"
            "for number in range(5):\n"
            "    store.save(f'{sys.argv[2]}-{number}', 'u', Secret('p'))\n"
            "    store.load()\n"
            "store.erase(f'{sys.argv[2]}-0')\n"
        )
        command = [sys.executable, "-c", code, str(store.path)]
        running = [subprocess.Popen([*command, f"r{number}"]) for number in range(6)]
        assert [process.wait(60) for process in running] == [0] * 6
        assert sorted(store.list()) == [
            f"r{process}-{number}" for process in range(6) for number in range(1, 5)
        ]
        left = sorted(path.name for path in store.path.parent.iterdir())
        assert left == ["credentials.json", "credentials.json.lock"]


class TestAuthFile:
    def test_it_has_the_form_of_dockers_file(self, auth_file: AuthFile) -> None:
        auth_file.save("r:5000", "alice", Secret(PASSWORD))
        auth_file.save("docker.io", "bob", Secret("2"))
        assert written(auth_file.path) == {
            "auths": {
                "r:5000": {"auth": encoded(f"alice:{PASSWORD}")},
                HUB_KEY: {"auth": encoded("bob:2")},
            }
        }

    def test_unknown_fields_are_kept(self, auth_file: AuthFile) -> None:
        auth_file.path.write_text(
            '{"HttpHeaders": {"X": "y"}, "auths": {"q": {"auth": "cTpx"}, "r": '
            '{"auth": "old", "identitytoken": "old", "email": "e"}}, "psFormat": "ü"}'
        )
        auth_file.save("r", "alice", Secret("1"))
        assert written(auth_file.path) == {
            "HttpHeaders": {"X": "y"},
            "auths": {
                "q": {"auth": "cTpx"},
                "r": {"auth": encoded("alice:1"), "email": "e"},
            },
            "psFormat": "ü",
        }

    def test_older_spellings_of_the_registry_are_replaced(
        self, auth_file: AuthFile
    ) -> None:
        """Else a reader that prefers the other spelling finds the old password."""
        old = {
            "docker.io": {},
            "index.docker.io": {},
            "docker.io/me": {},
            "https://r/v1/": {},
            "r/a": {},
        }
        auth_file.path.write_text(json.dumps({"auths": old}))
        auth_file.save("docker.io", "alice", Secret("1"))
        auth_file.save("r", "alice", Secret("1"))
        assert list(written(auth_file.path)["auths"]) == [
            "docker.io/me",
            "r/a",
            HUB_KEY,
            "r",
        ]

    def test_erasing_takes_every_spelling_out(self, auth_file: AuthFile) -> None:
        assert not auth_file.erase("r")
        auth_file.path.write_text(
            '{"auths": {"http://r": {}, "r": {}, "r/a": {}, "r:1": {}}}'
        )
        assert auth_file.erase("r")
        assert not auth_file.erase("r")
        assert list(written(auth_file.path)["auths"]) == ["r/a", "r:1"]

    @posix
    def test_mode_and_link_stay(self, tmp_path: Path, auth_file: AuthFile) -> None:
        auth_file.save("r", "alice", Secret("1"))
        assert mode(auth_file.path) == 0o600
        target = tmp_path / "elsewhere" / "config.json"
        target.parent.mkdir()
        auth_file.path.rename(target)
        target.chmod(0o640)
        auth_file.path.symlink_to(target)
        auth_file.save("q", "alice", Secret("1"))
        assert auth_file.path.is_symlink()
        assert list(written(target)["auths"]) == ["r", "q"]
        assert mode(target) == 0o640

    @pytest.mark.parametrize(
        "content",
        [
            "{",
            "[]",
            '{"auths": []}',
            '{"auths": "x"}',
            '{"auths":{"r":{}},"credHelpers":1}',
        ],
    )
    def test_a_broken_file_is_never_written_over(
        self, auth_file: AuthFile, content: str
    ) -> None:
        auth_file.path.write_text(content)
        with pytest.raises(StateError, match="is left as it is"):
            auth_file.save("r", "alice", Secret("1"))
        with pytest.raises(StateError, match="is left as it is"):
            auth_file.erase("r")
        assert auth_file.path.read_text() == content

    def test_null_stands_for_nothing(self, auth_file: AuthFile) -> None:
        auth_file.path.write_text('{"auths": null, "credHelpers": null}')
        auth_file.save("r", "alice", Secret("1"))
        assert list(written(auth_file.path)["auths"]) == ["r"]

    @posix
    @pytest.mark.parametrize(
        "names",
        [
            {"credsStore": "fake"},
            {"credHelpers": {"R:5000": "fake", "r": "other"}, "credsStore": "other"},
        ],
    )
    def test_a_helper_that_the_file_names_keeps_the_secret(
        self, tmp_path: Path, auth_file: AuthFile, names: dict[str, Any]
    ) -> None:
        log = tmp_path / "log"
        script = tmp_path / "docker-credential-fake"
        script.write_text(f'#!/bin/sh\necho "$@" >>{log}\n/bin/cat >>{log}\n')
        script.chmod(0o755)
        auth_file.path.write_text(json.dumps(names))
        auth_file.save("r:5000", "alice", Secret("secret"))
        assert written(auth_file.path)["auths"] == {"r:5000": {}}
        assert "secret" not in auth_file.path.read_text()
        verb, request = log.read_text().splitlines()
        assert verb == "store"
        assert json.loads(request) == {
            "ServerURL": "r:5000",
            "Username": "alice",
            "Secret": "secret",
        }
        log.unlink()
        assert auth_file.erase("r:5000")
        assert log.read_text() == "erase\nr:5000"

    def test_a_helper_that_fails_leaves_the_file_as_it_is(
        self, auth_file: AuthFile
    ) -> None:
        content = '{"credsStore": "missing", "auths": {"r": {"auth": "cTpx"}}}'
        auth_file.path.write_text(content)
        with pytest.raises(HelperFailed, match="not installed"):
            auth_file.save("r", "alice", Secret("secret"))
        with pytest.raises(HelperFailed, match="not installed"):
            auth_file.erase("r")
        assert auth_file.path.read_text() == content
