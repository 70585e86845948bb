"""The endpoints for manifests, and the checks of what a registry says about them."""

from __future__ import annotations

import itertools
from typing import Iterable, NamedTuple

from ..errors import (
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
    NotFoundInRegistry,
    RegistryError,
    TransientError,
)
from ..oci import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    optional,
    parse_json,
    require,
)
from .calls import PUSH, Caller, checked_reference
from .debug import one_line, show_url
from .transport import Response

_TELLS_NOTHING = ("", "application/json", "application/octet-stream", "text/plain")
_INSIDE = frozenset(("config", "layers"))  # what only an image manifest has
ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST, OCI_ARTIFACT)
"""Every type of manifest that we can read, the most telling first."""


class StoredManifest(NamedTuple):
    """A manifest that a registry has taken.

    *subject* is what it says to have listed it as a referrer of (OCI-Subject), None
    when it says nothing.
    """

    digest: Digest
    subject: Digest | None


class ManifestCalls(Caller):
    """Manifests and tags (distribution-spec, Pulling and Pushing Manifests)."""

    def read_manifest(
        self, repository: str, reference: str, accept: Iterable[str] = ACCEPT
    ) -> tuple[Descriptor, bytes]:
        """What *reference*, a tag or digest, names: its descriptor, its exact bytes.

        Raises ContentMismatch when the bytes do not have the digest that was asked for
        or stated, InvalidJSON when they are no manifest of one of the types *accept*.
        """
        call = self._call(
            "GET",
            repository,
            f"manifests/{checked_reference(reference)}",
            (200,),
            headers={"Accept": ", ".join(accept)},
        )

        def read() -> tuple[Descriptor, bytes]:
            with self._session.send(call) as response:
                raw = response.read_json("a manifest")
                return described(response, reference, raw), raw

        return self._retrying(read, f"reading {repository}:{reference}")

    def manifest_descriptor(
        self, repository: str, reference: str, accept: Iterable[str] = ACCEPT
    ) -> Descriptor | None:
        """The descriptor of what *reference* names; None when there is nothing."""
        what = f"looking for {repository}:{reference}"
        try:
            found = self._retrying(
                lambda: self._head_manifest(repository, reference, accept), what
            )
            if found is None:  # the answer to HEAD does not say what it is
                found = self.read_manifest(repository, reference, accept)[0]
        except NotFoundInRegistry:
            return None
        return found

    def _head_manifest(
        self, repository: str, reference: str, accept: Iterable[str] = ACCEPT
    ) -> Descriptor | None:
        call = self._call(
            "HEAD",
            repository,
            f"manifests/{checked_reference(reference)}",
            (200, 405),
            headers={"Accept": ", ".join(accept)},
        )
        with self._session.send(call) as response:
            digest, size = stated_digest(response), response.size
            media_type = (response.header("Content-Type") or "").partition(";")[0]
            if response.status == 405 or digest is None or not size or not media_type:
                return None
            if ":" in reference and digest != reference:
                raise ContentMismatch(
                    f"{show_url(response.url)}: the registry names {digest} instead"
                )
            return Descriptor(media_type.strip(), digest, size)

    def put_manifest(
        self, repository: str, reference: str, raw: bytes, media_type: str
    ) -> Digest:
        """Store *raw* under *reference*, a tag or its digest; as `store_manifest`."""
        return self.store_manifest(repository, reference, raw, media_type).digest

    def store_manifest(
        self, repository: str, reference: str, raw: bytes, media_type: str
    ) -> StoredManifest:
        """Store *raw* under *reference*, a tag or its digest.

        When an answer is lost, it is looked up whether the manifest has arrived before
        it is sent again, and likewise after a 2xx that tells neither 201 nor a digest:
        such is the login page of a proxy. Raises RegistryError when it has not arrived,
        ContentMismatch when the registry names another digest.
        """
        digest = _digest_for(checked_reference(reference), raw)
        call = self._call(
            "PUT",
            repository,
            f"manifests/{reference}",
            (200, 201, 202, 204),
            scopes=(self._scope(repository, PUSH),),
            headers={"Content-Type": media_type},
            content=raw,
            size=len(raw),
        )
        attempts = itertools.count()

        def put() -> tuple[RegistryError | None, Digest | None]:
            if next(attempts) and self._holds(repository, reference, digest):
                return None, None
            try:
                with self._session.send(call) as response:
                    check_digest(response, digest)
                    return _doubt(response), _digest_in(response, "OCI-Subject")
            except RegistryError as error:
                if not _looked_too_early(error):
                    raise
                raise TransientError(str(error), status=error.status) from error

        doubt, subject = self._retrying(put, f"storing {repository}:{reference}")
        if doubt is not None:
            found = self.manifest_descriptor(repository, reference)
            if found is None or found.digest != digest:
                raise doubt
        return StoredManifest(digest, subject)

    def _holds(self, repository: str, reference: str, digest: Digest) -> bool:
        try:
            found = self._head_manifest(repository, reference)
        except TransientError:
            raise
        except (RegistryError, ContentMismatch):
            return False
        return found is not None and found.digest == digest

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Delete the tag or, with a digest, the manifest *reference*."""
        tail = f"manifests/{checked_reference(reference)}"
        call = self._call("DELETE", repository, tail, (200, 202, 204), actions="delete")
        self._done(call, f"deleting {repository}:{reference}")


def _doubt(response: Response) -> RegistryError | None:
    """What to say if a manifest is not there after *response*; None for a clear one."""
    if response.status == 201 or stated_digest(response) is not None:
        return None
    return RegistryError(
        response.method,
        show_url(response.url),
        response.status,
        detail="but the manifest is not there; does something before the registry, "
        "such as a login page, answer in its place?",
    )


def _looked_too_early(error: RegistryError) -> bool:
    """True when another client was just linking the same blob into the repository.

    distribution writes that link in place, finds it empty meanwhile, and then calls
    the blob unknown and, first, its digest invalid (registry/storage/linkedblobstore.go
    at v2.8). Of the manifest's own digest nothing was said: its bytes are right.
    """
    is_digest = error.status == 400 and error.code == "DIGEST_INVALID"
    return is_digest and "blob unknown" in error.detail.lower()


def stated_digest(response: Response) -> Digest | None:
    """Docker-Content-Digest of *response*; None when there is none that we know."""
    return _digest_in(response, "Docker-Content-Digest")


def _digest_in(response: Response, header: str) -> Digest | None:
    try:
        return Digest((response.header(header) or "").strip())
    except InvalidDigest:
        return None


def check_digest(response: Response, digest: Digest) -> None:
    """Raises ContentMismatch when *response* names another digest than *digest*."""
    stated = stated_digest(response)
    if stated is not None and stated.algorithm == digest.algorithm and stated != digest:
        raise ContentMismatch(
            f"{response.method} {show_url(response.url)}: the registry has {stated} "
            f"instead of {digest}"
        )


def described(response: Response, reference: str, raw: bytes) -> Descriptor:
    """The descriptor of *raw*, a manifest that came for *reference*.

    Raises ContentMismatch when the digest is not that of the reference or the header,
    InvalidJSON when the document is not what its media type says (CVE-2021-41190).
    """
    where = show_url(response.url)
    stated = stated_digest(response)
    wanted = Digest(reference) if ":" in reference else stated
    digest = _digest_like(wanted, raw)
    for expected in (wanted, stated):
        if expected is not None and _digest_like(expected, raw) != expected:
            raise ContentMismatch(
                f"{where}: the manifest has the digest {_digest_like(expected, raw)} "
                f"instead of {expected}"
            )
    header = (response.header("Content-Type") or "").partition(";")[0].strip().lower()
    return Descriptor(_media_type(raw, header, where), digest, len(raw))


def _digest_like(example: Digest | None, raw: bytes) -> Digest:
    if example is None:
        return Digest.of(raw)
    hasher = example.hasher()
    hasher.update(raw)
    return Digest.from_hash(hasher)


def _digest_for(reference: str, raw: bytes) -> Digest:
    """The digest of *raw*. Raises ContentMismatch when *reference* is another one."""
    digest = _digest_like(Digest(reference) if ":" in reference else None, raw)
    if ":" in reference and digest != reference:
        raise ContentMismatch(f"the manifest has the digest {digest}, not {reference}")
    return digest


def _media_type(raw: bytes, header: str, where: str) -> str:
    """What *raw* is, when the header, the document and its fields agree."""
    record = require(parse_json(raw, where), dict, where)
    said = optional(record, "mediaType", str, where)
    known = "" if header in _TELLS_NOTHING else header
    if said and known and said != known:
        raise InvalidJSON(
            f"{where}: sent as {known!r}, but calls itself {one_line(said, 80)!r}"
        )
    is_index = "manifests" in record or (said or known) in INDEX_TYPES
    media_type = said or known or (OCI_INDEX if is_index else OCI_MANIFEST)
    fitting = INDEX_TYPES if is_index else (*MANIFEST_TYPES, OCI_ARTIFACT)
    if media_type not in fitting or (is_index and not _INSIDE.isdisjoint(record)):
        raise InvalidJSON(
            f"{where}: not a manifest that can be read: {one_line(media_type, 80)!r} "
            f"with {'manifests' if is_index else 'no manifests'} in it"
        )
    return media_type
