"""Lists of images in YAML: skopeo's as people have them, and ours; what is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.errors import NotFound, UsageError
from dockerpush.oci import Platform
from dockerpush.reference import Place
from dockerpush.sync import list_yaml
from dockerpush.sync.list_document import is_document, parse_document
from dockerpush.sync.list_yaml import DEPTH_LIMIT, as_boolean, is_null, parse_yaml
from dockerpush.sync.lists import Defaults, OnExists, SyncList, SyncListError

yaml = pytest.importorskip("yaml")

TO = Defaults(Place("m.test", "mirror"))

SKOPEO = """\
# What skopeo-sync(1) shows, without credentials
registry.example.com:
    images:
        busybox: []
        redis:
            - "1.0"
            - "2.0"
            - sha256:{digest}
    images-by-tag-regex:
        nginx: ^1\\.13\\.[12]-alpine-perl$
    images-by-semver:
        alpine: ">= 3.12.0"
    tls-verify: false
    cert-dir: /home/john/certs
"registry:5000":
    tls-verify: true
    images:
        alpine:
            - latest
""".format(digest="1" * 64)


@pytest.fixture(params=["libyaml", "Python"], autouse=True, scope="module")
def parser(request):
    """The two parsers of PyYAML."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "Python":
            patch.delattr(yaml, "CBaseLoader", raising=False)
        elif not hasattr(yaml, "CBaseLoader"):
            pytest.skip("this PyYAML has no libyaml")
        yield


def parsed(text: str, name: str = "list.yaml") -> SyncList:
    assert is_document(text, name)
    return parse_document(text, name, TO, {"HOST": "r.test:5000"})


def sources(text: str) -> list[str]:
    return [str(entry.source) for entry in parsed(text).entries]


def mistakes(text: str) -> list[tuple[int, str]]:
    with pytest.raises(SyncListError) as caught:
        parsed(text)
    return [(problem.line, problem.text) for problem in caught.value.problems]


def mistake(text: str) -> tuple[int, str]:
    (only,) = mistakes(text)
    return only


class TestSkopeosLists:
    def test_the_whole_of_it(self):
        found = parsed(SKOPEO)
        assert [(entry.line, str(entry.source)) for entry in found.entries] == [
            (4, "registry.example.com/busybox"),
            (6, "registry.example.com/redis:1.0"),
            (7, "registry.example.com/redis:2.0"),
            (8, "registry.example.com/redis@sha256:" + "1" * 64),
            (10, "registry.example.com/nginx"),
            (12, "registry.example.com/alpine"),
            (19, "registry:5000/alpine:latest"),
        ]
        tags = ["1.13.1-alpine-perl", "1.13.1", "3.12.0", "3.9", "x"]
        busybox, _, _, _, nginx, alpine, _ = (entry.tags for entry in found.entries)
        assert busybox.choose(tags) == tags
        assert nginx.choose(tags) == ["1.13.1-alpine-perl"]
        assert alpine.choose(tags) == ["3.12.0"]
        first, second = found.hosts.values()
        assert first["tls_verify"] is False
        assert str(first["cert_dir"]) == "/home/john/certs"
        assert second["tls_verify"] is True

    def test_it_is_known_by_its_content_too(self):
        assert len(parsed(SKOPEO, "standard input").entries) == 7

    @pytest.mark.parametrize(
        "tag",
        [
            *["1.10", "10", "2024-01-01", "010", "0x10", "1_000", "1e3", "1.0e10"],
            *["yes", "no", "on", "true", "y", "2001-12-14t21_59", "nan", "1_2"],
        ],
    )
    def test_a_tag_stays_the_text_that_it_is(self, tag):
        text = "a.test:\n  images:\n    x:\n      - {}\n      - '{}-q'\n"
        assert sources(text.format(tag, tag)) == [
            f"a.test/x:{tag}",
            f"a.test/x:{tag}-q",
        ]

    @pytest.mark.parametrize("nothing", ["", " []", " ~", " null"])
    def test_no_tags_are_all_tags(self, nothing):
        (entry,) = parsed(f"a.test:\n  images:\n    x:{nothing}\n").entries
        assert entry.tags is not None and entry.tags.choose(["1", "2"]) == ["1", "2"]

    @pytest.mark.parametrize(
        ("word", "verified"),
        [
            ("false", False),
            ("no", False),
            ("Off", False),
            ("true", True),
            ("YES", True),
        ],
    )
    def test_booleans(self, word, verified):
        found = parsed(f"a.test:\n  images: {{x: [1]}}\n  tls-verify: {word}\n")
        assert found.hosts["a.test"]["tls_verify"] is verified

    @pytest.mark.parametrize("word", ["'false'", "0", "", "maybe", "[]"])
    def test_what_is_no_boolean(self, word):
        text = f"a.test:\n  images: {{x: [1]}}\n  tls-verify: {word}\n"
        assert mistake(text) == (3, "a.test.tls-verify: wanted true or false")

    def test_credentials_are_refused_and_not_repeated(self):
        text = (
            "a.test:\n  images: {x: [1]}\n  credentials: {username: u, password: hush}"
        )
        line, told = mistake(text)
        assert line == 3
        assert "dockerpush login a.test" in told and "hush" not in told

    def test_a_version_without_quotes_is_a_text(self):
        (entry,) = parsed("a.test:\n  images-by-semver:\n    x: 1.10\n").entries
        assert entry.tags.choose(["1.1.0", "1.10.0", "1.10.3"]) == ["1.10.0", "1.10.3"]

    def test_an_alias_stands_for_what_it_names(self):
        text = (
            "a.test:\n  images: &same\n    x: [&one 1, 2]\n"
            "b.test:\n  images: *same\n"
            "c.test:\n  images: {z: [*one]}\n"
        )
        defaults = Defaults(Place("m.test"), scoped=True)
        found = parse_document(text, "list.yaml", defaults, {}).entries
        assert [(entry.line, str(entry.source)) for entry in found] == [
            *[(3, "a.test/x:1"), (3, "a.test/x:2")],
            *[(5, "b.test/x:1"), (5, "b.test/x:2")],
            (7, "c.test/z:1"),
        ]


