"""Challenges, and the authorization that answers them."""

from __future__ import annotations

import base64
import threading
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from responses import matchers
from scripted import asked, authorizations, scripted_answers  # noqa: F401

from dockerpush.credentials.identity import Credentials, Secret
from dockerpush.errors import (
    NetworkError,
    RegistryError,
    TransientError,
    Unauthorized,
)
from dockerpush.registry.auth import Challenge, choose, parse_challenges
from dockerpush.registry.http_session import Call, HttpSession
from dockerpush.registry.transport import TransportSettings
from dockerpush.system.cancellation import Cancellation

REALM = "https://auth.example.com/token"
CHALLENGE = f'Bearer realm="{REALM}",service="registry"'
HOST = "https://r.example.com"
PULL = ("repository:app:pull",)
PUSH = ("repository:app:pull,push",)
ALICE = Credentials("alice", Secret("correct horse"), source="a test")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_session(clock):
    with Cancellation() as cancellation:

        def make(credentials=None, registry="r.example.com", **settings: Any):
            return HttpSession(
                registry,
                TransportSettings(**settings),
                cancellation,
                credentials=lambda registry, repository: credentials,
                on_event=lambda event: None,
                clock=clock,
            )

        yield make


def call(
    session: HttpSession, url: str = "/v2/app/x", scopes=PULL, **more: Any
) -> bytes:
    method = more.pop("method", "GET")
    with session.send(Call(method, url, (200, 202), "app", scopes, **more)) as response:
        return response.read(1000)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# parsing


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        (["Basic"], [("basic", {})]),
        (['BASIC Realm="x"'], [("basic", {"realm": "x"})]),
        (
            ['Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"'],
            [
                (
                    "bearer",
                    {
                        "realm": "https://a/t",
                        "service": "s",
                        "scope": "repository:a:pull,push",
                    },
                )
            ],
        ),
        (
            ['Basic realm="x", Bearer realm="y",service=z'],
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})],
        ),
        (
            ['Bearer realm="y"', "Basic"],
            [("bearer", {"realm": "y"}), ("basic", {})],
        ),
        ([r'Bearer realm="a\"b\\c"'], [("bearer", {"realm": 'a"b\\c'})]),
        (
            ['Bearer realm = "y" , service = "s"'],
            [("bearer", {"realm": "y", "service": "s"})],
        ),
        (
            ["Bearer realm=y;x, error=invalid"],
            [("bearer", {"realm": "y;x", "error": "invalid"})],
        ),
        (['Bearer realm="first", realm="second"'], [("bearer", {"realm": "first"})]),
        (
            ["Negotiate YII/abc==, Basic realm=x"],
            [("negotiate", {}), ("basic", {"realm": "x"})],
        ),
        ([",, ,Basic , ,"], [("basic", {})]),
        (['realm="stray"'], []),
        (['Bearer realm="open'], [("bearer", {"realm": ""})]),
        (
            ['Bearer scope="*",realm="/token"'],
            [("bearer", {"scope": "*", "realm": "/token"})],
        ),
    ],
)
def test_challenges_are_parsed_as_servers_write_them(lines, expected):
    assert [(one.scheme, dict(one.parameters)) for one in parse_challenges(lines)] == (
        expected
    )


@given(st.lists(st.text()))
def test_any_header_parses_without_an_error(lines):
    for challenge in parse_challenges(lines):
        assert challenge.scheme == challenge.scheme.lower()
        assert all(name == name.lower() for name in challenge.parameters)


@given(st.lists(st.text(alphabet='Beri asc="\\,=/', max_size=60)))
def test_nearly_sensible_headers_parse_without_an_error(lines):
    parse_challenges(lines)


TOKEN = st.text(alphabet="abcdefgXYZ0123456789-", min_size=1)


@given(st.lists(st.tuples(TOKEN, st.dictionaries(TOKEN, st.text(), min_size=1))))
def test_what_is_written_by_the_rules_is_read_back(challenges):
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    wanted, texts = [], []
    for scheme, parameters in challenges:
        lower: dict[str, str] = {}
        for name, value in parameters.items():
            lower.setdefault(name.lower(), value)
        wanted.append(Challenge(scheme.lower(), lower))
        pairs = (f"{name}={quoted(value)}" for name, value in parameters.items())
        texts.append(f"{scheme} {', '.join(pairs)}")
    assert parse_challenges(texts) == wanted
    assert parse_challenges([", ".join(texts)]) == wanted


