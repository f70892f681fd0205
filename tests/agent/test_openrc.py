"""The records and scripts of OpenRC, read from files; tests/nodes/test_openrc.py has the real OpenRC."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from registry_mirror.agent import processes
from registry_mirror.agent.detect_rancher import rancher
from registry_mirror.agent.environment import proxies
from registry_mirror.agent.host import Host
from registry_mirror.agent.service import Unit, enter, manager, openrc, openrc_script
from registry_mirror.agent.service.openrc_later import Later
from registry_mirror.agent.service.openrc_script import Said
from registry_mirror.agent.service.openrc_units import Records
from registry_mirror.agent.signs import _of_service
from registry_mirror.agent.state import Attempt
from tests.agent import trees

RUN, OPTIONS = "/run/openrc", "/run/openrc/options/k3s"
# As K3s's installer writes it, for `INSTALL_K3S_EXEC="server --data-dir '/data of k3s'"`.
K3S = """\
#!/sbin/openrc-run

depend() {
    after network-online
    want cgroups
}

start_pre() {
    rm -f /tmp/k3s.*
}

supervisor=supervise-daemon
name=k3s
command="/usr/local/bin/k3s"
command_args="server \\
\t'--data-dir' \\
\t'/data of k3s' \\

    >>/var/log/k3s.log 2>&1"

output_log=/var/log/k3s.log
error_log=/var/log/k3s.log

pidfile="/var/run/k3s.pid"
respawn_delay=5
respawn_max=0

set -o allexport
if [ -f /etc/environment ]; then . /etc/environment; fi
if [ -f /etc/rancher/k3s/k3s.env ]; then . /etc/rancher/k3s/k3s.env; fi
set +o allexport
"""
FILES = ("/etc/environment", "/etc/rancher/k3s/k3s.env")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            K3S,
            Said(
                command=("/usr/local/bin/k3s", "server", "--data-dir", "/data of k3s"),
                files=FILES,
                logs=("/var/log/k3s.log",),
            ),
        ),
        ("command=/bin/x\ncommand_args='a \"b c\" $HOME'\n", Said(command=("/bin/x",))),
        ('command="/bin/x"\ncommand_args="a \\"b c\\" \\$5"\n', Said(command=("/bin/x",))),
        ('command="/bin/x"\ncommand_args="a \\"b c\\" d"\n', Said(command=("/bin/x", "a", "b c", "d"))),
        ('command="${X:-/bin/x}"\noutput_log=$LOG\nerror_log="/a`b`"\n', Said()),
        ("command=x\noutput_log=relative\n", Said()),
        ("command=/bin/x\ncommand_args='not closed\n", Said(command=("/bin/x",))),
        (". $HOME/x\nsource /a/b; . /c/*.env\n. /d'e'\n", Said(files=("/a/b",))),
        ("\0\udc80\"'`$(", Said()),
        ("", Said()),
    ],
)
def test_a_script_is_read_and_never_run(text: str, said: Said) -> None:
    assert openrc_script.read(text) == said


@given(st.text(alphabet="\"'\\$`\n\t =.;/abc_command>&#{}()", max_size=300))
def test_no_script_makes_it_raise(text: str) -> None:
    said = openrc_script.read(f"command=/x\ncommand_args={text}\noutput_log={text}\n. {text}")
    assert all(path.startswith("/") for path in (*said.files, *said.logs))


class Machine:
    """A host whose processes are what the test says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.proc.mkdir()
        self.records = Records(Host(root), self.proc)
        trees.put(root, "/etc/init.d/k3s", K3S)

    def process(self, pid: int, parent: int, *argv: str, cgroup: str = "0::/\n") -> None:
        """Have a process."""
        text = {"status": f"PPid:\t{parent}\n", "cmdline": "".join(f"{word}\0" for word in argv), "cgroup": cgroup}
        text |= {"comm": argv[0].rpartition("/")[2], "environ": f"PID={pid}\0no pair\0HTTP_PROXY=http://p\0"}
        for name, content in text.items():
            trees.put(self.root, f"/proc/{pid}/{name}", content)

    def gone(self, pid: int) -> None:
        """Have it no more."""
        for file in (self.proc / str(pid)).iterdir():
            file.unlink()

    def options(self, **values: str) -> None:
        """What supervise-daemon has on record."""
        for name, value in values.items():
            trees.put(self.root, f"{OPTIONS}/{name}", value)

    def supervised(self) -> None:
        """K3s as it runs: it gave itself a title."""
        self.process(
            20, 1, "supervise-daemon", "k3s", "--start", "--stdout", "/var/log/a", "-2", "/var/log/b", "--", "-1"
        )
        self.process(21, 20, "/usr/local/bin/k3s server")
        self.options(child_pid="21", respawn_max="0", start_count="2", pidfile="/var/run/k3s.pid")
        self.options(argc="3", argv_0="/usr/local/bin/k3s", argv_1="server", argv_2="--debug")
        trees.put(self.root, "/run/k3s.pid", "20\n")
        self.state("started")

    def state(self, *names: str) -> None:
        """The states that are on record."""
        for name in ("started", "starting", "stopping", "inactive", "failed"):
            link = self.root / f"run/openrc/{name}/k3s"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            if name in names:
                link.symlink_to("/etc/init.d/k3s")

    def unit(self) -> Unit:
        """What is made of all that."""
        found = self.records.unit("k3s")
        assert found is not None
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_k3s_as_it_runs(machine: Machine) -> None:
    machine.supervised()
    found = machine.unit()
    assert (found.active, found.sub, found.main_pid, found.restarts) == ("active", "running", 21, 2)
    assert found.exec_start == ("/usr/local/bin/k3s", "server", "--debug")
    assert found.environment == ("PID=21", "HTTP_PROXY=http://p")
    assert found.environment_files == ()
    made = os.stat(f"{machine.root}{OPTIONS}/child_pid").st_mtime_ns
    assert found.entered_at == made // 1000
    assert machine.records.logs("k3s") == ("/var/log/a", "/var/log/b")


