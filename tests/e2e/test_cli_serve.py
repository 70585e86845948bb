"""``serve`` as a command: real clients pull from it, and it ends when it is told to."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Iterator

import pytest
from images import digest_of, small_archive
from multiplatform import write_image, write_layout
from registries import make_certificates, run, write_htpasswd, write_users
from terminal import at_terminal

from dockerpush.oci import OCI_INDEX, OCI_MANIFEST

SKOPEO = ("skopeo", "--insecure-policy")


@contextlib.contextmanager
def served(
    run_cli,
    *arguments: object,
    number: signal.Signals = signal.SIGTERM,
    stderr: list[str] | None = None,
    started: list | None = None,
    **options,
) -> Iterator[str]:
    """The URL of a registry that ends with 0 when it gets the signal *number*.

    *stderr* gets what it said there, *started* the process.
    """
    child = run_cli.start(
        *("serve", "--port", 0, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )
    with child:
        if started is not None:
            started.append(child)
        try:
            yield child.stdout.readline().decode().strip()
            child.send_signal(number)
            assert child.wait(20) == 0
            said = child.stderr.read()
            assert b"Traceback" not in said
            if stderr is not None:
                stderr.append(said.decode())
        finally:
            child.kill()


def host_of(url: str) -> str:
    return url.partition("//")[2].rstrip("/")


def put(url: str, media_type: str, raw: bytes) -> int:
    """The status of a PUT of a manifest."""
    headers = {"Content-Type": media_type}
    request = urllib.request.Request(url, data=raw, method="PUT", headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_skopeo_pulls_archives_that_were_not_copied(run_cli, tmp_path):
    archive = small_archive(tmp_path / "image.tar", names=["team/app:7"])
    root = write_layout(tmp_path / "layout")
    store = tmp_path / "store"
    with served(run_cli, "--dir", store, archive, tmp_path / "layout") as url:
        host = host_of(url)
        for name in ("team/app:7", "layout:v1"):
            flags = ("--src-tls-verify=false", "--preserve-digests")
            source = f"docker://{host}/{name}"
            out = tmp_path / name.replace("/", "-").replace(":", "-")
            run(*SKOPEO, "copy", "-q", "--all", *flags, source, f"oci:{out}:1")
        (entry,) = json.loads((out / "index.json").read_text())["manifests"]
        assert entry["digest"] == root["digest"]
    stored = [path for path in store.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in stored) < 10_000


def test_podman_pulls_an_archive(run_cli, tmp_path):
    archive = small_archive(tmp_path / "image.tar", names=["team/app:7"])
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    short = tempfile.mkdtemp(prefix="podman", dir="/tmp")  # it takes 50 characters
    podman = ["podman", "--root", tmp_path / "root", "--runroot", short]
    podman += ["--storage-driver", "vfs"]
    with contextlib.ExitStack() as stack:
        for path in (short, tmp_path / "root"):
            stack.callback(shutil.rmtree, path, ignore_errors=True)
        url = stack.enter_context(served(run_cli, archive))
        name = f"{host_of(url)}/team/app:7"
        flags = ("--tls-verify=false", "--signature-policy", policy, "-q")
        run(*podman, "pull", *flags, name)
        (image,) = json.loads(run(*podman, "inspect", name))
    assert image["Config"]["Cmd"] == ["/bin/sh"]


def test_a_manifest_without_its_platforms_is_taken_only_when_sparse(run_cli, tmp_path):
    child = write_image(tmp_path / "layout", "amd64")
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}
    raw = json.dumps(index).encode()
    for flags, status in (((), 400), (("--sparse",), 201)):
        with served(run_cli, "--dir", tmp_path / f"store{status}", *flags) as url:
            where = f"{url.rstrip('/')}/v2/app/manifests/{digest_of(raw)}"
            assert put(where, OCI_INDEX, raw) == status


def test_read_only_refuses_pushes_and_still_serves(run_cli, tmp_path):
    archive = small_archive(tmp_path / "image.tar", names=["team/app:7"])
    with served(run_cli, "--read-only", archive) as url:
        where = f"{url.rstrip('/')}/v2/app/manifests/1"
        assert put(where, OCI_MANIFEST, b"{}") == 405
        done = run_cli("tags", f"{host_of(url)}/team/app")
        assert done.stdout == "7\n"


@pytest.mark.parametrize("kind", ["htpasswd", "users"])
def test_users_and_tls_guard_a_registry(kind, run_cli, tmp_path):
    tls = tmp_path / "tls"
    tls.mkdir()
    authority = make_certificates(tls)
    write = write_users
    if kind == "htpasswd":
        pytest.importorskip("bcrypt")
        write = write_htpasswd
    users = write(tmp_path / "users", {"alice": "secret"})
    archive = small_archive(tmp_path / "image.tar")
    flags = ("--tls-cert", tls / "server.pem", "--tls-key", tls / "server.key")
    with served(run_cli, *flags, f"--{kind}", users) as url:
        assert url.startswith("https://")
        target = f"{host_of(url)}/app:1"
        push = ("push", archive, "-t", target, "--cacert", authority)
        assert run_cli(*push).returncode == 3
        done = run_cli(*push, "-u", "alice", "--password-stdin", stdin=b"secret\n")
        assert done.returncode == 0, done.stderr
        assert run_cli("push", archive, "-t", target).returncode == 5


def test_ctrl_c_ends_it_well_too(run_cli):
    with served(run_cli, number=signal.SIGINT) as url:
        assert url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["absent.tar"], 4, "absent.tar"),
        (["--port", "70000"], 2, "not a port"),
        (["--tls-cert", "a.pem"], 2, "--tls-key"),
        (["--tls-cert", "", "--tls-key", ""], 2, "--tls-cert: the value is empty"),
        (["--users", "a", "--htpasswd", "b"], 2, "cannot be used together"),
        (["--add-user", "alice"], 2, "--users FILE"),
        (["--users", "a", "--add-user", "alice"], 2, "--password-stdin"),
        (["--users", "a", "--add-user", "alice", "x.tar"], 2, "leave ARCHIVE out"),
        (["--users", "a", "--password-stdin"], 2, "--add-user NAME only"),
        (["--users", "a", "--remove-user", "alice"], 4, "no password file"),
    ],
)
def test_what_cannot_be_served_is_reported_in_one_line(
    arguments, code, words, run_cli, tmp_path
):
    done = run_cli("serve", "--dir", tmp_path / "store", *arguments)
    assert done.returncode == code
    assert words in done.error
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--htpasswd", "--users"])
@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 4, "no password file"),
        ("", 2, "no user in this file"),
        ("# nobody yet\n", 2, "no user in this file"),
        ("alice\n", 2, "line 1"),
        ("alice:secret\n", 2, "line 1 ('alice')"),
        ("alice:$apr1$salt$0123456789012345678901\n", 2, "line 1 ('alice')"),
        (b"alice:\xff\n", 2, "UTF-8"),
        ("directory", 2, "cannot read"),
    ],
)
def test_who_asked_for_passwords_never_gets_an_open_registry(
    option, content, code, words, run_cli, tmp_path
):
    path = tmp_path / "file"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        raw = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(raw)
    refused(run_cli("serve", "--port", 0, option, path), code, words)
    refused(run_cli("serve", "--port", 0, option, ""), 2, "the value is empty")


def refused(done, code: int, words: str) -> None:
    """One line says so, and neither a URL nor a hash."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.error.startswith("error: ") and words in done.error
    assert "secret" not in done.stderr and "$apr1$" not in done.stderr
    assert "Traceback" not in done.stderr


