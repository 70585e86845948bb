"""One registry, one method per endpoint of the OCI distribution specification.

Rules: a method without a body retries by itself, as the policy says; so does a
manifest, whose bytes are at hand. `send_chunk` and `finish_upload` are single attempts:
the uploader owns them. Everything that a registry says about content is checked against
its digest. Any number of threads may use one client.
"""

from __future__ import annotations

from types import TracebackType

from ..oci import Digest
from .blob_calls import BlobCalls, BlobReader
from .calls import PULL, PUSH
from .downloads import Download
from .http_session import Call
from .list_calls import ListCalls
from .locations import Upload
from .upload_calls import UploadCalls

__all__ = ["PULL", "PUSH", "BlobReader", "RegistryClient", "Upload"]


class RegistryClient(BlobCalls, UploadCalls, ListCalls):
    """The registry *registry* (``host[:port]``, as in a reference).

    *actions* is PUSH for a registry that is written to, so that one token does for
    everything, and PULL otherwise. All methods raise RegistryError (Unauthorized,
    NotFoundInRegistry) for a definite answer, NetworkError, TransientError when the
    policy's attempts are used up, and Cancelled.
    """

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def api_version(self) -> str:
        """What the registry calls its API, "" when it does not say; else as `ping`."""
        call = Call("GET", "/v2/", (200,))
        with self._sent(call, f"asking {self.registry}") as response:
            return response.header("Docker-Distribution-Api-Version") or ""

    def ping(self) -> None:
        """Return when the registry speaks this protocol and takes our credentials."""
        self._done(Call("GET", "/v2/", (200,)), f"asking {self.registry}")

    def download(self, repository: str, digest: Digest, offset: int = 0) -> Download:
        """As `open_blob`, but a broken connection goes on where it stopped."""
        return Download(
            lambda position: self.open_blob(repository, digest, position),
            self._policy,
            self._cancellation,
            on_event=self._on_event,
            what=f"blob {digest.short}",
            offset=offset,
        )