def test_a_long_header_takes_linear_time():
    assert len(parse_challenges(['Bearer realm="' + 'a="' * 20_000])) <= 2
    assert parse_challenges(["\\" * 60_000 + '="' * 1000]) == []


def test_bearer_is_chosen_before_basic_but_not_without_a_realm():
    both = parse_challenges(['Basic realm="x", Bearer realm="y"'])
    assert choose(both) == Challenge("bearer", {"realm": "y"})
    assert choose(parse_challenges(["Bearer", "Basic"])) == Challenge("basic", {})
    assert choose(parse_challenges(["Negotiate"])) is None


# the token flow


def add_challenged(scripted, challenge=CHALLENGE, path="/v2/app/x", method="GET"):
    scripted.add(
        method, HOST + path, status=401, headers={"WWW-Authenticate": challenge}
    )


def test_a_token_is_fetched_with_basic_for_the_scopes_that_we_want(
    scripted, make_session
):
    """The scopes are ours, repeated, the wanted one first (token.md)."""
    scripted.add(
        "GET", HOST + "/v2/app/x", status=401, headers={"WWW-Authenticate": CHALLENGE}
    )
    scripted.add("GET", REALM, json={"token": "t1", "expires_in": 300})
    scripted.add("GET", HOST + "/v2/app/x", body=b"fine")
    scopes = (*PUSH, "repository:other:pull")
    assert call(make_session(ALICE), scopes=scopes) == b"fine"
    query = parse_qs(scripted.calls[1].request.url.partition("?")[2])
    assert query == {
        "service": ["registry"],
        "account": ["alice"],
        "scope": list(scopes),
    }
    assert authorizations(scripted) == [
        None,
        basic("alice", "correct horse"),
        "Bearer t1",
    ]


def test_without_credentials_the_token_is_anonymous(scripted, make_session):
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"access_token": "anon"})
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    call(make_session())
    assert authorizations(scripted) == [None, None, "Bearer anon"]


def test_a_token_is_used_until_it_runs_out(scripted, make_session, clock):
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"token": "t1", "expires_in": 300})
    scripted.add("GET", REALM, json={"token": "t2", "expires_in": 300})
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    session = make_session()
    call(session)
    clock.now += 290
    call(session)
    assert authorizations(scripted)[-1] == "Bearer t1"
    clock.now += 6
    call(session)
    assert authorizations(scripted)[-1] == "Bearer t2"


@pytest.mark.parametrize("stated", [None, 0, 5, -1, "soon", "nan"])
def test_a_token_lives_sixty_seconds_at_least(scripted, make_session, clock, stated):
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"token": "t1", "expires_in": stated})
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    session = make_session()
    call(session)
    clock.now += 54
    call(session)
    assert sum(REALM in line for line in asked(scripted)) == 1
    clock.now += 2
    call(session)
    assert sum(REALM in line for line in asked(scripted)) == 2


@pytest.mark.parametrize(
    ("lifetime", "passed", "size", "refreshed"),
    [
        (300, 200, 1000, False),
        (300, 250, 1000, True),  # less than a minute is left
        (300, 100, 190 * 2**20, False),
        (300, 120, 190 * 2**20, True),  # would outlive it
        (300, 30, 2**40, False),  # no token lasts that long: as good as a new one
        (300, 70, 2**40, True),
        (60, 5, 1000, False),
    ],
)
def test_a_token_is_renewed_before_a_body_that_would_outlive_it(
    scripted, make_session, clock, lifetime, passed, size, refreshed
):
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"token": "t", "expires_in": lifetime})
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    session = make_session()
    call(session)
    clock.now += passed
    needed = max(60.0, size / 2**20)
    grant = session.auth.authorization("app", PULL, needed)
    assert grant is not None
    assert grant.fresh is refreshed


