"""Archives of every shape, and what they hold."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from archives import (
    INDEX,
    LAYER,
    MANIFEST,
    Image,
    Layout,
    Link,
    attestation,
    blob,
    both,
    descriptor,
    digest,
    dump,
    gzipped,
    layer,
    layout,
    legacy,
    manifest_of,
    nested,
    sha256,
    simple,
    tar,
)

from dockerpush.archive import open_archive
from dockerpush.archive.assemble import assemble
from dockerpush.archive.stored import (
    Absent,
    Compression,
    Member,
    MemberKind,
    StoredImage,
    StoredIndex,
    StoredManifest,
    missing_blobs,
)
from dockerpush.errors import ArchiveError, InvalidDigest, InvalidJSON
from dockerpush.oci import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor, Index

A = Image.of("one", "two", tags=("app:1",))
B = Image.of("one", "three", tags=("reg.example.com/b:2", "b:3"), architecture="arm64")


@pytest.fixture
def images_in(tmp_path):
    """``images_in(files)``: the images of a tar with these files."""

    def images_in(files) -> tuple[StoredImage, ...]:
        with open_archive(tar(tmp_path / "image.tar", files)) as archive:
            return archive.images

    return images_in


@pytest.fixture
def error_in(images_in):
    """``error_in(files)``: the one-line error that a tar with these files is."""

    def error_in(files) -> str:
        with pytest.raises((ArchiveError, InvalidJSON, InvalidDigest)) as caught:
            images_in(files)
        said = str(caught.value)
        assert "\n" not in said
        assert "image.tar: " in said
        return said

    return error_in


def changed(files, name="manifest.json", **fields):
    """*files* with other fields in the first object of the JSON *name*."""
    record = json.loads(files[name])
    (record[0] if isinstance(record, list) else record).update(fields)
    return {**files, name: dump(record)}


def test_a_legacy_docker_archive_with_a_repeated_layer(images_in):
    one, two = images_in(legacy(A, B))
    assert (one.names, two.names) == (A.tags, B.tags)
    assert one.root is None
    assert one.entry.config == A.config
    assert one.entry.config_descriptor.digest == digest(A.config)
    assert one.entry.config_descriptor.media_type == OCI_CONFIG
    assert [blob.digest for blob in one.entry.layers] == A.diff_ids
    assert [blob.size for blob in one.entry.layers] == [len(x) for x in A.layers]
    assert two.entry.layers[0].member == one.entry.layers[0].member
    assert str(two.entry.image_config.platform) == "linux/arm64"
    assert one.entry.complete


def test_the_same_layer_twice_in_one_image_is_listed_twice(images_in):
    twice = Image.of("one", "one")
    (image,) = images_in(legacy(twice))
    assert len({blob.member for blob in image.entry.layers}) == 1
    assert len(image.entry.layers) == 2


@pytest.mark.parametrize(
    ("tags", "names"),
    [
        (None, ()),
        ([], ()),
        ([""], ()),
        (["a:1", "", "a:1", "b:1"], ("a:1", "b:1")),
        (["nginx", "docker.io/library/nginx:latest"], ("nginx",)),
    ],
)
def test_names_are_as_written_and_none_is_there_twice(images_in, tags, names):
    (image,) = images_in(simple(A, RepoTags=tags))
    assert image.names == names


def test_a_kaniko_archive_has_a_colon_in_its_config_name(images_in):
    stored = [gzipped(item) for item in A.layers]
    files = simple(
        A, {f"{sha256(x)}.tar.gz": x for x in stored}, config=digest(A.config)
    )
    (image,) = images_in(files)
    assert {blob.compression for blob in image.entry.layers} == {Compression.GZIP}
    assert {blob.digest for blob in image.entry.layers} == {None}
    assert [blob.diff_id for blob in image.entry.layers] == A.diff_ids
    assert {blob.media_type for blob in image.entry.layers} == {OCI_LAYER_GZIP}


def test_a_bazel_archive_calls_raw_layers_gzip(images_in):
    """The suffix says nothing, the first bytes do."""
    named = {blob(item) + ".tar.gz": item for item in A.layers}
    (image,) = images_in(simple(A, named, config=blob(A.config)))
    assert {item.compression for item in image.entry.layers} == {Compression.NONE}
    assert [item.digest for item in image.entry.layers] == A.diff_ids


def test_a_nix_archive_has_dots_before_its_names(images_in):
    named = {f"./{sha256(item)}/layer.tar": item for item in A.layers}
    (image,) = images_in(simple(A, named))
    assert image.entry.layers[0].member == f"{A.diff_ids[0][7:]}/layer.tar"


@pytest.mark.parametrize(
    ("head", "compression"),
    [
        (b"\x1f\x8b\x08", Compression.GZIP),
        (b"\x28\xb5\x2f\xfd", Compression.ZSTD),
        (b"\x50\x2a\x4d\x18", Compression.ZSTD),
        (b"BZh91AY&SY", Compression.BZIP2),
        (b"\xfd7zXZ\0", Compression.XZ),
        (b"BZh-1 is a file name", Compression.NONE),
        (b"", Compression.NONE),
    ],
)
def test_each_layer_is_known_by_its_own_first_bytes(images_in, head, compression):
    named = {"first.tar": A.layers[0], "second.tar": head}
    (image,) = images_in(simple(A, named))
    assert [blob.compression for blob in image.entry.layers] == [
        Compression.NONE,
        compression,
    ]


@pytest.mark.parametrize("layers", [None, []])
def test_an_image_without_layers(images_in, layers):
    (image,) = images_in(simple(Image.of(tags=("empty:1",)), Layers=layers))
    assert image.entry.layers == ()


def test_the_last_of_two_members_with_one_name_counts(tmp_path):
    path = tmp_path / "image.tar"
    old, new = tar(path, simple(A)).read_bytes(), tar(path, simple(B)).read_bytes()
    path.write_bytes(old[: old.rstrip(b"\0").__len__() // 512 * 512 + 512] + new)
    with open_archive(path) as archive:
        assert archive.images[0].names == B.tags


def test_docker_25_with_both_lists_is_one_image_with_both_manifests(images_in):
    """The graph driver's form: raw layers, and index.json names the tag alone."""
    inner = layout(A, raw=True).annotated(name="docker.io/library/app:1", ref="1")
    (image,) = images_in(both(inner, A, raw=True))
    assert image.names == ("app:1",)
    assert image.tags == ()
    assert image.root.raw == inner.blobs[blob(image.root.raw)]
    assert [x.member for x in image.root.layers] == [
        x.member for x in image.entry.layers
    ]
    assert [x.digest for x in image.entry.layers] == A.diff_ids


