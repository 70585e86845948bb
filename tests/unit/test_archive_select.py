"""Picking one image of several."""

from __future__ import annotations

import re

import pytest
from archives import Image, layout, legacy, tar

from dockerpush.archive import describe, open_archive, select_image
from dockerpush.archive.stored import StoredImage
from dockerpush.errors import NotFound, UsageError


@pytest.fixture
def images(tmp_path) -> tuple[StoredImage, ...]:
    files = legacy(
        Image.of("1", tags=("app:1", "app:stable")),
        Image.of("2", tags=("localhost/tool:2",)),
        Image.of(
            "3", tags=("reg.example.com/tool:2", "docker.io/library/nginx:latest")
        ),
        Image.of("4"),
    )
    with open_archive(tar(tmp_path / "image.tar", files)) as archive:
        return archive.images


@pytest.mark.parametrize(
    ("name", "number", "kept"),
    [
        ("app:1", 0, "app:1"),
        ("docker.io/library/app:stable", 0, "app:stable"),
        ("stable", 0, "app:stable"),
        ("localhost/tool:2", 1, "localhost/tool:2"),
        ("nginx", 2, "docker.io/library/nginx:latest"),
        ("latest", 2, "docker.io/library/nginx:latest"),
        ("example.com/tool:2", None, None),
    ],
)
def test_a_name_picks_one_image_under_the_name_that_was_meant(
    images, name, number, kept
):
    if number is None:
        with pytest.raises(NotFound):
            select_image(images, name)
        return
    found = select_image(images, name)
    assert found.entry is images[number].entry
    assert found.names == (kept,)


def test_an_image_without_a_name_is_picked_by_its_digest(images):
    config = images[3].entry.config_descriptor.digest
    assert select_image(images, str(config)) == images[3]
    assert f"(no name) {config}" in describe(images)


def test_a_name_that_means_several_images_lists_them(images):
    with pytest.raises(UsageError, match="means 2 images") as caught:
        select_image(images, "tool:2")
    assert "localhost/tool:2, reg.example.com/tool:2" in str(caught.value)


def test_a_name_that_means_nothing_lists_what_there_is(images):
    with pytest.raises(NotFound, match=r"no image 'other'.*app:1, app:stable"):
        select_image(images, "other")


def test_several_images_and_no_name_is_an_error_that_lists_them(images):
    with pytest.raises(UsageError, match=r"4 images, pick one with --name: app:1"):
        select_image(images)


def test_one_image_needs_no_name(images):
    assert select_image(images[:1]) is images[0]


def test_a_tag_of_an_annotation_picks_an_image(tmp_path):
    with open_archive(
        tar(tmp_path / "image.tar", layout(Image.of("1")).annotated(ref="v1").files())
    ) as archive:
        (image,) = archive.images
        found = select_image(archive.images, "v1")
        assert (found.tags, found.root) == (("v1",), image.root)
        digest = str(image.root.descriptor.digest)
        assert select_image(archive.images, digest) is image


def test_names_that_several_images_have_are_told_apart_by_digest(tmp_path):
    """Also where all images of the archive are listed, which a broken one is among."""
    both = layout(Image.of("1"), Image.of("2")).annotated(ref="v1")
    with open_archive(tar(tmp_path / "image.tar", both.files())) as archive:
        digests = [str(image.root.descriptor.digest) for image in archive.images]
        shown = ", ".join(f"{digest} (v1)" for digest in digests)
        assert describe(archive.images) == shown
        with pytest.raises(NotFound, match=re.escape(shown)):
            select_image(archive.images, "v2")
        broken = StoredImage((), ("v1",), None, None, problem="damaged")
        assert describe([*archive.images, broken]).endswith("no digest (v1)")


def test_a_long_list_is_cut_short():
    image = StoredImage(tuple(f"app:{number}" for number in range(30)), (), None, None)
    assert describe([image]).endswith("app:19 and 10 more")
