"""``--debug``, OCI_DEBUG and OCI_DEBUG_UPLOAD: what each shows, by the real command."""

from __future__ import annotations

import re
from typing import Iterator

import pytest
from fake_registry import Answer, FakeRegistry, Incoming, serving
from faultproxy import Effect, Fault, FaultProxy
from images import MIB, large_archive, small_archive
from test_resume import killed_inside

from dockerpush.server import Registry, RegistryServer
from dockerpush.settings.keys import is_switched_on

OFF = ("", "0", "false", "no", "off", "FALSE", "No", "oFF", " off ")
ON = ("1", "true", "yes", "on", "TRUE", "2", "maybe", "please")

REQUEST = re.compile(r" DEBUG (GET|HEAD|POST|PUT|PATCH|DELETE) ")
SESSION = " DEBUG upload session "
POST = ": sent whole in one POST"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RegistryServer(Registry(tmp_path_factory.mktemp("registry"))) as server:
        yield server.host


@pytest.mark.parametrize("value", [None, *OFF])
def test_off(value):
    assert not is_switched_on(value)


@pytest.mark.parametrize("value", ON)
def test_on(value):
    assert is_switched_on(value)


@pytest.mark.parametrize("variable", ["OCI_DEBUG", "OCI_DEBUG_UPLOAD"])
class TestSwitches:
    """`check` makes requests, and opens and cancels an upload session."""

    def test_words_for_false_are_off(self, variable, host, run_cli):
        for value in OFF:
            done = run_cli("check", f"{host}/a", env={variable: value})
            assert done.returncode == 0, done.stderr
            assert " DEBUG " not in done.stderr, value

    def test_anything_else_is_on(self, variable, host, run_cli):
        for value in ON:
            done = run_cli("check", f"{host}/a", env={variable: value})
            assert done.returncode == 0, done.stderr
            assert SESSION in done.stderr, value

    def test_one_that_is_off_takes_nothing_from_a_flag(self, variable, host, run_cli):
        done = run_cli("check", f"{host}/a", "--debug", env={variable: "false"})
        assert REQUEST.search(done.stderr)


def test_each_switch_shows_its_own(host, run_cli, tmp_path):
    archive = small_archive(tmp_path / "image.tar")

    def shown(number: int, *flags: str, **env: str) -> tuple[bool, bool]:
        """Whether there are lines about requests, and about upload sessions."""
        target = f"{host}/own/n{number}:1"
        done = run_cli("push", archive, "-t", target, *flags, env=env)
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        sessions = [line for line in lines if SESSION in line or POST in line]
        assert len(sessions) == len(set(sessions)), "each line once"
        return bool(REQUEST.search(done.stderr)), bool(sessions)

    assert shown(1) == (False, False)
    assert shown(2, "-v") == (False, False)
    assert shown(3, OCI_DEBUG_UPLOAD="1") == (False, True)
    assert shown(4, "-v", OCI_DEBUG_UPLOAD="1") == (False, True)
    assert shown(5, OCI_DEBUG="1") == (True, True)
    assert shown(6, OCI_DEBUG="1", OCI_DEBUG_UPLOAD="0") == (True, True)
    assert shown(7, "--debug", OCI_DEBUG_UPLOAD="1") == (True, True)


def test_a_session_is_shown_from_its_opening_to_its_end(docker_registry, run_cli):
    """Debian's registry keeps the state of a session in its Location."""
    archive = large_archive(run_cli.home / "big.tar", [3 * MIB], compressible=False)
    done = run_cli(
        *("push", archive, "-t", f"{docker_registry.host}/a/b:1"),
        *("--blob-chunk", "1MiB", "-j", "1"),
        env={"OCI_DEBUG_UPLOAD": "1"},
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if SESSION in line]
    urls = [re.search(r"session (http://\S+): ", line)[1] for line in lines]  # type: ignore[index]
    (chunked,) = {url for url, line in zip(urls, lines) if "sent bytes" in line}
    told = [line.split(f"{chunked}: ")[1] for line in lines if chunked in line]
    assert told[0] == "opened in a/b"
    assert told[1] == "sent bytes 0-1048575: 202, Range 0-1048575"
    assert told[2] == "sent bytes 1048576-2097151: 202, Range 0-2097151"
    assert re.fullmatch(r"closed at byte 31\d+: sha256:[0-9a-f]{64}", told[-1])
    assert "_state=" not in done.stderr


