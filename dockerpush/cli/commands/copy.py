"""``copy SRC DST``: between registries, archives and OCI directories."""

from __future__ import annotations

import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Sequence

from ...errors import Cancelled, PusherError, SomeFailed, UsageError
from ...values import value
from .. import console, location
from .. import console as exits
from .. import location as places
from ..choose_target import one_at_a_time, with_tag
from ..endpoints import (
    Connections,
    add_side_options,
    source_connections,
    target_arguments,
    warn_of_unused_sides,
)
from ..local import Into, Origin, archive_origins, copy_to_file, own_tag, tags_of
from ..options import (
    RECEIVING,
    SENDING,
    USED,
    add_trust_option,
    chosen_platforms,
    warn_of_json,
    warn_of_unused,
)
from ..report import check_writable, write_digests

if TYPE_CHECKING:
    from ...reference import Reference
    from ...transfer.choices import CopyOptions, CopyResult
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``copy``."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="an image in a registry; an archive or an OCI directory (also as "
        "oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]). "
        f"{location.REGISTRY} before a name always means a registry",
    )
    parser.add_argument(
        "target",
        metavar="DST",
        help="registry/repository[:tag], without a tag that of the source; or an "
        "archive or an OCI directory; - for an archive to standard output",
    )
    add_selection(parser)
    parser.add_argument(
        "-a", "--all-tags", action="store_true", help="every tag of the repository SRC"
    )
    parser.add_argument(
        "-n",
        "--no-clobber",
        action="store_true",
        help="leave a tag that DST has already as it is",
    )
    parser.add_argument(
        "--digestfile", metavar="FILE", help="write the manifest's digest to FILE"
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON object for each tag"
    )
    parser.add_argument("--format", choices=("json",), help=SUPPRESS)
    add_trust_option(parser)
    add_side_options(parser, USED["copy"])


def add_selection(parser: ArgumentParser) -> None:
    """What of an image is copied."""
    parser.add_argument(
        "--platform",
        action="append",
        default=[],
        metavar="OS/ARCH",
        help="only this platform of a multi-platform image, which changes its digest "
        "(may be repeated; default: all, with attestations)",
    )
    parser.add_argument(
        "--referrers",
        action="store_true",
        help="also what refers to the image: signatures, SBOMs",
    )


def run(args: Namespace, session: Session) -> int:
    """Copy what *args* name; the exit code."""
    source, target = places.local(args.source), places.local(args.target)
    chosen_platforms(args.platform)  # tells of mistakes before anybody is asked
    one_by_one = args.referrers or (args.all_tags and args.no_clobber)
    warn_of_unused_sides(args, source=bool(source), target=bool(target))
    if source and not target and not one_by_one:
        return _push(source, args, session)
    if args.trust_target:
        raise UsageError(
            "--trust-target is for an archive whose layers are compressed on the way "
            "into a registry; this copy compresses nothing: leave the option out"
        )
    _warn_of_unused(args, source=bool(source), target=bool(target))
    if args.digestfile:
        check_writable(args.digestfile)
    into = None
    if target:
        form = places.output_form(target, no_clobber=args.no_clobber)
        if target.path == places.STDOUT:
            warn_of_json("copy", args)
        into = Into(target, form, args.no_clobber)
    with ExitStack() as stack:
        copying = _Copying(args, session, stack)
        if source:
            origins = archive_origins(source, args, session, stack)
        else:
            origins = copying.registry_origins()
        if into:
            return copying.to_file(origins, into)
        return copying.to_registry(origins)


def _warn_of_unused(args: Namespace, *, source: bool, target: bool) -> None:
    """For a copy of layers as they are; *source* and *target* are local."""
    if source and target:
        warn_of_unused("copy from an archive into a file", ("jobs",), args)
    elif target:
        warn_of_unused("copy into a file", RECEIVING, args)
    else:
        what = "copy of layers as they are" if source else "copy from a registry"
        warn_of_unused(what, SENDING, args)


def copy_options(args: Namespace, jobs: int) -> CopyOptions:
    """How to copy, as *args* say. Raises UsageError."""
    from ...transfer.choices import CopyOptions

    return CopyOptions(chosen_platforms(args.platform), args.referrers, jobs)


