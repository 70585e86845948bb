"""What the first edition offered as a library is still offered, as it was written down.

More parameters, fields and methods may come, at places where no caller trips over them.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import dockerpush
import dockerpush.events

ACCESS = "username=None, password=None, plain_http=False, cacert=None"
WATCH = "on_event=ignore, cancellation=None"

SIGNATURES = {
    "push": f"source, target, *, name=None, {ACCESS}, options=PushOptions(), {WATCH}",
    "pull": f"source, output, *, form=None, platforms=(), cache=None, {ACCESS}, jobs=3,"
    f" {WATCH}",
    "copy": "source, target, *, source_username=None, source_password=None, "
    f"{ACCESS}, options=CopyOptions(), {WATCH}",
    "connect": f"registry, *, {ACCESS}, actions='pull', {WATCH}",
    "open_archive": "path",
    "PushOptions": "compress='auto', compress_level=None, jobs=3, temp_directory=None, "
    "temp_budget=None, platforms=(), strict=False",
    "CopyOptions": "platforms=(), referrers=False, jobs=3",
    "CopyResult": "descriptor, manifests=0, referrers=0, blobs=..., sent=0",
    "PulledImage": "reference, root, chosen, blobs, received",
    "PushResult": "repository, tags, descriptor, blobs, sent",
    "Platform": "os, architecture, variant=None, os_version=None",
    "Reference": "registry, repository, tag=None, digest=None",
    "RegistryClient": "registry, settings, cancellation, *, credentials=..., "
    "policy=None, on_event=..., actions='pull,push'",
    "Cancellation": "",
}
"""As f55a92b has them, but for `form`: it was 'docker-archive', and still may be.

None, the default now, is the same and also takes what docker cannot load.
"""

MEMBERS = {
    "Archive": "close images open_at path referrers",
    "Cancellation": "cancel cancelled check child close wait",
    "Platform": "from_json parse to_json",
    "Reference": "name parse with_digest with_tag",
    "RegistryClient": "api_version base blob_size cancel_upload challenge close "
    "delete_blob delete_manifest download finish_upload manifest_descriptor open_blob "
    "ping put_manifest read_blob read_manifest referrers send_chunk start_upload tags "
    "upload_status",
}

FIELDS = ("CopyResult", "PulledImage", "PushOptions", "PushResult", "CopyOptions")

NAMES = {*SIGNATURES, "Archive", "PusherError", "__version__"}


class Anything:
    """Equal to any default: what is written as ``...`` may be anything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def written(text: str) -> list[inspect.Parameter]:
    """The parameters of a signature that was written down."""
    known = {
        "ignore": dockerpush.events.ignore,
        "PushOptions": dockerpush.PushOptions,
        "CopyOptions": dockerpush.CopyOptions,
    }
    made: Any = eval(f"lambda {text.replace('...', 'ANY')}: 0", {**known, "ANY": ANY})
    return list(inspect.signature(made).parameters.values())


ANY = Anything()


def test_every_name_is_there():
    assert set(dockerpush.__all__) >= NAMES


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_call_of_the_first_edition_means_the_same(name):
    before = written(SIGNATURES[name])
    now = inspect.signature(getattr(dockerpush, name)).parameters
    for parameter in before:
        kept = now[parameter.name]
        assert kept.kind == parameter.kind
        assert parameter.default == kept.default, parameter.name
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    places = [one.name for one in before if one.kind is positional]
    assert [p for p in now if now[p].kind is positional][: len(places)] == places
    for added in set(now) - {one.name for one in before}:
        assert now[added].default is not inspect.Parameter.empty, added


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_is_there(name):
    offered = getattr(dockerpush, name)
    fields = set(inspect.signature(offered).parameters)
    assert set(MEMBERS[name].split()) <= {*dir(offered), *fields}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_can_be_read(name):
    offered = getattr(dockerpush, name)
    fields = [one.name for one in written(SIGNATURES[name])]
    value = offered(**{field: ANY for field in fields})
    assert [getattr(value, field) for field in fields] == [ANY] * len(fields)


def test_every_error_is_a_pusher_error():
    assert issubclass(dockerpush.PusherError, Exception)
