"""Link headers: the next page, no next page, or an error; nothing in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import small_archive
from suites import crossed

from dockerpush.errors import ContentMismatch
from dockerpush.registry.pages import next_target
from dockerpush.server import Registry, RegistryServer

NEXT = "/v2/team/app/tags/list?n=2&last=b"


@pytest.mark.parametrize(
    ("lines", "target"),
    [
        ([], None),
        ([""], None),
        ([" , ,"], None),
        ([f'<{NEXT}>; rel="next"'], NEXT),
        ([f"<{NEXT}>;rel=next"], NEXT),
        ([f'<{NEXT}> ;\trel = "next" ;'], NEXT),
        ([f'<{NEXT}>; REL="Next"'], NEXT),
        ([f'<{NEXT}>; rel="last next"'], NEXT),
        ([f"<{NEXT}>; rel='next'"], NEXT),
        ([f'<{NEXT}>; rel="next"; rel="prev"'], NEXT),
        ([f'<{NEXT}>; title="a, b; rel=prev"; rel="next"'], NEXT),
        ([f'<{NEXT}>; title="say \\"hi\\", <x>"; rel=next'], NEXT),
        ([f"<{NEXT}>; title*=UTF-8''a%2Cb; rel=next"], NEXT),
        ([f'<{NEXT}>; crossorigin; rel="next"'], NEXT),
        (["<?last=a,b;c>; rel=next"], "?last=a,b;c"),
        ([f'<x>; rel="prev", <{NEXT}>; rel="next"'], NEXT),
        (["<x>; rel=prev", f"<{NEXT}>; rel=next"], NEXT),
        ([f"<{NEXT}>; rel=next, <{NEXT}>; rel=next"], NEXT),
        (["<x>; rel=prev"], None),
        (['<x>; rel="nextish"'], None),
        (['<x>; title="rel=next"; rel="prev"'], None),
        (['<x>; rel=""'], None),
        ([f'{NEXT}; rel="next"'], NEXT),
        ([f"{NEXT};rel=next"], NEXT),
        ([f'https://registry.example.com{NEXT}; rel="prev"'], None),
        ([f"<{NEXT}>"], NEXT),
        ([f'<{NEXT}>; title="more"'], NEXT),
        ([f"<other>, <{NEXT}>; rel=next"], NEXT),
    ],
)
def test_what_comes_next(lines, target):
    assert next_target(lines) == target


@pytest.mark.parametrize(
    "line",
    [
        NEXT,
        "<>; rel=next",
        f"<{NEXT}; rel=next",
        f'<{NEXT}>; rel="next',
        f'<{NEXT}> rel="next"',
        f"<{NEXT}>; rel=next x",
        f"{NEXT},c; rel=next",
        "<a>; rel=next, <b>; rel=next",
        "; rel=next",
        '"next"',
    ],
)
def test_what_cannot_be_understood_is_an_error(line):
    with pytest.raises(ContentMismatch):
        next_target([line])


@given(st.lists(st.text(alphabet='<>,;=" \\\\relnxt/?', max_size=40), max_size=3))
def test_any_header_is_a_target_nothing_or_an_error(lines):
    try:
        target = next_target(lines)
    except ContentMismatch:
        return
    assert target is None or target


# the commands that read lists

TAGS = ["1", "2", "3", "4", "5"]
FOLLOWED = (
    '<{url}>; title="a, b"; rel="next"',
    '{url}; rel="next"',
    "<{url}>; rel=NEXT",
    '<{path}>; rel="first", <{url}>; rel="up next"',
    "<{url}>",
)
REFUSED = ("{url}", '<{url}; rel="next"', '<{path}?n=2>; rel="next"')


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A registry with five tags in pages of two; sets how it writes its Link."""
    from dockerpush import push

    template = [FOLLOWED[0]]

    def page(request, names):
        last = request.parameter("last") or ""
        rest = [name for name in names if name > last]
        if len(rest) <= 2:
            return rest, {}
        url = f"{request.path}?n=2&last={rest[1]}"
        link = template[0].format(url=url, path=request.path)
        return rest[:2], {"Link": link}

    monkeypatch.setattr("dockerpush.server.dispatch.page_of_names", page)
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        archive = small_archive(tmp_path / "image.tar")
        for tag in TAGS:
            push(archive, f"{server.host}/team/app:{tag}")
        yield server.host, template


def commands(host: str, directory: Path) -> dict[str, tuple[list[object], str]]:
    """Every command that reads a list of tags, and where that puts them."""
    source, listed = f"{host}/team/app", directory / "list.json"
    rules = {"allow": [".*"]}
    entry = {"source": source, "target": f"{host}/team/dst", "tags": rules}
    listed.write_text(json.dumps({"version": 1, "sync": [entry]}))
    return {
        "tags": (["tags", source], source),
        "copy": (["copy", "-a", source, f"{host}/team/dst"], f"{host}/team/dst"),
        "copy to a directory": (["copy", "-a", source, f"oci:{directory}/out"], ""),
        "sync": (["sync", listed], f"{host}/team/dst"),
    }


COMMANDS = ["tags", "copy", "copy to a directory", "sync"]


@pytest.mark.parametrize(("link", "name"), crossed(FOLLOWED, COMMANDS))
def test_every_tag_is_found(name, link, odd, run_cli, tmp_path):
    host, template = odd
    command, where = commands(host, tmp_path)[name]
    template[0] = link
    done = run_cli(*command)
    assert done.returncode == 0, done.stderr
    template[0] = FOLLOWED[0]
    if where:
        assert run_cli("tags", where).stdout.split() == TAGS
    else:
        index = json.loads((tmp_path / "out" / "index.json").read_text())
        assert len(index["manifests"]) == len(TAGS)


@pytest.mark.parametrize(("link", "name"), crossed(REFUSED, COMMANDS))
def test_a_part_is_never_taken_for_the_whole(name, link, odd, run_cli, tmp_path):
    host, template = odd
    command, where = commands(host, tmp_path)[name]
    template[0] = link
    done = run_cli(*command)
    assert done.returncode == (7 if name == "sync" else 6), done.stderr
    assert "rest of the list is unknown" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    template[0] = FOLLOWED[0]
    if where.endswith("dst"):
        assert run_cli("tags", where).returncode == 4
    assert not (tmp_path / "out").exists()
