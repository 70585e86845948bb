"""Links and files that somebody else put where a partial, temp or lock file goes.

Whoever may write to a directory can do that. No victim's file changes, nothing that
another user holds open becomes an image, and what is not ours is left where it lies.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterator

import pytest
from conftest import Command, Finished
from images import docker_archive, tar_of
from inprocess import run_here

from dockerpush.server import Registry, RegistryServer
from dockerpush.server.messages import ServerError
from dockerpush.state.upload_sessions import UploadSessions
from dockerpush.system import files

SECRET = b"the victim's own words\n"
OTHER = 4321
"""The number of another user."""

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give away"
)
KINDS = ("symlink", "hardlink", pytest.param("foreign", marks=needs_root))


class Planted:
    """What somebody else has put at *path*; he holds a *foreign* file open."""

    def __init__(self, path: Path, kind: str, victim: Path) -> None:
        self.path, self.victim, self._kind = path, victim, kind
        self._held: BinaryIO | None = None
        victim.write_bytes(SECRET)
        victim.chmod(0o644)
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "symlink":
            path.symlink_to(victim)
        elif kind == "hardlink":
            os.link(victim, path)
        else:
            path.write_bytes(b"")
            path.chmod(0o666)
            os.chown(path, OTHER, OTHER)
            self._held = path.open("r+b", buffering=0)
        self._before = self._what()

    def _what(self) -> tuple[int, ...]:
        found = self.path.lstat()
        return found.st_ino, found.st_mode, found.st_uid, found.st_size

    def check(self) -> None:
        """Nothing has changed, and what is written to it now becomes nothing."""
        assert self.victim.read_bytes() == SECRET
        assert self.victim.stat().st_mode & 0o777 == 0o644
        assert self._what() == self._before
        if self._held is not None:
            self._held.write(b"evil" * 100)
            self._held.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A directory in which everybody can do everything."""
    directory = tmp_path / "out"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


@pytest.fixture
def plant(tmp_path: Path, out: Path) -> Callable[[str, str], Planted]:
    numbers = itertools.count()
    return lambda name, kind: Planted(
        out / name, kind, tmp_path / f"victim-{next(numbers)}"
    )


@pytest.fixture
def image(tmp_path: Path, run_cli: Command) -> Iterator[str]:
    """A reference to an image in a registry."""
    archive = docker_archive(tmp_path / "image.tar", [tar_of({"file": b"1" * 3000})])
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        reference = f"{server.host}/app:1"
        succeeds(run_cli("push", archive, "-t", reference, "--compress", "none"))
        yield reference


@pytest.fixture
def run_cli(run_cli: Command) -> Command:
    """The command, in the process of the tests."""

    class Here(Command):
        def __init__(self) -> None:
            self.home, self.state = run_cli.home, run_cli.state

        def __call__(self, *arguments: object, **options: Any) -> Finished:
            environment = run_cli.environment(options.pop("env", None))
            return run_here(arguments, environment)

    return Here()


def succeeds(done: Finished) -> Finished:
    assert done.returncode == 0, done.stderr
    return done


def refuses(done: Finished, path: Path) -> None:
    assert done.returncode not in (0, 2), done.stderr
    assert done.error.startswith("error: ") and "Traceback" not in done.stderr
    assert path.name in done.error or path.parent.name in done.error


def manifest_of(image: str) -> tuple[str, dict[str, object]]:
    """The digest of *image*, and what it holds."""
    host, _, name = image.partition("/")
    url = f"http://{host}/v2/{name.replace(':', '/manifests/')}"
    request = urllib.request.Request(url)
    request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json")
    with urllib.request.urlopen(request) as answer:
        raw = answer.read()
    return f"sha256:{hashlib.sha256(raw).hexdigest()}", json.loads(raw)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [".app.tar.part", ".app.tar.part.lock"])
@pytest.mark.parametrize("cached", [(), ("--no-cache",)], ids=["cached", "not cached"])
def test_pull_to_a_file(kind, name, cached, plant, out, image, run_cli):
    planted = plant(name, kind)
    succeeds(run_cli("pull", image, "-o", out / "app.tar", *cached))
    planted.check()
    assert sorted(path.name for path in out.iterdir()) == [name, "app.tar"]
    assert (out / "app.tar").stat().st_mode & 0o777 == 0o644
    succeeds(run_cli("verify", out / "app.tar", image))


