"""The proxy that a request goes through; and what to say when the proxy refuses."""

from __future__ import annotations

import http.client
import socket
import sys
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dockerpush.errors import UsageError
from dockerpush.registry.failures import proxy_failure
from dockerpush.registry.proxies import Proxy, ProxySettings, refusal

PROXY = "http://proxy.example:3128"


def through(url: str, **environ: str) -> str | None:
    proxy = ProxySettings.from_environ(environ).proxy_for(url)
    return proxy and proxy.url


class TestVariables:
    @pytest.mark.parametrize(
        ("environ", "http", "https"),
        [
            ({}, None, None),
            ({"http_proxy": PROXY}, PROXY, None),
            ({"HTTP_PROXY": PROXY}, PROXY, None),
            ({"https_proxy": PROXY}, None, PROXY),
            ({"HTTPS_PROXY": PROXY}, None, PROXY),
            ({"ALL_PROXY": PROXY}, PROXY, PROXY),
            ({"all_proxy": PROXY, "ALL_PROXY": "http://no:1"}, PROXY, PROXY),
            ({"all_proxy": "http://no:1", "HTTPS_PROXY": PROXY}, "http://no:1", PROXY),
            ({"https_proxy": PROXY, "HTTPS_PROXY": "http://no:1"}, None, PROXY),
            ({"https_proxy": "", "HTTPS_PROXY": "http://no:1"}, None, None),
            ({"https_proxy": " ", "all_proxy": PROXY}, PROXY, None),
            ({"REQUEST_METHOD": "GET", "HTTP_PROXY": PROXY}, None, None),
            ({"REQUEST_METHOD": "GET", "http_proxy": PROXY}, PROXY, None),
            ({"REQUEST_METHOD": "GET", "HTTPS_PROXY": PROXY}, None, PROXY),
        ],
    )
    def test_which_one_counts(
        self, environ: dict[str, str], http: str | None, https: str | None
    ) -> None:
        assert through("http://r.example/v2/", **environ) == http
        assert through("https://r.example:5000/v2/", **environ) == https

    def test_the_flag_wins_and_an_empty_one_means_none(self) -> None:
        environ = {"https_proxy": "http://no:1", "NO_PROXY": "skip.example"}
        settings = ProxySettings.from_environ(environ, proxy=PROXY)
        assert settings.proxy_for("https://r.example/") == Proxy(PROXY)
        assert settings.proxy_for("https://skip.example/") is None
        none = ProxySettings.from_environ(environ, proxy="")
        assert none.proxy_for("https://r.example/") is None

    def test_the_no_proxy_flag_replaces_the_variable(self) -> None:
        environ = {"https_proxy": PROXY, "NO_PROXY": "a.example"}
        settings = ProxySettings.from_environ(environ, no_proxy="b.example")
        assert settings.proxy_for("https://a.example/")
        assert settings.proxy_for("https://b.example/") is None

    def test_a_conflict_is_noted_without_the_values(self) -> None:
        environ = {"https_proxy": "http://u:pw@a:1", "HTTPS_PROXY": "http://u:pw@b:1"}
        (note,) = ProxySettings.from_environ(environ).notes
        assert note == "https_proxy is used, HTTPS_PROXY differs and is ignored"
        assert not ProxySettings.from_environ({"http_proxy": "a"}).notes

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST.", "127.0.0.1:5000", "127.8.9.1", "[::1]:5000"]
    )
    def test_this_machine_is_reached_directly(self, host: str) -> None:
        assert through(f"https://{host}/v2/", all_proxy=PROXY) is None
        named = ProxySettings.from_environ({}, proxy=PROXY)
        assert named.proxy_for(f"https://{host}/v2/"), "unless asked for in this run"


