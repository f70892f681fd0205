"""The dead-man's script, run by real shells on a tree of its own: whole, killed at any step, against the agent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from registry_mirror.agent import rollback
from registry_mirror.agent.host import Host
from registry_mirror.agent.rollback import Restore
from registry_mirror.agent.service import Kind
from registry_mirror.agent.state import DIRECTORY
from tests.agent import trees

CA, HOSTS, CONFIG = "/etc/k3s/tls/ca-1.crt", "/etc/certs.d/[::1]:5000/hosts.toml", "/etc/k3s/registries.yaml"
NEW, NEW_CA, EXTRA = "/etc/certs.d/it's new/hosts.toml", "/etc/k3s/new tls/ca-2.crt", "/etc/k3s/config.yaml.d/x.yaml"
FAKES = ("sleep", "systemctl", "rc-service")
COMMANDS = ("cp", "mv", "rm", "rmdir", "mkdir", "chmod", "chown", "sync", "ln", "ls", "cat", *FAKES)
UNIT = "k3s.service"

# What a shell sees as its commands: each is counted, and at one of them the shell is killed, before or after it.
WRAPPER = """\
#!/bin/sh
count=$(( $(/bin/cat "$WORK/count") + 1 ))
echo $count >"$WORK/count"
echo "${0##*/} $*" >>"$WORK/steps"
[ "$KILL" != "before $count" ] || kill -9 "-$(/bin/cat "$WORK/group")"
"""
REAL = """\
{program} "$@"
status=$?
[ "$KILL" != "after $count" ] || kill -9 "-$(/bin/cat "$WORK/group")"
exit $status
"""
FAKE = 'echo "{name} $*" >>"$WORK/calls"\n[ "${{FAIL:-0}}" != "{name} $1" ] || exit 1\n'


class Machine:
    """A host of which the script sees nothing but a directory, with its own service manager."""

    def __init__(self, work: Path) -> None:
        self.root = work / "host"
        self.work = work
        self.host = Host(self.root)
        self.shell: tuple[str, ...] = ("sh",)
        (work / "bin").mkdir()
        for name in COMMANDS:
            last = FAKE.format(name=name) if name in FAKES else ""
            last = last or REAL.format(program=shutil.which(name))
            (work / "bin" / name).write_text(WRAPPER + last)
            (work / "bin" / name).chmod(0o755)
        self.root.mkdir()
        self.reset()

    def reset(self) -> None:
        """Put the tree as it is after a change that is to be rolled back."""
        shutil.rmtree(self.root)
        self.root.mkdir()
        (self.work / "calls").write_text("")
        for name, content in {"1": "good ca", "2": "good hosts", "3": "good config"}.items():
            trees.put(self.root, f"{DIRECTORY}/good/{name}", content, 0o600)
        trees.put(self.root, HOSTS, "bad hosts")
        for path in (CONFIG, NEW, NEW_CA, EXTRA):
            trees.put(self.root, path, f"bad {path}")

    def arm(self, items: tuple[Restore, ...], kind: Kind = "systemd") -> None:
        """Write the script, for this directory instead of the whole disk."""
        assert rollback.prepare(self.host, items, UNIT, kind) == ("/bin/sh", f"{DIRECTORY}/restart/rollback.sh")
        script = self.root / DIRECTORY[1:] / "restart/rollback.sh"
        text = script.read_text().replace("/etc/", f"{self.root}/etc/")
        script.write_text(text.replace(DIRECTORY, f"{self.root}{DIRECTORY}"))

    def start(self, kill: str = "", env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the script, to be killed at a step."""
        (self.work / "count").write_text("0")
        # The group is known before anything else is: a shell of its own tells.
        first = f'echo $$ >"{self.work}/group"; exec "$@"'
        script = self.root / DIRECTORY[1:] / "restart/rollback.sh"
        path = f"{self.work}/bin:{os.environ['PATH']}"
        return subprocess.Popen(
            ["sh", "-c", first, "sh", *self.shell, str(script)],
            env={"PATH": path, "WORK": str(self.work), "KILL": kill, **(env or {})},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, kill: str = "", env: Mapping[str, str] | None = None) -> int:
        """Run it to its end, give its exit code."""
        process = self.start(kill, env)
        process.communicate(timeout=30)
        return process.returncode

    def calls(self) -> list[str]:
        """What the service manager was asked."""
        return [line for line in (self.work / "calls").read_text().splitlines() if not line.startswith("sleep")]

    def text(self, path: str) -> str | None:
        """A file's content, None if there is none."""
        where = self.root / path[1:]
        return where.read_text() if where.is_file() else None


