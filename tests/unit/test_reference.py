"""References: distribution's grammar, Docker's names, errors that name the part."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dockerpush.errors import InvalidReference, PusherError
from dockerpush.oci import Digest
from dockerpush.reference import Place, Reference, split_scheme

SHA256 = "sha256:" + "f" * 64
SHA512 = "sha512:" + "0" * 128
HEX = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a"

GOOD = {
    # Docker Hub's short names
    "ubuntu": ("docker.io", "library/ubuntu", None, None),
    "ubuntu:22.04": ("docker.io", "library/ubuntu", "22.04", None),
    "library/ubuntu": ("docker.io", "library/ubuntu", None, None),
    "docker.io/ubuntu": ("docker.io", "library/ubuntu", None, None),
    "docker.io/ubuntu:1": ("docker.io", "library/ubuntu", "1", None),
    "docker.io/library/ubuntu": ("docker.io", "library/ubuntu", None, None),
    "index.docker.io/ubuntu": ("docker.io", "library/ubuntu", None, None),
    "index.docker.io/alice/app": ("docker.io", "alice/app", None, None),
    "alice/app": ("docker.io", "alice/app", None, None),
    "store/foo/bar": ("docker.io", "store/foo/bar", None, None),
    "library/foo/bar": ("docker.io", "library/foo/bar", None, None),
    "d/docker": ("docker.io", "d/docker", None, None),
    f"docker.io/{HEX}": ("docker.io", f"library/{HEX}", None, None),
    HEX[:63]: ("docker.io", f"library/{HEX[:63]}", None, None),
    # without a slash nothing is a registry
    "test.com:tag": ("docker.io", "library/test.com", "tag", None),
    "test.com:5000": ("docker.io", "library/test.com", "5000", None),
    "localhost:8080": ("docker.io", "library/localhost", "8080", None),
    "192.168.0.1": ("docker.io", "library/192.168.0.1", None, None),
    "foo_bar.com:8080": ("docker.io", "library/foo_bar.com", "8080", None),
    # what makes the first part a registry
    "test.com/repo:tag": ("test.com", "repo", "tag", None),
    "test:5000/repo": ("test:5000", "repo", None, None),
    "localhost/x:3": ("localhost", "x", "3", None),
    "localhost:5000/x": ("localhost:5000", "x", None, None),
    "localhosts/x": ("docker.io", "localhosts/x", None, None),
    "Docker/docker": ("Docker", "docker", None, None),
    "Asdf.com/foo/bar": ("Asdf.com", "foo/bar", None, None),
    "test_com/foo": ("docker.io", "test_com/foo", None, None),
    "foo/foo_bar.com:8080": ("docker.io", "foo/foo_bar.com", "8080", None),
    "sub-dom1.foo.com/a/b/c": ("sub-dom1.foo.com", "a/b/c", None, None),
    "xn--n3h.com/i:xn--n3h.com": ("xn--n3h.com", "i", "xn--n3h.com", None),
    "b.gcr.io/t.example.com/my-app": ("b.gcr.io", "t.example.com/my-app", None, None),
    "a.b:1/c": ("a.b:1", "c", None, None),
    "a.b:65535/c": ("a.b:65535", "c", None, None),
    # addresses
    "127.0.0.1:5000/a/b": ("127.0.0.1:5000", "a/b", None, None),
    "192.168.1.1/repo": ("192.168.1.1", "repo", None, None),
    "192.168.1.1:5000/repo:5050": ("192.168.1.1:5000", "repo", "5050", None),
    "[::1]/repo": ("[::1]", "repo", None, None),
    "[::1]:5000/repo:tag": ("[::1]:5000", "repo", "tag", None),
    "[2001:DB8:1:2:3:4:5:6]/r": ("[2001:DB8:1:2:3:4:5:6]", "r", None, None),
    f"[fc00::]:5000/r@{SHA256}": ("[fc00::]:5000", "r", None, SHA256),
    # separators of path components
    "a/b.c": ("docker.io", "a/b.c", None, None),
    "a/b_c": ("docker.io", "a/b_c", None, None),
    "a/b__c": ("docker.io", "a/b__c", None, None),
    "a/b---c": ("docker.io", "a/b---c", None, None),
    "r.io/p--id.m--n.v---s--n": ("r.io", "p--id.m--n.v---s--n", None, None),
    # tags and digests
    "lower:UPPER": ("docker.io", "library/lower", "UPPER", None),
    "a:_": ("docker.io", "library/a", "_", None),
    "a:" + "t" * 128: ("docker.io", "library/a", "t" * 128, None),
    f"a@{SHA256}": ("docker.io", "library/a", None, SHA256),
    f"a:1@{SHA256}": ("docker.io", "library/a", "1", SHA256),
    f"localhost:80@{SHA256}": ("docker.io", "library/localhost", "80", SHA256),
    f"x.com/i:t@{SHA512}": ("x.com", "i", "t", SHA512),
    # limits
    "x.com/" + "a/" * 127 + "a:tag": ("x.com", "a/" * 127 + "a", "tag", None),
    "h" * 63 + ".io/a": ("h" * 63 + ".io", "a", None, None),
}

BAD = {
    "": "empty",
    "/": "registry before the first '/' is missing",
    "/app": "registry before the first '/' is missing",
    ":justtag": "repository is missing",
    f"@{SHA256}": "repository is missing",
    "docker.io/": "repository is missing",
    "r.io/:tag": "repository is missing",
    f"r.io/@{SHA256}": "repository is missing",
    HEX: "image ID",
    "https://github.com/a/b": r"leave out 'https://', write 'github.com/a/b'",
    "HTTP://reg/a": r"leave out 'http://', write 'reg/a', and give --plain-http",
    "htp://reg/a": r"'htp://' is no scheme of a registry; leave it out",
    "http:/reg/a": r"'http:/' is no scheme of a registry; leave it out",
    "ocidir://a": r"'ocidir://' is no scheme of a registry; leave it out",
    "[::1]": "no repository",
    "[::1]:5000": "no repository",
    # repositories
    "docker/Docker": "repository 'docker/Docker' must be lower case",
    "Uppercase:tag": "must be lower case",
    "test:5000/Upper/lower:tag": "repository 'Upper/lower' must be lower case",
    "docker///docker": "empty part",
    "docker/": "empty part",
    "a/b/:1": "empty part",
    "-docker": "part '-docker'",
    "docker-/docker": "part 'docker-'",
    "____/____": "part '____'",
    "a/b___c": "part 'b___c'",
    "a/b..c": "part 'b..c'",
    "a/b_.c": "part 'b_.c'",
    "a/b-.c": "part 'b-.c'",
    "a/.": r"part '\.'",
    "r.io/../../etc/passwd": r"part '\.\.'",
    "aa/asdf$$^/aa": r"part 'asdf\$\$\^'",
    "a b": "part 'a b'",
    "a\n": r"part 'a\\n'",
    "a/ü": "part 'ü'",
    "a/é".upper(): "lower case",
    "a/b?c=d": "part",
    "x.com/" + "a/" * 128 + "a": "257 characters, at most 255",
    # registries
    "foo_bar.com:8080/app": "host 'foo_bar.com'",
    "-docker.io/a/b": "host '-docker.io'",
    "docker./docker": r"host 'docker\.'",
    ".docker/docker": r"host '\.docker'",
    "do..cker/docker": r"host 'do\.\.cker'",
    "user:pw@reg.io/app": "'pw'|after '@'",
    "ü.de/app": "host 'ü.de'",
    "h" * 64 + ".io/a": "too long",
    "h." * 127 + "io/a": "too long",
    "localhost:http/bar": "port 'http'",
    "localhost:/bar": "port ''",
    "a.b:0/c": "port '0'",
    "a.b:65536/c": "port '65536'",
    "a.b:٣/c": "port",
    "fc00::1:5000/debian": "brackets",
    "[fe80::1%eth0]:5000/a": "not an IPv6 address",
    "[::192.0.2.33]:5000/a": "not an IPv6 address",
    "[fd00123123123]:5000/a": "not an IPv6 address",
    "[]:5000/a": "not an IPv6 address",
    "[::1/a": "not an IPv6 address",
    "[::1]5000/a": "wanted ':' after ']'",
    "[::1]::5000/a": "port ':5000'",
    # tags
    "a:": "tag after ':' is missing",
    f"a:@{SHA256}": "tag after ':' is missing",
    "a:-t": "tag '-t'",
    "a:.t": r"tag '\.t'",
    "a:invalid~tag": "tag 'invalid~tag'",
    "a:b:c": "tag 'b:c'",
    "a:t ": "tag 't '",
    "a:" + "t" * 129: "tag has 129 characters, at most 128",
    # digests
    "a@": "after '@'",
    "a@bad": "after '@'",
    "a@sha256:" + "f" * 34: "after '@'",
    "a@sha256:" + "F" * 64: "after '@'",
    "a@md5:" + "f" * 32: "after '@'",
    f"a@{SHA256}@{SHA256}": "after '@'",
    f"a@{SHA256}:tag": "after '@'",
    f"a@{SHA256}\n": "after '@'",
}


@pytest.mark.parametrize(("text", "parts"), GOOD.items(), ids=range(len(GOOD)))
def test_a_good_reference_is_taken_apart_as_docker_does(text, parts):
    """Registry, repository, tag and digest, and back again through str."""
    reference = Reference.parse(text)
    found = (
        reference.registry,
        reference.repository,
        reference.tag,
        reference.digest,
    )
    assert found == parts
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(("text", "said"), BAD.items(), ids=range(len(BAD)))
def test_a_bad_reference_is_refused_with_the_part_that_is_wrong(text, said):
    """One line, which quotes the text and says which part is wrong."""
    with pytest.raises(InvalidReference, match=said) as caught:
        Reference.parse(text)
    message = str(caught.value)
    assert message.startswith("not an image reference: ")
    assert "\n" not in message and len(message) < 500
    assert isinstance(caught.value, PusherError) and isinstance(
        caught.value, ValueError
    )


def test_another_tag_or_digest_replaces_that_part_alone():
    reference = Reference.parse(f"reg.io/a/b:1@{SHA256}")
    assert str(reference.with_tag("2")) == f"reg.io/a/b:2@{SHA256}"
    assert str(reference.with_tag(None)) == f"reg.io/a/b@{SHA256}"
    assert str(reference.with_digest(Digest(SHA512))) == f"reg.io/a/b:1@{SHA512}"
    assert str(reference.with_digest(None)) == "reg.io/a/b:1"
    assert reference.name == "reg.io/a/b"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("reg.io", "A"), "lower case"),
        (("reg.io", "a", "-t"), "tag"),
        (("re g", "a"), "host"),
        (("reg.io", "../a"), "part"),
    ],
)
def test_a_reference_made_from_bad_parts_is_refused_too(parts, said):
    """No way around the checks: what is a Reference is safe in a URL."""
    with pytest.raises(InvalidReference, match=said):
        Reference(*parts)


def test_an_endless_text_is_not_quoted_to_its_end():
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("A" * 100_000 + "\x1b[31m")
    assert len(str(caught.value)) < 500
    assert "\x1b" not in str(caught.value)


LABELS = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
ADDRESSES = st.ip_addresses(v=6).map("[{}]".format).filter(lambda text: "." not in text)
PORTS = st.just("") | st.integers(1, 65535).map(":{}".format)
REGISTRIES = st.builds("{}{}".format, HOSTS | ADDRESSES | st.just("localhost"), PORTS)
COMPONENTS = st.from_regex(
    r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,3}", fullmatch=True
)
REPOSITORIES = st.lists(COMPONENTS, min_size=1, max_size=5).map("/".join)
TAGS = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
DIGESTS = st.none() | st.binary(min_size=1).map(Digest.of)


@given(REGISTRIES, REPOSITORIES, TAGS, DIGESTS)
def test_every_reference_survives_being_written_and_parsed(
    registry, repository, tag, digest
):
    reference = Reference(registry, repository, tag, digest)
    assert Reference.parse(str(reference)) == reference


ALPHABET = st.sampled_from("aZ0.-_/:@[]%~ \n" + "é")


@given(st.text() | st.text(ALPHABET, max_size=40))
@example("a" * 64)
@example("[" * 50 + "/a")
def test_any_text_is_a_reference_that_round_trips_or_is_refused_in_one_line(text):
    try:
        reference = Reference.parse(text)
    except InvalidReference as error:
        assert "\n" not in str(error)
    else:
        assert Reference.parse(str(reference)) == reference
        assert str(reference).isascii()


@pytest.mark.parametrize(
    ("text", "registry", "prefix"),
    [
        ("reg.io", "reg.io", ""),
        ("reg.io/", "reg.io", ""),
        ("reg.io/team", "reg.io", "team"),
        ("reg.io:5000/team/sub/", "reg.io:5000", "team/sub"),
        ("registry/team", "registry", "team"),
        ("[::1]:5000", "[::1]:5000", ""),
        ("index.docker.io/alice", "docker.io", "alice"),
    ],
)
def test_a_place_is_a_host_and_a_prefix(text, registry, prefix):
    """What comes first is the host, also when it holds no dot."""
    place = Place.parse(text)
    assert (place.registry, place.prefix) == (registry, prefix)
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "missing"),
        ("/team", "missing"),
        ("https://reg.io", "leave out 'https://', write 'reg.io'"),
        ("reg.io/Team", "lower case"),
        ("reg.io/team:1", "part 'team:1'"),
        ("reg.io//team", "empty part"),
        ("reg_io/team", "host 'reg_io'"),
        ("reg.io:x", "port 'x'"),
        ("alice:secret@reg.io", "port|host"),
    ],
)
def test_a_bad_place_is_refused_with_the_part_that_is_wrong(text, said):
    with pytest.raises(InvalidReference, match=said) as caught:
        Place.parse(text)
    assert str(caught.value).startswith("not a registry (HOST[:PORT][/PREFIX]): ")


def test_a_place_makes_references_below_it():
    assert str(Place("reg", "team").reference("app", "1")) == "reg/team/app:1"
    assert str(Place("reg").reference("foo/bar")) == "reg/foo/bar"
    assert str(Place("docker.io").reference("app")) == "docker.io/library/app"
    assert str(Place("docker.io", "alice").reference("app")) == "docker.io/alice/app"
    with pytest.raises(InvalidReference, match="257 characters"):
        Place("reg", "a/" * 127 + "a").reference("a")


def test_the_place_of_a_reference_is_all_before_its_last_part():
    assert Place.of(Reference.parse("reg.io/team/app:1")) == Place("reg.io", "team")
    assert Place.of(Reference.parse("reg.io/app:1")) == Place("reg.io")


def test_a_scheme_is_split_off():
    assert split_scheme("http://reg.io/a") == ("http", "reg.io/a")
    assert split_scheme("HTTPS://reg.io") == ("https", "reg.io")
    assert split_scheme("reg.io/http") == (None, "reg.io/http")