def _push(place: places.Local, args: Namespace, session: Session) -> int:
    """An archive as the source: the same as ``push``."""
    from . import push as commands_push

    target = _target(args.target)
    if not args.all_tags:
        target = with_tag(target, own_tag(place) or "latest")
    if args.no_clobber:
        with Connections(target_arguments(args), session) as targets:
            if _is_taken(target, targets):
                _report_skipped(args.source, str(target), args)
                return exits.DONE
    parser = ArgumentParser()
    commands_push.configure(parser)
    given = vars(target_arguments(args))
    pushed = {**vars(parser.parse_args(["--", place.path])), **given}
    pushed.update(source=place.path, targets=[str(target)])
    if place.name is not None:
        pushed["name"] = place.name
    return commands_push.run(Namespace(**pushed), session)


@value
class Copied:
    """An image that was copied; *tag* is what it has in a registry."""

    source: str
    target: str
    name: str
    tag: str | None
    result: CopyResult
    seconds: float

    @property
    def ref(self) -> str:
        """Its name, and the digest that it has at the target."""
        return f"{self.name}@{self.result.descriptor.digest}"

    def record(self) -> dict[str, Any]:
        """What was done, for programs."""
        result = self.result
        return {
            "source": self.source,
            "target": self.target,
            "ref": self.ref,
            "tag": self.tag,
            "digest": result.descriptor.digest,
            "mediaType": result.descriptor.media_type,
            "size": result.descriptor.size,
            "manifests": result.manifests,
            "referrers": result.referrers,
            "blobs": {done.value: number for done, number in result.blobs.items()},
            "bytes": result.sent,
            "seconds": round(self.seconds, 3),
        }


class _Copying:
    """One run of the command; what it opens is open as long as *stack* is."""

    def __init__(self, args: Namespace, session: Session, stack: ExitStack) -> None:
        self._args = args
        self._session = session
        self._stack = stack
        self._sources: Connections | None = None
        self._started = time.monotonic()

    def registry_origins(self) -> list[Origin]:
        """The image of a registry, or every tag of a repository. Raises UsageError."""
        from ...transfer.source import RegistrySource

        wanted = location.source(
            self._args.source,
            if_file="copy takes a path, oci:DIR or docker-archive:FILE",
        )
        self._sources = self._stack.enter_context(
            source_connections(self._args, self._session)
        )
        client = self._sources.client(wanted.registry)
        if not self._args.all_tags:
            found = [with_tag(wanted)]
        elif wanted.tag or wanted.digest:
            raise UsageError("--all-tags takes repositories: no tag, no digest")
        else:
            tags = client.tags(wanted.repository)
            found = [wanted.with_tag(tag) for tag in tags]
        source = RegistrySource(client, wanted.repository)
        return [
            Origin(source, str(one.digest or one.tag), str(one), (str(one),))
            for one in found
        ]

    def to_file(self, origins: Sequence[Origin], into: Into) -> int:
        """Copy all of them into one file or directory; the exit code."""
        sources = self._sources or source_connections(self._args, self._session)
        options = copy_options(self._args, sources.settings().jobs)
        done = []
        for origin, result in copy_to_file(origins, into, options, self._session):
            target = self._args.target
            if result is None:
                _report_skipped(origin.label, f"{target} {origin.label}", self._args)
                continue
            name = origin.label
            if self._sources:
                name = _name(origin.label)
            done.append(self._copied(origin, target, name, None, result))
        self._session.end_progress()
        for copied in done:
            self._report(copied, to_stdout=into.place.path == places.STDOUT)
        self._write_digests(done)
        return exits.DONE

    def to_registry(self, origins: Sequence[Origin]) -> int:
        """Copy each to its place in the registry; the exit code."""
        targets = self._stack.enter_context(
            Connections(target_arguments(self._args), self._session)
        )
        wanted = _target(self._args.target)
        if self._args.all_tags and (wanted.tag or wanted.digest):
            raise UsageError("--all-tags takes repositories: no tag, no digest")
        done: list[Copied] = []
        failed: list[Reference] = []
        pairs = [(one, target) for one in origins for target in _targets(one, wanted)]
        if not self._args.all_tags:
            pairs = pairs[:1]
        _check_apart(pairs)
        for origin, target in pairs:
            try:
                if self._args.no_clobber and _is_taken(target, targets):
                    _report_skipped(origin.label, str(target), self._args)
                else:
                    done.append(self._copy(origin, target, targets))
            except Cancelled:
                raise
            except PusherError as error:
                if len(pairs) == 1:
                    raise
                self._session.end_progress()
                console.say(f"failed: {target}: {error}")
                failed.append(target)
        self._write_digests(done)
        if failed:
            raise SomeFailed(
                f"{len(failed)} of {len(pairs)} copies failed: "
                + ", ".join(map(str, failed[:5]))
            )
        return exits.DONE

    def _copy(self, origin: Origin, target: Reference, targets: Connections) -> Copied:
        from ...transfer.engine import copy_image
        from ...transfer.target import RegistryTarget

        self._started = time.monotonic()
        with (
            one_at_a_time(target, targets.state.path, self._session, if_busy="wait"),
            targets.target(target) as place,
        ):
            result = copy_image(
                origin.source,
                RegistryTarget(place),
                origin.reference,
                tags=[str(name) for name in (target.digest, target.tag) if name],
                options=copy_options(
                    self._args, targets.settings(target.registry).jobs
                ),
            )
        self._session.end_progress()
        copied = self._copied(origin, str(target), target.name, target.tag, result)
        self._report(copied)
        return copied

    def _copied(
        self,
        origin: Origin,
        target: str,
        name: str,
        tag: str | None,
        result: CopyResult,
    ) -> Copied:
        seconds = time.monotonic() - self._started
        return Copied(origin.label, target, name, tag, result, seconds)

    def _report(self, copied: Copied, *, to_stdout: bool = False) -> None:
        """*to_stdout*: the archive went there, so nothing else does."""
        if not to_stdout:
            with console.enduring():
                if self._args.json or self._args.format:
                    console.json_result(copied.record())
                else:
                    console.result(copied.ref)
        if not self._args.quiet:
            console.say(
                f"copied {copied.source} to {copied.target}: "
                f"{_summary(copied.result)} in {copied.seconds:.1f} s"
            )

    def _write_digests(self, done: Sequence[Copied]) -> None:
        if self._args.digestfile:
            write_digests(
                self._args.digestfile,
                ((str(one.result.descriptor.digest), one.target) for one in done),
            )


