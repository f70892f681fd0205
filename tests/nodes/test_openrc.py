"""A node with OpenRC: the runtime restarted, seen through, and brought back by the host alone, without systemd.

The engine runs in the node as `apply --local`; BusyBox's init, OpenRC and its supervise-daemon, containerd are real.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.cri import CRI
from tests.harness.nodebinaries import NodePrograms
from tests.harness.openrc import LOG, SERVICE, OpenRCNode
from tests.harness.pytest_support import require_openrc
from tests.harness.registries import Registries
from tests.harness.workplace import Workplace
from tests.nodes.hosts import CONFIG, HOSTS, UPSTREAM, WITHOUT_PATH

STATE = "/var/lib/registry-mirror"
NAME = "registry-mirror-test"
BOOT = "/etc/init.d/registry-mirror-rollback-boot"
GUARD = "/root/guard"
REFUSE = "if grep -q config_path /etc/containerd/config.toml; then echo this start is refused; exit 1; fi\n"
# The agent is held where it is, at the first start that is refused: what follows finds it there, however slow this is.
REFUSE_AND_HOLD = REFUSE.replace("; exit 1", "; pkill -STOP -f registry_mirror.cli; touch /root/held; exit 1")
# containerd itself, a moment after it has begun to answer.
HANG = "if grep -q config_path /etc/containerd/config.toml; then (sleep 1; kill -STOP $$) & fi\n"
# The methods, called as the agent calls them, from a process of the node.
_CODE = """
import json, sys
from pathlib import Path
import msgspec
from registry_mirror.agent.service import ServiceError, manager

service = manager(Path("/"))
service._again = 2
answers = []
for method, *arguments in json.loads(sys.argv[1]):
    arguments = [tuple(item) if isinstance(item, list) else item for item in arguments]
    try:
        answers.append(msgspec.to_builtins(getattr(service, method)(*arguments)))
    except ServiceError as error:
        answers.append({"reason": error.reason, "message": error.message})
print(json.dumps(answers))
"""
# What a runtime does for a container: control groups and namespaces of its own. The host's files are not in it.
_CONTAINER = """\
set -eu
for group in /sys/fs/cgroup/*/; do
    mkdir -p $group/pod
    [ ! -e $group/cpuset.cpus ] || for file in cpus mems; do cat $group/cpuset.$file >$group/pod/cpuset.$file; done
    echo $$ >$group/pod/cgroup.procs
done
exec unshare --mount --uts --ipc --cgroup sh -c '
    for path in /run/openrc /etc/init.d /etc/runlevels; do mount -t tmpfs none $path; done
    exec "$@"' sh "$@"
"""
_KILL = "for try in 1 2 3; do cat /sys/fs/cgroup/*/pod/cgroup.procs | sort -u | xargs -r kill -9; done 2>/dev/null; :"


@pytest.fixture(scope="module", autouse=True)
def _there_is_openrc(pytestconfig: pytest.Config) -> None:
    require_openrc(pytestconfig)


@pytest.fixture(scope="module")
def shared(place: Workplace, programs: NodePrograms) -> Iterator[OpenRCNode]:
    """A node that is in use by several tests; each leaves it as it was."""
    with OpenRCNode("openrc", "containerd24", place, programs, config=WITHOUT_PATH, hosts=_hosts(place)) as node:
        CRI(node).wait()
        yield node


@pytest.fixture
def node(place: Workplace, programs: NodePrograms) -> Iterator[OpenRCNode]:
    """A node of its own."""
    with OpenRCNode("openrc-1", "containerd24", place, programs, config=WITHOUT_PATH, hosts=_hosts(place)) as node:
        CRI(node).wait()
        _mirror(node, "http://mirror.test")
        yield node


def _hosts(place: Workplace) -> dict[str, str]:
    return {UPSTREAM: place.host}


def _mirror(node: OpenRCNode, url: str) -> None:
    text = (
        "apiVersion: registrymirror.io/v1alpha1\nkind: RegistryMirror\n"
        f"metadata:\n  name: test\nspec:\n  registry: {UPSTREAM}\n  endpoints:\n  - url: {url}\n"
    )
    node.write("/root/mirror.yaml", text)