def test_without_bcrypt_an_htpasswd_file_is_refused_and_the_other_kind_is_not(
    run_cli, tmp_path
):
    (tmp_path / "none").mkdir()
    (tmp_path / "none/bcrypt.py").write_text("raise ImportError('not here')\n")
    env = {"PYTHONPATH": str(tmp_path / "none")}
    path = write_htpasswd(tmp_path / "htpasswd", {"alice": "secret"})
    done = run_cli("serve", "--port", 0, "--htpasswd", path, env=env)
    refused(done, 2, "; pip install 'dockerpush[serve]', or use --users FILE")
    assert "line 1 ('alice')" in done.error
    users = write_users(tmp_path / "users", {"alice": "secret"})
    with served(run_cli, "--users", users, env=env) as url:
        assert run_cli("tags", f"{host_of(url)}/app").returncode == 3


def test_a_user_is_added_by_a_command_and_logs_in(run_cli, tmp_path):
    users = tmp_path / "users"
    change = ("serve", "--users", users)
    done = run_cli(*change, "--add-user", "bob", "--password-stdin", stdin=b"first\n")
    assert (done.returncode, done.stdout) == (0, "")
    done = run_cli(*change, "--add-user", "bob", "--password-stdin", stdin=b"second")
    assert "changed the password of user 'bob'" in done.stderr
    assert run_cli(*change, "--add-user", "x", "--password-stdin").returncode == 2
    archive = small_archive(tmp_path / "image.tar")
    with served(run_cli, "--users", users) as url:
        for word, code in ((b"first", 3), (b"second", 0)):
            login = ("-u", "bob", "--password-stdin")
            push = ("push", archive, "-t", f"{host_of(url)}/app:1", *login)
            assert run_cli(*push, stdin=word).returncode == code
    assert run_cli(*change, "--remove-user", "bob").returncode == 0
    refused(run_cli(*change), 2, "no user in this file")


