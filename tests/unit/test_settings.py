"""config.json, the order of precedence, and the one table of keys."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.errors import NotFound, PusherError, UsageError
from dockerpush.settings.config import Config, Settings, resolve
from dockerpush.settings.keys import KEYS

FILE = Path("/etc/dockerpush/config.json")


def config(record: Any) -> Config:
    return Config.parse(json.dumps(record).encode(), FILE)


NOTHING = Config(FILE)


def test_every_key_is_a_field_of_settings_and_the_reverse() -> None:
    names = list(Settings.__match_args__)
    assert names == [*(key.name for key in KEYS), "sources"]


def test_flags_and_variables_follow_the_name() -> None:
    flags = {key.name: key.flag for key in KEYS}
    assert flags["blob_chunk"] == "--blob-chunk"
    assert {flags["chunk_delay"], flags["layer_delay"]} == {None}
    variables = [key.variable for key in KEYS]
    assert {"DOCKERPUSH_TIMEOUT", "DOCKERPUSH_BLOB_CHUNK"} <= set(variables)
    assert len(set(variables)) == len(KEYS)


def test_the_defaults_are_those_of_a_push() -> None:
    from dockerpush.transfer.choices import JOBS
    from dockerpush.upload.limits import CHUNK

    settings = resolve({}, {}, NOTHING)
    assert (settings.blob_chunk, settings.jobs) == (CHUNK, JOBS)
    assert (settings.timeout, settings.chunk_delay, settings.layer_delay) == (60, 0, 0)
    assert set(settings.sources.values()) == {"built in"}


def test_flag_before_environment_before_registry_before_defaults() -> None:
    file = config({"defaults": {"jobs": 5}, "registries": {"reg.io": {"jobs": 6}}})
    environ = {"DOCKERPUSH_JOBS": "7"}
    steps: list[tuple[dict[str, Any], dict[str, str], Config, str | None, int, str]] = [
        ({"jobs": 8}, environ, file, "reg.io", 8, "--jobs"),
        ({"jobs": "8"}, environ, file, "reg.io", 8, "--jobs"),
        ({"jobs": None}, environ, file, "reg.io", 7, "DOCKERPUSH_JOBS"),
        ({}, {}, file, "reg.io", 6, f"{FILE}: registries['reg.io']"),
        ({}, {"DOCKERPUSH_JOBS": ""}, file, "other.io", 5, f"{FILE}: defaults"),
        ({}, {}, file, None, 5, f"{FILE}: defaults"),
        ({}, {}, NOTHING, "reg.io", 3, "built in"),
    ]
    for flags, environment, file_, registry, jobs, source in steps:
        settings = resolve(flags, environment, file_, registry)
        assert (settings.jobs, settings.sources["jobs"]) == (jobs, source)


def test_a_flag_that_says_no_counts_as_given() -> None:
    file = config({"defaults": {"plain_http": True, "proxy": "http://p:1"}})
    settings = resolve({"plain_http": False, "proxy": ""}, {}, file)
    assert (settings.plain_http, settings.proxy) == (False, "")


def test_values_of_the_file_have_their_types() -> None:
    file = config(
        {
            "version": 1,
            "defaults": {
                "blob_chunk": "20MiB",
                "limit_rate": 1000000,
                "timeout": "1m30s",
                "retry_delay": 0.5,
                "chunk_delay": "200ms",
                "tls_verify": False,
                "retry_times": 0,
                "compress": "none",
                "cacert": "certs/ca.pem",
                "cert": "/srv/client.pem",
            },
        }
    )
    settings = resolve({}, {}, file)
    assert settings.blob_chunk == 20 * 1024 * 1024
    assert settings.limit_rate == 1_000_000
    assert (settings.timeout, settings.retry_delay) == (90.0, 0.5)
    assert (settings.chunk_delay, settings.retry_times) == (0.2, 0)
    assert settings.tls_verify is False
    assert settings.compress == "none"
    assert settings.cacert == FILE.parent / "certs/ca.pem"
    assert settings.cert == Path("/srv/client.pem")


def test_a_home_directory_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    settings = resolve({}, {}, config({"defaults": {"authfile": "~/auth.json"}}))
    assert settings.authfile == Path("/home/ann/auth.json")


def test_a_registry_is_found_under_any_of_its_spellings() -> None:
    file = config({"registries": {"index.docker.io": {"jobs": 2}, "a:5000/": {}}})
    assert resolve({}, {}, file, "docker.io").jobs == 2
    assert set(file.registries) == {"docker.io", "a:5000"}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"default": {}}, "'default': unknown key: did you mean 'defaults'"),
        ({"x": {}}, "'x': unknown key: known: version, defaults, registries"),
        (
            {"defaults": {"blob_chnk": 1}},
            "defaults: 'blob_chnk': unknown key: did you mean 'blob_chunk'",
        ),
        (
            {"registries": {"reg.io": {"Jobs": 1}}},
            "registries['reg.io']: 'Jobs': unknown key: did you mean 'jobs'",
        ),
        ({"defaults": {"a\nb": 1}}, "defaults: 'a\\nb': unknown key"),
        ({"version": 2}, "version: this dockerpush understands version 1"),
        ([], "wanted an object"),
        ({"defaults": 5}, "defaults: wanted an object"),
        ({"registries": []}, "registries: wanted an object"),
        ({"registries": {"reg.io": None}}, "registries['reg.io']: wanted an object"),
        ({"registries": {"reg.io/team": {}}}, "'reg.io/team' is more than a registry"),
        ({"registries": {"a b": {}}}, "registries: not a registry"),
        ({"registries": {"http://a": {}}}, "registries: not a registry"),
        ({"defaults": {"jobs": "3"}}, "'jobs': wanted a number, got a text"),
        ({"defaults": {"jobs": True}}, "'jobs': wanted a number, got true or false"),
        ({"defaults": {"jobs": 0}}, "'jobs': not a whole number from 1 to 64: '0'"),
        ({"defaults": {"plain_http": 1}}, "wanted true or false, got a number"),
        ({"defaults": {"timeout": None}}, "wanted a text or a number, got null"),
        ({"defaults": {"timeout": 0}}, "'timeout': wanted a time above 0"),
        ({"defaults": {"timeout": float("inf")}}, "Infinity, which is no number"),
        ({"defaults": {"blob_chunk": -5}}, "'blob_chunk': not a size"),
        ({"defaults": {"limit_rate": "fast"}}, "'limit_rate': not a rate"),
        ({"defaults": {"compress": "lz4"}}, "not one of auto, gzip, zstd, none: 'lz4'"),
        ({"defaults": {"cacert": ""}}, "'cacert': not a path: ''"),
        ({"defaults": {"cacert": "a\0b"}}, "'cacert': not a path"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(record: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        config(record)
    assert str(caught.value).startswith(str(FILE))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["password", "PASSWORD", "registry_token", "client_secret", "auth", "passwd"]
)
@pytest.mark.parametrize("place", ["top", "defaults", "registry"])
def test_a_secret_is_refused_with_advice_and_never_shown(key: str, place: str) -> None:
    entry = {key: "hunter2"}
    record = {
        "top": entry,
        "defaults": {"defaults": entry},
        "registry": {"registries": {"reg.io": entry}},
    }[place]
    with pytest.raises(UsageError, match=r"never keep a secret .*login") as caught:
        config(record)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://joe:hunter2@p:1", "joe:hunt/er2@p:1"])
def test_the_password_of_a_proxy_is_refused_in_the_file_and_never_shown(
    proxy: str,
) -> None:
    with pytest.raises(UsageError, match="set DOCKERPUSH_PROXY instead") as caught:
        config({"defaults": {"proxy": proxy}})
    settings = resolve({}, {"DOCKERPUSH_PROXY": proxy}, NOTHING)
    assert settings.proxy == proxy
    shown = str(caught.value) + repr(settings) + repr(settings.rows())
    assert "hunt" not in shown
    assert "er2" not in shown


def test_a_wrong_flag_or_variable_is_named() -> None:
    with pytest.raises(UsageError, match=r"^--limit-rate: not a rate"):
        resolve({"limit_rate": "x"}, {}, NOTHING)
    with pytest.raises(UsageError, match=r"^DOCKERPUSH_TLS_VERIFY: neither true nor"):
        resolve({}, {"DOCKERPUSH_TLS_VERIFY": "maybe"}, NOTHING)


@pytest.mark.parametrize(
    ("word", "value"),
    [("true", True), ("YES", True), ("1", True), ("off", False), (" 0 ", False)],
)
def test_variables_say_yes_and_no_in_many_ways(word: str, value: bool) -> None:
    environ = {"DOCKERPUSH_PLAIN_HTTP": word}
    assert resolve({}, environ, NOTHING).plain_http is value


def test_the_file_of_the_state_directory_is_optional(tmp_path: Path) -> None:
    assert Config.find(None, tmp_path / "none") == Config(tmp_path / "none/config.json")
    (tmp_path / "config.json").write_text('{"defaults": {"jobs": 9}}')
    assert Config.find(None, tmp_path).defaults == {"jobs": 9}


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"x\.json: no such configuration file"):
        Config.find(tmp_path / "x.json", tmp_path)
    with pytest.raises(UsageError, match="cannot be read: is a directory"):
        Config.find(tmp_path, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(UsageError, match="cannot be read: permission denied"):
        Config.find(None, tmp_path)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b" " * 5_000_000])
def test_what_is_not_json_is_named_and_left_alone(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=f"{path}: "):
        Config.find(None, tmp_path)
    assert path.read_bytes() == raw


def test_a_syntax_error_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="line 2 column 13"):
        Config.parse(b'{\n "defaults" {}}', FILE)


def test_all_settings_are_shown_with_their_sources() -> None:
    file = config({"defaults": {"limit_rate": "10MiB", "cacert": "ca.pem"}})
    rows = resolve({"jobs": 4}, {"DOCKERPUSH_TIMEOUT": "90"}, file).rows()
    assert [row[0] for row in rows] == [key.name for key in KEYS]
    assert {
        ("jobs", "4", "--jobs"),
        ("timeout", "90s", "DOCKERPUSH_TIMEOUT"),
        ("limit_rate", "10MiB", f"{FILE}: defaults"),
        ("cacert", "/etc/dockerpush/ca.pem", f"{FILE}: defaults"),
        ("tls_verify", "true", "built in"),
        ("blob_chunk", "50MiB", "built in"),
        ("proxy", "", "built in"),
    } <= set(rows)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["10M", "1m", "none", "~x/y", "http://a@b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([key.name for key in KEYS]), inner)
        | st.dictionaries(st.sampled_from(["defaults", "registries", "a.io"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_a_config_or_a_usage_error(record: Any) -> None:
    try:
        file = config(record)
        resolve({}, {}, file, "a.io").rows()
    except PusherError as error:
        assert isinstance(error, UsageError)
        assert "\n" not in str(error)
