"""Tiny images, laid where a registry finds them: no tool and no request is needed, whatever the registry demands."""

from __future__ import annotations

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
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """An image's parts: the manifest, and configuration and layers by digest."""

    manifest: bytes
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        """The manifest's digest, which `image@sha256:…` names."""
        return _digest(self.manifest)

    def store(self, storage: Path, repository: str, tag: str) -> None:
        """Put it in a registry's storage directory. Raises OSError.

        The layout is distribution's (registry/storage/paths.go, 3.1). The tag is last, so that a registry that runs
        never has a tag of which parts are missing.
        """
        version = storage / "docker" / "registry" / "v2"
        repositories = version / "repositories" / repository
        for digest, blob in {**self.blobs, self.digest: self.manifest}.items():
            _write(version / "blobs" / "sha256" / digest[7:9] / digest[7:] / "data", blob)
        for digest in self.blobs:
            _write(repositories / "_layers" / "sha256" / digest[7:] / "link", digest.encode())
        revision = self.digest.encode()
        _write(repositories / "_manifests" / "revisions" / "sha256" / self.digest[7:] / "link", revision)
        tags = repositories / "_manifests" / "tags" / tag
        _write(tags / "index" / "sha256" / self.digest[7:] / "link", revision)
        _write(tags / "current" / "link", revision)


def make_image(
    size: int = 1024, files: Mapping[str, tuple[bytes, int]] | None = None, command: Sequence[str] = ()
) -> Image:
    """Make an image of one layer that is like no other: of ``size`` random bytes, and of files (content and mode).

    ``command`` is what a container of it runs.
    """
    layer = _layer({"unique": (os.urandom(size), 0o644), **(files or {})})
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Entrypoint": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, config),
        "layers": [_descriptor(_LAYER, layer)],
    }
    return Image(json.dumps(manifest).encode(), {_digest(config): config, _digest(layer): layer})


def sleeper(busybox: Path) -> Image:
    """An image that runs, for an hour, and does nothing; fit for a pod's sandbox too. Takes a static busybox."""
    return make_image(files={"bin/busybox": (busybox.read_bytes(), 0o755)}, command=("/bin/busybox", "sleep", "3600"))


def _layer(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (content, mode) in files.items():
            item = tarfile.TarInfo(name)
            item.size, item.mode = len(content), mode
            archive.addfile(item, io.BytesIO(content))
    return buffer.getvalue()


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    temporary.replace(path)
