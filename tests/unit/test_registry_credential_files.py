"""Other people's credentials: where they are, which fit, and what is never used."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nobody import as_nobody

from dockerpush.credentials import credential_files
from dockerpush.credentials.credential_files import (
    CredentialFiles,
    CredentialPlaces,
)
from dockerpush.credentials.credential_helpers import CredentialHelpers
from dockerpush.credentials.credential_store import (
    CredentialStore,
    fitting,
    registry_name,
    server_name,
)
from dockerpush.credentials.identity import Credentials, Secret
from dockerpush.errors import UsageError
from dockerpush.events import Event, Notice

posix = pytest.mark.skipif(os.name != "posix", reason="helpers are shell scripts")
HUB_KEY = "https://index.docker.io/v1/"


def encoded(pair: str) -> str:
    return base64.b64encode(pair.encode()).decode()


def entry(user: str) -> dict[str, str]:
    return {"auth": encoded(f"{user}:secret of {user}")}


class Machine:
    """A home directory, an environment, and what is said about them."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.runtime = directory / "run"
        self.own = directory / "state" / "credentials.json"
        self.bin = directory / "bin"
        self.environ = {
            "XDG_RUNTIME_DIR": str(self.runtime),
            "PATH": f"{self.bin}:/usr/bin:/bin",
        }
        self.authfile: Path | None = None
        self.events: list[Event] = []

    def write(self, name: str, content: Any) -> Path:
        """A file below home; *content* is JSON, or text as it is."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text)
        return path

    def docker(self, content: Any) -> Path:
        return self.write(".docker/config.json", content)

    def helper(self, suffix: str, script: str) -> None:
        self.bin.mkdir(exist_ok=True)
        program = self.bin / f"docker-credential-{suffix}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def files(self) -> CredentialFiles:
        places = CredentialPlaces.from_environ(
            self.environ,
            home=self.home,
            uid=None,
            own=self.own,
            authfile=self.authfile,
        )
        helpers = CredentialHelpers(self.environ, timeout=0.5)
        return CredentialFiles(places, helpers, on_event=self.events.append)

    def find(
        self, registry: str = "r:5000", repository: str = "team/app"
    ) -> Credentials | None:
        return self.files()(registry, repository)

    def user(self, registry: str = "r:5000", repository: str = "team/app") -> str:
        """Whose credentials fit; the secret is checked to be theirs."""
        found = self.find(registry, repository)
        if found is None:
            return ""
        assert found.password.reveal() == f"secret of {found.username}"
        return found.username

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class TestPrecedence:
    def test_each_source_gives_way_to_the_one_before(self, machine: Machine) -> None:
        """Filled from the last to the first: the newest one always wins."""
        containers = {"auths": {"r:5000": entry("runtime")}}
        machine.write(".dockercfg", {"r:5000": entry("dockercfg")})
        assert machine.user() == "dockercfg"
        config = {"auths": {"r:5000": entry("config")}}
        machine.write(".config/containers/auth.json", config)
        assert machine.user() == "config"
        machine.write("../run/containers/auth.json", containers)
        assert machine.user() == "runtime"
        machine.docker({"auths": {"r:5000": entry("docker")}})
        assert machine.user() == "docker"
        elsewhere = machine.write("d/config.json", {"auths": {"r:5000": entry("dir")}})
        machine.environ["DOCKER_CONFIG"] = str(elsewhere.parent)
        assert machine.user() == "dir"
        text = json.dumps({"auths": {"r:5000": entry("text")}})
        machine.environ["DOCKER_AUTH_CONFIG"] = text
        assert machine.user() == "text"
        named = machine.write("named", {"auths": {"r:5000": entry("named")}})
        machine.environ["REGISTRY_AUTH_FILE"] = str(named)
        assert machine.user() == "named"
        CredentialStore(machine.own).save("r:5000", "own", Secret("secret of own"))
        assert machine.user() == "own"
        machine.authfile = machine.write("f", {"auths": {"r:5000": entry("flag")}})
        assert machine.user() == "flag"
        assert machine.notices == []

    @pytest.mark.parametrize("by_flag", [True, False])
    def test_a_named_file_shuts_out_those_after_it(
        self, machine: Machine, by_flag: bool
    ) -> None:
        machine.docker({"auths": {"r:5000": entry("docker")}})
        named = machine.write("named", {"auths": {"q": entry("q")}})
        if by_flag:
            CredentialStore(machine.own).save("r:5000", "own", Secret("x"))
            machine.authfile = named
        else:
            machine.environ["REGISTRY_AUTH_FILE"] = str(named)
        found = machine.find()
        assert found is None

    def test_a_file_that_has_nothing_gives_way(self, machine: Machine) -> None:
        machine.docker({"auths": {"q": entry("q"), "r:5000/other": entry("other")}})
        machine.write(".dockercfg", {"r:5000": entry("last")})
        assert machine.user() == "last"

    def test_a_missing_authfile_is_a_usage_error(self, machine: Machine) -> None:
        machine.authfile = machine.home / "none"
        with pytest.raises(UsageError, match=r"--authfile .*none': no such file"):
            machine.find()

    def test_the_source_of_what_was_found_is_named(self, machine: Machine) -> None:
        docker = machine.docker({"auths": {"https://r:5000/v2/": entry("alice")}})
        found = machine.find()
        assert found is not None
        assert found.source == f"{docker}, key 'https://r:5000/v2/'"


class TestPlaces:
    def test_without_xdg_runtime_dir_the_users_own_are_tried(self) -> None:
        """A login from a shell is seen by cron, too."""
        places = CredentialPlaces.from_environ({}, home=Path("/home/u"), uid=1000)
        assert list(map(str, places.files)) == [
            "/home/u/.docker/config.json",
            "/run/user/1000/containers/auth.json",
            "/run/containers/1000/auth.json",
            "/home/u/.config/containers/auth.json",
        ]
        assert places.dockercfg == Path("/home/u/.dockercfg")

    def test_variables_move_them(self) -> None:
        environ = {
            "DOCKER_CONFIG": "/d",
            "XDG_RUNTIME_DIR": "/x",
            "XDG_CONFIG_HOME": "/c",
        }
        places = CredentialPlaces.from_environ(environ, home=None, uid=1000)
        assert list(map(str, places.files)) == [
            "/d/config.json",
            "/x/containers/auth.json",
            "/c/containers/auth.json",
        ]
        assert places.dockercfg is None

    def test_a_user_without_a_home_is_no_error(self) -> None:
        places = CredentialPlaces.from_environ({}, home=None, uid=None)
        assert CredentialFiles(places, CredentialHelpers({}))("r", "a") is None

    def test_secrets_in_the_environment_are_not_shown(self) -> None:
        environ = {"DOCKER_AUTH_CONFIG": '{"auths": {"r": {"password": "s3cret"}}}'}
        places = CredentialPlaces.from_environ(environ, home=None, uid=None)
        assert "s3cret" not in repr(places)


class TestKeys:
    @pytest.mark.parametrize(
        ("key", "fits"),
        [
            ("r:5000", True),
            ("http://r:5000", True),
            ("https://r:5000", True),
            ("HTTPS://R:5000", True),
            ("r:5000/", True),
            ("R:5000", True),
            ("https://r:5000/", True),
            ("https://r:5000/v1/", True),
            ("https://r:5000/v2", True),
            ("r:5000/team", True),
            ("r:5000/team/", True),
            ("r:5000/team/app", True),
            ("https://r:5000/team", True),
            ("r:5000/team/app/more", False),
            ("r:5000/tea", False),
            ("r:5000/other", False),
            ("https://r:5000/other", False),
            ("r:5000/v1", False),
            ("r:5000/team/app:v1", False),
            ("r", False),
            ("r:500", False),
            ("r:50000", False),
            ("a.r:5000", False),
            ("r:5000.evil", False),
            ("*", False),
            ("", False),
            ("https://", False),
            (HUB_KEY, False),
        ],
    )
    def test_a_key_fits_its_own_host_and_path_alone(
        self, machine: Machine, key: str, fits: bool
    ) -> None:
        machine.docker({"auths": {key: entry("alice")}})
        assert machine.user() == ("alice" if fits else "")

    @pytest.mark.parametrize(
        "key",
        [
            "docker.io",
            "index.docker.io",
            "registry-1.docker.io",
            "https://index.docker.io/v1/",
            "https://index.docker.io/v1",
            "https://index.docker.io/v2/",
            "index.docker.io/v1/",
            "docker.io/library",
        ],
    )
    @pytest.mark.parametrize("registry", ["docker.io", "registry-1.docker.io"])
    def test_docker_hub_has_many_names(
        self, machine: Machine, key: str, registry: str
    ) -> None:
        machine.docker({"auths": {key: entry("alice")}})
        assert machine.user(registry, "library/app") == "alice"
        assert machine.user("registry.docker.io", "library/app") == ""

    def test_the_longest_path_wins_then_the_host_then_urls(
        self, machine: Machine
    ) -> None:
        auths = {}
        for key in (
            "https://r:5000/v2/",
            "https://r:5000/a/b/c",
            "r:5000",
            "r:5000/a",
            "r:5000/a/b",
            "r:5000/a/b/c",
        ):
            auths = {key: entry(key.replace(":", "-")), **auths}
        expected = ["r:5000/a/b/c", "r:5000/a/b", "r:5000/a", "r:5000"]
        expected += ["https://r:5000/a/b/c", "https://r:5000/v2/"]
        for key in expected:
            machine.docker({"auths": auths})
            assert machine.user("r:5000", "a/b/c") == key.replace(":", "-")
            del auths[key]

    def test_an_empty_entry_is_only_a_mark(self, machine: Machine) -> None:
        machine.docker({"auths": {"r:5000/team": {}, "r:5000": entry("alice")}})
        assert machine.user() == "alice"

    @given(st.lists(st.text(max_size=20), max_size=5), st.text(max_size=20))
    def test_what_fits_names_the_host(self, keys: list[str], repository: str) -> None:
        for key in fitting([*keys, "r:5000"], "r:5000", repository):
            assert registry_name(key) == "r:5000"

    def test_helpers_know_docker_hub_by_its_url(self) -> None:
        assert server_name("docker.io") == HUB_KEY
        assert server_name("R:5000") == "r:5000"


class TestEntries:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"auth": encoded("u:p:w")}, Credentials("u", Secret("p:w"))),
            ({"auth": encoded("u:pw").rstrip("=")}, Credentials("u", Secret("pw"))),
            ({"auth": encoded("u:pw12") + "\n"}, Credentials("u", Secret("pw12"))),
            ({"auth": encoded("u:pw\0\0")}, Credentials("u", Secret("pw"))),
            ({"auth": encoded("ü:pé")}, Credentials("ü", Secret("pé"))),
            ({"auth": encoded("u:")}, Credentials("u")),
            ({"username": "u", "password": "pw"}, Credentials("u", Secret("pw"))),
            (
                {"auth": encoded("u:"), "identitytoken": "it"},
                Credentials("u", identity_token=Secret("it")),
            ),
            ({"identitytoken": "it"}, Credentials(identity_token=Secret("it"))),
            ({"registrytoken": "rt"}, Credentials(registry_token=Secret("rt"))),
            ({"auth": 1, "username": "u", "password": []}, Credentials("u")),
            ({"auth": "", "email": "e"}, None),
            ("text", None),
            (None, None),
        ],
    )
    def test_they_are_read_as_docker_reads_them(
        self, machine: Machine, fields: Any, expected: Credentials | None
    ) -> None:
        docker = machine.docker({"auths": {"r:5000": fields}})
        found = machine.find()
        if expected is None:
            assert found is None
            return
        assert found is not None
        parts = (found.username, found.password)
        assert parts == (expected.username, expected.password)
        tokens = (found.identity_token, found.registry_token)
        assert tokens == (expected.identity_token, expected.registry_token)
        assert found.source == f"{docker}, key 'r:5000'"

    @pytest.mark.parametrize(
        "auth",
        ["!!s3cret!!", "s3cret", encoded("s3cret"), encoded(":s3cret"), "ü", "/w=="],
    )
    def test_what_cannot_be_decoded_is_skipped_and_named(
        self, machine: Machine, auth: str
    ) -> None:
        docker = machine.docker(
            {"auths": {"r:5000/team": {"auth": auth}, "r:5000": entry("alice")}}
        )
        files = machine.files()
        for _ in range(2):
            found = files("r:5000", "team/app")
            assert found is not None
            assert found.username == "alice"
        assert machine.notices == [
            f"{docker}, key 'r:5000/team': 'auth' is not valid base64, ignored"
        ]

    def test_a_bad_entry_of_another_registry_is_not_mentioned(
        self, machine: Machine
    ) -> None:
        machine.docker({"auths": {"q": {"auth": "!"}, "r:5000": entry("alice")}})
        assert machine.user() == "alice"
        assert machine.notices == []


class TestManyRepositories:
    """A list of images has one registry and hundreds of repositories."""

    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The registries that are looked for in our own file."""
        reads: list[str] = []
        find = CredentialStore.find

        def counting(store: CredentialStore, registry: str) -> Credentials | None:
            reads.append(registry)
            return find(store, registry)

        monkeypatch.setattr(CredentialStore, "find", counting)
        return reads

    @pytest.mark.parametrize("auths", [{}, {"https://r:5000/v2/": entry("host")}])
    def test_each_registry_is_looked_for_once(
        self, machine: Machine, reads: list[str], auths: dict[str, Any]
    ) -> None:
        machine.docker({"auths": auths})
        files = machine.files()
        found = {files("r:5000", f"team/app{number}") for number in range(9)}
        assert files("other", "team/app") is None
        assert len(found) == 1
        assert reads == ["r:5000", "other"]

    @pytest.mark.parametrize("first", [".docker/config.json", ".dockercfg"])
    def test_a_key_with_a_path_counts_in_any_file(
        self, machine: Machine, first: str
    ) -> None:
        auths = {"r:5000/team/app2": entry("two"), "r:5000": entry("all")}
        flat = first == ".dockercfg"
        machine.write(first, auths if flat else {"auths": auths})
        files = machine.files()
        found = [files("r:5000", f"team/app{number}") for number in range(4)]
        assert [one and one.username for one in found] == ["all", "all", "two", "all"]


