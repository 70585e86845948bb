"""JSON from outside has one meaning, or it is refused by name."""

from __future__ import annotations

import json

import pytest
from archives import Image, dump

from dockerpush.errors import InvalidJSON
from dockerpush.oci import ImageConfig, Index, Manifest, parse_json
from dockerpush.registry.pages import parse_listed, parse_tags
from dockerpush.strict_json import ANY, CONFIG, DOCUMENT, SAVED_IMAGE, glance

DIGEST = "sha256:" + "a" * 64
PART = {"mediaType": "a/b", "digest": DIGEST, "size": 1}
PLAIN = {"schemaVersion": 2, "config": PART, "layers": [PART]}
KELVIN, LONG_S = "\u212a", "\u017f"


def without_a_reading(text: str) -> dict[str, bytes]:
    """*text*, an object, bent so that readers differ."""
    inner = text[1:]
    return {
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": text.encode("utf-16"),
        "UTF-16 without a mark": text.encode("utf-16-le"),
        "Latin-1": b'{"x":"\xe9",' + inner.encode(),
        "half of a surrogate pair": b'{"x":"\xed\xa0\x80",' + inner.encode(),
        "an overlong slash": b'{"x":"\xc0\xaf",' + inner.encode(),
        "NaN": ('{"x":NaN,' + inner).encode(),
        "Infinity": ('{"x":-Infinity,' + inner).encode(),
        "too large a number": ('{"x":1e999,' + inner).encode(),
        "too many digits": ('{"x":' + "9" * 5000 + "," + inner).encode(),
        "a key twice": ('{"x":1,"x":1,' + inner).encode(),
        "a key twice below": ('{"x":[{"y":1,"y":1}],' + inner).encode(),
    }


@pytest.mark.parametrize("how", without_a_reading("{}"))
def test_each_document_has_one_reading(how):
    for text, read in (
        (json.dumps(PLAIN), Manifest.from_bytes),
        (json.dumps({"schemaVersion": 2, "manifests": []}), Index.from_bytes),
        (Image.of("a").config.decode(), ImageConfig.from_bytes),
        (Image.of("a").config.decode(), ImageConfig.find),
        (json.dumps({"name": "a/b", "tags": ["v1"]}), parse_tags),
        (json.dumps({"manifests": []}), parse_listed),
    ):
        read(text.encode())
        bent = without_a_reading(text)[how]
        if read == ImageConfig.find and how in ("Latin-1", "an overlong slash"):
            continue  # no JSON for anybody: the config of an artifact
        if read == ImageConfig.find and how == "too many digits":
            continue
        with pytest.raises(InvalidJSON):
            read(bent)


CASES = {
    "Layers": {**PLAIN, "Layers": []},
    "layerS in place of layers": {"schemaVersion": 2, "config": PART, "layerS": []},
    "a long s": {**PLAIN, f"layer{LONG_S}": []},
    "Config": {**PLAIN, "Config": PART},
    "MediaType": {**PLAIN, "MediaType": "a/b"},
    "Manifests beside layers": {**PLAIN, "Manifests": []},
    "SchemaVersion": {**PLAIN, "SchemaVersion": 1},
    "Subject": {**PLAIN, "Subject": PART},
    "Digest of a layer": {**PLAIN, "layers": [{**PART, "Digest": DIGEST}]},
    "SIZE of a config": {**PLAIN, "config": {**PART, "SIZE": 1}},
    "Urls of a subject": {**PLAIN, "subject": {**PART, "Urls": []}},
    "OS of a platform": {
        "schemaVersion": 2,
        "manifests": [{**PART, "platform": {"os": "linux", "OS": "x"}}],
    },
}


@pytest.mark.parametrize("name", CASES)
def test_a_field_has_one_spelling_in_a_document(name):
    kind = Index if "manifests" in CASES[name] else Manifest
    with pytest.raises(InvalidJSON, match="tools read differently"):
        kind.from_bytes(dump(CASES[name]))


IMAGE = json.loads(Image.of("a").config)


