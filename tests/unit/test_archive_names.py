"""Member names and the links between them."""

from __future__ import annotations

import pytest

from dockerpush.archive.headers import canonical, normalised, quoted, resolved
from dockerpush.archive.stored import Member, MemberKind
from dockerpush.errors import ArchiveError


def archive(**links: str) -> dict[str, Member]:
    """A file ``id/layer.tar``, and links: name → ``symlink`` or ``=hard link``."""
    members = {"id/layer.tar": Member("id/layer.tar", MemberKind.FILE, 5)}
    for name, target in links.items():
        kind = MemberKind.HARDLINK if target.startswith("=") else MemberKind.SYMLINK
        members[name] = Member(name, kind, target=target.lstrip("="))
    return members


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("./a/b", "a/b"),
        ("/a//b/", "a/b"),
        ("a\\b", "a/b"),
        ("a/./b/../c", "a/c"),
        ("..", ".."),
        ("a/../../b", "../b"),
        ("../../b", "../../b"),
        ("./", ""),
    ],
)
def test_a_name_has_one_spelling(name, wanted):
    assert normalised(name) == wanted


@pytest.mark.parametrize(
    "links",
    [
        {"x": "id/layer.tar"},
        {"x": "=id/layer.tar"},
        {"x": "y", "y": "=z", "z": "./id/layer.tar"},
        {"x": "/id/layer.tar"},
        {"x": "folder/layer.tar", "folder": "id"},
    ],
)
def test_links_of_both_kinds_lead_to_the_file(links):
    assert resolved(archive(**links), "./x").name == "id/layer.tar"


def test_the_link_that_docker_save_writes_for_a_repeated_layer():
    members = archive(**{"other/layer.tar": "../id/layer.tar"})
    assert resolved(members, "other/layer.tar").name == "id/layer.tar"


def test_a_target_given_from_the_root_is_found():
    """Seen in the wild: github.com/containerd/containerd issue 12890."""
    members = archive(**{"other/layer.tar": "id/layer.tar"})
    assert resolved(members, "other/layer.tar").name == "id/layer.tar"


def test_what_is_not_there_is_none():
    assert resolved(archive(x="gone"), "x") is None
    assert resolved(archive(), "gone/layer.tar") is None


@pytest.mark.parametrize(
    "links",
    [{"x": "x"}, {"x": "=x"}, {"x": "y", "y": "x"}, {"x": "x/x"}],
)
def test_a_circle_of_links_is_refused(links):
    with pytest.raises(ArchiveError, match=r"'x'.*circle"):
        resolved(archive(**links), "x")


@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("../id/layer.tar", {}),
        ("id/../../etc/passwd", {}),
        ("x", {"x": "../id/layer.tar"}),
        ("x", {"x": "=../id/layer.tar"}),
        ("x", {"x": "/../../etc/passwd"}),
        ("f/passwd", {"f": "../etc"}),
    ],
)
def test_what_leads_out_of_the_archive_is_refused_by_name(name, links):
    with pytest.raises(ArchiveError, match="leads out of the archive"):
        resolved(archive(**links), name)


def test_image_names_compare_as_docker_means_them():
    assert canonical("nginx") == canonical("docker.io/library/nginx:latest")
    assert canonical("Not A Name") == "Not A Name"


def test_a_hostile_name_is_short_and_printable_in_a_message():
    said = quoted("a" * 5000 + "\x1b[31m\udcff")
    assert len(said) < 200
    assert said.isprintable()