def test_docker_25_images_come_in_the_order_of_manifest_json(images_in):
    """index.json is in random order, and lacks untagged images (moby issue 51389)."""
    untagged = Image.of("four")
    inner = Layout(
        layout(A, B, untagged, raw=True).blobs, layout(B, A, raw=True).entries
    )
    images = images_in(both(inner, A, untagged, B, raw=True))
    assert [image.names for image in images] == [A.tags, (), B.tags]
    assert [image.root is None for image in images] == [False, True, False]


def test_a_compressed_blob_of_a_layout_has_the_digest_of_its_name(images_in):
    (image,) = images_in(both(layout(A), A))
    assert [x.digest for x in image.entry.layers] == [
        digest(gzipped(item)) for item in A.layers
    ]


def test_a_manifest_with_layers_in_another_order_is_not_trusted(images_in):
    """docker 25.0.0 (moby issue 47161): manifest.json is right."""
    swapped = manifest_of(A, list(reversed(A.layers)), LAYER)
    inner = Layout(
        {**layout(A, raw=True).blobs, blob(swapped): swapped},
        (descriptor(MANIFEST, swapped),),
    )
    (image,) = images_in(both(inner, A, raw=True))
    assert image.root is None
    assert [x.digest for x in image.entry.layers] == A.diff_ids


