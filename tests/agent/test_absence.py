"""What the host keeps for when no agent is left: what it is made of and when, and its script run by real shells."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_mirror.agent import state as memory
from registry_mirror.agent.absence import Absence
from registry_mirror.agent.absence_script import FOLDER, SCRIPT
from registry_mirror.agent.apply import apply
from registry_mirror.agent.host import Host
from registry_mirror.agent.state import DIRECTORY, State
from registry_mirror.core.bundle import Bundle
from tests.agent import trees
from tests.agent.test_rollback import COMMANDS, REAL, WRAPPER, _busybox

CA, HOSTS, CONFIG = f"{trees.TLS}/ca-1.crt", f"{trees.CERTS}/a.test/hosts.toml", trees.REGISTRIES
FILES = {CA: "our ca", HOSTS: "our hosts", CONFIG: "our registries"}
_SKIPPED = ("sleep", "systemctl", "rc-service")


class Systemd:
    """A service manager that knows one timer, and does nothing but to note what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def scheduled(self, name: str) -> bool:
        """Tell whether it was told of it."""
        return bool(self.told) and "enable" in self.told[-1]

    def shell(self, name: str, script: str) -> None:
        """Note it."""
        self.told.append(script)


class Machine:
    """A K3s node, on which an agent works until it is gone; its script sees nothing but a directory."""

    def __init__(self, work: Path) -> None:
        self.work, self.root = work, work / "host"
        self.shell: tuple[str, ...] = ("sh",)
        self.systemd = Systemd()
        (work / "bin").mkdir()
        for name in set(COMMANDS) - set(_SKIPPED):
            # The whole disk of this machine is not to be synced hundreds of times.
            program = shutil.which("true" if name == "sync" else name)
            (work / "bin" / name).write_text(WRAPPER + REAL.format(program=program))
            (work / "bin" / name).chmod(0o755)
        self.reset()

    def reset(self) -> None:
        """Have nothing of ours on it."""
        if self.root.exists():
            shutil.rmtree(self.root)
        self.root.mkdir()
        self.host = Host(self.root)
        self.absence = Absence(self.host, self.systemd, 86400)
        trees.put(self.root, CONFIG, "theirs", 0o640)
        trees.put(self.root, f"{DIRECTORY}/lock")
        (self.root / "var/lib/kubelet/pods").mkdir(parents=True)

    def work_on(self, wanted: Bundle) -> State:
        """Let an agent make the node so."""
        state = self.absence.returned(memory.load(self.host))
        state, _ = apply(
            self.host, state, wanted, trees.K3S, begun=lambda state, new: self.absence.keep(state, trees.K3S, new)
        )
        self.absence.settle(state, trees.K3S)
        return state

    def leave(self) -> None:
        """The agent and its Pod are gone, for long, and that was seen once already."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        for name, text in {
            "seen": f"{int(time.time()) - 90000} 86400\n",
            "kubelet": f"{self.root}/var/lib/kubelet/pods\n",
            "gone": boot,
        }.items():
            trees.put(self.root, f"{FOLDER}/{name}", text)

    def run(self, kill: str = "") -> int:
        """Run the script, for this directory instead of the whole disk, to be killed at a step; gives its exit code."""
        (self.work / "count").write_text("0")
        script = self.root / SCRIPT[1:]
        if not script.exists():
            return 0
        text = re.sub(r"(?<!\w)/(?=(etc|var/lib)/)", f"{self.root}/", script.read_text())
        (self.work / "script.sh").write_text(text)
        process = subprocess.Popen(
            ["sh", "-c", f'echo $$ >"{self.work}/group"; exec "$@"', "sh", *self.shell, f"{self.work}/script.sh"],
            env={"PATH": f"{self.work}/bin:{os.environ['PATH']}", "WORK": str(self.work), "KILL": kill},
            start_new_session=True,
        )
        return process.wait(timeout=30)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    assert trees.leftovers(made.root) == []


def _files(machine: Machine) -> dict[str, str]:
    paths = [path for path in machine.root.rglob("*") if path.is_file()]
    found = {f"/{path.relative_to(machine.root)}": path.read_text() for path in paths}
    return {path: text for path, text in found.items() if not path.startswith(f"{DIRECTORY}/")}


def _is_back(machine: Machine) -> None:
    assert _files(machine) == {CONFIG: "theirs"}
    assert (machine.root / CONFIG[1:]).stat().st_mode & 0o777 == 0o640
    assert not (machine.root / trees.CERTS[1:]).exists()
    assert not (machine.root / trees.TLS[1:]).exists()
    assert sorted(path.name for path in (machine.root / DIRECTORY[1:]).iterdir()) == ["lock"]


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_everything_comes_back(machine: Machine, shell: str) -> None:
    program = _busybox() if shell == "busybox" else shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} on this machine")
    machine.shell = {"busybox": (program, "sh"), "bash": (program, "--posix")}.get(shell, (program,))
    machine.work_on(trees.bundle("one", FILES))
    machine.leave()
    assert machine.run() == 0
    _is_back(machine)


def test_killed_at_any_step_it_ends_well_when_it_is_run_again(machine: Machine) -> None:
    for step in range(1, 200, 2):
        machine.reset()
        machine.work_on(trees.bundle("one", FILES))
        machine.leave()
        code = machine.run(f"before {step}")
        for folder in (machine.root / trees.CERTS[1:]).glob("[!.]*"):
            assert (folder / "hosts.toml").exists(), (step, folder)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        if step % 3 == 0:  # an agent comes back instead: all is there again, and what was there before is not lost
            machine.absence = Absence(machine.host, machine.systemd, 86400)
            machine.work_on(trees.bundle("one", FILES))
            assert _files(machine) == FILES
            machine.leave()
        assert machine.run() == 0
        # Without the script nothing is run, and there is nothing left to do but to sweep.
        if (machine.root / FOLDER[1:]).exists():
            assert not (machine.root / SCRIPT[1:]).exists()
            shutil.rmtree(machine.root / FOLDER[1:])
        _is_back(machine)
    else:
        pytest.fail("it never came to its end")
    assert step > 20


def test_files_that_the_runtime_may_name_go_after_the_next_boot(machine: Machine) -> None:
    machine.work_on(trees.bundle("one", FILES, {"tls": "1"}))
    machine.leave()
    assert machine.run() == 0
    assert _files(machine) == {CONFIG: "theirs", CA: "our ca"}
    assert set(memory.load(machine.host).originals) == {CA}
    assert machine.run() == 0
    assert _files(machine) == {CONFIG: "theirs", CA: "our ca"}
    trees.put(machine.root, f"{FOLDER}/boot", "another\n")
    assert machine.run() == 0
    _is_back(machine)


def test_the_script_is_there_before_the_first_change_and_gone_with_the_last(machine: Machine) -> None:
    seen: list[dict[str, str]] = []

    def begun(state: State, new: object) -> None:
        machine.absence.keep(state, trees.K3S)
        seen.append(_files(machine))
        machine.leave()
        assert all(path in (machine.root / SCRIPT[1:]).read_text() for path in state.originals)

    apply(machine.host, State(), trees.bundle("one", FILES), trees.K3S, begun=begun)
    assert seen == [{CONFIG: "theirs"}]
    machine.work_on(trees.bundle("none", {}))
    assert not (machine.root / FOLDER[1:]).exists()
    assert "disable" in machine.systemd.told[-1]


def test_nothing_is_written_as_long_as_nothing_changes(machine: Machine) -> None:
    machine.work_on(trees.bundle("one", FILES))
    before = trees.inodes(machine.root)
    machine.work_on(trees.bundle("one", FILES))
    machine.absence = Absence(machine.host, machine.systemd, 86400)
    machine.work_on(trees.bundle("one", FILES))
    assert trees.inodes(machine.root) == before
    assert len(machine.systemd.told) == 1


def test_none_is_made_where_nobody_wants_it(machine: Machine) -> None:
    machine.absence = Absence(machine.host, machine.systemd, None)
    machine.work_on(trees.bundle("one", FILES))
    assert not (machine.root / FOLDER[1:]).exists()
    machine.absence = Absence(machine.host, machine.systemd, 86400)
    machine.work_on(trees.bundle("one", FILES))
    assert (machine.root / SCRIPT[1:]).exists()
    # One that is there is kept up to date, or it would undo what was undone.
    machine.absence = Absence(machine.host, None, None)
    machine.work_on(trees.bundle("two", {HOSTS: "our hosts"}))
    assert CONFIG not in (machine.root / SCRIPT[1:]).read_text()
    machine.absence = Absence(machine.host, machine.systemd, 0)
    machine.work_on(trees.bundle("two", {HOSTS: "our hosts"}))
    assert not (machine.root / FOLDER[1:]).exists()
