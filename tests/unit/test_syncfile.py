"""Lists of images: what they mean, and every mistake with its line."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.errors import InvalidJSON, NotFound, UsageError
from dockerpush.oci import Platform
from dockerpush.reference import Place, Reference
from dockerpush.sync.list_document import is_document, located, parse_document
from dockerpush.sync.lists import (
    Defaults,
    OnExists,
    Shard,
    Since,
    SyncEntry,
    SyncListError,
    TagRules,
    parse_lines,
    parse_range,
    version_key,
)
from dockerpush.transfer.creation import parse_moment

TO = Defaults(Place("m.test", "mirror"))


def lines(text: str, defaults: Defaults = TO):
    return parse_lines(text, "list", defaults).entries


def document(value, defaults: Defaults = TO, environ=None):
    text = value if isinstance(value, str) else json.dumps(value)
    return parse_document(text, "list", defaults, environ or {})


def mistakes(value, **options) -> list[tuple[int, str]]:
    with pytest.raises(SyncListError) as caught:
        document(value, **options)
    return [(problem.line, problem.text) for problem in caught.value.problems]


class TestLines:
    @pytest.mark.parametrize(
        ("line", "source", "target"),
        [
            (
                "alpine",
                "docker.io/library/alpine:latest",
                "m.test/mirror/alpine:latest",
            ),
            ("a.test/x/y:1", "a.test/x/y:1", "m.test/mirror/y:1"),
            ("a.test/y:1 b.test/z", "a.test/y:1", "b.test/z:1"),
            ("a.test/y:1 b.test/z:2", "a.test/y:1", "b.test/z:2"),
            ("docker://a.test/y:1\tdocker://b.test/z", "a.test/y:1", "b.test/z:1"),
            ("  a.test/y:1  # why", "a.test/y:1", "m.test/mirror/y:1"),
        ],
    )
    def test_they_say_from_where_to_where(self, line, source, target):
        (entry,) = lines(line)
        assert (str(entry.source), str(entry.target)) == (source, target)

    def test_a_digest_stays_one(self):
        name = "a.test/y@sha256:" + "0" * 64
        (entry,) = lines(name)
        assert str(entry.target) == "m.test/mirror/y@sha256:" + "0" * 64

    def test_scoped_names_keep_their_registry(self):
        defaults = Defaults(Place("m.test"), scoped=True)
        (entry,) = lines("a.test:5000/x/y:1", defaults)
        assert str(entry.target) == "m.test/a.test-5000/x/y:1"

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("a.test/A:1", "A:1"),
            ("a.test/y a b", "3 words"),
            ("a.test/y:1 ./dir", "dockerpush sync FILE oci:DIR"),
            ("a.test/y:1 a.test/y:1", "its own target"),
            ("a.test/y:1\na.test/z/y:1", "the same target as line 1"),
        ],
    )
    def test_mistakes_are_explained(self, text, problem):
        with pytest.raises(SyncListError, match=re.escape(problem)):
            lines(text)

    @pytest.mark.parametrize("text", ["", "# nothing", "\n \n"])
    def test_a_list_without_images_is_not_found(self, text):
        with pytest.raises(NotFound, match="no images in it"):
            lines(text)

    def test_without_a_place_every_line_needs_a_target(self):
        with pytest.raises(SyncListError, match="no target"):
            lines("a.test/y:1", Defaults())

    @given(st.text(max_size=200))
    def test_whatever_is_in_it_there_is_a_list_or_a_list_of_mistakes(self, text):
        try:
            assert lines(text)
        except SyncListError as error:
            assert all(problem.line >= 1 for problem in error.problems)
        except NotFound:
            assert not text.strip() or "#" in text


class TestDocuments:
    def test_the_whole_of_it(self):
        found = document(
            {
                "version": 1,
                "hosts": {"${HOST}": {"tls": "disabled"}},
                "defaults": {
                    "parallel": 4,
                    "platforms": ["linux/amd64"],
                    "referrers": True,
                    "onExists": "skip",
                },
                "sync": [
                    {"source": "a.test/x:1", "target": "${HOST}/x"},
                    {
                        "source": "a.test/y",
                        "tags": {"allow": ["3"], "newest": 5},
                        "platforms": [],
                        "onExists": "error",
                    },
                ],
            },
            environ={"HOST": "r.test:5000"},
        )
        first, second = found.entries
        assert found.parallel == 4
        assert found.hosts == {"r.test:5000": {"plain_http": True}}
        assert str(first.target) == "r.test:5000/x:1"
        assert first.platforms == (Platform("linux", "amd64"),)
        assert first.referrers and first.on_exists is OnExists.SKIP
        assert str(second.target) == "m.test/mirror/y"
        assert second.tags is not None and second.tags.newest == 5
        assert second.platforms == () and second.on_exists is OnExists.ERROR

    def test_every_mistake_has_its_line(self):
        text = """{"version": 1,
          "sync": [
            {"source": "a.test/x:1",
             "tags": {"allow": ["("], "newest": 0}},
            {"source": "a.test/UP"},
            {"source": "a.test/y", "onExists": "maybe", "targt": "b.test/y"},
            {"source": "a.test/z:1", "target": "${NOWHERE}/z"},
            7
          ]}"""
        found = mistakes(text)
        assert [line for line, _ in found] == [3, 4, 4, 5, 6, 6, 7, 7, 8]
        told = " ".join(text for _, text in found)
        for word in (
            *("a tag and rules for tags", "regular expression", "above 0", "UP"),
            *("compare, skip, error", "unknown key", "${NOWHERE} needs --env"),
        ):
            assert word in told

    @pytest.mark.parametrize(
        ("environ", "told"),
        [
            ({}, "sync[0]: ${HOST} needs --env HOST on the command line"),
            ({"HOST": ""}, "sync[0]: ${HOST} is not set"),
        ],
    )
    def test_a_variable_must_be_allowed_and_set(self, environ, told):
        value = {"sync": [{"source": "a.test/x:1", "target": "${HOST}/x"}]}
        assert mistakes(value, environ=environ)[0][1] == told

    @pytest.mark.parametrize(
        "value",
        ["{", "[]", '{"version": 2, "sync": []}', '{"sync": {}}', "[" * 5000],
    )
    def test_what_is_no_list_is_a_mistake(self, value):
        assert is_document(value, "list")
        assert mistakes(value)

    def test_a_list_that_is_broken_says_where(self):
        assert mistakes('{"sync":\n[1,\n}')[0][0] == 3

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        (
                            *("sync", "source", "target", "tags", "allow", "newest"),
                            *("hosts", "defaults", "platforms", "images", "a.test"),
                            *(
                                "tls-verify",
                                "images-by-semver",
                                "onExists",
                                "referrers",
                            ),
                        )
                    ),
                    inner,
                    max_size=3,
                )
            ),
            max_leaves=12,
        )
    )
    def test_whatever_shape_it_has_nothing_breaks(self, value):
        try:
            assert document({"sync": value} if isinstance(value, list) else value)
        except SyncListError as error:
            assert error.problems
        except NotFound as error:
            assert "no images" in str(error)

    @given(
        st.recursive(
            st.none() | st.integers() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
        )
    )
    def test_every_value_has_a_line(self, value):
        text = json.dumps(value, indent=1)
        found = located(value, text).lines
        rows = text.split("\n")
        for path, line in found.items():
            if path and isinstance(path[-1], str):
                assert json.dumps(path[-1]) in rows[line - 1]


class TestSkopeosForm:
    def test_the_whole_of_it(self):
        digest = "sha256:" + "1" * 64
        found = document(
            {
                "a.test:5000": {
                    "images": {"all": [], "some": ["1.0", digest]},
                    "images-by-tag-regex": {"nginx": r"^1\.13\.[12]$"},
                    "images-by-semver": {"alpine": ">= 3.12.0"},
                    "tls-verify": False,
                    "cert-dir": "/certs",
                }
            }
        )
        names = [str(entry.source) for entry in found.entries]
        assert names == [
            "a.test:5000/all",
            "a.test:5000/some:1.0",
            f"a.test:5000/some@{digest}",
            "a.test:5000/nginx",
            "a.test:5000/alpine",
        ]
        tags = ["1.13.1", "1.13.10", "3.12.0", "3.9", "x"]
        everything, _, _, nginx, alpine = (entry.tags for entry in found.entries)
        assert everything.choose(tags) == tags
        assert nginx.choose(tags) == ["1.13.1"]
        assert alpine.choose(tags) == ["3.12.0"]
        (settings,) = found.hosts.values()
        assert settings["tls_verify"] is False and str(settings["cert_dir"]) == "/certs"

    def test_a_pattern_matches_anywhere_as_in_skopeo(self):
        found = document({"a.test": {"images-by-tag-regex": {"x": "rc"}}})
        assert found.entries[0].tags.choose(["1-rc1", "1"]) == ["1-rc1"]

    def test_credentials_are_refused_and_not_repeated(self):
        value = {
            "a.test": {
                "images": {"x": []},
                "credentials": {"username": "u", "password": "hush"},
            }
        }
        ((_, text),) = mistakes(value)
        assert "dockerpush login a.test" in text and "hush" not in text


class TestNothingIsLostInSilence:
    """What JSON itself, or a lenient reading, would drop or alter without a word."""

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (
                '{"sync": [{"source": "a.test/x:1"}],\n"sync": [{"source": "a.test"}]}',
                (2, "sync: this key is there twice"),
            ),
            (
                '{"a.test": {"images": {"x": ["1"],\n\n"x": ["2"]}}}',
                (3, "a.test.images.x: this key is there twice"),
            ),
            (
                '{"a.test": {"images-by-semver": {"x": 1.10}}}',
                (1, "a.test.images-by-semver.x: wanted a text"),
            ),
            (
                '{"a.test": {"images-by-tag-regex": {"x": ["1"]}}}',
                (1, "a.test.images-by-tag-regex.x: wanted a text"),
            ),
            (
                '{"a.test": {"images": {"x": []}, "cert-dir": ["/certs"]}}',
                (1, "a.test.cert-dir: wanted a text"),
            ),
            (
                '{"sync": [{"source": "a.test/x:1"}, {}]}',
                (1, "sync[1]: wanted texts as its source and target"),
            ),
            (
                '{"sync": [{"source": "a.test/x:1"}, null]}',
                (1, "sync[1]: wanted an object, as in {...}"),
            ),
            (
                '{"sync": [{"source": "a.test/x", "tags": null}]}',
                (1, "sync[0].tags: wanted an object, as in {...}"),
            ),
            (
                '{"hosts": {"a.test": {"tls": []}}, "sync": [{"source": "a.test/x"}]}',
                (1, "hosts.a.test.tls: wanted one of enabled, insecure, disabled"),
            ),
        ],
    )
    def test_it_is_a_mistake(self, text, told):
        assert told in mistakes(text)

    def test_null_is_an_empty_list(self):
        found = document({"a.test": {"images": {"x": None}, "images-by-semver": None}})
        assert [entry.tags for entry in found.entries] == [TagRules()]
        one = {"source": "a.test/x:1", "target": None, "platforms": None}
        assert len(document({"hosts": None, "sync": [one]}).entries) == 1


class TestTagRules:
    def test_patterns_match_whole_tags(self):
        rules = TagRules((re.compile(r"\d"),), (re.compile("3"),))
        assert rules.choose(["1", "12", "3", "x1"]) == ["1"]

    def test_the_newest_are_the_highest_in_the_order_of_the_list(self):
        tags = ["1.9", "1.10", "1.10-rc1", "1.2", "0.99"]
        ordered = sorted(tags, key=version_key)
        assert ordered == ["0.99", "1.2", "1.9", "1.10-rc1", "1.10"]
        assert TagRules(newest=3).choose(tags) == ["1.9", "1.10", "1.10-rc1"]

    def test_a_v_before_the_number_means_nothing(self):
        tags = ["v1.9", "1.10", "v1.11-rc1", "V2", "vault", "latest"]
        assert sorted(tags, key=version_key) == [
            *("latest", "vault", "v1.9", "1.10", "v1.11-rc1", "V2")
        ]
        assert TagRules(newest=2).choose(tags) == ["v1.11-rc1", "V2"]

    @given(st.lists(st.text("ab.-_01", max_size=6), unique=True), st.integers(1, 5))
    def test_never_more_than_asked_for(self, tags, newest):
        assert len(TagRules(newest=newest).choose(tags)) == min(newest, len(tags))


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">= 3.12.0", ["3.12.0", "v4"], ["3.11.9", "3.12.0-rc1", "x"]),
        (">1.2, <2", ["1.3", "1.9.9"], ["1.2", "1.2.5", "2.0"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.3.0", "1.2.2"]),
        ("^1.2", ["1.2.0", "1.9"], ["2.0", "1.1"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0"]),
        ("1.2.x || 3", ["1.2.7", "3.1.4"], ["1.3", "4"]),
        ("1.2 - 1.4", ["1.2.0", "1.4.9"], ["1.5"]),
        ("!=1.2.3", ["1.2.4"], ["1.2.3"]),
        ("<=1.2", ["1.2.9", "1.0"], ["1.3"]),
        (">=1.0.0-rc1", ["1.0.0-rc2", "1.0.0"], ["1.0.0-alpha"]),
        ("*", ["0.0.1", "9"], ["9-rc1"]),
        ("1.x", ["1", "1.0", "v1.9.9"], ["2", "0.9", "1.2-rc1", "x1.2"]),
        ("1.2.*", ["1.2", "1.2.3"], ["1.3", "1"]),
        ("~1", ["1.0", "1.9"], ["2.0", "0.9"]),
        ("~1.2", ["1.2", "1.2.9"], ["1.3", "1.1.9"]),
        ("~> 1.2", ["1.2.9"], ["1.3"]),
        ("^1", ["1.9.9"], ["2", "0.9"]),
        ("^0", ["0.0.1", "0.9"], ["1"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4", "0.0.2"]),
        ("^0.0", ["0.0.9"], ["0.1"]),
        (">=1 <2", ["1", "1.9.9", "v1.0.0"], ["2", "0.9", "2.0.0-rc1", "1.0-rc1"]),
        (">=1,<2", ["1.5"], ["2"]),
        (">=v1.2 <v1.4", ["1.2", "v1.3.9"], ["v1.4", "1.1"]),
        (">1", ["2"], ["1", "1.9"]),
        (">1.2.3", ["1.2.4"], ["1.2.3"]),
        ("<1.2", ["1.1.9"], ["1.2", "1.2.1", "1.2.0-rc1"]),
        # one rule that names an early version lets the others of its group take them
        (">=1.0.0-0 <2", ["1.0.0-rc1", "1.5.0-rc.1", "1.9"], ["0.9", "2"]),
        (">=1.2.0-rc.2", ["1.2.0-rc.10", "1.2.0"], ["1.2.0-rc.1", "1.2.0-beta"]),
        (
            "^1.2.3-beta.2",
            ["1.2.3-beta.10", "1.2.3-rc", "1.9"],
            ["1.2.3-beta.1", "2.0"],
        ),
        ("^1.2.3-beta", ["1.2.3-beta.1"], ["2.0.0-beta"]),
        (">=1-0 <2 || >=3", ["1.5-rc1", "3"], ["3.1-rc1", "2"]),
        ("1.2 - 1.4, !=1.3.1", ["1.3.0", "1.4.9"], ["1.3.1", "1.5"]),
        # no semver has these: a variant is taken for an early version, four numbers
        # and other words for none
        (">=1", ["1.2", "20240131"], ["1.2-alpine", "1.2.3.4", "latest", "01.x", ""]),
    ],
)
def test_ranges_of_versions(text, inside, outside):
    contains = parse_range(text)
    assert [tag for tag in (*inside, *outside) if contains(tag)] == inside


@pytest.mark.parametrize(
    "text",
    [
        *("", "x.y.z.w", ">=", "1.2 nonsense", "1.2.3.4", ">=1 || ", "<>1", "1.2-"),
        *("latest", "=>", ">=1 <", "^", "1..2", "~x.y.z.0", ">= >= 1"),
    ],
)
def test_what_is_no_range(text):
    with pytest.raises(InvalidJSON):
        parse_range(text)


MINUTE, HOUR = 60, 3600
NEW_YEAR = 1704067200.0  # 2024-01-01


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-01-01", NEW_YEAR),
        ("2024-01-01T00:00:00Z", NEW_YEAR),
        ("2024-01-01t00:00:00.999999999z", NEW_YEAR),
        ("2024-01-01 01:30:00+01:30", NEW_YEAR),
        ("2023-12-31T20:00:00-04:00", NEW_YEAR),
        ("0001-01-01T00:00:00Z", -62135596800.0),
        ("2024-02-30", None),
        ("2024-01-01T25:00:00Z", None),
        ("2024-01-01T00:00:00+99:00", None),
        ("2024-01-01T00:00:00", None),
        ("2024-1-1", None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_moments(text, moment):
    assert parse_moment(text) == moment


@pytest.mark.parametrize(
    ("text", "earliest"),
    [
        ("30d", NEW_YEAR - 30 * 24 * HOUR),
        ("12H", NEW_YEAR - 12 * HOUR),
        ("2w", NEW_YEAR - 14 * 24 * HOUR),
        ("0d", NEW_YEAR),
        ("2023-12-31", NEW_YEAR - 24 * HOUR),
    ],
)
def test_the_earliest_day_of_creation(text, earliest):
    assert Since.parse(text).earliest(NEW_YEAR) == earliest


@pytest.mark.parametrize("text", ["30", "d", "-3d", "1.5d", "3m", "2024", "999999d"])
def test_what_is_no_day_of_creation(text):
    with pytest.raises(InvalidJSON, match="wanted 30d, 12h or 2026-01-31"):
        Since.parse(text)


class TestRulesOfOurForm:
    def rules(self, **tags) -> TagRules:
        entry = {"source": "a.test/x", "target": "b.test/x", "tags": tags}
        rules = document({"sync": [entry]}).entries[0].tags
        assert rules is not None
        return rules

    @pytest.mark.parametrize(
        ("semver", "chosen"),
        [
            (">=1.2 <2", ["1.2", "v1.9"]),
            (["1.2.x", "^3"], ["1.2", "3.0"]),
            (None, ["1.2", "v1.9", "3.0", "3.1-rc1", "latest"]),
            ([], ["1.2", "v1.9", "3.0", "3.1-rc1", "latest"]),
        ],
    )
    def test_a_range_or_several(self, semver, chosen):
        tags = ["1.2", "v1.9", "3.0", "3.1-rc1", "latest"]
        assert self.rules(semver=semver).choose(tags) == chosen

    def test_all_rules_together(self):
        rules = self.rules(semver=">=1", deny=["2.*"], newest=2, since="30d")
        assert list(rules.matching(["1", "2.1", "3", "4", "x"])) == ["1", "3", "4"]
        assert rules.newest == 2 and rules.since == Since.parse("30d")

    @pytest.mark.parametrize(
        ("tags", "told"),
        [
            ({"semver": ">>1"}, "tags.semver: not a range of versions: '>>1'"),
            ({"semver": [">=1", "x y"]}, "tags.semver: not a range of versions"),
            ({"semver": 1}, "tags.semver[0]: wanted a text"),
            ({"since": "soon"}, "tags.since: wanted 30d, 12h or 2026-01-31"),
            ({"since": 30}, "tags.since: wanted a text"),
            (
                {"sinse": "30d"},
                "unknown key; known: allow, deny, semver, since, newest",
            ),
        ],
    )
    def test_mistakes(self, tags, told):
        entry = {"source": "a.test/x", "target": "b.test/x", "tags": tags}
        found = mistakes({"sync": [entry]})
        assert any(told in text for _, text in found), found


class TestShards:
    @staticmethod
    def entries(count: int) -> list[SyncEntry]:
        source = Reference("a.test", "x", "1")
        return [
            SyncEntry(n, source, Reference("m.test", "x", f"t{n}"))
            for n in range(count)
        ]

    @given(st.integers(1, 12), st.integers(0, 60))
    def test_every_line_is_in_one_of_them(self, count, many):
        shards = [Shard(number, count) for number in range(count)]
        for entry in self.entries(many):
            assert sum(shard.takes(entry) for shard in shards) == 1

    def test_both_ways_of_counting_name_the_same_shares(self):
        entries = self.entries(100)
        first = [entry for entry in entries if Shard(0, 8).takes(entry)]
        assert first == [entry for entry in entries if Shard(8, 8).takes(entry)]

    def test_they_are_even(self):
        entries = self.entries(4000)
        sizes = [sum(Shard(n, 8).takes(e) for e in entries) for n in range(8)]
        assert max(sizes) < 1.2 * min(sizes)

    def test_a_line_stays_where_it_is_when_others_come(self):
        shard = Shard(3, 8)
        few = {e.target for e in self.entries(50) if shard.takes(e)}
        assert few <= {e.target for e in self.entries(100) if shard.takes(e)}

    @pytest.mark.parametrize("text", ["", "3", "9/8", "-1/8", "1/0", "a/b", "1/8/2"])
    def test_nonsense_is_refused(self, text):
        with pytest.raises(UsageError, match="--shard"):
            Shard.parse(text)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("[::1]:5000/app:1 m.test/app:1\n", False),
        ("[2001:db8::7]/app:1\n", False),
        ("\n  [::1]:5000/app:1\n", False),
        ('["a.test/app:1"]', True),
        ('{"sync": []}', True),
        ("[]", True),
    ],
)
def test_a_line_that_begins_with_an_ipv6_address_is_a_line(text, is_one):
    assert is_document(text, "list") is is_one
    if not is_one:
        (entry,) = lines(text)
        assert entry.source.registry.startswith("[")


DIGEST = "sha256:" + 64 * "a"


@pytest.mark.parametrize(
    "entry",
    [
        f"a.test/app:1@{DIGEST}",
        {"sync": [{"source": f"a.test/app:1@{DIGEST}"}]},
        {"a.test": {"images": {"app": [f"1@{DIGEST}"]}}},
    ],
    ids=("line", "document", "skopeo"),
)
def test_a_tag_with_its_digest_is_taken_in_every_form(entry):
    """The digest is read, and the tag is what it is called."""
    text = isinstance(entry, str)
    found = lines(entry) if text else document(entry).entries
    (one,) = found
    assert (one.source.tag, one.source.digest) == ("1", DIGEST)
    assert (one.target.tag, one.target.digest) == ("1", None)