class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("{", "is not JSON"),
            ('{"auths": {"r:5000": {"password": "s3cret" ', "is not JSON"),
            ("[" * 100_000, "is not JSON"),
            ("[]", "does not have the form of Docker's config.json"),
            ('"s3cret"', "does not have the form of Docker's config.json"),
            ('{"auths": ["s3cret"]}', "does not have the form"),
            ('{"credHelpers": "x", "auths": {}}', "does not have the form"),
        ],
    )
    def test_they_are_reported_once_and_skipped(
        self, machine: Machine, content: str, problem: str
    ) -> None:
        docker = machine.docker(content)
        machine.write(".dockercfg", {"r:5000": entry("alice")})
        files = machine.files()
        for _ in range(2):
            found = files("r:5000", "team/app")
            assert found is not None
        (notice,) = machine.notices
        assert notice.startswith(f"{docker} {problem}")
        assert notice.endswith(", ignored")
        assert "s3cret" not in notice + str(found)

    @pytest.mark.parametrize("content", ["", " \n", "{}", '{"auths": null}'])
    def test_an_empty_file_is_none(self, machine: Machine, content: str) -> None:
        machine.docker(content)
        assert machine.find() is None
        assert machine.notices == []

    def test_our_own_is_reported_and_skipped(self, machine: Machine) -> None:
        machine.own.parent.mkdir()
        machine.own.write_text("{")
        machine.docker({"auths": {"r:5000": entry("alice")}})
        assert machine.user() == "alice"
        (notice,) = machine.notices
        assert notice.startswith(f"{machine.own} is not JSON, and is left as it is")

    def test_our_own_below_a_file_is_none(self, machine: Machine) -> None:
        machine.own.parent.write_text("a file where the state directory should be")
        assert machine.find() is None
        assert machine.notices == []

    def test_a_directory_in_its_place_is_reported(self, machine: Machine) -> None:
        path = machine.home / ".docker" / "config.json"
        path.mkdir(parents=True)
        assert machine.find() is None
        assert machine.notices == [f"{path} cannot be read: is a directory, ignored"]

    def test_a_guessed_directory_that_is_closed_is_no_file(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As of root's podman, for every other user of the machine."""
        monkeypatch.setattr(credential_files, "RUN", machine.home / "run")
        closed = machine.write("run/containers/7/auth.json", "{")
        (closed.parents[1]).chmod(0)
        places = {"home": machine.home, "uid": 7}
        with as_nobody(machine.home):
            found = CredentialPlaces.from_environ({}, **places).files
        closed.parents[1].chmod(0o700)
        assert closed not in found and len(found) == 3
        assert closed in CredentialPlaces.from_environ({}, **places).files

    def test_a_broken_variable_is_named_and_not_quoted(self, machine: Machine) -> None:
        machine.environ["DOCKER_AUTH_CONFIG"] = "s3cret"
        assert machine.find() is None
        assert machine.notices == ["DOCKER_AUTH_CONFIG is not JSON, ignored"]

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["auths", "credHelpers", "credsStore", "r", "r/a", "auth"]
                    ),
                    inner,
                    max_size=3,
                )
            ),
            max_leaves=8,
        )
    )
    def test_no_json_breaks_the_search(self, content: Any) -> None:
        places = CredentialPlaces(docker_auth_config=Secret(json.dumps(content)))
        CredentialFiles(places, CredentialHelpers({"PATH": ""}))("r", "a")


