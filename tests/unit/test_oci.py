"""Digests, descriptors, manifests: good JSON round trips, bad JSON is refused."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dockerpush import oci
from dockerpush.errors import InvalidDigest, InvalidJSON, PusherError
from dockerpush.oci import Descriptor, Digest, ImageConfig, Index, Manifest, Platform
from dockerpush.values import replace

HEX = "0123456789abcdef" * 4
DIGEST = Digest(f"sha256:{HEX}")
CONFIG = Descriptor(oci.OCI_CONFIG, DIGEST, 7)
LAYER = Descriptor(oci.OCI_LAYER_GZIP, DIGEST, 9)


def as_json(value):
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("algorithm", "length"), [("sha256", 64), ("sha384", 96), ("sha512", 128)]
)
def test_a_digest_is_an_algorithm_and_its_hex(algorithm, length):
    digest = Digest(f"{algorithm}:{'ab' * (length // 2)}")
    assert (digest.algorithm, digest.hex) == (algorithm, "ab" * (length // 2))
    assert digest == f"{algorithm}:{digest.hex}"
    assert digest.short == "abababababab"
    assert digest.hasher().name == algorithm


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_the_digest_of_content_is_what_hashlib_says(algorithm):
    hasher = hashlib.new(algorithm, b"content")
    digest = Digest.from_hash(hasher)
    assert digest == f"{algorithm}:{hasher.hexdigest()}"
    again = digest.hasher()
    again.update(b"content")
    assert Digest.from_hash(again) == digest


def test_without_a_choice_the_digest_is_sha256():
    assert Digest.of(b"") == (
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        "sha256:",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"md5:{'0' * 32}",
        f"sha1:{'0' * 40}",
        f"sha512:{HEX}",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"sha256:../../../../{'a' * 52}",
        f"sha256:{'٣' * 64}",
        "sha256:" + "0" * 100_000,
    ],
    ids=range(15),
)
def test_what_is_no_digest_is_refused_in_one_line(text):
    """A Digest is safe in a URL and as a file name, so nothing else passes."""
    with pytest.raises(InvalidDigest, match="not a digest") as caught:
        Digest(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("linux/amd64", ("linux", "amd64", None)),
        ("linux/arm/v7", ("linux", "arm", "v7")),
        ("windows/amd64:10.0.17763.1234", ("windows", "amd64", None)),
        ("linux/arm/v7:5.10", ("linux", "arm", "v7")),
    ],
)
def test_a_platform_is_parsed_and_written(text, parts):
    platform = Platform.parse(text)
    assert (platform.os, platform.architecture, platform.variant) == parts
    assert str(platform) == text
    assert Platform.from_json(platform.to_json()) == platform


def test_the_version_may_stand_behind_the_system():
    found = Platform.parse("windows(10.0.17763)/amd64")
    assert found == Platform.parse("windows/amd64:10.0.17763")
    assert found.os_version == "10.0.17763"


@pytest.mark.parametrize(
    "text",
    [
        *("", "linux", "linux/", "/amd64", "a/b/c/d", "a//c"),
        *("a/b:", "a:1/b", "a()/b", "a(1)/b:1", "a(1/b", "a/b:1:2"),
    ],
)
def test_what_is_no_platform_is_refused(text):
    with pytest.raises(InvalidJSON, match=r"wanted os/arch\[/variant\]"):
        Platform.parse(text)


def test_a_platform_keeps_the_version_of_its_system():
    record = {"os": "windows", "architecture": "amd64", "os.version": "10.0.1"}
    assert Platform.from_json(record).os_version == "10.0.1"
    assert Platform.from_json(record).to_json() == record


def test_features_distinguish_platforms():
    plain = {"os": "windows", "architecture": "amd64"}
    featured = {**plain, "os.features": ["win32k"]}
    assert Platform.from_json(featured) != Platform.from_json(plain)
    assert Platform.from_json(featured).to_json() == featured


JSON = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
UNKNOWN = st.dictionaries(st.text(max_size=12).map("org.example.{}".format), JSON)


@given(UNKNOWN, UNKNOWN, UNKNOWN)
def test_rewriting_keeps_what_is_not_understood(beside, in_platform, in_document):
    platform = {"architecture": "amd64", **in_platform}
    entry = {**FULL_DESCRIPTOR, "data": "aGVsbG8=", **beside, "platform": platform}
    record = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [entry]}
    index = Index.from_bytes(as_json({**record, **in_document}))
    assert json.loads(index.to_bytes()) == {**record, **in_document}
    (child,) = index.manifests
    assert child.to_json() == entry
    moved = replace(child, digest=Digest("sha256:" + "1" * 64), size=3, annotations={})
    wanted = {**entry, "digest": "sha256:" + "1" * 64, "size": 3}
    del wanted["data"], wanted["annotations"]
    assert moved.to_json() == wanted


def test_null_is_what_is_not_there():
    nothing = {key: None for key in ("urls", "annotations", "platform", "data")}
    plain = {"mediaType": "a/b", "digest": str(DIGEST), "size": 1}
    assert Descriptor.from_json({**plain, **nothing}).to_json() == plain


def test_a_platform_that_says_nothing_is_unknown():
    assert str(Platform.from_json({})) == "unknown/unknown"


FULL_DESCRIPTOR = {
    "mediaType": oci.OCI_MANIFEST,
    "digest": str(DIGEST),
    "size": 12,
    "urls": ["https://example.com/a"],
    "annotations": {"a": "b"},
    "platform": {"architecture": "arm", "os": "linux", "variant": "v7"},
    "artifactType": "application/x",
}


def test_a_descriptor_survives_being_read_and_written():
    assert Descriptor.from_json(FULL_DESCRIPTOR).to_json() == FULL_DESCRIPTOR
    assert list(LAYER.to_json()) == ["mediaType", "digest", "size"]


def test_a_descriptor_of_content_has_its_digest_and_size():
    assert Descriptor.of("a/b", b"abc") == Descriptor("a/b", Digest.of(b"abc"), 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": None}, r"here\.size: wanted a number, got nothing"),
        ({"size": -1}, r"here\.size: wanted a size in bytes, got -1"),
        ({"size": True}, r"here\.size"),
        ({"size": 1.5}, r"here\.size: wanted a number, got 1\.5"),
        ({"size": "12"}, r"here\.size: wanted a number, got '12'"),
        ({"digest": None}, r"here\.digest: wanted a string, got nothing"),
        ({"digest": "sha256:x"}, "not a digest"),
        ({"mediaType": 5}, r"here\.mediaType: wanted a string, got 5"),
        ({"annotations": []}, r"here\.annotations: wanted an object"),
        ({"urls": "a"}, r"here\.urls: wanted an array"),
        ({"platform": "linux"}, r"platform: wanted an object, got 'linux'"),
        ({"platform": {"os": 1}}, r"platform\.os: wanted a string, got 1"),
    ],
)
def test_a_descriptor_of_another_shape_is_refused_by_the_field(change, said):
    with pytest.raises(PusherError, match=said):
        Descriptor.from_json({**FULL_DESCRIPTOR, **change}, "here")


def test_a_manifest_survives_being_written_and_read():
    manifest = Manifest(
        oci.OCI_MANIFEST,
        CONFIG,
        (LAYER, LAYER),
        subject=CONFIG,
        artifact_type="application/x",
        annotations={"ü": "\ud800"},
    )
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert manifest.to_bytes() == manifest.to_bytes()


def test_a_plain_manifest_is_compact_and_says_what_it_is():
    manifest = Manifest(oci.DOCKER_MANIFEST, CONFIG, ())
    assert manifest.to_bytes() == (
        b'{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s",'
        b'"digest":"%s","size":7},"layers":[]}'
        % (oci.DOCKER_MANIFEST.encode(), oci.OCI_CONFIG.encode(), DIGEST.encode())
    )


def test_the_type_of_a_manifest_is_its_own_else_the_servers_else_oci():
    record = {"schemaVersion": 2, "config": CONFIG.to_json(), "layers": []}
    named = {**record, "mediaType": oci.DOCKER_MANIFEST}
    assert Manifest.from_bytes(as_json(named), "x").media_type == oci.DOCKER_MANIFEST
    assert Manifest.from_bytes(as_json(record), "x").media_type == "x"
    assert Manifest.from_bytes(as_json(record)).media_type == oci.OCI_MANIFEST


def test_an_index_survives_being_written_and_read():
    index = Index(
        oci.OCI_INDEX,
        (Descriptor.from_json(FULL_DESCRIPTOR), CONFIG),
        subject=CONFIG,
        artifact_type="application/x",
        annotations={"a": "b"},
    )
    assert Index.from_bytes(index.to_bytes()) == index
    bare = as_json({"manifests": []})
    assert Index.from_bytes(bare).media_type == oci.OCI_INDEX
    assert Index.from_bytes(bare, oci.DOCKER_INDEX).media_type == oci.DOCKER_INDEX


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ([], "manifest: wanted an object"),
        ({}, r"manifest\.layers: wanted an array, got nothing"),
        ({"layers": [], "manifests": []}, "so it is an index"),
        ({"layers": []}, r"manifest\.config: wanted an object, got nothing"),
        ({"layers": [5], "config": CONFIG.to_json()}, r"manifest\.layers\[0\]"),
        (
            {"layers": {}, "config": CONFIG.to_json()},
            r"manifest\.layers: wanted an arr",
        ),
    ],
)
def test_a_manifest_of_another_shape_is_refused_by_the_field(record, said):
    with pytest.raises(InvalidJSON, match=said):
        Manifest.from_bytes(as_json(record))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (5, "index: wanted an object"),
        ({}, r"index\.manifests: wanted an array, got nothing"),
        ({"manifests": [], "layers": []}, "so it is a manifest"),
        ({"manifests": [], "config": {}}, "so it is a manifest"),
        ({"manifests": [None]}, r"index\.manifests\[0\]: wanted an object"),
    ],
)
def test_an_index_of_another_shape_is_refused_by_the_field(record, said):
    """A document that is both is refused as either (CVE-2021-41190)."""
    with pytest.raises(InvalidJSON, match=said):
        Index.from_bytes(as_json(record))


def test_an_image_config_shows_platform_and_diff_ids():
    record = {"os": "linux", "architecture": "arm64", "rootfs": {"diff_ids": [DIGEST]}}
    config = ImageConfig.from_bytes(as_json(record))
    assert config == ImageConfig(Platform("linux", "arm64"), (DIGEST,))
    empty = ImageConfig.from_bytes(as_json({"rootfs": {"diff_ids": None}}))
    assert empty.diff_ids == ()


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ([], "config: wanted an object"),
        ({}, r"config\.rootfs: wanted an object, got nothing"),
        ({"rootfs": {"diff_ids": [5]}}, r"config\.diff_ids: wanted a string, got 5"),
        ({"rootfs": {"diff_ids": ["x"]}}, "not a digest"),
        ({"rootfs": {"diff_ids": {}}}, r"config\.rootfs\.diff_ids: wanted an array"),
        ({"rootfs": {}, "os": []}, r"platform\.os: wanted a string"),
    ],
)
def test_an_image_config_of_another_shape_is_refused_by_the_field(record, said):
    with pytest.raises(PusherError, match=said):
        ImageConfig.from_bytes(as_json(record))


def test_a_manifest_becomes_docker_schema_2_where_the_layers_allow_it():
    manifest = Manifest(oci.OCI_MANIFEST, CONFIG, (LAYER,), annotations={"a": "b"})
    docker = oci.as_docker(manifest)
    assert docker == Manifest(
        oci.DOCKER_MANIFEST,
        Descriptor(oci.DOCKER_CONFIG, CONFIG.digest, CONFIG.size),
        (Descriptor(oci.DOCKER_LAYER_GZIP, LAYER.digest, LAYER.size),),
    )
    zstd = Descriptor(oci.OCI_LAYER_ZSTD, DIGEST, 9)
    assert oci.as_docker(Manifest(oci.OCI_MANIFEST, CONFIG, (LAYER, zstd))) is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "what: not JSON"),
        (b"{", "what: not JSON"),
        (b"\xff\xfe\x00", "what: not JSON"),
        (b"[" * 100_000, "what: not JSON"),
        (b'{"a":' * 50_000, "what: not JSON"),
        (b" " * (oci.JSON_LIMIT + 1), "what: 4194305 bytes, the limit is 4194304"),
    ],
    ids=range(6),
)
def test_what_is_no_json_or_too_much_of_it_is_refused(raw, said):
    with pytest.raises(InvalidJSON, match=said) as caught:
        oci.parse_json(raw, "what")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from([str(DIGEST), oci.OCI_LAYER, "linux"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)
FIELDS = [
    *("mediaType", "digest", "size", "urls", "annotations", "platform", "config"),
    *("layers", "manifests", "subject", "rootfs", "diff_ids", "os", "architecture"),
]
DOCUMENTS = st.recursive(
    JSON,
    lambda inner: (
        st.dictionaries(st.sampled_from(FIELDS), inner) | st.lists(inner, max_size=3)
    ),
    max_leaves=12,
)


@given(DOCUMENTS | st.fixed_dictionaries({"config": DOCUMENTS, "layers": DOCUMENTS}))
@example({"manifests": [{**FULL_DESCRIPTOR, "annotations": {"a": "\ud800"}}]})
@example({"config": FULL_DESCRIPTOR, "layers": [{**FULL_DESCRIPTOR, "size": 10**400}]})
def test_any_json_is_read_or_refused_and_what_is_read_can_be_written(document):
    """Nothing that an archive or a registry holds leads to another error."""
    raw = json.dumps(document).encode()
    for kind in (Manifest, Index):
        try:
            value = kind.from_bytes(raw)
        except PusherError as error:
            assert "\n" not in str(error)
        else:
            assert kind.from_bytes(value.to_bytes()) == value
    try:
        ImageConfig.from_bytes(raw)
    except PusherError as error:
        assert "\n" not in str(error)