def _words(command: str, *options: str) -> list[str]:
    file = ("-f", "/root/mirror.yaml") if command == "apply" else ()
    return [sys.executable, "-m", "registry_mirror.cli.main", command, "--local", *file, *options]


def _run(node: OpenRCNode, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    answer = node.run(*_words(command, *options), timeout=120.0)
    assert "Traceback" not in answer.stderr
    return answer


def _done(answer: subprocess.CompletedProcess[str]) -> list[str]:
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout.splitlines()


def _ask(node: OpenRCNode, *calls: tuple[object, ...]) -> list[Any]:
    answer = node.run(sys.executable, "-c", _CODE, json.dumps(calls), check=True).stdout
    found: list[Any] = json.loads(answer)
    return found


def _one(node: OpenRCNode, *call: object) -> Any:
    return _ask(node, call)[0]


def _sh(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def _nothing_waits(node: OpenRCNode) -> None:
    """Nothing of a restart is left on the host: no file, and soon no shell."""
    assert not node.path(BOOT).exists()
    assert not node.path(f"{STATE}/later").exists()
    assert not list(node.path("/etc/runlevels").rglob("registry-mirror*"))
    node.until(lambda: node.run("pgrep", "-f", "registry-mirror-rollback").stdout == "", "no shell waits")


# ---- the service ---------------------------------------------------------------------------------------------------


def test_a_service_as_it_is(shared: OpenRCNode) -> None:
    unit, same, none, odd = _ask(
        shared, ("unit", SERVICE), ("unit", f"{SERVICE}.service"), ("unit", "none"), ("unit", "../init.d/containerd")
    )
    assert (unit["active"], unit["sub"], unit["restarts"]) == ("active", "running", 0)
    assert unit["main_pid"] == shared.runtime_pid
    assert unit["exec_start"] == ["/usr/local/bin/guarded-containerd", "--log-level", "info"]
    assert f"RC_SVCNAME={SERVICE}" in unit["environment"]
    assert abs(unit["entered_at"] / 1_000_000 - time.time()) < 3600
    assert same == unit
    assert none is None
    assert odd is None


def test_a_service_that_is_started_again_and_again_and_one_that_was_given_up(shared: OpenRCNode) -> None:
    text = "#!/sbin/openrc-run\nsupervisor=supervise-daemon\ncommand=/bin/false\nrespawn_delay={}\nrespawn_max={}\n"
    shared.write("/etc/init.d/again", text.format(1, 0), 0o755)
    shared.write("/etc/init.d/given-up", text.format(1, 1), 0o755)
    for name in ("again", "given-up"):
        assert _one(shared, "unit", name)["active"] == "inactive"
        shared.run("rc-service", name, "start", check=True)
    shared.until(lambda: _one(shared, "unit", "given-up")["active"] == "failed", "it was given up", 20)
    found = _one(shared, "unit", "again")
    assert found["active"] == "activating"
    assert found["restarts"] > 0
    shared.run("rc-service", "again", "stop", check=True)
    assert _one(shared, "unit", "again")["active"] == "inactive"
    # Also one that was given up is restarted.
    shared.write("/etc/init.d/given-up", text.format(1, 1).replace("/bin/false", "/bin/sleep\ncommand_args=999"), 0o755)
    assert _one(shared, "restart", "given-up") is None
    shared.until(lambda: _one(shared, "unit", "given-up")["active"] == "active", "it is up", 20)
    supervisor = shared.run("pgrep", "-f", "supervise-daemon given-up").stdout.split()[0]
    shared.run("kill", "-9", supervisor)
    shared.until(lambda: _one(shared, "unit", "given-up")["active"] == "failed", "nobody looks after it", 20)
    shared.run("pkill", "-9", "-x", "sleep")
    shared.run("rc-service", "given-up", "stop")
    shared.run("rm", "/etc/init.d/again", "/etc/init.d/given-up")


def test_a_service_without_a_supervisor(shared: OpenRCNode) -> None:
    text = "#!/sbin/openrc-run\nstart() { sleep 999 >/dev/null 2>&1 & echo $! >/run/plain.pid; }\n"
    shared.write("/etc/init.d/plain", text, 0o755)
    shared.run("rc-service", "plain", "start", check=True)
    found = _one(shared, "unit", "plain")
    assert (found["active"], found["main_pid"], found["entered_at"] > 0) == ("active", 0, True)
    shared.write("/run/openrc/daemons/plain/001", "exec=/bin/sleep\npidfile=/var/run/plain.pid\n")
    pid = int(shared.read("/run/plain.pid"))
    assert _one(shared, "unit", "plain")["main_pid"] == pid
    shared.run("kill", "-9", str(pid))
    shared.until(lambda: _one(shared, "unit", "plain")["active"] == "failed", "its process has gone")
    shared.run("rc-service", "plain", "zap")
    shared.run("rm", "/etc/init.d/plain")


def test_restart_is_asked_for_and_not_waited_for(shared: OpenRCNode) -> None:
    text = "#!/sbin/openrc-run\nstart() { :; }\nstop() { sleep 4; }\n"
    shared.write("/etc/init.d/slow", text, 0o755)
    shared.run("rc-service", "slow", "start", check=True)
    assert _one(shared, "restart", "slow") is None
    shared.until(lambda: _one(shared, "unit", "slow")["active"] == "deactivating", "it stops")
    refused = _one(shared, "restart", "no-such")
    assert (refused["reason"], "no such service" in refused["message"]) == ("ServiceManagerFailed", True)
    shared.until(lambda: _one(shared, "unit", "slow")["active"] == "active", "it is up again", 20)
    shared.run("rc-service", "slow", "zap")
    shared.run("rm", "/etc/init.d/slow")


def test_the_last_lines_of_a_service(shared: OpenRCNode) -> None:
    since = int(time.time() * 1_000_000)
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
    before = shared.read(LOG)
    said = f'time="{moment}" level=error msg="a\x1b[31mb"\nand more\n{"x" * 2000}\n'
    shared.path(LOG).write_text(f"{before}without a time\n{said}")
    lines = _one(shared, "log", SERVICE, since, 3)
    assert lines == [f'time="{moment}" level=error msg="a [31mb"', "and more", "x" * 300]
    assert _one(shared, "log", SERVICE, since + 3_600_000_000, 3) == []
    assert _one(shared, "log", "no-such", 0, 3) == []
    shared.path(LOG).write_text(before)


# ---- what outlives us ------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(shared: OpenRCNode) -> Iterator[OpenRCNode]:
    """The shared node, for what writes /tmp/ran."""
    yield shared
    shared.until(lambda: _one(shared, "cancel", NAME) is None, "it is cancelled", 30)
    shared.run("sh", "-c", "rm -f /tmp/ran /tmp/once")
    assert not shared.path(f"{STATE}/later").exists()
    assert not shared.path(f"/etc/init.d/{NAME}-boot").exists()


def test_it_acts_when_who_left_it_is_dead_and_is_cancelled_and_replaced(ran: OpenRCNode) -> None:
    asked = _ask(
        ran,
        ("cancel", NAME),
        ("schedule", NAME, 1.0, _sh("echo first >>/tmp/ran")),
        ("schedule", NAME, 2.0, _sh("echo 'sec ond' >>/tmp/ran")),
        ("schedule", f"{NAME}-2", 1.0, _sh("echo third >>/tmp/ran")),
        ("cancel", f"{NAME}-2"),
        ("cancel", f"{NAME}-2"),
        ("scheduled", f"{NAME}-2"),
        ("scheduled", NAME),
        ("running", NAME),
    )
    assert asked == [None] * 6 + [False, True, False]
    assert not ran.path("/tmp/ran").exists()
    ran.until(ran.path("/tmp/ran").exists, "it ran")
    ran.until(lambda: _ask(ran, ("scheduled", NAME), ("running", NAME)) == [False, False], "it is over")
    assert ran.read("/tmp/ran") == "sec ond\n"


@pytest.mark.parametrize("scheduled", [True, False])
def test_at_once(ran: OpenRCNode, scheduled: bool) -> None:
    argv = _sh("echo ran >>/tmp/ran; sleep 3; echo end >>/tmp/ran")
    before = [("schedule", NAME, 1000.0, argv)] if scheduled else []
    asked = _ask(
        ran,
        *before,
        ("run_now", NAME, argv),
        ("running", NAME),
        ("run_now", NAME, argv),
        ("cancel", NAME),
        ("running", NAME),
    )
    assert asked[-5:-2] == [None, True, None]
    assert "running already" in asked[-2]["message"]
    assert asked[-1] is True
    ran.until(lambda: _one(ran, "running", NAME) is False, "it has ended", 20)
    assert ran.read("/tmp/ran") == "ran\nend\n", "cancelling does not end it, and it is not run twice"


def test_it_is_run_again_until_it_ends_well(ran: OpenRCNode) -> None:
    argv = _sh("echo ran >>/tmp/ran; test -e /tmp/once || { : >/tmp/once; kill -9 $$; }")
    _one(ran, "run_now", NAME, argv)
    ran.until(lambda: _one(ran, "running", NAME) is False and ran.path("/tmp/once").exists(), "it has ended", 20)
    assert ran.read("/tmp/ran") == "ran\nran\n"


def test_a_shell_that_was_killed_is_not_taken_for_one_that_runs(ran: OpenRCNode) -> None:
    argv = _sh("echo ran >>/tmp/ran; sleep 3")
    assert _ask(ran, ("schedule", NAME, 1000.0, argv), ("scheduled", NAME)) == [None, True]
    # The number of a process of today may be another's tomorrow; its file alone says nothing.
    ran.run("pkill", "-9", "-f", f"later/{NAME}.sh")
    ran.until(lambda: _one(ran, "scheduled", NAME) is False, "it is not going to run")
    assert ran.path(f"/etc/runlevels/boot/{NAME}-boot").is_symlink(), "but after a boot it is"
    _one(ran, "run_now", NAME, argv)
    ran.until(ran.path("/tmp/ran").exists, "it runs")
    ran.run("pkill", "-9", "-f", f"later/{NAME}.sh")
    ran.until(lambda: _one(ran, "running", NAME) is False, "it runs no more")
    assert _one(ran, "run_now", NAME, argv) is None
    ran.until(lambda: ran.read("/tmp/ran") == "ran\nran\n", "it runs again")


# ---- restarts --------------------------------------------------------------------------------------------------------


def test_a_restart_is_seen_through_and_one_that_fails_is_undone(shared: OpenRCNode, registries: Registries) -> None:
    node, mirror = shared, registries.plain("openrc")
    mirror.push("team/app", "1")
    _mirror(node, mirror.url)
    before = node.runtime_pid
    assert f"restarted {SERVICE}" in _done(_run(node, "apply"))
    assert node.runtime_pid != before
    assert _done(_run(node, "apply")) == ["nothing to do"]
    CRI(node).wait().pull(f"{UPSTREAM}/team/app:1")
    assert mirror.requests("/team/app/manifests/1")
    _nothing_waits(node)
    ours = node.read(CONFIG)
    node.write(GUARD, REFUSE.replace("if grep", "if ! grep"))
    answer = _run(node, "restore", "--deadline", "60s")
    assert answer.returncode == 1
    assert "the service ended 3 times after its start" in answer.stderr
    assert "this start is refused" in answer.stderr
    assert node.read(CONFIG) == ours
    assert CRI(node).wait().answers()
    _nothing_waits(node)
    node.path(GUARD).unlink()
    _done(_run(node, "restore"))
    assert node.read(CONFIG) == WITHOUT_PATH
    assert not node.path(HOSTS).exists()
    assert not node.path(STATE).exists()
    _nothing_waits(node)


def test_a_runtime_that_hangs_after_its_start_is_ended(node: OpenRCNode) -> None:
    """supervise-daemon leaves it when it does not end; the next one would wait for its lock for ever."""
    node.write(GUARD, HANG)
    answer = _run(node, "apply", "--deadline", "5s")
    assert answer.returncode == 1
    assert "after 5 s" in answer.stderr
    assert node.read(CONFIG) == WITHOUT_PATH
    assert CRI(node).wait().answers()
    assert len(node.run("pgrep", "-x", "containerd").stdout.split()) == 1


def test_the_host_alone_recovers_a_node_whose_agent_died_with_its_container(node: OpenRCNode) -> None:
    node.write("/root/container", _CONTAINER)
    _held(node, ["sh", "/root/container", *_words("apply", "--deadline", "10s")])
    left = f"{_KILL}; cat /sys/fs/cgroup/*/pod/cgroup.procs"
    node.until(lambda: node.run("sh", "-c", left).stdout == "", "nothing lives in the container")
    assert "config_path" in node.read(CONFIG)
    groups = node.read("/proc/1/cgroup")
    (waiting,) = node.run("pgrep", "-f", "later/registry-mirror-rollback").stdout.split()
    assert node.read(f"/proc/{waiting}/cgroup") == groups
    for name in ("mnt", "cgroup", "uts", "ipc"):
        both = f"readlink /proc/1/ns/{name} /proc/{waiting}/ns/{name}"
        assert len(set(node.run("sh", "-c", both).stdout.split())) == 1, name
    assert node.read(f"/proc/{waiting}/oom_score_adj") == node.read("/proc/1/oom_score_adj")
    # Its time comes at once, instead of after these 40 seconds.
    (armed,) = node.path(f"{STATE}/later").glob("*.armed")
    armed.with_suffix(".now").touch()
    _the_host_went_back(node)


def test_an_agent_that_dies_while_it_goes_back_leaves_that_to_the_host(node: OpenRCNode) -> None:
    node.write(GUARD, REFUSE)
    node.process("apply", _words("apply", "--deadline", "1s"))
    node.until(lambda: '"phase":"RollingBack"' in _state(node), "it goes back", 60.0)
    node.run("pkill", "-9", "-f", "registry_mirror.cli")
    node.until(lambda: node.read(CONFIG) == WITHOUT_PATH, "the host has put the files back", 180.0)
    CRI(node).wait()
    answer = _run(node, "apply")
    assert answer.returncode == 1
    assert "the node is back on revision none" in answer.stderr
    _nothing_waits(node)


def test_a_power_loss_after_the_restart_of_a_runtime_that_does_not_start(node: OpenRCNode) -> None:
    """Nobody is there after the boot but the host: no runtime, so no agent."""
    _held(node, _words("apply", "--deadline", "10s"))
    assert " 160 " in node.read(BOOT)
    node.write(BOOT, node.read(BOOT).replace(" 160 ", " 1 "), 0o755)
    node.run("sync")
    node.power_cut()
    node.start()
    _the_host_went_back(node)


def _held(node: OpenRCNode, argv: list[str]) -> None:
    """Start an agent, and hold it where it waits for a runtime that does not start."""
    node.write(GUARD, REFUSE_AND_HOLD)
    node.process("apply", argv)
    node.until(node.path("/root/held").exists, "a start was refused, and the agent is held", 60.0)
    assert '"phase":"Restarting"' in _state(node)


def _state(node: OpenRCNode) -> str:
    file = node.path(f"{STATE}/state.json")
    return file.read_text() if file.exists() else ""


def _the_host_went_back(node: OpenRCNode) -> None:
    node.until(lambda: node.read(CONFIG) == WITHOUT_PATH, "the host has put the files back", 180.0)
    CRI(node).wait()
    answer = _run(node, "apply")
    assert answer.returncode == 1
    # The second is what the agent had seen, if it came to that before it died.
    assert any(text in answer.stderr for text in ("the host went back by itself", "the service ended 3 times"))
    _nothing_waits(node)