def test_a_body_asks_for_a_token_that_lasts_a_minute(scripted, make_session, clock):
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"token": "t1", "expires_in": 300})
    scripted.add("GET", REALM, json={"token": "t2", "expires_in": 300})
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    scripted.add("PUT", HOST + "/v2/app/y", status=202)
    session = make_session()
    call(session)
    clock.now += 250
    call(session, "/v2/app/y", method="PUT", stream=[b"abc"], size=3)
    assert authorizations(scripted)[-1] == "Bearer t2"


def test_each_scope_has_its_own_token(scripted, make_session):
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"token": "t1"})
    scripted.add("GET", REALM, json={"token": "t2"})
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    session = make_session()
    call(session, scopes=PULL)
    call(session, scopes=PUSH)
    call(session, scopes=PULL)
    on_calls = [one for one in authorizations(scripted) if one is not None]
    assert on_calls == ["Bearer t1", "Bearer t2", "Bearer t1"]


def test_a_token_that_ran_out_on_the_way_costs_one_refresh(scripted, make_session):
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"token": "t1"})
    scripted.add("GET", REALM, json={"token": "t2"})
    scripted.add("GET", HOST + "/v2/app/x", body=b"1")
    scripted.add(
        "GET", HOST + "/v2/app/x", status=401, headers={"WWW-Authenticate": CHALLENGE}
    )
    scripted.add("GET", HOST + "/v2/app/x", body=b"2")
    session = make_session()
    assert (call(session), call(session)) == (b"1", b"2")
    assert authorizations(scripted)[-2:] == [None, "Bearer t2"]


def test_a_token_with_less_than_was_asked_for_is_a_refusal_not_a_loop(
    scripted, make_session
):
    """The server grants pull for pull,push without an error, then 401 (token.md)."""
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"token": "weak"})
    scripted.add(
        "GET",
        HOST + "/v2/app/x",
        status=401,
        headers={"WWW-Authenticate": CHALLENGE + ',error="insufficient_scope"'},
        json={"errors": [{"code": "UNAUTHORIZED", "message": "access to app denied"}]},
    )
    with pytest.raises(Unauthorized) as caught:
        call(make_session(ALICE), scopes=PUSH)
    assert len(scripted.calls) == 3
    assert "access to app denied" in str(caught.value)
    assert "'alice' (from a test)" in str(caught.value)


def test_a_token_fetched_for_this_very_request_is_not_fetched_again(
    scripted, make_session
):
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"token": "weak"})
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    scripted.add("POST", HOST + "/v2/app/y", status=401)
    session = make_session(ALICE)
    call(session, scopes=PULL)
    with pytest.raises(Unauthorized):
        call(session, "/v2/app/y", method="POST", scopes=PUSH)
    assert sum(REALM in line for line in asked(scripted)) == 2
    assert sum(line.startswith("POST") for line in asked(scripted)) == 1


def test_a_body_that_got_a_401_is_not_sent_again_here(scripted, make_session):
    """Its caller owns it; the next call has a new token."""
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"token": "t1"})
    scripted.add("GET", REALM, json={"token": "t2"})
    scripted.add("GET", HOST + "/v2/app/x", body=b"1")
    scripted.add("PUT", HOST + "/v2/app/y", status=401)
    scripted.add("PUT", HOST + "/v2/app/y", status=202)
    session = make_session()
    call(session)
    with pytest.raises(Unauthorized):
        call(session, "/v2/app/y", method="PUT", stream=[b"abc"], size=3)
    call(session, "/v2/app/y", method="PUT", stream=[b"abc"], size=3)
    assert authorizations(scripted)[-3:] == ["Bearer t1", None, "Bearer t2"]


def test_without_a_login_the_error_says_how(scripted, make_session):
    add_challenged(scripted, 'Basic realm="x"')
    with pytest.raises(Unauthorized, match="try: dockerpush login r"):
        call(make_session())
    assert len(scripted.calls) == 1


def test_basic_is_sent_after_the_challenge_and_then_at_once(scripted, make_session):
    add_challenged(scripted, "Basic")  # old Gitea: no realm
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    session = make_session(Credentials("robot$ci", Secret("p:ä s"), source="a test"))
    call(session)
    call(session)
    known = basic("robot$ci", "p:ä s")
    assert authorizations(scripted) == [None, known, known]


