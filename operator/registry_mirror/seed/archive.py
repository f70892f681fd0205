"""Archives of images: an OCI image layout in a tar file, every blob once, that `ctr images import` takes too.

Docker's manifests stand in the layout as they are, since a conversion would change digests. skopeo writes no such
layout, but it writes and reads directories of one image each (`dir:`), of which this module makes layouts and back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..api.errors import ProblemError, TransientError
from ..core.seeding import DIGEST, OCI_TYPES, Manifest, Reference, manifest, reference
from .skopeo import Access, Skopeo

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_NAME = "io.containerd.image.name"
_REF = "org.opencontainers.image.ref.name"
_MAX_MANIFEST = 4 * 1024 * 1024
_CHUNK = 1024 * 1024
_CUT = "its end is missing: copy it again"
# Of skopeo's transport `dir` (containers/image, directory/directory_dest.go).
_DIR_VERSION = "Directory Transport Version: 1.1\n"


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


class Writer:
    """An archive in the making: a directory beside it, with what came so far. One at a time, in a `with` block.

    Raises ProblemError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._scratch = self._partial / "scratch"

    def __enter__(self) -> Writer:
        with _explained(self._partial):
            (self._partial / "blobs/sha256").mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._partial / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                raise ProblemError("", f"{self._partial}: another run works on it: wait for it") from None
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        os.close(self._lock)

    def has(self, found: Manifest) -> bool:
        """Tell whether everything that a manifest names is here."""
        return all(self._has(digest, size) for digest, size in self._parts(found))

    def fetch(self, skopeo: Skopeo, image: Reference, found: Manifest, whole: bool, access: Access) -> None:
        """Get what is missing of an image; ``whole`` unless the index was reduced. Raises Failed and OSError."""
        name = f"{image.registry}/{image.repository}"
        if whole:
            self._get(skopeo, f"{name}@{found.digest}", found.is_oci, access)
            return
        for item in found.instances:
            self._get(skopeo, f"{name}@{item.digest}", item.media_type in OCI_TYPES, access)
        self._put(found.digest, found.raw)

    def finish(self, images: Mapping[Reference, Manifest]) -> None:
        """Write the archive, put it in place in one step, and remove the directory. Raises ProblemError."""
        with _explained(self._path):
            temporary = self._partial / "archive.tar"
            with temporary.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                    self._write(archive, images)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
            shutil.rmtree(self._partial)

    def _write(self, archive: tarfile.TarFile, images: Mapping[Reference, Manifest]) -> None:
        # The index is last in importance and first in the file: a reader needs no second pass.
        for name, content in (("oci-layout", _LAYOUT), ("index.json", _index(images))):
            archive.addfile(_member(name, len(content)), io.BytesIO(content))
        digests = {digest for found in images.values() for digest, _ in self._parts(found)}
        for digest in sorted(digests):
            with self._blob(digest).open("rb") as file:
                archive.addfile(_member(_blob_path(digest), os.fstat(file.fileno()).st_size), file)

    def _get(self, skopeo: Skopeo, name: str, oci: bool, access: Access) -> None:
        directory = Path(tempfile.mkdtemp(dir=self._scratch))
        options = access.options("src-")
        try:
            if oci:
                shared = f"--dest-shared-blob-dir={self._partial / 'blobs'}"
                options += [shared, "--dest-oci-accept-uncompressed-layers"]
                skopeo.copy(f"docker://{name}", f"oci:{directory / 'layout'}:image", options)
            else:
                skopeo.copy(f"docker://{name}", f"dir:{directory / 'image'}", options)
                self._take(directory / "image")
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _take(self, directory: Path) -> None:
        """Move the files of skopeo's `dir:` to the blobs: first those that others name."""
        for path in sorted(directory.iterdir(), key=lambda path: path.suffix == ".json"):
            if path.name == "manifest.json" or path.name.endswith(".manifest.json"):
                raw = path.read_bytes()
                self._put(f"sha256:{hashlib.sha256(raw).hexdigest()}", raw)
            elif path.name != "version":
                path.replace(self._blob(f"sha256:{path.name}"))

    def _put(self, digest: str, raw: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=self._scratch, delete=False) as file:
            file.write(raw)
        Path(file.name).replace(self._blob(digest))

    def _parts(self, found: Manifest) -> Iterator[tuple[str, int]]:
        """Everything below a manifest that is known from what is here; a manifest that is missing is named as well."""
        yield found.digest, len(found.raw)
        for blob in found.blobs:
            yield blob.digest, blob.size
        for item in found.instances:
            yield item.digest, item.size
            if self._has(item.digest, item.size):
                with contextlib.suppress(ValueError):
                    yield from self._parts(manifest(self._blob(item.digest).read_bytes()))

    def _has(self, digest: str, size: int) -> bool:
        path = self._blob(digest)
        return path.is_file() and path.stat().st_size == size

    def _blob(self, digest: str) -> Path:
        return self._partial / _blob_path(digest)