@pytest.mark.parametrize("kind", KINDS)
def test_volumes(kind, plant, out, image, run_cli):
    names = [".app.tar.001.part", ".app.tar.sha256.part"]
    planted = [plant(name, kind) for name in names]
    words = ("pull", image, "-o", out / "app.tar", "--split", "10MB", "--no-cache")
    succeeds(run_cli(*words))
    for one in planted:
        one.check()
    written = ["app.tar.001", "app.tar.sha256"]
    assert sorted(path.name for path in out.iterdir()) == [*names, *written]
    assert {(out / name).stat().st_mode & 0o777 for name in written} == {0o644}
    succeeds(run_cli("verify", out / "app.tar.001", image))


@pytest.mark.parametrize("kind", KINDS)
def test_save(kind, plant, out, run_cli, tmp_path):
    script = tmp_path / "bin" / "docker"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\ncase $1 in save) echo archive;; esac\n")
    script.chmod(0o755)
    planted = plant(".app.tar.part", kind)
    path = {"PATH": f"{script.parent}:{os.environ['PATH']}"}
    succeeds(run_cli("save", "x:1", "-o", out / "app.tar", env=path))
    planted.check()
    assert (out / "app.tar").read_bytes() == b"archive\n"
    assert (out / "app.tar").stat().st_mode & 0o777 == 0o644


@pytest.fixture
def layout(out: Path, image: str, run_cli: Command, tmp_path: Path) -> Path:
    """An OCI layout with another image in it."""
    other = docker_archive(tmp_path / "other.tar", [tar_of({"file": b"2" * 3000})])
    succeeds(run_cli("copy", other, f"oci:{out}"))
    (out / ".partial").mkdir(exist_ok=True)
    return out


PARTIALS = (
    ".index.json.part",
    ".oci-layout.part",
    "blobs/sha256/.{manifest}.part",
    ".partial/sha256-{layer}",
    ".partial/sha256-{layer}.lock",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["copy", "pull", "sync"])
def test_a_layout(kind, command, plant, layout, image, run_cli, tmp_path):
    digest, manifest = manifest_of(image)
    (layer,) = manifest["layers"]
    names = {"manifest": digest[7:], "layer": layer["digest"][7:]}
    planted = [plant(name.format(**names), kind) for name in PARTIALS]
    listed = tmp_path / "list.yaml"
    entry = {"source": image, "target": image}
    listed.write_text(json.dumps({"version": 1, "sync": [entry]}))
    commands = {
        "copy": ("copy", image, f"oci:{layout}:app"),
        "pull": ("pull", image, "-o", f"{layout}/"),
        "sync": ("sync", listed, f"oci:{layout}"),
    }
    succeeds(run_cli(*commands[command]))
    for one in planted:
        one.check()
    found = layout / "blobs" / "sha256" / layer["digest"][7:]
    assert hashlib.sha256(found.read_bytes()).hexdigest() == found.name
    assert found.stat().st_mode & 0o777 == 0o644
    assert f'"{digest}"' in (layout / "index.json").read_text()
    left = {path.name for path in layout.rglob("*") if path.name.startswith((".", "s"))}
    assert left <= {".partial", "sha256", *(one.path.name for one in planted)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_lock_of_a_layout(kind, plant, layout, image, run_cli):
    before = (layout / "index.json").read_bytes()
    planted = plant(".lock", kind)
    refuses(run_cli("copy", image, f"oci:{layout}:app"), planted.path)
    planted.check()
    assert (layout / "index.json").read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [".blobs.json.lock", ".blobs.json.part"])
def test_the_state(kind, name, image, run_cli, tmp_path):
    """It may be lost: a push without it is a push."""
    planted = Planted(tmp_path / "other" / name, kind, tmp_path / "victim")
    state = {"DOCKERPUSH_STATE_DIR": str(planted.path.parent)}
    again = image.replace("app", "again")
    done = run_cli("push", tmp_path / "image.tar", "-t", again, env=state)
    succeeds(done)
    planted.check()
    assert ("without it" in done.stderr) == name.endswith(".lock")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["{}.lock", ".{}.json.part"])
def test_a_saved_upload(kind, name, tmp_path):
    sessions = UploadSessions(tmp_path / "uploads")
    digest = f"sha256:{'0' * 64}"
    stem = sessions.path_of(("host", "app", digest)).stem
    path = tmp_path / "uploads" / name.format(stem)
    planted = Planted(path, kind, tmp_path / "victim")
    claim = sessions.claim("host", "app", digest)
    assert (claim is None) == name.endswith(".lock")
    if claim is not None:
        with claim:
            claim.record("http://host/upload", 5, 10)
        with sessions.claim("host", "app", digest) as again:
            assert again.saved.offset == 5
    planted.check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [".config.json.lock", "config.json.lock"])