def test_a_resumed_session_is_shown(host, run_cli):
    archive = large_archive(run_cli.home / "big.tar", [4 * MIB], compressible=False)
    with FaultProxy(host) as proxy:
        schedule = proxy.schedule(
            "debug/kept", Fault(Effect.HOLD, "PATCH", nth=4, after=500_000)
        )
        push = ("push", archive, "-t", f"{proxy.host}/debug/kept:1", "--plain-http")
        push = (*push, "--blob-chunk", "1MiB", "-j", "1")
        killed_inside(schedule, run_cli, *push)
        done = run_cli(*push, env={"OCI_DEBUG_UPLOAD": "1"})
    assert done.returncode == 0, done.stderr
    asked = re.search(r": asked where it stands: Range 0-(\d+)$", done.stderr, re.M)
    assert asked
    resumed = f"resumed at byte {int(asked[1]) + 1}\n"
    assert re.search(rf" INFO sha256:[0-9a-f]{{64}}: {resumed}", done.stderr)
    assert not REQUEST.search(done.stderr)


class Telling(FakeRegistry):
    """Puts a secret into every Location, and more than a range into its Range."""

    def opened(self, number: str, **headers: str) -> Answer:
        return self.told(super().opened(number, **headers))

    def stored(self, request: Incoming, upload: bytearray) -> Answer:
        return self.told(super().stored(request, upload))

    def get(self, request: Incoming) -> Answer:
        return Answer(404)

    def told(self, answer: Answer) -> Answer:
        answer.headers["Location"] += "?_state=s3cret#s3cret"
        answer.headers["Range"] += "\t\x1b[31m"
        return answer


@pytest.mark.parametrize("variable", ["OCI_DEBUG", "OCI_DEBUG_UPLOAD"])
def test_the_state_of_a_session_is_not_shown(variable, run_cli):
    """The push fails in the end: this registry takes no manifest."""
    archive = large_archive(run_cli.home / "big.tar", [3 * MIB], compressible=False)
    with serving(Telling()) as fake:
        done = run_cli(
            *("push", archive, "-t", f"{fake}/team/app:1", "--plain-http", "-j", "1"),
            *("--blob-chunk", "1MiB"),
            env={variable: "1"},
        )
    assert "sent bytes 0-1048575: 202, Range" in done.stderr
    assert "closed at byte" in done.stderr
    assert "s3cret" not in done.stderr
    assert "\x1b" not in done.stderr


def test_the_state_of_a_cancelled_session_is_not_shown_either(run_cli):
    with serving(Telling()) as fake:
        done = run_cli(
            *("check", f"{fake}/team/app", "--plain-http"),
            env={"OCI_DEBUG_UPLOAD": "1"},
        )
    assert "cancelled, status 204" in done.stderr
    assert "s3cret" not in done.stderr


def test_another_boolean_variable_knows_the_same_words(host, run_cli):
    """Here a word that means neither is refused: it decides what is sent where."""
    for value, shown in [*((word, "false") for word in OFF if word), ("Yes", "true")]:
        done = run_cli("config", env={"DOCKERPUSH_PLAIN_HTTP": value})
        assert done.returncode == 0, done.stderr
        assert re.search(rf"^plain_http +{shown} ", done.stdout, re.MULTILINE), value
    refused = run_cli("config", env={"DOCKERPUSH_PLAIN_HTTP": "maybe"})
    assert refused.returncode == 2
    assert "DOCKERPUSH_PLAIN_HTTP" in refused.error
