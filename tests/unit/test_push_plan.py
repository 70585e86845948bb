"""What a push will do, decided from values alone."""

from __future__ import annotations

from functools import partial

import pytest
from stored import (
    AMD64,
    ARM64,
    docker_entry,
    gzip_layer,
    oci_index,
    oci_manifest,
    raw_layer,
)

from dockerpush.archive.stored import Absent, Compression, StoredImage
from dockerpush.documents import SUBJECT_ANNOTATION
from dockerpush.errors import ArchiveError, NotFound
from dockerpush.oci import Descriptor, Digest, Platform
from dockerpush.transfer.plan import Method, PlannedIndex, PlannedManifest, plan_push
from dockerpush.transfer.prepare import raw_layer_decision
from dockerpush.values import replace

RAW = raw_layer(b"raw layer")
PACKED = gzip_layer(b"packed", Digest.of(b"inside"))
COMPRESS = partial(raw_layer_decision, compress=True)
KEEP = partial(raw_layer_decision, compress=False)


def image(*, root=None, entry=None):
    return StoredImage(("app:1",), (), entry, root)


def test_a_manifest_of_compressed_layers_goes_byte_for_byte():
    plan = plan_push(image(root=oci_manifest([PACKED])), COMPRESS)
    assert isinstance(plan.root, PlannedManifest)
    assert plan.root.verbatim
    assert [blob.method for blob in plan.blobs] == [Method.AS_IS]


def test_raw_layers_are_compressed_and_the_manifest_is_rewritten():
    plan = plan_push(image(root=oci_manifest([RAW, PACKED])), COMPRESS)
    assert not plan.root.verbatim
    assert [b.method for b in plan.blobs] == [Method.COMPRESS, Method.AS_IS]


def test_without_compression_even_raw_layers_keep_the_manifest():
    assert plan_push(image(root=oci_manifest([RAW])), KEEP).root.verbatim


def test_a_rewritten_manifest_comes_from_manifest_json_where_there_is_one():
    entry, root = docker_entry([RAW]), oci_manifest([RAW])
    both = image(root=root, entry=entry)
    assert plan_push(both, COMPRESS).root.stored is entry
    assert plan_push(both, KEEP).root.stored is root


def test_a_layer_that_stands_twice_is_one_blob():
    plan = plan_push(image(entry=docker_entry([RAW, RAW])), COMPRESS)
    assert len(plan.blobs) == 1
    assert len(plan.root.layers) == 2


def test_statements_of_an_attestation_are_never_compressed():
    statement = replace(RAW, descriptor=replace(RAW.descriptor, media_type="x/intoto"))
    plan = plan_push(image(root=oci_manifest([statement])), COMPRESS)
    assert plan.root.verbatim


@pytest.mark.parametrize("packing", [Compression.XZ, Compression.BZIP2])
def test_layers_in_a_compression_without_media_type_are_compressed_again(packing):
    entry = docker_entry([RAW])
    layer = replace(entry.layers[0], compression=packing, digest=None)
    plan = plan_push(image(entry=replace(entry, layers=(layer,))), KEEP)
    assert plan.blobs[0].method is Method.COMPRESS


def test_a_foreign_layer_keeps_its_descriptor_and_is_not_sent():
    foreign = replace(
        PACKED, member=None, descriptor=replace(PACKED.descriptor, urls=("http://x/",))
    )
    plan = plan_push(image(root=oci_manifest([foreign])), COMPRESS)
    assert plan.blobs[0].method is Method.FOREIGN
    assert plan.root.verbatim


