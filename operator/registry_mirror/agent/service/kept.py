"""What systemd runs every half an hour and after each boot, until its script is gone."""

from __future__ import annotations

import shlex

from ..host import Host
from .boot import UNITS, quoted

_TIMER = """\
# Written by registry-mirror-operator; it goes when nothing of the operator is left on this node.
[Unit]
Description=registry-mirror: look whether the operator is gone for good

[Timer]
OnBootSec=600
OnUnitInactiveSec=1800
AccuracySec=60

[Install]
WantedBy=timers.target
"""
_SERVICE = """\
[Unit]
Description=registry-mirror: put this node back if the operator is gone for good
RequiresMountsFor={folder}

[Service]
Type=oneshot
TimeoutStartSec=300
ExecStart=/bin/sh -c {run}
ExecStart=/bin/sh -c {forget}
"""


def keep(host: Host, folder: str, name: str, script: str) -> str:
    """Write the units of that name into a folder; gives what the host's shell has to do with them. Raises HostError."""
    run = quoted(f"[ ! -e {script} ] || exec /bin/sh {script}")
    gone = quoted(f"[ -e {script} ] || {{\n{forget(name)}}}")
    service = _SERVICE.format(folder=folder, run=run, forget=gone)
    host.stage(f"{folder}/{name}.service", service.encode(), 0o644).commit()
    host.stage(f"{folder}/{name}.timer", _TIMER.encode(), 0o644).commit()
    files = shlex.join(f"{folder}/{name}.{kind}" for kind in ("service", "timer"))
    timer = shlex.quote(f"{name}.timer")
    return (
        f"cp {files} {UNITS}/ && sync && systemctl enable --quiet --no-reload {timer} && "
        f"systemctl start --no-block {timer}"
    )


def forget(name: str) -> str:
    """Give what the host's shell has to do so that the units go, in lines (see ``boot.forget``)."""
    timer, service = (shlex.quote(f"{name}.{kind}") for kind in ("timer", "service"))
    return f"systemctl disable --quiet --no-reload --now {timer}\nrm -f {UNITS}/{timer} {UNITS}/{service}\n"
