"""Trust decisions and their errors, against real TLS servers and openssl's output."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import threading
import warnings
from pathlib import Path
from typing import Iterator

import pytest
from nobody import as_nobody

from dockerpush.errors import PusherError, UsageError
from dockerpush.events import Event, Notice
from dockerpush.registry.failures import explain
from dockerpush.registry.tls import Trust, TrustPlaces, TrustSettings, context_for

SAN = "subjectAltName=DNS:localhost,IP:127.0.0.1"


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """A private CA of the plainest kind, as people make them with openssl."""

    def __init__(self, directory: Path, *, config: str = "") -> None:
        directory.mkdir()
        self.directory = directory
        self.cert = directory / "ca.pem"
        self._key = directory / "ca.key"
        # no keyUsage, basicConstraints not critical: what Python 3.13 dislikes
        settings = directory / "ca.cnf"
        settings.write_text(
            "[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n"
            "[ext]\nbasicConstraints=CA:TRUE\n" + config
        )
        openssl("req", "-x509", "-config", settings, "-newkey", "ec", "-pkeyopt",
                "ec_paramgen_curve:P-256", "-nodes", "-keyout", self._key, "-out",
                self.cert, "-subj", "/CN=Private CA", "-days", "30")  # fmt: skip
        (directory / "index.txt").touch()

    def issue(
        self,
        name: str,
        extensions: str = SAN,
        valid: tuple[str, str] = ("20200101000000Z", "20450101000000Z"),
    ) -> tuple[Path, Path]:
        """Certificate and key; *valid* are the two ends of its time."""
        cert, key = self.directory / f"{name}.cert", self.directory / f"{name}.key"
        request, extra = self.directory / "request", self.directory / "extra.cnf"
        extra.write_text(
            "[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\nunique_subject=no\n"
            "rand_serial=yes\ndefault_md=sha256\npolicy=any\nnew_certs_dir=.\n"
            f"[any]\ncommonName=supplied\n[ext]\n{extensions}\n"
        )
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-nodes", "-keyout", key, "-out", request, "-subj",
                f"/CN={name}")  # fmt: skip
        subprocess.run(
            ["openssl", "ca", "-batch", "-config", extra, "-extensions", "ext", "-cert",
             self.cert, "-keyfile", self._key, "-in", request, "-out", cert,
             "-notext", "-startdate", valid[0], "-enddate", valid[1]],
            check=True, capture_output=True, cwd=self.directory,
        )  # fmt: skip
        return cert, key


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("server")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> TrustPlaces:
    """A system that trusts nobody and has no certs.d."""
    missing = tmp_path_factory.mktemp("nothing")
    return TrustPlaces(bundles=(), default_file=missing, default_directory=missing)


@contextlib.contextmanager
def serving(
    pair: tuple[Path, Path] | None, *, client_ca: Path | None = None
) -> Iterator[int]:
    """The port of a server that shakes hands and says ``ok``; no *pair*: no TLS."""
    context = None
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
    if context and client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    with serving_with(context) as port:
        yield port


@contextlib.contextmanager
def serving_with(context: ssl.SSLContext | None) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_all, args=(listener, context))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with socket.create_connection(listener.getsockname()) as last:
                last.sendall(b"stop")
            thread.join(10)


def answer_all(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5)
            first = connection.recv(4, socket.MSG_PEEK)
            if first == b"stop":
                return
            if context is None:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(4096)
                continue
            with contextlib.suppress(OSError):
                secure = context.wrap_socket(connection, server_side=True)
                with secure, contextlib.suppress(OSError):
                    secure.sendall(b"ok")
                    secure.unwrap()


def talk(context: ssl.SSLContext, port: int, name: str = "localhost") -> bytes:
    plain = socket.create_connection(("127.0.0.1", port), timeout=5)
    with plain, context.wrap_socket(plain, server_hostname=name) as secure:
        return secure.recv(2)


def failure(context: ssl.SSLContext, port: int, name: str = "localhost") -> str:
    """What we tell the user when talking fails."""
    with pytest.raises(OSError) as caught:
        talk(context, port, name)
    return explain(caught.value, f"{name}:{port}")


class TestTrust:
    def test_a_private_ca_passed_by_flag_is_trusted(
        self, authority: Authority, pair: tuple[Path, Path], places: TrustPlaces
    ) -> None:
        """Also on Python 3.13, which dislikes the form of this CA."""
        settings = TrustSettings(cacert=authority.cert)
        with serving(pair) as port:
            context = context_for(f"localhost:{port}", settings, places)
            assert talk(context, port) == b"ok"
            assert talk(context, port, "127.0.0.1") == b"ok"

    def test_without_it_the_server_is_refused(
        self, pair: tuple[Path, Path], places: TrustPlaces
    ) -> None:
        with serving(pair) as port:
            text = failure(context_for("localhost", TrustSettings(), places), port)
        assert "an unknown CA signed the certificate" in text
        assert f"certs.d/localhost:{port}/ca.crt" in text

    def test_the_flag_adds_to_the_system_and_does_not_replace_it(
        self, tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
    ) -> None:
        other = Authority(tmp_path / "other")
        places = TrustPlaces(default_file=authority.cert, bundles=())
        with serving(pair) as port:
            settings = TrustSettings(cacert=other.cert)
            assert talk(context_for("localhost", settings, places), port) == b"ok"

    def test_a_server_certificate_itself_may_be_the_trusted_file(
        self, pair: tuple[Path, Path], places: TrustPlaces
    ) -> None:
        """On every Python, not only where partial chains are the default."""
        with serving(pair) as port:
            context = context_for("localhost", TrustSettings(cacert=pair[0]), places)
            assert talk(context, port) == b"ok"

    def test_comments_beside_the_certificate_do_not_matter(
        self, tmp_path: Path, authority: Authority, places: TrustPlaces
    ) -> None:
        bundle = tmp_path / "bundle.pem"
        bundle.write_bytes("# Autorité privée\n".encode() + authority.cert.read_bytes())
        context = context_for("r", TrustSettings(cacert=bundle), places)
        assert context.cert_store_stats()["x509"] == 1

    def test_ssl_cert_file_stands_for_the_systems_file(
        self, authority: Authority, pair: tuple[Path, Path], places: TrustPlaces
    ) -> None:
        found = TrustPlaces.from_environ({"SSL_CERT_FILE": str(authority.cert)})
        assert found.cert_file == authority.cert
        with serving(pair) as port:
            context = context_for("localhost", TrustSettings(), found)
            assert talk(context, port) == b"ok"
        assert context.cert_store_stats()["x509"] == 1

    def test_ssl_cert_dir_may_name_several_directories(
        self, tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
    ) -> None:
        hashed = tmp_path / "hashed"
        hashed.mkdir()
        (hashed / "ca.pem").write_bytes(authority.cert.read_bytes())
        openssl("rehash", hashed)
        found = TrustPlaces.from_environ({"SSL_CERT_DIR": f"{tmp_path}/no:{hashed}"})
        with serving(pair) as port:
            context = context_for("localhost", TrustSettings(), found)
            assert talk(context, port) == b"ok"

    def test_a_python_without_a_ca_file_of_its_own_finds_the_systems(
        self, tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
    ) -> None:
        places = TrustPlaces(
            default_file=tmp_path / "none",
            default_directory=tmp_path / "none",
            bundles=(tmp_path / "missing.crt", authority.cert, tmp_path),
        )
        with serving(pair) as port:
            context = context_for("localhost", TrustSettings(), places)
            assert talk(context, port) == b"ok"

    def test_unverified_is_for_one_host_alone(
        self, pair: tuple[Path, Path], places: TrustPlaces
    ) -> None:
        """The token server of an unverified registry is verified."""
        with serving(pair) as registry, serving(pair) as token_server:
            off = TrustSettings(verify=False)
            trust = Trust({f"localhost:{registry}": off}, TrustSettings(), places)
            context = trust.ssl_context(f"LOCALHOST:{registry}")
            assert talk(context, registry, "other.example") == b"ok"
            text = failure(trust.ssl_context(f"localhost:{token_server}"), token_server)
        assert "an unknown CA signed the certificate" in text

    def test_other_hosts_get_the_ca_but_not_the_clients_pair(self) -> None:
        named = TrustSettings(Path("ca"), Path("c"), Path("k"), Path("d"), verify=False)
        assert named.for_other_hosts() == TrustSettings(cacert=Path("ca"))

    def test_port_443_is_the_host_without_a_port(self, places: TrustPlaces) -> None:
        off = TrustSettings(verify=False)
        trust = Trust({"r.example": off, "q.example:443": off}, TrustSettings(), places)
        assert trust.settings("R.example:443") is trust.settings("q.example") is off
        assert trust.settings("r.example:8443").verify

    def test_old_tls_is_not_offered(self, places: TrustPlaces) -> None:
        context = context_for("r", TrustSettings(), places)
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname


class TestClientCertificate:
    def test_a_pair_by_flag_is_shown(
        self, authority: Authority, pair: tuple[Path, Path], places: TrustPlaces
    ) -> None:
        cert, key = authority.issue("client", "extendedKeyUsage=clientAuth")
        settings = TrustSettings(authority.cert, cert, key)
        with serving(pair, client_ca=authority.cert) as port:
            context = context_for("localhost", settings, places)
            assert talk(context, port) == b"ok"
            bare = context_for("localhost", TrustSettings(authority.cert), places)
            assert "wants a client certificate" in failure(bare, port)

    def test_certificate_and_key_may_share_a_file(
        self, tmp_path: Path, pair: tuple[Path, Path], places: TrustPlaces
    ) -> None:
        both = tmp_path / "both.pem"
        both.write_bytes(pair[0].read_bytes() + pair[1].read_bytes())
        assert context_for("r", TrustSettings(cert=both), places)

    def test_one_of_another_ca_is_reported(
        self,
        tmp_path: Path,
        authority: Authority,
        pair: tuple[Path, Path],
        places: TrustPlaces,
    ) -> None:
        stranger = Authority(tmp_path / "stranger").issue("client")
        with serving(pair, client_ca=authority.cert) as port:
            settings = TrustSettings(authority.cert, *stranger)
            text = failure(context_for("localhost", settings, places), port)
        assert "rejected the client certificate" in text

    def test_an_encrypted_key_is_refused_and_nobody_is_asked(
        self, tmp_path: Path, pair: tuple[Path, Path], places: TrustPlaces
    ) -> None:
        locked = tmp_path / "locked.key"
        openssl("pkey", "-in", pair[1], "-out", locked, "-aes256", "-passout", "pass:x")
        settings = TrustSettings(cert=pair[0], key=locked)
        with pytest.raises(UsageError, match=r"--key .*locked.key' is encrypted"):
            context_for("r", settings, places)

    @pytest.mark.parametrize("kind", ["ec", "rsa"])
    def test_a_key_of_another_certificate_is_reported(
        self, tmp_path: Path, pair: tuple[Path, Path], places: TrustPlaces, kind: str
    ) -> None:
        key = tmp_path / "other.key"
        option = {"ec": "ec_paramgen_curve:P-256", "rsa": "rsa_keygen_bits:2048"}[kind]
        openssl("genpkey", "-algorithm", kind, "-pkeyopt", option, "-out", key)
        with pytest.raises(UsageError, match=r"does not belong to the certificate"):
            context_for("r", TrustSettings(cert=pair[0], key=key), places)

    def test_a_key_without_its_certificate_is_reported(
        self, places: TrustPlaces
    ) -> None:
        with pytest.raises(UsageError, match=r"needs its --cert"):
            context_for("r", TrustSettings(key=Path("x.key")), places)


class TestFiles:
    @pytest.mark.parametrize("flag", ["cacert", "cert"])
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "cannot be read: no such file"),
            (b"", "is empty"),
            (b"hello", "is not a certificate in PEM form"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "not a"),
            (b"\x30\x82\x01\x02", "is DER, wanted PEM"),
            (b"-----BEGIN PRIVATE KEY-----\n", "holds a private key, wanted"),
        ],
    )
    def test_a_file_that_is_no_certificate_is_named_with_its_flag(
        self,
        tmp_path: Path,
        places: TrustPlaces,
        flag: str,
        content: bytes | None,
        said: str,
    ) -> None:
        path, key = tmp_path / "given.pem", tmp_path / "key.pem"
        key.write_text("-----BEGIN PRIVATE KEY-----\n")
        if content is not None:
            path.write_bytes(content)
        settings = TrustSettings(
            **{flag: path}, **({"key": key} if flag == "cert" else {})
        )
        with pytest.raises(UsageError) as caught:
            context_for("r", settings, places)
        assert "given.pem" in str(caught.value)
        assert said in str(caught.value)
        assert f"--{flag} " in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_key_that_is_none_is_named(
        self, tmp_path: Path, pair: tuple[Path, Path], places: TrustPlaces
    ) -> None:
        settings = TrustSettings(cert=pair[0], key=tmp_path / "k")
        for content, said in {
            "hello": "holds no private key",
            "-----BEGIN PRIVATE KEY-----\nA": "is a broken private key",
        }.items():
            (tmp_path / "k").write_text(content)
            with pytest.raises(UsageError, match=rf"--key .*/k' {said}"):
                context_for("r", settings, places)

    def test_a_directory_in_place_of_a_file_is_reported(
        self, tmp_path: Path, places: TrustPlaces
    ) -> None:
        with pytest.raises(UsageError, match=r"--cacert .* is a directory"):
            context_for("r", TrustSettings(cacert=tmp_path), places)

    def test_a_missing_ssl_cert_file_is_reported(self, tmp_path: Path) -> None:
        places = TrustPlaces.from_environ({"SSL_CERT_FILE": f"{tmp_path}/none"})
        with pytest.raises(UsageError, match=r"SSL_CERT_FILE .*no such file"):
            context_for("r", TrustSettings(), places)


class TestDirectories:
    def test_their_order_is_the_users_first(self) -> None:
        found = TrustPlaces.from_environ({}, Path("/home/u")).host_directories
        assert list(map(str, found)) == [
            "/home/u/.config/containers/certs.d",
            "/etc/containers/certs.d",
            "/etc/docker/certs.d",
            "/home/u/.config/docker/certs.d",
        ]
        moved = TrustPlaces.from_environ({"XDG_CONFIG_HOME": "/x"}, Path("/home/u"))
        assert moved.host_directories[0] == Path("/x/containers/certs.d")
        assert len(TrustPlaces.from_environ({}).host_directories) == 2

    def test_the_first_that_has_the_host_counts_alone(
        self, tmp_path: Path, authority: Authority, places: TrustPlaces
    ) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        (first / "other:5000").mkdir(parents=True)
        for root, name in ((first, "r:5000"), (second, "r:5000"), (second, "q:5000")):
            (root / name).mkdir(parents=True)
            for number in range(1 if root is first else 2):
                content = authority.cert.read_bytes()
                (root / name / f"{number}.crt").write_bytes(content)
            authority = Authority(tmp_path / f"{root.name}-{name}-ca")
        places = with_roots(places, first, second)
        (second / "r:5000" / "broken.crt").write_text("never read")
        context = context_for("r:5000", TrustSettings(), places)
        assert context.cert_store_stats()["x509"] == 1
        assert context_for("q:5000", TrustSettings(), places).cert_store_stats()["x509"]
        assert not context_for("r", TrustSettings(), places).cert_store_stats()["x509"]

    @pytest.mark.parametrize("asked", ["r.example", "r.example:443"])
    @pytest.mark.parametrize("named", ["r.example", "r.example:443"])
    def test_port_443_may_be_written_or_not(
        self,
        tmp_path: Path,
        authority: Authority,
        places: TrustPlaces,
        asked: str,
        named: str,
    ) -> None:
        (tmp_path / named).mkdir()
        (tmp_path / named / "ca.crt").write_bytes(authority.cert.read_bytes())
        context = context_for(asked, TrustSettings(), with_roots(places, tmp_path))
        assert context.cert_store_stats()["x509"] == 1

    def test_a_host_is_never_a_path(
        self, tmp_path: Path, authority: Authority, places: TrustPlaces
    ) -> None:
        (tmp_path / "roots").mkdir()
        (tmp_path / "ca.crt").write_bytes(authority.cert.read_bytes())
        places = with_roots(places, tmp_path / "roots")
        for host in ("..", ".", "../..", "", "a/../.."):
            stats = context_for(host, TrustSettings(), places).cert_store_stats()
            assert stats["x509"] == 0

    def test_a_pair_in_the_directory_is_shown(
        self,
        tmp_path: Path,
        authority: Authority,
        pair: tuple[Path, Path],
        places: TrustPlaces,
    ) -> None:
        cert, key = authority.issue("client")
        (tmp_path / "ca.crt").write_bytes(authority.cert.read_bytes())
        (tmp_path / "client.cert").write_bytes(cert.read_bytes())
        (tmp_path / "client.key").write_bytes(key.read_bytes())
        (tmp_path / "README").write_text("not a certificate, not looked at")
        with serving(pair, client_ca=authority.cert) as port:
            settings = TrustSettings(cert_dir=tmp_path)
            assert talk(context_for("localhost", settings, places), port) == b"ok"

    @pytest.mark.parametrize(("orphan", "missing"), [("cert", "key"), ("key", "cert")])
    def test_half_a_pair_is_an_error(
        self, tmp_path: Path, places: TrustPlaces, orphan: str, missing: str
    ) -> None:
        (tmp_path / f"x.{orphan}").touch()
        with pytest.raises(UsageError, match=rf"x.{orphan} has no x.{missing} beside"):
            context_for("r", TrustSettings(cert_dir=tmp_path), places)

    def test_a_missing_cert_dir_is_reported(
        self, tmp_path: Path, places: TrustPlaces
    ) -> None:
        with pytest.raises(UsageError, match=r"--cert-dir .*none' cannot be read"):
            context_for("r", TrustSettings(cert_dir=tmp_path / "none"), places)

    @pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
    def test_what_may_not_be_read_is_skipped_with_a_notice(
        self, tmp_path: Path, authority: Authority, places: TrustPlaces
    ) -> None:
        """The daemon's client key is often readable by root alone."""
        closed, ours = tmp_path / "closed" / "r", tmp_path / "open" / "r"
        for directory in (closed, ours):
            directory.mkdir(parents=True)
            (directory / "ca.crt").write_bytes(authority.cert.read_bytes())
        for name in ("secret.cert", "secret.key", "secret.crt"):
            (ours / name).touch(mode=0o000)
        closed.chmod(0o000)
        events: list[Event] = []
        roots = with_roots(places, closed.parent, ours.parent)
        with as_nobody(tmp_path):
            context = context_for("r", TrustSettings(), roots, on_event=events.append)
        closed.chmod(0o700)
        assert context.cert_store_stats()["x509"] == 1
        skipped = {event.text for event in events if isinstance(event, Notice)}
        assert skipped == {
            f"{path}: permission denied, skipped"
            for path in (closed, ours / "secret.crt", ours / "secret.cert")
        }


