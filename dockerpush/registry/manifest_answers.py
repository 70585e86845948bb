"""What a registry says about a manifest, checked against its bytes."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import ContentMismatch, InvalidDigest, InvalidJSON, RegistryError
from ..oci import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    IMAGE_KEYS,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA_1,
    UNTYPED,
    Descriptor,
    Digest,
    optional,
    parse_json,
    require,
)
from ..reference import check_tag
from ..strict_json import ANY, glance
from .answers import Answer
from .debug import one_line, show_url
from .refusals import shown_name

ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST, OCI_ARTIFACT)
"""Every type of manifest that we can read, the most telling first."""
_CANNOT_BE_STORED = frozenset(
    (
        *("MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_INVALID", "NAME_UNKNOWN"),
        *("NAME_INVALID", "DIGEST_INVALID", "SIZE_INVALID", "UNSUPPORTED"),
    )
)


class AcceptedManifest(NamedTuple):
    """A manifest that a registry has taken.

    *subject* is what it says to have listed it as a referrer of (OCI-Subject), None
    when it says nothing.
    """

    digest: Digest
    subject: Digest | None


def doubt_in(response: Answer) -> RegistryError | None:
    """What to say if a manifest is not there after *response*; None for a clear one."""
    if response.status == 201 or stated_digest(response) is not None:
        return None
    error = RegistryError(response.method, show_url(response.url), response.status)
    return error.in_words(
        f"cannot push {shown_name(response.host, response.url)}: the registry answered "
        f"{error.answer}, but does not have the manifest; a login page or a proxy may "
        "answer in its place"
    )


def is_link_race(error: RegistryError) -> bool:
    """True when another client was just linking the same blob into the repository.

    distribution writes that link in place, finds it empty meanwhile, and then calls the
    blob unknown and, first, its digest invalid (registry/storage/linkedblobstore.go at
    v2.8). The manifest's own digest was not meant: its bytes are right.
    """
    is_digest = error.status == 400 and error.code == "DIGEST_INVALID"
    return is_digest and "blob unknown" in error.detail.lower()


def named_by(response: Answer, reference: str) -> Descriptor | None:
    """The manifest that the answer to a HEAD of *reference* describes; None for none.

    Raises ContentMismatch when *reference* is another digest.
    """
    digest, size = stated_digest(response), response.size
    media_type = (response.header("Content-Type") or "").partition(";")[0]
    if digest is None or not size or not media_type or response.encoding:
        return None
    if ":" in reference and digest != reference:
        raise ContentMismatch(
            f"{shown_name(response.host, response.url)}: the registry answered with "
            f"the digest {digest}"
        )
    return Descriptor(media_type.strip(), digest, size)


def may_be_there(error: RegistryError) -> bool:
    """True when a PUT may be refused because the tag is immutable.

    Registries say so by 400 (ECR, Nexus), 403 (Artifactory), 409 (Quay), 412 (Harbor).
    What they say of a manifest that cannot be stored at all is no such refusal.
    """
    immutable = error.status in (400, 403, 405, 409, 412)
    return immutable and error.code not in _CANNOT_BE_STORED


def stated_digest(response: Answer) -> Digest | None:
    """Docker-Content-Digest of *response*; None when there is none that we know."""
    return digest_in(response, "Docker-Content-Digest")


def digest_in(response: Answer, header: str) -> Digest | None:
    """The digest in *header* of *response*; None when there is none that we know."""
    try:
        return Digest((response.header(header) or "").strip())
    except InvalidDigest:
        return None


def check_digest(response: Answer, digest: Digest) -> None:
    """Raises ContentMismatch when *response* names another digest than *digest*."""
    stated = stated_digest(response)
    if stated is not None and stated.contradicts(digest):
        raise ContentMismatch(
            f"{shown_name(response.host, response.url)}: the registry stored {stated} "
            f"instead of {digest}"
        )


def checked_reference(reference: str) -> str:
    """*reference*, a tag or a digest, fit for a URL.

    Raises InvalidReference or InvalidDigest.
    """
    if ":" in reference:
        return Digest(reference)
    check_tag(reference)
    return reference


def described(response: Answer, reference: str, raw: bytes) -> Descriptor:
    """The descriptor of *raw*, a manifest that came for *reference*.

    Raises ContentMismatch when the digest is not that of the reference or the header,
    InvalidJSON when the document is not what its media type says (CVE-2021-41190). Of a
    type that is not known it may be anything, when the registry states its digest.
    """
    where = shown_name(response.host, response.url)
    stated = stated_digest(response)
    wanted = Digest(reference) if ":" in reference else stated
    digest = digest_like(wanted, raw)
    for expected in (wanted, stated):
        if expected is not None and not expected.fits(raw):
            raise ContentMismatch(
                f"{where}: the manifest has the digest {digest_like(expected, raw)} "
                f"instead of {expected}"
            )
    header = (response.header("Content-Type") or "").partition(";")[0].strip().lower()
    is_text = header.startswith("text/") or header in UNTYPED
    if stated and not is_text and header not in ACCEPT and not _is_json(raw):
        return Descriptor(header, digest, len(raw))
    return Descriptor(_media_type(raw, header, where), digest, len(raw))


def _is_json(raw: bytes) -> bool:
    try:
        return isinstance(glance(raw), dict)
    except (ValueError, RecursionError):
        return False


def digest_like(example: Digest | None, raw: bytes) -> Digest:
    """The digest of *raw*, by the algorithm of *example*."""
    if example is None:
        return Digest.of(raw)
    hasher = example.hasher()
    hasher.update(raw)
    return Digest.from_hash(hasher)


def digest_for(reference: str, raw: bytes) -> Digest:
    """The digest of *raw*. Raises ContentMismatch when *reference* is another one."""
    digest = digest_like(Digest(reference) if ":" in reference else None, raw)
    if ":" in reference and digest != reference:
        raise ContentMismatch(f"the manifest has the digest {digest}, not {reference}")
    return digest


def _media_type(raw: bytes, header: str, where: str) -> str:
    """What *raw* is, when the header, the document and its fields agree."""
    record = require(parse_json(raw, where, ANY), dict, where)
    said = optional(record, "mediaType", str, where)
    known = "" if header in UNTYPED else header
    if said and known and said != known:
        raise InvalidJSON(
            f"{where}: the registry sent it as {known!r}, but its mediaType is "
            f"{one_line(said, 80)!r}"
        )
    is_index = "manifests" in record or (said or known) in INDEX_TYPES
    media_type = said or known or (OCI_INDEX if is_index else OCI_MANIFEST)
    if known and known not in ACCEPT and not known.startswith(SCHEMA_1):
        return known
    fitting = INDEX_TYPES if is_index else (*MANIFEST_TYPES, OCI_ARTIFACT)
    if media_type not in fitting or (is_index and not IMAGE_KEYS.isdisjoint(record)):
        raise InvalidJSON(
            f"{where}: not a valid manifest: {one_line(media_type, 80)!r} "
            f"with {'manifests' if is_index else 'no manifests'} in it"
        )
    return media_type
