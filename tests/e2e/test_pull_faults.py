"""``pull``, and ``copy`` into a file, when the registry, the disk or the cache fail.

What passes by itself is survived. What stays ends in one line and the right exit code,
and nothing is left under a final name, nor beside it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import Command
from copied import delete, read, store, write
from faultproxy import ALWAYS, Effect, Fault, FaultProxy
from images import MIB, digest_of
from test_resume import wait_for
from transfers import Gate, check_error, noise_layer, run_all, sparse

from dockerpush.archive import open_archive
from dockerpush.oci import OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer

QUICK = ("--retry-times", "2", "--retry-delay", "0.01")

WRONG = f"sha256:{'0' * 64}"
PAGE = b"<html>please log in</html>"
HTML = {"status": 200, "body": PAGE, "headers": {"Content-Type": "text/html"}}
LAYERS = (noise_layer(30_000, 1), noise_layer(200_000, 2))
CUT, BYTE = Effect.CUT_ANSWER, Effect.CORRUPT_ANSWER
REFUSED, ANSWERED = Effect.REPLACE_REQUEST, Effect.REPLACE_ANSWER
BLOB, MANIFEST = ("GET", "blob"), ("GET", "manifest")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with app:1, an image of two layers that do not shrink."""
    with RegistryServer(Registry(tmp_path_factory.mktemp("registry"))) as server:
        store(server.host, "app", list(LAYERS))
        yield server.host


WAYS = {
    "pull": ("pull", "{ref}", "-o", "{out}", "--plain-http"),
    "copy": ("copy", "{ref}", "{out}", "--src-plain-http"),
}
"""Commands that write an archive."""


def words(way: str, reference: str, out: object) -> list[str]:
    """The arguments of one of WAYS."""
    return [word.format(ref=reference, out=out) for word in WAYS[way]]


def left(directory: Path) -> list[str]:
    """Files that are there without a final name."""
    return [path.name for path in directory.rglob("*") if is_part(path)]


def is_part(path: Path) -> bool:
    """True for what is not complete yet."""
    return path.is_file() and (".part" in path.name or path.parent.name == ".partial")


@contextlib.contextmanager
def behind(
    fault: Fault, host: str, name: str, way: str, out: object
) -> Iterator[list[str]]:
    """One of WAYS with *name*:1, past the *fault*, which has to be met by the end."""
    with FaultProxy(host, [fault]) as proxy:
        yield [*words(way, f"{proxy.host}/{name}:1", out), *QUICK]
        assert any(exchange.effects for exchange in proxy.log), fault


SHORT = {"status": 200, "body": b"too short"}

PASSING = {
    "cut": Fault(CUT, *BLOB, times=3, after=20_000, reset=False),
    "reset": Fault(CUT, *BLOB, times=2),
    "manifest cut": Fault(CUT, *MANIFEST, times=2, after=9),
    "503": Fault(REFUSED, *BLOB, times=2, status=503),
    "manifest 503": Fault(REFUSED, *MANIFEST, times=2, status=503),
}
WRONG_ONCE = {
    "wrong byte": Fault(BYTE, *BLOB, after=99),
    "wrong size": Fault(ANSWERED, *BLOB, **SHORT),
    "wrong page": Fault(ANSWERED, *BLOB, nth=2, **HTML),
}
"""A blob that was wrong is got once more."""

LASTING = {
    "cut": (Fault(CUT, *BLOB, times=ALWAYS), 5, "blob sha256:"),
    "manifest cut": (Fault(CUT, *MANIFEST, times=ALWAYS, after=9), 5, ":1: the"),
    "byte": (Fault(BYTE, *BLOB, times=ALWAYS, after=99), 6, "blob sha256:"),
    "short": (Fault(ANSWERED, *BLOB, times=ALWAYS, **SHORT), 6, "blob sha256:"),
    "page": (Fault(ANSWERED, *BLOB, times=ALWAYS, **HTML), 6, "blob sha256:"),
    "manifest page": (Fault(ANSWERED, *MANIFEST, times=ALWAYS, **HTML), 6, "not JSON"),
    "503": (Fault(REFUSED, *BLOB, times=ALWAYS, status=503), 1, "503"),
    "401": (Fault(REFUSED, *BLOB, nth=2, times=ALWAYS, status=401), 3, "401"),
    "404": (Fault(REFUSED, *BLOB, nth=2, times=ALWAYS, status=404), 4, "404"),
}

