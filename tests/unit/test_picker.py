"""Listings of local images as real programs print them, and choosing from a list."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.errors import InvalidJSON, PusherError, UsageError
from dockerpush.runtimes.picker import (
    LocalImage,
    numbered_lines,
    parse_images,
    parse_selection,
)

DOCKER = (
    # docker/cli 20.10 to 28, docs/reference/commandline/image_ls.md, "Format the
    # output": the printed example of `docker images --format json`
    rb'{"Containers":"N/A","CreatedAt":"2021-03-04 03:24:42 +0100 CET","CreatedSince"'
    rb':"5 days ago","Digest":"\u003cnone\u003e","ID":"4dd97cefde62","Repository":'
    rb'"ubuntu","SharedSize":"N/A","Size":"72.9MB","Tag":"latest","UniqueSize":"N/A"}'
    b"\n"
    rb'{"Containers":"N/A","CreatedAt":"2021-02-17 22:19:54 +0100 CET","CreatedSince"'
    rb':"2 weeks ago","Digest":"\u003cnone\u003e","ID":"28f6e2705743","Repository":'
    rb'"alpine","SharedSize":"N/A","Size":"5.61MB","Tag":"latest","UniqueSize":"N/A"}'
    b"\n"
)

# docker/cli 28.2.2, cli/command/formatter/image.go: --no-trunc gives the whole digest,
# and what has no tag is "<none>"
DOCKER_UNTRUNCATED = "".join(
    json.dumps(
        {
            "Containers": "N/A",
            "CreatedAt": "2024-06-07 13:00:09 +0100 BST",
            "CreatedSince": "13 months ago",
            "Digest": "<none>",
            "ID": "sha256:" + digit * 64,
            "Repository": repository,
            "SharedSize": "N/A",
            "Size": size,
            "Tag": tag,
            "UniqueSize": "N/A",
            "VirtualSize": size,
        }
    )
    + "\n"
    for digit, repository, tag, size in (
        ("a", "registry.example.com:5000/team/app", "1.2", "1.21GB"),
        ("b", "<none>", "<none>", "412kB"),
        ("c", "nginx", "<none>", "0B"),
    )
).encode()

# nerdctl 2.0 in Finch 1.7 (macOS), `nerdctl images --format '{{json .}}'`; the fields
# are those of pkg/cmd/image/list.go, type imagePrintable; one line for each platform
NERDCTL = (
    b'{"CreatedAt":"2025-04-12 00:33:33 +0900 JST","CreatedSince":"About an hour ago",'
    b'"Digest":"sha256:09369da6b10306312cd908661320086bf87fbae1b6b0c49a1f50ba531fef2ea'
    b'b","ID":"09369da6b103","Repository":"nginx","Tag":"latest","Name":"docker.io/lib'
    b'rary/nginx:latest","Size":"211.9MB","BlobSize":"68.65MB","Platform":"linux/arm64'
    b'"}\n'
    b'{"CreatedAt":"2025-04-12 00:33:33 +0900 JST","CreatedSince":"About an hour ago",'
    b'"Digest":"sha256:09369da6b10306312cd908661320086bf87fbae1b6b0c49a1f50ba531fef2ea'
    b'b","ID":"09369da6b103","Repository":"nginx","Tag":"latest","Name":"docker.io/lib'
    b'rary/nginx:latest","Size":"0B","BlobSize":"0B","Platform":"linux/amd64"}\n'
)

# nerdctl 0.x wrote "5.9 MiB"; in the namespace k8s.io, the CRI plugin adds names that
# are digests (containerd/nerdctl pull 1164)
NERDCTL_KUBERNETES = b"".join(
    b'{"CreatedAt":"2022-06-26 10:00:00 +0000 UTC","ID":"b5bc69ac1e17","Repository":'
    b'"%b","Tag":"%b","Name":"%b","Size":"52.3 MiB","Platform":"linux/amd64"}\n' % row
    for row in (
        (b"sha256", b"5d" * 32, b"sha256:" + b"5d" * 32),
        (b"<none>", b"<none>", b"sha256:" + b"5d" * 32),
        (b"registry.k8s.io/pause", b"3.7", b"registry.k8s.io/pause:3.7"),
    )
)

# podman 4.3.1 (Debian 12), `podman images --format json`: one entry for each name, each
# with all the names
PODMAN_ENTRY = """\
    {
        "Id": "1315135c8aa3c072f7ad18109baf4c527c930dfb5f1a11b1f915aad57bedfb4a",
        "ParentId": "",
        "RepoTags": null,
        "RepoDigests": [
            "docker.io/library/nginx@sha256:7f105e143f5a907778b8118087c4718c50f000b3316bdfb402fc2b2d9aa9fa44",
            "localhost/x@sha256:7f105e143f5a907778b8118087c4718c50f000b3316bdfb402fc2b2d9aa9fa44"
        ],
        "Size": 11348,
        "SharedSize": 0,
        "VirtualSize": 11348,
        "Labels": null,
        "Containers": 0,
        "Names": [
            "localhost/x:3",
            "docker.io/library/nginx:latest"
        ],
        "Digest":
            "sha256:7f105e143f5a907778b8118087c4718c50f000b3316bdfb402fc2b2d9aa9fa44",
        "History": [
            "docker.io/library/nginx:latest",
            "localhost/x:3"
        ],
        "Created": 1704164645,
        "CreatedAt": "2024-01-02T03:04:05Z"
    }"""
PODMAN = f"[\n{PODMAN_ENTRY},\n{PODMAN_ENTRY}\n]\n".encode()

# the same after `podman untag`
PODMAN_DANGLING = b"""[{"Id": "1315135c8aa3c072f7ad18109baf4c527c930dfb5f1a11b1f915aad57
bedfb4a", "ParentId": "", "RepoTags": null, "RepoDigests": [], "Size": 11348,
"Labels": null, "Containers": 0, "Dangling": true, "History":
["docker.io/library/nginx:latest"], "Created": 1704164645}]""".replace(
    b"57\nbe", b"57be"
)


def test_docker_prints_a_line_for_each_image() -> None:
    cet = timezone(timedelta(hours=1))
    assert parse_images(DOCKER, "docker images") == (
        LocalImage(
            "ubuntu:latest",
            "4dd97cefde62",
            72_900_000,
            datetime(2021, 3, 4, 3, 24, 42, tzinfo=cet),
        ),
        LocalImage(
            "alpine:latest",
            "28f6e2705743",
            5_610_000,
            datetime(2021, 2, 17, 22, 19, 54, tzinfo=cet),
        ),
    )


def test_docker_images_without_a_tag_have_no_name_but_an_id() -> None:
    images = parse_images(DOCKER_UNTRUNCATED, "docker images")
    assert {(image.name, image.id[:2], image.size) for image in images} == {
        ("registry.example.com:5000/team/app:1.2", "aa", 1_210_000_000),
        ("", "bb", 412_000),
        ("", "cc", 0),
    }


def test_nerdctl_prints_a_line_for_each_platform_of_an_image() -> None:
    jst = timezone(timedelta(hours=9))
    assert parse_images(NERDCTL, "nerdctl images") == (
        LocalImage(
            "nginx:latest",
            "09369da6b103",
            211_900_000,
            datetime(2025, 4, 12, 0, 33, 33, tzinfo=jst),
        ),
    )


def test_digests_that_kubernetes_adds_as_names_are_left_out() -> None:
    (image,) = parse_images(NERDCTL_KUBERNETES, "nerdctl images")
    assert image.name == "registry.k8s.io/pause:3.7"
    assert image.size == int(52.3 * 1024 * 1024)


def test_podman_prints_all_names_with_each_name() -> None:
    images = parse_images(PODMAN, "podman images")
    assert [image.name for image in images] == [
        "docker.io/library/nginx:latest",
        "localhost/x:3",
    ]
    assert {(image.id[:12], image.size, image.created) for image in images} == {
        ("1315135c8aa3", 11348, datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc))
    }


def test_podman_leaves_the_names_out_of_a_dangling_image() -> None:
    (image,) = parse_images(PODMAN_DANGLING, "podman images")
    assert (image.name, image.reference) == ("", image.id)
    assert len(image.id) == 64


@pytest.mark.parametrize("nothing", [b"", b"\n", b"[]", b"[\n]\n"])
def test_no_images_are_an_empty_list(nothing: bytes) -> None:
    assert parse_images(nothing, "podman images") == ()


@pytest.mark.parametrize(
    "listing",
    [
        b"REPOSITORY   TAG   IMAGE ID",
        b'{"ID": "abc"',
        b"[1]",
        b'["x"]',
        b"{}",
        b'{"ID": 5}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_listing_is_refused_by_name(listing: bytes) -> None:
    with pytest.raises(InvalidJSON, match="docker images: "):
        parse_images(listing, "docker images")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Size", "huge"),
        ("Size", "1.2.3MB"),
        ("Size", None),
        ("Created", 10**30),
        ("CreatedAt", "yesterday"),
        ("CreatedAt", 7),
        ("Names", [None, {}]),
        ("Names", "x"),
    ],
)
def test_a_field_that_is_odd_costs_only_itself(field: str, value: object) -> None:
    listing = json.dumps({"Id": "ab12", field: value}).encode()
    assert parse_images(listing, "podman images") == (LocalImage("", "ab12"),)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
FIELDS = ["ID", "Id", "Names", "Repository", "Tag", "Size", "Created", "CreatedAt"]


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON), max_size=4))
def test_any_json_is_understood_or_refused(records: list[dict[str, object]]) -> None:
    listing = json.dumps(records).encode()
    try:
        for image in parse_images(listing, "podman images"):
            assert image.reference
    except PusherError as error:
        assert "\n" not in str(error)


WHEN = datetime(2024, 1, 2, tzinfo=timezone.utc)
IMAGES = (
    LocalImage("nginx:latest", "aaaa11112222", 187_000_000, WHEN),
    LocalImage("nginx:1.25", "bbbb11112222", 1_210_000_000, WHEN),
    LocalImage("docker.io/library/redis:latest", "cccc11112222", 999, WHEN),
    LocalImage("team/app:1", "dddd11112222", 0, None),
    LocalImage("team/web:1", "dddd33334444", None, None),
    LocalImage("", "eeee11112222", 5, WHEN),
)
REFERENCES = [image.reference for image in IMAGES]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1", [1]),
        ("3,1", [3, 1]),
        (" 2-4 ", [2, 3, 4]),
        ("2 - 4", [2, 3, 4]),
        ("1 3-4,6", [1, 3, 4, 6]),
        ("1,1-2,1", [1, 2]),
        ("*", [1, 2, 3, 4, 5, 6]),
        ("team/*", [4, 5]),
        ("nginx*", [1, 2]),
        ("nginx:1.25", [2]),
        ("nginx", [1]),
        ("redis", [3]),
        ("redis:latest", [3]),
        ("docker.io/library/redis", [3]),
        ("team/app", [4]),
        ("eeee11", [6]),
        ("team/web,2", [5, 2]),
        ("4-4", [4]),
    ],
)
def test_a_choice_is_numbers_ranges_names_and_patterns(
    text: str, numbers: list[int]
) -> None:
    assert parse_selection(text, IMAGES) == tuple(IMAGES[n - 1] for n in numbers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing chosen"),
        (" , ", "nothing chosen"),
        ("0", "from 1 to 6: 0"),
        ("7", "from 1 to 6: 7"),
        ("4-2", "from 1 to 6: 4-2"),
        ("1-999999999", "1-999999999"),
        ("99999999999999999999", "'99999999999999999999'"),
        ("²", "'²'"),
        ("mysql", "'mysql'"),
        ("my*", "'my\\*'"),
        ("1,mysql", "'mysql'"),
        ("-1", "'-1'"),
        ("team/", "'team/'"),
    ],
)
def test_a_choice_that_fits_nothing_is_named(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_selection(text, IMAGES)


def test_an_ambiguous_name_lists_what_it_may_mean() -> None:
    images = (LocalImage("app:1", "aa"), LocalImage("app:2", "bb"))
    with pytest.raises(UsageError, match="app:1, app:2: choose by number"):
        parse_selection("app", images)
    with pytest.raises(UsageError, match="choose by number"):
        parse_selection("dddd", IMAGES)


@given(st.text(alphabet="0123456789-*?[], /:abnginx\t", max_size=20))
def test_any_text_chooses_from_the_list_or_is_refused(text: str) -> None:
    try:
        chosen = parse_selection(text, IMAGES)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert chosen
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= set(IMAGES)


def test_the_list_is_numbered_aligned_and_shows_what_differs() -> None:
    assert numbered_lines(IMAGES) == [
        "1) nginx:latest                    aaaa11112222   187 MB  2024-01-02",
        "2) nginx:1.25                      bbbb11112222  1.21 GB  2024-01-02",
        "3) docker.io/library/redis:latest  cccc11112222    999 B  2024-01-02",
        "4) team/app:1                      dddd11112222      0 B",
        "5) team/web:1                      dddd33334444",
        "6) <none>                          eeee11112222      5 B  2024-01-02",
    ]


def test_ten_images_line_up_too() -> None:
    lines = numbered_lines([LocalImage("a", "b")] * 10)
    assert (lines[0], lines[9]) == (" 1) a  b", "10) a  b")


def test_no_images_make_no_lines() -> None:
    assert numbered_lines([]) == []