ITEMS = (
    Restore(path=HOSTS, copy=f"{DIRECTORY}/good/2", mode=0o600, uid=0, gid=0),
    Restore(path=NEW_CA, with_directory=True),
    Restore(path=NEW, with_directory=True),
    Restore(path=CA, copy=f"{DIRECTORY}/good/1", mode=0o644, uid=0, gid=7),
    Restore(path=CONFIG, copy=f"{DIRECTORY}/good/3", mode=0o640, uid=0, gid=0),
    Restore(path=EXTRA),
)
RESTARTED = [f"systemctl reset-failed {UNIT}", f"systemctl restart --no-block {UNIT}"]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    assert trees.leftovers(made.root) == []


def _is_back(machine: Machine) -> None:
    found = trees.snapshot(machine.root)
    assert {path: entry[4] for path, entry in found.items() if entry[0] == "file"} == {
        CA: b"good ca",
        HOSTS: b"good hosts",
        CONFIG: b"good config",
    }
    assert [found[path][1:4] for path in (CA, HOSTS, CONFIG)] == [(0o644, 0, 7), (0o600, 0, 0), (0o640, 0, 0)]
    assert "/etc/certs.d/it's new" not in found
    assert "/etc/k3s/new tls" not in found
    assert "/etc/k3s/config.yaml.d" in found


def _busybox() -> str | None:
    cached = Path.home() / ".cache/registry-mirror-operator/tools/debian-busybox/bin/busybox"
    return shutil.which("busybox") or (str(cached) if cached.exists() else None)


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_files_come_back_and_the_runtime_is_restarted_once(machine: Machine, shell: str) -> None:
    program = _busybox() if shell == "busybox" else shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} on this machine")
    machine.shell = {"busybox": (program, "sh"), "bash": (program, "--posix")}.get(shell, (program,))
    machine.arm(ITEMS)
    assert rollback.outcome(machine.host) == "armed"
    assert machine.run() == 0
    _is_back(machine)
    assert machine.calls() == RESTARTED
    assert rollback.outcome(machine.host) == "done"
    assert rollback.skipped(machine.host) == ()
    assert machine.run() == 0
    assert machine.calls() == RESTARTED
    assert not rollback.commit(machine.host)
    rollback.clear(machine.host)
    assert rollback.outcome(machine.host) == "none"
    assert list((machine.root / DIRECTORY[1:] / "restart").iterdir()) == []


def test_a_directory_that_has_gone_comes_back_with_its_file(machine: Machine) -> None:
    shutil.rmtree(machine.root / "etc")
    machine.arm(ITEMS)
    assert machine.run() == 0
    assert [machine.text(path) for path in (CA, HOSTS, CONFIG)] == ["good ca", "good hosts", "good config"]
    assert (machine.root / HOSTS[1:]).parent.stat().st_mode & 0o777 == 0o700
    assert (machine.root / "etc/certs.d").stat().st_mode & 0o777 == 0o755


def test_it_does_nothing_once_the_agent_is_content(machine: Machine) -> None:
    machine.arm(ITEMS)
    before = trees.snapshot(machine.root)
    assert rollback.commit(machine.host)
    assert rollback.commit(machine.host)
    assert rollback.outcome(machine.host) == "committed"
    assert machine.run() == 0
    assert trees.snapshot(machine.root) == before
    assert machine.calls() == []
    assert rollback.outcome(machine.host) == "committed"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_step_it_ends_well_when_it_is_run_again(machine: Machine, moment: str) -> None:
    for step in range(1, 200):
        machine.reset()
        if step % 2:  # every other time there is no directory to put hosts.toml into
            shutil.rmtree((machine.root / HOSTS[1:]).parent)
        machine.arm(ITEMS)
        code = machine.run(f"{moment} {step}")
        for path, whole in {CA: "good ca", HOSTS: "good hosts", CONFIG: "good config"}.items():
            assert machine.text(path) in (whole, f"bad {path}", "bad hosts", None), (step, path)
        for folder in (machine.root / "etc/certs.d").glob("[!.]*"):
            assert (folder / "hosts.toml").exists(), (step, folder)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        started = rollback.outcome(machine.host)
        assert not (machine.text(CONFIG) == "good config" and rollback.commit(machine.host)), step
        assert machine.run() == 0
        if started != "armed" or rollback.outcome(machine.host) == "done":
            _is_back(machine)
            assert machine.calls()[-2:] == RESTARTED
            assert rollback.outcome(machine.host) == "done"
    else:
        pytest.fail("it never came to its end")
    assert step > 30