def test_a_password_is_typed_twice_and_not_shown(run_cli, tmp_path):
    users = tmp_path / "users"
    for again, code in (("hush2", 2), ("hush", 0)):
        with at_terminal(run_cli, "serve", "--users", users, "--add-user", "x") as tty:
            tty.expect("Password of x: ")
            tty.type("hush\r")
            tty.expect("The same again: ")
            tty.type(f"{again}\r")
            assert tty.end() == code
            assert "hush" not in tty.text
        assert users.exists() == (code == 0)
    with served(run_cli, "--users", users) as url:
        where = f"{host_of(url)}/app:1"
        done = run_cli("digest", where, "-u", "x", "--password-stdin", stdin=b"hush")
        assert done.returncode == 4


@pytest.mark.long
def test_sigterm_ends_it_while_passwords_are_checked(run_cli, tmp_path):
    """Neither what waits in line nor a check that takes seconds holds it up."""
    pytest.importorskip("bcrypt")
    users = tmp_path / "users"
    users.write_text("alice:$2b$17$" + "." * 53 + "\n")
    with contextlib.ExitStack() as stack:
        with served(run_cli, "--htpasswd", users) as url:
            name, _, port = host_of(url).rpartition(":")
            for number in range(20):
                sock = socket.create_connection((name, int(port)), 5)
                stack.enter_context(sock)
                token = base64.b64encode(b"alice:%d" % number).decode()
                head = f"GET /v2/ HTTP/1.1\r\nAuthorization: Basic {token}\r\n\r\n"
                sock.sendall(head.encode())
            time.sleep(0.5)
            started = time.monotonic()
        assert time.monotonic() - started < 3


def test_each_request_has_a_line_on_stderr(run_cli, tmp_path):
    """Or in a file, or as JSON, or nowhere."""
    archive = small_archive(tmp_path / "image.tar", names=["team/app:7"])
    log = tmp_path / "access.log"
    for flags, count in (((), 1), (("-q",), 0), (("-q", "--access-log", log), 0)):
        said: list[str] = []
        with served(run_cli, *flags, archive, stderr=said) as url:
            assert run_cli("tags", f"{host_of(url)}/team/app").returncode == 0
        line = " 127.0.0.1 - GET /v2/team/app/tags/list"
        assert said[0].count(line) == count
        assert "warning" not in said[0]
    assert log.read_text().count(line) == 1
    with served(run_cli, "--log-json", "--access-log", log, archive) as url:
        assert run_cli("tags", f"{host_of(url)}/team/none").returncode == 4
    record = json.loads(log.read_text().splitlines()[-1])
    assert (record["status"], record["method"]) == (404, "GET")
    assert "no such repository" in record["why"]


@pytest.mark.parametrize(
    ("address", "flags", "rights"),
    [
        ("127.0.0.1", (), None),
        ("localhost", (), None),
        ("0.0.0.0", (), "pull, push and delete"),
        ("0.0.0.0", ("--no-delete",), "pull and push"),
        ("0.0.0.0", ("--read-only",), "pull"),
        ("0.0.0.0", ("--users", "USERS"), None),
    ],
)
def test_a_registry_that_is_open_to_others_says_so(
    run_cli, tmp_path, address, flags, rights
):
    users = write_users(tmp_path / "users", {"alice": "secret"})
    flags = [users if flag == "USERS" else flag for flag in flags]
    said: list[str] = []
    where = ("--addr", address, "--dir", tmp_path / "r", "-q")
    with served(run_cli, *where, *flags, stderr=said) as url:
        assert url.startswith("http")
    if rights is None:
        assert "warning" not in said[0]
    else:
        assert said[0].startswith("warning: everybody who reaches 0.0.0.0:")
        assert f" may {rights}: give --users FILE" in said[0]


