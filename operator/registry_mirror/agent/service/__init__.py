"""The host's service manager, as far as the agent needs it: look at the runtime's service, restart it, and leave behind
what acts when the agent no longer can.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from .errors import ServiceError

__all__ = ["Kind", "Service", "ServiceError", "Unit", "manager"]

Kind = Literal["systemd", "openrc"]
_OPENRC = "run/openrc"  # there once OpenRC has booted (librc/rc.h, RC_SVCDIR)


class Unit(Struct, frozen=True, kw_only=True):
    """A service as its manager sees it; the names are systemd's (org.freedesktop.systemd1(5)).

    ``restarts`` are those that the manager made by itself; OpenRC counts anew from each that it was told to make.
    ``entered_at``: when it became active last, in microseconds
    since 1970, 0 for never. ``environment`` is NAME=value, ``exec_start`` the program and its arguments.
    """

    name: str
    load: str = "loaded"
    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    restarts: int = 0
    main_pid: int = 0
    entered_at: int = 0
    control_group: str = ""
    environment: tuple[str, ...] = ()
    environment_files: tuple[str, ...] = ()
    exec_start: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without environment and arguments, which can hold a token of the cluster."""
        return f"Unit({self.name!r}, {self.load}, {self.active}, {self.sub}, {self.result}, pid {self.main_pid})"


class Service(Protocol):
    """A service manager. Every method raises ServiceError, and takes no longer than a few of its time-outs."""

    @property
    def kind(self) -> Kind:
        """Tell which one it is."""

    def unit(self, name: str) -> Unit | None:
        """Give a service, or None if there is none of that name."""

    def restart(self, name: str) -> None:
        """Have a service restarted; returns when the manager has taken the order, not when it is carried out."""

    def schedule(self, name: str, after_seconds: float, argv: tuple[str, ...]) -> None:
        """Have the host run a program later, whatever becomes of us; it replaces what was scheduled under that name.

        It runs again until it has ended with 0. Raises ServiceError also while it is running.
        """

    def scheduled(self, name: str) -> bool:
        """Tell whether that is still going to be run."""

    def run_now(self, name: str, argv: tuple[str, ...]) -> None:
        """Have the host run that at once, whether or not it was scheduled; returns before it ends."""

    def cancel(self, name: str) -> None:
        """Have that not run any more; nothing happens if it was not going to.

        Raises ServiceError if it is running already: then it is left to end.
        """

    def running(self, name: str) -> bool:
        """Tell whether that is running now."""

    def log(self, unit: str, since_usec: int, lines: int) -> tuple[str, ...]:
        """Give the last lines that a service wrote since then (microseconds since 1970); none if they cannot be had."""


def manager(host_root: Path) -> Service | None:
    """Give the service manager of the host whose file system is at ``host_root``; None if it has none that we know.

    D-Bus alone does not make a systemd: it runs beside OpenRC too. To OpenRC there is a way from the host itself, and
    from a privileged container only.
    """
    # Not before they are needed: memory.
    if os.path.isdir(f"/proc/1/root/{_OPENRC}"):
        from .openrc import OpenRC, reachable

        if reachable(host_root):
            return OpenRC()
    if (host_root / _OPENRC).is_dir():
        return None
    from .systemd import SOCKETS, Systemd

    found = any(_is_socket(host_root / path) for path, _ in SOCKETS)
    return Systemd(host_root) if found else None


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
