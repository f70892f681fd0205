"""Lays the program and its dependencies in /opt/registry-mirror: what the Dockerfile's build stage runs.

python3 install.py dependencies amd64|arm64
python3 install.py program
python3 install.py standard-library DIRECTORY

The Python that runs this need not be the image's own, nor of its platform: dependencies are wheels, chosen by the
image's platform, and bytecode is the same on every platform. Only the version has to be the same.
"""

from __future__ import annotations

import compileall
import py_compile
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

VERSION = "3.13"
PYTHON = f"/usr/bin/python{VERSION}"  # in the image
PREFIX = Path("/opt/registry-mirror")
PACKAGES = PREFIX / "lib" / f"python{VERSION}" / "site-packages"

# What the image gets beside its base's standard library; to be copied to /.
BYTECODE = Path("/opt/bytecode")

_TOOLS = Path("/opt/build")
_WHEELS = Path("/opt/wheels-of-ours")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC = (28, 17)  # the oldest glibc that wheels ask for (PEP 600): Debian 13 has 2.41

# What is left out of the image, below site-packages; tests/nodes/test_image.py runs what is left.
PRUNED = (
    # Generated calls and models of every API group (75 of 128 MB). The operator sends requests of its own making, and
    # the client imports these by name only, when they are asked for.
    "kubernetes/client/api/*_api.py",
    "kubernetes/aio/client/api/*_api.py",
    "kubernetes/client/models/v[0-9]*.py",
    "kubernetes/client/models/*_v[0-9]*.py",
    "kubernetes/aio/client/models/v[0-9]*.py",
    "kubernetes/aio/client/models/*_v[0-9]*.py",
    # Tests of packages, and what only compilers and type checkers read.
    "*/tests",
    "*/*/tests",
    "**/_testcapi.*.so",
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.pxi",
    "**/*.c",
    "**/*.h",
    # Programs of packages (kopf, jp, normalizer, …); ours is laid beside the interpreter.
    "bin",
)
# kopf knows the type of Kubernetes objects' metadata (kopf/_cogs/helpers/thirdparty.py).
KEPT = (
    "kubernetes/client/models/v1_managed_fields_entry.py",
    "kubernetes/client/models/v1_object_meta.py",
    "kubernetes/client/models/v1_owner_reference.py",
)
# Parts of the standard library that are of no use without a screen, a compiler or pip.
_NOT_COMPILED = re.compile(r"/(ensurepip|idlelib|pydoc_data|test|tkinter|turtledemo|venv)/")
_PROGRAM = f"""\
#!{PREFIX}/bin/python3
from registry_mirror.cli.main import main

main()
"""


def main() -> int:
    """Do what the command line asks for, and give the exit status."""
    found = ".".join(map(str, sys.version_info[:2]))
    if found != VERSION:
        print(f"The image has Python {VERSION}; this is {found}, whose bytecode it cannot use.", file=sys.stderr)
        return 1
    match sys.argv[1:]:
        case ["dependencies", architecture] if architecture in _MACHINES:
            _dependencies(_MACHINES[architecture])
        case ["program"]:
            _program()
        case ["standard-library", directory]:
            _standard_library(Path(directory))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


def _dependencies(machine: str) -> None:
    venv.create(_TOOLS, with_pip=True)
    _pip("install", "--require-hashes", "--requirement", "requirements-build.lock")
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    platforms.append(f"--platform=manylinux2014_{machine}")
    chosen = [*platforms, f"--python-version={VERSION}", "--implementation=cp", f"--target={PACKAGES}"]
    _pip("install", "--require-hashes", "--no-compile", *chosen, "--requirement", "requirements.lock")
    _prune()
    _compile(PACKAGES)
    _lay_interpreter()


def _program() -> None:
    """Add the package of the working directory, which is built with what the lock names."""
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={_WHEELS}", ".")
    fresh = _WHEELS / "unpacked"
    _pip("install", "--no-deps", "--no-index", "--no-compile", f"--target={fresh}", *map(str, _WHEELS.glob("*.whl")))
    shutil.rmtree(fresh / "bin")
    _compile(fresh, PACKAGES)
    shutil.copytree(fresh, PACKAGES, dirs_exist_ok=True)
    program = PREFIX / "bin" / "registry-mirror"
    program.write_text(_PROGRAM)
    program.chmod(0o755)


def _standard_library(directory: Path) -> None:
    """Compile the base's own standard library, of which Debian's packages and distroless hold the sources only.

    Without it, every start compiles what it imports, and throws it away: the file system is read-only.
    """
    final = Path("/usr/lib") / f"python{VERSION}"
    _compile(directory, final, _NOT_COMPILED)
    for found in directory.rglob("__pycache__"):
        target = BYTECODE / final.relative_to("/") / found.relative_to(directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        found.rename(target)


def _pip(command: str, *arguments: str) -> None:
    # Wheels only: no setup code of a dependency runs. Messages are for a log.
    common = ["--only-binary=:all:"] if command == "install" else []
    options = ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    subprocess.run([_TOOLS / "bin" / "pip", command, *options, *common, *arguments], check=True)


def _prune() -> None:
    kept = {PACKAGES / path for path in KEPT}
    for pattern in PRUNED:
        for path in set(PACKAGES.glob(pattern)) - kept:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _compile(directory: Path, final: Path | None = None, without: re.Pattern[str] | None = None) -> None:
    """Bytecode for ``directory``, which becomes ``final``. No time of a file goes into it, so that the same sources
    give the same image, and none is compared at the start of the program.
    """
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    shown = str(final or directory)
    compiled = compileall.compile_dir(
        directory,
        quiet=1,
        rx=without,
        stripdir=str(directory),
        prependdir=shown,
        invalidation_mode=mode,
        force=True,
    )
    if not compiled:
        raise SystemExit(f"{directory}: not everything could be compiled")


def _lay_interpreter() -> None:
    """As a virtual environment has it, whose interpreter is the image's."""
    (PREFIX / "bin").mkdir()
    for name in ("python", "python3"):
        (PREFIX / "bin" / name).symlink_to(PYTHON)
    lines = [f"home = {Path(PYTHON).parent}", "include-system-site-packages = false", f"version = {VERSION}"]
    (PREFIX / "pyvenv.cfg").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