def test_a_manifest_with_wrong_sizes_is_not_trusted_beside_manifest_json(
    images_in, error_in
):
    """Pre-releases of docker 25 (moby issue 47072)."""
    record = json.loads(manifest_of(A, list(A.layers), LAYER))
    record["layers"][1]["size"] += 1
    wrong = dump(record)
    inner = Layout(
        {**layout(A, raw=True).blobs, blob(wrong): wrong},
        (descriptor(MANIFEST, wrong),),
    )
    (image,) = images_in(both(inner, A, raw=True))
    assert image.root is None
    size = len(A.layers[1])
    assert f"has {size} bytes, not {size + 1}" in error_in(inner.files())


def test_an_oci_layout_by_itself(images_in):
    a, b = layout(A).annotated(ref="v1"), layout(B).annotated(ref="v2")
    one, two = images_in(Layout({**a.blobs, **b.blobs}, a.entries + b.entries).files())
    assert (one.names, one.tags, one.entry) == ((), ("v1",), None)
    assert one.root.config == A.config
    assert [x.diff_id for x in two.root.layers] == B.diff_ids
    assert one.root.layers[0].descriptor.media_type == OCI_LAYER_GZIP
    assert one.root.complete


def test_one_name_for_two_platforms_is_one_image_under_an_index(images_in):
    """Nothing forbids it (github.com/opencontainers/image-spec issue 581)."""
    (image,) = images_in(layout(A, B).annotated(ref="v1").files())
    assert (image.names, image.tags, image.entry) == ((), ("v1",), None)
    index = Index.from_bytes(image.root.raw)
    assert image.root.descriptor == Descriptor.of(index.media_type, image.root.raw)
    assert [str(one.platform) for one in index.manifests] == [
        "linux/amd64",
        "linux/arm64",
    ]
    assert [one.annotations for one in index.manifests] == [None, None]
    assert [one.config for one in image.root.manifests] == [A.config, B.config]


def test_the_same_in_a_docker_archive(images_in):
    other = replace(B, tags=("app:1", "b:3"))
    image, rest = images_in(legacy(A, other))
    assert (image.names, rest.names) == (("app:1",), ("b:3",))
    assert [one.config for one in image.root.manifests] == [A.config, B.config]
    assert rest.entry.config == B.config


def test_one_name_for_one_platform_twice_stays_two_images(images_in):
    other = Image.of("four", tags=("app:1",))
    one, two = images_in(legacy(A, other))
    assert (one.names, two.names) == (("app:1",), ("app:1",))


@pytest.mark.parametrize(
    ("annotations", "names", "tags"),
    [
        ({"ref": "latest"}, (), ("latest",)),
        ({"ref": "reg.example.com/a:1"}, ("reg.example.com/a:1",), ()),
        ({"name": "docker.io/library/a:1", "ref": "1"}, ("docker.io/library/a:1",), ()),
        (
            {"name": "docker.io/library/a:1", "ref": "2"},
            ("docker.io/library/a:1",),
            ("2",),
        ),
        ({}, (), ()),
    ],
)
def test_annotations_are_names_or_tags(images_in, annotations, names, tags):
    (image,) = images_in(layout(A).annotated(**annotations).files())
    assert (image.names, image.tags) == (names, tags)


def test_an_image_listed_once_for_every_tag_is_one_image(images_in):
    one = layout(A)
    twice = Layout(
        one.blobs, one.annotated(ref="1").entries + one.annotated(ref="2").entries
    )
    (image,) = images_in(twice.files())
    assert image.tags == ("1", "2")


def test_an_index_with_platforms_and_an_attestation(images_in):
    inner, proof = layout(A, B), attestation(A)
    files = nested(
        Layout({**inner.blobs, **proof.blobs}, inner.entries + proof.entries)
    ).files()
    (image,) = images_in(files)
    assert isinstance(image.root, StoredIndex)
    assert image.root.complete
    amd64, arm64, about = image.root.manifests
    assert str(amd64.descriptor.platform) == "linux/amd64"
    assert arm64.config == B.config
    assert about.image_config is None
    assert about.config is not None
    assert about.layers[0].media_type == "application/vnd.in-toto+json"