def _name(label: str) -> str:
    """The repository of *label*, a full reference."""
    from ...reference import Reference

    return Reference.parse(label).name


def _target(text: str) -> Reference:
    return location.target(
        text,
        if_file="write oci:DIR for a directory, oci-archive:FILE or "
        "docker-archive:FILE for an archive",
    )


def _targets(origin: Origin, wanted: Reference) -> list[Reference]:
    """Where *origin* goes: without a tag of its own, *wanted* gets the source's."""
    from ...reference import Reference

    if wanted.tag or wanted.digest:
        return [wanted]
    tags = tags_of(origin.names, origin.tags)
    if tags:
        return [wanted.with_tag(tag) for tag in tags]
    digests = [Reference.parse(name).digest for name in origin.names]
    return [wanted.with_digest(digests[0]) if digests else wanted.with_tag("latest")]


def _check_apart(pairs: Sequence[tuple[Origin, Reference]]) -> None:
    """Raises UsageError when two images would go to one place."""
    first: dict[Reference, Origin] = {}
    for origin, target in pairs:
        other = first.setdefault(target, origin)
        if other is not origin:
            raise UsageError(
                f"{target} is where both {other.label} and {origin.label} would go: "
                "copy them one by one"
            )


def _is_taken(target: Reference, targets: Connections) -> bool:
    named = str(target.digest) if target.tag is None else target.tag
    client = targets.client(target.registry)
    return client.manifest_descriptor(target.repository, named) is not None


def _summary(result: CopyResult) -> str:
    """What was done, for people; what is sent to a file is copied there."""
    if not result.manifests:
        return "it was there already, nothing copied"
    blobs = ", ".join(
        f"{number} {'copied' if done.value == 'uploaded' else done.value}"
        for done, number in result.blobs.items()
    )
    return f"{blobs or 'no blobs'}; {console.size_text(result.sent)}"


def _report_skipped(source: str, target: str, args: Namespace) -> None:
    if args.json or args.format:
        console.json_result({"source": source, "target": target, "skipped": True})
    if not args.quiet:
        console.say(f"left as it is: {target} exists")
