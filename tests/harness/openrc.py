"""A node as Alpine has it: BusyBox's init as its first process, OpenRC (Debian's 0.45.2), and containerd under OpenRC's
supervise-daemon, as K3s's installer and Alpine's package set it up."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from .binaries import cache_directory
from .gobuild import BuildFailed
from .node import Node, NodeError
from .nodebinaries import NodesMissing
from .packages import unpack

SERVICE = "containerd"
LOG = "/var/log/containerd.log"
_PACKAGES = ("openrc", "librc1", "libeinfo1")
_WANTED = ("sbin/openrc", "sbin/supervise-daemon", "lib/rc/sh/openrc-run.sh")
_INIT = "/usr/local/sbin/init"
# As /etc/inittab of Alpine, but for the terminals.
_INITTAB = """\
::sysinit:/sbin/openrc sysinit
::sysinit:/sbin/openrc boot
::wait:/sbin/openrc default
::shutdown:/sbin/openrc shutdown
"""
# The settings are those of K3s's script (k3s install.sh, create_openrc_service_file), but for a shorter delay.
_SERVICE = """\
#!/sbin/openrc-run
supervisor=supervise-daemon
name=containerd
command="/usr/local/bin/guarded-containerd"
command_args="--log-level \\
    info \\
    >>{log} 2>&1"

output_log={log}
error_log={log}

pidfile="/var/run/containerd.pid"
respawn_delay=1
respawn_max=0

set -o allexport
if [ -f /etc/rancher/k3s/k3s.env ]; then . /etc/rancher/k3s/k3s.env; fi
set +o allexport
"""
# /root/guard is the test's: what it says happens before each start.
_GUARDED = """\
#!/bin/sh
[ ! -e /root/guard ] || . /root/guard
exec /usr/local/bin/containerd "$@"
"""


class OpenRCNode(Node):
    """One node; takes what `Node` takes. Its runtime's service is called `containerd`. Raises NodesMissing."""

    def __enter__(self) -> OpenRCNode:
        self.start()
        return self

    def _lay_out(self) -> None:
        files = {
            **self.flavour.files,
            f"/etc/init.d/{SERVICE}": (_SERVICE.format(log=LOG), 0o755),
            "/etc/inittab": (_INITTAB, 0o644),
            "/usr/local/bin/guarded-containerd": (_GUARDED, 0o755),
            _INIT: ("", 0o755),
        }
        self.flavour = dataclasses.replace(self.flavour, unit=SERVICE, files=files)
        super()._lay_out()
        upper = self._work / "upper"
        # Opaque: the scripts of this machine are not to start here.
        os.setxattr(upper / "etc/init.d", "trusted.overlay.opaque", b"y")
        shutil.copy2(self.programs.busybox, upper / _INIT.lstrip("/"))
        package = openrc_package()
        for source, target in (("sbin", "usr/sbin"), ("bin", "usr/bin"), ("lib", "usr/lib"), ("etc/rc.conf", "etc")):
            _copy(package / source, upper / target)
        for runlevel in ("sysinit", "boot", "default", "shutdown"):
            (upper / "etc/runlevels" / runlevel).mkdir(parents=True)
        if self._boot_runtime:
            (upper / f"etc/runlevels/default/{SERVICE}").symlink_to(f"/etc/init.d/{SERVICE}")

    def _init_script(self) -> str:
        before, _, _ = super()._init_script().rpartition("exec env -i")
        return f"{before}exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin {_INIT}\n"

    def _booted(self) -> bool:
        if self._keeper is None or not self._keeper.alive():
            raise NodeError(f"{self.name} ended while booting")
        level = self.path("/run/openrc/softlevel")
        if Path(f"/proc/{self.pid}/comm").read_text().strip() != "init" or not level.exists():
            return False
        started = self.path(f"/run/openrc/started/{SERVICE}")
        return level.read_text().strip() == "default" and (not self._boot_runtime or started.is_symlink())

    @property
    def runtime_pid(self) -> int:
        """The process of the runtime's service, as OpenRC has it on record; 0 when it has none, or that has ended."""
        record = self.path(f"/run/openrc/options/{SERVICE}/child_pid")
        pid = record.read_text() if record.exists() else ""
        return int(pid) if pid and self.path(f"/proc/{pid}").exists() else 0

    def restarts(self) -> int:
        """How many times supervise-daemon has started it again since it was told to start it."""
        record = self.path(f"/run/openrc/options/{SERVICE}/start_count")
        return int(record.read_text() or 0) if record.exists() else 0

    def describe(self) -> str:
        """What a failure's message should show of the node."""
        log = self.path(LOG) if self.pid else None
        parts = [self._keeper.tail() if self._keeper else ""]
        if log is not None and log.exists():
            parts.append("\n".join(log.read_text().splitlines()[-30:]))
        return "\n".join(part for part in parts if part)


def openrc_package() -> Path:
    """Give the directory that the packages are unpacked in. Raises NodesMissing."""
    try:
        return unpack("debian-openrc", _PACKAGES, _WANTED, cache_directory())
    except (BuildFailed, OSError) as error:
        raise NodesMissing(f"OpenRC is not obtainable: {error}") from error


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)