@pytest.mark.parametrize(
    ("change", "active", "sub"),
    [
        # It has ended, and is going to be started again.
        (lambda m: m.gone(21), "activating", "auto-restart"),
        # Its number is another's now.
        (lambda m: m.process(21, 1, "/bin/other"), "activating", "auto-restart"),
        # supervise-daemon has just begun: neither number is there.
        (lambda m: (m.gone(20), m.gone(21), trees.put(m.root, "/run/k3s.pid", "")), "activating", "dead"),
        # supervise-daemon was killed, and its number is another's now.
        (lambda m: (m.process(20, 1, "/bin/other"), m.gone(21)), "failed", "dead"),
        (lambda m: m.process(20, 1, "supervise-daemon", "other", "--start"), "failed", "dead"),
        (lambda m: m.state("started", "stopping"), "deactivating", "running"),
        (lambda m: m.state("starting"), "activating", "running"),
    ],
)
def test_k3s_on_its_way(machine: Machine, change: Callable[[Machine], object], active: str, sub: str) -> None:
    machine.supervised()
    change(machine)
    found = machine.unit()
    assert (found.active, found.sub) == (active, sub)
    assert found.main_pid == (21 if sub == "running" else 0)
    assert found.exec_start == ("/usr/local/bin/k3s", "server", "--debug")


@pytest.mark.parametrize("runs", [True, False])
def test_the_settings_of_k3s_are_found_by_it(machine: Machine, runs: bool) -> None:
    host = Host(machine.root)
    trees.put(machine.root, "/etc/rancher/k3s/k3s.env", "HTTP_PROXY='http://p'\n")
    if runs:
        machine.supervised()
        machine.options(argv_2="--data-dir=/data of k3s")
    facts = rancher(host, "k3s", "", machine.unit())
    assert facts.config_path == "/data of k3s/agent/etc/containerd/certs.d"
    assert proxies(machine.unit(), host, facts) == {"HTTP_PROXY": "http://p"}


@pytest.mark.parametrize(("states", "active"), [((), "inactive"), (("failed",), "failed")])
def test_k3s_that_does_not_run(machine: Machine, states: tuple[str, ...], active: str) -> None:
    machine.state(*states)
    found = machine.unit()
    assert (found.active, found.main_pid, found.entered_at) == (active, 0, 0)
    assert found.exec_start == ("/usr/local/bin/k3s", "server", "--data-dir", "/data of k3s")
    assert found.environment_files == tuple(f"-{path}" for path in FILES)
    assert machine.records.logs("k3s") == ("/var/log/k3s.log",)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../etc", "-x", ".hidden", "a b", "a\n", "none"])
