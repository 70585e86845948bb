"""Images that go byte for byte, from any source to any target."""

from __future__ import annotations

from functools import partial
from typing import Sequence

from ..documents import RawManifest
from ..errors import NotFound
from ..oci import INDEX_TYPES, Descriptor, Digest, Platform
from ..system.workers import Workers, wide
from ..values import replace
from .choices import CopyOptions, CopyResult, TakenPlatform
from .engine import ConcurrencyLimits, transfer
from .plan import Plan, PlannedImage, Wanted
from .source import Source
from .target import Target
from .tree import Walker, child, narrowed, narrowing_notice, taken_of


def copy_image(
    source: Source,
    target: Target,
    reference: str,
    *,
    tags: Sequence[str],
    options: CopyOptions | None = None,
    limits: ConcurrencyLimits | None = None,
) -> CopyResult:
    """Make *target* hold what *reference* (tag or digest) names, under each of *tags*.

    Raises what `copy_images` does.
    """
    wanted = [Wanted(source, reference, tuple(tags))]
    return copy_images(wanted, target, options=options, limits=limits)[0]


def copy_images(
    wanted: Sequence[Wanted],
    target: Target,
    *,
    options: CopyOptions | None = None,
    only: Platform | None = None,
    limits: ConcurrencyLimits | None = None,
) -> list[CopyResult]:
    """Make *target* hold each of *wanted*; what was done for each.

    *only* is the platform that is taken of an index when *options* names none. *limits*
    is what transfers at the same time share. Raises what `engine.transfer` does, and
    NotFound for a platform that is not there; then no tag was moved.
    """
    options = options or CopyOptions()
    limits = limits or ConcurrencyLimits()
    planner = CopyPlanner(wanted, target, options, only, limits)
    return transfer(planner, target, jobs=options.jobs, limits=limits)


class CopyPlanner:
    """Plans each of *wanted*, and leaves out what *target* has already."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        target: Target,
        options: CopyOptions,
        only: Platform | None,
        limits: ConcurrencyLimits,
    ) -> None:
        self._wanted = wanted
        self._target = target
        self._options = options
        self._only = only
        self._limits = limits
        self._trusting = True

    def plan(self, *, trusting: bool) -> list[PlannedImage]:
        """Every image; of a target that has one under all its names, nothing moves."""
        self._trusting = trusting
        if len(self._wanted) == 1:
            return [self._plan(self._wanted[0])]
        jobs = min(wide(self._options.jobs), len(self._wanted))
        with Workers(self._target.cancellation, jobs, name="find") as workers:
            planning = [workers.submit(self._plan, one) for one in self._wanted]
            return workers.wait(planning)

    def _plan(self, wanted: Wanted) -> PlannedImage:
        source, target = wanted.source, self._target
        options = wanted.options or self._options
        with self._limits.permit(target.cancellation, source.place, target.place):
            whole = self._whole(wanted)
            root, taken = self._chosen(source, whole, options)
            image = PlannedImage(
                source,
                Plan(),
                _names(wanted, whole.descriptor, root.descriptor),
                label=(*wanted.names, wanted.reference)[0],
                root=root,
                whole=whole.descriptor,
                taken=taken,
            )
            if self._trusts(options) and image.names:
                image.looked = True
                named = [target.digest_of(name) for name in image.names]
                image.before = named[0]
                image.stored = _stored_before(named, root)
            if image.stored is None:
                image.plan = self._walked(source, root, options)
        return image

    def _whole(self, wanted: Wanted) -> RawManifest:
        """The manifest that is wanted; without its bytes where nobody needs them."""
        if wanted.root and self._trusting and self._target.has_document(wanted.root):
            return RawManifest(wanted.root, b"")
        return wanted.source.document(wanted.reference)

    def _walked(self, source: Source, root: RawManifest, options: CopyOptions) -> Plan:
        held = self._target.has_document if self._trusts(options) else _never
        walker = Walker(source, held, partial(self._fetch, source)).walk(root)
        if options.referrers:
            walker.add_referrers(self._target.cancellation)
        return walker.plan()

    def _fetch(
        self, source: Source, nodes: Sequence[Descriptor]
    ) -> Sequence[RawManifest]:
        """Manifests of *source*, several at a time."""
        jobs = min(wide(self._options.jobs), len(nodes))
        if jobs < 2:
            return [child(source, node) for node in nodes]
        with Workers(self._target.cancellation, jobs, name="find") as workers:
            finding = [workers.submit(child, source, node) for node in nodes]
            return workers.wait(finding)

    def _chosen(
        self, source: Source, whole: RawManifest, options: CopyOptions
    ) -> tuple[RawManifest, TakenPlatform | None]:
        """What of *whole* is moved."""
        platforms = options.platforms
        if platforms:
            part = narrowed(source, whole, platforms)
            if part.descriptor.digest != whole.descriptor.digest:
                self._target.on_event(
                    narrowing_notice(whole.descriptor, part.descriptor, platforms)
                )
            return part, None
        if self._only and whole.descriptor.media_type in INDEX_TYPES:
            try:
                part = narrowed(source, whole, (self._only,))
            except NotFound as error:
                raise NotFound(f"{error}, or all with --platform all") from error
            return part, taken_of(source, whole, part.descriptor, self._only)
        return whole, None

    def _trusts(self, options: CopyOptions) -> bool:
        """True when a manifest that the target has says that nothing is missing."""
        return self._trusting and not options.referrers


def _never(document: Descriptor) -> bool:
    """Nothing is held."""
    return False


def _stored_before(
    named: Sequence[Digest | None], root: RawManifest
) -> Descriptor | None:
    """What the target has of this very image, when all its names are *named* so."""
    fitting = [one for one in named if one and one.fits(root.raw)]
    if len(fitting) < len(named):
        return None
    return replace(root.descriptor, digest=fitting[0])


def _names(wanted: Wanted, whole: Descriptor, root: Descriptor) -> tuple[str, ...]:
    """What it is to be called; its own digest where that of the whole was given."""
    return tuple(
        str(root.digest) if name == whole.digest else name for name in wanted.names
    )
