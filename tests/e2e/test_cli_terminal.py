"""What a person sees: bars that keep out of the way, at any width, and what is said.

The command runs at a pseudo-terminal whose window changes its width in the middle;
`screen` tells what is seen then.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest
from images import docker_archive, tar_of
from screen import Screen
from suites import first
from terminal import at_terminal
from transfers import noise_layer

from dockerpush.server import Registry, RegistryServer

SIZES = (100_000, 250_000, 250_000)
"""Bytes of the layers; of the images of a list each has one."""
SLOWLY = ("--limit-rate", "300K")
DIGEST = r"sha256:[0-9a-f]{64}"
SENT = r"\d blobs? \(0\.\d MiB\) in \d+\.\d s"

COMMANDS = {
    "push": ("push", "{archive}", "-t", "{there}/{new}:1"),
    "pull": ("pull", "{here}/app:1", "-o", "{out}/pulled.tar"),
    "copy": ("copy", "{here}/app:1", "{there}/{new}:1"),
    "sync": ("sync", "{list}", "{there}/{new}"),
    "verify": ("verify", "{archive}", "{here}/app:1"),
}
SAID = {
    "push": (
        r"note: 3 layers stay uncompressed: they would not shrink",
        rf"\S+@{DIGEST}",
        rf"pushed \S+:1: sent {SENT}(; .*)?",
    ),
    "pull": (
        rf"\S+/app@{DIGEST}",
        r"pulled \S+/app:1: 4 blobs, 0\.\d MiB received in \d+\.\d s",
        r"wrote \S+/pulled\.tar \(docker-archive\)",
    ),
    "copy": (rf"\S+@{DIGEST}", rf"copied \S+ to \S+: copied {SENT}(; .*)?"),
    "sync": (
        *[rf"copied \S+/image{n}:1 to \S+/image{n}:1 \(.*\)" for n in range(3)],
        r"3 copied, 0 unchanged, 0 missing, 0 failed; 0\.\d MiB in \d+\.\d s",
    ),
    "verify": (rf"verified \S+: {DIGEST}, 3 layers, 0\.\d MiB read back",),
    "save": (r"saved app:1: 0\.\d MiB in \d+\.\d s", r"\S+/app_1\.tar"),
}
"""Every line that is said, however narrow the window; in any order."""

RESIZES = [(80, 40), (40, 80), (200, 40), (40, 200)]


@dataclass(frozen=True)
class Place:
    """Registries and files that the commands work with."""

    words: dict[str, str]

    def command(self, name: str, out: Path) -> list[str]:
        """The words of a command into *out*, or into a repository of the test alone."""
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        new = "new" + hashlib.sha256(test.encode()).hexdigest()[:12]
        words = {**self.words, "out": str(out), "new": new}
        return [word.format(**words) for word in COMMANDS[name]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Two registries: the first holds app:1, and image0:1 to image2:1."""
    import dockerpush

    directory = tmp_path_factory.mktemp("place")
    layers = [noise_layer(size, str(number)) for number, size in enumerate(SIZES)]
    archive = docker_archive(directory / "app.tar", layers)
    names = [f"image{number}" for number in range(3)]
    with (
        RegistryServer(Registry(directory / "here")) as here,
        RegistryServer(Registry(directory / "there")) as there,
    ):
        dockerpush.push(str(archive), f"{here.host}/app:1")
        for name, layer in zip(names, layers):
            one = docker_archive(directory / f"{name}.tar", [layer])
            dockerpush.push(str(one), f"{here.host}/{name}:1")
        listed = directory / "images.txt"
        listed.write_text("".join(f"{here.host}/{name}:1\n" for name in names))
        yield Place(
            {
                "archive": str(archive),
                "list": str(listed),
                "here": here.host,
                "there": there.host,
            }
        )