def test_two_at_once_are_one(machine: Machine) -> None:
    machine.arm(ITEMS)
    both = [machine.start() for _ in range(2)]
    for process in both:
        process.communicate(timeout=30)
    _is_back(machine)
    assert machine.calls() == RESTARTED


def test_links_and_what_is_no_file_are_left_alone(machine: Machine) -> None:
    elsewhere = machine.root / "elsewhere"
    shutil.move(machine.root / "etc/k3s", elsewhere)
    (machine.root / "etc/k3s").symlink_to(elsewhere)
    link = machine.root / HOSTS[1:]
    link.unlink()
    link.symlink_to(trees.put(machine.root, "/precious", "precious"))
    before = {path.name: path.read_text() for path in elsewhere.rglob("*") if path.is_file()}
    machine.arm(ITEMS)
    assert machine.run() == 0
    assert {path.name: path.read_text() for path in elsewhere.rglob("*") if path.is_file()} == before
    assert (machine.root / "precious").read_text() == "precious"
    assert link.is_symlink()
    assert machine.text(NEW) is None
    told = rollback.skipped(machine.host)
    assert len(told) == 5
    assert all("is a link or no file" in line for line in told)
    assert machine.calls() == RESTARTED


def test_what_somebody_else_put_into_our_directory_stays(machine: Machine) -> None:
    theirs = trees.put(machine.root, NEW.replace("hosts.toml", "theirs.crt"), "theirs")
    machine.arm(ITEMS)
    assert machine.run() == 0
    assert theirs.read_text() == "theirs"
    moved = [line for line in (machine.work / "steps").read_text().splitlines() if line.startswith("mv")]
    assert not [line for line in moved if "it's new" in line], "it is in its place all the time"
    assert machine.text(NEW) is None


def test_a_copy_that_has_gone_holds_up_nothing_else(machine: Machine) -> None:
    machine.arm(ITEMS)
    (machine.root / DIRECTORY[1:] / "good/1").unlink()
    assert machine.run() == 0
    assert (machine.text(CA), machine.text(HOSTS), machine.text(CONFIG)) == (None, "good hosts", "good config")
    assert len(rollback.skipped(machine.host)) == 1
    assert machine.calls() == RESTARTED


def test_what_names_a_file_comes_after_it_and_goes_before_it(machine: Machine) -> None:
    machine.arm(ITEMS)
    text = (machine.root / DIRECTORY[1:] / "restart/rollback.sh").read_text()
    steps = [line.strip() for line in text.splitlines() if line.startswith("    ") and "/etc/" in line]
    order = [next(path for path in (CA, HOSTS, CONFIG, NEW_CA, EXTRA, "new/hosts.toml") if path in s) for s in steps]
    assert order == [CA, HOSTS, CONFIG, EXTRA, "new/hosts.toml", NEW_CA]


def test_a_restart_that_is_refused_is_asked_for_again_and_told_of(machine: Machine) -> None:
    machine.arm(ITEMS)
    assert machine.run(env={"FAIL": "systemctl restart"}) == 0
    assert machine.calls().count(RESTARTED[1]) == 3
    assert rollback.skipped(machine.host) == (f"the runtime was not restarted: {RESTARTED[1]}",)
    assert rollback.outcome(machine.host) == "done"


def test_with_openrc(machine: Machine) -> None:
    machine.arm(ITEMS, "openrc")
    assert machine.run() == 0
    _is_back(machine)
    assert machine.calls() == [f"rc-service {UNIT} restart"]
