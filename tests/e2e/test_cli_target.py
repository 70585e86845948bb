"""Pushes without -t: where they go, who is asked, and what is remembered."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from customized import with_customized_python
from images import docker_archive, small_archive, tar_of
from registries import read_back
from suites import first
from terminal import at_terminal

from dockerpush.reference import Reference
from dockerpush.server import Registry, RegistryServer
from dockerpush.state.directory import StateDirectory
from dockerpush.state.history import Login, PushHistory


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory):
    with RegistryServer(Registry(tmp_path_factory.mktemp("embedded"))) as server:
        yield server


@pytest.fixture
def host(registry) -> str:
    return registry.host


def named(path: Path, name: str) -> Path:
    return docker_archive(path, [tar_of({"file": b"x"})], names=[name])


def after_a_push(run_cli, target: str) -> None:
    """What a push to *target* leaves behind; other tests see that it does."""
    history = PushHistory(StateDirectory(run_cli.state))
    assert history.record(Reference.parse(target), time.time())


def after_a_login(run_cli, host: str) -> None:
    """What a login leaves behind for pushes, as the tests of login see."""
    history = PushHistory(StateDirectory(run_cli.state))
    assert history.record_login(Login(host, time.time(), "me"))


TABLE = [
    ("app:2", "team/app:2", "app:2"),
    ("nginx:1", "team/nginx:1", "nginx:1"),
    ("foo/bar:1", "team/bar:1", "foo/bar:1"),
    ("quay.io/foo/bar:1", "team/bar:1", "foo/bar:1"),
    ("localhost/x:3", "team/x:3", "x:3"),
]


class TestTable:
    """The same image goes where the last event says."""

    @pytest.mark.parametrize(
        ("name", "expected"), [(row[0], row[1]) for row in TABLE], ids=lambda x: x
    )
    def test_after_a_push(self, name, expected, host, run_cli, tmp_path):
        after_a_push(run_cli, f"{host}/team/app:1")
        done = run_cli("push", named(tmp_path / "i.tar", name), "--yes", "--json")
        assert done.returncode == 0, done.stderr
        assert done.json["target"] == f"{host}/{expected}"
        assert f"pushing to {host}/{expected}" in done.stderr.splitlines()[0]

    @pytest.mark.parametrize(
        ("name", "expected"), [(row[0], row[2]) for row in TABLE], ids=lambda x: x
    )
    def test_after_a_login(self, name, expected, host, run_cli, tmp_path):
        after_a_login(run_cli, host)
        done = run_cli("push", named(tmp_path / "i.tar", name), "--yes", "--json")
        assert done.returncode == 0, done.stderr
        assert done.json["target"] == f"{host}/{expected}"

    @pytest.mark.parametrize("name", ["app:2", "nginx:1", "foo/bar:1", "localhost/x:3"])
    def test_with_nothing_known(self, name, run_cli, tmp_path):
        done = run_cli("push", named(tmp_path / "i.tar", name), "--yes")
        assert done.returncode == 2
        assert "-t " in done.error
        assert "--registry" in done.error

    def test_with_nothing_known_the_name_may_say_it(self, host, run_cli, tmp_path):
        archive = named(tmp_path / "i.tar", f"{host}/foo/bar:1")
        done = run_cli("push", archive, "--yes", "--json")
        assert done.json["target"] == f"{host}/foo/bar:1"

    def test_the_newer_of_the_two_events_counts(self, host, run_cli, tmp_path):
        archive = named(tmp_path / "i.tar", "nginx:1")
        after_a_push(run_cli, f"{host}/team/app:1")
        after_a_login(run_cli, host)
        done = run_cli("push", archive, "--yes", "--json")
        assert done.json["target"] == f"{host}/nginx:1"
        after_a_push(run_cli, f"{host}/team/app:1")
        other = named(tmp_path / "j.tar", "redis:1")
        done = run_cli("push", other, "--yes", "--json")
        assert done.json["target"] == f"{host}/team/redis:1"

    def test_a_repository_of_the_same_name_comes_first(self, host, run_cli, tmp_path):
        after_a_push(run_cli, f"{host}/web/nginx:1")
        after_a_push(run_cli, f"{host}/team/app:1")
        done = run_cli("push", named(tmp_path / "i.tar", "nginx:2"), "--json")
        assert done.returncode == 0, done.stderr
        assert done.json["target"] == f"{host}/web/nginx:2"

    def test_registry_gives_the_place(self, host, run_cli, tmp_path):
        archive = named(tmp_path / "i.tar", "foo/bar:1")
        done = run_cli(
            *("push", archive, "--registry", f"{host}/air", "--yes", "--json")
        )
        assert done.json["target"] == f"{host}/air/bar:1"


class TestWithoutTerminal:
    def test_a_confirmed_repository_takes_any_tag(self, host, run_cli, tmp_path):
        after_a_push(run_cli, f"{host}/cron/app:1")
        done = run_cli("push", named(tmp_path / "i.tar", "app:77"), "--json")
        assert done.returncode == 0, done.stderr
        assert done.json["target"] == f"{host}/cron/app:77"

    def test_a_new_one_is_refused_with_the_command_to_run(
        self, host, run_cli, tmp_path
    ):
        after_a_push(run_cli, f"{host}/cron/app:1")
        archive = named(tmp_path / "an image.tar", "new:1")
        done = run_cli("push", archive, "--jobs", "2", "--json")
        assert done.returncode == 2
        assert done.stdout == ""
        command = done.error.partition(": run ")[2].partition(" once,")[0]
        assert "--yes" in done.error
        again = subprocess.run(
            shlex.split(command),
            env=run_cli.environment(),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=False,
        )
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["target"] == f"{host}/cron/new:1"
        assert run_cli("push", archive).returncode == 0

    def test_the_command_shows_no_secret(self, host, run_cli, tmp_path):
        after_a_push(run_cli, f"{host}/cron/app:1")
        done = run_cli(
            *("push", named(tmp_path / "i.tar", "new:1"), "-u", "me"),
            *("-p", "s3cret", "--proxy", "http://me:s3cret@127.0.0.1:9"),
        )
        assert done.returncode == 2
        assert "s3cret" not in done.stderr

    def test_yes_confirms_for_the_next_time(self, host, run_cli, tmp_path):
        archive = named(tmp_path / "i.tar", f"{host}/later/app:1")
        assert run_cli("push", archive).returncode == 2
        assert run_cli("push", archive, "--yes").returncode == 0
        assert run_cli("push", archive).returncode == 0

    def test_a_failed_push_confirms_nothing(self, run_cli, tmp_path):
        archive = named(tmp_path / "i.tar", "app:1")
        done = run_cli(
            *("push", archive, "-t", "127.0.0.1:9/a/app:1", "--retry-times", "0")
        )
        assert done.returncode == 5
        assert not (run_cli.state / "push_history.json").exists()

    def test_several_archives_joined_by_a_target_confirm_it(
        self, host, run_cli, tmp_path
    ):
        one = named(tmp_path / "one.tar", "app:1")
        other = tmp_path / "other.tar"
        other.write_bytes(one.read_bytes().replace(b'"amd64"', b'"arm64"'))
        done = run_cli("push", one, other, "-t", f"{host}/joined/app:1")
        assert done.returncode == 0, done.stderr
        assert run_cli("push", one).returncode == 0

    def test_five_destinations_are_kept_and_all_confirmations(
        self, host, run_cli, tmp_path
    ):
        archive = named(tmp_path / "many.tar", "whatever:1")
        for number in range(7):
            done = run_cli("push", archive, "-t", f"{host}/many/n{number}:1")
            assert done.returncode == 0, done.stderr
        history = json.loads((run_cli.state / "push_history.json").read_text())
        targets = [entry["target"] for entry in history["destinations"]]
        assert targets == [f"{host}/many/n{number}:1" for number in (6, 5, 4, 3, 2)]
        assert len(history["confirmed"]) == 7
        done = run_cli("push", named(tmp_path / "i.tar", "n0:9"), "--json")
        assert done.json["target"] == f"{host}/many/n0:9"

    def test_an_archive_without_a_name_needs_a_target(self, run_cli, tmp_path):
        archive = docker_archive(tmp_path / "i.tar", [tar_of({"f": b"x"})], names=[])
        done = run_cli("push", archive, "--yes")
        assert done.returncode == 2
        assert "-t " in done.error

    def test_http_before_a_target_means_plain_http(self, host, run_cli, tmp_path):
        archive = named(tmp_path / "i.tar", "app:1")
        done = run_cli("push", archive, "-t", f"http://{host}/plain/app:1", "--json")
        assert done.json["target"] == f"{host}/plain/app:1"

    def test_a_state_that_cannot_be_written_stops_no_push(
        self, host, run_cli, tmp_path
    ):
        (tmp_path / "file").write_text("")
        archive = named(tmp_path / "i.tar", "app:1")
        done = run_cli(
            *("push", archive, "-t", f"{host}/no/state:1"),
            env={"DOCKERPUSH_STATE_DIR": str(tmp_path / "file" / "state")},
        )
        assert done.returncode == 0, done.stderr

    def test_no_home_is_no_failure(self, host, tmp_path, run_cli):
        """As cron and systemd start programs: with hardly any environment."""
        archive = named(tmp_path / "i.tar", "app:1")
        environment = run_cli.environment()
        for name in ("HOME", "TMPDIR", "LC_ALL"):
            del environment[name]
        child = run_cli.start("push", archive, "-t", f"{host}/no/home:1", stderr=-1)
        _, said = child.communicate(timeout=60)
        assert child.returncode == 0, said


def pausing(directory: Path, seconds: float) -> dict[str, str]:
    """The pause before a push to what was confirmed, which is 3 seconds otherwise."""
    code = f"import dockerpush.cli.choose_target as module; module.PAUSE = {seconds}\n"
    return with_customized_python(directory, code)


class TestAtATerminal:
    @pytest.mark.parametrize("pause", first(1, [0.7, 3.0]))
    def test_a_confirmed_repository_continues_after_a_pause(
        self, pause, host, run_cli, tmp_path
    ):
        after_a_push(run_cli, f"{host}/tty/app:1")
        archive = named(tmp_path / "i.tar", "app:2")
        env = {} if pause == 3 else pausing(tmp_path, pause)
        started = time.monotonic()
        with at_terminal(run_cli, "push", archive, env=env) as terminal:
            terminal.expect(f"pushing to {host}/tty/app:2 .* any key")
            assert terminal.end() == 0
        assert time.monotonic() - started > pause
        assert read_back(host, "tty/app", "2").layers

    def test_any_key_interrupts_the_pause(self, host, run_cli, tmp_path):
        after_a_push(run_cli, f"{host}/tty/app:1")
        archive = named(tmp_path / "i.tar", "app:3")
        with at_terminal(run_cli, "push", archive) as terminal:
            terminal.expect("any key")
            terminal.type("x")
            terminal.expect(r"Push to \[.*/tty/app:3\]: ")
            terminal.type(f"{host}/tty/other:3\n")
            assert terminal.end() == 0
        assert read_back(host, "tty/other", "3").layers
        with pytest.raises(RuntimeError):
            read_back(host, "tty/app", "3")

    def test_a_new_repository_is_asked_for_once(self, host, run_cli, tmp_path):
        after_a_login(run_cli, host)
        archive = named(tmp_path / "i.tar", "asked/app:1")
        with at_terminal(run_cli, "push", archive) as terminal:
            terminal.expect(r"Push to \[.*/asked/app:1\]: ")
            terminal.type("\n")
            assert terminal.end() == 0
        env = pausing(tmp_path, 0.2)
        with at_terminal(run_cli, "push", archive, env=env) as terminal:
            terminal.expect("any key")
            assert terminal.end() == 0
        assert "Push to" not in terminal.text

    def test_an_answer_that_makes_no_sense_is_asked_for_again(
        self, host, run_cli, tmp_path
    ):
        after_a_login(run_cli, host)
        archive = named(tmp_path / "i.tar", "again/app:1")
        with at_terminal(run_cli, "push", archive) as terminal:
            terminal.expect("Push to .*: ")
            terminal.type("not a target\n")
            terminal.expect("Push to .*: ")
            terminal.type(f"{host}/again/other\n")
            assert terminal.end() == 0
        assert read_back(host, "again/other", "1").layers

    def test_a_target_or_yes_asks_nothing(self, host, run_cli, tmp_path):
        archive = named(tmp_path / "i.tar", f"{host}/never/app:1")
        for flags in (["-t", f"{host}/never/given:1"], ["--yes"]):
            with at_terminal(run_cli, "push", archive, *flags) as terminal:
                assert terminal.end() == 0
            assert "Push to" not in terminal.text
            assert "any key" not in terminal.text

    def test_after_an_answer_the_command_to_resume_names_the_target(
        self, host, run_cli, tmp_path
    ):
        after_a_login(run_cli, host)
        archive = small_archive(tmp_path / "i.tar")
        slow = ("--limit-rate", "1K", "--deadline", "2s")
        with at_terminal(run_cli, "push", archive, *slow) as terminal:
            terminal.expect("Push to .*: ")
            terminal.type(f"{host}/resumed/app:2\n")
            terminal.expect(r"error: stopped at the deadline 2s; to resume: ")
            terminal.expect(rf"push \S*i\.tar -t {host}/resumed/app:2\b")
            assert terminal.end() == 1

    def test_ctrl_c_in_the_pause_sends_nothing(self, host, run_cli, tmp_path):
        after_a_push(run_cli, f"{host}/tty/app:1")
        archive = named(tmp_path / "i.tar", "app:9")
        with at_terminal(run_cli, "push", archive) as terminal:
            terminal.expect("any key")
            terminal.type("\x03")
            assert terminal.end() == -signal.SIGINT
        with pytest.raises(RuntimeError):
            read_back(host, "tty/app", "9")


class TestOneAtATime:
    @pytest.fixture
    def slow(self, host, run_cli, tmp_path):
        """A push that takes some seconds."""
        archive = small_archive(tmp_path / "slow.tar")
        child = run_cli.start(
            *("push", archive, "-t", f"{host}/busy/app:1", "--limit-rate", "100K"),
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not (run_cli.state / "locks").is_dir():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)
        yield child
        child.terminate()
        child.wait(60)

    def test_the_second_waits_and_says_so(self, slow, host, run_cli, tmp_path):
        archive = named(tmp_path / "i.tar", "app:1")
        done = run_cli("push", archive, "-t", f"{host}/busy/app:1", "--json")
        assert done.returncode == 0, done.stderr
        assert "another run is pushing" in done.stderr
        assert slow.wait(0) == 0
        stored = read_back(host, "busy/app", "1")
        assert len(stored.layers) == 1

    def test_or_leaves(self, slow, host, run_cli, tmp_path):
        archive = named(tmp_path / "i.tar", "app:1")
        target = f"{host}/busy/app:1"
        done = run_cli("push", archive, "-t", target, "--if-busy", "leave", "-q")
        assert done.returncode == 1
        assert done.stdout == ""
        assert "another run is pushing" in done.error
        assert slow.poll() is None

    def test_another_target_is_free(self, slow, host, run_cli, tmp_path):
        archive = named(tmp_path / "i.tar", "app:1")
        target = f"{host}/busy/app:2"
        done = run_cli("push", archive, "-t", target, "--if-busy", "leave")
        assert done.returncode == 0, done.stderr
        assert slow.poll() is None

    def test_a_signal_ends_the_waiting(self, slow, host, run_cli, tmp_path):
        archive = named(tmp_path / "i.tar", "app:1")
        child = run_cli.start(
            *("push", archive, "-t", f"{host}/busy/app:1"), stderr=subprocess.PIPE
        )
        time.sleep(1.0)
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=5)
        assert child.returncode == -signal.SIGTERM
        assert b"waiting" in said


def test_limit_rate_holds_for_all_uploads_together(host, run_cli, tmp_path):
    archive = small_archive(tmp_path / "image.tar")
    target = f"{host}/rate/app:1"
    done = run_cli("push", archive, "-t", target, "--limit-rate", "400K", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["bytes"] > 300_000
    assert done.json["seconds"] >= done.json["bytes"] / 400_000 * 0.9
    assert done.json["seconds"] <= done.json["bytes"] / 400_000 + 5


def test_layer_delay_puts_a_pause_after_each_blob(host, run_cli, tmp_path):
    layers = [tar_of({"file": bytes([n]) * 10}) for n in range(3)]
    archive = docker_archive(tmp_path / "image.tar", layers)
    done = run_cli(
        *("push", archive, "-t", f"{host}/delay/app:1", "--jobs", "1", "--json"),
        env={"DOCKERPUSH_LAYER_DELAY": "200ms"},
    )
    assert done.returncode == 0, done.stderr
    assert done.json["blobs"]["uploaded"] == 4
    assert done.json["seconds"] >= 0.6


@pytest.mark.parametrize("count", first(1, [6, 20]))
def test_many_pushes_share_one_state(count, host, run_cli, tmp_path):
    archive = named(tmp_path / "i.tar", "app:1")
    children = [
        run_cli.start(
            *("push", archive, "-t", f"{host}/twenty/n{number}:1", "-q"),
            stdout=subprocess.DEVNULL,
        )
        for number in range(count)
    ]
    assert [child.wait(120) for child in children] == [0] * count
    history = json.loads((run_cli.state / "push_history.json").read_text())
    assert len(history["confirmed"]) == count
    assert len(history["destinations"]) == 5
    assert not list(run_cli.state.glob("*.broken"))
