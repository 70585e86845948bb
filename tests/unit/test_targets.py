"""Where a push without -t goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.cli.choose_target import Inference, Known, Login, infer_target
from dockerpush.errors import InvalidReference, PusherError, UsageError
from dockerpush.reference import Reference
from dockerpush.state.history import Destination


def destination(registry: str, repository: str, time: float = 100.0) -> Destination:
    return Destination(Reference(registry, repository, "1"), time)


def known(
    *destinations: Destination, logins: tuple[Login, ...] = (), confirmed: str = ""
) -> Known:
    return Known(destinations, logins, lambda target: target.name in confirmed.split())


NOTHING = Known()

TABLE = """
    RepoTag             after push to reg/team/app:1   after login to reg   nothing
    app:2               reg/team/app:2                 reg/app:2            exit-2
    nginx:1             reg/team/nginx:1               reg/nginx:1          exit-2
    foo/bar:1           reg/team/bar:1                 reg/foo/bar:1        exit-2
    quay.io/foo/bar:1   reg/team/bar:1   reg/foo/bar:1   quay.io/foo/bar:1
    localhost/x:3       reg/team/x:3                   reg/x:3              exit-2
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()[1:]]


@pytest.mark.parametrize("registry", ["reg", "reg.example.com:5000"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_table(row: list[str], registry: str) -> None:
    """The place from the last push, from the last login, from the name itself."""
    repo_tag, after_push, after_login, from_nothing = row
    push = known(destination(registry, "team/app"))
    login = known(logins=(Login(registry, 100.0),))
    for state, expected in (
        (push, after_push),
        (login, after_login),
        (NOTHING, from_nothing),
    ):
        if expected == "exit-2":
            with pytest.raises(UsageError, match=r"no target for .* -t .* --registry"):
                infer_target(repo_tag, state)
        else:
            expected = expected.replace("reg/", f"{registry}/", 1)
            assert str(infer_target(repo_tag, state).reference) == expected


def test_the_more_recent_of_login_and_push_counts() -> None:
    push = destination("a.io", "team/app", 100.0)
    earlier, later = Login("b.io", 99.0), Login("b.io", 101.0)
    for logins, expected in (
        ((earlier,), "a.io/team/web:1"),
        ((later,), "b.io/web:1"),
        ((later, earlier), "b.io/web:1"),
        ((earlier, later), "b.io/web:1"),
        ((Login("c.io", 50.0), earlier), "a.io/team/web:1"),
    ):
        inference = infer_target("web:1", known(push, logins=logins))
        assert str(inference.reference) == expected


def test_a_repository_with_the_same_name_comes_before_the_newest_prefix() -> None:
    state = known(
        destination("new.io", "other/web", 300.0),
        destination("old.io", "team/app", 200.0),
        destination("older.io", "team/app", 100.0),
    )
    assert str(infer_target("app:2", state).reference) == "old.io/team/app:2"
    assert str(infer_target("db:2", state).reference) == "new.io/other/db:2"
    assert str(infer_target("x/app:2", state).reference) == "old.io/team/app:2"


def test_a_repository_with_the_whole_path_comes_before_one_with_the_last_part() -> None:
    state = known(
        destination("new.io", "baz/bar", 300.0), destination("old.io", "foo/bar", 200.0)
    )
    assert str(infer_target("foo/bar:1", state).reference) == "old.io/foo/bar:1"


def test_the_same_name_means_the_whole_part() -> None:
    state = known(destination("a.io", "team/myapp"))
    assert str(infer_target("app:2", state).reference) == "a.io/team/app:2"
    state = known(destination("a.io", "app"))
    assert str(infer_target("app:2", state).reference) == "a.io/app:2"


def test_a_new_login_at_the_same_registry_does_not_move_an_image() -> None:
    """Logging in again, as a cron job does, is no wish to push elsewhere."""
    state = known(destination("a.io", "team/app"), logins=(Login("a.io", 200.0),))
    assert str(infer_target("app:2", state).reference) == "a.io/team/app:2"
    elsewhere = known(destination("a.io", "team/app"), logins=(Login("b.io", 200.0),))
    assert str(infer_target("app:2", elsewhere).reference) == "b.io/app:2"


@pytest.mark.parametrize(
    ("repo_tag", "registry", "expected"),
    [
        ("app:2", "c.io", "c.io/app:2"),
        ("foo/bar:1", "c.io:5000/", "c.io:5000/foo/bar:1"),
        ("foo/bar:1", "c.io/x/y", "c.io/x/y/bar:1"),
        ("quay.io/foo/bar:1", "c", "c/foo/bar:1"),
        ("docker.io/library/nginx:1", "c.io", "c.io/nginx:1"),
        ("localhost:5000/x:3", "localhost", "localhost/x:3"),
        ("app", "c.io", "c.io/app:latest"),
        ("app:1@sha256:" + "a" * 64, "c.io", "c.io/app:1"),
    ],
)
def test_the_registry_flag_comes_first(
    repo_tag: str, registry: str, expected: str
) -> None:
    state = known(destination("a.io", "team/app"), logins=(Login("b.io", 200.0),))
    inference = infer_target(repo_tag, state, registry=registry)
    assert (str(inference.reference), inference.why) == (expected, "--registry")


@pytest.mark.parametrize("registry", ["", "/x", "http://c.io", "c.io/UPPER", "c.io//x"])
def test_a_registry_flag_that_cannot_be_is_refused(registry: str) -> None:
    with pytest.raises(InvalidReference, match="not a registry"):
        infer_target("app:2", NOTHING, registry=registry)


@pytest.mark.parametrize(
    ("repo_tag", "expected"),
    [
        ("localhost:5000/x:3", "localhost:5000/x:3"),
        ("docker.io/library/nginx:1", "docker.io/library/nginx:1"),
        ("docker.io/foo/bar:1", "docker.io/foo/bar:1"),
        ("quay.io/a/b/c:1", "quay.io/a/b/c:1"),
    ],
)
def test_a_registry_in_the_name_is_the_last_resort(
    repo_tag: str, expected: str
) -> None:
    inference = infer_target(repo_tag, NOTHING)
    assert str(inference.reference) == expected
    assert inference.why == "the registry in the image's name"


def test_official_images_have_one_name_whoever_saved_them() -> None:
    """docker writes nginx:1 where podman writes docker.io/library/nginx:1."""
    state = known(logins=(Login("b.io", 1.0),))
    for repo_tag in ("nginx:1", "docker.io/library/nginx:1"):
        assert str(infer_target(repo_tag, state).reference) == "b.io/nginx:1"
    assert (
        str(infer_target("quay.io/library/x:1", state).reference) == "b.io/library/x:1"
    )


@pytest.mark.parametrize(
    ("repo_tag", "username", "expected"),
    [
        ("app:2", "joe", "docker.io/joe/app:2"),
        ("foo/app:2", "joe", "docker.io/foo/app:2"),
        ("app:2", "Joe@example.com", "docker.io/library/app:2"),
        ("app:2", "", "docker.io/library/app:2"),
    ],
)
def test_at_docker_hub_a_short_name_is_the_users_own(
    repo_tag: str, username: str, expected: str
) -> None:
    state = known(logins=(Login("docker.io", 1.0, username),))
    assert str(infer_target(repo_tag, state).reference) == expected


def test_confirmed_is_the_repository_whatever_the_tag() -> None:
    state = known(destination("a.io", "team/app"), confirmed="a.io/team/app c.io/app")
    assert infer_target("app:99", state) == Inference(
        Reference("a.io", "team/app", "99"), confirmed=True, why="pushed there before"
    )
    assert infer_target("web:1", state) == Inference(
        Reference("a.io", "team/web", "1"),
        confirmed=False,
        why="the registry of your last push",
    )
    assert infer_target("app:1", state, registry="c.io").confirmed


@pytest.mark.parametrize(
    "repo_tag", ["", "UPPER:1", "a b", "<none>:<none>", "f" * 64, "http://a.io/x:1"]
)
def test_a_name_that_is_no_reference_needs_a_target(repo_tag: str) -> None:
    with pytest.raises(UsageError, match="name the target with -t"):
        infer_target(repo_tag, known(destination("a.io", "team/app")))


def test_a_digest_alone_is_no_name_to_push_under() -> None:
    with pytest.raises(UsageError, match="has no tag"):
        infer_target("app@sha256:" + "a" * 64, known(destination("a.io", "team/app")))


PARTS = st.sampled_from(["a", "docker.io", "localhost", "library", "x.io:5", "", "A"])


@given(
    st.lists(PARTS, max_size=4).map("/".join),
    st.sampled_from(["", ":1", "@sha256:" + "b" * 64]),
    st.sampled_from([None, "reg", "docker.io", "r.io/p"]),
)
def test_whatever_is_inferred_is_a_reference_that_parses_again(
    path: str, suffix: str, registry: str | None
) -> None:
    state = known(destination("docker.io", "library/a"), logins=(Login("reg", 1.0),))
    try:
        found = infer_target(path + suffix, state, registry=registry).reference
    except PusherError as error:
        assert "\n" not in str(error)
    else:
        assert found.tag
        assert found == Reference(found.registry, found.repository, found.tag)