def test_a_platform_that_was_left_out_is_absent(images_in):
    """containerd writes such archives by design (moby issue 49473)."""
    inner = nested(layout(A, B))
    gone = {blob(content) for content in layout(B).blobs.values()} - set(
        layout(A).blobs
    )
    files = {name: x for name, x in inner.files().items() if name not in gone}
    files["manifest.json"] = both(layout(A), A)["manifest.json"]
    (image,) = images_in(files)
    assert isinstance(image.root.manifests[1], Absent)
    assert not image.root.complete
    assert image.entry.config == A.config
    assert image.names == A.tags


def test_an_index_json_of_platforms_without_names_is_the_image_itself(images_in):
    """(image-spec, image-layout.md: index.json may be a multi-platform index)"""
    files = layout(A, B).files()
    (image,) = images_in(files)
    assert image.root.raw == files["index.json"]
    assert image.root.descriptor.digest == digest(files["index.json"])
    assert image.root.descriptor.media_type == INDEX


def test_one_manifest_in_two_named_indexes_is_two_images(images_in):
    """containerd lists it once in manifest.json, with the tags of both."""
    first = nested(layout(A)).annotated(name="docker.io/library/app:1")
    second = nested(layout(A, B)).annotated(name="docker.io/library/app:2")
    inner = Layout({**first.blobs, **second.blobs}, first.entries + second.entries)
    tagged = Image(A.layers, ("app:1", "app:2"))
    one, two = images_in(both(inner, tagged))
    assert (one.names, two.names) == (("app:1",), ("docker.io/library/app:2",))
    assert [len(image.root.manifests) for image in (one, two)] == [1, 2]
    assert one.entry == two.entry


def test_images_that_manifest_json_leaves_out_are_found(images_in):
    """It names only what runs on the machine that wrote it."""
    inner = Layout(
        layout(A, B).blobs,
        layout(A).annotated(name="docker.io/library/app:1").entries
        + nested(layout(B)).annotated(name="docker.io/library/b:2").entries,
    )
    inner = Layout({**inner.blobs, **nested(layout(B)).blobs}, inner.entries)
    images = images_in(both(inner, A))
    assert [image.names for image in images] == [("app:1",), ("docker.io/library/b:2",)]


def test_a_signature_beside_its_image_is_no_image(images_in):
    one = layout(A)
    record = json.loads(manifest_of(Image.of("sig"), [b"sig"], "text/plain"))
    record["subject"] = one.entries[0]
    signature = dump(record)
    files = Layout(
        {**one.blobs, blob(signature): signature},
        (*one.entries, descriptor(MANIFEST, signature)),
    ).files()
    (image,) = images_in(files)
    assert image.root.descriptor.digest == one.entries[0]["digest"]


def test_an_artifact_without_an_image_can_be_there_alone(images_in):
    config = b"{}"
    chart = dump(
        {
            "schemaVersion": 2,
            "config": descriptor("application/vnd.cncf.helm.config.v1+json", config),
            "layers": [descriptor("application/x-chart", b"chart")],
        }
    )
    files = Layout(
        {blob(item): item for item in (chart, config, b"chart")},
        (descriptor(MANIFEST, chart),),
    ).files()
    (image,) = images_in(files)
    assert image.root.image_config is None
    assert image.root.complete


def test_a_foreign_layer_may_be_missing(images_in):
    (plain,) = images_in(layout(A).files())
    record = json.loads(plain.root.raw)
    record["layers"][0]["urls"] = ["https://example.com/layer"]
    manifest = dump(record)
    files = Layout(
        {**layout(A).blobs, blob(manifest): manifest}, (descriptor(MANIFEST, manifest),)
    ).files()
    del files[blob(gzipped(A.layers[0]))]
    (image,) = images_in(files)
    assert image.root.layers[0].member is None
    assert image.root.complete
    (image,) = images_in(
        {**files, "manifest.json": both(layout(A), A)["manifest.json"]}
    )
    assert image.entry.layers[0].descriptor.urls == ("https://example.com/layer",)
    assert image.entry.complete
    assert image.root is not None


