"""``images``: what a deployment needs, and ``sync`` of what it prints."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from copied import store
from images import tar_of

from dockerpush.server import Registry, RegistryServer

CHART = """\
---
# Source: shop/templates/web.yaml
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      initContainers:
        - name: wait
          image: "{host}/wait:1"
      containers:
        - image: {host}/web:1
          args: [--proxy-image={host}/proxy:1]
---
# Source: shop/templates/job.yaml
kind: CronJob
spec: {{jobTemplate: {{spec: {{containers: [{{image: {host}/web:1}}]}}}}}}
"""


@pytest.fixture
def host(tmp_path: Path):
    """A registry with web:1, wait:1 and proxy:1."""
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        for name in ("web", "wait", "proxy"):
            store(server.host, name, [tar_of({"name": name.encode() * 100})])
        yield server.host


def test_images_are_sorted_and_each_is_there_once(run_cli, tmp_path):
    (tmp_path / "a.yaml").write_text("image: nginx\n---\nimage: quay.io/b:1\n")
    (tmp_path / "b.txt").write_text("docker.io/library/nginx:latest\nalpine:3\n")
    done = run_cli("images", "b.txt", "a.yaml", "a.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "docker.io/library/alpine:3",
        "docker.io/library/nginx:latest",
        "quay.io/b:1",
    ]


def test_variables_of_dockerpush_are_no_part_of_an_image(run_cli, tmp_path):
    """One is a password, and a manifest may be anybody's."""
    (tmp_path / "a.yaml").write_text(
        "image: a.test/x:${DOCKERPUSH_PASSWORD}\n---\nimage: a.test/y:${TAG}\n"
    )
    env = {"DOCKERPUSH_PASSWORD": "hunter2", "TAG": "1"}
    done = run_cli("images", "a.yaml", env=env)
    assert done.stdout == "a.test/y:1\n"
    assert "DOCKERPUSH_PASSWORD is not set" in done.stderr
    assert "hunter2" not in done.stderr


def test_as_json_with_files_and_lines(run_cli, tmp_path):
    (tmp_path / "a.yaml").write_text("a:\n- image: nginx\n- image: nginx:latest\n")
    done = run_cli("images", "a.yaml", "--json")
    places = ["a.yaml:2", "a.yaml:3"]
    image = "docker.io/library/nginx:latest"
    assert done.json == {"images": [{"image": image, "places": places}]}


def test_a_chart_goes_through_pipes_into_a_directory(run_cli, host, tmp_path):
    """As ``helm template chart | dockerpush images - | dockerpush sync - oci:DIR``."""
    finder = run_cli.start("images", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    copier = run_cli.start(
        *("sync", "-", f"oci:{tmp_path}/disk", "--src-plain-http"),
        stdin=finder.stdout,
        stderr=subprocess.PIPE,
    )
    finder.stdout.close()
    finder.stdin.write(CHART.format(host=host).encode())
    finder.stdin.close()
    assert copier.wait(60) == 0, copier.stderr.read()
    copier.stderr.close()
    assert finder.wait(60) == 0
    done = run_cli("sync", f"oci:{tmp_path}/disk", "a.test/x", "--dry-run", "--json")
    names = {image["source"] for image in done.json["images"]}
    assert names == {f"{host}/{name}:1" for name in ("web", "wait", "proxy")}


def test_nothing_found_ends_both_sides_of_the_pipe(run_cli, tmp_path):
    found = run_cli("images", "-", stdin=b"kind: Secret\n")
    assert (found.returncode, found.stdout) == (4, "")
    assert "no images in standard input" in found.error
    copied = run_cli("sync", "-", f"oci:{tmp_path}/disk", stdin=b"")
    assert copied.returncode == 4
    assert "standard input: no images in it" in copied.error
    assert not (tmp_path / "disk").exists()


def test_without_files_it_says_where_local_images_are(run_cli):
    done = run_cli("images")
    assert done.returncode == 2
    assert "dockerpush cache ls" in done.error and "docker images" in done.error


def test_a_template_is_skipped_with_a_warning(run_cli, tmp_path):
    (tmp_path / "x.yaml").write_text("a: {image: x:1}\nb:\n  image: '{{ .v }}'\n")
    done = run_cli("images", "x.yaml")
    assert (done.returncode, done.stdout) == (0, "docker.io/library/x:1\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: x.yaml:3: skipped: '{{ .v }}' is a template")


def test_many_warnings_are_counted(run_cli, tmp_path):
    (tmp_path / "x.yaml").write_text("image: x:1\n---\n" + "image: NO\n---\n" * 30)
    done = run_cli("images", "x.yaml")
    assert len(done.stderr.splitlines()) == 21
    assert "x.yaml: 10 more" in done.error


def test_text_is_read_as_text_where_the_option_says_so(run_cli):
    text = b"note: see quay.io/a/b:1 and\nthis: ]\n"
    assert run_cli("images", "-", stdin=text).returncode == 6
    done = run_cli("images", "-", "--text", stdin=text)
    assert (done.returncode, done.stdout) == (0, "quay.io/a/b:1\n")


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"a: [1\nb: ]", 6, "not YAML"),
        (b"\xff\xfe\x00", 2, "not a text in UTF-8"),
        (b"a: " + b"[" * 100_000, 6, "nest"),
        (b"", 4, "no images"),
    ],
    ids=["broken", "binary", "deep", "empty"],
)
def test_bad_files_end_in_one_line(content, code, words, run_cli, tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "x.yaml").write_bytes(content)
    done = run_cli("images", "x.yaml")
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.error.startswith("error: ") and words in done.error


@pytest.mark.parametrize(
    ("file", "code"), [("absent.yaml", 4), (".", 1)], ids=["absent", "directory"]
)
def test_what_is_no_file(file, code, run_cli):
    done = run_cli("images", file)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1 and file in done.error


def test_an_endless_line_is_refused_in_little_memory(run_cli):
    command = ["sh", "-c", "tr '\\0' x </dev/zero | head -c 1200000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as endless:
        child = run_cli.start(
            "images", "-", stdin=endless.stdout, stderr=subprocess.PIPE
        )
        endless.stdout.close()
        said = child.communicate(timeout=60)[1].decode()
    assert child.returncode == 2
    assert said.count("\n") == 1 and "more than 33554432 bytes" in said
