"""One registry, one method per endpoint of the OCI distribution specification.

Rules: a method without a body retries by itself, as the policy says; so does a
manifest, whose bytes are at hand. `send_chunk` and `finish_upload` are single attempts:
the uploader owns them. Everything that a registry says about content is checked against
its digest. Any number of threads may use one client.
"""

from __future__ import annotations

import itertools
from typing import Any, Callable, Iterable, Iterator, TypeVar

from ..credentials.identity import CredentialSource, anonymous
from ..errors import (
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
    NotFoundInRegistry,
    RegistryError,
    TransientError,
)
from ..events import OnEvent, ignore
from ..oci import Descriptor, Digest
from ..reference import check_repository
from ..system.cancellation import Cancellation
from ..system.streams import Closeable
from .answers import PIECE, Answer, BlobAnswer, Download
from .auth import Challenge
from .connections import Piece
from .debug import uploads_log
from .http_session import CATALOG, OCTETS, Call, HttpSession, scope
from .looks import unless_refused
from .manifest_answers import (
    ACCEPT,
    AcceptedManifest,
    check_digest,
    checked_reference,
    described,
    digest_for,
    digest_in,
    doubt_in,
    is_link_race,
    may_be_there,
    named_by,
)
from .pages import (
    Listed,
    Page,
    bounded,
    parse_listed,
    parse_tags,
    query,
    read_catalog,
    read_pages,
    tagged_or_none,
)
from .retry import RetryPolicy, retrying
from .transport import TransportSettings
from .uploads import (
    Upload,
    acknowledged,
    log_upload,
    opened_upload,
    reported_offset,
    shown_range,
    updated_upload,
    with_digest,
)

T = TypeVar("T")

PULL = "pull"
PUSH = "pull,push"
"""What a client may do; tokens are asked for accordingly."""


