"""Indexes and lists without end: an honest amount of memory, and one clear line.

A registry may store indexes that name each other a thousand times, or thousands of
others, and its lists may have as many pages as it likes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import Command, Finished
from fake_registry import Answer, FakeRegistry, Incoming, serving
from images import MIB, small_archive, tar_of

from dockerpush.oci import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    dump_json,
)

LIMIT = 62 * MIB
"""60 MiB, and what the allocator takes more in one run of some hundred."""


class Endless(FakeRegistry):
    """Holds documents; its lists never end. *lists* says what a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.documents: dict[str, tuple[str, bytes]] = {}
        self.pages = itertools.count(1)

    def add(self, media_type: str, record: Any) -> dict[str, Any]:
        """Have the document *record*; its descriptor."""
        raw = record if isinstance(record, bytes) else dump_json(record)
        found = Descriptor.of(media_type, raw)
        self.documents[str(found.digest)] = (media_type, raw)
        self.blobs[str(found.digest)] = raw
        return found.to_json()

    def tag(self, name: str, descriptor: dict[str, Any]) -> None:
        self.documents[name] = self.documents[descriptor["digest"]]

    def get(self, request: Incoming) -> Answer:
        kind, _, name = request.path.rpartition("/")
        if "/other/" in kind:
            return Answer(404)
        if request.path.endswith(("/tags/list", "/_catalog")) or "/referrers/" in kind:
            return self.page(request)
        if kind.endswith("/referrers"):
            return self.page(request)
        if kind.endswith("/blobs"):
            found = self.blobs.get(name)
            return Answer(404) if found is None else Answer(200, {}, found)
        return self.document(name)

    def head(self, request: Incoming) -> Answer:
        answer = self.get(request)
        answer.headers["Content-Length"] = str(len(answer.body))
        return Answer(answer.status, answer.headers)

    def document(self, name: str) -> Answer:
        if name not in self.documents:
            return Answer(404)
        media_type, raw = self.documents[name]
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        return Answer(
            200, {"Content-Type": media_type, "Docker-Content-Digest": digest}, raw
        )

    def page(self, request: Incoming) -> Answer:
        """Another page, and a link to another one."""
        if "/team/" in request.path:
            return self.whole(request)
        number = next(self.pages)
        link = f'<{request.path}?last={number}>; rel="next"'
        if "/referrers/" in request.path:
            listed = [fake(f"{number}-{place}") for place in range(1000)]
            body = dump_json({"schemaVersion": 2, "manifests": listed})
        else:
            key = "tags" if request.path.endswith("list") else "repositories"
            names = [f"{number}.{place}".ljust(30, "x") for place in range(60_000)]
            body = dump_json({"name": "team/app", key: names})
        return Answer(200, {"Link": link, "Content-Type": "application/json"}, body)

    def whole(self, request: Incoming) -> Answer:
        if request.path.endswith("/tags/list"):
            tags = [name for name in self.documents if ":" not in name]
            return Answer(200, {}, dump_json({"name": "team/app", "tags": tags}))
        record = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        return Answer(200, {"Content-Type": OCI_INDEX}, dump_json(record))


def fake(text: str, media_type: str = OCI_MANIFEST, size: int = 300) -> dict[str, Any]:
    """A descriptor of what nobody has."""
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    return {"mediaType": media_type, "digest": digest, "size": size}


def index(registry: Endless, entries: list[dict[str, Any]]) -> dict[str, Any]:
    record = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return registry.add(OCI_INDEX, record)


def image(registry: Endless, number: int = 0) -> dict[str, Any]:
    """A small image of its own."""
    layer = tar_of({"number": str(number).encode()})
    diff_id = "sha256:" + hashlib.sha256(layer).hexdigest()
    config = {"os": "linux", "architecture": "amd64"}
    config["rootfs"] = {"type": "layers", "diff_ids": [diff_id]}
    record = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": registry.add(OCI_CONFIG, config),
        "layers": [registry.add(OCI_LAYER, layer)],
    }
    return registry.add(OCI_MANIFEST, record)


def repeated(registry: Endless) -> dict[str, Any]:
    """Four indexes, each of which names the next a thousand times: a small image."""
    found = image(registry)
    for _ in range(4):
        found = index(registry, [found] * 1000)
    return found


def deep(registry: Endless) -> dict[str, Any]:
    found = image(registry)
    for _ in range(40):
        found = index(registry, [found])
    return found


def wide(registry: Endless) -> dict[str, Any]:
    """As many entries as fit, in the fewest values, and escaped."""
    entries = b",".join(
        b'{"\\u0064igest":"%s","size":9,"mediaType":"%s"}'
        % (fake(str(number))["digest"].encode(), OCI_MANIFEST.encode())
        for number in range(25_000)
    )
    raw = b'{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}'
    return registry.add(OCI_INDEX, raw % (OCI_INDEX.encode(), entries))


def layers(registry: Endless) -> dict[str, Any]:
    """As many layers as are taken, of which none is there."""
    record = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": registry.add(OCI_CONFIG, {}),
        "layers": [fake(str(n), OCI_LAYER, 9) for n in range(9_000)],
    }
    return registry.add(OCI_MANIFEST, record)


def many(registry: Endless) -> dict[str, Any]:
    return index(registry, [image(registry, number) for number in range(2100)])


def large(registry: Endless) -> dict[str, Any]:
    """Ten indexes of nearly 4 MiB."""
    inner = []
    for number in range(10):
        entry = {**image(registry, number), "annotations": {"a": "x" * (4 * MIB - 600)}}
        inner.append(index(registry, [entry]))
    return index(registry, inner)


SHAPES = {one.__name__: one for one in (repeated, deep, wide, layers, many, large)}