def test_wrong_basic_credentials_end_at_once_and_name_their_source(
    scripted, make_session
):
    add_challenged(scripted, "Basic realm=x")
    with pytest.raises(Unauthorized, match=r"'alice' \(from a test\)"):
        call(make_session(ALICE))
    assert len(scripted.calls) == 2


def test_gcr_challenges_only_at_the_root(scripted, make_session):
    """gcr.io: 401 without WWW-Authenticate (c/image docker_client.go)."""
    scripted.add("GET", HOST + "/v2/app/x", status=401)
    scripted.add(
        "GET", HOST + "/v2/", status=401, headers={"WWW-Authenticate": CHALLENGE}
    )
    scripted.add("GET", REALM, json={"token": "t1"})
    scripted.add("GET", HOST + "/v2/app/x", body=b"fine")
    assert call(make_session(ALICE)) == b"fine"


def test_a_401_that_offers_nothing_is_a_refusal(scripted, make_session):
    scripted.add("GET", HOST + "/v2/app/x", status=401)
    scripted.add("GET", HOST + "/v2/", status=200)
    with pytest.raises(Unauthorized):
        call(make_session(ALICE))


def test_an_identity_token_is_exchanged_by_post(scripted, make_session):
    """docs/spec/auth/oauth.md: scopes joined by spaces, offline_token not asked for."""
    form = {
        "service": "registry",
        "client_id": "dockerpush",
        "scope": "repository:app:pull,push repository:b:pull",
        "grant_type": "refresh_token",
        "refresh_token": "identity",
    }
    add_challenged(scripted)
    scripted.add(
        "POST",
        REALM,
        json={"access_token": "t1", "refresh_token": "next"},
        match=[matchers.urlencoded_params_matcher(form)],
    )
    scripted.add(
        "POST",
        REALM,
        json={"access_token": "t2"},
        match=[
            matchers.urlencoded_params_matcher(
                {**form, "refresh_token": "next", "scope": "repository:app:pull"}
            )
        ],
    )
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    session = make_session(Credentials("<token>", identity_token=Secret("identity")))
    call(session, scopes=(*PUSH, "repository:b:pull"))
    call(session, scopes=PULL)
    assert authorizations(scripted)[-1] == "Bearer t2"


@pytest.mark.parametrize("status", [404, 405])
def test_a_token_server_without_post_is_asked_by_get(scripted, make_session, status):
    """ggcr bearer.go: not all token servers implement oauth2."""
    add_challenged(scripted)
    scripted.add("POST", REALM, status=status)
    scripted.add("GET", REALM, json={"token": "t1"})
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    call(make_session(Credentials(identity_token=Secret("identity"))))
    assert authorizations(scripted)[2] == basic("<token>", "identity")


def test_a_token_server_without_get_is_asked_by_post(scripted, make_session):
    add_challenged(scripted)
    scripted.add("GET", REALM, status=405)
    form = {
        "service": "registry",
        "client_id": "dockerpush",
        "scope": PULL[0],
        "grant_type": "password",
        "username": "alice",
        "password": "correct horse",
    }
    matching = [matchers.urlencoded_params_matcher(form)]
    scripted.add("POST", REALM, json={"token": "t1"}, match=matching)
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    call(make_session(ALICE))


def test_a_registry_token_is_sent_as_it_is(scripted, make_session):
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    call(make_session(Credentials(registry_token=Secret("rt"))))
    assert authorizations(scripted) == ["Bearer rt"]


def test_a_missing_service_is_left_out_and_a_query_of_the_realm_is_kept(
    scripted, make_session
):
    add_challenged(scripted, f'Bearer realm="{REALM}?tenant=7"')
    matching = [matchers.query_param_matcher({"tenant": "7", "scope": PULL[0]})]
    scripted.add("GET", REALM, json={"token": "t"}, match=matching)
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    call(make_session())