def test_a_foreign_layer_of_layer_sources_may_be_missing(images_in):
    source = descriptor(LAYER, A.layers[0], urls=["https://example.com/layer"])
    files = simple(A, LayerSources={A.diff_ids[0]: source})
    del files[f"{sha256(A.layers[0])}.tar"]
    (image,) = images_in(files)
    assert image.entry.layers[0].member is None
    assert missing_blobs(image.entry) == ()


def test_the_media_type_is_the_one_that_the_manifest_itself_has(images_in):
    one = layout(A)
    entry = {**one.entries[0], "mediaType": "application/octet-stream"}
    (image,) = images_in(Layout(one.blobs, (entry,)).files())
    assert image.root.descriptor.media_type == MANIFEST


def named(inner: Layout, *names: str) -> Layout:
    """*inner* with a name for each of its entries."""
    entries = zip(inner.entries, names)
    key = "io.containerd.image.name"
    return Layout(
        inner.blobs, tuple({**one, "annotations": {key: n}} for one, n in entries)
    )


@pytest.mark.parametrize("backwards", [False, True])
def test_an_index_and_one_of_its_images_are_two_images(backwards, images_in):
    """manifest.json names one image of the index, and the other one by itself."""
    whole = nested(layout(A, B))
    alone = layout(B)
    entries = named(
        Layout({**whole.blobs, **alone.blobs}, (*whole.entries, *alone.entries)),
        "r.io/whole:1",
        "r.io/alone:1",
    )
    step = -1 if backwards else 1
    images = [replace(A, tags=("r.io/whole:1",)), replace(B, tags=("r.io/alone:1",))]
    inner = Layout(entries.blobs, entries.entries[::step])
    found = {
        image.names: image.root.descriptor.digest
        for image in images_in(both(inner, *images[::step]))
    }
    assert found == {
        ("r.io/whole:1",): whole.entries[0]["digest"],
        ("r.io/alone:1",): alone.entries[0]["digest"],
    }
    assert len(images_in(both(inner, *images[::step]))) == 2


def test_an_artifact_with_a_name_is_there_beside_manifest_json(images_in):
    """One without is what docker save has of an attestation."""
    image, other = layout(A), attestation(B)
    entries = (*image.entries, *other.entries)
    inner = Layout({**image.blobs, **other.blobs}, entries)
    assert len(images_in(both(inner, A))) == 1
    inner = named(inner, "r.io/app:1", "r.io/about:1")
    found = [one.names for one in images_in(both(inner, A))]
    assert found == [("app:1", "r.io/app:1"), ("r.io/about:1",)]


def dir_form(image: Image) -> dict[str, bytes]:
    """What ``skopeo copy ... dir:`` writes."""
    manifest = manifest_of(image, list(image.layers), LAYER)
    blobs = {sha256(item): item for item in (image.config, *image.layers)}
    return {**blobs, "manifest.json": manifest, "version": b"Directory Transport"}


def test_the_dir_form_of_skopeo(images_in):
    (image,) = images_in(dir_form(A))
    assert image.root.config == A.config
    assert image.root.descriptor.media_type == MANIFEST
    assert [x.member for x in image.root.layers] == [x[7:] for x in A.diff_ids]


def test_the_dir_form_of_several_platforms(images_in):
    """``skopeo copy --all``: manifests have names of their own."""
    inner = layout(A, B)
    index = nested(inner).entries[0]["digest"]
    files = {"manifest.json": nested(inner).blobs[f"blobs/sha256/{index[7:]}"]}
    listed = {entry["digest"][7:] for entry in inner.entries}
    for name, content in inner.blobs.items():
        base = name.rpartition("/")[2]
        files[f"{base}.manifest.json" if base in listed else base] = content
    (image,) = images_in(files)
    assert [str(x.image_config.platform) for x in image.root.manifests] == [
        "linux/amd64",
        "linux/arm64",
    ]
    assert image.root.complete


