"""``sync --report`` and ``--retry-failed``: what was done, and again what failed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from contextlib import ExitStack

import pytest
from bent import BentServer, refused
from copied import actions, assert_whole, put, read, store, write
from images import tar_of
from inprocess import run_here

from dockerpush.oci import OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer

KEYS = {
    *("version", "list", "target", "started", "images", "copy", "skip", "missing"),
    *("failed", "pruned", "prune", "bytes", "seconds", "dryRun"),
}


@pytest.fixture
def hosts(tmp_path):
    """A registry with app:1, app:2 and other:1, and an empty one."""
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(RegistryServer(Registry(tmp_path / name))).host
            for name in ("one", "two")
        )
        store(one, "app", [tar_of({"own": b"app" * 700})])
        put(one, "app", "2", read(one, "app", "1"), OCI_MANIFEST)
        store(one, "other", [tar_of({"own": b"other"})])
        yield one, two


@pytest.fixture
def sync(run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run_it(*words: object, code: int = 0):
        done = run_here(["sync", *words], run_cli.environment())
        assert done.returncode == code, done.stderr
        assert done.stderr.count("error: ") == (code != 0)
        return done

    return run_it


@pytest.fixture
def failed(hosts, sync, tmp_path):
    """A list, its target, and the report of a run in which two of four failed."""
    one, two = hosts
    names = ("app:1", "app:3", "other:1", "gone:1")
    path = write(tmp_path / "list", *(f"{one}/{name}" for name in names))
    sync(path, f"{two}/m", "--report", "report.json", code=7)
    return path, f"{two}/m", tmp_path / "report.json"


class TestReports:
    def test_the_file_holds_what_json_prints(self, hosts, sync, tmp_path):
        one, two = hosts
        path = write(tmp_path / "list", f"{one}/app:1", f"{one}/absent:1")
        done = sync(path, f"{two}/m", "--json", "--report=r.json", code=7)
        report = json.loads((tmp_path / "r.json").read_text())
        assert report == done.json and set(report) == KEYS
        assert (report["version"], report["list"]) == (1, str(path))
        assert (report["target"], report["copy"], report["missing"]) == (
            f"{two}/m",
            1,
            1,
        )
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report["started"])
        assert report["images"][0]["bytes"] == report["bytes"] > 0
        assert report["images"][0]["seconds"] > 0

    @pytest.mark.parametrize("name", ["r.html", "r.HTM"])
    def test_a_page(self, name, hosts, sync, tmp_path):
        one, two = hosts
        path = write(tmp_path / "list", f"{one}/app:1 {two}/app:1")
        put(two, "app", "1", *stored(hosts))
        put(two, "app", "old", *stored(hosts))
        words = ("--prune", "--yes", "--report", name)
        sync(path, *words)
        page = (tmp_path / name).read_text()
        assert page.startswith("<!DOCTYPE html>") and "<script" not in page
        assert "Pruned (1)" in page and f"{two}/app:old" in page
        umask = os.umask(0)
        os.umask(umask)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask
        assert [one.name for one in tmp_path.glob("*.part")] == []

    def test_of_a_dry_run(self, hosts, sync, tmp_path):
        one, two = hosts
        path = write(tmp_path / "list", f"{one}/app:1")
        sync(path, two, "--dry-run", "--report", "r.json")
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["dryRun"] is True and report["copy"] == 1

    @pytest.mark.parametrize(
        ("name", "code", "said"),
        [
            ("r.txt", 2, "end it in .json or .html"),
            ("r", 2, "end it in .json or .html"),
            ("dir.json", 2, "it is a directory"),
            ("absent/r.json", 4, "no such file"),
        ],
    )
    def test_a_name_that_cannot_be_is_refused_before_anything(
        self, name, code, said, hosts, sync, tmp_path
    ):
        one, two = hosts
        (tmp_path / "dir.json").mkdir()
        path = write(tmp_path / "list", f"{one}/app:1")
        done = sync(path, two, "--report", name, code=code)
        assert said in done.error and done.stdout == ""

    @pytest.mark.long
    def test_after_a_deadline_it_says_what_was_not_done(
        self, hosts, run_cli, sync, tmp_path
    ):
        """Exit 1; what was done is told, and the next run does the rest."""
        _, two = hosts
        late = threading.Event()

        def bend(request, honest):
            if request.method == "GET" and "/slow/blobs/" in request.path:
                late.wait(60)
            return honest()

        with BentServer(tmp_path / "bent", bend) as server:
            for name in ("quick", "slow"):
                store(server.host, name, [tar_of({"own": name.encode()})])
            lines = (f"{server.host}/quick:1", f"{server.host}/slow:1")
            path = write(tmp_path / "list", *lines)
            words = ("sync", path, f"{two}/m", "--report", tmp_path / "r.json")
            done = run_cli(*words, "--deadline", "4s")
            late.set()
            assert done.returncode == 1, done.stderr
            assert done.error.startswith("error: stopped at the deadline 4s;")
            counts = re.search(
                r"(\d) copied, 0 unchanged, 0 missing, (\d)", done.stdout
            )
            assert counts and int(counts[1]) + int(counts[2]) == 2
            report = json.loads((tmp_path / "r.json").read_text())
            slow = report["images"][1]
            assert slow["action"] == "failed"
            assert slow["why"].startswith("not done: stopped at the deadline 4s")
            done = sync(path, f"{two}/m", "--retry-failed=r.json", "--json")
            assert actions(done)["m/slow:1"] == "copy"
        assert_whole(two, "m/slow", read(two, "m/slow", "1"))

    def test_a_run_that_is_interrupted_writes_it_too(self, hosts, run_cli, tmp_path):
        """It prints no result, and ends by the signal."""
        late = threading.Event()
        reached = threading.Event()

        def bend(request, honest):
            if request.method == "GET" and "/slow/blobs/" in request.path:
                reached.set()
                late.wait(60)
            return honest()

        with BentServer(tmp_path / "bent", bend) as server:
            store(server.host, "slow", [tar_of({"own": b"slow"})])
            path = write(tmp_path / "list", f"{server.host}/slow:1")
            words = ("sync", path, hosts[1], "--json", "--report", tmp_path / "r.json")
            child = run_cli.start(*words, stdout=subprocess.PIPE)
            assert reached.wait(60)
            child.send_signal(signal.SIGTERM)
            out, _ = child.communicate(timeout=60)
            late.set()
        assert (child.returncode, out) == (-signal.SIGTERM, b"")
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["images"][0]["action"] == "failed"
        assert report["images"][0]["why"].startswith("not done:")


def stored(hosts) -> tuple[bytes, str]:
    """An image that both registries hold."""
    one, two = hosts
    store(two, "app", [tar_of({"own": b"app" * 700})])
    return read(one, "app", "1"), OCI_MANIFEST


class TestRetries:
    def test_only_what_failed_is_tried_again(self, failed, hosts, sync):
        path, target, report = failed
        one, _ = hosts
        put(one, "app", "3", read(one, "app", "1"), OCI_MANIFEST)
        done = sync(path, target, "--retry-failed", report, "--json", code=7)
        assert actions(done) == {"m/app:3": "copy", "m/gone:1": "missing"}

    def test_reports_follow_each_other(self, failed, hosts, sync):
        path, target, report = failed
        one, _ = hosts
        words = (path, target, "--retry-failed", report, "--report", report)
        put(one, "app", "3", read(one, "app", "1"), OCI_MANIFEST)
        sync(*words, code=7)
        store(one, "gone", [tar_of({"own": b"gone"})])
        done = sync(*words, "--json")
        assert actions(done) == {"m/gone:1": "copy"}
        done = sync(*words)
        assert "note: nothing failed in" in done.stderr
        assert "0 copied, 0 unchanged, 0 missing, 0 failed" in done.stdout

    def test_one_image_of_rules_for_tags(self, hosts, run_cli, tmp_path, sync):
        one, _ = hosts
        refusing = []

        def bend(request, honest):
            is_it = request.method == "PUT" and request.path.endswith("/2")
            return refused(403) if is_it and not refusing else honest()

        with BentServer(tmp_path / "bent", bend) as server:
            entry = {"source": f"{one}/app", "target": f"{server.host}/app"}
            record = {"sync": [{**entry, "tags": {"allow": [".*"]}}]}
            path = write(tmp_path / "list.json", json.dumps(record))
            sync(path, "--report=r.json", code=7)
            refusing.append("no more")
            done = sync(path, "--retry-failed=r.json", "--json")
        assert actions(done) == {"app:2": "copy"}

    def test_a_repository_that_could_not_be_listed(self, hosts, sync, tmp_path):
        one, two = hosts
        entry = {"source": f"{one}/later", "target": f"{two}/later"}
        record = {"sync": [{**entry, "tags": {"allow": [".*"]}}]}
        path = write(tmp_path / "list.json", json.dumps(record))
        sync(path, "--report=r.json", code=7)
        store(one, "later", [tar_of({"own": b"later"})])
        done = sync(path, "--retry-failed=r.json", "--json")
        assert actions(done) == {"later:1": "copy"}

    def test_what_is_no_longer_on_the_list_is_left(self, failed, hosts, sync):
        path, target, report = failed
        one, _ = hosts
        put(one, "app", "3", read(one, "app", "1"), OCI_MANIFEST)
        write(path, f"{one}/app:3", f"{one}/other:1")
        done = sync(path, target, "--retry-failed", report, "--json")
        assert actions(done) == {"m/app:3": "copy"}
        assert "note: 1 of" in done.stderr

    def test_into_a_directory_however_it_is_written(self, hosts, sync, tmp_path):
        one, _ = hosts
        path = write(tmp_path / "list", f"{one}/app:1", f"{one}/app:3")
        sync(path, f"oci:{tmp_path}/disk", "--report=r.json", code=7)
        put(one, "app", "3", read(one, "app", "1"), OCI_MANIFEST)
        done = sync(path, "oci:./disk/", "--retry-failed=r.json", "--json")
        assert actions(done) == {"app:3": "copy"}


class TestBadReports:
    """One line, the right exit code, and nothing is done."""

    def check(self, sync, words, code: int, said: str) -> None:
        done = sync(*words, code=code)
        assert said in done.error
        assert done.stdout == "" and done.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("text", "code", "said"),
        [
            ("", 6, "not JSON"),
            ("{", 6, "not JSON"),
            ("<!DOCTYPE html>", 6, "not JSON"),
            ("[]", 6, "wanted an object"),
            ("{}", 6, "version"),
            ('{"version": "1"}', 6, "version"),
            ('{"version": 1}', 6, "target"),
            ('{"version": 1, "target": "", "dryRun": false}', 6, "DST is"),
            ('{"version": 2}', 2, "a newer dockerpush wrote it"),
        ],
    )
    def test_damaged_or_newer(self, text, code, said, failed, sync):
        path, target, report = failed
        report.write_text(text)
        code = 2 if said == "DST is" else code
        self.check(sync, (path, target, "--retry-failed", report), code, said)

    @pytest.mark.parametrize(
        ("images", "said"),
        [
            (None, "images"),
            ([1], "images[0]"),
            ([{"source": "a", "target": "b"}], "images[0].action"),
            ([{"source": "a", "target": "b", "action": "x"}], "images[0].action"),
            ([{"source": 1, "target": "b", "action": "copy"}], "images[0].source"),
        ],
    )
    def test_images_that_are_none(self, images, said, failed, sync):
        path, target, report = failed
        record = json.loads(report.read_text())
        record["images"] = images
        report.write_text(json.dumps(record))
        self.check(sync, (path, target, "--retry-failed", report), 6, said)

    def test_truncated(self, failed, sync):
        path, target, report = failed
        report.write_bytes(report.read_bytes()[:-40])
        self.check(sync, (path, target, "--retry-failed", report), 6, "not JSON")

    def test_of_another_target(self, failed, hosts, sync):
        path, _, report = failed
        words = (path, f"{hosts[1]}/elsewhere", "--retry-failed", report)
        self.check(sync, words, 2, f"its DST is '{hosts[1]}/m'")
        words = (path, "oci:disk", "--retry-failed", report)
        self.check(sync, words, 2, "its DST is")

    def test_of_another_list(self, failed, hosts, sync, tmp_path):
        _, target, report = failed
        path = write(tmp_path / "other", f"{hosts[0]}/other:1")
        words = (path, target, "--retry-failed", report)
        self.check(sync, words, 4, "nothing that failed there is on this list")

    def test_of_a_dry_run(self, failed, sync, tmp_path):
        path, target, _ = failed
        sync(path, target, "--dry-run", "--report=dry.json", code=7)
        words = (path, target, "--retry-failed", "dry.json")
        self.check(sync, words, 2, "a dry run wrote it")

    def test_that_is_not_there(self, failed, sync):
        path, target, _ = failed
        self.check(sync, (path, target, "--retry-failed=no.json"), 4, "no such file")

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--prune", "--yes"), "--prune needs the whole list"),
            (("oci-archive:x.tar",), "an archive is written as a whole"),
        ],
    )
    def test_with_what_needs_the_whole_list(self, options, said, failed, sync):
        path, target, report = failed
        place = () if "oci-archive:x.tar" in options else (target,)
        words = (path, *place, *options, "--retry-failed", report)
        self.check(sync, words, 2, said)