class RegistryClient(Closeable):
    """The registry *registry* (``host[:port]``, as in a reference).

    *actions* is PUSH for a registry that is written to, so that one token does for
    everything, and PULL otherwise. All methods raise RegistryError (Unauthorized,
    NotFoundInRegistry) for a definite answer, NetworkError, TransientError when the
    policy's attempts are used up, and Cancelled.
    """

    def __init__(
        self,
        registry: str,
        settings: TransportSettings,
        cancellation: Cancellation,
        *,
        credentials: CredentialSource = anonymous,
        policy: RetryPolicy | None = None,
        on_event: OnEvent = ignore,
        actions: str = PUSH,
    ) -> None:
        self.registry = registry
        self._cancellation = cancellation
        self._rate = settings.rate
        self._policy = policy or RetryPolicy()
        self._on_event = on_event
        self._actions = actions
        self._session = HttpSession(
            registry, settings, cancellation, credentials=credentials, on_event=on_event
        )

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._session.close()

    @property
    def base(self) -> str:
        """Scheme, host and port; plain HTTP may turn out with the first call."""
        return self._session.base

    @property
    def was_reached(self) -> bool:
        """True once it has given an answer that counts, to whoever asked."""
        return self._session.was_reached

    @property
    def challenge(self) -> Challenge | None:
        """How this registry asked who we are; None: it did not ask yet."""
        return self._session.auth.challenge

    @property
    def piece_size(self) -> int:
        """Bytes that a piece of a body should have at most, so that it flows evenly."""
        return PIECE if self._rate is None else min(PIECE, self._rate.grant)

    # Determining support

    def api_version(self) -> str:
        """What the registry calls its API, "" when it does not say; else as `ping`."""
        call = Call("GET", "/v2/", (200,))
        with self._sent(call, f"asking {self.registry}") as response:
            return response.header("Docker-Distribution-Api-Version") or ""

    def ping(self) -> None:
        """Return when the registry speaks this protocol and takes our credentials."""
        self.api_version()

    # Blobs that are there

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """Bytes of the blob *digest* in *repository*; None: not there, or not known."""
        return self._look_for(repository, digest)[1]

    def has_blob(self, repository: str, blob: Descriptor) -> bool:
        """True when *repository* holds *blob*, all of it, as far as is known."""
        return bool(self.holds_blob(repository, blob))

    def holds_blob(self, repository: str, blob: Descriptor) -> bool | None:
        """As `has_blob`, None when the registry refuses to say.

        A look that only saves work: one that is refused says nothing.
        """
        found = unless_refused(lambda: self._look_for(repository, blob.digest))
        if found is None:
            return None
        is_there, size = found
        return is_there and size in (None, blob.size)

    def _look_for(self, repository: str, digest: Digest) -> tuple[bool, int | None]:
        call = self._call("HEAD", repository, f"blobs/{digest}")
        try:
            with self._sent(call, f"looking for blob {digest.short}") as response:
                if response.size is not None:
                    return True, response.size
            with self.open_blob(repository, digest) as reader:  # HEAD had no length
                return not reader.is_page, reader.size
        except NotFoundInRegistry:
            return False, None

    def open_blob(self, repository: str, digest: Digest, offset: int = 0) -> BlobAnswer:
        """The bytes of the blob from *offset* on, not verified; the caller closes it.

        Reading them raises TransientError when the connection breaks.
        """
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        call = self._call(
            "GET", repository, f"blobs/{digest}", (200, 206, 416), headers=wanted
        )
        response = self._sent(call, f"reading blob {digest.short}")
        reader = BlobAnswer.at(response, offset)
        reader.unpack_unless(digest.fits)
        return reader

    def download(self, repository: str, digest: Digest, offset: int = 0) -> Download:
        """As `open_blob`, but a broken connection continues where it stopped."""
        return Download(
            lambda position: self.open_blob(repository, digest, position),
            self._policy,
            self._cancellation,
            on_event=self._on_event,
            what=f"blob {digest.short}",
            offset=offset,
        )

    def read_blob(self, repository: str, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, verified.

        Raises ContentMismatch when it is not what *descriptor* says.
        """
        digest = descriptor.digest

        def read() -> bytes:
            content = bytearray()
            with self.open_blob(repository, digest) as reader:
                while len(content) <= descriptor.size and (piece := reader.read()):
                    content += piece
            return bytes(content)

        found = self._retrying(read, f"reading blob {digest.short}")
        if not digest.fits(found):
            raise ContentMismatch(f"blob {digest}: the registry sent other bytes")
        return found

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Delete the blob *digest* (distribution-spec, Deleting Blobs)."""
        self._delete(repository, f"blobs/{digest}", f"deleting blob {digest.short}")

    # Manifests and tags

    def read_manifest(
        self, repository: str, reference: str, accept: Iterable[str] = ACCEPT
    ) -> tuple[Descriptor, bytes]:
        """What *reference*, a tag or digest, names: its descriptor, its exact bytes.

        Raises ContentMismatch when the bytes do not have the digest that was asked for
        or stated, InvalidJSON when they are no manifest of one of the types *accept*.
        """
        call = self._manifest_call("GET", repository, reference, accept)

        def read() -> tuple[Descriptor, bytes]:
            with self._session.send(call) as response:
                raw = response.read_json("a manifest")
                return described(response, reference, raw), raw

        return self._retrying(read, f"reading {repository}:{reference}")

    def find_document(self, repository: str, node: Descriptor) -> bytes | None:
        """*node*, of an unknown type; None for a blob, to which some answer 500."""
        accept = (node.media_type, *ACCEPT)
        call = self._manifest_call("GET", repository, node.digest, accept)
        try:
            with self._session.send(call) as response:
                raw = response.read_json("a manifest")
        except (RegistryError, TransientError):
            return None
        return raw if node.digest.fits(raw) else None

    def manifest_descriptor(
        self, repository: str, reference: str, accept: Iterable[str] = ACCEPT
    ) -> Descriptor | None:
        """The descriptor of what *reference* names; None when there is nothing.

        When HEAD gives no descriptor, for whatever reason, GET is asked: it is what
        registries are tested with.
        """
        what = f"looking for {repository}:{reference}"
        try:
            found = self._retrying(
                lambda: self._head_manifest(repository, reference, accept), what
            )
        except (RegistryError, TransientError) as error:
            if error.status in (None, 401, 429):
                raise
            found = None
        try:
            return found or self.read_manifest(repository, reference, accept)[0]
        except NotFoundInRegistry:
            return None

    def find_manifest(self, repository: str, reference: str) -> Descriptor | None:
        """As `manifest_descriptor`, for a look that only saves work: one HEAD."""
        return unless_refused(
            lambda: self._retrying(
                lambda: self._head_manifest(repository, reference),
                f"looking for {repository}:{reference}",
            )
        )

    def _head_manifest(
        self, repository: str, reference: str, accept: Iterable[str] = ACCEPT
    ) -> Descriptor | None:
        call = self._manifest_call("HEAD", repository, reference, accept)
        with self._session.send(call) as response:
            return named_by(response, reference)

    def put_manifest(
        self, repository: str, reference: str, raw: bytes, media_type: str
    ) -> Digest:
        """Store *raw* under *reference*, a tag or its digest; as `store_manifest`."""
        return self.store_manifest(repository, reference, raw, media_type).digest

    def store_manifest(
        self, repository: str, reference: str, raw: bytes, media_type: str
    ) -> AcceptedManifest:
        """Store *raw* under *reference*, a tag or its digest.

        Whether it is there counts, not the answer: it is looked up after an answer that
        was lost, after a refusal (the tag may be immutable, and have this digest), and
        after a 2xx that has neither 201 nor a digest, such as the login page of a
        proxy. Raises RegistryError when it is not there, ContentMismatch when the
        registry names another digest.
        """
        digest = digest_for(checked_reference(reference), raw)
        call = self._write(
            *("PUT", repository, f"manifests/{reference}", (200, 201, 202, 204)),
            headers={"Content-Type": media_type},
            content=raw,
            size=len(raw),
        )
        attempts = itertools.count()

        def is_named(look: Callable[[str, str], Descriptor | None]) -> bool:
            found = unless_refused(lambda: look(repository, reference))
            return found is not None and found.digest == digest

        def put() -> tuple[RegistryError | None, Digest | None]:
            if next(attempts) and is_named(self._head_manifest):
                return None, None
            try:
                with self._session.send(call) as response:
                    check_digest(response, digest)
                    return doubt_in(response), digest_in(response, "OCI-Subject")
            except RegistryError as error:
                if is_link_race(error):
                    raise TransientError(str(error), status=error.status) from error
                if may_be_there(error):
                    return error, None
                raise

        doubt, subject = self._retrying(put, f"storing {repository}:{reference}")
        if doubt and not is_named(self.manifest_descriptor):
            raise doubt
        return AcceptedManifest(digest, subject)

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Delete the tag or, with a digest, the manifest *reference*."""
        tail = f"manifests/{checked_reference(reference)}"
        self._delete(repository, tail, f"deleting {repository}:{reference}")

    # Lists

    def tags(
        self, repository: str, *, last: str = "", page_size: int = 1000
    ) -> Iterator[str]:
        """The tags of *repository* in the registry's order, those after *last*.

        What cannot be a tag is skipped, with one warning. Raises InvalidJSON for an
        answer that is no list of tags, ContentMismatch when the registry does not say
        clearly which page comes next.
        """
        tail = "tags/list" + query(n=str(page_size), last=last)
        for page in self._pages(repository, tail, parse_tags):
            yield from page

    def repositories(self) -> Iterator[str]:
        """The repositories of the registry, as far as it shows them, in its order.

        The list is Docker's (docs.docker.com, HTTP API V2, Catalog), not in the
        specification: many registries refuse it. Raises what `tags` does.
        """

        def read(where: str) -> Page:
            return self._page(Call("GET", where, (200,), scopes=CATALOG))

        for page in read_catalog(self.registry, read, on_event=self._on_event):
            yield from page

    def referrers(
        self, repository: str, digest: Digest, artifact_type: str | None = None
    ) -> tuple[Descriptor, ...]:
        """The manifests that have *digest* as their subject (Listing Referrers).

        A registry that does not list them is asked for the tag ``sha256-<hex>``
        instead. Raises what `tags` does.
        """
        tail = f"referrers/{digest}" + query(artifactType=artifact_type or "")
        pages = self._pages(repository, tail, bounded(f"referrers of {digest.short}"))
        try:
            found = list(next(pages, []))
        except (RegistryError, InvalidJSON, InvalidDigest) as error:
            if isinstance(error, RegistryError) and error.status == 401:
                raise
            found = tagged_or_none(
                self.read_manifest, repository, digest, self._on_event
            )
        for page in pages:
            found += page
        kept = (one for one in found if artifact_type in (None, one.artifact_type))
        return tuple({one.digest: one for one in kept}.values())

    def lists_referrers(self, repository: str, digest: Digest) -> bool:
        """True when the registry lists those of *digest* itself, as far as it says."""
        pages = self._pages(repository, f"referrers/{digest}", parse_listed)
        return unless_refused(lambda: next(pages)) is not None

    def _pages(
        self, repository: str, tail: str, parse: Callable[[bytes], Listed]
    ) -> Iterator[list[Any]]:
        def read(where: str) -> Page:
            return self._page(self._call("GET", repository, where))

        return read_pages(repository, tail, read, parse, on_event=self._on_event)

    def _page(self, call: Call) -> Page:
        def page() -> Page:
            with self._session.send(call) as response:
                return Page.of(response)

        return self._retrying(page, f"listing {call.repository or self.registry}")

    # Uploads

    def start_upload(
        self,
        repository: str,
        *,
        mount: Digest | None = None,
        source: str | None = None,
    ) -> Upload | None:
        """An open session, or None when the blob *mount* was mounted from *source*.

        A registry that refuses a mount, in whatever way, is asked for a session with
        another request and a token for *repository* alone.
        """
        if mount is not None:
            try:
                return self._start(repository, mount, source)
            except RegistryError as error:
                uploads_log.debug("no mount of %s: %s", mount.short, error)
        return self._start(repository, None, None)

    def _start(
        self, repository: str, mount: Digest | None, source: str | None
    ) -> Upload | None:
        tail, scopes = "blobs/uploads/", [scope(repository, PUSH)]
        if mount is not None:
            if source:
                check_repository(source)
                scopes.append(scope(source, PULL))
            tail += query(mount=mount, **{"from": source or ""})
        accept = (202,) if mount is None else (201, 202)
        call = self._call("POST", repository, tail, accept, scopes=tuple(scopes))
        what = f"starting an upload to {repository}"
        # hang_ups: Amazon ECR does where the repository is missing
        with self._sent(call, what, hang_ups=False) as response:
            if response.status == 201:
                return None
            upload = opened_upload(repository, response)
        log_upload(upload, "opened in %s", repository)
        return upload

    def post_blob(
        self, repository: str, digest: Digest, body: Iterable[Piece], size: int
    ) -> Upload | None:
        """Store the blob *digest*, *body* of *size* bytes, by one request.

        None when that was done, else the session that was opened instead. One attempt.
        """
        call = self._write(
            *("POST", repository, f"blobs/uploads/{query(digest=digest)}", (201, 202)),
            headers=OCTETS,
            stream=body,
            size=size,
        )
        with self._session.send(call) as response:
            if response.status == 201:
                check_digest(response, digest)
                return None
            response.part()  # who does not want the body may not have read it
            upload = opened_upload(repository, response)
        log_upload(upload, "opened in %s, which took no blob with it", repository)
        return upload

    def send_chunk(
        self, repository: str, upload: Upload, body: Iterable[Piece], size: int
    ) -> Upload:
        """The session after *body*, *size* bytes, was added at its offset.

        One attempt. The new offset is what the registry acknowledged.
        """
        sent = f"{upload.offset}-{upload.offset + size - 1}"
        call = self._write(
            *("PATCH", repository, upload.location, (200, 201, 202, 204)),
            headers={**OCTETS, "Content-Range": sent},
            stream=body,
            size=size,
            patience=2.0,
        )
        with self._session.send(call) as response:
            told = response.header("Range")
            log_upload(
                upload,
                "sent bytes %s: %d, %s",
                sent,
                response.status,
                shown_range(told),
            )
            offset = acknowledged(told, upload.offset, size)
            return updated_upload(upload, response, offset)

    def upload_status(self, repository: str, upload: Upload) -> Upload:
        """The session as the registry says it stands, which need not be true.

        Raises NotFoundInRegistry when it is gone.
        """
        call = self._write("GET", repository, upload.location, (200, 202, 204))
        with self._sent(call, "asking where the upload stands") as response:
            told = response.header("Range")
            log_upload(upload, "asked where it stands: %s", shown_range(told))
            offset = reported_offset(told)
            return updated_upload(
                upload, response, upload.offset if offset is None else offset
            )

    def finish_upload(
        self,
        repository: str,
        upload: Upload,
        digest: Digest,
        *,
        body: Iterable[Piece] | None = None,
        size: int = 0,
    ) -> None:
        """Close the session: from here on *repository* holds the blob *digest*.

        *body* are its last *size* bytes. One attempt. Raises ContentMismatch when the
        registry names another digest.
        """
        headers = dict(OCTETS)
        if body is not None and upload.offset:
            headers["Content-Range"] = f"{upload.offset}-{upload.offset + size - 1}"
        call = self._write(
            *("PUT", repository, with_digest(upload.location, digest), (200, 201, 204)),
            headers=headers,
            stream=body,
            size=size,
            patience=15.0,
        )
        with self._session.send(call) as response:
            log_upload(upload, "closed at byte %d: %s", upload.offset + size, digest)
            check_digest(response, digest)

    def cancel_upload(self, repository: str, upload: Upload) -> None:
        """Have the registry forget the session. One attempt."""
        call = self._write("DELETE", repository, upload.location, (200, 202, 204, 404))
        with self._session.send(call) as response:
            log_upload(upload, "cancelled, status %d", response.status)

    def _call(
        self,
        method: str,
        repository: str,
        where: str,
        accept: tuple[int, ...] = (200,),
        *,
        scopes: tuple[str, ...] = (),
        **more: Any,
    ) -> Call:
        """A call about *repository*; *where* is a URL, or what follows its path."""
        check_repository(repository)
        url = where if "://" in where else f"/v2/{repository}/{where}"
        scopes = scopes or (scope(repository, self._actions),)
        return Call(method, url, accept, repository, scopes, **more)

    def _write(
        self,
        method: str,
        repository: str,
        where: str,
        accept: tuple[int, ...],
        **more: Any,
    ) -> Call:
        more["scopes"] = (scope(repository, PUSH),)
        return self._call(method, repository, where, accept, **more)

    def _manifest_call(
        self, method: str, repository: str, reference: str, types: Iterable[str]
    ) -> Call:
        where = f"manifests/{checked_reference(reference)}"
        headers = {"Accept": ", ".join(types)}
        return self._call(method, repository, where, headers=headers)

    def _delete(self, repository: str, where: str, what: str) -> None:
        wanted = (scope(repository, "delete"),)
        call = self._call("DELETE", repository, where, (200, 202, 204), scopes=wanted)
        self._sent(call, what).close()

    def _retrying(self, call: Callable[[], T], what: str, **more: Any) -> T:
        run, say = self._cancellation, self._on_event
        return retrying(call, self._policy, run, on_event=say, what=what, **more)

    def _sent(self, call: Call, what: str, **more: Any) -> Answer:
        return self._retrying(lambda: self._session.send(call), what, **more)