class TestOurForm:
    def test_the_whole_of_it(self):
        found = parsed("""\
version: 1
hosts:
  ${HOST}: {tls: disabled}
defaults:
  parallel: 4
  platforms: [linux/amd64]
  referrers: on
  onExists: skip
sync:
- source: a.test/x:1
  target: ${HOST}/x
- source: a.test/y
  target:
  tags:
    allow: [3, '4\\.\\d']
    newest: 5
  platforms: []
""")
        first, second = found.entries
        assert (first.line, second.line) == (10, 12)
        assert found.parallel == 4
        assert found.hosts == {"r.test:5000": {"plain_http": True}}
        assert str(first.target) == "r.test:5000/x:1"
        assert first.platforms == (Platform("linux", "amd64"),)
        assert first.referrers and first.on_exists is OnExists.SKIP
        assert str(second.target) == "m.test/mirror/y"
        assert second.tags.newest == 5 and second.platforms == ()
        assert second.tags.choose(["3", "4.1", "4"]) == ["3", "4.1"]

    def test_every_mistake_has_its_line(self):
        found = mistakes("""\
version: 2
sync:
- source: a.test/x:1
  tags:
    allow: ['(']
    newest: 0
- source: a.test/UP
- source: a.test/y
  onExists: maybe
  targt: b.test/y
-
- 7
- source: a.test/z
  tags:
    newest: "3"
    deny: [~]
""")
        assert [line for line, _ in found] == [1, 3, 5, 6, 7, 9, 10, 11, 12, 15, 16]

    def test_json_is_json_whatever_it_is_called(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "yaml", None)
        assert sources('{"sync": [{"source": "a.test/x:1"}]}') == ["a.test/x:1"]

    def test_json_that_is_broken_is_not_taken_for_yaml(self, monkeypatch):
        """Though YAML could read it."""
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(SyncListError, match=r"line 2: .*not JSON"):
            parsed('{"sync":\n[{"source": "a.test/x:1"},]}', "list.json")

    def test_yaml_may_begin_like_json(self):
        assert sources("{sync: [{source: a.test/x:1}]}") == ["a.test/x:1"]


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("text", "line", "words"),
        [
            ("a.test:\n  images: {x: [1]}\na.test:\n  images: {y: [2]}", 3, "twice"),
            ("a.test:\n  images:\n    x: [1]\n    'x': [2]", 4, "x: this key is there"),
            ("a.test: &a\n  images: *a", 2, "*a stands for nothing"),
            ("a.test:\n  images: *b", 2, "*b stands for nothing"),
            ("a.test:\n  <<: {images: {x: [1]}}", 2, "<< is not understood"),
            ("a.test:\n  images: {[x]: [1]}", 2, "a key must be a text"),
            ("sync:\n- source: a.test/x\n---\nsync: []", 3, "a second document"),
            ("sync:\n- !!python/object:os.system x", 2, "tag:yaml.org,2002:python"),
            ("sync:\n- !mine {}", 2, "the tag !mine"),
            ("sync: !!binary aGk=", 1, "2002:binary"),
            ("sync:\n\t- x", 2, "not YAML"),
            ("sync: ]", 1, "not YAML"),
            ("sync: [{source: \x01}]", 1, "not YAML"),
            ("a.test/x:1", 1, "another ending"),
            ("- a.test/x:1", 1, "wanted an object"),
            (f"sync: {'[' * DEPTH_LIMIT}", 1, "within each other"),
            ("a:\n" + "- x\n" * 2_000, 1_999, "more than 2000 values"),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_it_is_a_mistake_with_a_line(self, text, line, words, monkeypatch):
        monkeypatch.setattr(list_yaml, "VALUE_LIMIT", 2_000)
        found = mistake(text)
        assert found[0] == line and words in found[1]
        assert "\n" not in found[1]

    @pytest.mark.parametrize("text", ["", "# nothing", "sync:", "sync: []"])
    def test_a_list_without_images_is_not_found(self, text):
        with pytest.raises(NotFound, match="no images in it"):
            parsed(text)

    def test_few_lines_cannot_mean_millions(self):
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        for number in range(1, 30):
            aliases = ", ".join([f"*a{number - 1}"] * 10)
            lines.append(f"a{number}: &a{number} [{aliases}]")
        assert mistake("\n".join(lines)) == (5, "more than 120000 values")

    def test_yaml_without_pyyaml_is_refused_in_one_line(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(UsageError) as caught:
            parsed(SKOPEO)
        assert str(caught.value) == (
            "list.yaml is YAML, which needs PyYAML: pip install 'dockerpush[yaml]', or "
            "write the list as JSON or as lines SRC [DST]"
        )


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "alpine",
            "a.test/x:1 b.test/y",
            "# a: b\n\n a.test/x:1",
            "a.test:5000/x",
        ],
        *["docker://a.test/x:1", "http://a.test/x", "a.test/x\nb.test:"],
    ],
)
def test_lines_stay_lines(text):
    assert not is_document(text, "images.txt")


@pytest.mark.parametrize(
    "text",
    [
        *["sync:", "sync: []", "---", "--- # a list\nsync:", "%YAML 1.1\n---\nsync:"],
        *["# why\n\n  a.test:\n    images: {}", '"a.test:5000":\n', "{", "[]"],
    ],
)
def test_documents_are_known_by_their_first_line(text):
    assert is_document(text, "standard input")


def plain(value: Any) -> Any:
    """*value* as JSON would have it, where the schema may say so."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if is_null(value):
        return None
    return value if as_boolean(value) is None else as_boolean(value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), VALUES))
def test_what_pyyaml_writes_is_read_again(value):
    text = yaml.safe_dump(value)
    assert plain(parse_yaml(text, "list").value) == value


@given(st.text("a:-[]{}&*!|>'\"#%@, \n\t~x<", max_size=60))
def test_whatever_is_in_it_there_is_a_list_or_a_list_of_mistakes(text):
    try:
        assert parse_document(text, "list.yaml", TO, {}).entries
    except SyncListError as error:
        assert all(problem.line >= 1 for problem in error.problems)
    except NotFound as error:
        assert "no images" in str(error)
