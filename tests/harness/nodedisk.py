"""A node's disk before its boot, and the script that its first process runs before it becomes systemd."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from .cgroups import hierarchies
from .nodefiles import READY_TARGET, Flavour, unwanted_units

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KUBELET_DISK = "/var/lib/kubelet"

# Devices, /sys and /proc are the node's own: what its systemd does with them is not to reach the machine's. All mounts
# are shared, as systemd has them on a machine (not in what it takes for a container): HostToContainer asks for that.
_INIT = """\
set -eu
until [ -e {work}/go ]; do sleep 0.01; done
mount -t overlay overlay -o lowerdir=/,upperdir={work}/upper,workdir={work}/work {work}/root
cd {work}/root
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for i in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${{i%%:*}} dev/${{i#*:}}; done
for d in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0' 'kmsg 1 11' 'fuse 10 229'; do
  set -- $d; mknod -m 666 dev/$1 c $2 $3
done
{mounts}
hostname {name}
ip link set lo up
mkdir -p mnt; pivot_root . mnt; cd /; umount -l /mnt
mount --make-rshared /
exec env -i container=docker PATH={path} /lib/systemd/systemd --system --unit={target} \
  --show-status=no --log-target=journal
"""


def lay_out(
    work: Path, files: Mapping[str, str], binaries: Mapping[str, Path], kind: Flavour, started: Sequence[str]
) -> None:
    """Make the directories of a node in ``work`` and put what it boots with on its disk. Raises OSError.

    ``files`` and the flavour's own are laid there, ``binaries`` get a place to be mounted on, ``started`` are units.
    """
    for name in ("upper", "work", "root", "disk", "kubelet"):
        (work / name).mkdir(parents=True)
    upper = work / "upper"
    units = upper / "etc/systemd/system"
    units.mkdir(parents=True)
    # Opaque: what the machine's administrator enabled is not to start here.
    os.setxattr(units, "trusted.overlay.opaque", b"y")
    for unit in unwanted_units():
        (units / unit).symlink_to("/dev/null")
    _lay(upper, f"/etc/systemd/system/{kind.unit}", kind.unit_file(), 0o644)
    wants = units / f"{READY_TARGET}.wants"
    wants.mkdir()
    for unit in started:
        (wants / unit).symlink_to(f"../{unit}")
    for path, text in files.items():
        _lay(upper, path, text, 0o644)
    for path, (text, mode) in kind.files.items():
        _lay(upper, path, text, mode)
    for path in binaries:
        _lay(upper, path, "", 0o755)
    for path, source in kind.copied.items():
        _lay(upper, path, "", 0o755)
        shutil.copy2(source, upper / path.lstrip("/"))
    for path in (kind.disk, kind.certs, _KUBELET_DISK):
        (upper / path.lstrip("/")).mkdir(parents=True, exist_ok=True)


def init_script(work: Path, name: str, disk: str, binaries: Mapping[str, Path], shown: Sequence[Path]) -> str:
    """The script; ``disk`` is what the runtime keeps images on, ``shown`` are directories of this machine to be seen at
    the same path, read-only."""
    commands = [f"mount --bind {work}/disk .{disk}"]
    # Shared, as systemd has it on a machine: mounts of pods are to be seen by containers.
    commands += [f"mount --bind {work}/kubelet .{_KUBELET_DISK}", f"mount --make-shared .{_KUBELET_DISK}"]
    for path, source in {**binaries, **{str(path): path for path in shown}}.items():
        if source.is_dir():
            commands.append(f"mkdir -p .{path}")
        commands += [f"mount --bind {source} .{path}", f"mount -o remount,bind,ro .{path}"]
    commands.append("mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup")
    for hierarchy in hierarchies():
        target = f".{hierarchy.path}"
        options = f"-o {hierarchy.options}" if hierarchy.options else ""
        commands += [f"mkdir -p {target}", f"mount -t {hierarchy.kind} {options} {hierarchy.kind} {target}"]
    return _INIT.format(work=work, name=name, mounts="\n".join(commands), path=PATH, target=READY_TARGET)


def _lay(upper: Path, path: str, text: str, mode: int) -> None:
    target = upper / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)