# What is wrong with an archive is said by name.


def test_a_missing_layer_is_named(error_in):
    files = legacy(A)
    gone = next(name for name in files if name.endswith("layer.tar"))
    del files[gone]
    said = error_in(files)
    assert "truncated or incomplete" in said
    assert gone in said
    assert "'app:1'" in said


def test_a_missing_config_is_named(error_in):
    files = simple(A, config="other.json")
    del files["other.json"]
    assert "'other.json'" in error_in(files)


def test_many_missing_layers_make_a_short_error(error_in):
    image = Image.of(*map(str, range(50)))
    files = {
        name: content
        for name, content in simple(image).items()
        if not name.endswith(".tar")
    }
    assert "and 47 more" in error_in(files)


def test_missing_blobs_of_a_layout_are_named(error_in):
    for content in (A.config, gzipped(A.layers[1]), layout(A).entries[0]["digest"]):
        files = layout(A).files()
        hexes = content[7:] if isinstance(content, str) else sha256(content)
        del files[f"blobs/sha256/{hexes}"]
        assert hexes in error_in(files)


def test_an_index_without_any_of_its_manifests_is_incomplete(error_in):
    files = nested(layout(A)).files()
    gone = layout(A).entries[0]["digest"]
    del files[f"blobs/sha256/{gone[7:]}"]
    assert gone in error_in(files)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"Layers": ["only-one.tar"]}, "1 layers in manifest.json, but 2 diff_ids"),
        ({"Layers": "text"}, "Layers: wanted an array"),
        ({"Layers": [1, 2]}, "Layers: wanted a string"),
        ({"Config": None}, "Config: wanted a string"),
        ({"RepoTags": [5]}, "RepoTags: wanted a string"),
        ({"RepoTags": {}}, "RepoTags: wanted an array"),
        ({"Layers": ["../../etc/passwd", "x"]}, "leads out of the archive"),
        ({"Config": "../config.json"}, "leads out of the archive"),
    ],
)
def test_a_malformed_entry_says_what_was_wanted(error_in, fields, said):
    assert said in error_in(changed(simple(A), **fields))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"null", "no image"),
        (b"[]", "no image"),
        (b"[null]", "wanted an object"),
        (b'"x"', "wanted an array"),
        (b"{}", "layers: wanted an array"),
        (b"not json", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"schemaVersion": 1, "fsLayers": []}', "schema version 1"),
    ],
)
def test_a_malformed_manifest_json_is_one_line(error_in, content, said):
    assert said in error_in({"manifest.json": content})


@pytest.mark.parametrize(
    "content", [b"null", b"[]", b"{}", b'{"manifests":[{}]}', b'{"manifests":[null]}']
)
def test_a_malformed_index_json_is_one_line(error_in, content):
    assert "index" in error_in({"index.json": content})


@pytest.mark.parametrize("wrong", ["sha256:abc", "md5:" + "0" * 32, "../../etc"])
def test_a_digest_that_is_none_is_refused(error_in, wrong):
    files = changed(
        layout(A).files(), "index.json", manifests=[{"digest": wrong, "size": 1}]
    )
    assert repr(wrong)[:-1] in error_in(files)


@pytest.mark.parametrize("name", ["manifest.json", "index.json", "config.json"])
def test_a_huge_json_member_is_refused_by_name(error_in, name):
    files = {**simple(A), name: b"[" + b" " * (4 << 20) + b"]"}
    assert f"'{name}'" in error_in(files)


def test_a_bomb_of_many_small_values_is_refused(error_in):
    bomb = b"[" + b"{}," * 400_000 + b"{}]"
    assert "more than 120000 values" in error_in({"manifest.json": bomb})


