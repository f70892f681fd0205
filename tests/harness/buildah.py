"""buildah from Debian's package: it carries out a Dockerfile as root, without a daemon and without containers."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from .gobuild import BuildFailed, run
from .packages import unpack
from .processes import Process

_PACKAGES = (
    *("buildah", "libgpgme11", "libassuan0", "libgpg-error0", "libdevmapper1.02.1", "libseccomp2", "libselinux1"),
    *("libpcre2-8-0", "libudev1", "golang-github-containers-common", "golang-github-containers-image"),
)
_WANTED = ("usr/bin/buildah", "etc/containers/policy.json", "etc/containers/registries.conf")


class Buildah:
    """The program in our cache, and a storage of its own in ``scratch``, which is the caller's to remove.

    Raises BuildFailed if it is not to be had.
    """

    def __init__(self, cache: Path, scratch: Path) -> None:
        self._root = unpack("debian-buildah", _PACKAGES, _WANTED, cache)
        self._scratch = scratch
        self._settings = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(scratch),
            "TMPDIR": str(scratch / "tmp"),
            "CONTAINERS_STORAGE_CONF": str(scratch / "storage.conf"),
            "CONTAINERS_CONF": str(scratch / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self._root / "etc/containers/registries.conf"),
        }
        (scratch / "tmp").mkdir()
        # vfs copies files where others mount: it works wherever this does, on an overlay too.
        storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{scratch}/graph"\nrunroot = "{scratch}/run"\n'
        (scratch / "storage.conf").write_text(storage)
        (scratch / "containers.conf").touch()

    def build(self, context: Path, architecture: str, bases: Mapping[str, Path], layout: Path) -> None:
        """Carry out the Dockerfile of ``context`` and have the image in an OCI layout. Raises BuildFailed.

        ``bases`` are OCI layouts with the tag `latest`, by the build arguments that name the Dockerfile's bases. The
        architecture of the image is that of its base.
        """
        image = "localhost/built:1"
        # Not under their own paths: buildah 1.28 makes a reference of them, in which no part begins with a full stop.
        places = {name: (base, f"/mnt/{name.lower()}") for name, base in bases.items()}
        given = [f"--build-arg={name}=oci:{place}:latest" for name, (_, place) in places.items()]
        # Not --platform: with it, buildah 1.28 takes no heed of the platform that a FROM names.
        given.append(f"--build-arg=TARGETARCH={architecture}")
        options = ["--isolation=chroot", "--layers=false", f"--tag={image}"]
        what = f"building the image for {architecture}"
        self._run(what, "with its dependencies from PyPI", ["bud", *options, *given, context], dict(places.values()))
        self._run("packing the image", "", ["push", "--format=oci", image, f"oci:{layout}:latest"], {})

    def _run(self, what: str, hint: str, arguments: Sequence[str | Path], shown: Mapping[Path, str]) -> None:
        command = str(arguments[0])
        policy = self._root / "etc/containers/policy.json"
        argv = [self._root / "usr/bin/buildah", command, f"--signature-policy={policy}", *arguments[1:]]
        # All in a mount namespace of its own.
        lines = [*self._find_libraries(), "mount -t tmpfs tmpfs /mnt"]
        for path, place in shown.items():
            lines += [f"mkdir {place}", f"mount --bind {shlex.quote(str(path))} {place}"]
        script = "\n".join([*lines, f"exec {shlex.join(map(str, argv))}"])
        unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]
        run(Process(f"buildah {command}", unshare, self._settings, self._scratch / f"{command}.log"), what, hint)

    def _find_libraries(self) -> list[str]:
        """Commands by which the linker finds its libraries in our cache.

        buildah starts itself again without our environment, so a variable of it would not do.
        """
        linker = shutil.which("ldconfig", path="/usr/sbin:/sbin")
        if linker is None:
            raise BuildFailed("there is no ldconfig")
        configuration, result = self._scratch / "ld.so.conf", self._scratch / "ld.so.cache"
        directories = sorted({str(path.parent) for path in self._root.rglob("*.so.*")})
        configuration.write_text("\n".join([*directories, "include /etc/ld.so.conf", ""]))
        make = shlex.join([linker, "-X", "-f", str(configuration), "-C", str(result)])
        return [make, shlex.join(["mount", "--bind", str(result), "/etc/ld.so.cache"])]