def check(screen: Screen, name: str) -> None:
    """Nothing was wrapped, written over or left; bars were seen at both widths."""
    for frame in screen.frames:
        assert all(len(line) < frame.columns for line in frame.lines)
        for line in frame.above:
            assert not re.search(r"blob \d/|\|.*\||eta ", line), frame
    assert len({frame.columns for frame in screen.frames}) == 2
    # A picture that is on its way while the window changes is cut, and drawn again.
    assert sum(frame.cut > 0 for frame in screen.frames) <= 1
    unsaid = list(SAID[name])
    for line in screen.text:
        found = [pattern for pattern in unsaid if re.fullmatch(pattern, line)]
        assert found, f"{line!r} in {screen.text}"
        unsaid.remove(found[0])
    assert not unsaid


@pytest.mark.parametrize(("before", "after"), first(1, RESIZES))
@pytest.mark.parametrize("name", COMMANDS)
def test_a_window_changes_while_the_command_runs(
    name, before, after, place, run_cli, tmp_path
):
    screen = Screen(before)
    command = [*place.command(name, tmp_path / "out"), *SLOWLY]
    (tmp_path / "out").mkdir()
    with at_terminal(run_cli, *command, screen=screen) as terminal:
        terminal.see_bars()
        terminal.resize(after)
        terminal.see_bars()
        assert terminal.end() == 0, terminal.text
    check(screen, name)


@pytest.mark.long
@pytest.mark.parametrize(("before", "after"), RESIZES)
def test_where_lines_are_cut_off_nothing_is_left_either(
    before, after, place, run_cli, tmp_path
):
    """As in xterm, whose lines are not laid out anew."""
    screen = Screen(before, reflows=False)
    command = [*place.command("push", tmp_path / "out"), *SLOWLY]
    with at_terminal(run_cli, *command, screen=screen) as terminal:
        terminal.see_bars()
        terminal.resize(after)
        assert terminal.end() == 0, terminal.text
    assert len(screen.text) >= 3
    assert not any(re.search(r"\|| MiB eta|^blob", line) for line in screen.text)


@pytest.mark.long
@pytest.mark.parametrize(("before", "after"), first(1, RESIZES))
def test_save(before, after, run_cli, tmp_path):
    program = tmp_path / "docker"
    program.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo "Docker version 28"; exit; fi\n'
        "for i in 1 2 3 4 5 6 7 8; do head -c 100000 /dev/zero; sleep 0.3; done\n"
    )
    program.chmod(0o755)
    screen = Screen(before)
    command = ("save", "app:1", "--runtime", program, "--output-dir", tmp_path)
    with at_terminal(run_cli, *command, screen=screen) as terminal:
        terminal.see_bars()
        terminal.resize(after)
        terminal.see_bars()
        assert terminal.end() == 0, terminal.text
    assert any(frame.lines[0].startswith("saving app:1 ") for frame in screen.frames)
    check(screen, "save")


def test_the_log_stands_above_the_bars(place, run_cli, tmp_path):
    screen = Screen(80)
    command = [*place.command("push", tmp_path / "out"), *SLOWLY, "--debug"]
    with at_terminal(run_cli, *command, screen=screen) as terminal:
        assert terminal.end() == 0, terminal.text
    logged = re.compile(r"\d{4}-\d\d-\d\d \S+ (INFO|DEBUG) .*")
    rest = [line for line in screen.text if not logged.fullmatch(line)]
    assert len(rest) == len(SAID["push"])
    assert len(screen.text) > 10
    assert any(frame.above for frame in screen.frames)


@pytest.mark.long
def test_results_of_a_sync_stand_above_the_bars_of_the_others(place, run_cli, tmp_path):
    screen = Screen(80)
    command = [*place.command("sync", tmp_path / "out"), *SLOWLY]
    with at_terminal(run_cli, *command, screen=screen) as terminal:
        assert terminal.end() == 0, terminal.text
    meanwhile = [line for frame in screen.frames for line in frame.above]
    assert any(line.startswith("copied ") for line in meanwhile)


