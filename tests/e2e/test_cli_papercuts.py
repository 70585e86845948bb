"""Small things that people trip over, each over all the commands that have it."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Iterator
from unittest import mock

import pytest
from conftest import Command, Finished
from copied import write
from images import docker_archive, small_archive
from inprocess import run_here
from multiplatform import write_layout

from dockerpush.server import Registry, RegistryServer

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RegistryServer(Registry(tmp_path_factory.mktemp("registry"))) as server:
        yield server.host


@pytest.fixture
def run(host: str, run_cli: Command, tmp_path: Path) -> Run:
    """Run a line on ``{image}``, ``{archive}`` and others that are there."""
    write_layout(tmp_path / "layout")
    names = {
        "image": f"{host}/app:1",
        "multi": f"{host}/multi:1",
        "repo": f"{host}/app",
        "host": host,
        "archive": str(small_archive(tmp_path / "image.tar")),
        "other": str(tmp_path / "other.tar"),
        "layout": str(tmp_path / "layout"),
        "list": str(write(tmp_path / "list", f"{host}/app:1")),
        "tmp": str(tmp_path),
    }
    archive = (tmp_path / "image.tar").read_bytes()
    (tmp_path / "other.tar").write_bytes(archive.replace(b'"amd64"', b'"arm64"'))

    def run_it(line: str, code: int = 0, *more: str) -> Finished:
        words = [word.format(**names) for word in line.split()]
        done = run_here([*words, *more], run_cli.environment())
        assert done.returncode == code, (line, done.stderr)
        return done

    run_it("push -q {archive} -t {image}")
    run_it("push -q {layout} -t {multi} --compress none")
    return run_it


SKOPEO = (
    "inspect docker://{image}",
    "digest docker://{image}",
    "tags docker://{repo}",
    "pull docker://{image}",
    "verify {archive} docker://{image}",
    "push {archive} -t docker://{host}/other:1",
    "push {archive} --registry docker://{host}/other --yes",
    "push docker://{image} -t docker://{host}/third:1",
    "copy docker://{image} docker://{host}/fourth:1",
    "check docker://{repo}",
    "check docker://{host}",
    "config docker://{host}",
    "sync {list} docker://{host}/mirror",
    "login docker://{host} -u me -p secret --skip-check",
    "logout docker://{host}",
)


@pytest.mark.parametrize("line", SKOPEO)
def test_docker_may_stand_before_any_reference(line: str, run: Run) -> None:
    run(line)


FIRST = (
    "push {archive} -t {host}/first:1",
    "pull {image}",
    "copy {image} {host}/first:2",
    "tags {repo}",
    "sync {list} {host}/first",
    "login {host} -u me -p secret",
    "serve --port 99 --addr 192.0.2.1",
)


@pytest.mark.parametrize("line", FIRST)
def test_the_state_is_private_whatever_makes_it_first(
    line: str, run: Run, run_cli: Command, tmp_path: Path
) -> None:
    """So are the directories above it that were missing, and those in it."""
    state = tmp_path / "new" / "state"
    run_cli.state = state
    run(line, 1 if line.startswith("serve") else 0)
    made = [state.parent, state, *(path for path in state.iterdir() if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}
    files = [p for p in state.rglob("*") if p.is_file() and p.parent.name != "sha256"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} <= {0o600}


PREFIXED = (
    "push docker-archive:{archive} -t {host}/prefixed:1",
    "push oci:{layout} -t {host}/prefixed:2",
    "push docker-archive:{archive} oci-archive:{other} -t {host}/prefixed:3",
    "copy docker-archive:{archive} {host}/prefixed:4",
    "inspect docker-archive:{archive}",
    "inspect oci:{layout}",
    "verify docker-archive:{archive}",
    "verify docker-archive:{archive} {image}",
    "verify oci:{layout}",
)


@pytest.mark.parametrize("line", PREFIXED)
def test_a_prefix_may_stand_before_an_archive(line: str, run: Run) -> None:
    run(line)


@pytest.mark.parametrize("command", ["push", "inspect", "verify"])
def test_one_image_behind_a_prefix_is_refused(command: str, run: Run) -> None:
    more = " -t {host}/prefixed:9" if command == "push" else ""
    done = run(command + " docker-archive:{archive}:app:1" + more, 2)
    assert "write the path alone" in done.error


@pytest.mark.parametrize(
    ("prefix", "form"),
    [
        ("oci:", "oci-dir"),
        ("oci-archive:", "oci-archive"),
        ("docker-archive:", "docker-archive"),
    ],
)
def test_pull_writes_the_form_that_a_prefix_says(
    prefix: str, form: str, run: Run, tmp_path: Path
) -> None:
    done = run(f"pull {{image}} -o {prefix}{{tmp}}/pulled")
    assert f"wrote {tmp_path}/pulled ({form})" in done.stderr
    run(f"pull {{image}} -o {prefix}{{tmp}}/pulled --format {form}")
    run(f"verify {prefix}{{tmp}}/pulled")
    done = run(f"pull {{image}} -o {prefix}{{tmp}}/named:app:1", 2)
    assert f"copy REF {prefix}{tmp_path}/named:app:1" in done.error
    other = "oci-archive" if form == "oci-dir" else "oci-dir"
    done = run(f"pull {{image}} -o {prefix}{{tmp}}/other --format {other}", 2)
    assert "contradict" in done.error
    assert not (tmp_path / "named").exists() and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "line",
    [
        "pull {image} -o {archive} --format oci-dir",
        "pull {image} -o oci:{archive}",
        "copy {image} oci:{archive}",
        "sync {list} oci:{archive}",
    ],
)
def test_a_file_in_the_place_of_an_oci_directory(line: str, run: Run) -> None:
    done = run(line, 2)
    assert done.stderr.startswith("error: ")
    assert done.error.endswith("image.tar is a file: name a directory")


def test_one_of_something_is_no_several(run: Run, tmp_path: Path) -> None:
    docker_archive(tmp_path / "one.tar", [b""], names=["one:1"])
    run("push {tmp}/one.tar -t {host}/one:1")
    assert " 1 layer, " in run("verify {tmp}/one.tar {host}/one:1").stdout
    assert run("inspect {image}").stdout.splitlines()[1].endswith("json, 1 image")
    run("pull {image}")
    assert "would remove 0 files, " in run("cache prune --dry-run").stdout
    assert ": none is damaged" in run("cache verify").stdout


def test_a_template_in_the_place_of_a_path(run: Run) -> None:
    done = run("inspect {image} --format {{{{.Digest}}}}", 2)
    assert done.error.endswith("it takes a path, no template: --format digest")


@pytest.mark.parametrize("name", ["have.json", "none/have.json", "usb.oci"])
def test_what_have_names_and_is_not_there(name: str, run: Run, tmp_path: Path) -> None:
    done = run(f"sync {{list}} oci:{{tmp}}/next --have {name}", 4)
    assert done.error == f"error: --have {name}: no such file or directory"
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize("line", ["copy -a {image} {host}/z", "copy -a {repo} {image}"])
def test_every_tag_is_not_one_tag(line: str, run: Run, host: str) -> None:
    done = run(line, 2)
    assert done.error.endswith(f"write {host}/app in place of {host}/app:1")


def test_the_name_of_one_repository_in_the_place_of_a_list(run: Run) -> None:
    done = run("sync {repo} {host}/mirror", 4)
    assert "for one repository: dockerpush copy --all-tags" in done.error


@pytest.mark.parametrize("scheme", ["http://", "https://"])
def test_a_scheme_may_stand_before_a_target(scheme: str, run: Run) -> None:
    """https is what is used anyway, and plain HTTP is tried on this machine."""
    for line in (
        "push {archive} -t SCHEME{host}/scheme:1",
        "push {archive} {other} -t SCHEME{host}/scheme:2",
        "push -a {archive} -t SCHEME{host}/scheme",
        "check SCHEME{host}/scheme",
    ):
        run(line.replace("SCHEME", scheme))


INSECURE = (
    "push {archive} -t {host}/insecure:1",
    "pull {image}",
    "copy {image} {host}/insecure:2 --src-tls-verify=false",
    "inspect {image}",
    "digest {image}",
    "tags {repo}",
    "verify {archive} {image}",
    "check {repo}",
    "sync {list} {host}/insecure --src-tls-verify=false",
    "login {host} -u me -p secret",
)


@pytest.mark.parametrize("flag", ["--insecure", "--tls-verify=false"])
@pytest.mark.parametrize("line", INSECURE)
def test_insecure_continues_in_plain_http(line: str, flag: str, run: Run) -> None:
    """Also elsewhere than on this machine, where plain HTTP is tried anyway."""
    elsewhere = "dockerpush.registry.http_session.is_loopback"
    with mock.patch(elsewhere, return_value=False):
        code = 7 if line.startswith("sync") else 5
        refused = run(line.replace("--src-tls-verify=false", ""), code)
        assert "plain HTTP" in refused.stdout + refused.stderr
        run(line, 0, flag)


def test_a_name_without_a_tag_means_the_only_one(tmp_path: Path, run: Run) -> None:
    names = ["team/app:1", "team/m2:1", "team/m2:2"]
    docker_archive(tmp_path / "named.tar", [b""], names=names)
    run("push {tmp}/named.tar --name team/app -t {host}/picked:1")
    run("push {tmp}/named.tar --name app -t {host}/picked:2")
    run("push {tmp}/named.tar --name nosuch -t {host}/picked:3", 4)


EXISTING = (
    "push -n {archive} -t {image}",
    "push -n {archive} -t {image} --dry-run",
    "push -n {archive} {other} -t {image}",
    "push -n -a {archive} -t {repo}",
    "copy -n {multi} {image}",
    "copy -n {archive} {image}",
    "copy -n {multi} {archive}",
    "copy -n {multi} oci-archive:{archive}",
    "pull -n {multi} -o {archive}",
    "pull -n {multi} -o {layout}",
)


@pytest.mark.parametrize("line", EXISTING)
def test_what_exists_is_kept_with_a_note(line: str, run: Run, tmp_path: Path) -> None:
    archive = (tmp_path / "image.tar").read_bytes()
    before = run("digest {image}").stdout
    done = run(line)
    assert re.search("^note: .* exists and is left as it is$", done.stderr, re.M)
    assert done.stdout == ""
    assert run("digest {image}").stdout == before
    assert (tmp_path / "image.tar").read_bytes() == archive
    assert '"skipped": true' in run(line, 0, "--json").stdout
    assert run(line, 0, "-q").stderr == ""


NOT_THERE = (
    "sync {tmp}/nosuch.txt {host}/mirror",
    "serve --htpasswd {tmp}/nosuch",
    "serve --users {tmp}/nosuch",
    "serve {tmp}/nosuch.tar",
    "serve --dir {tmp}/nosuch --gc",
    "pull {image} -o {tmp}/nosuch/out.tar",
    "copy {image} {tmp}/nosuch/out.tar",
    "copy {layout} {tmp}/nosuch/out.tar",
    "pull {image} --digestfile {tmp}/nosuch/digest",
    "push {archive} -t {image} --digestfile {tmp}/nosuch/digest",
    "copy {image} {host}/x:1 --digestfile {tmp}/nosuch/digest",
    "push {tmp}/nosuch.tar -t {image}",
    "push {archive} -t {image} -u me --password-file {tmp}/nosuch",
    "push {archive} -t {image} --config {tmp}/nosuch",
    "verify {tmp}/nosuch.tar {image}",
    "inspect {tmp}/nosuch.tar",
    "digest {repo}:nosuch",
    "cache rm {repo}:nosuch",
)


@pytest.mark.parametrize("line", NOT_THERE)
def test_what_is_not_there_is_exit_code_4(line: str, run: Run) -> None:
    done = run(line, 4)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "nosuch" in done.stderr


SEVERAL = {
    "inspect {image} {multi}": 1,
    "inspect {archive} {multi} {image}": 2,
    "digest {image} {multi}": 1,
    "tags {repo} {host}/multi": 1,
}


@pytest.mark.parametrize("line", SEVERAL)
def test_several_references(line: str, run: Run) -> None:
    done = run(line, 0, "--json")
    found = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(found) == len(line.split()) - 1
    assert run(line).stdout


@pytest.mark.parametrize("line", SEVERAL)
def test_one_of_several_that_fails_leaves_the_others(line: str, run: Run) -> None:
    missing = "{host}/nosuch".replace("{host}", "127.0.0.1:9") + ":1" * (
        "tags" not in line
    )
    done = run(line, 7, missing, "--retry-times", "0", "--json")
    assert len(done.stdout.splitlines()) == len(line.split()) - 1
    assert "1 of" in done.stderr.splitlines()[-1]


def test_the_tags_of_several_repositories_have_their_names(run: Run, host: str) -> None:
    done = run("tags {repo} {host}/multi")
    assert f"{host}/app:1\n" in done.stdout and f"{host}/multi:1\n" in done.stdout


def test_the_digest_of_one_platform(run: Run) -> None:
    images = json.loads(run("inspect {multi} --json").stdout)["images"]
    (arm,) = (one for one in images if one["platform"] == "linux/arm64")
    assert run("digest {multi} --platform linux/arm64").stdout.strip() == arm["digest"]
    assert "no image for" in run("digest {multi} --platform linux/s390x", 4).stderr


SHOWN = ("inspect {archive}", "inspect {image}")


@pytest.mark.parametrize("line", SHOWN)
def test_how_a_container_runs_is_shown(line: str, run: Run) -> None:
    (image,) = json.loads(run(line, 0, "--json").stdout)["images"]
    assert image["cmd"] == ["/bin/sh"]
    assert image["env"] == image["entrypoint"] == image["exposedPorts"] == []
    assert image["user"] == ""
    assert re.search(r'^  cmd +\["/bin/sh"\]$', run(line).stdout, re.M)
    assert run(line, 0, "--format", "images.0.cmd").stdout == '["/bin/sh"]\n'
    assert run(line, 0, "--format", "images.0.cmd.0").stdout == "/bin/sh\n"
    wrong = run(line, 2, "--format", "images.0.nosuch").stderr
    assert "images.0 has no 'nosuch'" in wrong and "entrypoint" in wrong


def test_the_config_of_an_image_and_the_configuration_are_two_options(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"version": 1}')
    with mock.patch("dockerpush.cli.remote_image.show_raw") as shown:
        run("inspect {image} --image-config --config {tmp}/config.json")
    assert json.loads(shown.call_args[0][0])["os"] == "linux"
    with mock.patch("dockerpush.cli.remote_image.show_raw") as shown:
        run("inspect {image} --config {tmp}/config.json")
    assert not shown.call_args


@pytest.mark.parametrize(
    "command", ["push {archive} -t {image}", "copy {multi} {image}"]
)
def test_chunks_are_not_tiny(command: str, run: Run) -> None:
    done = run(command, 2, "--blob-chunk", "65535")
    assert done.stderr.endswith("a chunk has at least 64KiB: '65535'\n")
    run(command, 0, "--blob-chunk", "64KiB")


def test_a_pull_without_the_cache(run: Run, tmp_path: Path) -> None:
    run("pull {image} -o {tmp}/out.tar --no-cache")
    assert (tmp_path / "out.tar").is_file()
    assert "app:1" not in run("cache ls").stdout
    assert "--no-cache needs -o FILE" in run("pull {image} --no-cache", 2).stderr


def test_an_image_is_removed_from_the_cache(run: Run, host: str) -> None:
    run("pull {image} {multi}")
    done = run("cache rm {image}")
    assert f"removed {host}/app:1\n" in done.stdout
    listed = run("cache ls").stdout
    assert "app:1" not in listed and "multi:1" in listed
    assert run("cache verify").returncode == 0
    assert run("cache rm", 2).stderr.count("\n") == 1
    run("cache ls {image}", 2)


WRITERS = (
    "pull {image} -o {tmp}/out.tar",
    "pull {image} -o {tmp}/out.tar --no-cache",
    "copy {image} {tmp}/out.tar",
    "copy {layout} oci-archive:{tmp}/out.tar",
    "save app:1 -o {tmp}/out.tar --runtime {tmp}/docker",
)


@pytest.mark.parametrize("mask", [0o022, 0o027])
@pytest.mark.parametrize("line", WRITERS)
def test_archives_have_the_mode_of_any_new_file(
    line: str, mask: int, run: Run, tmp_path: Path
) -> None:
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\nexec cat {tmp_path}/image.tar\n")
    program.chmod(0o755)
    old = os.umask(mask)
    try:
        run(line)
    finally:
        os.umask(old)
    mode = stat.S_IMODE((tmp_path / "out.tar").stat().st_mode)
    assert mode == 0o666 & ~mask


FULL = ("pull {multi}", "pull {multi} -o {tmp}/out.oci", "push {multi} -t {host}/m:2")


@pytest.mark.parametrize("line", FULL[:1])
def test_a_full_disk_is_noticed_before_a_pull(line: str, run: Run) -> None:
    usage = SimpleNamespace(free=10)
    with mock.patch("dockerpush.state.cache.disk_usage", return_value=usage):
        done = run(line, 1)
    assert "0 MiB free" in done.stderr and "--no-cache" in done.stderr
    run(line)


def test_a_full_cache_is_distinguished_from_a_full_output(
    run: Run, tmp_path: Path
) -> None:
    usage = SimpleNamespace(free=10)
    with mock.patch("dockerpush.state.cache.disk_usage", return_value=usage):
        done = run("pull {image} -o {tmp}/out.tar")
    assert "continuing without the cache" in done.stderr
    (tmp_path / "out.tar").unlink()
    with mock.patch("shutil.disk_usage", return_value=usage):
        done = run("pull {image} -o {tmp}/out.tar", 1)
    assert "without the cache" not in done.stderr
    assert "out.tar" in done.stderr and not (tmp_path / "out.tar").exists()


ALL = ("push -a {archive} --registry {host}/fresh",)


@pytest.mark.parametrize("line", ALL)
def test_all_tags_need_the_confirmation_of_a_single_push(line: str, run: Run) -> None:
    one = run(line.replace("-a ", ""), 2).stderr
    many = run(line, 2).stderr
    for text in (one, many):
        assert "was confirmed yet" in text and "--yes" in text
    run(line, 0, "--dry-run")
    run(line, 0, "--yes")
    run(line)  # somebody has confirmed it by now
    run("push -a {archive} -t {host}/named")  # -t never asks