def test_a_relative_realm_is_on_the_registry(scripted, make_session):
    add_challenged(scripted, 'Bearer realm="/service/token"')
    scripted.add("GET", HOST + "/service/token", json={"token": "t"})
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    call(make_session())


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example.com/token",
        "ftp://auth.example.com/token",
        "https://alice@auth.example.com/token",
        "https://auth.example.com:99999/token",
        "file:///etc/passwd",
        "https://auth.example.com/to ken",
    ],
)
def test_a_realm_that_cannot_be_trusted_gets_nothing(scripted, make_session, realm):
    """https only, no user name in it (CVE-2026-48978)."""
    add_challenged(scripted, f'Bearer realm="{realm}"')
    with pytest.raises(NetworkError):
        call(make_session(ALICE))
    assert len(scripted.calls) == 1


def test_a_plain_http_registry_may_have_a_plain_http_realm(scripted, make_session):
    scripted.add(
        "GET",
        "http://r.example.com/v2/app/x",
        status=401,
        headers={"WWW-Authenticate": 'Bearer realm="http://auth.example.com/t"'},
    )
    scripted.add("GET", "http://auth.example.com/t", json={"token": "t"})
    scripted.add("GET", "http://r.example.com/v2/app/x", body=b"")
    call(make_session(ALICE, plain_http=True))


def test_a_redirect_of_the_token_server_is_not_followed(scripted, make_session):
    add_challenged(scripted)
    scripted.add(
        "GET", REALM, status=302, headers={"Location": "https://evil.example.com/"}
    )
    with pytest.raises(NetworkError, match="redirects"):
        call(make_session(ALICE))


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_server_that_says_no_is_a_refusal(scripted, make_session, status):
    add_challenged(scripted)
    scripted.add("GET", REALM, status=status, json={"details": "incorrect username"})
    with pytest.raises(Unauthorized, match=r"'alice' \(from a test\)"):
        call(make_session(ALICE))


def test_a_token_server_that_is_busy_may_be_asked_again(scripted, make_session):
    add_challenged(scripted)
    scripted.add("GET", REALM, status=503, headers={"Retry-After": "7"})
    with pytest.raises(TransientError) as caught:
        call(make_session(ALICE))
    assert (caught.value.status, caught.value.retry_after) == (503, 7.0)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        '{"token": ""}',
        '{"token": 3}',
        '{"token": "a\\r\\nX: y"}',
        "<p>",
    ],
)
def test_an_answer_without_a_token_is_an_error(scripted, make_session, body):
    add_challenged(scripted)
    scripted.add("GET", REALM, body=body)
    with pytest.raises(RegistryError):
        call(make_session())


def test_an_endless_token_is_not_read(scripted, make_session):
    add_challenged(scripted)
    scripted.add("GET", REALM, body=b'{"token":"' + b"a" * 2_000_000 + b'"}')
    with pytest.raises(NetworkError, match="more than"):
        call(make_session())


def test_many_threads_fetch_one_token(scripted, make_session):
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"token": "t1", "expires_in": 300})
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    session = make_session()
    call(session)
    grants: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda: grants.append(session.auth.authorization("app", PUSH))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({grant.header for grant in grants}) == 1
    assert sum(grant.fresh for grant in grants) == 1


def test_the_credentials_are_looked_up_once_for_a_repository(scripted, make_session):
    add_challenged(scripted, "Basic")
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    lookups: list[tuple[str, str]] = []

    def source(registry: str, repository: str) -> Credentials:
        lookups.append((registry, repository))
        return ALICE

    with Cancellation() as cancellation:
        session = HttpSession(
            "r.example.com",
            TransportSettings(),
            cancellation,
            credentials=source,
            on_event=lambda event: None,
        )
        call(session)
        call(session)
    assert lookups == [("r.example.com", "app")]


def test_no_secret_shows_in_a_repr(scripted, make_session):
    add_challenged(scripted)
    scripted.add("GET", REALM, json={"token": "hidden"})
    scripted.add("GET", HOST + "/v2/app/x", body=b"")
    session = make_session(ALICE)
    call(session)
    grant = session.auth.authorization("app", PULL)
    shown = repr(grant) + repr(ALICE) + f"{grant} {ALICE.password}"
    assert "hidden" not in shown
    assert "horse" not in shown
