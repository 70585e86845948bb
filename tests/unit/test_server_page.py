"""Pages for people: what they show, that they are sound HTML, and what they let in."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conformance import Image, artifact, descriptor, digest_of, index_of, serving
from registries import write_users

from dockerpush.markup import LONGEST, STYLE, shown
from dockerpush.oci import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Digest
from dockerpush.server import ReadOnlySource
from dockerpush.server.page import size_text

VOID = {"meta", "input", "br"}
HOSTILE = (
    "\"><script>alert(1)</script><img src=x onerror=alert(1)>'&amp;\u202e\x00\x1b[2J"
)
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


ELEMENTS = re.compile(
    "html|head|meta|title|style|body|a|header|nav|main|footer|h[123]|p|form|label|input"
    "|button|ul|ol|li|dl|dt|dd|section|code|pre|small|br|bdi|time"
)
ATTRIBUTES = re.compile(
    "lang|charset|name|content|class|href|id|tabindex|aria-label|role|action|method"
    "|for|type|value|datetime|http-equiv"
)


class Page(HTMLParser):
    """A page, judged while it is read: what is open is closed, and in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        assert text.startswith("<!DOCTYPE html>\n")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        assert ELEMENTS.fullmatch(tag), tag
        names = [name for name, _ in attrs]
        assert all(map(ATTRIBUTES.fullmatch, names)), attrs
        assert len(names) == len(set(names)), attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for parent, text in self.texts if parent == tag]

    @property
    def words(self) -> str:
        return " ".join(text for parent, text in self.texts if parent != "style")


def page_of(client, target: str, status: int = 200, **headers: str) -> Page:
    """The page, which must be one that a screen reader and a policy can do with."""
    answer = client("GET", target, **{**HTML, **headers})
    assert answer.status == status
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "script-src" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page = Page(answer.body.decode())
    judge(page)
    return page


