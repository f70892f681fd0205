"""Tiny images, laid where a registry finds them: no tool and no request is needed, whatever the registry demands."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER = {
    _MANIFEST: "application/vnd.docker.distribution.manifest.v2+json",
    _CONFIG: "application/vnd.docker.container.image.v1+json",
    _LAYER: "application/vnd.docker.image.rootfs.diff.tar.gzip",
    _INDEX: "application/vnd.docker.distribution.manifest.list.v2+json",
}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """An image's parts: the manifest, and configuration and layers by digest; of an index, the images of platforms."""

    manifest: bytes
    blobs: dict[str, bytes]
    platforms: tuple[Image, ...] = ()

    @property
    def digest(self) -> str:
        """The manifest's digest, which `image@sha256:…` names."""
        return _digest(self.manifest)

    def store(self, storage: Path, repository: str, tag: str) -> None:
        """Put it in a registry's storage directory. Raises OSError.

        The layout is distribution's (registry/storage/paths.go, 3.1). The tag is last, so that a registry that runs
        never has a tag of which parts are missing.
        """
        self._lay(storage, repository)
        tags = _version(storage) / "repositories" / repository / "_manifests" / "tags" / tag
        revision = self.digest.encode()
        _write(tags / "index" / "sha256" / self.digest[7:] / "link", revision)
        _write(tags / "current" / "link", revision)

    def _lay(self, storage: Path, repository: str) -> None:
        repositories = _version(storage) / "repositories" / repository
        for image in self.platforms:
            image._lay(storage, repository)
        for digest, blob in {**self.blobs, self.digest: self.manifest}.items():
            _write(_version(storage) / "blobs" / "sha256" / digest[7:9] / digest[7:] / "data", blob)
        for digest in self.blobs:
            _write(repositories / "_layers" / "sha256" / digest[7:] / "link", digest.encode())
        _write(repositories / "_manifests" / "revisions" / "sha256" / self.digest[7:] / "link", self.digest.encode())


def make_image(
    size: int = 1024,
    files: Mapping[str, tuple[bytes, int]] | None = None,
    command: Sequence[str] = (),
    *,
    architecture: str = "",
    base: bytes = b"",
    docker: bool = False,
) -> Image:
    """Make an image that is like no other: with a layer of ``size`` random bytes, and of files (content and mode).

    ``command`` is what a container of it runs; ``base`` is a layer below (see `make_layer`), which images may share;
    ``docker`` makes it of Docker's kinds instead of OCI's.
    """
    tars = [*([base] if base else []), make_layer({"unique": (os.urandom(size), 0o644), **(files or {})})]
    layers = [gzip.compress(tar, mtime=0) for tar in tars] if docker else tars
    config = json.dumps(
        {
            "architecture": architecture or _here(),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Entrypoint": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
        }
    ).encode()
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": _kind(_MANIFEST, docker),
        "config": _descriptor(_kind(_CONFIG, docker), config),
        "layers": [_descriptor(_kind(_LAYER, docker), layer) for layer in layers],
    }
    return Image(json.dumps(manifest).encode(), {_digest(blob): blob for blob in (config, *layers)})


def make_index(architectures: Sequence[str] = ("amd64", "arm64"), *, base: bytes = b"", docker: bool = False) -> Image:
    """Make an image of several platforms."""
    images = [make_image(architecture=name, base=base, docker=docker) for name in architectures]
    manifests = [
        {
            **_descriptor(_kind(_MANIFEST, docker), image.manifest),
            "platform": {"os": "linux", "architecture": name},
        }
        for name, image in zip(architectures, images, strict=True)
    ]
    index = {"schemaVersion": 2, "mediaType": _kind(_INDEX, docker), "manifests": manifests}
    return Image(json.dumps(index).encode(), {}, tuple(images))


def sleeper(busybox: Path) -> Image:
    """An image that runs, for an hour, and does nothing; fit for a pod's sandbox too. Takes a static busybox."""
    return make_image(files={"bin/busybox": (busybox.read_bytes(), 0o755)}, command=("/bin/busybox", "sleep", "3600"))


def make_layer(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """Make a layer of files, by content and mode."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (content, mode) in files.items():
            item = tarfile.TarInfo(name)
            item.size, item.mode = len(content), mode
            archive.addfile(item, io.BytesIO(content))
    return buffer.getvalue()


def _here() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _kind(oci: str, docker: bool) -> str:
    return _DOCKER[oci] if docker else oci


def _version(storage: Path) -> Path:
    return storage / "docker" / "registry" / "v2"


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    temporary.replace(path)
