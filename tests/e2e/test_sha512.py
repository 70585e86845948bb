"""An image whose every digest is a sha512: what is printed can be pulled."""

from __future__ import annotations

from urllib.request import Request, urlopen

import archives
import pytest
from archives import INDEX, MANIFEST
from pairs import SAMPLES
from registries import start_docker_registry

from dockerpush.server import Registry, RegistryServer

NAMES = ("sha512-root", "sha512-raw", "sha512-index", "sha512-artifact")


@pytest.fixture(scope="module", params=["serve", "docker-registry"])
def host(request, tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("sha512")
    if request.param == "serve":
        with RegistryServer(Registry(directory / "registry")) as server:
            yield server.host
    else:
        with start_docker_registry(directory / "docker") as registry:
            yield registry.host


@pytest.fixture(params=NAMES)
def sample(request, host):
    if "docker" in request.node.name and request.param == "sha512-index":
        pytest.skip("docker-registry keeps no manifest under a sha512")
    return SAMPLES[request.param]()


def stored(host: str, repository: str, reference: str) -> bytes:
    url = f"http://{host}/v2/{repository}/manifests/{reference}"
    with urlopen(Request(url, headers={"Accept": f"{MANIFEST}, {INDEX}"})) as answer:
        return bytes(answer.read())


def check_printed(run_cli, words, host, repository, **more):
    """Twice, since the second run finds everything in its place."""
    for _ in range(2):
        done = run_cli(*words, f"{host}/{repository}:1", "--json", **more)
        assert done.returncode == 0, done.stderr
        printed = done.json["digest"]
        there = stored(host, repository, "1")
        assert stored(host, repository, printed) == there
    return there


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_a_push_prints_a_digest_that_can_be_pulled(
    source, sample, host, run_cli, tmp_path
):
    raw = archives.packed(sample.files)
    path = tmp_path / "image.tar"
    more, word = {}, path
    if source == "pipe":
        more, word = {"stdin": raw}, "-"
    path.write_bytes(raw)
    repository = f"push/{source}/{sample.digest[7:19]}"
    check_printed(run_cli, ("push", word, "-t"), host, repository, **more)
    if source != "pipe":
        done = run_cli("verify", path, f"{host}/{repository}:1")
        assert done.returncode == 0, done.stderr


def test_a_copy_prints_a_digest_that_can_be_pulled(sample, host, run_cli, tmp_path):
    layout = archives.folder(tmp_path / "layout", sample.files)
    repository = f"copy/{sample.digest[7:19]}"
    there = check_printed(run_cli, ("copy", f"oci:{layout}"), host, repository)
    with RegistryServer(Registry(tmp_path / "other")) as other:
        words = ("copy", f"{host}/{repository}:1")
        assert check_printed(run_cli, words, other.host, repository) == there


@pytest.mark.parametrize("host", ["docker-registry"], indirect=True)
@pytest.mark.parametrize("verb", ["push", "copy"])
def test_a_registry_that_keeps_no_such_child_is_named(verb, host, run_cli, tmp_path):
    files = SAMPLES["sha512-index"]().files
    path = archives.tar(tmp_path / "image.tar", files)
    words = ("push", path, "-t") if verb == "push" else ("copy", path)
    done = run_cli(*words, f"{host}/refused/{verb}:1")
    assert done.returncode == 1, done.stderr
    assert done.error.startswith("error: the registry keeps no manifest under a sha512")
    assert "--platform" in done.error
    assert run_cli("tags", f"{host}/refused/{verb}").stdout == ""
    done = run_cli(*words, f"{host}/refused/{verb}:1", "--platform", "linux/amd64")
    assert done.returncode == 0, done.stderr
