"""The service manager of real nodes: services looked at and restarted, and what acts when the agent no longer can."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.cri import CRI
from tests.harness.node import Node

NAME = "registry-mirror-test"
# The methods, called as the agent calls them, from a process of the node.
_CODE = """
import json, sys
from pathlib import Path
import msgspec
from registry_mirror.agent.cri import Runtime, RuntimeAnswerError
from registry_mirror.agent.service import ServiceError, systemd

sockets, timeout, calls = json.loads(sys.argv[1])
systemd.SOCKETS = systemd.SOCKETS[sockets:]
systemd._AGAIN = 3.0
answers = []
for target, method, *arguments in calls:
    thing = systemd.Systemd(Path("/"), timeout) if target == "service" else Runtime(Path(target), timeout)
    arguments = [tuple(item) if isinstance(item, list) else item for item in arguments]
    try:
        answers.append(msgspec.to_builtins(getattr(thing, method)(*arguments)))
    except (ServiceError, RuntimeAnswerError) as error:
        answers.append({"reason": error.reason, "message": error.message})
print(json.dumps(answers))
"""


@pytest.fixture(params=[0, 1], ids=["bus", "private"])
def sockets(request: pytest.FixtureRequest) -> int:
    """Which sockets are tried: the bus first, or systemd's own alone."""
    return int(request.param)


@pytest.fixture(autouse=True)
def _nothing_is_left(new_node: Node) -> Iterator[None]:
    yield
    new_node.systemctl("stop", f"{NAME}.timer", f"{NAME}.service", check=False)
    _one(new_node, "cancel", NAME)
    new_node.systemctl("daemon-reload")  # a unit whose file is gone is in memory until then
    new_node.run("sh", "-c", "rm -f /tmp/ran* /tmp/once")
    assert "registry-mirror" not in new_node.systemctl("list-units", "--all", "--plain", "--no-legend")


def _ask(node: Node, *calls: tuple[object, ...], sockets: int = 0, timeout: float = 10.0) -> list[Any]:
    question = json.dumps([sockets, timeout, calls])
    answer = node.run(sys.executable, "-c", _CODE, question, check=True).stdout
    found: list[Any] = json.loads(answer)
    return found


def _one(node: Node, *call: object, sockets: int = 0, timeout: float = 10.0) -> Any:
    return _ask(node, ("service", *call), sockets=sockets, timeout=timeout)[0]


