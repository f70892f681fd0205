"""The operator's own image, built by its Dockerfile, for nodes of the tests.

    layout = operator_image()
    layout.push(registry.url, "registry-mirror-operator", "0.1.0")  # a registry of tests/harness/registries.py
    import_into(node, layout, "registry.test/registry-mirror-operator:0.1.0")  # or without any registry

The build is kept by content: of the Dockerfile, of what it copies, and of the bases.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from .binaries import cache_directory
from .buildah import Buildah
from .gobuild import BuildFailed, locked, scratch_beside
from .imagebase import build_base, run_base, this_architecture
from .node import Node
from .ocilayout import Layout

REPOSITORY = Path(__file__).resolve().parents[2]
_IMPORT = 120.0
_KEPT = 3  # builds of older sources, each of some 40 MB
_COPIED = (
    *("Dockerfile", ".dockerignore", "build/image/install.py", "requirements.lock", "requirements-build.lock"),
    *("pyproject.toml", "README.md", "LICENSE", "operator"),
)
_ADVICE = (
    "What to do: as root, see to it that packages of Debian and of PyPI can be downloaded, and run "
    "`python -m tests.harness build`."
)


class ImageMissing(RuntimeError):
    """The image cannot be built here; the message says why and what to do."""


def operator_image(architecture: str | None = None) -> Layout:
    """Give the image of the sources as they are, for this machine or another architecture (amd64, arm64).

    From our cache, else built in a minute or two. Raises ImageMissing.
    """
    try:
        if os.geteuid() != 0:
            raise BuildFailed("the steps of a Dockerfile are carried out by root")
        return Layout(_built(architecture or this_architecture(), cache_directory()))
    except (BuildFailed, OSError) as error:
        raise ImageMissing(f"The operator's image is not obtainable: {error}\n{_ADVICE}") from error


def import_into(node: Node, layout: Layout, reference: str) -> None:
    """Have a node's containerd know the image under that name, without a registry. Raises NodeError."""
    name = "operator-image.tar"
    layout.archive(reference, node.path(f"/var/tmp/{name}"))
    try:
        ctr = ("ctr", "--address", node.flavour.socket, "--namespace", "k8s.io")
        node.run(*ctr, "images", "import", f"/var/tmp/{name}", timeout=_IMPORT, check=True)
    finally:
        node.path(f"/var/tmp/{name}").unlink(missing_ok=True)


def _built(architecture: str, cache: Path) -> Path:
    bases = {"BUILD_BASE": build_base(cache), "BASE": run_base(architecture, cache)}
    sources = _sources()
    known = hashlib.sha256("\0".join(base.name for base in bases.values()).encode())
    for path, content in sources.items():
        known.update(f"\0{path}\0{len(content)}\0".encode() + content)
    prefix = f"operator-image-{architecture}-"
    name = f"{prefix}{known.hexdigest()[:20]}"
    final = cache / name
    if not (final / "index.json").exists():
        # One lock and one name for all builds: whatever a killed one left is removed by the next, whatever it builds.
        shared = prefix.rstrip("-")
        with locked(cache, shared):
            if not (final / "index.json").exists():
                with scratch_beside(cache, shared) as scratch:
                    _lay(sources, scratch / "context")
                    layout = scratch / "layout"
                    Buildah(cache, scratch).build(scratch / "context", architecture, bases, layout)
                    shutil.rmtree(final, ignore_errors=True)
                    layout.rename(final)
                _forget(cache, prefix, final)
    return final


def _sources() -> dict[str, bytes]:
    """What the Dockerfile copies, and itself, by path: what lies about beside it does not matter.

    Read once, so that what is built is what the name in the cache says, though somebody edits it meanwhile.
    """
    found = {}
    for name in _COPIED:
        path = REPOSITORY / name
        for item in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if item.is_file() and "__pycache__" not in item.parts:
                found[str(item.relative_to(REPOSITORY))] = item.read_bytes()
    return found


def _lay(sources: Mapping[str, bytes], directory: Path) -> None:
    for path, content in sources.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _forget(cache: Path, prefix: str, newest: Path) -> None:
    """Builds of sources that are no more would fill the disk, one for each change."""
    others = [path for path in cache.glob(f"{prefix}*") if (path / "index.json").exists() and path != newest]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
