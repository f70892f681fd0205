"""Programs from the machine's own Debian archive, unpacked into the cache and never installed.

Where a test needs the very build that a distribution ships, that is the one to run. apt gets lists and state of its own
below the cache: the machine's are neither needed nor changed, and neither are its packages.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .gobuild import BuildFailed, locked, run, scratch_beside
from .processes import Process


def unpack(name: str, packages: Iterable[str], wanted: Iterable[str], cache: Path) -> Path:
    """Give the directory in ``cache`` that the packages are unpacked in, getting them if it is not there.

    ``name`` is the cache entry's, ``packages`` are as apt-get takes them (`containerd=1.6*`), ``wanted`` are paths
    below the directory that have to be there then. Raises BuildFailed if there is no apt or it has no such package.
    """
    final = cache / name
    names = list(wanted)
    if _complete(final, names):
        return final
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise BuildFailed(f"there is no {program} on PATH; {name} comes from a Debian archive")
    with locked(cache, name):
        if _complete(final, names):
            return final
        with scratch_beside(cache, name) as scratch:
            _fetch(name, packages, scratch)
            target = scratch / "target"
            for package in sorted(scratch.glob("*.deb")):
                log = scratch / "unpack.log"
                run(Process("dpkg-deb", ["dpkg-deb", "-x", package, target], None, log), f"unpacking {package.name}")
            if not _complete(target, names):
                raise BuildFailed(f"{name}: the packages hold no {', '.join(names)}")
            shutil.rmtree(final, ignore_errors=True)
            target.rename(final)
    return final


def _complete(directory: Path, wanted: list[str]) -> bool:
    return all((directory / path).exists() for path in wanted)


def _fetch(name: str, packages: Iterable[str], scratch: Path) -> None:
    # apt goes down to the user _apt, who may not enter our cache; what it takes is signed in any case.
    options = ["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        for directory in ("lists", "archives"):
            (Path(temporary) / directory / "partial").mkdir(parents=True)
        options += ["-o", f"Dir::State::lists={temporary}/lists", "-o", f"Dir::Cache={temporary}"]
        update = Process("apt-get update", ["apt-get", *options, "update"], None, scratch / "update.log")
        run(update, "reading the Debian archive's lists", "into our cache")
        argv = ["apt-get", *options, "download", *packages]
        download = Process("apt-get download", argv, None, scratch / "download.log", cwd=scratch)
        run(download, f"getting {name}", "to be unpacked, not installed")
