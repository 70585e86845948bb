"""``config``: which settings are in force, and who said so."""

from __future__ import annotations

import json

import pytest

from dockerpush.settings.keys import KEYS


@pytest.fixture
def config(run_cli, tmp_path):
    """``config --json`` with a file of that content; the settings by name."""

    def show(content, *arguments, **options):
        file = tmp_path / "settings.json"
        file.write_text(json.dumps(content))
        done = run_cli("config", "--json", "--config", file, *arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.json["settings"]

    return show


def test_every_setting_is_shown_with_where_it_is_from(run_cli):
    done = run_cli("config", env={"DOCKERPUSH_PATIENCE": ""})
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["SETTING", *(key.name for key in KEYS)]
    assert done.stdout.count("built in") == len(KEYS)
    assert str(run_cli.state) in done.stderr


def test_flag_beats_environment_beats_registry_beats_defaults(config, tmp_path):
    content = {
        "defaults": {"jobs": 2, "timeout": 10, "retry_times": 1, "compress": "none"},
        "registries": {"reg.io": {"jobs": 4, "timeout": 20, "retry_times": 5}},
    }
    found = config(
        *(content, "reg.io", "--jobs", "8"), env={"DOCKERPUSH_TIMEOUT": "30"}
    )
    file = tmp_path / "settings.json"
    assert found["jobs"] == {"value": 8, "source": "--jobs"}
    assert found["timeout"] == {"value": 30.0, "source": "DOCKERPUSH_TIMEOUT"}
    assert found["retry_times"]["value"] == 5
    assert found["retry_times"]["source"] == f"{file}: registries['reg.io']"
    assert found["compress"] == {"value": "none", "source": f"{file}: defaults"}
    assert found["retry_delay"]["source"] == "built in"


def test_the_entry_of_another_registry_does_not_count(config):
    content = {"registries": {"reg.io": {"jobs": 4}}}
    assert config(content, "other.io")["jobs"]["source"] == "built in"
    assert config(content)["jobs"]["source"] == "built in"


def test_the_file_in_the_state_directory_is_found(run_cli):
    run_cli.state.mkdir()
    file = run_cli.state / "config.json"
    file.write_text('{"defaults": {"jobs": 7}}')
    done = run_cli("config", "--json")
    assert done.json["config_file"] == str(file)
    assert done.json["settings"]["jobs"]["value"] == 7


def test_a_proxy_is_shown_without_its_password(run_cli):
    done = run_cli(
        *("config", "--proxy", "http://me:s3cret@proxy:3128"),
        env={"OCI_DEBUG": "1"},
    )
    assert "http://***@proxy:3128" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"defaults": {"job": 2}}', ["defaults", "'job'", "jobs"]),
        ('{"registries": {"reg.io": {"jobs": "many"}}}', ["reg.io", "jobs"]),
        ('{"defaults": {"password": "x"}}', ["secret"]),
        ('{"defaults": ', ["settings.json"]),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(content, words, run_cli, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(content)
    for command in (["config"], ["login", "reg.io", "-u", "a", "-p", "b"]):
        done = run_cli(*command, "--config", file)
        assert done.returncode == 2
        for word in [*words, str(file)]:
            assert word in done.error


def test_a_named_file_that_does_not_exist(run_cli):
    done = run_cli("config", "--config", "nosuch.json")
    assert done.returncode == 4
    assert "nosuch.json" in done.error


def test_a_registry_that_cannot_be(run_cli):
    assert run_cli("config", "a b").returncode == 2
