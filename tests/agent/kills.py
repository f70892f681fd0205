"""SIGKILL before any step of an agent: it is a forked child that counts its own steps and kills itself.

A step is whatever changes a disk through ``registry_mirror.agent.files``, which works on names in open directories
(audit events of the interpreter, and fsync), and what the test counts besides.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link"}


def killed(step: int, action: Callable[[Callable[[], None]], object]) -> bool:
    """Run it in a child that is killed before that step; False if it ended before it came to that.

    The action is given what counts a step.
    """
    child = os.fork()
    if child == 0:
        try:
            action(_counter(step))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _counter(step: int) -> Callable[[], None]:
    left = step

    def count() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    observe(count)
    return count


def observe(before: Callable[[], None], synced: Callable[[int], None] = lambda _: None) -> None:
    """Have something called before each step of this process, for the rest of its life, and after each fsync."""
    busy = False

    def look() -> None:
        nonlocal busy
        if not busy:
            busy = True
            before()
            busy = False

    def hook(event: str, details: tuple[object, ...]) -> None:
        makes = event == "open" and isinstance(details[2], int) and details[2] & os.O_CREAT
        if (makes or event in _EVENTS) and "/" not in str(details[0]):
            look()

    fsync = os.fsync

    def counted(descriptor: int) -> None:
        look()
        fsync(descriptor)
        synced(descriptor)

    os.fsync = counted  # type: ignore[assignment]  # it is given descriptors only
    sys.addaudithook(hook)
