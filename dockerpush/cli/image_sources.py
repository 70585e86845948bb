"""What images are read from: archives, runtimes, the cache, and registries.

An archive can be read at will, or once. An image by its reference is read from the
cache, into which it is pulled first when it is missing.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator, NamedTuple, Sequence, Union

from ..errors import (
    MORE_TEMP_SPACE,
    CacheError,
    InvalidReference,
    PusherError,
    UsageError,
)
from ..reference import (
    DOCKER_HUB,
    LooksLikeFile,
    Reference,
    looks_like_file,
    split_scheme,
    without_docker,
)
from ..values import replace
from . import console, location

if TYPE_CHECKING:
    from ..archive import Archive, StoredImage
    from ..archive.forward import ForwardArchive, IndexedArchive
    from ..archive.opened import OpenLayout
    from ..oci import Descriptor, Platform
    from ..state.cache import Cache, Pins
    from ..system.cancellation import Cancellation
    from ..transfer.choices import (
        BlobForecast,
        CopyOptions,
        PulledImage,
        PushOptions,
        PushResult,
    )
    from ..transfer.delta_source import DeltaSource, Lacking
    from ..transfer.prepare import Samples
    from ..transfer.recompress import SourceArchive
    from ..transfer.registry_target import RegistryTarget
    from ..transfer.source import CacheSource, RegistrySource
    from ..transfer.verify import Verified
    from .endpoints import Connections

STDIN = "-"


class ImagePush(NamedTuple):
    """One push: *image* of a source goes to *target*, under *tags* or a digest."""

    target: RegistryTarget
    image: StoredImage
    tags: Sequence[str]
    options: PushOptions


class StoredSource:
    """Images that an archive holds, whatever is read of it and how often."""

    def verify(self, one: ImagePush) -> Verified:
        """Read back what `push` left under the first of the tags."""
        from ..transfer.plan import narrowed
        from ..transfer.verify import verify_image

        image = narrowed(one.image, one.options.platforms)
        return verify_image(one.target, image, one.tags[0], jobs=one.options.jobs)


class PlainSource(StoredSource):
    """A plain tar or a directory."""

    is_stream = False

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    @property
    def images(self) -> Sequence[StoredImage]:
        """What it holds."""
        return self._archive.images

    def push(self, one: ImagePush) -> PushResult:
        """Push one of `images`."""
        from ..transfer.push_image import push_image

        target, image, tags, options = one
        with self._archive.blaming():
            return push_image(target, self._archive, image, tags=tags, options=options)

    def dry_run(self, one: ImagePush) -> list[BlobForecast]:
        """What `push` would do."""
        from ..transfer.push_image import dry_run

        target, image, tags, options = one
        with self._archive.blaming():
            return dry_run(target, self._archive, image, tags=tags, options=options)


class VerbatimSource:
    """Images that go byte for byte."""

    is_stream = False

    def _place(
        self, target: RegistryTarget, image: StoredImage
    ) -> tuple[CacheSource | DeltaSource, Descriptor]:
        """Where *image* is read for *target*, and its root there."""
        raise NotImplementedError

    def push(self, one: ImagePush) -> PushResult:
        """Push one of its images; of *options* only platforms and jobs count."""
        from ..transfer.choices import CopyOptions
        from ..transfer.copy_image import copy_image

        source, root = self._place(one.target, one.image)
        narrow = CopyOptions(one.options.platforms, jobs=one.options.jobs)
        copied = copy_image(
            source, one.target, str(root.digest), tags=one.tags, options=narrow
        )
        return copied.as_push(one.target.repository, one.tags)

    def dry_run(self, one: ImagePush) -> list[BlobForecast]:
        """What `push` would do."""
        from ..transfer.verify import dry_run_copy

        source, root = self._place(one.target, one.image)
        document = source.child(root)
        return dry_run_copy(source, document, one.target, jobs=one.options.jobs)

    def verify(self, one: ImagePush) -> Verified:
        """Read back what `push` left under the first of the tags."""
        from ..transfer.verify import verify_copy

        source, root = self._place(one.target, one.image)
        document, jobs = source.child(root), one.options.jobs
        return verify_copy(source, document, one.target, one.tags[0], jobs=jobs)


class CachedImageSource(VerbatimSource):
    """An image of the cache, which may be recompressed on its way.

    Its platforms were chosen before.
    """

    def __init__(self, cache: Cache, pulled: PulledImage) -> None:
        from ..archive.stored import StoredImage, StoredOther
        from ..transfer.source import CacheSource

        root = StoredOther(pulled.chosen, None, ())
        self.images = (StoredImage((str(pulled.reference),), (), None, root),)
        self._source = CacheSource(cache, pulled.chosen)
        self._chosen = pulled.chosen

    def push(self, one: ImagePush) -> PushResult:
        """Push it; of *options* the jobs count, and how it is recompressed."""
        options = replace(one.options, platforms=())
        if not options.recompress:
            return super().push(one._replace(options=options))
        from ..transfer.recompress import recompress_image

        digest = str(self._chosen.digest)
        done = recompress_image(
            self._source, one.target, digest, tags=one.tags, options=options
        )
        return done.as_push(one.target.repository, one.tags)

    def dry_run(self, one: ImagePush) -> list[BlobForecast]:
        """What `push` would do."""
        options = replace(one.options, platforms=())
        if not options.recompress:
            return super().dry_run(one._replace(options=options))
        from ..transfer.push_image import dry_run

        archive = self._archive()
        return dry_run(
            one.target, archive, archive.image, tags=one.tags, options=options
        )

    def verify(self, one: ImagePush) -> Verified:
        """Read back what `push` left under the first of the tags."""
        if not one.options.recompress:
            return super().verify(one)
        from ..transfer.verify import verify_image

        image = self._archive().image
        return verify_image(one.target, image, one.tags[0], jobs=one.options.jobs)

    def _place(
        self, target: RegistryTarget, image: StoredImage
    ) -> tuple[CacheSource, Descriptor]:
        return self._source, self._chosen

    def _archive(self) -> SourceArchive:
        """The same image as an archive, whose layers can be recompressed."""
        from ..transfer.recompress import SourceArchive

        return SourceArchive(self._source, self._source.child(self._chosen))


class DeltaImages(VerbatimSource):
    """Images of a delta, which go byte for byte into the registry that has the rest."""

    def __init__(self, layout: OpenLayout) -> None:
        self.images = layout.images
        self._layout = layout

    def lacks(self, target: RegistryTarget, image: StoredImage) -> Lacking:
        """What *image* would lack at *target*."""
        from ..transfer.delta_source import Lacking

        source, root = self._place(target, image)
        name = f"{target.place}/{target.repository}:{target.reference}"
        return Lacking(name, list(source.lacks(root, target.has_document)))

    def check(self, lacking: Sequence[Lacking]) -> None:
        """Raises NotHeld when the images to be pushed are *lacking* something."""
        from ..transfer.delta_source import refuse_lacking

        refuse_lacking(lacking, self._layout)

    def _place(
        self, target: RegistryTarget, image: StoredImage
    ) -> tuple[DeltaSource, Descriptor]:
        from ..transfer.delta_source import Base, DeltaSource

        assert image.root is not None, "index.json names manifests"
        assert image.root.descriptor is not None, "index.json names manifests"
        source = DeltaSource(self._layout, Base(target.client, target.repository))
        return source, image.root.descriptor


class ForwardSource(StoredSource):
    """A compressed file, or a pipe: ``-`` or a name."""

    def __init__(self, path: str, cancellation: Cancellation) -> None:
        self._path = path
        self._cancellation = cancellation
        self._was_read = False

    @property
    def is_stream(self) -> bool:
        """True when it can be read only once."""
        return self._path == STDIN or Path(self._path).is_fifo()

    @cached_property
    def images(self) -> Sequence[StoredImage]:
        """What it holds, at the price of reading it once; a pipe has no second time.

        Raises UsageError for standard input.
        """
        return self._indexed[0].images

    def close(self) -> None:
        """Give temp space back."""
        if "_indexed" in self.__dict__:
            self._indexed[0].close()

    @cached_property
    def _indexed(self) -> tuple[IndexedArchive, Samples]:
        from ..archive.forward import IndexedArchive
        from ..transfer.prepare import Samples

        if self._path == STDIN:
            raise UsageError(
                "standard input can be read only once: name the target with -t, and "
                "no --all-tags or --dry-run"
            )
        samples = Samples()
        return IndexedArchive(self._path, self._cancellation, samples.visit), samples

    def push(self, one: ImagePush) -> PushResult:
        """Push one of `images`; the file is read once more for large layers."""
        from ..archive.select import identity
        from ..transfer.push_image import push_image
        from ..transfer.stream import push_stream

        target, image, tags, options = one
        known = self._indexed[0]
        if known.holds(image):
            return push_image(target, known, image, tags=tags, options=options)
        place = [identity(each) for each in self.images].index(identity(image))
        with self._open() as archive:
            return push_stream(
                target,
                archive,
                lambda images: images[place],
                tags=tags,
                options=options,
                image=image,
                again=self._again,
            )

    def push_unseen(
        self,
        target: RegistryTarget,
        name: str | None,
        *,
        tags: Sequence[str],
        options: PushOptions,
    ) -> PushResult:
        """Push the only image, or the one called *name*, in the one time of reading."""
        from ..archive import select_image
        from ..transfer.stream import push_stream

        with self._open() as archive:
            return push_stream(
                target,
                archive,
                lambda images: select_image(images, name),
                tags=tags,
                options=options,
                again=self._again,
            )

    def dry_run(self, one: ImagePush) -> list[BlobForecast]:
        """What `push` would do."""
        from ..transfer.push_image import dry_run

        target, image, tags, options = one
        archive, samples = self._indexed
        return dry_run(
            target, archive, image, tags=tags, options=options, shrinks=samples
        )

    @property
    def _again(self) -> Callable[[], ForwardArchive] | None:
        """Opens it once more; None for what can be read only once."""
        from ..archive.forward import is_lasting

        return self._open if is_lasting(self._path) else None

    def _open(self) -> ForwardArchive:
        from ..archive.forward import open_forward

        if self._was_read and self.is_stream:
            raise PusherError(
                "the pipe was read by a push that failed, and can be read only once; "
                "push from a file, or to one target"
            )
        self._was_read = True
        return open_forward(self._path, self._cancellation)


class RuntimeSource(ForwardSource):
    """An image that docker, nerdctl or podman has, saved into the push."""

    is_stream = True

    def __init__(
        self, name: str, wanted: str | None, cancellation: Cancellation
    ) -> None:
        super().__init__(name, cancellation)
        self._wanted = wanted

    @cached_property
    def images(self) -> Sequence[StoredImage]:
        """Not known before it is pushed. Raises UsageError."""
        raise UsageError(
            "--runtime pushes one image as the runtime gives it, without --all-tags, "
            "--name, --dry-run and --verify; for these: dockerpush save IMAGE first"
        )

    @property
    def _again(self) -> None:
        return None

    def _open(self) -> ForwardArchive:
        from ..archive.forward import open_stream
        from ..runtimes.runtime import find_runtime, open_save

        runtime = find_runtime(self._wanted, cancellation=self._cancellation)
        output = open_save(runtime, [self._path], cancellation=self._cancellation)
        return open_stream(output, f"{runtime.name} save {self._path}")


Source = Union[PlainSource, CachedImageSource, DeltaImages, ForwardSource]


@contextmanager
def open_source(
    path: str, cancellation: Cancellation, *, runtime: str | None = None
) -> Iterator[Source]:
    """The archive at *path*, or with *runtime* the image that it calls so.

    *runtime* is "" for any. Raises NotFound, ArchiveError.
    """
    from ..archive.opened import Archive, open_any
    from ..archive.sniff import is_forward

    if runtime is not None:
        yield RuntimeSource(path, runtime or None, cancellation)
        return
    if is_forward(path):
        with closing(ForwardSource(path, cancellation)) as source:
            yield source
        return
    archive = open_any(path)
    with archive:
        if isinstance(archive, Archive):
            yield PlainSource(archive)
        else:
            yield DeltaImages(archive)


@contextmanager
def usable_cache(connections: Connections, *, needed: bool) -> Iterator[Cache]:
    """The cache; unless it is *needed*, one for this run where it cannot be written."""
    from ..events import Notice
    from ..state.cache import Cache

    cache = Cache(connections.state.path / "cache")
    try:
        with cache.guarded():
            pass
    except CacheError as error:
        if needed:
            elsewhere = "set DOCKERPUSH_STATE_DIR to a directory that can be written"
            raise CacheError(f"{error}; {elsewhere}") from error
        degraded = Notice(f"{error}; continuing without it", warning=True)
        connections.session.on_event(degraded)
        with tempfile.TemporaryDirectory(prefix="dockerpush-") as directory:
            yield Cache(Path(directory) / "cache", room=MORE_TEMP_SPACE)
        return
    yield cache


def pulled(
    reference: Reference,
    connections: Connections,
    cache: Cache,
    *,
    pins: Pins,
    platforms: tuple[Platform, ...],
) -> PulledImage:
    """*reference*, which *cache* holds then, for *platforms*."""
    from ..transfer.pull import Pull, pull_images

    session = connections.session
    with session.cancellation.child() as cancellation:
        image = pull_images(
            [Pull(registry_source(reference, connections), reference)],
            cache,
            pins,
            options=receiving_options(reference, connections, platforms),
            cancellation=cancellation,
            on_event=session.on_event,
        )[0]
    session.end_progress()
    return image


def registry_source(reference: Reference, connections: Connections) -> RegistrySource:
    """The repository of *reference*, to be read."""
    from ..transfer.source import RegistrySource

    client = connections.client(reference.registry)
    return RegistrySource(client, reference.repository)


def receiving_options(
    reference: Reference, connections: Connections, platforms: tuple[Platform, ...]
) -> CopyOptions:
    """How to read from the registry of *reference*: *platforms*, and the settings."""
    from ..transfer.choices import CopyOptions

    jobs = connections.settings(reference.registry).jobs
    return CopyOptions(platforms, jobs=jobs)


def image_name(text: str) -> Reference | None:
    """The image that *text* names; None when it is, or looks like, a file.

    Without a registry, a tag or a digest it counts as the name of a file.
    """
    name = without_docker(text)
    if name == text and is_file(text):
        return None
    try:
        Reference.parse(name)
    except InvalidReference:
        if split_scheme(name)[0]:
            raise
        return None
    try:
        reference = location.source(text)
    except InvalidReference as error:
        hint = "it is no file here either"
        if isinstance(error, LooksLikeFile):
            hint = "write its path alone"
        raise InvalidReference(f"{error}; {hint}") from error
    if reference.tag or reference.digest:
        return reference
    is_clear = name != text or reference.registry != DOCKER_HUB
    return reference.with_tag("latest") if is_clear else None


def is_file(text: str) -> bool:
    """True when *text* names a file or directory, or has the form of a file's name."""
    return text == STDIN or looks_like_file(text) or location.is_here(text)


@contextmanager
def open_cached(
    reference: Reference, platforms: tuple[Platform, ...], connections: Connections
) -> Iterator[Source]:
    """The image of the cache that *reference* names, pulled when it is missing.

    Raises what `pulled` does.
    """
    from ..transfer.pull import cached_image

    with ExitStack() as stack:
        cache = stack.enter_context(usable_cache(connections, needed=False))
        pins = stack.enter_context(cache.pins())
        image = cached_image(cache, pins, reference, platforms)
        if image is None:
            image = pulled(
                reference, connections, cache, pins=pins, platforms=platforms
            )
            if not connections.session.display.quiet:
                size = console.size_text(image.received)
                console.say(f"pulled {reference}: {size} received")
        yield CachedImageSource(cache, image)
