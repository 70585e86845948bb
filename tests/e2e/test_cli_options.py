"""Every command and every option: shown and used, or hidden and warned of."""

from __future__ import annotations

import re
import signal
import subprocess
from argparse import SUPPRESS, Action, ArgumentParser
from pathlib import Path
from typing import Callable, Iterator
from unittest import mock

import pytest
from conftest import Command, Finished
from copied import write
from images import docker_archive
from inprocess import run_here
from transfers import noise_layer

import dockerpush.cli
from dockerpush.cli.main import COMMANDS, build_parser
from dockerpush.cli.options import USED
from dockerpush.server import Registry, RegistryServer
from dockerpush.settings.config import Settings
from dockerpush.settings.keys import KEYS_BY_NAME, PUSHING, flag

VALUES = {
    "blob_chunk": "5MiB",
    "jobs": "2",
    "limit_rate": "1G",
    "compress": "zstd",
    "compress_level": "1",
}
SOURCES = {
    path.stem: path.read_text()
    for path in Path(dockerpush.cli.__path__[0]).rglob("*.py")
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("registry")
    with RegistryServer(Registry(directory)) as server:
        yield server.host


@pytest.fixture
def run(host: str, run_cli: Command, tmp_path: Path) -> Callable[..., Finished]:
    """Run one of FORMS with more words, on an image that is there."""
    archive = docker_archive(tmp_path / "image.tar", [noise_layer(5_000, 1)])
    layout = f"oci:{tmp_path}/layout"
    names = {
        "archive": str(archive),
        "image": f"{host}/app:1",
        "new": f"{host}/new:1",
        "layout": layout,
        "host": host,
        "directory": str(tmp_path),
        "list": str(write(tmp_path / "list", f"{host}/app:1")),
    }
    environment = run_cli.environment()

    def run_it(form: str, *words: str) -> Finished:
        line = [word.format(**names) for word in form.split()]
        done = run_here([*line, *words], environment)
        assert done.returncode == 0, done.stderr
        return done

    run_it("push -q {archive} -t {image}")
    run_it("sync -q {list} {layout}")
    return run_it


FORMS: dict[str, tuple[str, ...]] = {
    "push {archive} -t {new}": PUSHING,
    "push {image} -t {new}": ("blob_chunk", "jobs", "limit_rate"),
    "pull {image}": ("jobs", "limit_rate"),
    "pull {image} -o {directory}/x.tar": ("jobs", "limit_rate"),
    "verify {archive} {image}": ("jobs", "limit_rate"),
    "config": PUSHING,
    "copy {archive} {new}": PUSHING,
    "copy {archive} {new} --referrers": ("blob_chunk", "jobs", "limit_rate"),
    "copy {image} {new}": ("blob_chunk", "jobs", "limit_rate"),
    "copy {image} {directory}/x.tar": ("jobs", "limit_rate"),
    "copy {image} oci:{directory}/x": ("jobs", "limit_rate"),
    "copy {archive} oci:{directory}/x": ("jobs",),
    "sync {list} {host}/mirror": ("blob_chunk", "jobs", "limit_rate"),
    "sync {layout} {host}/carried": ("blob_chunk", "jobs", "limit_rate"),
    "sync {list} oci:{directory}/x": ("jobs", "limit_rate"),
    "sync {layout} oci:{directory}/x": ("jobs",),
}
"""What each form of each command uses."""


def parsers() -> dict[str, ArgumentParser]:
    (commands,) = (
        action for action in build_parser()._actions if action.dest == "command"
    )
    assert isinstance(commands.choices, dict)
    return commands.choices


def options(name: str) -> dict[str, Action]:
    """dest → an option of the command *name*; positional arguments are none."""
    found = (one for one in parsers()[name]._actions if one.option_strings)
    return {one.dest: one for one in found}


def warnings(done: Finished) -> list[str]:
    return re.findall(r"^warning: .*does not use (--[a-z-]+)", done.stderr, re.M)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_is_shown_where_it_is_used(name: str) -> None:
    """The table is that of the parser."""
    found = {dest: one for dest, one in options(name).items() if dest in PUSHING}
    assert bool(found) == (name in USED)
    shown = {dest for dest, one in found.items() if one.help != SUPPRESS}
    assert shown == set(USED.get(name, ()))


@pytest.mark.parametrize("name", USED)
def test_a_command_uses_what_one_of_its_forms_uses(name: str) -> None:
    used = [keys for form, keys in FORMS.items() if form.split()[0] == name]
    assert {key for keys in used for key in keys} == set(USED[name])


@pytest.mark.parametrize(("form", "used"), FORMS.items(), ids=FORMS)
def test_every_option_is_used_or_warned_of(
    form: str, used: tuple[str, ...], run: Callable[..., Finished]
) -> None:
    read: set[str] = set()

    def reading(settings: Settings, name: str) -> object:
        read.add(name)
        return object.__getattribute__(settings, name)

    given = [f"{flag(key)}={value}" for key, value in VALUES.items()]
    with mock.patch.object(Settings, "__getattribute__", reading):
        done = run(form, "-q", *given)
    assert sorted(warnings(done)) == sorted(map(flag, set(PUSHING) - set(used)))
    assert read >= set(used)


@pytest.mark.parametrize("form", FORMS)
def test_without_options_there_is_no_warning(
    form: str, run: Callable[..., Finished]
) -> None:
    assert "does not use" not in run(form).stderr


def test_the_real_command_warns_and_continues(host: str, run, run_cli: Command) -> None:
    done = run_cli("pull", f"{host}/app:1", "-q", "--compress", "zstd")
    assert done.returncode == 0
    assert done.stderr == "warning: pull does not use --compress; leave it out\n"


def test_what_the_environment_says_is_for_all_commands(
    host: str, run, run_cli: Command
) -> None:
    environment = {"DOCKERPUSH_COMPRESS": "zstd", "DOCKERPUSH_BLOB_CHUNK": "5M"}
    done = run_cli("pull", f"{host}/app:1", "-q", env=environment)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("form", "words", "said"),
    [
        (
            "copy {image} {directory}/x.tar",
            ["--username", "me", "--password-file", "x"],
            ["--username", "--password-file"],
        ),
        (
            "copy {image} oci:{directory}/x",
            ["--dest-plain-http"],
            ["--dest-plain-http"],
        ),
        ("copy {archive} {new}", ["--src-cacert", "x"], ["--src-cacert"]),
        ("sync {list} oci:{directory}/x", ["--plain-http"], ["--plain-http"]),
        ("sync {layout} {host}/m", ["--src-no-creds"], ["--src-no-creds"]),
        ("copy {image} {new}", ["--plain-http", "--src-plain-http"], []),
    ],
)
def test_options_for_a_side_that_is_a_file(
    form: str, words: list[str], said: list[str], run: Callable[..., Finished]
) -> None:
    assert warnings(run(form, *words)) == said