class TestNoProxy:
    @pytest.mark.parametrize(
        ("no_proxy", "host", "direct"),
        [
            ("*", "r.example", True),
            ("r.example", "r.example", True),
            ("R.Example", "r.EXAMPLE", True),
            ("r.example", "a.r.example", True),
            ("r.example", "xr.example", False),
            ("example", "r.example", True),
            (".example", "r.example", True),
            (".r.example", "r.example", False),
            ("*.example", "r.example", True),
            ("*.r.example", "r.example", False),
            ("*ample", "r.example", False),
            ("r.example", "r.example.", True),
            ("r.example:5000", "r.example:5000", True),
            ("r.example:5000", "r.example:5001", False),
            ("r.example:443", "r.example", True),
            ("r.example:80", "r.example", False),
            (".example:5000", "r.example:5000", True),
            ("10.1.2.3", "10.1.2.3:5000", True),
            ("10.1.2.3:5000", "10.1.2.3:5000", True),
            ("10.1.2.3:5000", "10.1.2.3", False),
            ("10.0.0.0/8", "10.1.2.3:5000", True),
            ("10.9.9.9/8", "10.1.2.3:5000", True),
            ("10.0.0.0/8", "11.1.2.3", False),
            ("10.0.0.0/8", "ten.example", False),
            ("fd00::/8", "[fd12::1]:5000", True),
            ("fd00::/8", "10.1.2.3", False),
            ("fd12::1", "[fd12:0::1]:5000", True),
            ("[fd12::1]:5000", "[fd12::1]:5000", True),
            ("[fd12::1]:5000", "[fd12::1]", False),
            ("[fd12::1]", "[fd12::1]", True),
            ("2.3", "10.1.2.3", False),
            ("a.example,r.example", "r.example", True),
            ("a.example r.example", "r.example", True),
            (" a.example ,\t r.example, ", "r.example", True),
            (",", "r.example", False),
            ("", "r.example", False),
            (".", "r.example", False),
            ("10.0.0.0/99", "10.1.2.3", False),
            ("[oops", "r.example", False),
            ("r.example:port", "r.example", False),
        ],
    )
    def test_an_entry_names_a_host(
        self, no_proxy: str, host: str, direct: bool
    ) -> None:
        found = through(f"https://{host}/v2/", https_proxy=PROXY, no_proxy=no_proxy)
        assert found == (None if direct else PROXY)

    @given(st.text(max_size=30))
    @example("[")
    @example("1/1")
    @example("٣.example:٣")
    def test_no_entry_breaks_anything(self, entry: str) -> None:
        for host in ("r.example", "10.1.2.3", "[fd12::1]:5000"):
            settings = ProxySettings.from_environ({"https_proxy": PROXY}, None, entry)
            settings.proxy_for(f"https://{host}/")


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "url"),
        [
            ("http://p.example:3128", "http://p.example:3128"),
            ("http://p.example:3128/", "http://p.example:3128"),
            ("p.example:3128", "http://p.example:3128"),
            ("p.example", "http://p.example:80"),
            ("https://p.example", "https://p.example:443"),
            ("HTTP://P.example:1", "http://p.example:1"),
            ("u:p@p.example:1", "http://p.example:1"),
            ("http://[fd12::1]:8080", "http://[fd12::1]:8080"),
            ("10.1.2.3:8080", "http://10.1.2.3:8080"),
        ],
    )
    def test_it_is_read(self, text: str, url: str) -> None:
        assert Proxy.parse(text).url == url

    def test_credentials_become_a_header_and_are_never_shown(self) -> None:
        text = "http://ali%40ce:p%3Aw@p.example:3128"
        settings = ProxySettings.from_environ({"HTTPS_PROXY": text})
        proxy = settings.proxy_for("https://r.example/")
        assert proxy is not None
        assert proxy.authorization.reveal() == "Basic YWxpQGNlOnA6dw=="
        assert proxy.address.reveal() == text
        assert settings.address_for("https://r.example/") == text
        assert settings.address_for("http://r.example/") is None
        assert (str(proxy), proxy.source) == ("http://p.example:3128", "HTTPS_PROXY")
        for shown in (repr(proxy), repr(settings)):
            assert not any(part in shown for part in ("p%3Aw", "p:w", "YWxp", "ali"))

    def test_a_user_without_a_password_is_one(self) -> None:
        assert Proxy.parse("u@p:1").authorization.reveal() == "Basic dTo="
        assert not Proxy.parse("p:1").authorization
        assert Proxy.parse("p:1").address.reveal() == "http://p:1"

    def test_socks_is_refused_in_clear_words(self) -> None:
        settings = ProxySettings.from_environ(
            {"all_proxy": "socks5h://u:secret@p:1080"}
        )
        with pytest.raises(UsageError, match="all_proxy names a SOCKS proxy") as caught:
            settings.proxy_for("https://r.example/")
        assert "secret" not in str(caught.value)
        assert settings.proxy_for("http://localhost:5000/") is None

    @pytest.mark.parametrize(
        "text",
        [
            "ftp://u:secret@p:1",
            "http://u:secret@",
            "http://u:secret@p:port",
            "http://u:secret@p:99999",
            "http://u:secret/@p:1",
            "http://u:secret@[fd12::1",
            "http://u:secret@p q:1",
            "u:secret@",
            "http://",
        ],
    )
    def test_what_is_no_address_is_refused_without_its_password(
        self, text: str
    ) -> None:
        with pytest.raises(
            UsageError, match="https_proxy is not the address"
        ) as caught:
            through("https://r.example/", https_proxy=text)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)

    @given(st.text(min_size=1, max_size=40))
    def test_any_text_is_an_address_or_a_usage_error(self, text: str) -> None:
        try:
            proxy = Proxy.parse(text)
        except UsageError:
            return
        assert proxy.url.startswith(("http://", "https://"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "said"),
        [
            (407, "wants a user and a password, or rejected them (407)"),
            (403, "denied access to this host or port (403)"),
            (502, "cannot reach the host (502)"),
        ],
    )
    def test_each_says_what_to_do(self, status: int, said: str) -> None:
        assert refusal(status, "p:1").startswith(f"the proxy p:1 {said}")

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="leaves its answer open")
    def test_a_refused_tunnel_is_known_by_what_http_client_raises(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=refuse_one, args=(server,))
            thread.start()
            connection = http.client.HTTPConnection(*server.getsockname(), timeout=5)
            connection.set_tunnel("r.example", 443)
            with pytest.raises(OSError) as caught:
                connection.connect()
            connection.close()
            thread.join(10)
        self.check_password_is_wanted(caught.value)

    def test_a_refused_tunnel_is_known_by_its_message(self) -> None:
        self.check_password_is_wanted(OSError("Tunnel connection failed: 407 Denied"))

    def check_password_is_wanted(self, error: OSError) -> None:
        text = str(proxy_failure("p:1", error))
        assert "wants a user and a password" in text

    def test_what_the_proxy_did_not_do_is_not_blamed_on_it(self) -> None:
        text = str(proxy_failure("p:1", ConnectionResetError("reset")))
        assert text == "cannot use the proxy p:1: reset; check --proxy and HTTPS_PROXY"


def refuse_one(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
