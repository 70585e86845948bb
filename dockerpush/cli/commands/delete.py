"""``delete REF ...``: tags of a registry, or manifests with all their tags."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Mapping, NamedTuple, Sequence

from ...errors import ContentMismatch, NotFound, UsageError
from ...registry.refusals import absence
from ...values import value
from .. import console, location
from ..endpoints import Connections
from ..options import OPERANDS, add_json_option
from ..report import Outcomes
from ..side_options import add_registry_options, endpoint

if TYPE_CHECKING:
    from ...oci import Digest
    from ...reference import Reference
    from ...transfer.deletion import Deleted, Deleter
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``delete``."""
    parser.add_argument(
        "references",
        metavar="REF",
        nargs="+",
        help="REGISTRY/REPO:TAG or REGISTRY/REPO@DIGEST; with both, only "
        "if the tag has that digest",
    )
    parser.set_defaults(**{OPERANDS: "references"})
    parser.add_argument(
        "--digest",
        action="store_true",
        help="delete the manifest itself, with all its tags, also if an index needs it",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show what would be deleted, delete nothing",
    )
    parser.add_argument(
        "-y", "--yes", action="store_true", help="delete without asking"
    )
    parser.add_argument(
        "--ignore-missing",
        action="store_true",
        help="do not fail when REF is not there",
    )
    add_json_option(parser, "print a JSON object for each REF")
    add_registry_options(parser)


@value
class DeleteRequest:
    """What one ``delete`` is asked for."""

    references: tuple[Reference, ...]
    whole: bool
    dry_run: bool
    yes: bool
    ignore_missing: bool


class Doomed(NamedTuple):
    """A *reference* that is there, and its *digest*."""

    reference: Reference
    digest: Digest


def run(args: Namespace, session: Session) -> int:
    """Find all of them, ask, and delete; the exit code."""
    wanted = tuple(dict.fromkeys(_reference(text) for text in args.references))
    request = DeleteRequest(
        wanted, args.digest, args.dry_run, args.yes, args.ignore_missing
    )
    if not (request.dry_run or request.yes or console.is_interactive()):
        raise UsageError(
            "delete asks before it deletes, and there is no terminal to ask at: --yes "
            "deletes without asking, --dry-run shows what would go"
        )
    tally = Outcomes("deletions", session)
    tally.expect(len(wanted))
    with Connections(endpoint(args), session, writes=False) as connections:
        run = _Run(request, connections, tally)
        found = run.find()
        if request.dry_run:
            run.show(found)
        elif found and (request.yes or run.ask(found)):
            run.delete(found)
    tally.finish()
    return console.DONE


def _reference(text: str) -> Reference:
    reference = location.source(text)
    if not (reference.tag or reference.digest):
        raise UsageError(
            f"{text!r:.200}: name the tag or the digest to delete: {reference.name}:TAG"
        )
    return reference


class _Run:
    """One run of the command; *tally* counts what fails."""

    def __init__(
        self, request: DeleteRequest, connections: Connections, tally: Outcomes
    ) -> None:
        self._request = request
        self._connections = connections
        self._session = connections.session
        self._tally = tally
        self._deleters: Mapping[str, Deleter] = {}

    def find(self) -> list[Doomed]:
        """The references that are there."""
        found: list[Doomed] = []
        for reference in self._request.references:
            with self._tally.attempt(str(reference)):
                digest = self._digest(reference)
                if digest is not None:
                    found.append(Doomed(reference, digest))
        self._deleters = self._made(found)
        return found

    def _digest(self, reference: Reference) -> Digest | None:
        """What *reference* shows. Raises NotFound, ContentMismatch."""
        client = self._connections.client(reference.registry)
        named = str(reference.tag or reference.digest)
        found = client.manifest_descriptor(reference.repository, named)
        if found is None and self._request.ignore_missing:
            self._say(f"{reference} is not there")
            return None
        if found is None:
            raise NotFound(absence(reference.name, named))
        if reference.digest and found.digest != reference.digest:
            raise ContentMismatch(
                f"{reference.name}:{reference.tag} shows {found.digest}, not "
                f"{reference.digest}; nothing was deleted"
            )
        return found.digest

    def _made(self, found: Sequence[Doomed]) -> dict[str, Deleter]:
        """What deletes in each repository, by its full name."""
        from ...transfer.deletion import Deleter

        tags: dict[str, set[str]] = {}
        for one in found:
            doomed = tags.setdefault(one.reference.name, set())
            doomed.update([one.reference.tag] if one.reference.tag else [])
        return {
            one.reference.name: Deleter(
                self._connections.client(one.reference.registry),
                one.reference.repository,
                tags[one.reference.name],
                self._session.cancellation,
                jobs=self._connections.settings(one.reference.registry).jobs,
                whole=self._request.whole,
            )
            for one in found
        }

    def show(self, found: Sequence[Doomed]) -> None:
        """What would be deleted, and what needs it."""
        rows = [("REFERENCE", "DIGEST", "ALSO")]
        for reference, digest in found:
            with self._tally.attempt(str(reference)):
                uses = self._deleters[reference.name].uses(digest)
                if self._session.display.json:
                    console.json_result(
                        {
                            "ref": str(reference),
                            "digest": digest,
                            "tags": uses.tags,
                            "indexes": uses.indexes,
                            "dryRun": True,
                        }
                    )
                rows.append((str(reference), digest.short, str(uses) or "-"))
        if not self._session.display.json and len(rows) > 1:
            console.table(rows)

    def ask(self, found: Sequence[Doomed]) -> bool:
        """Whether the person at the terminal agrees. Raises UsageError for no."""
        for reference, digest in found:
            more = ""
            if self._request.whole or reference.tag is None:
                uses = self._deleters[reference.name].uses(digest)
                more = f"; it is also {uses}" if uses.is_used else ""
            console.say(f"delete {reference} ({digest.short}){more}")
        if not console.confirm(f"Delete {'it' if len(found) == 1 else 'all of them'}?"):
            raise UsageError("nothing was deleted")
        return True

    def delete(self, found: Sequence[Doomed]) -> None:
        """Delete all of them, whatever becomes of one."""
        done: list[Deleted] = []
        for one in found:
            reference, digest = one
            with self._tally.attempt(str(reference)):
                deleter = self._deleters[reference.name]
                deleted = deleter.delete(reference.tag, digest)
                self._report(one, deleted)
                done.append(deleted)
        if done:
            from ...transfer.deletion import space_note

            self._say(space_note(is_alone=any(one.is_alone for one in done)))

    def _report(self, one: Doomed, deleted: Deleted) -> None:
        reference, digest = one
        what = "tag" if deleted.is_alone else "manifest"
        with console.surviving_closed_stdout():
            if self._session.display.json:
                console.json_result(
                    {
                        "ref": str(reference),
                        "digest": digest,
                        "deleted": what,
                        "tags": deleted.uses.tags,
                        "indexes": deleted.uses.indexes,
                    }
                )
            else:
                console.result(str(reference.with_digest(digest)))
        if deleted.is_alone:
            self._say(f"deleted the tag {reference}; {digest.short} stays")
        else:
            self._say(f"deleted {reference} with its manifest {digest.short}")
        if deleted.uses.is_used:
            console.warn(f"{digest.short} was also {deleted.uses}")
        if deleted.uses.referrers:
            names = ", ".join(deleted.uses.referrers[:5])
            self._say(f"note: {names} refers to it, and stays")

    def _say(self, text: str) -> None:
        if not self._session.display.quiet:
            console.say(text)