def test_the_option_of_the_other_side_is_named(run: Callable[..., Finished]) -> None:
    done = run("copy {image} {directory}/x.tar", "--plain-http")
    assert "for the source: --src-plain-http" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_other_option_is_read_somewhere(name: str) -> None:
    """Settings are read by their names; all else by the commands themselves."""
    for dest in options(name).keys() - KEYS_BY_NAME.keys() - {"help", "help_all"}:
        plain = re.sub("^(src|dest)_", "", dest)
        if plain in KEYS_BY_NAME:
            continue
        wanted = re.compile(rf'args\.{plain}\b|"{plain}": |"{plain}"\)')
        assert any(map(wanted.search, SOURCES.values())), f"{name}: {dest}"


def test_login_shows_only_what_it_can_keep() -> None:
    shown = parsers()["login"].format_help()
    assert "--password-stdin" in shown
    assert "--registry-token" not in shown
    assert "--no-creds" not in shown


def test_a_quiet_logout_says_nothing(run_cli: Command) -> None:
    words = ("login", "reg.test:5000", "-u", "me", "-p", "secret", "--skip-check", "-q")
    assert run_cli(*words).returncode == 0
    for _ in range(2):  # the second finds nobody logged in
        done = run_cli("logout", "reg.test:5000", "-q")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_quiet_server_says_only_where_it_is(run_cli: Command, tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "image.tar", [noise_layer(5_000, 1)])
    child = run_cli.start(
        *("serve", archive, "--port", "0", "--dir", tmp_path / "served", "-q"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith(b"http://")
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=20) == (b"", b"")
    assert child.returncode == 0
