"""The work itself: look at the sources, look at the destination, copy what is missing; several images at once."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal, TypeVar

from msgspec import Struct

from ..api.errors import ProblemError
from ..core.seeding import Blob, Manifest, Reference, manifest, reduced
from ..core.seeding_places import Place
from .archive import Reader, Writer
from .skopeo import Access, Failed, Skopeo

State = Literal["Copied", "There", "Missing", "Differs", "Failed"]
_TICK = 0.2

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Found(Struct, frozen=True):
    """An image with its manifest; ``whole`` unless platforms were left out of its index."""

    image: Reference
    manifest: Manifest
    whole: bool = True


class Outcome(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What became of an image, or would; the size is in bytes, 0 where it is not known."""

    image: str
    state: State
    digest: str = ""
    destination: str = ""
    size: int = 0
    message: str = ""


class Watcher:
    """Is told what goes on; from one thread only, but for `active`, which has what is being worked on."""

    def __init__(self) -> None:
        self.active: dict[str, None] = {}

    def begin(self, what: str, count: int) -> None:
        """So many images are going to be looked at, or copied."""

    def done(self, outcome: Outcome | None) -> None:
        """One of them is; without an outcome, nothing is to be said about it."""

    def tick(self) -> None:
        """Some time has passed."""


class Workers:
    """Does something for each item, several at once; ends what skopeo does when it is left by an exception."""

    def __init__(self, jobs: int, skopeo: Skopeo, watcher: Watcher) -> None:
        self._jobs = jobs
        self._skopeo = skopeo
        self.watcher = watcher

    def each(
        self, what: str, items: Iterable[_Item], name: Callable[[_Item], str], do: Callable[[_Item], _Result]
    ) -> Iterator[tuple[_Item, _Result]]:
        """Give each item with its result, as they come. What ``do`` raises, this raises."""
        wanted = list(items)
        self.watcher.begin(what, len(wanted))
        stopped = threading.Event()

        def one(item: _Item) -> _Result:
            if stopped.is_set():
                raise Failed("it was stopped")
            self.watcher.active[name(item)] = None
            try:
                return do(item)
            finally:
                self.watcher.active.pop(name(item), None)

        pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="seed")
        try:
            futures: dict[Future[_Result], _Item] = {pool.submit(one, item): item for item in wanted}
            while futures:
                finished, _ = wait(futures, timeout=_TICK, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield futures.pop(future), future.result()
                self.watcher.tick()
        except BaseException:
            stopped.set()
            self._skopeo.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def resolve(
    workers: Workers, skopeo: Skopeo, access: Access, images: Sequence[Reference], platforms: Sequence[str]
) -> tuple[list[Found], list[Outcome]]:
    """Ask the sources for the manifests: a tag is resolved here, once. Gives what was found, and what failed."""

    def one(image: Reference) -> Found | Outcome:
        name = f"{image.registry}/{image.repository}"
        try:
            # A name with a tag and a digest means the digest.
            raw = skopeo.manifest(f"{name}@{image.digest}" if image.digest else f"{name}:{image.tag}", access)
            whole = manifest(raw)
            if image.digest and image.digest != whole.digest:
                raise ValueError("its registry gives another image for that digest")
            kept = reduced(whole, platforms)
            if image.digest and kept is not whole:
                raise ValueError("it is named by its digest, which --platform would change: copy all of its platforms")
            return Found(image, kept, kept is whole)
        except (Failed, ValueError) as error:
            return Outcome(image.name, "Failed", message=str(error))

    found, failed = [], []
    for _, result in workers.each("looking at", images, lambda image: image.name, one):
        if isinstance(result, Found):
            found.append(result)
            workers.watcher.done(None)
        else:
            failed.append(result)
            workers.watcher.done(result)
    return sorted(found, key=lambda item: item.image), failed


class Destination:
    """The registry that is being filled."""

    def __init__(self, skopeo: Skopeo, source: Access, access: Access, scratch: Path) -> None:
        self._skopeo = skopeo
        self._source = source
        self._access = access
        self._scratch = scratch
        self._reached = False

    def state(self, place: Place, digest: str) -> State:
        """Tell what is there: ``There``, ``Differs`` or ``Missing``.

        Raises ProblemError if nobody answers there, and Failed if somebody has answered before.
        """
        try:
            raw = self._skopeo.manifest(place.target, self._access)
        except Failed as error:
            if error.out_of_reach and not error.missing:
                if self._reached:
                    raise
                remedy = "see --to-ca, --to-plain-http and --to-insecure-skip-verify" if _is_tls(error) else "is it up?"
                text = f"{place.host} cannot be asked: {error.message}: {remedy}"
                raise ProblemError("", text) from None
            self._reached = True
            # Many registries refuse what is not there: pushing will tell.
            return "Missing"
        self._reached = True
        try:
            return "There" if manifest(raw).digest == digest else "Differs"
        except ValueError:
            return "Differs"

    def copy(self, place: Place, found: Found) -> None:
        """Copy from where the image is. Raises Failed."""
        image, options = found.image, [*self._source.options("src-"), *self._access.options("dest-")]
        name = f"docker://{image.registry}/{image.repository}"
        if found.whole:
            self._skopeo.copy(f"{name}@{found.manifest.digest}", f"docker://{place.target}", options)
            return
        for item in found.manifest.instances:
            target = f"docker://{place.host}/{place.repository}@{item.digest}"
            self._skopeo.copy(f"{name}@{item.digest}", target, options, whole=False)
        with tempfile.TemporaryDirectory(dir=self._scratch) as directory:
            (Path(directory) / "manifest.json").write_bytes(found.manifest.raw)
            options = ["--multi-arch=index-only", *self._access.options("dest-")]
            self._skopeo.copy(f"dir:{directory}", f"docker://{place.target}", options, whole=False)

    def push(self, place: Place, archive: Reader, digest: str) -> None:
        """Copy from an archive. Raises Failed and ProblemError."""
        directory = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            archive.lay(digest, directory)
            self._skopeo.copy(f"dir:{directory}", f"docker://{place.target}", self._access.options("dest-"))
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _is_tls(error: Failed) -> bool:
    return any(words in error.message for words in ("x509", "tls:", "HTTP response to HTTPS"))


def fill(
    workers: Workers,
    to: Destination,
    places: Sequence[Place],
    digests: Mapping[Reference, str],
    sizes: Mapping[Reference, int],
    copy: Callable[[Place], None] | None,
) -> list[Outcome]:
    """Copy each image that is not there, or with no ``copy`` only say which those are. Raises ProblemError."""

    def one(place: Place) -> Outcome:
        digest, size = digests[place.image], sizes.get(place.image, 0)
        state: State = "Failed"
        message = ""
        try:
            state = to.state(place, digest)
        except Failed as error:
            message = error.message
        if copy is not None and state in ("Missing", "Differs"):
            try:
                copy(place)
                state = "Copied"
            except (Failed, ProblemError, OSError) as error:
                state, message = "Failed", str(error)
        return Outcome(place.image.name, state, digest, place.target, size, message)

    done = []
    what = "copying" if copy is not None else "looking for"
    for _, outcome in workers.each(what, places, lambda place: place.image.name, one):
        done.append(outcome)
        workers.watcher.done(outcome if copy is not None else None)
    return sorted(done, key=lambda outcome: outcome.image)


def save(
    workers: Workers,
    skopeo: Skopeo,
    writer: Writer,
    access: Access,
    found: Sequence[Found],
    sizes: Mapping[Reference, int],
) -> list[Outcome]:
    """Get all images for an archive."""

    def one(item: Found) -> Outcome:
        digest, size = item.manifest.digest, sizes.get(item.image, 0)
        if writer.has(item.manifest):
            return Outcome(item.image.name, "There", digest, size=size)
        try:
            writer.fetch(skopeo, item.image, item.manifest, item.whole, access)
        except (Failed, OSError) as error:
            return Outcome(item.image.name, "Failed", digest, message=str(error))
        return Outcome(item.image.name, "Copied", digest, size=size)

    done = []
    for _, outcome in workers.each("saving", found, lambda item: item.image.name, one):
        done.append(outcome)
        workers.watcher.done(outcome)
    return sorted(done, key=lambda outcome: outcome.image)


def blobs(
    workers: Workers, skopeo: Skopeo, access: Access, found: Sequence[Found]
) -> dict[Reference, tuple[Blob, ...]]:
    """Give the blobs of each image, those of all its platforms, as far as its registry tells."""

    def one(item: Found) -> tuple[Blob, ...]:
        name, parts = f"{item.image.registry}/{item.image.repository}", list(item.manifest.blobs)
        for instance in item.manifest.instances:
            try:
                parts += manifest(skopeo.manifest(f"{name}@{instance.digest}", access)).blobs
            except (Failed, ValueError):
                return ()
        return tuple(parts)

    return {item.image: parts for item, parts in workers.each("measuring", found, lambda item: item.image.name, one)}