def with_roots(places: TrustPlaces, *roots: Path) -> TrustPlaces:
    return TrustPlaces(
        host_directories=roots,
        bundles=(),
        default_file=places.default_file,
        default_directory=places.default_directory,
    )


class TestExplanations:
    def test_expired(self, authority: Authority, places: TrustPlaces) -> None:
        pair = authority.issue("old", SAN, ("20200101000000Z", "20210101000000Z"))
        self.expect(authority, pair, places, "has expired: renew it")

    def test_not_yet_valid(self, authority: Authority, places: TrustPlaces) -> None:
        pair = authority.issue("new", SAN, ("20440101000000Z", "20450101000000Z"))
        self.expect(authority, pair, places, "is not valid yet: set the clock")

    @pytest.mark.parametrize("extensions", ["subjectAltName=DNS:x.example", "# none"])
    def test_wrong_name(
        self, authority: Authority, places: TrustPlaces, extensions: str
    ) -> None:
        pair = authority.issue("localhost", extensions)
        self.expect(authority, pair, places, "is for another name")
        self.expect(authority, pair, places, "is for another name", "127.0.0.1")

    def test_not_for_servers(self, authority: Authority, places: TrustPlaces) -> None:
        pair = authority.issue("wrong", f"{SAN}\nextendedKeyUsage=clientAuth")
        self.expect(authority, pair, places, "is not valid for this use")

    def test_self_signed(
        self, tmp_path: Path, authority: Authority, places: TrustPlaces
    ) -> None:
        cert, key = tmp_path / "own.pem", tmp_path / "own.key"
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out",
                cert, "-subj", "/CN=localhost", "-addext", SAN)  # fmt: skip
        self.expect(authority, (cert, key), places, "is self-signed, and this machine")
        with serving((cert, key)) as port:
            context = context_for("localhost", TrustSettings(cacert=cert), places)
            assert talk(context, port) == b"ok"

    def expect(
        self,
        authority: Authority,
        pair: tuple[Path, Path],
        places: TrustPlaces,
        said: str,
        name: str = "localhost",
    ) -> None:
        settings = TrustSettings(cacert=authority.cert)
        with serving(pair) as port:
            text = failure(context_for("localhost", settings, places), port, name)
            assert text.startswith(f"{name}:{port}: ")
        assert said in text
        assert "\n" not in text

    def test_plain_http_behind_the_port(self, places: TrustPlaces) -> None:
        with serving(None) as port:
            text = failure(context_for("r", TrustSettings(), places), port)
        assert f"use --plain-http or http://localhost:{port}/" in text

    def test_only_an_old_version_of_tls(
        self, pair: tuple[Path, Path], places: TrustPlaces
    ) -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*pair)
        server.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            server.minimum_version = ssl.TLSVersion.TLSv1
            server.maximum_version = ssl.TLSVersion.TLSv1_1
        with serving_with(server) as port:
            text = failure(context_for("r", TrustSettings(), places), port)
        assert "enable TLS 1.2 or 1.3" in text

    def test_no_cipher_in_common(
        self, authority: Authority, pair: tuple[Path, Path], places: TrustPlaces
    ) -> None:
        """An EC certificate, and a server that wants to use RSA with it."""
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*pair)
        server.maximum_version = ssl.TLSVersion.TLSv1_2
        server.set_ciphers("AES128-GCM-SHA256")
        with serving_with(server) as port:
            text = failure(context_for("r", TrustSettings(), places), port)
        assert "or support no cipher" in text

    def test_a_connection_that_ends_in_the_handshake(self, places: TrustPlaces) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        context = context_for("r", TrustSettings(), places)
        with ours, pytest.raises(OSError) as caught:
            context.wrap_socket(ours, server_hostname="r").close()
        assert "closed the connection during the TLS handshake" in explain(
            caught.value, "r"
        )

    def test_the_cause_is_found_through_wrappers(self) -> None:
        cause = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
        cause.reason = "WRONG_VERSION_NUMBER"
        outer = PusherError("pool", RuntimeError("again", cause))
        outer.__cause__ = outer
        assert "--plain-http" in explain(outer, "r:1")

    def test_what_nobody_knows_is_quoted_in_one_line(self) -> None:
        assert explain(ValueError("{a}\nb"), "r:1") == "r:1: TLS failed: {a} b"
        strange = ssl.SSLCertVerificationError(1, "x")
        strange.verify_code, strange.verify_message = 999, "odd {0}"
        assert explain(strange, "r") == "r: the certificate is not accepted: odd {0}"
