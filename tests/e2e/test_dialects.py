"""Registries as they are: each dialect as a registry that speaks it, and its source.

Every test fails when what it is about is taken out of the uploader or of the table of
hosts. Sources are named as ``owner/repository: path`` or ``owner/repository#number``.
"""

from __future__ import annotations

import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import pytest
from fake_registry import CUT, Answer, FakeRegistry, Incoming, cut_after, error, serving
from faultproxy import Effect, Fault, FaultProxy
from registries import DockerRegistry
from uploading import (
    MIB,
    QUICK,
    Sender,
    holds,
    noise,
    sender_to,
    small,
    uploading,
)

from dockerpush.errors import PusherError, TransientError
from dockerpush.events import Outcome, Retrying
from dockerpush.oci import Digest
from dockerpush.state.upload_sessions import UploadSessions
from dockerpush.upload.limits import HostLimits, Status, default_limits
from dockerpush.values import replace

NOTHING_TO_SAY = lambda request: None  # noqa: E731


def breaking(registry: FakeRegistry, keep: int) -> Callable[[Incoming], Answer]:
    """Keep *keep* bytes of a PATCH, then cut the connection."""

    def act(request: Incoming) -> Answer:
        upload, left = registry.upload_of(request), keep
        while left and (part := request.read(left)):
            upload += part
            left -= len(part)
        return CUT

    return act


def losing(method: Callable[[Incoming], Answer]) -> Callable[[Incoming], Answer]:
    """Do what is asked, and cut the connection instead of saying so."""

    def act(request: Incoming) -> Answer:
        method(request)
        return CUT

    return act


def then(first: int, *answers: object) -> list:
    """*first* requests that are answered as usual, then *answers*."""
    return [NOTHING_TO_SAY] * first + list(answers)


# distribution, and what is built on it