RUNS = {
    **{f"{way} {name}": fault for name, fault in PASSING.items() for way in WAYS},
    **{f"{way} {name}": fault for name, fault in WRONG_ONCE.items() for way in WAYS},
    **{
        f"{way} lasting {name}": one[0] for name, one in LASTING.items() for way in WAYS
    },
}


class Endings:
    """How each of RUNS ended, all in one process, which only saves its start.

    Each has an image of its own and an output that is there already.
    """

    def __init__(self, host: str, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self.command = Command(directory, directory)
        with contextlib.ExitStack() as stack:
            commands = {}
            for key, fault in RUNS.items():
                name = self.name_of(key)
                store(host, name, [noise_layer(size, key) for size in (30_000, 60_000)])
                self.out(key).write_bytes(b"of yesterday")
                line = behind(fault, host, name, key.split()[0], self.out(key))
                commands[key] = stack.enter_context(line)
            self.done = run_all(commands, self.command.environment())

    def name_of(self, key: str) -> str:
        """The repository of a run's image."""
        return f"faults/{key.replace(' ', '-')}"

    def out(self, key: str) -> Path:
        """The output of a run."""
        return self.directory / f"{key}.tar"

    def check_arrived(self, key: str) -> None:
        """It ended well, and the archive has the image."""
        assert self.done[key].returncode == 0, self.done[key].stderr
        assert holds(self.out(key), self.host) == [self.name_of(key)]


def holds(out: Path, host: str) -> list[str]:
    """The repositories whose image is in the archive, byte for byte."""
    found = []
    with open_archive(out) as archive:
        for image in archive.images:
            name = image.names[0].partition("/")[2].rpartition(":")[0]
            assert image.root.raw == read(host, name, "1")
            for layer in image.root.layers:
                with contextlib.closing(archive.open_at(layer.member)) as file:
                    assert digest_of(file.read()) == layer.digest
            found.append(name)
    return found


@pytest.fixture(scope="module")
def endings(host: str, tmp_path_factory: pytest.TempPathFactory) -> Endings:
    return Endings(host, tmp_path_factory.mktemp("endings"))


class TestFaults:
    @pytest.mark.parametrize("name", [n for n in RUNS if "lasting" not in n])
    def test_what_passes_is_survived(self, name, endings):
        endings.check_arrived(name)

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("name", LASTING)
    def test_what_stays_is_one_line_and_leaves_the_output_as_it_was(
        self, name, way, endings
    ):
        _, code, said = LASTING[name]
        done = endings.done[f"{way} lasting {name}"]
        check_error(done, code, said)
        assert done.stdout == ""
        assert endings.out(f"{way} lasting {name}").read_bytes() == b"of yesterday"

    def test_all_of_the_cache_is_right(self, endings):
        listed = endings.command("cache", "ls", "--json").json["images"]
        assert len(listed) >= len(PASSING) + len(WRONG_ONCE)  # of the pulls
        assert not [image for image in listed if "lasting" in image["ref"]]
        assert endings.command("cache", "verify").returncode == 0

    def test_what_is_left_is_for_the_next_try_and_gone_then(self, endings):
        """Nothing of what was wrong; a copy goes on with what may pass has left."""
        passing = [name for name, (_, code, _) in LASTING.items() if code in (1, 3, 5)]
        expected = {f".copy lasting {name}.tar.part" for name in passing}
        assert set(left(endings.directory)) <= expected
        again = {}
        for name in (*passing, "byte"):
            key = f"copy lasting {name}"
            reference = f"{endings.host}/{endings.name_of(key)}:1"
            again[key] = words("copy", reference, endings.out(key))
        endings.done.update(run_all(again, endings.command.environment()))
        for key in again:
            endings.check_arrived(key)
        assert left(endings.directory) == []

    @pytest.mark.parametrize("way", WAYS)
    def test_what_stays_by_a_process_of_its_own(self, way, host, run_cli, tmp_path):
        fault, code, said = LASTING["byte"]
        out = tmp_path / "out.tar"
        with behind(fault, host, "app", way, out) as line:
            check_error(run_cli(*line), code, said)
        assert not out.exists()

    @pytest.mark.parametrize("way", WAYS)
    def test_another_digest_in_the_header(self, way, host, run_cli, tmp_path):
        headers = {"Docker-Content-Digest": WRONG, "Content-Type": OCI_MANIFEST}
        raw = read(host, "app", "1")
        fault = Fault(ANSWERED, *MANIFEST, status=200, body=raw, headers=headers)
        with behind(fault, host, "app", way, tmp_path / "out.tar") as line:
            check_error(run_cli(*line), 6, WRONG)
        assert not (tmp_path / "out.tar").exists()

    @pytest.mark.parametrize("way", WAYS)
    def test_a_directory_that_held_an_image_before_is_as_it_was(
        self, way, host, run_cli, tmp_path
    ):
        out = tmp_path / "layout"
        store(host, "before", [noise_layer(5_000, "before")])
        made = run_cli("pull", f"{host}/before:1", "-o", f"{out}/")
        assert made.returncode == 0, made.stderr
        before = (out / "index.json").read_bytes()
        with behind(LASTING["byte"][0], host, "app", way, out) as line:
            check_error(run_cli(*line), 6, "blob sha256:")
        assert (out / "index.json").read_bytes() == before
        done = run_cli(*words(way, f"{host}/app:1", out))
        assert done.returncode == 0, done.stderr
        assert sorted(holds(out, host)) == ["app", "before"]
        assert left(tmp_path) == []


class SmallDisk:
    """Runs scripts for which *directory* is a disk of their own, of some size.

    In a script ``dockerpush`` is the command. *said* is the last one's stderr, in
    lines, its progress apart.
    """

    def __init__(self, run_cli: Command, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.said: list[str] = []
        self._run_cli = run_cli

    def run(self, size: str, *script: str, **env: str) -> list[str]:
        """What the lines of *script* write to stdout, in lines."""
        lines = (
            f"mount -t tmpfs -o size={size} tmpfs {self.directory} || exit 99",
            f'dockerpush() {{ {sys.executable} -m dockerpush "$@"; echo "exit $?"; }}',
            *script,
        )
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", "\n".join(lines)],
            env=self._run_cli.environment(env),
            cwd=self._run_cli.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        told = done.stderr.splitlines()
        self.said = [line for line in told if not line.startswith("blob ")]
        return done.stdout.splitlines()


@pytest.fixture
def disk(run_cli: Command, tmp_path: Path) -> SmallDisk:
    return SmallDisk(run_cli, tmp_path / "disk")


@pytest.fixture(scope="module")
def large(host: str) -> str:
    """An image with a layer of 3 MiB."""
    store(host, "large", [noise_layer(3 * MIB, "large")])
    return f"{host}/large:1"


@pytest.mark.parametrize("what", ["layer", "config"])
@pytest.mark.parametrize(
    "line",
    [
        "pull {}",
        "copy {} out.tar",
        "copy {} oci:out",
        "copy {} {}new",
        "verify {list} {1}lost",
    ],
)
def test_a_blob_that_the_registry_has_lost_is_called_so(
    line, what, host, run_cli, tmp_path
):
    """It names the blob itself: neither the name nor the login is wrong."""
    repository = f"lost/{uuid.uuid4().hex}"
    store(host, repository, [noise_layer(5_000, repository)])
    record = json.loads(read(host, repository, "1"))
    lost = record["config"] if what == "config" else record["layers"][0]
    delete(host, f"{repository}/blobs/{lost['digest']}")
    reference = f"{host}/{repository}:1"
    lines = write(tmp_path / "list", f"registry.example.com/app:1 {reference}")
    words = line.format(reference, f"{host}/", list=lines).split()
    done = run_cli(*words, *QUICK)
    assert done.returncode in (4, 6), done.stderr
    assert "the registry does not have it (BLOB_UNKNOWN" in done.stderr
    assert "have the image pushed there again" in done.stderr
    assert "login" not in done.stderr


FILES = "find {} -type f -size +0 ! -name .lock"


class TestFullDisk:
    def test_a_pull_that_does_not_fit_fetches_no_blob(self, disk, large):
        state = disk.directory / "state"
        printed = disk.run(
            "2m",
            f"dockerpush pull {large}",
            "dockerpush cache ls --json",
            FILES.format(state / "cache"),
            f"mount -o remount,size=16m {disk.directory}",
            f"dockerpush pull {large} --json",
            "dockerpush cache verify",
            DOCKERPUSH_STATE_DIR=str(state),
        )
        refused, listed, _, *files, pulled, done, _, verified = printed
        assert (refused, done, verified) == ("exit 1", "exit 0", "exit 0")
        assert json.loads(listed)["images"] == []
        assert not [path for path in files if "/partial/" in path]
        assert json.loads(pulled)["bytes"] > 2 * MIB
        (error,) = self.errors(disk)
        assert "cache prune" in error

    def test_under_the_cache_a_pull_into_a_file_does_without_it(
        self, disk, large, tmp_path
    ):
        out = tmp_path / "out.tar"
        printed = disk.run(
            "2m",
            f"dockerpush pull {large} -o {out} --json",
            "dockerpush cache ls --json",
            DOCKERPUSH_STATE_DIR=str(disk.directory / "state"),
        )
        pulled, code, listed, _ = printed
        assert code == "exit 0", disk.said
        assert json.loads(listed)["images"] == []
        assert any("without the cache" in line for line in disk.said)
        with open_archive(out) as archive:
            (image,) = archive.images
            assert image.root.descriptor.digest == json.loads(pulled)["digest"]

    @pytest.mark.parametrize("way", WAYS)
    def test_under_the_output_while_the_cache_is_elsewhere(self, way, disk, large):
        outs = [f"{disk.directory}/out.tar", f"{disk.directory}/layout/"]
        lines = [
            f"dockerpush {' '.join(words(way, large, out))} --json" for out in outs
        ]
        printed = disk.run(
            "2m",
            *lines,
            "echo left",
            f"find {outs[0]} {outs[1]}index.json",
            f"mount -o remount,size=16m {disk.directory}",
            *lines,
            f"find {disk.directory} -name '*.part*' -type f",
        )
        codes = [line for line in printed if line.startswith("exit ")]
        assert codes == ["exit 1", "exit 1", "exit 0", "exit 0"], disk.said
        assert printed[-1] == "exit 0"  # and nothing is left beside it
        assert printed[printed.index("left") + 1].startswith("{")  # nor was before
        for error, out in zip(self.errors(disk), outs):
            assert "no space left" in error or "MiB free" in error
            assert out.rstrip("/") in error
            assert error.endswith("make room, or write it elsewhere")
        assert len(self.errors(disk)) == 2
        assert not any("without the cache" in line for line in disk.said)

    def test_under_what_is_recompressed_names_the_temp_directory(
        self, disk, large, tmp_path
    ):
        out = tmp_path / "out.tar"
        (code,) = disk.run(
            "2m",
            f"dockerpush copy {large} {out} --recompress zstd",
            TMPDIR=str(disk.directory),
        )
        (error,) = self.errors(disk)
        assert (code, out.exists()) == ("exit 1", False)
        assert "set TMPDIR to a larger directory" in error
        assert "cache prune" not in error

    def test_a_full_cache_does_not_matter_to_a_copy_into_a_file(
        self, disk, large, tmp_path
    ):
        line = " ".join(words("copy", large, tmp_path / "out.tar"))
        printed = disk.run(
            "64k",
            f"head -c 65536 /dev/zero > {disk.directory}/full",
            f"dockerpush {line}",
            DOCKERPUSH_STATE_DIR=str(disk.directory / "state"),
        )
        assert printed[-1] == "exit 0", disk.said
        assert (tmp_path / "out.tar").stat().st_size > 3 * MIB

    def errors(self, disk: SmallDisk) -> list[str]:
        return [line for line in disk.said if line.startswith("error: ")]


@dataclass(frozen=True)
class Cached:
    """An image that was pulled, and the files of the cache that it is in."""

    reference: str
    digest: str
    files: dict[str, Path]


@pytest.fixture
def cached(host: str, run_cli: Command, tmp_path: Path) -> Cached:
    repository = f"cached/{uuid.uuid4().hex}"
    store(host, repository, [noise_layer(100_000, repository)])
    raw = read(host, repository, "1")
    assert run_cli("pull", f"{host}/{repository}:1").returncode == 0
    record = json.loads(raw)
    digests = {
        "manifest": digest_of(raw),
        "config": record["config"]["digest"],
        "layer": record["layers"][0]["digest"],
    }
    blobs = run_cli.state / "cache/blobs/sha256"
    files = {name: blobs / digest[7:] for name, digest in digests.items()}
    return Cached(f"{host}/{repository}:1", digests["manifest"], files)


def flip(path: Path, at: int) -> None:
    """Another byte, in a file of the same size."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


class TestFlippedBytes:
    @pytest.mark.parametrize(("what", "at"), [("layer", -1), ("config", 5)])
    def test_a_blob_is_never_pushed_and_found_by_verify(
        self, what, at, cached, shared_docker_registry, run_cli
    ):
        """Nor is the tag moved; what verify has removed is pulled again by a push."""
        path = cached.reference.partition("/")[2]
        target = f"{shared_docker_registry.host}/{path}"
        flip(cached.files[what], at)
        push = ["push", cached.reference, "-t", target, "--json"]
        lines = {
            "push": push,
            "digest": ["digest", target],
            "verify": ["cache", "verify"],
        }
        done = run_all({**lines, "again": push}, run_cli.environment())
        check_error(done["push"], 6, cached.files[what].name)
        assert done["digest"].returncode == 4
        assert done["verify"].returncode == 6
        told = done["verify"].stdout + done["verify"].stderr
        assert cached.files[what].name in told
        assert done["again"].returncode == 0, done["again"].stderr
        assert done["again"].json["digest"] == cached.digest

    def test_a_manifest_is_got_again_without_a_word(self, cached, run_cli):
        flip(cached.files["manifest"], 5)
        out = run_cli.home / "out.tar"
        done = run_cli("pull", cached.reference, "-o", out, "--json")
        assert done.returncode == 0, done.stderr
        assert done.json["digest"] == cached.digest
        assert run_cli("cache", "verify").returncode == 0


class TestTwoWriters:
    """Of one output, at the same time: what is there in the end is one of the two."""

    @pytest.fixture
    def two(self, host: str) -> Iterator[tuple[Gate, list[str]]]:
        for name in ("red", "blue"):
            store(host, name, [noise_layer(400_000, name)])
        with Gate(host) as gate:
            yield gate, [f"{gate.host}/{name}:1" for name in ("red", "blue")]

    def run_both(
        self, two: tuple[Gate, list[str]], out: object, *flags: str, way: str, cli: Any
    ) -> list[tuple[int, bytes]]:
        """Exit codes and stderr; both have begun before either gets a layer."""
        gate, references = two
        stops = [gate.stop("GET", "blob", nth) for nth in (1, 3)]
        children = []
        for reference, stop in zip(references, stops):
            line = [*words(way, reference, out), *flags]
            pipe, gone = subprocess.PIPE, subprocess.DEVNULL
            children.append(cli.start(*line, stderr=pipe, stdout=gone))
            assert stop.reached.wait(20)
        for stop in stops:
            stop.go()
        said = [child.communicate(timeout=30)[1] for child in children]
        return [(child.returncode, text) for child, text in zip(children, said)]

    @pytest.mark.parametrize("way", WAYS)
    def test_of_a_file(self, way, two, host, run_cli, tmp_path):
        out = tmp_path / "out.tar"
        for code, said in self.run_both(two, out, way=way, cli=run_cli):
            assert code == 0, said
        assert holds(out, host) in (["red"], ["blue"])
        assert left(tmp_path) == []

    def test_of_a_file_that_shall_not_be_replaced(self, two, host, run_cli, tmp_path):
        out = tmp_path / "out.tar"
        ended = self.run_both(two, out, "-n", way="pull", cli=run_cli)
        assert sorted(code for code, _ in ended) == [0, 2]
        (refused,) = (said for code, said in ended if code)
        assert refused.splitlines()[-1].endswith(b"exists, and stays as it is")
        assert holds(out, host) in (["red"], ["blue"])
        assert left(tmp_path) == []

    @pytest.mark.parametrize("way", WAYS)
    def test_of_a_directory_that_has_both_then(self, way, two, host, run_cli, tmp_path):
        out = tmp_path / "layout"
        made = run_cli("pull", f"{host}/app:1", "-o", f"{out}/")
        assert made.returncode == 0, made.stderr
        for code, said in self.run_both(two, out, way=way, cli=run_cli):
            assert code == 0, said
        assert sorted(holds(out, host)) == ["app", "blue", "red"]
        assert left(tmp_path) == []


class TestAbsentChildren:
    @pytest.fixture
    def lost(self, host: str) -> tuple[str, str]:
        """An index without its second child, and that one's digest."""
        return f"{host}/sparse:1", sparse(host, "sparse")

    def test_pulling_and_copying_name_it(self, lost, host, run_cli, tmp_path):
        reference, gone = lost
        everything = ("--platform", "all")
        lines = {
            "archive": ("pull", reference, "-o", tmp_path / "a.oci.tar", *everything),
            "directory": ("pull", reference, "-o", f"{tmp_path}/layout/", *everything),
            "cache": ("pull", reference),
            "child": (
                *("pull", reference, "-o", tmp_path / "a.tar"),
                *("--platform", "linux/arm64"),
            ),
            "copy": ("copy", reference, f"{host}/copied:1"),
            "stream": ("copy", reference, tmp_path / "b.oci.tar"),
        }
        for done in run_all(lines, run_cli.environment()).values():
            check_error(done, 4, gone)
            assert done.stdout == ""
        assert not list(tmp_path.glob("*.tar"))
        assert not (tmp_path / "layout").exists()
        assert left(tmp_path) == []
        assert run_cli("digest", f"{host}/copied:1").returncode == 4

    def test_a_platform_that_is_there_can_be_pulled(
        self, lost, host, run_cli, tmp_path
    ):
        reference, _ = lost
        taken = ("--platform", "linux/amd64", "--json")
        out = tmp_path / "out.tar"
        lines = {
            "pull": ("pull", reference, "-o", out, *taken),
            "copy": ("copy", reference, f"{host}/amd64:1", *taken),
            "push": ("push", out, "-t", f"{host}/b:1", "--compress", "none", "--json"),
        }
        child = json.loads(read(host, "sparse", "1"))["manifests"][0]["digest"]
        for done in run_all(lines, run_cli.environment()).values():
            assert done.returncode == 0, done.stderr
            assert done.json["digest"] == child


class TestNonsense:
    NAMES = ("r.test/UPPER:1", "a b:1", "r.test/x@sha256:12")

    def test_no_reference_is_refused_before_anybody_is_asked(self, run_cli, tmp_path):
        lines = {}
        for name in self.NAMES:
            write(tmp_path / name.replace("/", "_"), f"{name} r.test/x:1 more")
            lines[f"sync {name}"] = ["sync", tmp_path / name.replace("/", "_")]
            for way in WAYS:
                lines[f"{way} {name}"] = words(way, name, tmp_path / "x.tar")
        for done in run_all(lines, run_cli.environment()).values():
            check_error(done, 2)

    @pytest.mark.parametrize("way", WAYS)
    def test_what_is_not_there_is_named(self, way, host, run_cli, tmp_path):
        out = tmp_path / "out.tar"
        app = words(way, f"{host}/app:1", out)
        lines = {
            "tag": words(way, f"{host}/app:none", out),
            "repository": words(way, f"{host}/none:1", out),
            "digest": words(way, f"{host}/app@{WRONG}", out),
            "platform": [*app, "--platform", "linux/s390x"],
            "no platform": [*app, "--platform", "linux"],
            "nobody": [*words(way, "127.0.0.1:1/app:1", out), "--retry-times", "0"],
        }
        done = run_all(lines, run_cli.environment())
        check_error(done["tag"], 4, "no tag 'none' in")
        check_error(done["repository"], 4, "no repository")
        check_error(done["digest"], 4, WRONG)
        check_error(done["platform"], 4, "linux/s390x", "linux/amd64")
        check_error(done["no platform"], 2, "--platform")
        check_error(done["nobody"], 5, "127.0.0.1:1")
        assert not out.exists()


class TestKills:
    """``kill -9``, and the same command again: into an archive and a directory."""

    @pytest.mark.long
    @pytest.mark.parametrize(
        ("out", "rate"), [("out.tar", 1_500_000), ("layout/", 6_000_000)]
    )
    def test_a_copy_continues_with_what_it_has(
        self, out, rate, large, host, run_cli, tmp_path
    ):
        """Killed late, then at once, and then let go on: each byte comes about once.

        A file notes once a second how far it has come, which is what a kill can cost.
        """
        gone = subprocess.DEVNULL
        slow = Fault(Effect.THROTTLE, *BLOB, times=ALWAYS, rate=rate)
        with FaultProxy(host, [slow]) as proxy:
            line = words("copy", f"{proxy.host}/large:1", f"{tmp_path}/{out}")
            for size in (2 * MIB, 2 * MIB + 200_000):
                with run_cli.start(*line, stdout=gone, stderr=gone) as child:
                    wait_for(lambda size=size: received(proxy) > size)
                    child.kill()
            done = run_cli(*line)
            assert done.returncode == 0, done.stderr
            assert received(proxy) < 1.6 * 3 * MIB
        assert left(tmp_path) == []


def received(proxy: FaultProxy) -> int:
    """Bytes of blobs that came through."""
    return sum(exchange.received for exchange in proxy.exchanges("GET", "blob"))