def _sh(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def test_a_service_as_it_is(new_node: Node, sockets: int) -> None:
    unit = _one(new_node, "unit", "containerd.service", sockets=sockets)
    assert (unit["load"], unit["active"], unit["sub"], unit["result"]) == ("loaded", "active", "running", "success")
    assert unit["main_pid"] == new_node.runtime_pid
    assert unit["exec_start"] == [new_node.flavour.command]
    assert unit["environment"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    assert unit["control_group"] == "/system.slice/containerd.service"
    assert abs(unit["entered_at"] / 1_000_000 - time.time()) < 3600
    none, refused = _ask(
        new_node, ("service", "unit", "no-such.service"), ("service", "unit", "not a name"), sockets=sockets
    )
    assert none is None
    assert refused["reason"] == "ServiceManagerFailed"


def test_environment_files_and_masked_services(new_node: Node) -> None:
    text = (
        "[Service]\nEnvironment=A=1 'B=2 3'\nEnvironmentFile=-/etc/none\nEnvironmentFile=/etc/hosts\nExecStart=/x y\n"
    )
    new_node.write("/etc/systemd/system/made.service", text)
    new_node.run("ln", "-s", "/dev/null", "/etc/systemd/system/hidden.service")
    new_node.systemctl("daemon-reload")
    unit = _one(new_node, "unit", "made.service")
    assert unit["environment"] == ["A=1", "B=2 3"]
    assert unit["environment_files"] == ["-/etc/none", "/etc/hosts"]
    assert (unit["exec_start"], unit["active"], unit["entered_at"]) == (["/x", "y"], "inactive", 0)
    assert _one(new_node, "unit", "hidden.service")["load"] == "masked"


def test_restart_is_asked_for_and_not_waited_for(new_node: Node, sockets: int) -> None:
    slow = "[Service]\nExecStart=/bin/sleep 1000\nExecStartPre=/bin/sh -c 'test ! -e /tmp/once || sleep 5'\n"
    new_node.write("/etc/systemd/system/slow.service", slow)
    new_node.systemctl("daemon-reload")
    new_node.systemctl("start", "slow")
    new_node.run("touch", "/tmp/once")
    assert _ask(new_node, ("service", "restart", "slow.service"), sockets=sockets) == [None]
    assert new_node.show("slow", "ActiveState") in ("activating", "deactivating")
    new_node.run("rm", "/tmp/once")
    new_node.systemctl("stop", "slow")
    assert _one(new_node, "restart", "no-such.service")["reason"] == "ServiceManagerFailed"


def test_a_service_that_was_given_up_is_restarted(new_node: Node) -> None:
    limit = "[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1000\n"
    text = f"{limit}[Service]\nExecStart=/bin/test -e /tmp/once\nRemainAfterExit=yes\n"
    new_node.write("/etc/systemd/system/given-up.service", text)
    new_node.systemctl("daemon-reload")
    new_node.systemctl("start", "given-up", check=False)
    new_node.systemctl("start", "given-up", check=False)
    new_node.until(lambda: new_node.show("given-up", "ActiveState") == "failed", "it is given up")
    new_node.run("touch", "/tmp/once")
    assert _one(new_node, "restart", "given-up.service") is None
    new_node.until(lambda: new_node.show("given-up", "ActiveState") == "active", "it is up")
    new_node.systemctl("stop", "given-up")


def test_the_dead_man_acts_when_who_left_it_is_dead(new_node: Node, sockets: int) -> None:
    # Who asked is gone when `_ask` returns; and systemd reads its files anew meanwhile.
    asked = _ask(
        new_node,
        ("service", "schedule", NAME, 2.0, _sh("echo ran >>/tmp/ran")),
        ("service", "scheduled", NAME),
        ("service", "running", NAME),
        sockets=sockets,
    )
    assert asked == [None, True, False]
    new_node.systemctl("daemon-reload")
    assert not new_node.path("/tmp/ran").exists()
    new_node.until(new_node.path("/tmp/ran").exists, "it ran")
    new_node.until(lambda: _one(new_node, "scheduled", NAME) is False, "it is not going to run again")
    assert new_node.read("/tmp/ran") == "ran\n"


def test_it_is_cancelled_and_replaced(new_node: Node, sockets: int) -> None:
    asked = _ask(
        new_node,
        ("service", "cancel", NAME),
        ("service", "schedule", NAME, 1.0, _sh("echo first >>/tmp/ran")),
        ("service", "schedule", NAME, 1.0, _sh("echo second >>/tmp/ran")),
        ("service", "schedule", f"{NAME}-2", 1.0, _sh("echo third >>/tmp/ran")),
        ("service", "cancel", f"{NAME}-2"),
        ("service", "cancel", f"{NAME}-2"),
        ("service", "scheduled", f"{NAME}-2"),
        sockets=sockets,
    )
    assert asked == [None] * 6 + [False]
    new_node.until(new_node.path("/tmp/ran").exists, "it ran")
    time.sleep(2.0)
    assert new_node.read("/tmp/ran") == "second\n"


@pytest.mark.parametrize("scheduled", [True, False])
def test_at_once(new_node: Node, scheduled: bool) -> None:
    argv = _sh("echo ran >>/tmp/ran; sleep 8; echo end >>/tmp/ran")
    before = [("service", "schedule", NAME, 1000.0, argv)] if scheduled else []
    asked = _ask(
        new_node,
        *before,
        ("service", "run_now", NAME, argv),
        ("service", "run_now", NAME, argv),
        ("service", "running", NAME),
        ("service", "cancel", NAME),
        ("service", "running", NAME),
    )
    assert asked[-5:-2] == [None, None, True]
    assert asked[-2]["reason"] == "ServiceManagerFailed"
    assert "running already" in asked[-2]["message"]
    assert asked[-1] is True
    new_node.until(lambda: _one(new_node, "running", NAME) is False, "it has ended", 20)
    assert new_node.read("/tmp/ran") == "ran\nend\n", "cancelling does not end it"
    assert _one(new_node, "scheduled", NAME) is False


def test_it_is_run_again_when_it_was_killed(new_node: Node) -> None:
    argv = _sh("echo ran >>/tmp/ran; test -e /tmp/once || { : >/tmp/once; sleep 100; }")
    _one(new_node, "run_now", NAME, argv)
    new_node.until(new_node.path("/tmp/once").exists, "it runs")
    new_node.systemctl("kill", "--signal=KILL", f"{NAME}.service")
    new_node.until(lambda: new_node.read("/tmp/ran") == "ran\nran\n", "it ran again", 20)
    new_node.until(lambda: _one(new_node, "scheduled", NAME) is False, "it is not going to run a third time")


def test_the_last_lines_of_a_service(new_node: Node, sockets: int) -> None:
    begin = int(time.time() * 1_000_000)
    program = (
        r"for i in 1 2 3 4; do echo line $i; done; printf 'a\033[31mb\n'; head -c 2000 /dev/zero | tr '\0' x; echo"
    )
    new_node.run("systemd-run", "--wait", "--unit=talker", *_sh(program), check=True)
    lines = _one(new_node, "log", "talker.service", begin, 4, sockets=sockets)
    new_node.systemctl("reset-failed")
    assert any(line == "x" * 300 for line in lines)
    assert "a [31mb" in lines
    assert len(lines) == 4
    assert "line 1" not in lines
    assert _one(new_node, "log", "talker.service", begin + 3_600_000_000, 4) == []
    assert _one(new_node, "log", "a'; touch /tmp/ran; '.service", begin, 4) in ([],)
    assert not new_node.path("/tmp/ran").exists()
    assert not new_node.path("/var/lib/registry-mirror/restart/log").exists()


def test_without_a_journal_there_are_none(new_node: Node) -> None:
    new_node.run("mount", "--bind", "/bin/false", "/usr/bin/journalctl", check=True)
    try:
        assert _one(new_node, "log", "containerd.service", 0, 4) == []
    finally:
        new_node.run("umount", "/usr/bin/journalctl", check=True)


def test_a_systemd_that_hangs_does_not_hang_us(new_node: Node, sockets: int) -> None:
    os.kill(new_node.pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        found = _one(new_node, "restart", "containerd.service", sockets=sockets, timeout=1.0)
        assert found["reason"] == "ServiceManagerTimeout"
        assert time.monotonic() - begin < 20
    finally:
        os.kill(new_node.pid, signal.SIGCONT)
    CRI(new_node).wait()


@pytest.mark.parametrize("kind", ["new_node", "old_node"])
def test_the_runtime_says_how_it_is(kind: str, request: pytest.FixtureRequest) -> None:
    node: Node = request.getfixturevalue(kind)
    socket = node.flavour.socket
    health, busy = _ask(node, (socket, "health"), (socket, "busy"))
    assert health["version"] == CRI(node).version()
    assert (health["name"], health["ready"], health["images"]) == ("containerd", True, True)
    assert busy == 0
    refused = _ask(node, (socket, "pull", "registry.test/no/such:1", 20.0))[0]
    assert refused["reason"] == "ImageNotPulled"
    nobody = _ask(node, ("/run/no.sock", "health"), timeout=2.0)[0]
    assert nobody["reason"] == "RuntimeNotAnswering"


def test_a_runtime_that_hangs_is_not_waited_for(new_node: Node) -> None:
    pid = str(new_node.runtime_pid)
    new_node.run("kill", "-STOP", pid)
    try:
        found = _ask(new_node, (new_node.flavour.socket, "health"), timeout=1.0)[0]
    finally:
        new_node.run("kill", "-CONT", pid)
    assert found["reason"] == "RuntimeNotAnswering"
    assert "1 s" in found["message"]
    assert new_node.run("pgrep", "-f", "cri_child").stdout == ""