def _index(images: Mapping[Reference, Manifest]) -> bytes:
    entries = [
        {
            "mediaType": found.media_type,
            "digest": found.digest,
            "size": len(found.raw),
            "annotations": {_NAME: image.name, _REF: image.name},
        }
        for image, found in sorted(images.items())
    ]
    kind = "application/vnd.oci.image.index.v1+json"
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}, indent=1).encode()


def _member(name: str, size: int) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.mode = size, 0o644
    return found


class Reader:
    """An archive that was written. Raises ProblemError, which says what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _explained(path):
            self._members = self._scan()
        self.images = self._images()

    def manifest(self, digest: str) -> Manifest:
        """Give a manifest or an index of it. Raises ProblemError."""
        raw = self._read(_blob_path(digest))
        if f"sha256:{hashlib.sha256(raw).hexdigest()}" != digest:
            raise self._wrong(f"{digest} in it is damaged: copy it again")
        try:
            return manifest(raw)
        except ValueError as error:
            raise self._wrong(f"{digest}: {error}") from None

    def lay(self, digest: str, directory: Path) -> None:
        """Write an image into an empty directory for skopeo's `dir:`. Raises ProblemError."""
        found = self.manifest(digest)
        with _explained(directory):
            (directory / "version").write_text(_DIR_VERSION)
            (directory / "manifest.json").write_bytes(found.raw)
            for item in found.instances:
                inner = self.manifest(item.digest)
                (directory / f"{item.digest.partition(':')[2]}.manifest.json").write_bytes(inner.raw)
                self._lay_blobs(inner, directory)
            self._lay_blobs(found, directory)

    def blobs(self, digest: str) -> dict[str, int]:
        """Give the sizes of all blobs of an image, by digest. Raises ProblemError."""
        found = self.manifest(digest)
        inner = [self.manifest(item.digest) for item in found.instances]
        return {blob.digest: blob.size for one in (found, *inner) for blob in one.blobs}

    def _lay_blobs(self, found: Manifest, directory: Path) -> None:
        for blob in found.blobs:
            target = directory / blob.digest.partition(":")[2]
            if not target.exists():
                with target.open("wb") as file:
                    for chunk in self._chunks(_blob_path(blob.digest)):
                        file.write(chunk)

    def _scan(self) -> dict[str, tuple[int, int]]:
        with contextlib.ExitStack() as stack:
            try:
                archive = stack.enter_context(tarfile.open(self._path, mode="r:"))
            except tarfile.TarError:
                text = "it is no tar file, or a compressed one: unpack it first (gunzip, zstd -d)"
                raise self._wrong(text) from None
            try:
                found = {_plain(item.name): (item.offset_data, item.size) for item in archive if item.isfile()}
            except tarfile.TarError:
                raise self._wrong(_CUT) from None
        if "oci-layout" not in found or "index.json" not in found:
            text = "it is no OCI image layout: have `registry-mirror seed --archive` write one"
            raise self._wrong(text)
        return found

    def _images(self) -> dict[Reference, str]:
        try:
            entries = json.loads(self._read("index.json"))["manifests"]
            named = [(_name_of(item.get("annotations") or {}), str(item["digest"])) for item in entries]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._wrong("its index.json cannot be read") from None
        found = {name: digest for name, digest in named if name is not None and DIGEST.fullmatch(digest)}
        if not found:
            raise self._wrong("no image in it has a full name")
        return found

    def _read(self, name: str) -> bytes:
        if self._members.get(name, (0, 0))[1] > _MAX_MANIFEST:
            raise self._wrong(f"{name} in it is too large")
        with _explained(self._path):
            return b"".join(self._chunks(name))

    def _chunks(self, name: str) -> Iterator[bytes]:
        if name not in self._members:
            raise self._wrong(f"it lacks {name}: its end is missing, or not all platforms were saved")
        offset, left = self._members[name]
        with self._path.open("rb") as file:
            file.seek(offset)
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise self._wrong(_CUT)
                left -= len(chunk)
                yield chunk

    def _wrong(self, text: str) -> ProblemError:
        return ProblemError("", f"{self._path}: {text}")


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _name_of(annotations: Mapping[str, Any]) -> Reference | None:
    """The image's name; others have a bare tag in ref.name, which names no image."""
    for key in (_NAME, _REF):
        value = annotations.get(key)
        if isinstance(value, str) and "/" in value:
            return reference(value)
    return None


def chosen(archive: Reader, names: Iterable[Reference]) -> dict[Reference, str]:
    """Give those images of an archive, all if none is named. Raises ProblemError for one that it has not."""
    wanted = list(names)
    missing = [name.name for name in wanted if name not in archive.images]
    if missing:
        raise ProblemError("", "\n".join(f"{name} is not in the archive" for name in missing))
    return {name: archive.images[name] for name in wanted} if wanted else dict(archive.images)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = ": make room, and run it again; what came so far is kept" if error.errno == errno.ENOSPC else ""
        raise TransientError("", f"{path}: {error.strerror or type(error).__name__}{remedy}") from None
