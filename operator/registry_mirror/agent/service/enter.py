"""Starts a program on the host, whatever container this runs in, so that it has nothing of the container left.

``python -m … PROGRAM ARGUMENT…``; nobody waits for that program. What goes wrong before is said on standard error, with
exit code 125.

The image has no nsenter. A process that only joined the namespaces of the host would still be in the control groups of
the Pod, and the runtime kills all that is in these when the container ends; so would a service that it starts, where
OpenRC makes no groups of its own (sh/rc-cgroup.sh, cgroup_add_service). To join takes the rights of a privileged
container (setns(2)).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys

NAMESPACES = ("cgroup", "uts", "ipc", "net", "mnt")  # to join that of mounts changes what all the rest sees
FAILED = 125
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GROUPS = "/sys/fs/cgroup"


class _Failed(Exception):
    pass


def _differs(name: str) -> bool:
    theirs, ours = os.stat(f"/proc/1/ns/{name}"), os.stat(f"/proc/self/ns/{name}")
    return (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino)


def _join() -> bool:
    """Join the namespaces of the host's first process; gives whether there was one to join."""
    opened = [os.open(f"/proc/1/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES if _differs(name)]
    for descriptor in opened:
        _setns(descriptor)
    os.chdir("/")
    return bool(opened)


def _setns(descriptor: int) -> None:
    if sys.version_info >= (3, 12):
        os.setns(descriptor)
        return
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _leave_groups(*, must: bool) -> None:
    """Go to the control groups of the host's first process, in each hierarchy of either version."""
    for line in _read("/proc/1/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        # Version 2 is mounted there, or beside the hierarchies of version 1 (rc_cgroup_mode in rc.conf).
        places = [f"{_GROUPS}/{names.removeprefix('name=')}"] if names else [_GROUPS, f"{_GROUPS}/unified"]
        for place in places:
            with contextlib.suppress(OSError), open(f"{place}{group}/cgroup.procs", "wb", 0) as file:  # seen below
                file.write(b"0")
    if must and _read("/proc/self/cgroup") != _read("/proc/1/cgroup"):
        raise _Failed("a process cannot leave the control groups of the Pod, and would end with it")


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return file.read().decode(errors="replace")


def _be_like_init() -> None:
    """Lay off what is inherited besides: how soon a kernel without memory ends a container, and Python's signals."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", 0) as file:
        file.write(_read("/proc/1/oom_score_adj").encode())
    os.umask(0o022)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python has them ignored
        signal.signal(number, signal.SIG_DFL)


def _detach() -> None:
    """Go on in a process of a session of its own, which nobody waits for."""
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)


def _main(argv: list[str]) -> None:
    must = _join()
    _leave_groups(must=must)
    _be_like_init()
    program = shutil.which(argv[0], path=_PATH)
    if program is None:
        raise _Failed(f"the host has no {argv[0]}")
    _detach()
    os.execve(program, argv, {"PATH": _PATH, "HOME": "/root"})  # noqa: S606


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except _Failed as failed:
        print(failed, file=sys.stderr)
    except OSError as error:
        print(
            f"the host cannot be entered: {error.strerror}: the agent's container has to be privileged", file=sys.stderr
        )
    sys.exit(FAILED)
