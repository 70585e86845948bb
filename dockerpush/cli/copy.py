"""``copy SRC DST``: from one registry into another, or from or to an archive."""

from __future__ import annotations

import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from ..errors import Cancelled, PusherError, SomeFailed, UsageError
from . import exits, output
from .connect import Connections
from .sides import (
    add_side_options,
    source_arguments,
    source_connections,
    target_arguments,
)
from .target import one_at_a_time, with_tag

if TYPE_CHECKING:
    from ..copy import CopyOptions, CopyResult
    from ..oci import Platform
    from ..reference import Reference
    from .session import Session

    Done = tuple[Reference, CopyResult]

REGISTRY = "docker://"
_FORMS = {
    "oci:": "oci-dir",
    "oci-archive:": "oci-archive",
    "docker-archive:": "docker-archive",
}
_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``copy``."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="an image in a registry; an archive or an OCI directory is pushed. "
        f"{REGISTRY} before a name always means a registry",
    )
    parser.add_argument(
        "target",
        metavar="DST",
        help="registry/repository[:tag], without a tag that of the source; or an "
        "archive or an OCI directory, as of pull -o",
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
    add_side_options(parser)


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
    if _is_local(args.target):
        return _pull(args, session)
    if _is_local(args.source):
        return _push(args, session)
    platforms(args.platform)
    with ExitStack() as stack:
        sources = stack.enter_context(source_connections(args, session))
        targets = stack.enter_context(Connections(target_arguments(args), session))
        jobs = _jobs(args, sources)
        return _copy_all(jobs, sources, targets, args)


def platforms(texts: Sequence[str]) -> tuple[Platform, ...]:
    """The platforms that *texts* name. Raises UsageError."""
    from ..errors import InvalidJSON
    from ..oci import Platform

    try:
        return tuple(Platform.parse(text) for text in texts)
    except InvalidJSON as error:
        raise UsageError(f"--platform: {error}") from error


def _is_local(text: str) -> bool:
    """True for what names a file or a directory rather than an image."""
    if text.startswith(REGISTRY):
        return False
    if text == "-" or text.startswith((*_FORMS, "/", "./", "../", "~")):
        return True
    return text.endswith(_ENDINGS) or Path(text).exists()


def reference(text: str) -> Reference:
    """The reference that *text* means, with or without ``docker://`` before it."""
    from ..reference import Reference

    return Reference.parse(text[len(REGISTRY) * text.startswith(REGISTRY) :])


def _pull(args: Namespace, session: Session) -> int:
    """An archive or a directory as the target: the same as ``pull -o``."""
    from . import pull

    form, path = _form_and_path(args.target)
    command = f"dockerpush pull {args.source} -o {path}"
    if _is_local(args.source):
        raise UsageError(
            f"{args.source!r:.200} and {args.target!r:.200}: one of them has to be in "
            "a registry"
        )
    if args.referrers or args.all_tags or args.digestfile:
        raise UsageError(
            "--referrers, --all-tags and --digestfile need a registry as the target; "
            f"an archive is what {command} writes"
        )
    form = form or ("json" if args.format else None)
    given = vars(source_arguments(args))
    pulled = {**given, "references": [str(reference(args.source))], "output": path}
    return pull.run(Namespace(**{**pulled, "format": form}), session)


def _form_and_path(target: str) -> tuple[str | None, str]:
    """The form that skopeo's prefix asks for, None without one, and the path."""
    for prefix, form in _FORMS.items():
        if target.startswith(prefix):
            return form, target[len(prefix) :]
    return None, target


def _push(args: Namespace, session: Session) -> int:
    """An archive as the source: the same as ``push``."""
    from . import push

    if args.referrers or args.no_clobber:
        raise UsageError(
            "--referrers and --no-clobber need a registry as the source; "
            f"{args.source!r:.200} is an archive"
        )
    parser = ArgumentParser()
    push.configure(parser)
    path = _form_and_path(args.source)[1]
    given = vars(target_arguments(args))
    pushed = {**vars(parser.parse_args(["--", path])), **given, "source": path}
    pushed["target"] = str(reference(args.target))
    return push.run(Namespace(**pushed), session)


def _jobs(
    args: Namespace, sources: Connections
) -> list[tuple[Reference, Reference, str]]:
    """What is copied from where to where, and what it is called at its source."""
    source, target = reference(args.source), reference(args.target)
    if not args.all_tags:
        source = with_tag(source)
        if not (target.tag or target.digest):
            target = target.with_tag(source.tag).with_digest(
                None if source.tag else source.digest
            )
        return [(source, target, str(source.digest or source.tag))]
    if source.tag or source.digest or target.tag or target.digest:
        raise UsageError("--all-tags takes repositories: no tag, no digest")
    tags = sources.client(source.registry).tags(source.repository)
    return [(source.with_tag(tag), target.with_tag(tag), tag) for tag in tags]


def _copy_all(
    jobs: Sequence[tuple[Reference, Reference, str]],
    sources: Connections,
    targets: Connections,
    args: Namespace,
) -> int:
    done: list[Done] = []
    failed = []
    for source, target, named in jobs:
        try:
            if args.no_clobber and _is_taken(target, targets):
                _report_skipped(source, target, args)
            else:
                done.append(
                    (target, _copy(source, target, named, sources, targets, args))
                )
        except Cancelled:
            raise
        except PusherError as error:
            if len(jobs) == 1:
                raise
            targets.session.end_progress()
            output.say(f"failed: {target}: {error}")
            failed.append(target)
    if args.digestfile:
        _write_digests(Path(args.digestfile), done)
    if failed:
        raise SomeFailed(
            f"{len(failed)} of {len(jobs)} copies failed: "
            + ", ".join(map(str, failed[:5]))
        )
    return exits.DONE


def _is_taken(target: Reference, targets: Connections) -> bool:
    named = str(target.digest) if target.tag is None else target.tag
    client = targets.client(target.registry)
    return client.manifest_descriptor(target.repository, named) is not None


def _copy(
    source: Reference,
    target: Reference,
    named: str,
    sources: Connections,
    targets: Connections,
    args: Namespace,
) -> CopyResult:
    from ..copy import CopySource, copy_image

    started = time.monotonic()
    client = sources.client(source.registry)
    names = [str(name) for name in (target.digest, target.tag) if name]
    state = targets.state.path
    with (
        one_at_a_time(target, state, targets.session, if_busy="wait"),
        targets.target(target) as place,
    ):
        result = copy_image(
            CopySource(client, source.repository),
            place,
            named,
            tags=names,
            options=copy_options(args, targets.settings(target.registry).jobs),
        )
    targets.session.end_progress()
    _report(source, target, result, time.monotonic() - started, args)
    return result


def copy_options(args: Namespace, jobs: int) -> CopyOptions:
    """How to copy, as *args* say. Raises UsageError."""
    from ..copy import CopyOptions

    return CopyOptions(platforms(args.platform), args.referrers, jobs)


def _report(
    source: Reference,
    target: Reference,
    result: CopyResult,
    seconds: float,
    args: Namespace,
) -> None:
    if args.json or args.format:
        output.json_result(
            {**record(source, target, result), "seconds": round(seconds, 3)}
        )
    else:
        output.result(f"{target.name}@{result.descriptor.digest}")
    if not args.quiet:
        output.say(f"copied {source} to {target}: {summary(result)} in {seconds:.1f} s")


def summary(result: CopyResult) -> str:
    """What was done, for people."""
    if not result.manifests:
        return "it was there already, nothing sent"
    blobs = ", ".join(f"{number} {done.value}" for done, number in result.blobs.items())
    return f"{blobs or 'no blobs'}; {output.size_text(result.sent)}"


def record(source: Reference, target: Reference, result: CopyResult) -> dict[str, Any]:
    """What was done, for programs."""
    return {
        "source": str(source),
        "target": str(target),
        "ref": f"{target.name}@{result.descriptor.digest}",
        "tag": target.tag,
        "digest": result.descriptor.digest,
        "mediaType": result.descriptor.media_type,
        "size": result.descriptor.size,
        "manifests": result.manifests,
        "referrers": result.referrers,
        "blobs": {done.value: number for done, number in result.blobs.items()},
        "bytes": result.sent,
    }


def _report_skipped(source: Reference, target: Reference, args: Namespace) -> None:
    if args.json or args.format:
        output.json_result(
            {"source": str(source), "target": str(target), "skipped": True}
        )
    if not args.quiet:
        output.say(f"left as it is: {target} exists")


def _write_digests(path: Path, done: Sequence[Done]) -> None:
    if len(done) == 1:
        text = str(done[0][1].descriptor.digest)
    else:
        text = "".join(
            f"{result.descriptor.digest} {target}\n" for target, result in done
        )
    try:
        path.write_text(text)
    except OSError as error:
        raise PusherError(f"--digestfile {path}: {error.strerror}") from error