def test_serve_says_what_it_serves_and_moves_nothing(place, run_cli, tmp_path):
    screen = Screen(40)
    archive = place.words["archive"]
    command = ("serve", archive, "--port", "0", "--dir", tmp_path / "served")
    with at_terminal(run_cli, *command, screen=screen) as terminal:
        terminal.expect("http://.*\n")
        terminal.type("\x03")
        assert terminal.end() == 0
    assert screen.frames == []
    assert "\x1b" not in terminal.text


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_dumb_terminal_gets_lines(kind, place, run_cli, tmp_path):
    command = place.command("push", tmp_path / "out")
    command += ["--limit-rate", "600K", "--progress-interval", "0.2"]
    with at_terminal(run_cli, *command, env={"TERM": kind}) as terminal:
        assert terminal.end() == 0
    assert "\x1b" not in terminal.text
    assert "\r" not in terminal.text
    assert re.search(r"^blob \d/4 \S+ MiB", terminal.text, re.M)


def test_there_is_no_colour(place, run_cli, tmp_path):
    """With or without NO_COLOR: `screen` knows no command for one."""
    command = [*place.command("push", tmp_path / "out"), "--limit-rate", "600K"]
    with at_terminal(run_cli, *command, env={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
    assert terminal.screen.frames
    assert not re.search(r"\x1b\[[\d;]*m", terminal.text)


class TestReplaced:
    """A push that moves a tag says what the tag pointed to before."""

    @pytest.fixture
    def embedded(self, tmp_path: Path) -> Iterator[RegistryServer]:
        with RegistryServer(Registry(tmp_path / "registry")) as server:
            yield server

    @pytest.fixture
    def images(self, tmp_path: Path) -> list[Path]:
        layers = [tar_of({"file": b"%d" % number * 5_000}) for number in range(2)]
        return [
            docker_archive(tmp_path / f"{number}.tar", [layer])
            for number, layer in enumerate(layers)
        ]

    def notes(self, done, target: str) -> list[str]:
        assert done.returncode == 0, done.stderr
        return re.findall(
            rf"^note: {target} pointed to ({DIGEST}) before$", done.stderr, re.M
        )

    @pytest.mark.parametrize("way", ["file", "pipe", "copy", "joined"])
    def test_by_each_way(self, way, images, embedded, run_cli, tmp_path):
        target = f"{embedded.host}/moved/{way}:1"
        old = run_cli("push", images[0], "-t", target, "--json")
        assert (old.json["replaced"], self.notes(old, target)) == (None, [])
        words, given = ["push", images[1], "-t", target, "--json"], None
        if way == "pipe":
            words, given = ["push", "-", "-t", target, "--json"], images[1]
        elif way == "copy":
            other = f"{embedded.host}/other:1"
            assert run_cli("push", images[1], "-t", other).returncode == 0
            words = ["copy", other, target, "--json"]
        elif way == "joined":
            arm = tmp_path / "arm.tar"
            arm.write_bytes(images[0].read_bytes().replace(b'"amd64"', b'"arm64"'))
            words.insert(2, arm)
        new = run_cli(*words, stdin=given)
        assert self.notes(new, target) == [old.json["digest"]]
        assert new.json["replaced"] == old.json["digest"]

    def test_the_same_image_replaces_nothing(self, images, embedded, run_cli):
        target = f"{embedded.host}/moved/same:1"
        for _ in range(2):
            done = run_cli("push", images[0], "-t", target, "--json")
            assert (done.json["replaced"], self.notes(done, target)) == (None, [])

    def test_a_tag_that_goes_back(self, images, embedded, run_cli):
        """All blobs are there: the look that saves work tells it."""
        target = f"{embedded.host}/moved/back:1"
        digests = [
            run_cli("push", image, "-t", target, "--json").json["digest"]
            for image in images
        ]
        done = run_cli("push", images[0], "-t", target)
        assert self.notes(done, target) == [digests[1]]
        assert "nothing to send" in done.stderr
        quiet = run_cli("push", images[1], "-t", target, "-q")
        assert quiet.stderr == ""