@pytest.fixture(scope="module")
def registry() -> Iterator[tuple[str, Endless]]:
    registry = Endless()
    for name, shape in SHAPES.items():
        registry.tag(name, shape(registry))
    with serving(registry) as host:
        yield host, registry


COMMANDS = {
    "pull": ("pull", "{image}"),
    "pull-file": ("pull", "--no-cache", "{image}", "-o", "{tmp}/out.tar"),
    "pull-all": ("pull", "{image}", "--platform", "all", "-o", "{tmp}/out.tar"),
    "inspect": ("inspect", "{image}", "--json"),
    "inspect-one": ("inspect", "{image}", "--platform", "linux/amd64"),
    "copy-file": ("copy", "{image}", "{tmp}/out.tar"),
    "copy-directory": ("copy", "{image}", "oci:{tmp}/out"),
    "copy": ("copy", "{image}", "{host}/other/app:1"),
    "verify": ("verify", "{archive}", "{image}"),
    "delete": ("delete", "{image}", "--digest", "--dry-run"),
    "digest": ("digest", "{image}"),
    "push-over": ("push", "{archive}", "-t", "{image}", "--dry-run"),
    "push-trusting": (
        *("push", "{archive}", "-t", "{image}", "--dry-run", "--trust-target"),
    ),
}


def check(done: Finished) -> None:
    """Little memory, and success or one line that says why not."""
    assert done.peak_rss < LIMIT, (done.peak_rss / MIB, done.stderr[-300:])
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert done.returncode in (4, 6, 7), done.stderr
        assert done.error.startswith("error: "), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_indexes_without_end(shape, command, registry, tmp_path, run_cli: Command):
    host, _ = registry
    archive = small_archive(tmp_path / "small.tar")
    names = {
        "image": f"{host}/team/app:{shape}",
        "host": host,
        "archive": str(archive),
        "tmp": str(tmp_path),
    }
    words = [word.format(**names) for word in COMMANDS[command]]
    done = run_cli(*words, "--plain-http", fresh=True, timeout=60)
    check(done)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an archive of each shape, ``SHAPE.tar``."""
    directory = tmp_path_factory.mktemp("archives")
    for name, shape in SHAPES.items():
        registry = Endless()
        root = shape(registry)
        files = {f"blobs/{d.replace(':', '/')}": b for d, b in registry.blobs.items()}
        index = {"schemaVersion": 2, "manifests": [root]}
        layout = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        content = tar_of({**layout, "index.json": dump_json(index), **files})
        (directory / f"{name}.tar").write_bytes(content)
    return directory


OF_ARCHIVES = {
    "push": ("push", "{file}", "-t", "{host}/other/app:1", "--plain-http", "--dry-run"),
    "pipe": ("push", "-", "-t", "{host}/other/app:1", "--plain-http"),
    "inspect": ("inspect", "{file}", "--json"),
    "inspect-pipe": ("inspect", "-", "--json"),
    "copy": ("copy", "{file}", "oci:{tmp}/out"),
    "copy-file": ("copy", "{file}", "{tmp}/out.tar"),
    "copy-one": ("copy", "{file}", "{tmp}/out.tar", "--platform", "linux/amd64"),
    "verify": ("verify", "{file}", "{host}/team/app:{shape}", "--plain-http"),
    "serve": ("serve", "{file}", "--port", "0"),
}


@pytest.mark.parametrize("command", OF_ARCHIVES)
@pytest.mark.parametrize("shape", SHAPES)
def test_archives_without_end(shape, command, archives, registry, tmp_path, run_cli):
    if (command, shape) == ("serve", "many"):
        return  # it serves them: nobody has asked for one yet
    host, _ = registry
    file = archives / f"{shape}.tar"
    names = {"host": host, "file": str(file), "tmp": str(tmp_path), "shape": shape}
    words = [word.format(**names) for word in OF_ARCHIVES[command]]
    stdin = file if "-" in words else None
    done = run_cli(*words, fresh=True, stdin=stdin, timeout=60)
    check(done)


LISTS = {
    "tags": ("tags", "{host}/endless/app"),
    "tags-json": ("tags", "{host}/endless/app", "--json"),
    "repos": ("repos", "{host}"),
    "repos-json": ("repos", "{host}", "--json"),
    "copy-all": ("copy", "-a", "{host}/endless/app", "{host}/other/app"),
    "copy-all-file": ("copy", "-a", "{host}/endless/app", "{tmp}/out.tar"),
    "referrers": ("copy", "--referrers", "{host}/endless/app:image", "oci:{tmp}/out"),
    "newest": ("sync", "{tmp}/newest.json"),
    "all": ("sync", "{tmp}/all.json"),
    "skip": ("sync", "{tmp}/skip.json"),
}


def write_lists(directory: Path, host: str) -> None:
    """Lists for ``sync`` that want the newest tags, all, and those that are new."""
    rules = {"newest": {"newest": 5}, "all": {"allow": [".*"]}, "skip": {"newest": 5}}
    for name, tags in rules.items():
        entry = {"source": f"{host}/endless/app", "target": f"{host}/other/app"}
        entry["tags"] = tags
        if name == "skip":
            entry["onExists"] = "skip"
        (directory / f"{name}.json").write_text(
            json.dumps({"version": 1, "sync": [entry]})
        )


@pytest.mark.long
@pytest.mark.parametrize("command", LISTS)
def test_lists_without_end(command, registry, tmp_path, run_cli: Command):
    host, fake = registry
    fake.tag("image", image(fake))
    write_lists(tmp_path, host)
    words = [word.format(host=host, tmp=tmp_path) for word in LISTS[command]]
    done = run_cli(*words, "--plain-http", fresh=True, timeout=60)
    check(done)
    assert done.returncode in (6, 7), done.stderr
