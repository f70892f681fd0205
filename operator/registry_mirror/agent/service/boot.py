"""What is scheduled, kept across a power loss: a transient timer goes with its boot, a unit file does not.

The host's own shell puts the files into systemd's directory: a Pod does not have that mounted, and a file elsewhere
(`systemctl enable /var/…`) is not found at a boot if its file system is mounted later (systemctl(1), link).
"""

from __future__ import annotations

import shlex

from ..host import Host
from ..state import DIRECTORY

_FOLDER = f"{DIRECTORY}/boot"
UNITS = "/etc/systemd/system"
# For the agent to come up and see the start through before the host goes back by itself.
_MORE = 120.0

_TIMER = """\
# Written by registry-mirror-operator before it restarts the container runtime; it goes when the runtime is back.
[Unit]
Description=registry-mirror: go back to the last good files unless the runtime works

[Timer]
OnBootSec={after:.0f}
OnUnitInactiveSec=30
AccuracySec=1

[Install]
WantedBy=timers.target
"""
_SERVICE = """\
[Unit]
Description=registry-mirror: go back to the last good files
ConditionPathExists={script}

[Service]
Type=oneshot
TimeoutStartSec=300
ExecStart={command}
ExecStartPost=/bin/sh -c {forget}
"""


def keep(host: Host, name: str, after: float, argv: tuple[str, ...]) -> str:
    """Write the units of that name; gives what the host's shell has to do with them. Raises HostError."""
    command = " ".join(map(quoted, argv))
    service = _SERVICE.format(script=argv[-1], command=command, forget=quoted(forget(name)))
    host.stage(f"{_FOLDER}/{name}-boot.service", service.encode(), 0o644).commit()
    host.stage(f"{_FOLDER}/{name}-boot.timer", _TIMER.format(after=after + _MORE).encode(), 0o644).commit()
    files = shlex.join(f"{_FOLDER}/{name}-boot.{kind}" for kind in ("service", "timer"))
    return f"cp {files} {UNITS}/ && sync && systemctl enable --quiet --no-reload {shlex.quote(f'{name}-boot.timer')}"


def kept(host: Host, name: str) -> bool:
    """Tell whether units of that name may be there. Raises HostError."""
    return host.exists(f"{_FOLDER}/{name}-boot.service")


def forget(name: str) -> str:
    """Give what the host's shell has to do so that the units go.

    Lines, for systemd 252 writes a semicolon in a transient unit so that it cannot read it again after daemon-reload.
    """
    timer, service = (shlex.quote(f"{name}-boot.{kind}") for kind in ("timer", "service"))
    return (
        f"systemctl disable --quiet --no-reload --now {timer}\n"
        f"rm -f {UNITS}/{timer} {UNITS}/{service} {_FOLDER}/{timer} {_FOLDER}/{service}\n"
        f"rmdir {_FOLDER}\n"
    )


def quoted(word: str) -> str:
    """Give a word as a unit file has it (systemd.service(5), Command lines)."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = plain.replace("\n", "\\n")
    return f'"{plain}"'
