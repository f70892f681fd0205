"""OCI image layouts on disk: writing one, reading it, pushing it to a registry, and packing it for `ctr import`."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import shutil
import tarfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
TAG = "org.opencontainers.image.ref.name"
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Config:
    """What is written of an image beside its files."""

    architecture: str
    environment: tuple[str, ...]
    user: str = ""
    directory: str = "/"

    def key(self) -> str:
        """Text that differs where the image does."""
        return json.dumps([self.architecture, self.environment, self.user, self.directory])


def write_layout(root: Path, config: Config, layout: Path) -> None:
    """Make an image of one layer, the files below ``root``, with the tag `latest`. Raises OSError."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    plain = layout / "layer.tar"
    with tarfile.open(plain, "w") as archive:
        archive.add(root, arcname=".")
    with plain.open("rb") as source:
        content = hashlib.file_digest(source, "sha256").hexdigest()
    packed = layout / "layer.tar.gz"
    with plain.open("rb") as source, gzip.GzipFile(packed, "wb", compresslevel=6, mtime=0) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    plain.unlink()
    with packed.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    layer = {"mediaType": LAYER, "digest": f"sha256:{digest}", "size": packed.stat().st_size}
    packed.rename(blobs / digest)
    runtime = {"Env": list(config.environment), "User": config.user, "WorkingDir": config.directory}
    described = {
        "architecture": config.architecture,
        "os": "linux",
        "config": runtime,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{content}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _blob(blobs, CONFIG, described),
        "layers": [layer],
    }
    found = {**_blob(blobs, MANIFEST, manifest), "annotations": {TAG: "latest"}}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [found]}))


@dataclass(frozen=True)
class Layout:
    """An image that lies in a directory."""

    directory: Path

    @property
    def descriptor(self) -> dict[str, Any]:
        """The manifest's."""
        found: dict[str, Any] = json.loads((self.directory / "index.json").read_text())["manifests"][0]
        return found

    @property
    def digest(self) -> str:
        """The manifest's."""
        return str(self.descriptor["digest"])

    @property
    def manifest(self) -> dict[str, Any]:
        """Of the one image that is there."""
        found: dict[str, Any] = json.loads(self.blob(self.digest).read_text())
        return found

    @property
    def config(self) -> dict[str, Any]:
        """The image's configuration, with `config`, `architecture` and `rootfs`."""
        found: dict[str, Any] = json.loads(self.blob(self.manifest["config"]["digest"]).read_text())
        return found

    @property
    def size(self) -> int:
        """What a node downloads, in bytes."""
        return sum(int(layer["size"]) for layer in self.manifest["layers"])

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        return self.directory / "blobs" / Path(*digest.split(":"))

    def unpack(self, target: Path) -> None:
        """The image's files, layer upon layer, as root. Layers that take files away are refused with ValueError."""
        for layer in self.manifest["layers"]:
            with tarfile.open(self.blob(layer["digest"])) as archive:
                members = archive.getmembers()
                if any(Path(member.name).name.startswith(".wh.") for member in members):
                    raise ValueError(f"{layer['digest']} takes files away")
                archive.extractall(target, members, numeric_owner=True, filter="fully_trusted")

    def push(self, url: str, repository: str, tag: str) -> None:
        """Push it to a registry that is open, by the API that every client uses. Raises RuntimeError, OSError.

        Blobs first, the tag last: whoever sees the tag can have the whole image.
        """
        manifest = self.manifest
        with _Registry(url, repository) as registry:
            for blob in (manifest["config"], *manifest["layers"]):
                registry.upload(blob["digest"], self.blob(blob["digest"]))
            registry.name(tag, self.blob(self.digest), MANIFEST)

    def archive(self, reference: str, target: Path) -> Path:
        """Pack it with its full name, such as `registry.test/operator:1`, as `ctr images import` takes it.

        containerd takes the name from this annotation (containerd client/import.go, images/archive/reference.go).
        """
        named = {"annotations": {"io.containerd.image.name": reference, TAG: reference.rpartition(":")[2]}}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**self.descriptor, **named}]}
        written = target.with_suffix(".json")
        written.write_text(json.dumps(index))
        with tarfile.open(target, "w") as archive:
            for name in ("oci-layout", "blobs"):
                archive.add(self.directory / name, arcname=name)
            archive.add(written, arcname="index.json")
        written.unlink()
        return target


class _Registry:
    """One repository of a registry (distribution-spec 1.1, pushing)."""

    def __init__(self, url: str, repository: str) -> None:
        found = urllib.parse.urlsplit(url)
        self._connection = http.client.HTTPConnection(str(found.hostname), found.port, timeout=_TIMEOUT)
        self._path = f"/v2/{repository}"

    def __enter__(self) -> _Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def upload(self, digest: str, blob: Path) -> None:
        if self._ask("HEAD", f"{self._path}/blobs/{digest}", expected=(200, 404)).status == 200:
            return
        begun = self._ask("POST", f"{self._path}/blobs/uploads/", expected=(202,))
        place = urllib.parse.urlsplit(begun.headers["Location"])
        query = f"{place.query}&" if place.query else ""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.stat().st_size)}
        target = f"{place.path}?{query}digest={urllib.parse.quote(digest)}"
        self._ask("PUT", target, _pieces(blob), headers, expected=(201,))

    def name(self, tag: str, manifest: Path, kind: str) -> None:
        headers = {"Content-Type": kind}
        self._ask("PUT", f"{self._path}/manifests/{tag}", manifest.read_bytes(), headers, expected=(201,))

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        *,
        expected: tuple[int, ...],
    ) -> http.client.HTTPResponse:
        self._connection.request(method, path, body, headers or {})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status not in expected:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')[:300]}")
        return answer


def _pieces(blob: Path) -> Iterator[bytes]:
    with blob.open("rb") as source:
        while piece := source.read(1 << 20):
            yield piece


def _blob(blobs: Path, kind: str, content: object) -> dict[str, Any]:
    text = json.dumps(content).encode()
    digest = hashlib.sha256(text).hexdigest()
    (blobs / digest).write_bytes(text)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(text)}