def damaged(files, what):
    """*files* with a changed manifest or config, and the name of that."""
    (manifest,) = (entry["digest"] for entry in layout(A).entries)
    name = blob(A.config) if what == "config" else f"blobs/sha256/{manifest[7:]}"
    content = files[name].replace(b"linux", b"linuz").replace(b"json", b"jsom")
    return {**files, name: content}, name


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_changed_bytes_of_a_manifest_or_config_are_noticed(error_in, what):
    files, name = damaged(layout(A).files(), what)
    assert name in error_in(files)


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_manifest_json_goes_before_a_changed_manifest_or_config(images_in, what):
    """As docker loads it; whoever pushes it is warned, and a strict push refuses."""
    files, name = damaged(both(layout(A), A), what)
    (image,) = images_in(files)
    assert image.entry.config == files[blob(A.config)] and image.root is None
    assert all(notice.warning for notice in image.notices)
    assert name in image.notices[-1].text


def test_a_config_that_is_not_what_its_name_says_is_warned_of(images_in):
    name = f"{sha256(A.config)}.json"
    edited = A.config.replace(b"amd64", b"arm64")
    (image,) = images_in({**simple(A, config=name), name: edited})
    assert image.entry.config == edited
    assert image.entry.config_descriptor.digest == digest(edited)
    (notice,) = image.notices
    assert notice.warning and digest(edited) in notice.text


def test_a_manifest_of_another_size_than_its_descriptor_says_is_refused(error_in):
    one = layout(A)
    entry = {**one.entries[0], "size": 5}
    assert "descriptor says 5" in error_in(Layout(one.blobs, (entry,)).files())


def test_a_layout_whose_layers_do_not_fit_the_config_is_refused(error_in):
    manifest = manifest_of(A, [gzipped(A.layers[0])], OCI_LAYER_GZIP)
    inner = Layout(
        {**layout(A).blobs, blob(manifest): manifest}, (descriptor(MANIFEST, manifest),)
    )
    assert "1 layers, but 2 diff_ids" in error_in(inner.files())


def test_raw_blobs_that_are_not_what_the_config_wants_are_refused(error_in):
    other = layer("something else")
    named = {blob(A.layers[0]): A.layers[0], blob(other): other}
    assert blob(other) in error_in(simple(A, named))


def test_a_config_of_another_size_than_its_descriptor_says_is_refused(error_in):
    record = json.loads(manifest_of(A, [gzipped(x) for x in A.layers], OCI_LAYER_GZIP))
    record["config"]["size"] += 1
    manifest = dump(record)
    inner = Layout(
        {**layout(A).blobs, blob(manifest): manifest}, (descriptor(MANIFEST, manifest),)
    )
    assert "its config has" in error_in(inner.files())


def test_a_layer_in_a_place_that_is_no_digest_is_just_a_layer(images_in):
    named = {"blobs/sha256/abc": A.layers[0], "second.tar": A.layers[1]}
    (image,) = images_in(simple(A, named))
    assert [x.digest for x in image.entry.layers] == A.diff_ids


def test_an_artifact_beside_images_of_manifest_json_is_no_image(images_in):
    artifact = manifest_of(Image.of("x"), [b"x"], "text/plain")
    inner = Layout(
        {**layout(A).blobs, blob(artifact): artifact},
        (*layout(A).entries, descriptor(MANIFEST, artifact)),
    )
    (image,) = images_in(both(inner, A))
    assert image.names == A.tags


def test_what_a_pipe_gave_is_enough():
    """Plain dicts do; a file that was not kept because it is no JSON says so."""
    files = simple(A)
    members = {
        name: Member(name, MemberKind.FILE, len(content))
        for name, content in files.items()
    }
    documents = {name: x for name, x in files.items() if name.endswith(".json")}
    heads = {name: content[:16] for name, content in files.items()}
    (image,) = assemble(members, documents, heads)
    assert image.entry.config == A.config
    del documents["config.json"]
    with pytest.raises(ArchiveError, match="dockerpush reads a pipe once"):
        assemble(members, documents, heads)


