"""Base images for the operator's own, from Debian's packages: no registry of images is needed to build upon them.

The Dockerfile's bases are Docker's python:3.13-slim-trixie and distroless's python3-debian13, both Debian 13. What
stands in for them here has the same interpreter from the same packages: distroless is nothing else but these packages,
unpacked (python3/config.bzl, cc/config.bzl, base/config.bzl and static/config.bzl of August 2026).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .gobuild import BuildFailed, locked, run, scratch_beside
from .ocilayout import Config, write_layout
from .processes import Process

SUITE = "trixie"
PYTHON = "3.13"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")
_RUN: tuple[str, ...] = (
    *("base-files", "netbase", "tzdata", "tzdata-legacy", "media-types", "ca-certificates"),
    *("libc6", "libssl3t64", "libzstd1", "zlib1g", "libgomp1", "libstdc++6", "libgcc-s1", "gcc-14-base"),
    *("libbz2-1.0", "libdb5.3t64", "libexpat1", "liblzma5", "libsqlite3-0", "libuuid1", "libncursesw6", "libtinfo6"),
    *("libcom-err2", "libcrypt1", "libc-bin", "libgssapi-krb5-2", "libk5crypto3", "libkeyutils1", "libkrb5-3"),
    *("libkrb5support0", "libnsl2", "libreadline8t64", "libtirpc3t64", "libffi8"),
    *(f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", f"python{PYTHON}-minimal", f"python{PYTHON}-venv"),
)
# To build on, there are a shell, pip and what they need too.
_BUILD: tuple[str, ...] = (
    *(*_RUN, f"python{PYTHON}", "python3-pip-whl", "python3-setuptools-whl", "dash", "coreutils"),
    *("libacl1", "libattr1", "libcap2", "libgmp10", "libpcre2-8-0", "libselinux1", "libsystemd0"),
)
_PASSWD = (
    "root:x:0:0:root:/root:/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
    "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
)
_GROUP = "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\n"
_INDEX = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")
_DIFFERENT = "1"  # to be counted up when what is made of the packages changes


def run_base(architecture: str, cache: Path) -> Path:
    """The image to run on, for amd64 or arm64: an OCI layout with the tag `latest`. Raises BuildFailed."""
    environment = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8")
    config = Config(architecture, environment, user="65532", directory="/home/nonroot")
    return _base("run", _RUN, config, cache)


def build_base(cache: Path) -> Path:
    """The image to build on, for this machine: the same, with a shell.

    It knows what this machine knows of the package index: the trusted certificates, and what pip is told. Raises
    BuildFailed.
    """
    known = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name in _INDEX]
    environment = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *known)
    return _base("build", _BUILD, Config(this_architecture(), environment), cache, Path("/etc/pip.conf"))


def this_architecture() -> str:
    """This machine's, as images name it. Raises BuildFailed for one that no image is made for."""
    try:
        return ARCHITECTURES[platform.machine()]
    except KeyError:
        raise BuildFailed(f"no image is made for {platform.machine()}") from None


def _base(kind: str, packages: Iterable[str], config: Config, cache: Path, *copied: Path) -> Path:
    names = sorted(packages)
    extra = [path for path in copied if path.exists()]
    known = [SUITE, *names, config.key(), _DIFFERENT, *(path.read_text() for path in extra)]
    digest = hashlib.sha256("\0".join(known).encode()).hexdigest()
    name = f"image-base-{kind}-{config.architecture}-{digest[:20]}"
    final = cache / name
    if (final / "index.json").exists():
        return final
    with locked(cache, name):
        if (final / "index.json").exists():
            return final
        with scratch_beside(cache, name) as scratch:
            root = _unpacked(kind, names, config.architecture, scratch)
            _finish(root, kind)
            for path in extra:
                shutil.copy2(path, root / str(path).lstrip("/"))
            write_layout(root, config, scratch / "layout")
            shutil.rmtree(final, ignore_errors=True)
            (scratch / "layout").rename(final)
    return final


def _unpacked(kind: str, names: Iterable[str], architecture: str, scratch: Path) -> Path:
    """The packages' files, from the archive that this machine's apt knows, of the suite that the image has."""
    state = scratch / "apt"
    for directory in ("lists/partial", "archives/partial"):
        (state / directory).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text("".join(_sources()))
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "Acquire::Retries": "3",
        "Acquire::Languages": "none",
        "Dir::State": str(state),
        "Dir::State::lists": str(state / "lists"),
        "Dir::State::status": str(state / "status"),
        "Dir::Cache": str(state),
        "Dir::Etc::sourcelist": str(state / "sources.list"),
        "Dir::Etc::sourceparts": "/dev/null",
    }
    options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    update = Process("apt-get update", ["apt-get", *options, "update"], None, scratch / "update.log")
    run(update, f"reading the lists of Debian {SUITE}", "into our cache")
    argv = ["apt-get", *options, "download", *names]
    target = scratch / "packages"
    target.mkdir()
    download = Process("apt-get download", argv, None, scratch / "download.log", cwd=target)
    run(download, f"getting the packages of the {kind} image for {architecture}", "to be unpacked, not installed")
    root = scratch / "root"
    each = ["sh", "-ec", 'root=$1; shift; for package; do dpkg-deb -x "$package" "$root"; done', "-", str(root)]
    unpack = Process("dpkg-deb", [*each, *map(str, sorted(target.glob("*.deb")))], None, scratch / "unpack.log")
    run(unpack, "unpacking them")
    return root


def _sources() -> list[str]:
    """Lines of sources.list for the image's suite, from wherever this machine has Debian from."""
    lines = []
    for label, suite in (("Debian", SUITE), ("Debian-Security", f"{SUITE}-security")):
        asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Label: {label}"]
        try:
            answer = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            raise BuildFailed(f"apt-get does not say where Debian's packages are: {error}") from error
        if answer:
            lines.append(f"deb [signed-by={_KEYRING}] {answer.splitlines()[0]} {suite} main\n")
    if not lines:
        raise BuildFailed("apt knows no archive of Debian; the image's base is made of its packages")
    return lines


def _finish(root: Path, kind: str) -> None:
    """What the packages' scripts would do, as far as distroless does it, and less of what nobody reads."""
    etc = root / "etc"
    for name, text in (("passwd", _PASSWD), ("group", _GROUP), ("nsswitch.conf", _NSSWITCH)):
        (etc / name).write_text(text)
    for link in ("python", "python3"):
        (root / "usr/bin" / link).unlink(missing_ok=True)
        (root / "usr/bin" / link).symlink_to(f"python{PYTHON}")
    certificates = etc / "ssl/certs/ca-certificates.crt"
    certificates.parent.mkdir(parents=True, exist_ok=True)
    if kind == "build" and _ROOTS.exists():
        shutil.copyfile(_ROOTS, certificates)
    else:
        found = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
        certificates.write_text("".join(path.read_text() for path in found))
    home = root / "home/nonroot"
    home.mkdir(parents=True)
    home.chmod(0o700)
    os.chown(home, 65532, 65532)
    for unread in ("usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/ca-certificates"):
        shutil.rmtree(root / unread, ignore_errors=True)