class TestIndexes:
    amd64 = oci_manifest([PACKED], AMD64)
    arm64 = oci_manifest([PACKED], ARM64)

    def test_a_complete_index_goes_whole(self):
        plan = plan_push(image(root=oci_index([self.amd64, self.arm64])), COMPRESS)
        assert isinstance(plan.root, PlannedIndex)
        assert plan.root.verbatim
        assert plan.notices == ()

    def test_absent_platforms_are_left_out_by_name(self):
        root = oci_index([self.amd64, self.arm64, Absent(self.absent())])
        plan = plan_push(image(root=root), COMPRESS)
        assert len(plan.root.children) == 2
        assert not plan.root.verbatim
        assert "linux/s390x" in plan.notices[0].text

    def test_the_only_platform_that_is_there_is_pushed_as_itself(self):
        root = oci_index([self.amd64, Absent(self.absent())])
        plan = plan_push(image(root=root), COMPRESS)
        assert plan.root.stored is self.amd64
        assert plan.root.verbatim

    def test_strict_refuses_what_is_incomplete(self):
        root = oci_index([self.amd64, Absent(self.absent())])
        with pytest.raises(ArchiveError, match="linux/s390x"):
            plan_push(image(root=root), COMPRESS, strict=True)

    def test_an_index_with_nothing_in_it_is_refused(self):
        with pytest.raises(ArchiveError, match="nothing in the archive is complete"):
            plan_push(image(root=oci_index([Absent(self.absent())])), COMPRESS)

    def test_an_attestation_goes_with_its_image(self):
        root = oci_index([self.amd64, self.attestation(self.amd64)])
        assert len(plan_push(image(root=root), COMPRESS).root.children) == 2

    def test_an_attestation_of_a_rewritten_image_is_dropped_by_name(self):
        rewritten = oci_manifest([RAW], AMD64)
        root = oci_index([rewritten, self.attestation(rewritten), self.arm64])
        plan = plan_push(image(root=root), COMPRESS)
        kept = [child.stored for child in plan.root.children]
        assert kept == [rewritten, self.arm64]
        assert rewritten.descriptor.digest.short in plan.notices[0].text

    def test_one_platform_is_pushed_as_itself(self):
        root = oci_index([self.amd64, self.arm64])
        plan = plan_push(image(root=root), COMPRESS, platforms=(ARM64,))
        assert plan.root.stored is self.arm64

    def test_two_of_three_platforms_make_a_new_index(self):
        riscv = oci_manifest([PACKED], Platform("linux", "riscv64"))
        root = oci_index([self.amd64, riscv, self.arm64])
        plan = plan_push(image(root=root), COMPRESS, platforms=(AMD64, ARM64))
        assert [c.stored for c in plan.root.children] == [self.amd64, self.arm64]
        assert plan.root.verbatim  # of the part
        assert plan.root.stored.descriptor.digest != root.descriptor.digest

    def test_an_entry_of_manifest_json_does_not_stand_for_several_platforms(self):
        both = [oci_manifest([RAW], AMD64), oci_manifest([RAW], ARM64)]
        two = image(root=oci_index(both), entry=docker_entry([RAW]))
        plan = plan_push(two, COMPRESS)
        assert [child.stored for child in plan.root.children] == both
        assert plan_push(two, COMPRESS, platforms=(ARM64,)).root.stored is both[1]

    @pytest.mark.parametrize(
        ("wanted", "place"),
        [("arm64", 0), ("arm64/v8", 0), ("arm/v7", 1), ("arm/v6", 1), ("arm/v5", None)],
    )
    def test_a_variant_stands_in_for_a_newer_one(self, wanted, place):
        have = [
            oci_manifest([PACKED], Platform.parse(f"linux/{name}"))
            for name in ("arm64/v8", "arm/v6", "amd64")
        ]
        asked = (Platform.parse(f"linux/{wanted}"),)
        if place is None:
            with pytest.raises(NotFound, match="linux/arm/v6, linux/arm64/v8"):
                plan_push(image(root=oci_index(have)), COMPRESS, platforms=asked)
        else:
            plan = plan_push(image(root=oci_index(have)), COMPRESS, platforms=asked)
            assert plan.root.stored is have[place]

    def test_what_only_refers_to_images_is_no_platform_to_choose(self):
        root = oci_index([self.amd64, self.attestation(self.amd64)])
        with pytest.raises(NotFound, match="only for linux/amd64;"):
            plan_push(image(root=root), COMPRESS, platforms=(ARM64,))

    def test_an_unknown_platform_names_those_that_are_there(self):
        with pytest.raises(NotFound, match="linux/amd64, linux/arm64"):
            plan_push(
                image(root=oci_index([self.amd64, self.arm64])),
                COMPRESS,
                platforms=(Platform("plan9", "386"),),
            )

    @staticmethod
    def absent() -> Descriptor:
        return replace(
            Descriptor.of("application/x", b"absent"),
            platform=Platform("linux", "s390x"),
        )

    @staticmethod
    def attestation(subject):
        return oci_manifest(
            [replace(PACKED, descriptor=replace(PACKED.descriptor, media_type="x/y"))],
            Platform("unknown", "unknown"),
            {SUBJECT_ANNOTATION: str(subject.descriptor.digest)},
        )