def test_an_index_that_is_a_manifest_as_well_is_refused(error_in):
    """Two readers of such a document would see two images."""
    confused = dump({**json.loads(manifest_of(A, [], LAYER)), "manifests": []})
    files = Layout(
        {**layout(A).blobs, blob(confused): confused}, (descriptor(INDEX, confused),)
    ).files()
    assert "so it is a manifest" in error_in(files)


@pytest.mark.parametrize(
    ("link", "said"),
    [
        (Link("manifest.json"), "circle"),
        (Link("../manifest.json"), "leads out"),
        (Link("/dev/null"), "no image"),
    ],
)
def test_a_manifest_json_that_is_a_link_to_nowhere(error_in, link, said):
    assert said in error_in({"manifest.json": link, "x": b""})


def nest(depth: int) -> Layout:
    """Indexes within indexes, *depth* of them."""
    inner = layout(A)
    for _ in range(depth):
        inner = nested(inner)
    return inner


def test_nested_indexes_have_a_bounded_depth(images_in, error_in):
    assert images_in(nest(7).files())[0].root.complete
    assert "more than 8 deep" in error_in(nest(8).files())


def test_depth_counts_through_indexes_that_were_read_before(error_in):
    """Each is listed at the top as well, so that none is read deep down."""
    entries = tuple(nest(depth).entries[0] for depth in range(1, 12))
    assert "more than 8 deep" in error_in(Layout(nest(11).blobs, entries).files())


def test_an_index_that_multiplies_is_refused(error_in):
    """Ten of the same in each of seven levels would be ten million."""
    inner = layout(A)
    for _ in range(7):
        inner = nested(Layout(inner.blobs, inner.entries * 10))
    assert "more than 50000" in error_in(inner.files())


def test_a_document_that_names_too_much_is_refused_before_it_is_decoded(error_in):
    entries = [{"digest": f"sha256:{n:064x}", "size": 1} for n in range(20_001)]
    said = error_in({"index.json": dump({"manifests": entries})})
    assert "'index.json': it names 20001 layers or manifests" in said


def test_all_json_together_is_bounded(error_in):
    images = [
        Image.of("x", extra={"comment": f"{number}" + "x" * (3 << 20)})
        for number in range(6)
    ]
    assert "the JSON of the archive" in error_in(layout(*images).files())


# What holds no image says what it is.


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "starts with zeros"),
        ({"bin/sh": b"", "etc/passwd": b"", "usr/lib": b""}, "docker export"),
        ({"repositories": b"{}", "x/layer.tar": b""}, "before 1.10"),
        ({"blobs/sha256/" + "0" * 64: b""}, "truncated or incomplete"),
        ({"0" * 64 + "/layer.tar": b""}, "truncated or incomplete"),
        ({"image/manifest.json": b"[]"}, "in the folder 'image'"),
        ({"some/image.tar": b""}, "unpack that"),
        ({"Chart.yaml": b""}, "'Chart.yaml'"),
        ({"./": Link("x")}, "it holds no image"),
    ],
)
def test_a_tar_without_an_image_says_what_it_is(error_in, files, said):
    assert said in error_in(files)


def test_a_sparse_member_is_refused_only_when_it_is_needed(tmp_path):
    """Its bytes in the tar are not those of the file."""
    path = tar(tmp_path / "image.tar", {**simple(A), "unused": b"x" * 100})
    data = bytearray(path.read_bytes())
    for name, works in (("unused", True), (f"{sha256(A.layers[1])}.tar", False)):
        copy = bytearray(data)
        start = copy.index(name.encode() + b"\0")
        copy[start + 156 : start + 157] = b"S"
        copy[start + 148 : start + 156] = b" " * 8
        copy[start + 482] = 0
        copy[start + 148 : start + 156] = b"%06o\0 " % sum(copy[start : start + 512])
        path.write_bytes(copy)
        if works:
            with open_archive(path) as archive:
                assert isinstance(archive.images[0].entry, StoredManifest)
        else:
            with pytest.raises(ArchiveError, match="sparse file"):
                open_archive(path)
