"""OpenRC, by its records and its own commands, on the host: from a container, in the namespaces of the first process.

What is to outlive the agent is a shell in the control groups of the host's first process (``enter``).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from ..host import Host, HostError
from ..state import DIRECTORY
from . import Kind, Unit, enter
from .errors import ServiceError, plain
from .openrc_later import AGAIN, Later
from .openrc_units import Records
from .waiting import until

TIMEOUT = 20.0
_HOST = Path("/proc/1/root")
_PROC = Path("/proc")
_SUFFIX = ".service"
_SETTLE = 2.0
_TAIL = 128 * 1024
_MAX_LINES = 200
_MAX_LINE = 300
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})")

_Answer = TypeVar("_Answer")


def reachable(host_root: Path) -> bool:
    """Tell whether the host whose files are there is this machine, and this process may act on it.

    Its first process has the same files: the whole root, or the agent's directory, which a Pod has mounted. A process
    without hostPID, or without the rights of a privileged container, does not see that.
    """
    return any(_same(f"{host_root}{path}", f"{_HOST}{path}") for path in ("/", DIRECTORY))


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


class OpenRC:
    """The OpenRC of this machine. Takes the seconds that each order may take to be given."""

    def __init__(self, timeout: float = TIMEOUT, again: int = AGAIN) -> None:
        self._timeout = timeout
        self._again = again
        self._host = Host(_HOST)
        self._records = Records(self._host, _PROC)
        self._later = Later(self._host, _HOST, _PROC)

    @property
    def kind(self) -> Kind:
        """Say OpenRC."""
        return "openrc"

    # ---- services ------------------------------------------------------------------------------------------------

    def unit(self, name: str) -> Unit | None:
        """Give a service, or None if there is none of that name; ``k3s.service`` is ``k3s``. Raises ServiceError."""
        return self._read(lambda: self._records.unit(name.removesuffix(_SUFFIX)))

    def restart(self, name: str) -> None:
        """Have a service restarted, also one that was given up; returns when that has begun. Raises ServiceError.

        OpenRC refuses while another start or stop of the service is going on.
        """
        name = name.removesuffix(_SUFFIX)
        if self.unit(name) is None:
            raise ServiceError("ServiceManagerFailed", f"restart {name}: OpenRC has no such service")
        self._start(("rc-service", name, "restart"))

    # ---- what outlives us ----------------------------------------------------------------------------------------

    def schedule(self, name: str, after_seconds: float, argv: tuple[str, ...]) -> None:
        """Have the host run a program later; it replaces what was scheduled under that name. Raises ServiceError."""
        self.cancel(name)
        self._schedule(name, after_seconds, argv)
        # Without it, only a power loss in these minutes would find nobody: where it cannot be had, so be it.
        with contextlib.suppress(HostError, OSError):
            self._later.keep(name, after_seconds)

    def _schedule(self, name: str, after: float, argv: tuple[str, ...]) -> None:
        self._start(self._read(lambda: self._later.prepare(name, after, argv, again=self._again)))
        if not until(lambda: self.scheduled(name) or self._has_begun(name), _SETTLE):
            raise ServiceError("ServiceManagerFailed", f"{name}: what was started on the host has ended")

    def _has_begun(self, name: str) -> bool:
        """Tell whether it runs, or is over: then its shell has removed itself."""
        return self.running(name) or not self._read(lambda: self._later.known(name))

    def scheduled(self, name: str) -> bool:
        """Tell whether that is still going to be run. Raises ServiceError."""
        return self._read(lambda: self._later.waits(name))

    def run_now(self, name: str, argv: tuple[str, ...]) -> None:
        """Have the host run that at once, whether or not it was scheduled. Raises ServiceError.

        What a loss of power would find stays until the program has ended well.
        """
        if self.running(name):
            return
        if not self._read(lambda: self._later.hurry(name)):
            self._read(lambda: self._later.disarm(name))  # of shells that are gone
            self._schedule(name, 0, argv)
        until(lambda: self._has_begun(name), _SETTLE)

    def cancel(self, name: str) -> None:
        """Have that not run any more. Raises ServiceError, also if it is running already: then it is left to end."""
        self._read(lambda: self._later.disarm(name))
        if not until(lambda: not self.running(name), _SETTLE):
            raise ServiceError("ServiceManagerFailed", f"{name} is running already; it is left to end")
        self._read(lambda: self._later.clear(name))

    def running(self, name: str) -> bool:
        """Tell whether that is running now. Raises ServiceError."""
        return self._read(lambda: self._later.running(name))

    # ---- its log -------------------------------------------------------------------------------------------------

    def log(self, unit: str, since_usec: int, lines: int) -> tuple[str, ...]:
        """Give the last lines that a service wrote since then, where it writes to files; none if that is not known.

        A line without a time belongs to the one before it. Raises ServiceError.
        """
        name = unit.removesuffix(_SUFFIX)
        found: list[str] = []
        for path in self._read(lambda: self._records.logs(name) if self._records.unit(name) is not None else ()):
            kept = False
            for line in _tail(path).splitlines():
                moment = _moment(line)
                kept = kept if moment is None else moment >= since_usec
                if kept and (told := plain(line)[:_MAX_LINE]):
                    found.append(told)
        return tuple(found[-min(lines, _MAX_LINES) :])

    # ---- orders --------------------------------------------------------------------------------------------------

    def _read(self, action: Callable[[], _Answer]) -> _Answer:
        try:
            return action()
        except HostError as error:
            raise ServiceError("ServiceManagerFailed", error.message) from None

    def _start(self, argv: tuple[str, ...]) -> None:
        """Start a program on the host that nobody waits for. Raises ServiceError."""
        # Nothing of the agent's own environment: it may hold a token.
        keep = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
        command = [sys.executable, "-P", "-m", enter.__name__, *argv]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=keep,
            start_new_session=True,
        ) as child:
            try:
                _, said = child.communicate(timeout=self._timeout)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                text = f"{' '.join(argv[:3])}: the host did not take it within {self._timeout:g} s"
                raise ServiceError("ServiceManagerTimeout", text) from None
        if child.returncode != 0:
            text = f"{' '.join(argv[:3])}: {plain(said.decode(errors='replace')) or f'exit code {child.returncode}'}"
            raise ServiceError("ServiceManagerFailed", text)


def _tail(path: str) -> str:
    """Give the end of a file of the host, nothing if it is none; it may be of any size."""
    try:
        descriptor = os.open(f"{_HOST}{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                return ""
            file.seek(max(info.st_size - _TAIL, 0))
            return file.read(_TAIL).decode(errors="replace")
    except OSError:
        return ""


def _moment(line: str) -> int | None:
    """Give the time that a line begins with or names first, in microseconds since 1970."""
    match = _TIME.search(line[:_MAX_LINE])
    try:
        return int(datetime.fromisoformat(match[0]).timestamp() * 1_000_000) if match is not None else None
    except ValueError:
        return None
