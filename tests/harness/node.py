"""A node as the agent meets it: namespaces over an overlay of this machine's root file system, with a real systemd as
its first process, and containerd as a unit of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from .cgroups import make_cgroups, remove_cgroups
from .nodebinaries import NodePrograms
from .nodedisk import PATH, init_script, lay_out
from .nodefiles import Flavour, base_files, flavour
from .nodekubelet import Kubelet
from .processes import Process, ProcessFailed
from .workplace import Workplace, ip, remove_link

BOOT_TIMEOUT = 60.0
_RESTARTS = 2  # after which systemd's attempts at a boot are taken for hopeless
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
_POLL = 0.02
_HIDDEN = ("tmp", "run", "dev")
_REPOSITORY = Path(__file__).resolve().parents[2]
_ENV = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}


class NodeError(RuntimeError):
    """A node did not boot, or cannot be asked; the message shows why."""


class Node:
    """One node, to be used as a context manager or by `start` and `stop`.

    Takes its name, the flavour (containerd24, containerd16, k3s), the place and the programs; the runtime's
    configuration (None: one with config_path); more files of the node (path: text); names for its /etc/hosts; and
    directories of this machine to be seen at the same path, read-only, beside all that is on its root file system and
    this repository with its Python. With ``boot_runtime`` false the runtime's unit is there but not started; with
    ``kubelet`` it has a unit kubelet.service too, which is started with it.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        place: Workplace,
        programs: NodePrograms,
        *,
        config: str | None = None,
        files: Mapping[str, str] | None = None,
        hosts: Mapping[str, str] | None = None,
        shown: Sequence[Path] = (),
        boot_runtime: bool = True,
        kubelet: Kubelet | None = None,
    ) -> None:
        self.name = name
        self.flavour: Flavour = flavour(kind, programs)
        self.place = place
        self.programs = programs
        self.ip = place.next_address()
        self.pid = 0
        self._config = self.flavour.config if config is None else config
        self._files = dict(files or {})
        self._hosts = dict(hosts or {})
        self._shown = (*shown, *_elsewhere())
        self._boot_runtime = boot_runtime
        self._kubelet = kubelet
        self.link = place.next_link()
        self._work = place.directory / name
        self._keeper: Process | None = None
        self._processes: list[Process] = []

    # ---- its life ------------------------------------------------------------------------------------------------

    def start(self) -> Node:
        """Boot it: systemd says `running` then, and the runtime's unit is active. `CRI.wait` waits for its answers.

        Raises NodeError with the failed units and the journal; nothing is left then.
        """
        try:
            if not self._work.exists():
                self._lay_out()
            self._launch()
            self.until(self._booted, "it is booted", BOOT_TIMEOUT)
        except BaseException as error:
            told = self.describe() if isinstance(error, NodeError) else ""
            self.stop()
            if told:
                raise NodeError(f"{error}\n{told}") from error
            raise
        return self

    def power_cut(self) -> None:
        """End all its processes at once. Its disk stays, but for /run and /tmp: `start` boots it again from that."""
        for process in self._processes:
            process.stop(grace=1.0)
        self._processes.clear()
        if self._keeper is not None:
            # Alive, it has not seen the end of its child, whose id is nobody else's then.
            if self.pid and self._keeper.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            self._keeper.stop()
        remove_cgroups(self.link)
        remove_link(self.link)
        (self._work / "go").unlink(missing_ok=True)
        self.pid = 0

    def stop(self) -> None:
        """End and remove it. Calling it again does nothing."""
        self.power_cut()
        if self._work.exists():
            shutil.rmtree(self._work)

    def __enter__(self) -> Node:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- asking it -----------------------------------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """Its root directory as this machine sees it. An absolute symlink in it leads into this machine's files."""
        return Path(f"/proc/{self.pid}/root")

    def path(self, path: str) -> Path:
        """Where a path of the node is on this machine."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        """A file's text. Raises OSError."""
        return self.path(path).read_text()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the node, its directories too, by a rename, so that no reader sees half of it."""
        final = self.path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.harness")
        temporary.write_text(text)
        temporary.chmod(mode)
        temporary.replace(final)

    def inside(self, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The command line that runs ``argv`` in all namespaces of the node."""
        return ["nsenter", "-t", str(self.pid), *_NAMESPACES, "--", *(os.fspath(part) for part in argv)]

    def run(self, *argv: str, timeout: float = 60.0, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command in the node. Raises NodeError if it fails and ``check`` is set, TimeoutExpired."""
        answer = subprocess.run(self.inside(argv), env=_ENV, capture_output=True, text=True, timeout=timeout)
        if check and answer.returncode != 0:
            raise NodeError(f"{self.name}: `{' '.join(argv)}` gave {answer.returncode}: {answer.stderr.strip()}")
        return answer

    def process(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """Start a command in the node that goes on; it ends with the node at the latest."""
        log = self.place.directory / f"{self.name}-{name}.log"
        process = Process(f"{self.name}/{name}", self.inside(argv), {**_ENV, **(env or {})}, log)
        self._processes.append(process.start())
        return process

    def systemctl(self, *args: str, check: bool = True) -> str:
        """Run systemctl in the node, give its output."""
        return self.run("systemctl", "--no-pager", *args, check=check).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, such as MainPID."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def journal(self, unit: str | None = None, lines: int = 200) -> str:
        """The end of the journal, of one unit or of all."""
        chosen = ["--unit", unit] if unit else []
        return self.run("journalctl", "--no-pager", "--quiet", "-n", str(lines), *chosen).stdout

    @property
    def runtime_pid(self) -> int:
        """The main process of the runtime's unit, as the node counts; 0 when there is none."""
        return int(self.show(self.flavour.unit, "MainPID") or 0)

    def until(self, check: Callable[[], object], what: str, timeout: float = 60.0) -> None:
        """Look again and again until ``check`` gives something true. Raises NodeError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not check():
            if time.monotonic() > deadline:
                raise NodeError(f"{self.name}: not within {timeout:g} s: {what}")
            time.sleep(_POLL)

    def describe(self) -> str:
        """What a failure's message should show of the node."""
        parts = [self._keeper.tail() if self._keeper else ""]
        if self.pid and self.path("/run/systemd").is_dir():
            with contextlib.suppress(subprocess.TimeoutExpired):
                parts.append(self.run("systemctl", "--no-pager", "list-units", "--failed", timeout=10).stdout)
                parts.append(self.run("systemctl", "--no-pager", "list-jobs", timeout=10).stdout)
                parts.append(self.journal(lines=60))
        return "\n".join(part for part in parts if part)

    # ---- its making ----------------------------------------------------------------------------------------------

    def _text(self) -> dict[str, str]:
        files = base_files(self.name, uuid.uuid4().hex, self._hosts)
        files |= {self.flavour.config_path: self._config}
        if self._kubelet is not None:
            files |= self._kubelet.files(self.name, self.ip, self.flavour.socket)
        return files | self._files

    def _binaries(self) -> dict[str, Path]:
        kubelet = self._kubelet.binaries() if self._kubelet is not None else {}
        return {**self.flavour.programs, **kubelet}

    def _started(self) -> list[str]:
        runtime = [self.flavour.unit] if self._boot_runtime else []
        return runtime + (["kubelet.service"] if self._kubelet is not None else [])

    def _lay_out(self) -> None:
        lay_out(self._work, self._text(), self._binaries(), self.flavour, self._started())

    def _init_script(self) -> str:
        return init_script(self._work, self.name, self.flavour.disk, self._binaries(), self._shown)

    def _launch(self) -> None:
        script = self._work / "init.sh"
        script.write_text(self._init_script())
        groups = make_cgroups(self.link)
        joins = "".join(f"echo $$ > {group}/cgroup.procs; " for group in groups)
        # The kernel ends unshare with us (see Process), and --kill-child the node with unshare.
        unshare = f"exec unshare {' '.join(_NAMESPACES)} --propagation private --fork --kill-child sh {script}"
        log = self.place.directory / f"{self.name}.log"
        self._keeper = Process(f"node {self.name}", ["sh", "-ec", joins + unshare], _ENV, log).start()
        self.until(self._find_init, "it has a first process")
        self._connect()
        (self._work / "go").touch()

    def _find_init(self) -> bool:
        keeper = self._keeper
        assert keeper is not None
        if not keeper.alive():
            raise NodeError(keeper.failure("ended before the node had booted").args[0])
        with contextlib.suppress(OSError, IndexError, ProcessFailed):
            self.pid = int(Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()[0])
        return bool(self.pid)

    def _connect(self) -> None:
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        ip("link", "set", self.link, "master", self.place.bridge, "up")
        for command in (f"addr add {self.ip}/24 dev eth0", "link set eth0 up"):
            argv = ["nsenter", "-t", str(self.pid), "--net", "ip", *command.split()]
            subprocess.run(argv, check=True, capture_output=True, timeout=20)

    def _booted(self) -> bool:
        if self._keeper is None or not self._keeper.alive():
            raise NodeError(f"{self.name} ended while booting")
        if Path(f"/proc/{self.pid}/comm").read_text().strip() != "systemd" or not self.path("/run/systemd").is_dir():
            return False
        state = self.run("systemctl", "is-system-running").stdout.strip()
        if state == "degraded":
            raise NodeError(f"{self.name} has a failed unit")
        return state == "running" and self._on_bus() and (not self._boot_runtime or self._runs())

    def _on_bus(self) -> bool:
        # systemd joins the bus a moment after the bus is there; on a machine that is long past when an agent comes.
        bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner")
        return self.run("busctl", "--system", "call", *bus, "s", "org.freedesktop.systemd1").stdout == "b true\n"

    def _runs(self) -> bool:
        if int(self.show(self.flavour.unit, "NRestarts")) >= _RESTARTS:
            raise NodeError(f"{self.name}: {self.flavour.unit} does not start")
        return self.show(self.flavour.unit, "ActiveState") == "active"


def _elsewhere() -> list[Path]:
    """What the operator needs to run in a node and a node does not see: what is not on the root file system, or lies
    where a node has a file system of its own.
    """
    root = Path("/").stat().st_dev
    needed = dict.fromkeys((_REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)))
    return [path for path in needed if path.stat().st_dev != root or path.parts[1] in _HIDDEN]