def test_a_login(kind, name, image, run_cli, tmp_path):
    """The lock of a file of credentials: whose it is not is told."""
    planted = Planted(run_cli.home / ".docker" / name, kind, tmp_path / "victim")
    host = image.partition("/")[0]
    done = run_cli("login", host, "-u", "me", "-p", "secret")
    if done.returncode:
        refuses(done, planted.path)
    planted.check()


@pytest.mark.parametrize("kind", KINDS)
def test_the_lock_of_a_store(kind, out, plant):
    planted = plant("lock", kind)
    with pytest.raises(ServerError, match=r"cannot store in .*: a link, or a file"):
        Registry(out).open()
    planted.check()


@pytest.mark.parametrize("kind", KINDS)
def test_changes_of_a_store(kind, out, run_cli, plant, tmp_path):
    planted = plant("changes", kind)
    archive = docker_archive(tmp_path / "image.tar", [tar_of({"file": b"1"})])
    with RegistryServer(Registry(out)) as server:
        done = run_cli(
            "push", archive, "-t", f"{server.host}/app:1", "--retry-times", "0"
        )
    assert done.returncode not in (0, 2) and "Traceback" not in done.stderr
    planted.check()


@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_into_a_store(kind, out, plant):
    """A session that somebody put there becomes no blob, and takes no bytes."""
    session = "0" * 8 + "-0000-4000-8000-" + "0" * 12
    planted = plant(f"repositories/app/_uploads/{session}", kind)
    content = planted.path.read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with RegistryServer(Registry(out)) as server:
        url = f"http://{server.host}/v2/app/blobs/uploads/{session}"
        for method, query, body in (("PATCH", "", b"x"), ("PUT", digest, b"")):
            where = f"{url}?digest={query}" if query else url
            request = urllib.request.Request(where, data=body, method=method)
            with pytest.raises(urllib.error.HTTPError) as failed:
                urllib.request.urlopen(request)
            assert failed.value.code >= 400
            failed.value.close()
    planted.check()
    assert not list((out / "blobs").rglob(digest[7:]))


def test_a_link_in_a_directory_like_tmp_is_not_followed(out, image, run_cli, tmp_path):
    if not hasattr(os, "geteuid") or os.geteuid():
        pytest.skip("only root can give away")
    out.chmod(0o1777)
    os.chown(out, OTHER + 1, OTHER)
    victim = tmp_path / "victim"
    victim.write_bytes(SECRET)
    (out / "app.tar").symlink_to(victim)
    os.lchown(out / "app.tar", OTHER, OTHER)
    refuses(run_cli("pull", image, "-o", out / "app.tar"), out / "app.tar")
    assert victim.read_bytes() == SECRET
    (out / "own.tar").symlink_to(victim)
    succeeds(run_cli("pull", image, "-o", out / "own.tar"))
    assert victim.read_bytes() != SECRET


@needs_root
def test_where_all_files_have_one_other_owner_links_alone_count(tmp_path, monkeypatch):
    """vfat, exFAT and CIFS tell of each file the owner of the mount."""
    path = tmp_path / ".app.tar.part"
    path.write_bytes(b"begun")
    real = os.fstat

    def mounted(descriptor: int) -> os.stat_result:
        found = list(real(descriptor))
        found[0], found[4] = found[0] | 0o777, OTHER
        return os.stat_result(found)

    monkeypatch.setattr(files.os, "fstat", mounted)
    assert files.own_name(path) == path
    with files.open_own(path) as file:
        assert file.read() == b"begun"
    os.link(path, tmp_path / "second")
    assert files.own_name(path) != path
    assert [found.name for found in tmp_path.glob(".*")] == [path.name]


def test_a_partial_is_for_its_owner_alone_until_it_is_complete(tmp_path):
    path = tmp_path / "part"
    path.write_bytes(b"from an older run")
    path.chmod(0o644)
    with files.open_own(path) as file:
        assert path.stat().st_mode & 0o777 == 0o600
        files.share(file)
        assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o666)  # somebody may hold it
    with pytest.raises(files.NotOurFile):
        files.open_own(path)