def test_names_of_no_service(machine: Machine, name: str) -> None:
    assert machine.records.unit(name) is None


def test_records_that_are_hostile(machine: Machine) -> None:
    machine.state("started")
    machine.options(respawn_max="\udc80".encode(errors="replace").decode(), child_pid="-1", argc="9" * 30, pidfile="x")
    found = machine.unit()
    assert (found.active, found.main_pid, found.exec_start) == ("activating", 0, ())


@pytest.mark.parametrize(("before", "now", "final"), [(10, 2, False), (10, 3, True), (1, 3, False), (1, 4, True)])
def test_openrc_counts_anew_after_a_restart(before: int, now: int, final: bool) -> None:
    attempt = Attempt(revision="r", unit="k3s", started_at="", deadline=1.0, entered=1, restarts=before)
    found = _of_service(Unit(name="k3s", active="active", entered_at=2, restarts=now), attempt)
    assert (found is not None and found.final) == final


# ---- whose a process is ----------------------------------------------------------------------------------------------


def test_a_process_belongs_to_the_service_whose_supervisor_started_it(machine: Machine) -> None:
    machine.process(20, 1, "/sbin/supervise-daemon", "k3s", "--start")
    machine.process(21, 20, "/usr/local/bin/k3s server", cgroup="0::/k3s\n")
    machine.process(22, 21, "containerd", cgroup="0::/k3s\n")
    assert [processes.service(machine.proc, pid) for pid in (21, 22)] == ["k3s", "k3s"]
    # In a container, the parent of all is one of the host's processes.
    machine.process(30, 7, "init")
    machine.process(31, 30, "supervise-daemon", "k3s", "--start")
    machine.process(32, 31, "containerd")
    assert processes.service(machine.proc, 32) == ""
    machine.process(40, 1, "supervise-daemon", "not a name")
    machine.process(41, 40, "containerd")
    machine.process(50, 1, "supervise-daemon")
    machine.process(51, 50, "containerd")
    assert [processes.service(machine.proc, pid) for pid in (41, 51, 999)] == ["", "", ""]


# ---- the way to the host ---------------------------------------------------------------------------------------------


def test_a_directory_that_looks_like_a_host_is_none(tmp_path: Path) -> None:
    (tmp_path / "run/openrc").mkdir(parents=True)
    assert not openrc.reachable(tmp_path)
    assert manager(tmp_path) is None


def test_what_cannot_be_started_is_told() -> None:
    argv = [sys.executable, "-P", "-m", enter.__name__, "no-such-program"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == enter.FAILED
    assert done.stderr in (
        "the host has no no-such-program\n",
        "the host cannot be entered: Permission denied: the agent's container has to be privileged\n",
    )


def test_anybody_may_name_a_process_like_our_shell(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    proc.mkdir()
    later = Later(Host(tmp_path), tmp_path, proc)
    shell = later.prepare("x", 5.0, ("/bin/true",))
    for pid, owner in ((7, 1000), (8, 0)):
        assert not later.waits("x")
        trees.put(tmp_path, f"/proc/{pid}/comm", "sh\n")
        trees.put(tmp_path, f"/proc/{pid}/cmdline", "".join(f"{word}\0" for word in shell))
        os.chown(proc / str(pid), owner, owner)
    assert later.waits("x")
    # An agent may be killed at any moment: what waits is never taken away before something else is there.
    assert later.hurry("x")
    assert later.hurry("x")
    folder = tmp_path / "var/lib/registry-mirror/later"
    assert sorted(path.suffix for path in folder.iterdir()) == [".armed", ".now", ".sh"]
    assert not later.hurry("y")
    later.clear("x")
    assert not list((tmp_path / "var/lib/registry-mirror").iterdir())


def test_the_time_of_a_line() -> None:
    moment = openrc._moment('time="2026-11-21T16:48:19.864491349Z" level=info')
    assert moment is not None
    assert time.gmtime(moment // 1_000_000)[:6] == (2026, 11, 21, 16, 48, 19)
    assert openrc._moment("I1121 16:48:19.1 1 x.go] 2026-13-41T16:48:19Z") is None
