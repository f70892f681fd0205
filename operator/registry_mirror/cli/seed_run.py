"""What `registry-mirror seed` does, step by step, between its command line and its summary."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import click
from msgspec.structs import replace

from ..api.errors import FieldError, InvalidError, ProblemError
from ..core.resolve import ResolvedEndpoint
from ..core.seeding import Reference
from ..core.seeding_places import Destination as To, Misplaced, Place, destination, mirrored, plain, settled
from ..seed import work
from ..seed.access import source_access, target_access
from ..seed.archive import Reader, Writer, chosen
from ..seed.skopeo import Access, Skopeo
from ..seed.verify import confirm, confirm_endpoints
from .documents import Loaded, load
from .seed_endpoints import by_path, endpoint, resolved
from .seed_options import Options
from .seed_sources import from_cluster, given, mirrors_of
from .seed_view import Progress, Report, Resolved, Unresolved


@dataclass
class _Run:
    """What a run has at hand."""

    options: Options
    skopeo: Skopeo
    workers: work.Workers
    private: Path
    notes: list[str] = field(default_factory=list)
    running: set[Reference] = field(default_factory=set)  # by --from-cluster alone
    loaded: Loaded = field(default_factory=Loaded)

    @property
    def source(self) -> Access:
        return self._source

    def __post_init__(self) -> None:
        self._source = source_access(self.options.side("from"), self.private)


@dataclass(frozen=True)
class _Plan:
    """What goes where; ``found`` is empty where an archive is the source."""

    places: tuple[Place, ...]
    digests: Mapping[Reference, str]
    sizes: Mapping[Reference, int]
    found: Mapping[Reference, work.Found]
    size: int
    failed: tuple[work.Outcome, ...] = ()


def run(options: Options) -> Report:
    """Do it, or with --dry-run look only. Raises ProblemError."""
    skopeo, progress = Skopeo(options.timeout), Progress()
    with _interruptible(), _private_directory() as private:
        try:
            this = _Run(options, skopeo, work.Workers(options.jobs, skopeo, progress), Path(private))
            return _save(this) if options.archive and not options.to else _fill(this)
        finally:
            skopeo.stop()
            progress.end()


def _private_directory() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="registry-mirror-seed-")
    except OSError as error:
        raise ProblemError(
            "", f"no temporary directory: {error.strerror}: set TMPDIR to one that is writable"
        ) from None


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Have signals end the run in order: nothing runs on, and no certificate is left behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, _frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise ProblemError("", "stopped: what has been copied stays, and the next run goes on from there")

    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _images(this: _Run) -> set[Reference]:
    options = this.options
    found = given(options.images, options.lists, options.manifests)
    if options.from_cluster:

        async def look() -> tuple[set[Reference], list[str]]:
            from .cluster import connect

            async with await connect(options.kubeconfig, options.context) as api:
                return await from_cluster(api)

        images, notes = asyncio.run(look())
        this.running = images - found
        found |= images
        this.notes += notes
    return found


def _some(images: set[Reference]) -> list[Reference]:
    if not images:
        raise InvalidError("seed", (FieldError("", "no image in what was given", "name at least one"),))
    return sorted(images)


def _save(this: _Run) -> Report:
    """Write an archive."""
    options, archive = this.options, Path(str(this.options.archive)).absolute()
    if archive.is_dir() or not archive.parent.is_dir():
        raise InvalidError("seed", (FieldError("--archive", str(archive), "name a file in a directory that is there"),))
    found, failed = work.resolve(this.workers, this.skopeo, this.source, _some(_images(this)), options.platforms)
    sizes, size = _sizes(this, found)
    with contextlib.ExitStack() as stack:
        if options.dry_run:
            states = [
                work.Outcome(item.image.name, "Missing", item.manifest.digest, size=sizes.get(item.image, 0))
                for item in found
            ]
        else:
            writer = stack.enter_context(Writer(archive))
            states = work.save(this.workers, this.skopeo, writer, this.source, found, sizes)
            if not failed and all(item.state != "Failed" for item in states):
                writer.finish({item.image: item.manifest for item in found})
    return Report(_ordered(states, failed), size, archive=str(archive), notes=tuple(this.notes))


def _fill(this: _Run) -> Report:
    """Fill a registry, from others or from an archive."""
    options = this.options
    to = _destination(options.to)
    _load(this)
    archive = Reader(Path(options.archive)) if options.archive else None
    wanted = _images(this)
    images = set(chosen(archive, wanted)) if archive is not None else set(_some(wanted))
    own = {image for image in images if image.registry == to.host}
    if own:
        names = ", ".join(sorted(image.name for image in own))
        this.notes.append(f"images of {to.host} itself are left out: {names}")
    places = _places(this, sorted(images - own), to)
    plan = _from_archive(archive, places) if archive is not None else _from_sources(this, places)
    side = options.side("to")
    mirrors, notes = resolved(this.loaded, {place.mirror for place in plan.places}, side, to.host)
    this.notes += notes
    asked = {place: endpoint(mirrors, place, side) for place in plan.places}
    access = target_access(side, to.host, by_path(asked) if mirrors else {}, this.private, this.skopeo)
    target = work.Destination(this.skopeo, this.source, access, this.private)

    def copy(place: Place) -> None:
        if archive is not None:
            target.push(place, archive, plan.digests[place.image])
        else:
            target.copy(place, plan.found[place.image])

    do = None if options.dry_run else copy
    outcomes = work.fill(this.workers, target, plan.places, plan.digests, plan.sizes, do)
    report = Report(_ordered(outcomes, plan.failed), plan.size, notes=tuple(this.notes))
    if options.dry_run:
        return report
    good = {(item.image, item.destination) for item in outcomes if item.state != "Failed"}
    there = {place: item for place, item in asked.items() if (place.image.name, place.target) in good}
    return _verified(this, report, there, plan.digests, access)


def _destination(text: str) -> To:
    try:
        return destination(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint="--to") from None


def _load(this: _Run) -> None:
    options = this.options
    if options.files:
        this.loaded = load(options.files)
    elif options.mirrors_from_cluster:

        async def look() -> tuple[Loaded, list[str]]:
            from .cluster import connect

            async with await connect(options.kubeconfig, options.context) as api:
                return await mirrors_of(api)

        this.loaded, notes = asyncio.run(look())
        this.notes += notes
        if not this.loaded.mirrors:
            raise ProblemError("", "the cluster has no RegistryMirror: leave out --mirrors-from-cluster")


def _places(this: _Run, images: Sequence[Reference], to: To) -> list[Place]:
    """Give each image its place. One that a cluster runs and that nodes do not look for there is left out, as a cluster
    may have mirrors for some registries only; raises ProblemError for one that was named.
    """
    places, errors = [], []
    for image in images:
        try:
            mirrors = this.loaded.mirrors.values()
            places.append(mirrored(image, to, mirrors) if mirrors else plain(image, to))
        except Misplaced as error:
            if image in this.running:
                this.notes.append(f"left out: {error}")
            else:
                errors.append(str(error))
    if errors:
        raise ProblemError("", "\n".join(errors))
    return places


def _from_sources(this: _Run, places: Sequence[Place]) -> _Plan:
    images = [place.image for place in places]
    found, failed = work.resolve(this.workers, this.skopeo, this.source, images, this.options.platforms)
    digests = {item.image: item.manifest.digest for item in found}
    final = _settled(places, digests)
    sizes, size = _sizes(this, found)
    return _Plan(final, digests, sizes, {item.image: item for item in found}, size, tuple(failed))


def _from_archive(archive: Reader, places: Sequence[Place]) -> _Plan:
    digests = {place.image: archive.images[place.image] for place in places}
    blobs = {image: archive.blobs(digest) for image, digest in digests.items()}
    sizes = {image: sum(parts.values()) for image, parts in blobs.items()}
    unique = {digest: size for parts in blobs.values() for digest, size in parts.items()}
    return _Plan(_settled(places, digests), digests, sizes, {}, sum(unique.values()))


def _settled(places: Sequence[Place], digests: Mapping[Reference, str]) -> tuple[Place, ...]:
    try:
        return settled(places, digests)
    except Misplaced as error:
        raise ProblemError("", f"{error}\nnothing was copied: leave one of each out") from None


def _sizes(this: _Run, found: Sequence[work.Found]) -> tuple[dict[Reference, int], int]:
    """Give the size of each image and of all: of all their platforms in a dry run, else as far as it is at hand."""
    if this.options.dry_run:
        parts = work.blobs(this.workers, this.skopeo, this.source, found)
    else:
        parts = {item.image: item.manifest.blobs for item in found}
    sizes = {image: sum({blob.digest: blob.size for blob in blobs}.values()) for image, blobs in parts.items()}
    return sizes, sum({blob.digest: blob.size for blobs in parts.values() for blob in blobs}.values())


def _ordered(outcomes: Sequence[work.Outcome], failed: Sequence[work.Outcome]) -> tuple[work.Outcome, ...]:
    return tuple(sorted((*outcomes, *failed), key=lambda outcome: (outcome.image, outcome.destination)))


def _verified(
    this: _Run,
    report: Report,
    asked: Mapping[Place, ResolvedEndpoint],
    digests: Mapping[Reference, str],
    access: Access,
) -> Report:
    """Ask for everything that is there now, and add to the report what nodes would not get."""
    if this.loaded.mirrors:
        problems = confirm_endpoints(this.workers, asked, digests)
    else:
        problems = confirm(this.workers, this.skopeo, access, list(asked), digests)
    urls = {place: place.endpoint or f"{_scheme(this)}://{place.host}" for place in asked}
    counts = Counter(urls.values())
    unresolved = [Unresolved(place.image.name, urls[place], text) for place, text in problems.items()]
    endpoints = tuple(Resolved(url, count) for url, count in sorted(counts.items()))
    return replace(report, endpoints=endpoints, unresolved=tuple(sorted(unresolved, key=lambda item: item.image)))


def _scheme(this: _Run) -> str:
    return "http" if this.options.to_plain_http else "https"