def judge(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    for landmark in ("title", "header", "main", "footer", "h1"):
        assert len(page.all(landmark)) == 1, landmark
    assert all(nav["aria-label"] for nav in page.all("nav"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(later <= before + 1 for before, later in zip(levels, levels[1:]))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = {label["for"] for label in page.all("label")}
    assert {field["id"] for field in page.all("input")} == labels
    skip = page.all("a")[0]["href"]
    assert skip == f"#{page.all('main')[0]['id']}"
    for anchor in page.all("a"):
        assert re.match(r"[/#](?!/)", anchor["href"]), anchor
    for form in page.all("form"):
        assert (form["method"], form["role"]) == ("get", "search")
    (viewport,) = [one for one in page.all("meta") if one.get("name") == "viewport"]
    assert viewport["content"].startswith("width=device-width")


@pytest.fixture
def filled(tmp_path: Path):
    """Images of two platforms, a referrer, and what is hostile and can be pushed."""
    with serving(tmp_path) as (server, client):
        client.push_image("team/app", "v1", 1)
        image = Image(1)
        other = Image(2)
        for blob in other.blobs.values():
            client.push_blob("team/app", blob)
        client.push_manifest("team/app", other.digest, other.manifest)
        children = [
            {**image.descriptor, "platform": {"os": "linux", "architecture": "amd64"}},
            {**other.descriptor, "platform": {"os": "linux", "architecture": HOSTILE}},
        ]
        index = index_of(
            *children, annotations={"org.title": "An app", HOSTILE: HOSTILE}
        )
        assert client.push_manifest("team/app", "all", index, OCI_INDEX).status == 201
        client.push_blob("team/app", b"{}")
        subject = descriptor(OCI_MANIFEST, image.manifest)
        referrer = artifact(subject, HOSTILE, note=HOSTILE)
        assert client.push_manifest("team/app", "sig", referrer).status == 201
        config = json.dumps({"os": HOSTILE, "architecture": ["x"], "variant": None})
        client.push_blob("bad", config.encode())
        client.push_blob("bad", b"layer")
        manifest = {
            "schemaVersion": 2,
            "config": descriptor(OCI_CONFIG, config.encode()),
            "layers": [descriptor(HOSTILE, b"layer")],
            "annotations": {"a": "x" * 100_000, "b": "\ud800", "c": "\u2028"},
        }
        raw = json.dumps(manifest).encode()
        assert client.push_manifest("bad", "v1", raw).status == 201
        yield server, client


def test_repositories_lead_to_tags_and_these_to_images(filled):
    server, client = filled
    page = page_of(client, "/")
    links = [anchor["href"] for anchor in page.all("a")]
    assert {"/bad", "/team/app"} <= set(links)
    page = page_of(client, "/team/app")
    links = [anchor["href"] for anchor in page.all("a")]
    assert {"/team/app:all", "/team/app:sig", "/team/app:v1"} <= set(links)
    assert "linux/amd64 · " in page.words and " KiB · sha256:" in page.words
    assert len(page.all("time")) == 3
    page = page_of(client, "/team/app:v1")
    image = Image(1)
    for digest in (image.digest, *(layer["digest"] for layer in image.layers)):
        assert digest in page.text("code")
    assert "linux/amd64" in page.text("code")
    assert f"docker pull {server.host}/team/app:v1" in page.text("code")
    assert [text for text in page.text("h3")] == [
        *("docker", "podman", "crane", "dockerpush")
    ]
    assert f"podman pull --tls-verify=false {server.host}/team/app:v1" in page.words
    page = page_of(client, "/team/app:all")
    places = [anchor["href"] for anchor in page.all("a")]
    assert f"/team/app@{image.digest}" in places
    assert "An app" in page.words
    page_of(client, f"/team/app@{image.digest}")


def test_a_referrer_is_shown_where_it_points_to(filled):
    _, client = filled
    page = page_of(client, "/team/app:v1")
    assert "Referrers" in page.text("h2")
    assert shown(HOSTILE) in page.words


@pytest.mark.parametrize(
    "target",
    ["/bad:v1", "/bad", "/team/app:all", "/team/app:sig", "/team/app:v1"],
)
def test_what_a_push_brings_is_text_and_nothing_else(filled, target):
    """Names, types, annotations and platforms; what controls a screen is replaced."""
    page = page_of(filled[1], target)
    for control in ("\x00", "\x1b", "\u202e", "\u2028"):
        assert control not in page.words
    assert all(len(text) <= LONGEST + 10 for _, text in page.texts if _ != "style")


@pytest.mark.parametrize(
    "target",
    [
        "/?q=" + "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E%00%E2%80%AE",
        "/team/app?q=%22%20onfocus%3Dalert(1)%20autofocus%20x%3D%22",
        "/?last=%3Cscript%3E&q=%3Cscript%3E",
    ],
)
def test_what_is_searched_for_is_text(filled, target):
    page = page_of(filled[1], target)
    (field,) = page.all("input")
    assert set(field) == {"id", "name", "type", "value"}
    assert "no " in " ".join(page.text("p")) and "in its name" in page.words


@pytest.mark.parametrize(
    "target",
    [
        *("/%3Cscript%3Ealert(1)%3C/script%3E", "/none", "/team/app:none", "/UPPER"),
        *("/team/app@sha256:1", f"/team/app@{digest_of(b'')}", "/../etc/passwd"),
        *("/team/app:%22%3E%3Cscript%3E", "//evil.example/", "/a%00b", "/%0d%0aX:1"),
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(filled, target):
    answer = filled[1]("GET", target, **HTML)
    assert answer.status in (400, 404)
    judge(Page(answer.body.decode()))
    assert "X" not in answer.headers


def test_a_foreign_host_is_in_no_command(filled):
    """Only what can be the name of a registry is."""
    server, client = filled
    page = page_of(client, "/team/app:v1", Host="127.0.0.1:5000")
    assert "docker pull 127.0.0.1:5000/team/app:v1" in page.text("code")
    for host in ("x;rm -rf ~", "$(id)", "`id`", "a b"):
        page = page_of(client, "/team/app:v1", Host=host)
        assert f"docker pull {server.host}/team/app:v1" in page.text("code")


def test_many_repositories_and_tags_come_in_pages(tmp_path):
    names = {f"team/r{number:03}": {} for number in range(120)}
    image = Image(1)
    manifest = {f"t{number:03}": Digest(image.digest) for number in range(120)}
    source = ReadOnlySource({**names, "full": manifest}, {}, {})
    with serving(tmp_path, sources=[source], read_only=True) as (_, client):
        for target, count in (("/", 121), ("/full", 120), ("/?q=r01", 10)):
            seen, pages = set(), 0
            while target:
                page = page_of(client, target)
                links = [anchor["href"] for anchor in page.all("a")]
                seen |= {one for one in links if re.match("/(team|full)", one)}
                following = [one for one in links if "last=" in one]
                target = following[0] if following else None
                seen -= set(following)
                pages += 1
            assert (len(seen), pages) == (count, (count + 49) // 50)


def test_pages_are_for_who_asks_for_them(filled):
    """An endpoint stays an endpoint, and a client that wants no HTML gets none."""
    _, client = filled
    for target in ("/v2/", "/v2/_catalog", "/v2/team/app/tags/list", "/metrics"):
        answer = client("GET", target, **HTML)
        assert "html" not in answer.headers["Content-Type"]
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        assert client("GET", "/", **headers).code == "NAME_UNKNOWN"
    assert client("POST", "/", b"", **HTML).code == "NAME_UNKNOWN"
    head = client("HEAD", "/team/app", **HTML)
    assert (head.status, head.body) == (200, b"")


def test_pages_are_behind_the_same_password_and_rules_for_browsers(tmp_path):
    users = write_users(tmp_path / "users", {"alice": "secret"})
    with serving(tmp_path / "registry", users=users) as (_, client):
        answer = client("GET", "/", **HTML)
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
        foreign = {"Host": "evil.example", "Sec_Fetch_Mode": "navigate"}
        assert client("GET", "/", **HTML, **foreign).status == 403


def test_pages_can_be_switched_off(tmp_path):
    with serving(tmp_path, page=False) as (_, client):
        assert client("GET", "/", **HTML).code == "NAME_UNKNOWN"


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_have_contrast_in_both_modes():
    """WCAG 2.1, 1.4.3: at least 4.5 to 1 for text."""
    modes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    ]
    assert len(modes) == 2
    for colours in modes:
        for front in ("text", "soft", "link"):
            for back in ("back", "panel"):
                pair = sorted(luminance(colours[one]) for one in (front, back))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (front, back)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5120.0 GiB")],
)
def test_sizes_are_readable(size, text):
    assert size_text(size) == text
