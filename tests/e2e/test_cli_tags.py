"""``tags``: what a repository calls its images, page by page."""

from __future__ import annotations

from pathlib import Path

import pytest
from images import small_archive

from dockerpush.server import Registry, RegistryServer

TAGS = ["1.0", "1.1", "1.1-rc1", "2.0", "latest"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    """A registry whose repository has TAGS; its host and what it was asked."""
    directory = tmp_path_factory.mktemp("tags")
    asked: list[str] = []
    registry = Registry(directory / "registry")
    with RegistryServer(
        registry, on_request=lambda served: asked.append(served.path)
    ) as server:
        fill(server.host, directory)
        yield server.host, asked


def fill(host: str, directory: Path) -> None:
    from dockerpush import push

    archive = small_archive(directory / "image.tar")
    for tag in TAGS:
        push(archive, f"{host}/team/app:{tag}")


def test_tags_are_listed_one_a_line(served, run_cli):
    done = run_cli("tags", f"{served[0]}/team/app")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == TAGS


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--include", r"1\..*"], ["1.0", "1.1", "1.1-rc1"]),
        (["--include", r"1\..*", "--exclude", ".*-rc.*"], ["1.0", "1.1"]),
        (["--include", "1", "--include", "latest"], ["latest"]),
        (["--last", "1.1"], ["1.1-rc1", "2.0", "latest"]),
        (["--limit", "2"], ["1.0", "1.1"]),
        (["--limit", "2", "--exclude", "1.*"], ["2.0", "latest"]),
        (["--last", "1.0", "--limit", "1"], ["1.1"]),
        (["--include", "none"], []),
    ],
)
def test_lists_are_narrowed(options, wanted, served, run_cli):
    done = run_cli("tags", f"{served[0]}/team/app", *options, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["tags"] == wanted


def test_no_more_pages_are_asked_for_than_wanted(served, run_cli):
    host, asked = served
    asked.clear()
    run_cli("tags", f"{host}/team/app", "--limit", "2")
    pages = [target for target in asked if "tags/list" in target]
    assert len(pages) == 1
    assert "n=2" in pages[0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{host}/team/absent"], 4, "team/absent"),
        (["{host}/team/app:1.0"], 2, "takes a repository"),
        (["{host}/team/app", "--include", "("], 2, "regular expression"),
        (["{host}/team/app", "--limit", "0"], 2, "not a number"),
    ],
)
def test_what_cannot_be_listed_is_reported_in_one_line(
    arguments, code, words, served, run_cli
):
    done = run_cli("tags", *(text.format(host=served[0]) for text in arguments))
    assert done.returncode == code
    assert words in done.error
    assert "Traceback" not in done.stderr
