"""Login and logout as a user runs them, with and without a terminal."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest
from conftest import USERS
from images import small_archive
from suites import first
from terminal import at_terminal

PASSWORD = USERS["alice"]


@pytest.fixture
def host(htpasswd_registry) -> str:
    return htpasswd_registry.host


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return small_archive(tmp_path / "image.tar")


def kept(run_cli) -> dict:
    file = run_cli.state / "credentials.json"
    return json.loads(file.read_text()) if file.exists() else {}


def login(run_cli, host, *more, password=PASSWORD, **options):
    return run_cli(
        *("login", host, "-u", "alice", "--password-stdin", *more),
        stdin=f"{password}\n".encode(),
        **options,
    )


class TestWithoutTerminal:
    def test_a_right_password_is_kept_for_the_owner_alone(self, host, run_cli):
        done = login(run_cli, host)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert f"logged in to {host} as alice" in done.stderr
        assert kept(run_cli) == {host: {"username": "alice", "password": PASSWORD}}
        file = run_cli.state / "credentials.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(run_cli.state.stat().st_mode) == 0o700

    def test_a_push_uses_it(self, host, archive, run_cli):
        login(run_cli, host)
        done = run_cli("push", archive, "-t", f"{host}/a:1")
        assert done.returncode == 0, done.stderr

    def test_a_wrong_password_is_refused_and_not_kept(self, host, run_cli):
        done = login(run_cli, host, password="wrong")
        assert done.returncode == 3
        assert host in done.error
        assert kept(run_cli) == {}

    def test_a_wrong_password_does_not_replace_a_right_one(self, host, run_cli):
        login(run_cli, host)
        assert login(run_cli, host, password="wrong").returncode == 3
        assert kept(run_cli)[host]["password"] == PASSWORD

    def test_skip_check_keeps_it_without_asking(self, htpasswd_registry, run_cli):
        host = htpasswd_registry.host
        done = login(run_cli, host, "--skip-check", password="wrong")
        assert done.returncode == 0
        assert kept(run_cli)[host]["password"] == "wrong"
        assert htpasswd_registry.requests() == []

    def test_unknown_fields_stay(self, host, run_cli):
        run_cli.state.mkdir()
        file = run_cli.state / "credentials.json"
        file.write_text(json.dumps({"other": {"x": 1}, host: {"note": "mine"}}))
        assert login(run_cli, host).returncode == 0
        assert kept(run_cli)["other"] == {"x": 1}
        assert kept(run_cli)[host]["note"] == "mine"

    def test_a_broken_file_is_left_alone(self, host, run_cli):
        run_cli.state.mkdir()
        file = run_cli.state / "credentials.json"
        file.write_text('{"half": ')
        done = login(run_cli, host)
        assert done.returncode == 1
        assert "credentials.json" in done.error
        assert file.read_text() == '{"half": '

    def test_the_environment_is_taken(self, host, run_cli):
        done = run_cli(
            *("login", host),
            env={"DOCKERPUSH_USERNAME": "alice", "DOCKERPUSH_PASSWORD": PASSWORD},
        )
        assert done.returncode == 0, done.stderr
        assert kept(run_cli)[host]["username"] == "alice"

    @pytest.mark.parametrize("flags", [[], ["-u", "alice"]])
    def test_nobody_is_asked_without_a_terminal(self, flags, host, run_cli):
        started = time.monotonic()
        done = run_cli("login", host, *flags)
        assert done.returncode == 2
        assert time.monotonic() - started < 10
        for word in ("--username", "--password-stdin", "DOCKERPUSH_PASSWORD"):
            assert word in done.error
        assert kept(run_cli) == {}

    def test_an_empty_standard_input_is_no_password(self, host, run_cli):
        done = login(run_cli, host, password="")
        assert done.returncode == 2
        assert kept(run_cli) == {}

    def test_bytes_that_are_no_text_are_refused(self, host, run_cli, tmp_path):
        done = run_cli("login", host, "-u", "a", "--password-stdin", stdin=b"\xff\n")
        assert done.returncode == 2
        assert "UTF-8" in done.error
        odd = {"DOCKERPUSH_USERNAME": "a", "DOCKERPUSH_PASSWORD": os.fsdecode(b"\xff")}
        assert run_cli("login", host, env=odd).returncode == 2
        (tmp_path / "word").write_bytes(b"\xff")
        done = run_cli("login", host, "-u", "a", "--password-file", tmp_path / "word")
        assert done.returncode == 1
        assert "word" in done.error

    def test_an_open_registry_cannot_check_it_and_that_is_reported(
        self, docker_registry, run_cli
    ):
        done = login(run_cli, docker_registry.host)
        assert done.returncode == 0
        assert "nobody checked" in done.stderr

    @pytest.mark.parametrize("flags", [["--no-creds"], ["--registry-token", "x"]])
    def test_only_a_name_and_a_password_can_be_kept(self, flags, host, run_cli):
        assert run_cli("login", host, *flags).returncode == 2
        assert kept(run_cli) == {}

    def test_a_colon_in_the_username_is_refused(self, host, run_cli):
        done = run_cli(
            *("login", host, "-u", "a:b", "--password-stdin", "--skip-check"),
            stdin=b"x",
        )
        assert done.returncode == 2
        assert kept(run_cli) == {}

    def test_docker_hub_is_the_default(self, run_cli):
        done = run_cli(
            *("login", "-u", "alice", "--password-stdin", "--skip-check"), stdin=b"x"
        )
        assert done.returncode == 0
        assert list(kept(run_cli)) == ["docker.io"]

    def test_get_login_shows_the_name_and_not_the_password(self, host, run_cli):
        before = run_cli("login", host, "--get-login")
        assert before.returncode == 4
        login(run_cli, host)
        done = run_cli("login", host, "--get-login")
        assert (done.returncode, done.stdout) == (0, "alice\n")

    def test_the_time_is_remembered_for_pushes_without_a_target(self, host, run_cli):
        login(run_cli, host)
        history = json.loads((run_cli.state / "push_history.json").read_text())
        assert history["logins"][host]["username"] == "alice"
        assert time.time() - history["logins"][host]["time"] < 60

    def test_a_registry_that_cannot_be_reached(self, run_cli):
        done = login(run_cli, "127.0.0.1:9", "--retry-times", "0")
        assert done.returncode == 5
        assert kept(run_cli) == {}

    def test_an_authfile_of_dockers_form(self, host, run_cli, tmp_path):
        file = tmp_path / "auth.json"
        done = login(run_cli, host, "--authfile", file)
        assert done.returncode == 0, done.stderr
        pair = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
        assert json.loads(file.read_text())["auths"][host]["auth"] == pair
        assert kept(run_cli) == {}
        assert run_cli("logout", host, "--authfile", file).returncode == 0
        assert json.loads(file.read_text())["auths"] == {}

    def test_a_state_that_cannot_be_written_is_reported(self, host, run_cli, tmp_path):
        (tmp_path / "file").write_text("")
        state = {"DOCKERPUSH_STATE_DIR": str(tmp_path / "file" / "state")}
        done = login(run_cli, host, env=state)
        assert done.returncode == 1
        assert "file" in done.error


class TestLogout:
    def test_it_forgets_one(self, host, run_cli):
        login(run_cli, host)
        login(run_cli, "other.example.com", "--skip-check")
        assert run_cli("logout", host).returncode == 0
        assert list(kept(run_cli)) == ["other.example.com"]
        history = json.loads((run_cli.state / "push_history.json").read_text())
        assert list(history["logins"]) == ["other.example.com"]

    def test_it_forgets_all(self, run_cli):
        for name in ("a.example.com", "b.example.com"):
            login(run_cli, name, "--skip-check")
        done = run_cli("logout", "--all")
        assert done.returncode == 0
        assert kept(run_cli) == {}
        assert "a.example.com" in done.stderr

    @pytest.mark.parametrize("flags", [["nowhere.example.com"], ["--all"], []])
    def test_not_being_logged_in_is_no_failure(self, flags, run_cli):
        done = run_cli("logout", *flags)
        assert done.returncode == 0
        assert "not logged in" in done.stderr


class TestAtATerminal:
    def test_it_asks_for_both_and_does_not_show_the_password(self, host, run_cli):
        with at_terminal(run_cli, "login", host) as terminal:
            terminal.expect("Username at .*: ")
            terminal.type("alice\n")
            terminal.expect("Password: ")
            terminal.type(f"{PASSWORD}\n")
            assert terminal.end() == 0
        assert f"logged in to {host} as alice" in terminal.text
        assert PASSWORD not in terminal.text
        assert kept(run_cli)[host]["password"] == PASSWORD

    def test_it_asks_for_the_password_alone(self, host, run_cli):
        with at_terminal(run_cli, "login", host, "-u", "alice") as terminal:
            terminal.expect("Password: ")
            terminal.type(f"{PASSWORD}\n")
            assert terminal.end() == 0
        assert "Username" not in terminal.text

    @pytest.mark.parametrize("at", ["Username", "Password"])
    def test_ctrl_c_at_a_question_ends_it_at_once(self, at, host, run_cli):
        with at_terminal(run_cli, "login", host) as terminal:
            terminal.expect("Username at .*: ")
            if at == "Password":
                terminal.type("alice\n")
                terminal.expect("Password: ")
            started = time.monotonic()
            terminal.type("\x03")
            assert terminal.end() == -signal.SIGINT
            assert time.monotonic() - started < 2
        assert kept(run_cli) == {}

    def test_the_end_of_input_is_no_answer(self, host, run_cli):
        with at_terminal(run_cli, "login", host) as terminal:
            terminal.expect("Username at .*: ")
            terminal.type("\x04")
            assert terminal.end() == 2
        assert "Traceback" not in terminal.text

    def test_a_push_that_is_refused_asks_once(self, host, archive, run_cli):
        target = f"{host}/asked:1"
        with at_terminal(run_cli, "push", archive, "-t", target) as terminal:
            terminal.expect("401.*")
            terminal.expect("Username at .*: ")
            terminal.type("alice\n")
            terminal.expect("Password: ")
            terminal.type(f"{PASSWORD}\n")
            assert terminal.end() == 0
        assert f"pushed {target}" in terminal.text
        assert kept(run_cli) == {}

    def test_a_second_refusal_is_final(self, host, archive, run_cli):
        with at_terminal(run_cli, "push", archive, "-t", f"{host}/a:1") as terminal:
            terminal.expect("Username at .*: ")
            terminal.type("alice\n")
            terminal.expect("Password: ")
            terminal.type("wrong\n")
            assert terminal.end() == 3
        assert terminal.text.count("Username") == 1

    def test_a_pipe_with_a_terminal_behind_it_is_not_asked(self, host, run_cli):
        """getpass would open /dev/tty, and a job in cron would hang."""
        command = ["login", host, "-u", "alice"]
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            child = run_cli.start(*command, stdin=null, stderr=-1)
            _, said = child.communicate(timeout=10)
        finally:
            os.close(null)
        assert child.returncode == 2
        assert b"--password-stdin" in said


DEBUG = {"OCI_DEBUG": "1", "OCI_DEBUG_UPLOAD": "1"}


class TestSecrets:
    """A password is in credentials.json and nowhere else."""

    def test_it_is_in_no_output_and_no_other_file(
        self, host, archive, run_cli, tmp_path
    ):
        outputs = []
        for done in (
            login(run_cli, host, "--debug", env=DEBUG),
            run_cli("push", archive, "-t", f"{host}/a:1", "--debug", env=DEBUG),
            run_cli("check", f"{host}/a", "--debug", "--json", env=DEBUG),
            run_cli("config", "--json", "--debug"),
        ):
            assert done.returncode == 0, done.stderr
            outputs.append(done.stdout + done.stderr)
        encoded = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
        for text in outputs:
            assert PASSWORD not in text
            assert encoded not in text
        found = [
            path.name
            for folder in (run_cli.state, run_cli.home, tmp_path / "temporary")
            for path in folder.rglob("*")
            if path.is_file() and PASSWORD.encode() in path.read_bytes()
        ]
        assert found == ["credentials.json"]

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")
    def test_it_is_in_the_arguments_and_environment_of_no_child(
        self, host, run_cli, tmp_path
    ):
        """A helper is started by us; what it is given is written down."""
        programs = tmp_path / "bin"
        programs.mkdir()
        helper = programs / "docker-credential-spy"
        helper.write_text(
            "#!/bin/sh\n"
            f"tr '\\0' '\\n' < /proc/$$/cmdline >> {tmp_path}/spied\n"
            f"tr '\\0' '\\n' < /proc/$$/environ >> {tmp_path}/spied\n"
            "cat > /dev/null\n"
        )
        helper.chmod(0o755)
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"credsStore": "spy"}))
        path = {"PATH": f"{programs}:{os.environ['PATH']}"}
        done = login(run_cli, host, "--authfile", file, env=path)
        assert done.returncode == 0, done.stderr
        spied = (tmp_path / "spied").read_text()
        assert "store" in spied
        assert PASSWORD not in spied
        assert PASSWORD not in file.read_text()


@pytest.mark.parametrize("count", first(1, [6, 20]))
def test_many_logins_at_once_lose_nothing(count, run_cli):
    names = [f"reg{number}.example.com" for number in range(count)]
    children = [
        run_cli.start(
            *("login", name, "-u", "alice", "-p", "x", "--skip-check", "-q"),
        )
        for name in names
    ]
    assert [child.wait(60) for child in children] == [0] * count
    assert sorted(kept(run_cli)) == sorted(names)
    history = json.loads((run_cli.state / "push_history.json").read_text())
    assert sorted(history["logins"]) == sorted(names)
