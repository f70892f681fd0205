"""skopeo from Debian's package (bookworm's 1.9.3, the oldest that `registry-mirror seed` works with)."""

from __future__ import annotations

import shlex
from pathlib import Path

from .binaries import cache_directory
from .gobuild import BuildFailed
from .packages import unpack

_PACKAGES = (
    *("skopeo", "libgpgme11", "libassuan0", "libgpg-error0", "libdevmapper1.02.1", "libselinux1", "libpcre2-8-0"),
    *("libudev1", "golang-github-containers-common", "golang-github-containers-image"),
)
_WANTED = ("usr/bin/skopeo", "etc/containers/policy.json")
_ADVICE = "What to do: see to it that packages of Debian 12 can be downloaded, and run `python -m tests.harness build`."


class SkopeoMissing(RuntimeError):
    """skopeo is not to be had; the message says why and what to do."""


def skopeo() -> Path:
    """Give the package's directory in our cache, getting it if it is not there. Raises SkopeoMissing."""
    try:
        return unpack("debian-skopeo", _PACKAGES, _WANTED, cache_directory())
    except (BuildFailed, OSError) as error:
        raise SkopeoMissing(f"skopeo is not obtainable: {error}\n{_ADVICE}") from error


def on_path(directory: Path) -> str:
    """Make a directory with a program `skopeo` in it, for PATH: it finds its libraries in our cache."""
    package = skopeo()
    libraries = ":".join(sorted({str(path.parent) for path in package.rglob("*.so.*")}))
    policy = package / "etc/containers/policy.json"
    program = directory / "skopeo"
    script = f"export LD_LIBRARY_PATH={shlex.quote(libraries)}\nexec {shlex.quote(str(package / 'usr/bin/skopeo'))}"
    directory.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\n{script} --policy={shlex.quote(str(policy))} "$@"\n')
    program.chmod(0o755)
    return str(directory)
