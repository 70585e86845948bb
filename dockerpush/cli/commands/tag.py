"""``tag REF NEW ...``: more names for an image, within its registry."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, NamedTuple

from ...errors import UsageError
from ...reference import is_tag
from .. import console, location
from ..choose_target import target_lock, with_tag
from ..endpoints import Connections
from ..options import OPERANDS, add_json_option
from ..report import Outcomes
from ..side_options import add_registry_options, endpoint

if TYPE_CHECKING:
    from ...documents import RawManifest
    from ...reference import Reference
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``tag``."""
    parser.add_argument(
        "reference", metavar="REF", help="REGISTRY/REPO[:TAG] or REGISTRY/REPO@DIGEST"
    )
    parser.add_argument(
        "names",
        metavar="NEW",
        nargs="+",
        help="a tag in the same repository, or REGISTRY/REPO[:TAG] in the same "
        "registry (default: the tag of REF)",
    )
    parser.set_defaults(**{OPERANDS: "names"})
    add_json_option(parser, "print a JSON object for each NEW")
    add_registry_options(parser)


class Tagged(NamedTuple):
    """What was done for one name: *blobs* were mounted or there, *sent* bytes moved."""

    changed: bool
    blobs: int = 0
    sent: int = 0


def run(args: Namespace, session: Session) -> int:
    """Give the image its new names; the exit code."""
    source = with_tag(
        location.source(
            args.reference,
            if_file=f"to push it: dockerpush push {args.reference} -t REF",
        )
    )
    targets = list(dict.fromkeys(_target(name, source) for name in args.names))
    tally = Outcomes("tags", session)
    tally.expect(len(targets))
    with Connections(endpoint(args), session) as connections:
        image = _read(source, connections)
        for target in targets:
            with tally.attempt(str(target)):
                with target_lock(
                    target, connections.state.path, session, if_busy="wait"
                ):
                    done = _tag(source, image, target, connections)
                session.end_progress()
                _report(source, image, target, done, session)
    tally.finish()
    return console.DONE


def _target(text: str, source: Reference) -> Reference:
    """What *text* means beside *source*. Raises UsageError, InvalidReference."""
    if is_tag(text):
        return source.with_digest(None).with_tag(text)
    found = location.target(text)
    if found.digest:
        raise UsageError(f"{text!r:.200}: a digest is no new name: write a tag")
    if found.registry != source.registry:
        raise UsageError(
            f"tag works within {source.registry}; for another registry: "
            f"dockerpush copy {source} {found}"
        )
    return found if found.tag else found.with_tag(source.tag or "latest")


def _read(source: Reference, connections: Connections) -> RawManifest:
    from ...documents import RawManifest

    client = connections.client(source.registry)
    named = str(source.digest or source.tag)
    return RawManifest(*client.read_manifest(source.repository, named))


def _tag(
    source: Reference, image: RawManifest, target: Reference, connections: Connections
) -> Tagged:
    client, digest = connections.client(target.registry), image.descriptor.digest
    assert target.tag is not None, "a target has a tag"
    if target.repository != source.repository:
        return _mount(source, digest, target, connections)
    found = client.manifest_descriptor(target.repository, target.tag)
    if found is not None and found.digest == digest:
        return Tagged(changed=False)
    media_type = image.descriptor.media_type
    client.put_manifest(target.repository, target.tag, image.raw, media_type)
    return Tagged(changed=True)


def _mount(
    source: Reference, digest: str, target: Reference, connections: Connections
) -> Tagged:
    """Copy the image to another repository of the registry; its blobs are mounted."""
    from ...transfer.choices import CopyOptions
    from ...transfer.copy_image import copy_image
    from ...transfer.source import RegistrySource

    client = connections.client(source.registry)
    with connections.target(target) as place:
        result = copy_image(
            RegistrySource(client, source.repository),
            place,
            digest,
            tags=[str(target.tag)],
            options=CopyOptions(jobs=connections.settings(target.registry).jobs),
        )
    return Tagged(bool(result.manifests), sum(result.blobs.values()), result.sent)


def _report(
    source: Reference,
    image: RawManifest,
    target: Reference,
    done: Tagged,
    session: Session,
) -> None:
    digest = image.descriptor.digest
    with console.surviving_closed_stdout():
        if session.display.json:
            console.json_result(
                {
                    "source": str(source),
                    "target": str(target),
                    "ref": f"{target.name}@{digest}",
                    "tag": target.tag,
                    "digest": digest,
                    "changed": done.changed,
                    "bytes": done.sent,
                }
            )
        else:
            console.result(f"{target.name}@{digest}")
    if session.display.quiet:
        return
    if not done.changed:
        console.say(f"{target} is {digest} already")
        return
    console.say(f"tagged {source} as {target}")
    if done.sent:
        console.say(
            f"note: {target.registry} did not mount every blob; "
            f"{console.size_text(done.sent)} went through this machine"
        )
