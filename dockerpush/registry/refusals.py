"""A request that a registry refused, in the words of the user's task.

The method and the URL are for -v, which shows them beside.
"""

from __future__ import annotations

from typing import Mapping

from ..credentials.identity import Credentials
from ..expressions import expression
from ..values import value

_ENDPOINT = expression(
    r"/v2/(?P<repository>.+?)/(?P<kind>manifests|blobs|tags|referrers)/(?P<name>[^?]*)"
)
_READING = ("GET", "HEAD")
_RIGHTS: Mapping[str, str] = {"GET": "read", "HEAD": "read", "DELETE": "delete"}


@value
class Asked:
    """A request for *path*, the task behind it, and who made it.

    *credentials* are those for *repository*, None without any; *was_sent* says whether
    the registry has seen them. *elsewhere* is the host that answered in the place of
    *registry*, such as its storage, or "".
    """

    registry: str
    method: str
    path: str
    repository: str = ""
    credentials: Credentials | None = None
    was_sent: bool = False
    elsewhere: str = ""

    def explained(self, status: int, reason: str, detail: str) -> tuple[str, str]:
        """What failed, or "" where the rest says so; why, and what to do next.

        *reason* is the answer as in ``403 Forbidden``, *detail* the registry's text.
        """
        answer = f"{reason}: {detail}" if detail else reason
        if self.elsewhere or status not in (401, 403, 404):
            who = self.elsewhere or self.registry
            return self.task, f"{who} answered {answer}"
        if status == 404:
            return self._missing(detail)
        task = self.task if self.repository else ""
        return task, f"{self._denied()} ({answer}); {self._advice()}"

    @property
    def task(self) -> str:
        """What failed, as in ``cannot read H/app:1``."""
        name = f"{self.registry}/{self.repository}"
        found = _ENDPOINT.match(self.path)
        if not self.repository:
            use = "list the repositories of" if "/_catalog" in self.path else "use"
            return f"cannot {use} {self.registry}"
        if found is None or found["name"].startswith("uploads/"):
            reads = self.method in _READING and self.path[:1] in ("", "/") and not found
            return f"cannot {'read' if reads else 'push to'} {name}"
        reference = found["name"]
        if found["kind"] == "tags":
            return f"cannot list the tags of {name}"
        if found["kind"] == "referrers":
            return f"cannot list the referrers of {name}@{short(reference)}"
        verb = _RIGHTS.get(self.method, "push")
        if found["kind"] == "blobs":
            return f"cannot {verb} blob {short(reference)} of {name}"
        return f"cannot {verb} {_named(name, reference)}"

    @property
    def _user(self) -> str:
        username = self.credentials.username if self.credentials else ""
        return f"user {username!r}" if username else "the token"

    def _denied(self) -> str:
        if self.credentials is None:
            return f"{self.registry} wants credentials, and none were given"
        if not self.was_sent:
            return (
                f"{self.registry} denied this without asking for credentials: those of "
                f"{self._user} from {self.credentials.source} were not sent"
            )
        right = _RIGHTS.get(self.method, "push")
        lacks = f"no right to {right} {'here' if right == 'push' else 'this'}"
        return (
            f"{self.registry} rejected {self._user} (from {self.credentials.source}): "
            f"wrong password, or {lacks if self.repository else 'no right to log in'}"
        )

    def _advice(self) -> str:
        source = self.credentials.source if self.credentials else ""
        if self.was_sent and source.startswith(("-", "DOCKERPUSH_")):
            has_password = source.lower().endswith("username")
            what = f"{source} and the password" if has_password else source
            return f"correct {what}, or ask for the right to do this"
        return f"try: dockerpush login {self.registry}"

    def _missing(self, detail: str) -> tuple[str, str]:
        name = f"{self.registry}/{self.repository}"
        found = _ENDPOINT.match(self.path)
        reads = self.method in _READING and not detail.startswith("NAME_UNKNOWN")
        if found and found["kind"] == "manifests" and reads:
            missing, see, advice = absence(name, found["name"]).partition("; ")
            if detail.startswith("MANIFEST_UNKNOWN"):
                return "", missing + see + advice
            login = f", or try: dockerpush login {self.registry}"
            login = "" if self.credentials else login
            return "", f"{missing}{self._unseen}{see}{advice}{login}"
        said = f" ({detail})" if detail else ""
        if found and found["kind"] == "blobs" and detail.startswith("BLOB_UNKNOWN"):
            lost = f"the registry does not have it{said}"
            return self.task, f"{lost}; have the image pushed there again"
        what = f"repository {name}" if self.repository else "registry at this address"
        login = "" if self.was_sent else f", or try: dockerpush login {self.registry}"
        return self.task, f"no {what}{self._unseen}{said}; check the name{login}"

    @property
    def _unseen(self) -> str:
        """Who may not be shown what is there, as many registries hide it."""
        if self.credentials is None:
            return ", or it needs credentials"
        return f", or {self._user} has no access" if self.was_sent else ""


def absence(name: str, reference: str) -> str:
    """What to say when the repository *name* lacks *reference*, a tag or digest."""
    what = f"image {reference}" if ":" in reference else f"tag {reference!r}"
    return f"no {what} in {name}; see: dockerpush tags {name}"


def shown_name(host: str, url: str) -> str:
    """The image or repository that *url* at *host* is about, for a message."""
    found = _ENDPOINT.search(url)
    if found is None:
        return host
    name = f"{host}/{found['repository']}"
    return _named(name, found["name"]) if found["kind"] == "manifests" else name


def _named(name: str, reference: str) -> str:
    return f"{name}@{short(reference)}" if ":" in reference else f"{name}:{reference}"


def short(digest: str) -> str:
    """*digest* as messages show it, with twelve of its hex digits."""
    algorithm, colon, encoded = digest.partition(":")
    return f"{algorithm}{colon}{encoded[:12]}"