@pytest.mark.parametrize(
    "more",
    [
        {"Rootfs": {}},
        {"OS": "windows"},
        {"Os.Version": "1"},
        {f"roots{LONG_S}": 1, "ROOTFS": {}},
        {"rootfs": {**IMAGE["rootfs"], "Diff_IDs": []}},
        {"config": {"Cmd": ["a"], "cmd": ["b"]}},
        {"config": {"user": "root"}},
        {"config": {"WOR" + KELVIN + "INGDIR": "/"}},
        {"config": {"Healthcheck": {"test": ["CMD"]}}},
        {"history": [{"Created_by": "x"}]},
    ],
    ids=json.dumps,
)
def test_a_field_has_one_spelling_in_a_config(more):
    raw = dump({**IMAGE, **more})
    for read in (ImageConfig.from_bytes, ImageConfig.find):
        with pytest.raises(InvalidJSON, match="tools read differently"):
            read(raw)


def test_a_config_with_its_fields_in_another_case_is_no_artifact():
    with pytest.raises(InvalidJSON, match="Rootfs"):
        ImageConfig.find(dump({"Rootfs": IMAGE["rootfs"]}))


@pytest.mark.parametrize("raw", [b"{}", b"[1]", b"no JSON", b'{"rootfs":null}', b""])
def test_the_config_of_an_artifact_may_be_anything(raw):
    assert ImageConfig.find(raw) is None


def test_free_places_have_any_keys():
    free = {"layers": "1", "Layers": "2", "LAYERS": "3", "digest": "x", "Digest": "y"}
    manifest = {
        **PLAIN,
        "annotations": free,
        "layers": [{**PART, "annotations": free}],
        "x": [free],
        "X": free,
    }
    Manifest.from_bytes(dump(manifest))
    places = {name: {key: {} for key in free} for name in ("Volumes", "ExposedPorts")}
    config = {**IMAGE, "config": {"Labels": free, **places}, "Size": 1, "x": free}
    assert ImageConfig.find(dump(config))


def test_an_entry_of_manifest_json_has_one_spelling():
    entry = {"Config": "c", "RepoTags": None, "Layers": []}
    parse_json(dump([entry]), "manifest.json", (SAVED_IMAGE,))
    foreign = {"LayerSources": {DIGEST: {**PART, "Size": 1}}}
    for more in ({"layers": ["x"]}, {"repotags": []}, {"config": "x"}, foreign):
        with pytest.raises(InvalidJSON, match="tools read differently"):
            parse_json(dump([{**entry, **more}]), "manifest.json", (SAVED_IMAGE,))


def test_what_has_another_shape_is_left_to_who_reads_it():
    for raw in (b"[]", b"null", b"1", b'{"layers":{},"config":[1],"manifests":"x"}'):
        assert parse_json(raw, "x", DOCUMENT) == json.loads(raw)
        parse_json(raw, "x", CONFIG)


def test_files_of_this_machine_may_have_a_mark_and_a_key_twice():
    """An editor writes the mark; docker takes the last of two keys as well."""
    assert parse_json(b'\xef\xbb\xbf{"a":1,"a":2}', "x") == {"a": 2}
    for raw in (b'{"a":NaN}', b"\xff{}", b'{"a":1e999}'):
        with pytest.raises(InvalidJSON):
            parse_json(raw, "x")


def test_errors_name_what_is_wrong():
    for raw, said in (
        (b'{"a":1,"a":2}', "token: it has the key 'a' twice"),
        (b'{"a":NaN}', "token: it has NaN, which is no number in JSON"),
        (b"\xef\xbb\xbf{}", "token: it begins with a byte order mark"),
        (b"{", "token: not JSON: "),
    ):
        with pytest.raises(InvalidJSON) as caught:
            parse_json(raw, "token", ANY)
        assert str(caught.value).startswith(said)


def test_a_number_of_a_million_digits_takes_no_time():
    """Older Pythons would take minutes."""
    for read in (glance, lambda raw: parse_json(raw, "x", ANY)):
        with pytest.raises(InvalidJSON, match="digits"):
            read(b"9" * 1_000_000)