@posix
class TestHelpers:
    ANSWER = 'echo "{\\"Username\\": \\"%s\\", \\"Secret\\": \\"secret of %s\\"}"'

    def keep(self, machine: Machine, suffix: str, user: str) -> None:
        log = f'cat >>"{machine.home}/asked"; echo >>"{machine.home}/asked"; '
        machine.helper(suffix, log + self.ANSWER % (user, user))

    def test_that_of_the_host_comes_before_that_of_all(self, machine: Machine) -> None:
        self.keep(machine, "one", "one")
        self.keep(machine, "all", "all")
        docker = machine.docker(
            {
                "credsStore": "all",
                "credHelpers": {"r:5000": "one"},
                "auths": {"r:5000": entry("file"), "q": entry("q")},
            }
        )
        assert (machine.user(), machine.user("q")) == ("one", "all")
        assert (machine.home / "asked").read_text() == "r:5000\nq\n"
        found = machine.find()
        assert found is not None
        assert found.source == f"docker-credential-one, which {docker} names"

    def test_docker_hub_is_asked_for_by_its_url(self, machine: Machine) -> None:
        self.keep(machine, "one", "one")
        machine.docker({"credHelpers": {"docker.io": "one"}})
        assert machine.user("docker.io", "library/app") == "one"
        assert (machine.home / "asked").read_text() == f"{HUB_KEY}\n"

    def test_it_is_asked_once_for_each_registry(self, machine: Machine) -> None:
        self.keep(machine, "all", "all")
        machine.docker({"credsStore": "all"})
        files = machine.files()
        threads = [
            threading.Thread(target=files, args=("r:5000", f"app{number}"))
            for number in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert (machine.home / "asked").read_text() == "r:5000\n"

    def test_what_it_does_not_keep_may_be_in_the_file(self, machine: Machine) -> None:
        machine.helper("all", "echo credentials not found in native keychain; exit 1")
        machine.docker({"credsStore": "all", "auths": {"r:5000": entry("alice")}})
        assert machine.user() == "alice"
        assert machine.find("q") is None
        assert machine.notices == []

    def test_an_identity_token_is_found(self, machine: Machine) -> None:
        machine.helper("all", 'echo \'{"Username": "<token>", "Secret": "it"}\'')
        machine.docker({"credsStore": "all"})
        found = machine.find()
        assert found is not None
        assert found.identity_token.reveal() == "it"

    @pytest.mark.parametrize(
        ("script", "said"),
        [
            (None, "docker-credential-all is not installed"),
            ("echo locked; exit 1", "docker-credential-all get: locked"),
            ("sleep 600", "no answer within 0.5 s"),
        ],
    )
    def test_one_that_fails_is_reported_once_and_skipped(
        self, machine: Machine, script: str | None, said: str
    ) -> None:
        if script:
            machine.helper("all", script)
        machine.docker({"credsStore": "all"})
        machine.write(".dockercfg", {"r:5000": entry("alice")})
        files = machine.files()
        for _ in range(2):
            assert files("r:5000", "team/app") is not None
        (notice,) = machine.notices
        assert said in notice
