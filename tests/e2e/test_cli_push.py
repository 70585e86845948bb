"""The push command as a user runs it, against real registries."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from conftest import USERS
from images import (
    MIB,
    config_of,
    digest_of,
    docker_archive,
    large_archive,
    small_archive,
    tar_of,
)
from real import NAMES
from registries import read_back
from suites import crossed, long

from dockerpush.server import Registry, RegistryServer

ONE_IMAGE = [name for name in NAMES if name != "podman-multi"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return small_archive(tmp_path / "image.tar")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory):
    registry = Registry(tmp_path_factory.mktemp("embedded"))
    with RegistryServer(registry) as server:
        yield server


class TestRealArchives:
    """Archives that we did not write, read back by a client that is not ours."""

    @pytest.mark.parametrize(
        ("kind", "name"), crossed(["docker-registry", "embedded"], ONE_IMAGE)
    )
    def test_the_image_is_stored_as_it_was(
        self, name, kind, real_archives, shared_docker_registry, embedded, run_cli
    ):
        host = (embedded if kind == "embedded" else shared_docker_registry).host
        target = f"{host}/real/{name}:1"
        done = run_cli("push", real_archives[name], "-t", target, "--json")
        assert done.returncode == 0, done.stderr
        stored = read_back(host, f"real/{name}", "1")
        assert stored.config == real_archives.config(name)
        assert stored.layers == stored.diff_ids
        assert done.json["target"] == target
        assert done.json["digest"] == digest_of(stored.manifest_bytes)

    def test_two_images_of_one_archive_go_under_their_own_names(
        self, real_archives, embedded, run_cli
    ):
        done = run_cli(
            *("push", real_archives["podman-multi"], "--all-tags"),
            *("--registry", f"{embedded.host}/air", "--yes"),
        )
        assert done.returncode == 0, done.stderr
        for repository, tag in (("air/demo/busybox", "1"), ("air/demo/big", "2")):
            stored = read_back(embedded.host, repository, tag)
            assert stored.layers == stored.diff_ids

    @pytest.mark.parametrize("method", ["gzip", "zstd", "none"])
    def test_every_compression_gives_the_same_layers(
        self, method, real_archives, embedded, run_cli
    ):
        done = run_cli(
            *("push", real_archives["podman-docker-archive"], "--compress", method),
            *("-t", f"{embedded.host}/packed:{method}", "--blob-chunk", "8MiB"),
        )
        assert done.returncode == 0, done.stderr
        stored = read_back(embedded.host, "packed", method)
        assert stored.layers == stored.diff_ids
        ending = stored.manifest["layers"][0]["mediaType"].rpartition("v1.tar")[2]
        assert ending == {"none": "", "gzip": "+gzip", "zstd": "+zstd"}[method]


class TestResults:
    def test_stdout_holds_the_digest_and_nothing_else(self, archive, embedded, run_cli):
        done = run_cli("push", archive, "-t", f"{embedded.host}/out/app:1")
        stored = read_back(embedded.host, "out/app", "1")
        name = f"{embedded.host}/out/app@{digest_of(stored.manifest_bytes)}"
        assert done.stdout == name + "\n"

    def test_quiet_says_nothing_on_stderr(self, archive, embedded, run_cli):
        done = run_cli("push", archive, "-q", "-t", f"{embedded.host}/out/quiet:1")
        assert re.fullmatch(r"\S+/out/quiet@sha256:[0-9a-f]{64}\n", done.stdout)
        assert done.stderr == ""

    def test_json_shows_how_the_blobs_came_there(self, archive, embedded, run_cli):
        target = f"{embedded.host}/out/json:1"
        first = run_cli("push", archive, "-t", target, "--json").json
        again = run_cli("push", archive, "-t", target, "--json").json
        assert first["digest"] == again["digest"]
        assert first["blobs"] == {"uploaded": 4}
        assert "uploaded" not in again["blobs"]
        assert again["bytes"] == 0

    def test_the_digestfile_has_the_bare_digest(
        self, archive, embedded, run_cli, tmp_path
    ):
        file = tmp_path / "digest"
        target = f"{embedded.host}/out/file:1"
        done = run_cli("push", archive, "-t", target, "--json", "--digestfile", file)
        assert file.read_text() == done.json["digest"]

    def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(
        self, archive, embedded, run_cli
    ):
        target = f"{embedded.host}/out/dry:1"
        done = run_cli("push", archive, "-t", target, "--dry-run", "--json")
        actions = [blob["action"] for blob in done.json["blobs"]]
        assert actions == ["send", *["compress (gzip) and send"] * 2, "send"]
        assert done.json["bytes"] == sum(b["size"] for b in done.json["blobs"])
        assert run_cli("push", archive, "-t", target, "--json").json["blobs"] == {
            "uploaded": 4
        }

    def test_a_missing_tag_means_latest(self, archive, embedded, run_cli):
        done = run_cli("push", archive, "-t", f"{embedded.host}/out/latest", "--json")
        assert done.json["tag"] == "latest"

    def test_a_terminal_gets_bars_elsewhere_lines(
        self, archive, embedded, run_cli, tmp_path
    ):
        target = f"{embedded.host}/out/lines:1"
        often = ("--progress-interval", "0.001")
        plain = run_cli("push", archive, "-t", target, *often).stderr
        assert re.search(r"^blob 4/4 .* MiB", plain, re.MULTILINE)
        assert "\r" not in plain
        other = small_archive(tmp_path / "other.tar", salt=b"other")
        bars = run_cli("push", other, "-t", target, "--progress", "tty").stderr
        assert "\r" in bars

    def test_nothing_moves_for_a_push_that_sends_nothing(
        self, archive, embedded, run_cli
    ):
        push = ("push", archive, "-t", f"{embedded.host}/out/twice:1")
        run_cli(*push)
        for how in (("--progress", "tty"), ("--progress-interval", "0.001")):
            last = run_cli(*push, *how).stderr.splitlines()[-1]
            assert last.endswith(":1: nothing to send: 4 blobs are already there")
            said = run_cli(*push, *how).stderr
            assert "blob " not in said
            assert "\r" not in said

    def test_secrets_are_in_no_output(self, archive, htpasswd_registry, run_cli):
        password = USERS["alice"]
        done = run_cli(
            *("push", archive, "-t", f"{htpasswd_registry.host}/a/b:1", "--debug"),
            *("-u", "alice", "--password-stdin"),
            env={"OCI_DEBUG": "1", "OCI_DEBUG_UPLOAD": "1"},
            stdin=f"{password}\n".encode(),
        )
        assert done.returncode == 0, done.stderr
        assert "PUT" in done.stderr
        assert password not in done.stderr + done.stdout
        assert "_state=" not in done.stderr.replace("_state=***", "")


class TestSelection:
    @pytest.fixture
    def two(self, tmp_path: Path) -> Path:
        layer = tar_of({"file": b"content"})
        config = config_of([digest_of(layer)])
        other = config + b" "
        entries = [
            {"Config": "a.json", "RepoTags": ["demo/a:1"], "Layers": ["l.tar"]},
            {"Config": "b.json", "RepoTags": ["demo/b:2"], "Layers": ["l.tar"]},
        ]
        path = tmp_path / "two.tar"
        path.write_bytes(
            tar_of(
                {
                    "l.tar": layer,
                    "a.json": config,
                    "b.json": other,
                    "manifest.json": json.dumps(entries).encode(),
                }
            )
        )
        return path

    def test_several_images_and_no_name_lists_them(self, two, embedded, run_cli):
        done = run_cli("push", two, "-t", f"{embedded.host}/pick/app:1")
        assert done.returncode == 2
        assert "demo/a:1" in done.error
        assert "demo/b:2" in done.error
        assert "--name" in done.error

    def test_a_name_picks_one(self, two, embedded, run_cli):
        target = f"{embedded.host}/pick/app:1"
        done = run_cli("push", two, "-t", target, "--name", "demo/b:2")
        assert done.returncode == 0, done.stderr
        assert read_back(embedded.host, "pick/app", "1").config.endswith(b"} ")

    def test_an_unknown_name_is_not_found(self, two, embedded, run_cli):
        done = run_cli(
            "push", two, "-t", f"{embedded.host}/pick/app:1", "--name", "demo/c"
        )
        assert done.returncode == 4
        assert "demo/a:1" in done.error

    def test_all_tags_into_one_repository(self, two, embedded, run_cli):
        done = run_cli("push", two, "--all-tags", "-t", f"{embedded.host}/pick/all")
        assert done.returncode == 0, done.stderr
        for tag in ("1", "2"):
            assert read_back(embedded.host, "pick/all", tag).layers

    def test_some_that_fail_do_not_stop_the_others(self, tmp_path, embedded, run_cli):
        good, bad = tar_of({"file": b"good"}), tar_of({"file": b"bad"})
        entries = [
            {"Config": "a.json", "RepoTags": ["demo/a:1"], "Layers": ["bad.tar"]},
            {"Config": "b.json", "RepoTags": ["demo/b:2"], "Layers": ["good.tar"]},
        ]
        path = tmp_path / "some.tar"
        path.write_bytes(
            tar_of(
                {
                    "good.tar": good,
                    "bad.tar": bad,
                    "a.json": config_of([digest_of(b"something else")]),
                    "b.json": config_of([digest_of(good)]),
                    "manifest.json": json.dumps(entries).encode(),
                }
            )
        )
        done = run_cli(
            "push", path, "-a", "--registry", f"{embedded.host}/some", "--yes"
        )
        assert done.returncode == 7
        assert "1 of 2" in done.error
        assert read_back(embedded.host, "some/demo/b", "2").layers


class TestExitCodes:
    """Every code that a push can end with, by the real command."""

    def check(self, done, code, *words):
        assert done.returncode == code, done.stderr
        assert done.error.startswith("error: ")
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        for word in words:
            assert word in done.error

    def test_2_for_a_wrong_reference(self, archive, run_cli):
        done = run_cli("push", archive, "-t", "host/UPPER:1")
        self.check(done, 2, "UPPER")

    def test_2_for_an_unknown_flag(self, archive, run_cli):
        self.check(run_cli("push", archive, "--nonsense"), 2, "--nonsense")

    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            ("--blob-chunk", "fast"),
            ("--jobs", "0"),
            ("--compress", "lzma"),
            ("--compress-level", "77"),
            ("--timeout", "-1"),
        ],
    )
    def test_2_for_a_wrong_value(self, flag, value, archive, run_cli):
        done = run_cli("push", archive, "-t", "127.0.0.1:9/a:1", f"{flag}={value}")
        self.check(done, 2)

    def test_2_without_a_target(self, tmp_path, run_cli):
        path = small_archive(tmp_path / "unnamed.tar", names=())
        self.check(run_cli("push", path), 2, "-t")

    def test_3_without_credentials(self, archive, htpasswd_registry, run_cli):
        done = run_cli("push", archive, "-t", f"{htpasswd_registry.host}/a:1")
        self.check(done, 3, htpasswd_registry.host)

    def test_3_with_wrong_ones(self, archive, htpasswd_registry, run_cli):
        done = run_cli(
            *("push", archive, "-t", f"{htpasswd_registry.host}/a:1"),
            env={"DOCKERPUSH_USERNAME": "alice", "DOCKERPUSH_PASSWORD": "wrong"},
        )
        self.check(done, 3, "DOCKERPUSH_USERNAME")

    def test_0_with_right_ones(self, archive, htpasswd_registry, run_cli):
        done = run_cli(
            *("push", archive, "-t", f"{htpasswd_registry.host}/a:1"),
            env={"DOCKER_USERNAME": "bob", "DOCKER_PASSWORD": USERS["bob"]},
        )
        assert done.returncode == 0, done.stderr

    def test_4_for_a_missing_archive(self, run_cli):
        self.check(run_cli("push", "no.tar", "-t", "127.0.0.1:9/a:1"), 4, "no.tar")

    def test_5_for_a_closed_port(self, archive, run_cli):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            done = run_cli(
                *("push", archive, "-t", f"127.0.0.1:{port}/a:1", "--retry-times", "1"),
                *("--retry-delay", "0"),
            )
        self.check(done, 5, str(port))

    def test_5_for_a_certificate_that_nobody_knows(
        self, archive, tls_registry, run_cli
    ):
        done = run_cli("push", archive, "-t", f"{tls_registry.host}/a:1")
        self.check(done, 5, "--cacert")

    def test_0_once_the_authority_is_named(self, archive, tls_registry, run_cli):
        done = run_cli(
            *("push", archive, "-t", f"{tls_registry.host}/a:1"),
            *("--cacert", tls_registry.authority),
        )
        assert done.returncode == 0, done.stderr

    def test_6_for_a_layer_that_is_not_what_the_config_says(
        self, tmp_path, embedded, run_cli
    ):
        path = broken_archive(tmp_path / "broken.tar", tar_of({"f": b"other"}))
        target = f"{embedded.host}/broken/app:1"
        for method in ("gzip", "none"):
            done = run_cli("push", path, "-t", target, "--compress", method)
            self.check(done, 6)
        with pytest.raises(RuntimeError, match=r"(?i)(manifest|name)[ _]unknown"):
            read_back(embedded.host, "broken/app", "1")

    def test_6_leaves_the_old_tag_where_it_was(
        self, archive, tmp_path, embedded, run_cli
    ):
        target = f"{embedded.host}/keep/app:1"
        before = run_cli("push", archive, "-t", target, "--json").json["digest"]
        path = broken_archive(tmp_path / "broken.tar", tar_of({"f": b"other"}))
        assert run_cli("push", path, "-t", target).returncode == 6
        stored = read_back(embedded.host, "keep/app", "1")
        assert digest_of(stored.manifest_bytes) == before

    def test_6_for_a_truncated_archive(self, archive, run_cli):
        raw = archive.read_bytes()
        archive.write_bytes(raw[: len(raw) // 2])
        self.check(run_cli("push", archive, "-t", "127.0.0.1:9/a:1"), 6, "image.tar")

    def test_1_for_a_registry_that_cannot_continue(self, archive, run_cli):
        with answering(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n") as host:
            done = run_cli(
                *("push", archive, "-t", f"{host}/a:1", "--plain-http"),
                *("--retry-times", "1", "--retry-delay", "0"),
            )
        self.check(done, 1, "500")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_as_the_signal_says(self, number, archive, run_cli):
        with silent() as host:
            child = run_cli.start(
                *("push", archive, "-t", f"{host}/a:1", "--plain-http"),
                stderr=subprocess.PIPE,
            )
            time.sleep(1.0)
            started = time.monotonic()
            child.send_signal(number)
            _, said = child.communicate(timeout=10)
        assert time.monotonic() - started < 3.0
        assert child.returncode == -number
        assert said.decode().splitlines()[-1].startswith("error: interrupted")

    def test_nothing_at_all_shows_the_help(self, run_cli):
        done = run_cli()
        assert done.returncode == 2
        assert "push" in done.stderr


@pytest.fixture(scope="module")
def large_archives(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
):
    """One of 300 MiB and one of 1200, or a quarter of that."""
    directory = tmp_path_factory.mktemp("memory")
    form, scale = request.param
    compressible = form == "gzip"
    yield [
        large_archive(directory / f"{name}.tar", sizes, compressible=compressible)
        for name, sizes in (
            ("small", [50 * MIB * scale, 25 * MIB * scale]),
            ("large", [200 * MIB * scale, 100 * MIB * scale]),
        )
    ]
    shutil.rmtree(directory)


class TestMemory:
    """Peak memory does not depend on the size of the image."""

    LIMIT = 40 * MIB

    @pytest.mark.long
    @pytest.mark.parametrize("large_archives", [("raw", 1)], indirect=True)
    def test_what_does_not_shrink_takes_no_more(
        self, large_archives, docker_registry, run_cli
    ):
        """malloc would keep what each thread made of it."""
        target = f"{docker_registry.host}/noise:1"
        line = ("push", max(large_archives, key=lambda path: path.stat().st_size))
        done = run_cli(*line, "-t", target, "--compress", "gzip", fresh=True)
        assert done.returncode == 0, done.stderr
        assert done.peak_rss < self.LIMIT

    @pytest.mark.parametrize(
        ("large_archives", "kind"),
        [
            *[(("gzip", 1), "http"), (("raw", 1), "https")],
            *[long((("gzip", 4), kind)) for kind in ("http", "https")],
            *[long((("raw", 4), kind)) for kind in ("http", "https")],
        ],
        indirect=["large_archives"],
    )
    def test_it_is_flat(self, kind, large_archives, docker_registry_factory, run_cli):
        registry = docker_registry_factory(tls=kind == "https")
        trust = ["--cacert", registry.authority] if kind == "https" else []
        peaks = []
        for path in large_archives:
            done = run_cli(
                *("push", path, "-t", f"{registry.host}/{path.stem}:1", *trust),
                timeout=180,
                fresh=True,
            )
            assert done.returncode == 0, done.stderr
            peaks.append(done.peak_rss)
        assert max(peaks) < self.LIMIT
        assert peaks[1] - peaks[0] < 3 * MIB


def broken_archive(path: Path, layer: bytes) -> Path:
    """An archive whose config promises another layer."""
    docker_archive(path, [layer])
    return _with_config(path, config_of([digest_of(b"promised")]))


def _with_config(path: Path, config: bytes) -> Path:
    layer = tar_of({"f": b"other"})
    entry = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar"]}
    path.write_bytes(
        tar_of(
            {
                "l.tar": layer,
                "c.json": config,
                "manifest.json": json.dumps([entry]).encode(),
            }
        )
    )
    return path


class _Server:
    """A listening socket that answers every connection with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        import threading

        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, name="answering")

    def __enter__(self) -> str:
        self._thread.start()
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._connections:
            connection.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._connections.append(connection)
            if self._answer:
                connection.settimeout(5)
                with connection:
                    connection.recv(65536)
                    connection.sendall(self._answer)


def answering(answer: bytes) -> _Server:
    """A server that always says *answer*."""
    return _Server(answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


def silent() -> _Server:
    """A server that takes connections and says nothing."""
    return _Server(b"")