class Distribution2(FakeRegistry):
    """Offsets travel in the Location; a wrong one ends the session, by any method.

    distribution/distribution v2.8.3: registry/handlers/blobupload.go, lines 66 to 90.
    Content-Range is not looked at.
    """

    def opened(self, number: str, **headers: str) -> Answer:
        answer = super().opened(number, **headers)
        answer.headers["Location"] += "?_state=0"
        return answer

    def stale(self, request: Incoming) -> Answer | None:
        upload = self.upload_of(request)
        if upload is not None and request.query.get("_state") == str(len(upload)):
            return None
        self.uploads.pop(self.id_of(request), None)
        return error(404, "BLOB_UPLOAD_INVALID", "blob upload invalid")

    def patch(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        return self.stale(request) or self.with_state(
            request, self.stored(request, upload)
        )

    def put(self, request: Incoming) -> Answer:
        return self.stale(request) or super().put(request)

    def status(self, request: Incoming) -> Answer:
        stale = self.stale(request)
        return stale or self.with_state(request, super().status(request))

    def with_state(self, request: Incoming, answer: Answer) -> Answer:
        upload = self.upload_of(request)
        if answer.status:
            answer.headers["Location"] = f"{request.path}?_state={len(upload)}"
        return answer


def test_distribution_2_loses_the_session_of_a_broken_chunk_and_gets_the_blob_again():
    """A PATCH that is cut half-way makes every Location stale."""
    registry, content = Distribution2(), noise(3500)
    registry.script("PATCH", *then(1, breaking(registry, 300)))
    with uploading(registry, small()) as sender:
        assert sender.send(content) is Outcome.UPLOADED
    assert holds(registry, content)
    assert registry.methods().count("POST") == 2
    assert len(sender.told(Retrying)) == 1


def test_distribution_2_continues_after_a_break_that_left_nothing():
    """``Range: 0-0`` is no byte here, and Content-Range is not checked."""
    registry, content = Distribution2(), noise(3500)
    registry.script("PATCH", CUT)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 1


class Distribution3(FakeRegistry):
    """A wrong offset is 416 without Range and Location, and the session goes on.

    distribution/distribution: registry/handlers/blobupload.go (d7a2b1448).
    """


def test_distribution_3_is_asked_where_it_stands_after_a_416():
    """416 without words about sizes is a wrong offset; the status tells it."""
    registry, content = Distribution3(), noise(3500)

    def taken_but_refused(request: Incoming) -> Answer:
        registry.patch(request)
        return error(416, "RANGE_INVALID", "invalid content range")

    registry.script("PATCH", *then(1, taken_but_refused))
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.received() == 3500
    assert registry.methods().count("STATUS") == 1


@pytest.mark.parametrize("kept", [1, 300, 999])
def test_distribution_3_keeps_the_bytes_of_a_broken_chunk(kept):
    """The status works with an old Location and counts partial bytes."""
    registry, content = Distribution3(), noise(3500)
    registry.script("PATCH", *then(1, breaking(registry, kept)))
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.received() == 3500


def test_harbor_answers_401_to_a_mount_from_a_project_that_is_not_there():
    """goharbor/harbor#17097."""
    registry, content = FakeRegistry(), noise(900)

    def no_project(request: Incoming) -> Answer | None:
        wants_mount = "mount" in request.query
        return error(401, "UNAUTHORIZED", "unauthorized") if wants_mount else None

    registry.script("POST", no_project, no_project)
    with uploading(registry) as sender:
        outcome = sender.send(content, mount_from=("gone/app",))
    assert outcome is Outcome.UPLOADED
    assert holds(registry, content)


def test_gitlab_tokens_expire_between_two_chunks():
    """gitlab-org/gitlab-ce#19867: 5 minutes; one chunk is sent again, not the blob."""
    registry, content = FakeRegistry(), noise(3500)
    expired = error(401, "UNAUTHORIZED", "authentication required")
    registry.script("PATCH", *then(2, expired))
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 1
    assert registry.received() == 3500


# ghcr.io


class Ghcr(FakeRegistry):
    """A PATCH with Content-Range takes 4 MiB at most, and says so by 416."""

    def patch(self, request: Incoming) -> Answer:
        if request.range and request.length > 4 * MIB:
            return error(
                416,
                "RANGE_INVALID",
                "the request body is too large and exceeds the maximum permissible "
                "limit of 4.00MiB",
            )
        return super().patch(request)


def test_ghcr_means_the_size_by_a_416_with_words_about_it():
    """ocx-sh/ocx#237, oras-project/rust-oci-client#35: shrink, at the same offset."""
    registry, content = Ghcr(), noise(11 * MIB)
    with uploading(registry, small(10 * MIB)) as sender:
        sender.send(content)
        registry.seen.clear()
        sender.send(noise(11 * MIB, seed=2), known_absent=True)
    assert holds(registry, content)
    assert max(registry.sizes("PATCH")) == 4 * MIB, "the next blob knows"
    assert "STATUS" not in registry.methods()


def test_ghcr_takes_a_blob_of_any_size_in_one_put():
    """kitops-ml/kitops#780."""
    assert default_limits("ghcr.io").is_monolithic(10**10)


# Amazon ECR

ECR = default_limits("123456789012.dkr.ecr.eu-west-1.amazonaws.com")


class Ecr(FakeRegistry):
    """PATCH answers 201, the Range stays, small parts and an empty PUT are refused."""

    first: str | None = None

    def patch(self, request: Incoming) -> Answer:
        if request.length < 5 * MIB:
            return error(400, "LayerPartTooSmallException", "part is too small")
        answer = super().patch(request)
        if answer.status == 202:
            self.first = self.first or answer.headers["Range"]
            answer.status, answer.headers["Range"] = 201, self.first
        return answer

    def status(self, request: Incoming) -> Answer:
        return Answer(204, {"Range": self.first or "0-0", "Location": request.path})

    def put(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        if not request.length:
            return error(500, "INTERNAL", "empty")
        if request.range is None or request.range[0] != len(upload):
            return error(416, "RANGE_INVALID", "not the next part")
        return super().put(request)


def in_chunks_of(size: int, limits: HostLimits) -> HostLimits:
    return replace(limits, monolithic_max=size, chunk=size)


def test_ecr_gets_the_tail_in_the_closing_put():
    """cirruslabs/tart#159 (empty PUT), dotnet/sdk-container-builds#279 (201)."""
    registry, content = Ecr(), noise(12 * MIB)
    with uploading(registry, in_chunks_of(5 * MIB, ECR)) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.sizes("PATCH") == [5 * MIB, 5 * MIB]
    assert registry.seen[-1].content_range == f"{10 * MIB}-{12 * MIB - 1}"


def test_ecr_is_not_asked_where_it_stands_for_it_does_not_know():
    """aws/containers-roadmap#2831, chalk/chalk#682: the Range is stuck."""
    registry, content = Ecr(), noise(17 * MIB)
    registry.script("PATCH", *then(1, losing(registry.patch)))
    with uploading(registry, in_chunks_of(5 * MIB, ECR)) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert "STATUS" not in registry.methods()
    assert registry.methods().count("POST") == 1, "all the data are there"


def test_ecr_refuses_small_parts_and_gets_larger_ones():
    """dotnet/sdk-container-builds#424, on a host that we do not know."""
    registry, content = Ecr(), noise(12 * MIB)
    limits = replace(ECR, chunk_min=1, chunk=2 * MIB, monolithic_max=2 * MIB)
    with uploading(registry, limits) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert sender.limits.current.chunk_size == 5 * MIB


def test_an_object_store_that_complains_of_small_parts_late_gets_all_of_it_again():
    """Amazon S3 takes a small part, and refuses what follows it."""

    class Late(FakeRegistry):
        def patch(self, request: Incoming) -> Answer:
            upload = self.upload_of(request)
            if upload and len(upload) < 5 * MIB:
                return error(400, "EntityTooSmall", "the part is too small")
            return super().patch(request)

    registry, content = Late(), noise(12 * MIB)
    with uploading(registry, small(2 * MIB)) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.sizes("PATCH") == [size * MIB for size in (2, 2, 5, 5, 2)]


def test_ecr_hangs_up_when_the_repository_is_missing():
    """dotnet/sdk-container-builds#279: no answer at all to the POST."""
    registry = FakeRegistry()
    registry.script("POST", *[CUT] * QUICK.attempts * 2)
    with uploading(registry, ECR) as sender:
        sender.fails(PusherError, "repository 'team/app' may be missing", noise(10))


def test_public_ecr_and_google_get_one_put_of_any_size():
    """dotnet/sdk#33019, dotnet/sdk-container-builds#287: chunks get stuck there."""
    for host in ("public.ecr.aws", "gcr.io", "eu.gcr.io", "europe-docker.pkg.dev"):
        assert default_limits(host).is_monolithic(10**10)
    registry, content = FakeRegistry(), noise(3 * MIB)
    with uploading(registry, default_limits("gcr.io")) as sender:
        sender.send(content)
    assert registry.methods() == ["HEAD", "POST", "PUT"]


class Google(FakeRegistry):
    """One PATCH at most: a second one is refused."""

    def patch(self, request: Incoming) -> Answer:
        if request.range and request.range[0]:
            return error(400, "UNSUPPORTED", "chunked upload is not supported")
        return super().patch(request)


@pytest.mark.parametrize("blobs", [2])
def test_a_registry_like_googles_refuses_the_second_chunk_and_gets_one_put(blobs):
    """containers/skopeo#1101, kitops-ml/kitops#777: and again for the next blob."""
    registry = Google()
    with uploading(registry, small()) as sender:
        for seed in range(blobs):
            sender.send(noise(3500, seed))
    assert all(holds(registry, noise(3500, seed)) for seed in range(blobs))
    assert registry.methods().count("PATCH") == 2
    assert registry.sizes("PUT") == [3500, 3500]


# Azure


class Acr(FakeRegistry):
    """A PUT above 20 MB is 413; requests without Content-Length are 400."""

    most = 20_000_000

    def put(self, request: Incoming) -> Answer:
        return Answer(413) if request.length > self.most else super().put(request)

    def patch(self, request: Incoming) -> Answer:
        if "Content-Length" not in request.headers:
            return error(400, "CONTENT_LENGTH_INVALID", "no length")
        return super().patch(request)


def test_acr_refuses_a_large_put_and_gets_chunks():
    """goharbor/harbor#23015, #21640; a host name that the table does not know."""
    registry, content = Acr(), noise(21_000_000)
    with uploading(registry) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.sizes("PUT") == [21_000_000, 0]


def test_acr_is_known_to_refuse_large_puts():
    registry, content = Acr(), noise(21_000_000)
    with uploading(registry, default_limits("team.azurecr.io")) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.sizes("PUT") == [0]


def test_acr_answers_416_to_a_put_now_and_then():
    """Azure/acr#866: another session does it."""
    registry, content = Acr(), noise(900)
    registry.script("PUT", error(416, "RANGE_INVALID", "range not satisfiable"))
    with uploading(registry) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 2


def test_a_registry_that_always_answers_416_to_a_put_gets_chunks():
    """Azure/acr#866, where it does not pass."""

    class Stubborn(Acr):
        def put(self, request: Incoming) -> Answer:
            if request.length:
                return error(416, "RANGE_INVALID", "range not satisfiable")
            return super().put(request)

    registry, content = Stubborn(), noise(900)
    with uploading(registry) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.sizes("PUT") == [900, 900, 0]
    assert "STATUS" not in registry.methods()


# Quay, Gitea, Aliyun: the Range is something else


class Quay(FakeRegistry):
    """The status has no Location, and its Range ends with the count of bytes.

    quay/quay: endpoints/v2/blob.py, data/registry_model/blobuploader.py.
    """

    def post(self, request: Incoming) -> Answer:
        return self.opened(self.new_upload(), Range="bytes=0--1")

    def status(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        if upload is None:
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        return Answer(204, {"Range": f"bytes=0-{len(upload)}"})

    def patch(self, request: Incoming) -> Answer:
        """A start before what is stored is taken, and the overlap dropped."""
        upload = self.upload_of(request)
        if upload is None:
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        start = request.range[0] if request.range else 0
        if start > len(upload):
            headers = {"Location": request.path, "Range": f"0-{len(upload)}"}
            return Answer(416, headers)
        body = request.body()
        upload += body[len(upload) - start :]
        if len(body) < request.length:
            return CUT
        headers = {"Range": self.range_of(upload), "Location": request.path}
        return Answer(202, headers)


@pytest.mark.parametrize("kept", [0, 300, 999, 1000])
@pytest.mark.parametrize("host", ["quay.io", "quay.example.com"])
def test_quay_counts_bytes_where_others_name_the_last(kept, host):
    """Whether the table knows the host or not; the blob is not started over."""
    registry, content = Quay(), noise(3500)
    limits = in_chunks_of(1000, default_limits(host))
    registry.script("PATCH", *then(1, breaking(registry, kept)))
    with uploading(registry, limits) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 1
    refused = [seen for seen in registry.seen if seen.status == 416]
    assert not refused or host != "quay.io", "what is known costs nothing"


def test_quay_keeps_an_empty_session_too():
    registry, content = Quay(), noise(3500)
    limits = in_chunks_of(1000, default_limits("quay.io"))
    registry.script("PATCH", CUT)
    with uploading(registry, limits) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 1


class Gitea(FakeRegistry):
    """Content-Range is compulsory after the first chunk; the status is one too high.

    go-gitea/gitea: routers/api/packages/container/container.go; #34724.
    """

    def patch(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        if upload and request.range is None:
            return error(
                400,
                "BLOB_UPLOAD_INVALID",
                "Stream uploads after first write are not allowed",
            )
        return super().patch(request)

    def range_of(self, upload: bytearray) -> str:
        return f"0-{len(upload) - 1}"

    def status(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        if upload is None:
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        return Answer(204, {"Range": f"0-{len(upload)}"})


@pytest.mark.parametrize("kept", [1, 300, 1000])
def test_gitea_refuses_the_offset_that_it_names_and_gets_the_one_before(kept):
    registry, content = Gitea(), noise(3500)
    registry.script("PATCH", *then(1, breaking(registry, kept)))
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 1


def test_gitea_is_understood_from_then_on():
    """Two breaks: the second answer is known to be a count."""
    registry, content = Gitea(), noise(5500)
    broken = breaking(registry, 300)
    registry.script("PATCH", *then(1, broken, NOTHING_TO_SAY, NOTHING_TO_SAY, broken))
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 1
    assert [seen.status for seen in registry.seen].count(416) == 1


def test_gitea_says_0_1_below_nothing_of_an_empty_session():
    """go-gitea/gitea#34724: ``Range: 0--1`` broke other clients."""
    registry, content = Gitea(), noise(3500)
    registry.script(
        "POST", lambda r: registry.opened(registry.new_upload(), Range="0--1")
    )
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)


class Aliyun(FakeRegistry):
    """The Range is that of the last chunk alone."""

    last = 0

    def patch(self, request: Incoming) -> Answer:
        answer = super().patch(request)
        self.last = request.length
        if answer.status == 202:
            answer.headers["Range"] = f"0-{request.length - 1}"
        return answer

    def status(self, request: Incoming) -> Answer:
        return Answer(204, {"Range": f"0-{self.last - 1}", "Location": request.path})


def test_aliyun_counts_each_chunk_for_itself():
    """regclient/regclient#627: what it says is not what it has."""
    registry, content = Aliyun(), noise(3500)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods() == ["HEAD", "POST", *["PATCH"] * 4, "PUT"]


def test_aliyun_is_not_believed_after_a_break():
    """A status before what was acknowledged cannot be: the blob is started over."""
    registry, content = Aliyun(), noise(3500)
    registry.script("PATCH", *then(2, CUT))
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert sender.limits.current.status is Status.NEVER
    assert registry.methods().count("POST") == 2


# Artifactory, Docker Hub, Pulp


class Artifactory(FakeRegistry):
    """A PUT with the whole blob is refused; it wants a PATCH first."""

    def put(self, request: Incoming) -> Answer:
        if request.length:
            return error(400, "UNSUPPORTED", "upload the data by PATCH")
        return super().put(request)


def test_artifactory_refuses_the_whole_blob_and_gets_a_patch():
    """containerd/containerd#3533, moby/buildkit#1130; the next blob knows."""
    registry = Artifactory()
    with uploading(registry) as sender:
        sender.send(noise(900))
        sender.send(noise(901))
    assert holds(registry, noise(900))
    assert holds(registry, noise(901))
    assert registry.sizes("PUT") == [900, 0, 0]
    assert registry.sizes("PATCH") == [900, 901]


def test_artifactory_answers_404_to_a_patch_now_and_then():
    """GoogleContainerTools/jib#3399: another session does it."""
    registry, content = FakeRegistry(), noise(3500)
    registry.script("PATCH", *then(1, Answer(404)))
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 2


class DockerHub(FakeRegistry):
    """Chunks end in 404 at the second one."""

    def patch(self, request: Incoming) -> Answer:
        if request.range and request.range[0]:
            return Answer(404)
        return super().patch(request)


def test_docker_hub_loses_chunks_and_gets_one_put():
    """regclient/regclient#323."""
    registry, content = DockerHub(), noise(3500)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.sizes("PUT") == [3500]


def test_docker_hub_throttles_with_a_body_that_is_no_json():
    """docker/hub-feedback#1907: 429, Retry-After, text."""
    registry, content = FakeRegistry(), noise(900)
    text = b"Too Many Requests (HAP429).\n\n"
    registry.script("PUT", Answer(429, {"Retry-After": "0"}, text))
    with uploading(registry) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert "429" in sender.told(Retrying)[0].reason


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_pulp_and_others_answer_a_patch_with_any_success(status):
    """pulp/pulp_container#2199 (204), ECR (201)."""

    class Pulp(FakeRegistry):
        def patch(self, request: Incoming) -> Answer:
            answer = super().patch(request)
            given = status if answer.status == 202 else 0
            return Answer(given, answer.headers, answer.body)

    registry, content = Pulp(), noise(3500)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)


@pytest.mark.parametrize("status", [200, 201, 204])
def test_any_success_closes_a_blob(status):
    """google/go-containerregistry: pkg/v1/remote/write.go."""

    class Lenient(FakeRegistry):
        def put(self, request: Incoming) -> Answer:
            answer = super().put(request)
            return Answer(status, answer.headers, answer.body)

    registry, content = Lenient(), noise(900)
    with uploading(registry) as sender:
        assert sender.send(content) is Outcome.UPLOADED
    assert registry.methods() == ["HEAD", "POST", "PUT"]


# zot, serverless-registry


class Zot(FakeRegistry):
    """A body that ends early deletes the session; a PUT's body needs Content-Range.

    project-zot/zot: pkg/api/routes.go.
    """

    def stored(self, request: Incoming, upload: bytearray) -> Answer:
        answer = super().stored(request, upload)
        if answer is CUT:
            self.uploads.pop(self.id_of(request), None)
        return answer

    def put(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        start = request.range[0] if request.range else 0
        if upload is not None and request.length and start != len(upload):
            return error(416, "RANGE_INVALID", "wrong offset")
        return super().put(request)


def test_zot_deletes_the_session_of_a_broken_body():
    registry, content = Zot(), noise(3 * MIB)

    def broken(request: Incoming) -> Answer:
        registry.uploads.clear()
        return cut_after(1000)(request)

    registry.script("PATCH", *then(1, broken))
    with uploading(registry, small(MIB)) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 2


def test_zot_takes_a_tail_in_the_put_with_its_content_range():
    registry, content = Zot(), noise(12 * MIB)
    with uploading(registry, in_chunks_of(5 * MIB, ECR)) as sender:
        sender.send(content)
    assert holds(registry, content)


class Serverless(FakeRegistry):
    """Equal chunks between two bounds, never of one byte; a PUT's body is ignored.

    cloudflare/serverless-registry: src/registry/r2.ts, src/chunk.ts.
    """

    low, high = 1000, 2000
    size: int | None = None

    def post(self, request: Incoming) -> Answer:
        self.size = None
        return self.opened(
            self.new_upload(),
            **{
                "OCI-Chunk-Min-Length": str(self.low),
                "OCI-Chunk-Max-Length": str(self.high),
                "Range": "0--1",
            },
        )

    def patch(self, request: Incoming) -> Answer:
        start, end = request.range or (0, 0)
        if start >= end:
            return Answer(416)
        so_far = len(self.uploads[self.id_of(request)])
        after_last = self.size is not None and so_far % self.size
        if after_last or request.length > (self.size or self.high):
            return Answer(416)
        self.size = self.size or request.length
        return super().patch(request)

    def put(self, request: Incoming) -> Answer:
        if request.length:
            return error(400, "DIGEST_INVALID", "the body was ignored")
        return super().put(request)


@pytest.mark.parametrize("wanted", [10, 1500, 50_000])
@pytest.mark.parametrize("size", [2001, 4001, 7501, 7500, 3003])
def test_serverless_registry_gets_equal_chunks_and_no_tail_of_one_byte(wanted, size):
    """Whatever the user wants: between OCI-Chunk-Min-Length and -Max-Length."""
    registry, content = Serverless(), noise(size)
    limits = replace(small(wanted), monolithic_max=1999)
    with uploading(registry, limits) as sender:
        sender.send(content)
    assert holds(registry, content)
    *chunks, tail = registry.sizes("PATCH")
    assert len(set(chunks)) == 1
    assert tail > 1
    assert {seen.status for seen in registry.seen} == {404, 202, 201}


def test_serverless_registry_gets_chunks_of_what_is_above_its_maximum():
    """However small a blob is for others, one PUT of it would be ignored."""
    registry, content = Serverless(), noise(3000)
    with uploading(registry) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.sizes("PUT") == [0]


def test_serverless_registry_gets_the_blob_again_when_chunks_must_shrink():
    """Smaller chunks would not be equal to those that it has."""
    registry, content = Serverless(), noise(11 * MIB)
    registry.low, registry.high = MIB, 4 * MIB
    registry.script("PATCH", *then(1, Answer(413)))
    with uploading(registry, small(4 * MIB)) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.sizes("PATCH") == [size * MIB for size in (4, 4, 2, 2, 2, 2, 2, 1)]
    assert 416 not in {seen.status for seen in registry.seen}


def test_serverless_registry_gets_chunks_of_the_size_that_an_earlier_run_began(
    tmp_path,
):
    """Equal chunks, although this run would like larger ones."""
    registry, content = Serverless(), noise(9700)
    sessions = UploadSessions(tmp_path / "uploads")
    registry.script("PATCH", *then(2, *[Answer(503)] * QUICK.attempts))
    with serving(registry) as host:
        with sender_to(host, small(1500), sessions=sessions) as first:
            first.fails(TransientError, "503", content)
        registry.seen.clear()
        with sender_to(host, small(1900), sessions=sessions) as second:
            second.send(content)
    assert holds(registry, content)
    assert "POST" not in registry.methods()


# proxies


class Proxied(FakeRegistry):
    """A proxy in front lets bodies of *most* bytes through, and says 413 in HTML."""

    most = MIB

    def answer(self, request: Incoming) -> Answer:
        if request.length > self.most:
            text = b"<html><head><title>413 Request Entity Too Large</title></head>"
            return Answer(413, {"Content-Type": "text/html"}, text)
        return super().answer(request)


def test_nginx_refuses_large_bodies_and_gets_smaller_ones():
    """goharbor/harbor#3270, https-portal#100: 1 MiB by default; halved until it is."""
    registry, content = Proxied(), noise(9 * MIB)
    with uploading(registry) as sender:
        sender.send(content)
        refused = [seen for seen in registry.seen if seen.status == 413]
        registry.seen.clear()
        sender.send(noise(4 * MIB), known_absent=True)
    assert holds(registry, content)
    assert 0 < len(refused) <= 5
    assert {seen.status for seen in registry.seen} == {202, 201}, "remembered"


def test_nginx_with_nothing_left_to_try_is_explained():
    """Bodies of 1 MiB are as small as they get."""
    registry = Proxied()
    registry.most = 1000
    with uploading(registry) as sender:
        sender.fails(PusherError, r"413.*client_max_body_size", noise(4 * MIB))
    assert registry.uploads == {}
    assert len(registry.seen) < 12


def test_a_body_limit_and_no_chunks_is_explained_too():
    """A registry that takes one PUT only, behind a proxy that refuses it."""

    class Both(Google, Proxied):
        pass

    registry = Both()
    with uploading(registry) as sender:
        sender.fails(PusherError, r"413.*client_max_body_size", noise(4 * MIB))
    assert registry.blobs == {}


def test_three_uploads_that_meet_one_limit_halve_once():
    """Each is refused at one size; what one has learned counts for all."""
    together = threading.Barrier(3, timeout=10)

    class Together(Proxied):
        most = 4 * MIB

        def answer(self, request: Incoming) -> Answer:
            if request.method == "PUT" and request.length:
                together.wait()
            return super().answer(request)

    registry = Together()
    blobs = [noise(6 * MIB, seed) for seed in range(3)]
    with uploading(registry) as sender:
        at_once(sender, blobs)
    assert all(holds(registry, content) for content in blobs)
    assert sender.limits.current.chunk_size == 3 * MIB


def at_once(sender: Sender, blobs: list[bytes]) -> None:
    """Upload all of *blobs* at the same time."""
    with ThreadPoolExecutor(len(blobs)) as pool:
        assert list(pool.map(sender.send, blobs)) == [Outcome.UPLOADED] * len(blobs)


def test_a_location_that_is_left_out_stays_what_it_was():
    """distribution-spec wants one in each answer; older Gitea and Quay have none."""

    class Silent(FakeRegistry):
        def patch(self, request: Incoming) -> Answer:
            answer = super().patch(request)
            answer.headers.pop("Location", None)
            return answer

    registry, content = Silent(), noise(3500)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)


def test_a_chunk_is_sent_to_where_it_is_redirected():
    """distribution-spec: any request may be redirected; 307 keeps method and body."""
    registry, content = FakeRegistry(), noise(3500)

    def elsewhere(request: Incoming) -> Answer:
        registry.uploads["other"] = registry.uploads[registry.id_of(request)]
        return Answer(307, {"Location": "/v2/team/app/blobs/uploads/other"})

    registry.script("PATCH", *then(1, elsewhere))
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)


def test_a_chunk_that_is_redirected_without_end_is_given_up():
    registry = FakeRegistry()

    def elsewhere(request: Incoming) -> Answer:
        return Answer(307, {"Location": request.path})

    registry.script("PATCH", *[elsewhere] * 50)
    with uploading(registry, small()) as sender:
        sender.fails(PusherError, "too many redirects", noise(3500))
    assert registry.methods().count("PATCH") < 10


# the real thing


def stored(registry: DockerRegistry, repository: str, content: bytes) -> bool:
    """True when the real registry gives back exactly *content*."""
    url = f"{registry.url}/v2/{repository}/blobs/{Digest.of(content)}"
    with urllib.request.urlopen(url) as response:
        return response.read() == content


@pytest.mark.long
def test_a_real_registry_takes_120_mb_in_chunks(shared_docker_registry):
    content = noise(120_000_000)
    host, repository = shared_docker_registry.host, "dialects/large"
    before = len(shared_docker_registry.requests())
    with sender_to(host, repository=repository) as sender:
        assert sender.send(content) is Outcome.UPLOADED
        assert sender.send(content) is Outcome.EXISTS
    asked = [
        r for r in shared_docker_registry.requests()[before:] if repository in r.path
    ]
    assert [r.method for r in asked].count("PATCH") == 3
    assert [r.status for r in asked if r.method == "PUT"] == [201]
    assert stored(shared_docker_registry, repository, content)


@pytest.mark.parametrize("effect", [Effect.CUT_REQUEST, Effect.LOSE_ANSWER])
def test_a_real_registry_2_8_starts_a_broken_blob_over(shared_docker_registry, effect):
    """What the fake above says of distribution 2 is what the binary does."""
    content, repository = noise(4 * MIB), f"dialects/broken-{effect.name.lower()}"
    with FaultProxy(shared_docker_registry.host) as proxy:
        schedule = proxy.schedule(
            repository, Fault(effect, "PATCH", nth=2, after=300_000)
        )
        with sender_to(proxy.host, small(MIB), repository=repository) as sender:
            assert sender.send(content) is Outcome.UPLOADED
    assert schedule.met
    posts = [request for request in schedule.requests if request.startswith("POST")]
    assert len(posts) == 2
    assert stored(shared_docker_registry, repository, content)


def test_a_real_registry_continues_with_a_session_of_an_earlier_run(
    shared_docker_registry, tmp_path
):
    """At a chunk's end the session of 2.8 is sound, and the next run adopts it."""
    content, repository = noise(4 * MIB), "dialects/resumed"
    sessions = UploadSessions(tmp_path / "uploads")
    options = {"repository": repository, "sessions": sessions}
    with FaultProxy(shared_docker_registry.host) as proxy:
        proxy.schedule(
            repository, Fault(Effect.ANSWER_EARLY, "PATCH", nth=3, status=503)
        )
        once = replace(QUICK, attempts=1)
        with sender_to(proxy.host, small(MIB), policy=once, **options) as first:
            first.fails(TransientError, "503", content)
        schedule = proxy.schedule(repository)
        with sender_to(proxy.host, small(MIB), **options) as second:
            assert second.send(content) is Outcome.UPLOADED
    methods = [request.split()[0] for request in schedule.requests]
    assert methods == ["HEAD", "GET", "PATCH", "PATCH", "PUT"]
    assert stored(shared_docker_registry, repository, content)
