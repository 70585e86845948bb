"""``copy SRC DST``: between registries, archives and OCI directories."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from ...documents import held
from ...errors import UsageError
from ...settings.keys import RECEIVING, SENDING
from ...transfer.choices import OCI_DIRECTORY
from ...values import replace, value
from .. import console, location
from ..choose_target import target_lock, with_tag
from ..endpoints import Connections, Endpoint
from ..have import add_have_option, check_have, read_have
from ..image_files import (
    ImageOrigin,
    ImageOutput,
    archive_origins,
    check_sums,
    copy_to_file,
    exists,
    loadable_origins,
    output_form,
    own_tag,
    say_volumes,
    tags_of,
)
from ..options import (
    RARE,
    USED,
    add_digestfile_option,
    add_json_option,
    add_selection,
    add_split_option,
    add_sums_option,
    add_trust_option,
    add_volumes_option,
    chosen_platforms,
    warn_of_json,
)
from ..recompress_options import (
    add_recompress_option,
    check_recompress,
    copy_or_recompress,
    recompressing,
)
from ..report import (
    Outcomes,
    check_lost,
    check_writable,
    moved,
    say_replaced,
    skipped,
    write_digests,
)
from ..side_options import (
    add_side_options,
    local_endpoint,
    source_endpoint,
    target_endpoint,
    warn_of_unused_sides,
)

if TYPE_CHECKING:
    from ...oci import Platform
    from ...reference import Reference
    from ...transfer.choices import CopyOptions, CopyResult
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``copy``."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="an image of a registry, an archive or an OCI directory; also "
        "docker://REF, oci:DIR[:NAME], oci-archive:FILE[:NAME], "
        "docker-archive:FILE[:NAME]",
    )
    parser.add_argument(
        "target",
        metavar="DST",
        help="REGISTRY/REPO[:TAG] (default tag: that of SRC), an archive, an OCI "
        "directory, or - for standard output",
    )
    add_selection(parser)
    parser.add_argument(
        "-a", "--all-tags", action="store_true", help="copy every tag of repository SRC"
    )
    parser.add_argument(
        "-n", "--no-clobber", action="store_true", help="keep a tag or file that exists"
    )
    add_have_option(parser)
    add_split_option(parser)
    add_sums_option(parser)
    add_recompress_option(parser, strict=True)
    add_digestfile_option(parser)
    add_json_option(parser, "print a JSON object for each tag")
    rare = parser.add_argument_group(RARE)
    add_trust_option(rare)
    add_volumes_option(rare)
    add_side_options(parser, USED["copy"])


@value
class CopyRequest:
    """What one ``copy`` is asked for; *source* and *target* are words of a user."""

    source: str
    target: str
    platforms: tuple[Platform, ...] = ()
    referrers: bool = False
    all_tags: bool = False
    no_clobber: bool = False
    digestfile: str | None = None
    split: int | None = None
    sums: bool = False
    recompress: str | None = None
    strict: bool = False
    have: tuple[str, ...] = ()

    def options(self, jobs: int) -> CopyOptions:
        """How to copy, with *jobs* blobs at a time."""
        from ...transfer.choices import CopyOptions

        return CopyOptions(self.platforms, self.referrers, jobs)


def run(args: Namespace, session: Session) -> int:
    """Copy what *args* name; the exit code."""
    source, target = location.local(args.source), location.output(args.target)
    request = CopyRequest(
        args.source,
        args.target,
        chosen_platforms(args.platform),
        args.referrers,
        args.all_tags,
        args.no_clobber,
        args.digestfile,
        args.split,
        args.sums,
        args.recompress,
        args.strict,
        tuple(args.have),
    )
    one_by_one = args.referrers or (args.all_tags and args.no_clobber)
    check_recompress(args.recompress, args.compress, args.have)
    warn_of_unused_sides(args, source=bool(source), target=bool(target))
    check_have(args.have, is_file=target is not None)
    if source and not target and not (one_by_one or args.split or args.sums):
        there = target_endpoint(args)
        return _push(source, request, there, args.trust_target, session)
    if args.trust_target:
        raise UsageError(
            "--trust-target is for an archive whose layers are compressed on the way "
            "into a registry; this copy compresses nothing: leave the option out"
        )
    if source and not target and one_by_one:
        _check_whole(source)
    what, used = _uses(source=bool(source), target=bool(target))
    if args.recompress:
        used = (*used, "compress", "compress_level")
    return _copy(
        request,
        source,
        target,
        (local_endpoint if source else source_endpoint)(args),
        (local_endpoint if target else target_endpoint)(args).using(what, used),
        session,
    )


def _check_whole(source: location.Local) -> None:
    """Raises UsageError for a delta, which is read as it is pushed."""
    from ...archive.opened import OpenLayout, open_any
    from ...archive.sniff import is_forward

    if is_forward(source.path):
        return
    with open_any(source.path) as opened:
        if isinstance(opened, OpenLayout):
            raise UsageError(
                f"{source.path} is a delta: copy does not take it with --referrers, or "
                "with --all-tags and --no-clobber; use sync, which has --referrers and "
                "skips what is there"
            )


def _copy(
    request: CopyRequest,
    source: location.Local | None,
    target: location.Local | None,
    from_there: Endpoint,
    to_there: Endpoint,
    session: Session,
) -> int:
    if request.digestfile:
        check_writable(request.digestfile)
    into = _output(request, target, session)
    if target and into is None:
        return console.DONE
    with ExitStack() as stack:
        sources = stack.enter_context(Connections(from_there, session, writes=False))
        tally = Outcomes("copies", session)
        copying = _Copying(request, sources, session, tally)
        if source:
            origins = archive_origins(
                source,
                session,
                stack,
                every=request.all_tags,
                referrers=request.referrers,
                tally=tally,
            )
        else:
            origins = copying.registry_origins()
        if into:
            there = stack.enter_context(Connections(to_there, session, writes=False))
            into = replace(into, have=read_have(request.have, there))
            copying.to_file(origins, into, there, is_local=bool(source))
        else:
            targets = stack.enter_context(Connections(to_there, session))
            copying.to_registry(origins, targets)
        tally.finish()
    return console.DONE


def _output(
    request: CopyRequest, target: location.Local | None, session: Session
) -> ImageOutput | None:
    """The file or directory to write; None for a registry, and for what is to stay.

    Raises UsageError.
    """
    if target is None:
        if request.split:
            raise UsageError(
                "--split is for an archive as the destination: leave it out"
            )
        check_sums(sums=request.sums, is_directory=False)
        return None
    form = output_form(
        target, request.split, sums=request.sums, is_delta=bool(request.have)
    )
    if request.no_clobber and exists(target, form, request.split):
        skipped(request.source, target.path, session.display)
        return None
    if target.path == location.STDOUT:
        warn_of_json("copy", session.display)
    return ImageOutput(
        target, form, request.no_clobber, split=request.split, sums=request.sums
    )


def _uses(*, source: bool, target: bool) -> tuple[str, Sequence[str]]:
    """A copy of layers as they are, and its settings; *source*, *target* are local."""
    if source and target:
        return "copy from an archive into a file", ("jobs",)
    if target:
        return "copy into a file", RECEIVING
    what = "copy of layers as they are" if source else "copy from a registry"
    return what, SENDING


def _push(
    place: location.Local,
    request: CopyRequest,
    there: Endpoint,
    trust_target: bool,  # noqa: FBT001 -- as the option has it
    session: Session,
) -> int:
    """An archive as the source: the same as ``push``."""
    from ..push_jobs import PushRequest, check_usage
    from .push import push

    target = _target(request.target)
    if not request.all_tags:
        target = with_tag(target, own_tag(place) or "latest")
    if request.no_clobber:
        with Connections(there, session) as targets:
            if targets.has(target):
                skipped(request.source, str(target), session.display)
                return console.DONE
    pushed = PushRequest(
        (place.path,),
        (str(target),),
        name=place.name,
        all_tags=request.all_tags,
        platforms=request.platforms,
        trust_target=trust_target,
        digestfile=request.digestfile,
        strict=request.strict,
        recompress=request.recompress,
    )
    check_usage(pushed)
    return push(pushed, there, session)


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
            "replaced": result.replaced if self.tag is not None else None,
            "manifests": result.manifests,
            "referrers": result.referrers,
            "blobs": {done.value: number for done, number in result.blobs.items()},
            "bytes": result.sent,
            "seconds": round(self.seconds, 3),
        }


class _Copying:
    """One run of the command."""

    def __init__(
        self,
        request: CopyRequest,
        sources: Connections,
        session: Session,
        tally: Outcomes,
    ) -> None:
        self._request = request
        self._sources = sources
        self._session = session
        self._tally = tally
        self._started = time.monotonic()

    def registry_origins(self) -> list[ImageOrigin]:
        """The image of a registry, or every tag of a repository. Raises UsageError."""
        from ...transfer.source import RegistrySource

        wanted = location.source(
            self._request.source,
            if_file="copy takes a path, oci:DIR or docker-archive:FILE",
        )
        client = self._sources.client(wanted.registry)
        if not self._request.all_tags:
            found = [with_tag(wanted)]
        elif wanted.tag or wanted.digest:
            raise _not_a_repository(wanted)
        else:
            tags = held(client.tags(wanted.repository))
            found = [wanted.with_tag(tag) for tag in tags]
        source = RegistrySource(client, wanted.repository)
        return [
            ImageOrigin(source, str(one.digest or one.tag), str(one), (str(one),))
            for one in found
        ]

    def to_file(
        self,
        origins: Sequence[ImageOrigin],
        into: ImageOutput,
        there: Connections,
        *,
        is_local: bool,
    ) -> None:
        """Copy all of them into one file or directory.

        *is_local* says that they come from one. *there* says how to compress.
        """
        if into.form != OCI_DIRECTORY:
            self._session.starts_over()
        options = self._request.options(self._sources.settings().jobs)
        how = self._request.recompress
        packing = recompressing(how, options, there.settings()) if how else None
        into = replace(into, state=there.state)
        origins = loadable_origins(origins, into, self._session)
        self._tally.expect(len(origins))
        done = []
        written = copy_to_file(
            origins, into, options, self._session, recompress=packing
        )
        for origin, result in written:
            target = self._request.target
            if result is None:
                name = f"{target} {origin.label}"
                skipped(origin.label, name, self._session.display)
                continue
            name = origin.label if is_local else _name(origin.label)
            done.append(self._copied(origin, target, name, None, result))
        self._session.end_progress()
        for copied in done:
            self._report(copied, to_stdout=into.place.path == location.STDOUT)
        if into.split and done and not self._session.display.quiet:
            say_volumes(Path(into.place.path))
        self._end(done)

    def to_registry(self, origins: Sequence[ImageOrigin], targets: Connections) -> None:
        """Copy each to its place in the registry."""
        wanted = _target(self._request.target)
        if self._request.all_tags and (wanted.tag or wanted.digest):
            raise _not_a_repository(wanted)
        done: list[Copied] = []
        pairs = [(one, target) for one in origins for target in _targets(one, wanted)]
        if not self._request.all_tags:
            pairs = pairs[:1]
        _check_apart(pairs)
        self._tally.expect(len(pairs))
        for origin, target in pairs:
            with self._tally.attempt(str(target)):
                if self._request.no_clobber and targets.has(target):
                    skipped(origin.label, str(target), self._session.display)
                else:
                    done.append(self._copy(origin, target, targets))
        self._end(done)

    def _end(self, done: Sequence[Copied]) -> None:
        self._write_digests(done)
        if self._request.strict:
            check_lost((one.target, one.result.lost) for one in done)

    def _copy(
        self, origin: ImageOrigin, target: Reference, targets: Connections
    ) -> Copied:
        self._started = time.monotonic()
        with (
            target_lock(target, targets.state.path, self._session, if_busy="wait"),
            targets.target(target) as place,
        ):
            names = [str(name) for name in (target.digest, target.tag) if name]
            settings = targets.settings(target.registry)
            result = copy_or_recompress(
                origin.source,
                place,
                origin.reference,
                tags=names,
                options=self._request.options(settings.jobs),
                how=self._request.recompress,
                settings=settings,
                state=targets.state,
            )
        self._session.end_progress()
        copied = self._copied(origin, str(target), target.name, target.tag, result)
        self._report(copied)
        return copied

    def _copied(
        self,
        origin: ImageOrigin,
        target: str,
        name: str,
        tag: str | None,
        result: CopyResult,
    ) -> Copied:
        seconds = time.monotonic() - self._started
        return Copied(origin.label, target, name, tag, result, seconds)

    def _report(self, copied: Copied, *, to_stdout: bool = False) -> None:
        """*to_stdout*: the archive went there, so nothing else does."""
        display = self._session.display
        if not to_stdout:
            with console.surviving_closed_stdout():
                if display.json:
                    console.json_result(copied.record())
                else:
                    console.result(copied.ref)
        if not display.quiet:
            console.say(
                f"copied {copied.source} to {copied.target}: "
                f"{moved('copy', copied.result, copied.seconds)}"
            )
            if copied.tag is not None:
                say_replaced(copied.target, copied.result.replaced)

    def _write_digests(self, done: Sequence[Copied]) -> None:
        if self._request.digestfile:
            write_digests(
                self._request.digestfile,
                ((str(one.result.descriptor.digest), one.target) for one in done),
            )


def _not_a_repository(reference: Reference) -> UsageError:
    return UsageError(
        f"--all-tags takes a repository: write {reference.name} in place of {reference}"
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


def _targets(origin: ImageOrigin, wanted: Reference) -> list[Reference]:
    """Where *origin* goes: without a tag of its own, *wanted* gets the source's."""
    from ...reference import Reference

    if wanted.tag or wanted.digest:
        return [wanted]
    tags = tags_of(origin.names, origin.tags)
    if tags:
        return [wanted.with_tag(tag) for tag in tags]
    digests = [Reference.parse(name).digest for name in origin.names]
    return [wanted.with_digest(digests[0]) if digests else wanted.with_tag("latest")]


def _check_apart(pairs: Sequence[tuple[ImageOrigin, Reference]]) -> None:
    """Raises UsageError when two images would go to one place."""
    first: dict[Reference, ImageOrigin] = {}
    for origin, target in pairs:
        other = first.setdefault(target, origin)
        if other is not origin:
            raise UsageError(
                f"{target} is where both {other.label} and {origin.label} would go: "
                "copy them one by one"
            )
