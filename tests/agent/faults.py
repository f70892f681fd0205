"""A full and a read-only disk for test_crash: run as ``python -m tests.agent.faults ROOT CASE`` below ``unshare -m``.

It mounts a small file system, lets the agent fail on it, and checks that what was there is whole. Exit code 77: it was
not allowed to mount.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry_mirror.agent import state as memory
from registry_mirror.agent.apply import apply
from registry_mirror.agent.host import Host, HostError
from registry_mirror.core.bundle import Bundle
from tests.agent import trees
from tests.agent.trees import REGISTRIES, TLS, bundle, hosts

OLD = bundle("old", {hosts("docker.io"): "d 1", f"{TLS}/ca-1.crt": "1", REGISTRIES: "r 1"})
# The first fits and comes first; the last does not.
LARGE = bundle(
    "large", {f"{TLS}/ca-2.crt": "2", hosts("quay.io"): "q", REGISTRIES: "r 2", f"{TLS}/z.crt": "x" * 100_000}
)
NEW = bundle("new", {f"{TLS}/ca-2.crt": "2", hosts("quay.io"): "q", REGISTRIES: "r 2"})
STRERROR = {"full": "No space left on device", "read-only": "Read-only file system"}


def _mount(where: Path) -> None:
    where.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs", str(where)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        raise SystemExit(77)


def _apply(root: Path, wanted: Bundle) -> None:
    host = Host(root)
    apply(host, memory.load(host), wanted, trees.K3S)


def _fill(where: Path) -> Path:
    filler = where / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    return filler


def _refused(root: Path, wanted: Bundle, text: str) -> None:
    before = trees.snapshot(root)
    with pytest.raises(HostError, match=text):
        _apply(root, wanted)
    after = trees.snapshot(root)
    # Directories that it made for itself may stay: they are on record, and go with the last file.
    new = {path: after.pop(path)[0] for path in set(after) - set(before)}
    assert set(new.values()) <= {"directory"}, new
    assert after == before
    assert trees.leftovers(root) == []


def main(root: Path, case: str) -> None:
    """Run one case; raises AssertionError if anything was lost."""
    rancher, own = root / "etc/rancher/k3s", root / memory.DIRECTORY[1:]
    _mount(own if "originals" in case or "state" in case else rancher)
    text = STRERROR["full" if case.startswith("full") else "read-only"]
    trees.put(root, REGISTRIES, "theirs", 0o640)
    begin = trees.snapshot(root)
    match case:
        case "full":
            _apply(root, OLD)
            _refused(root, LARGE, text)
        case "full-for-originals":
            filler = _fill(own)
            _refused(root, OLD, text)
            filler.unlink()
        case "full-for-restore":
            _apply(root, NEW)
            filler = _fill(rancher)
            _refused_restore(root, text)
            filler.unlink()
        case _:
            _apply(root, OLD)
            where = own if "state" in case else rancher
            subprocess.run(["mount", "-o", "remount,ro", str(where)], check=True)
            _refused(root, NEW, text)
            subprocess.run(["mount", "-o", "remount,rw", str(where)], check=True)
    _apply(root, NEW)
    assert (root / REGISTRIES[1:]).read_text() == "r 2"
    _apply(root, trees.EMPTY)
    after = trees.snapshot(root)
    assert after == begin, set(after) ^ set(begin)
    print(f"{case} held")


def _refused_restore(root: Path, text: str) -> None:
    """A restore goes file by file: what it came to is back, and the rest is still ours and whole."""
    before = trees.snapshot(root)
    with pytest.raises(HostError, match=text):
        _apply(root, trees.EMPTY)
    assert trees.snapshot(root)[REGISTRIES] == before[REGISTRIES]
    assert trees.leftovers(root) == []


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), sys.argv[2])
