"""Child processes that never outlive the tests.

A test run can end in an exception, Ctrl-C or SIGKILL, and an API server, controller or agent
left behind by it would hold ports and disturb the next run. So every process started here leads
its own process group, which is ended as a whole, and on Linux the kernel kills it when the
Python process that started it dies. Nothing is ever looked up by name.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

STOP_GRACE = 15.0
_KILL_WAIT = 10.0
_TAIL_BYTES = 64 * 1024
_PR_SET_PDEATHSIG = 1


class ProcessFailed(RuntimeError):
    """A process could not be started, or ended when it should have kept running."""


def _die_with_parent() -> Callable[[], None] | None:
    """Give what a forked child has to call to be killed with its parent; None off Linux."""
    if not sys.platform.startswith("linux"):
        return None
    # Loaded before the fork: between fork and exec a child of a threaded process must not
    # take locks, and the dynamic loader has one.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            # The parent died before prctl took effect: nobody would end this process.
            os._exit(1)

    return in_child


class Process:
    """One child process, its process group and its log.

    Takes a name for messages, the command line, its whole environment (None: ours), the file
    that its output is appended to, and its working directory. With `detached`, it is left
    running when this Python process ends.

    The kernel ties a child to the *thread* that started it: start processes from a thread that
    lives as long as they are needed, as pytest's main thread does.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str] | None,
        log_path: Path,
        *,
        cwd: Path | None = None,
        detached: bool = False,
    ) -> None:
        self.name = name
        self.argv = [os.fspath(part) for part in argv]
        self.env = None if env is None else dict(env)
        self.log_path = log_path
        self.cwd = cwd
        self.detached = detached
        self._popen: subprocess.Popen[bytes] | None = None
        self._swept = False

    @property
    def pid(self) -> int:
        """The process id, also its group's. Raises ProcessFailed before the first start."""
        if self._popen is None:
            raise ProcessFailed(f"{self.name} was not started")
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status (negative: the signal), or None while running or before the start."""
        self._poll()
        return None if self._popen is None else self._popen.returncode

    def start(self) -> Process:
        """Start it (again, if it has ended) and give this object.

        Raises ProcessFailed if it is running already or its program cannot be executed.
        """
        if self.alive():
            raise ProcessFailed(f"{self.name} is running already (pid {self.pid})")
        self._swept = False
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            try:
                self._popen = subprocess.Popen(
                    self.argv,
                    env=self.env,
                    cwd=self.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=None if self.detached else _die_with_parent(),
                )
            except OSError as error:
                raise ProcessFailed(f"{self.name} cannot be started: {error}") from error
        if not self.detached:
            # The kernel's tie is Linux only and spares grandchildren; this covers a normal exit.
            atexit.register(self.stop)
        return self

    def alive(self) -> bool:
        """Whether it is running."""
        return self._popen is not None and not self._poll()

    def wait(self, timeout: float) -> int:
        """Wait for it to end by itself and give its exit status.

        Raises TimeoutError if it is still running after `timeout` seconds.
        """
        if self._popen is None:
            raise ProcessFailed(f"{self.name} was not started")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)
        if not self._poll():
            raise TimeoutError(f"{self.name} is still running after {timeout:g} s")
        return self._popen.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to its process group; nothing happens if it has ended."""
        if self.alive():
            self._signal_group(number)

    def stop(self, grace: float = STOP_GRACE) -> int | None:
        """End it: SIGTERM, up to `grace` seconds of waiting, then SIGKILL for the whole group.

        Gives the exit status, None if it was never started. Calling it again does nothing.
        Raises ProcessFailed if it survives even SIGKILL (it hangs in the kernel).
        """
        atexit.unregister(self.stop)
        if self._popen is None:
            return None
        if not self._poll():
            self._signal_group(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                return self.wait(grace)
            self._signal_group(signal.SIGKILL)
            try:
                return self.wait(_KILL_WAIT)
            except TimeoutError as error:
                raise ProcessFailed(f"{self.name} (pid {self.pid}) does not end") from error
        return self._popen.returncode

    def tail(self, lines: int = 30) -> str:
        """The last lines of its log; an empty text if there is none yet."""
        try:
            with self.log_path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def failure(self, what: str) -> ProcessFailed:
        """Give, for the caller to raise, an exception that says `what` and shows the log's tail."""
        status = self.returncode
        state = "running" if status is None else f"exit status {status}"
        return ProcessFailed(f"{self.name} {what} ({state}); end of {self.log_path}:\n{self.tail()}")

    def __enter__(self) -> Process:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _poll(self) -> bool:
        """Whether it has ended. When that is first seen, the rest of its group is ended too."""
        if self._popen is None:
            return False
        if self._popen.poll() is None:
            return False
        # A group's id is not given out again while the group has members, but may be once it is
        # empty: so only right after the exit, never later, when the id may be a stranger's.
        if not self._swept:
            self._swept = True
            self._signal_group(signal.SIGKILL)
        return True

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