def test_a_port_that_is_taken_is_one_line(run_cli, tmp_path):
    """Nothing is said of who may reach what is not reached."""
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        (tmp_path / "store").mkdir(mode=0o755)
        where = ("--addr", "0.0.0.0", "--port", port, "--dir", tmp_path / "store")
        done = run_cli("serve", *where)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.error.startswith(f"error: cannot listen on 0.0.0.0:{port}: ")


def test_a_directory_that_others_can_read_is_reported(run_cli, tmp_path):
    """One that serve makes is for its owner alone."""
    for mode, count in ((None, 0), (0o755, 1), (0o700, 0)):
        store = tmp_path / "store"
        if mode is not None:
            store.chmod(mode)
        said: list[str] = []
        with served(run_cli, "--dir", store, "-q", stderr=said) as url:
            assert url
        assert said[0].count("warning: other users of this machine can look") == count
        assert said[0].count(f"chmod 700 {store}") == count


def certificate_of(host: str) -> bytes:
    name, _, port = host.rpartition(":")
    return ssl.get_server_certificate((name, int(port))).encode()


def test_sighup_loads_a_new_certificate_and_begins_the_log_again(run_cli, tmp_path):
    """One that cannot be used leaves the old one in use, and is said."""
    make_certificates(tmp_path)
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    log, said, started = tmp_path / "log", [], []
    flags = ("--tls-cert", certificate, "--tls-key", key, "--access-log", log)
    with served(run_cli, *flags, stderr=said, started=started) as url:
        first = certificate_of(host_of(url))
        (tmp_path / "new").mkdir()
        make_certificates(tmp_path / "new")
        (tmp_path / "new/server.pem").replace(certificate)
        started[0].send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert certificate_of(host_of(url)) == first
        (tmp_path / "new/server.key").replace(key)
        log.rename(tmp_path / "old")
        started[0].send_signal(signal.SIGHUP)
        until = time.monotonic() + 10
        while certificate_of(host_of(url)) == first:
            assert time.monotonic() < until
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        urllib.request.urlopen(f"{url.rstrip('/')}/healthz", context=context).close()
    assert said[0].count("warning: cannot use the certificate") == 1
    assert "; the certificate loaded before stays in use" in said[0]
    assert "/healthz 200" in log.read_text()
    assert (tmp_path / "old").read_text() == ""


def test_tls_below_1_2_is_refused(run_cli, tmp_path):
    make_certificates(tmp_path)
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    versions = ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True))
    flags = ("--tls-cert", certificate, "--tls-key", key)
    with served(run_cli, *flags) as url, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name, _, port = host_of(url).rpartition(":")
        for version, taken in versions:
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            with socket.create_connection((name, int(port)), 5) as sock:
                try:
                    context.wrap_socket(sock).close()
                    assert taken
                except OSError:
                    assert not taken


@pytest.mark.long
def test_a_registry_may_have_a_largest_size_and_keep_everything(run_cli, tmp_path):
    archive = small_archive(tmp_path / "image.tar")
    where = ("--dir", tmp_path / "r", "--no-delete")
    with served(run_cli, *where, "--max-size", "100") as url:
        done = run_cli("push", archive, "-t", f"{host_of(url)}/app:1")
        assert done.returncode == 1 and "full" in done.stderr
    with served(run_cli, *where, "--max-size", "10MiB") as url:
        assert run_cli("push", archive, "-t", f"{host_of(url)}/app:1").returncode == 0
        request = urllib.request.Request(f"{url}/v2/app/manifests/1", method="DELETE")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        with caught.value as answer:
            assert answer.code == 405 and b"switched off" in answer.read()
        assert run_cli("tags", f"{host_of(url)}/app").stdout == "1\n"
    assert run_cli("serve", "--max-size", "x").returncode == 2


def test_a_browser_gets_a_page_unless_there_are_none(run_cli, tmp_path):
    archive = small_archive(tmp_path / "image.tar", names=["team/app:7"])
    for flags, status in (((), 200), (("--no-ui",), 404)):
        with served(run_cli, *flags, archive) as url:
            request = urllib.request.Request(url + "/team/app:7")
            request.add_header("Accept", "text/html")
            try:
                with urllib.request.urlopen(request) as answer:
                    assert b"docker pull " in answer.read() and status == 200
            except urllib.error.HTTPError as error:
                with error:
                    assert error.code == status


def test_two_servers_do_not_share_a_directory(run_cli, tmp_path):
    store: Path = tmp_path / "store"
    with served(run_cli, "--dir", store):
        done = run_cli("serve", "--dir", store, "--port", 0)
        assert done.returncode == 1
        assert "another server" in done.error
