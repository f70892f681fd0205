"""The runtime's answers, from a real gRPC server that says what a runtime may say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry_mirror.agent.cri import Health, Runtime, RuntimeAnswerError
from tests.agent import trees

# Serves one version of the API: method to fields of its answer, or a gRPC code to refuse with, or seconds to wait.
SERVER = """
import json, sys, time
from concurrent import futures
import grpc
from registry_mirror.agent.cri_child import _types

address, version, answers = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
types = _types(f"runtime.{version}")

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        _, service, method = details.method.split("/")
        if not service.startswith(f"runtime.{version}.") or method not in answers:
            return None
        def answer(request, context):
            found = answers[method]
            if isinstance(found, str):
                context.abort(grpc.StatusCode[found], "because\\x1b[31m it\\nsays so " + "x" * 2000)
            if isinstance(found, (int, float)):
                time.sleep(found)
                found = {}
            return types[f"{method}Response"](**found).SerializeToString()
        return grpc.unary_unary_rpc_method_handler(answer)

server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Handler(),))
server.add_insecure_port(f"unix:{address}")
server.start()
print("ready", flush=True)
sys.stdin.read()
server.stop(None)
"""
Serve = Callable[..., Runtime]
READY = {"status": {"conditions": [{"type": "RuntimeReady", "status": True}, {"type": "NetworkReady"}]}}
WELL = {
    "Version": {"runtime_name": "containerd", "runtime_version": "v2.4.2"},
    "Status": READY,
    "ListImages": {},
    "ListContainers": {},
    "PullImage": {"image_ref": "sha256:1"},
}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[subprocess.Popen[str]] = []

    def start(answers: dict[str, object], version: str = "v1", timeout: float = 5.0) -> Runtime:
        path = tmp_path / "cri.sock"
        argv = [sys.executable, "-c", SERVER, str(path), version, json.dumps(answers)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return Runtime(path, timeout)

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_both_versions_of_the_api(serve: Serve, version: str) -> None:
    runtime = serve(WELL, version)
    assert runtime.health() == Health(name="containerd", version="v2.4.2", ready=True, images=True)
    assert runtime.busy() == 0
    assert runtime.pull("docker.io/library/busybox:1", 5.0) == "sha256:1"


def test_a_runtime_that_is_not_ready_says_why(serve: Serve) -> None:
    status = {"status": {"conditions": [{"type": "RuntimeReady", "message": "snapshotter is not loaded"}]}}
    health = serve({**WELL, "Status": status}).health()
    assert (health.ready, health.message, health.images) == (False, "snapshotter is not loaded", True)


def test_one_that_does_not_say_whether_it_is_ready_is_not(serve: Serve) -> None:
    assert not serve({**WELL, "Status": {}}).health().ready


def test_images_are_a_plugin_of_their_own(serve: Serve) -> None:
    health = serve({**WELL, "ListImages": "UNKNOWN"}).health()
    assert (health.ready, health.images) == (True, False)


def test_what_is_being_made(serve: Serve) -> None:
    now = time.time_ns()
    second = 1_000_000_000
    containers = [
        {"state": 0, "created_at": now},
        {"state": 0, "created_at": now - 30 * second},
        {"state": 0, "created_at": now - 120 * second},  # stuck: not waited for
        {"state": 0, "created_at": now + 3600 * second},  # the clock was set back
        {"state": 1, "created_at": now},
        {"state": 2, "created_at": now},
    ]
    assert serve({**WELL, "ListContainers": {"containers": containers}}).busy() == 2


@pytest.mark.parametrize("answer", ["UNAVAILABLE", "INTERNAL", 60])
def test_no_answer(serve: Serve, answer: object) -> None:
    runtime = serve({**WELL, "Version": answer}, timeout=1.0)
    before = trees.descriptors()
    with pytest.raises(RuntimeAnswerError) as caught:
        runtime.health()
    assert caught.value.reason == "RuntimeNotAnswering"
    assert len(caught.value.message) <= 300
    assert caught.value.message.isprintable()
    assert trees.descriptors() == before


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("NOT_FOUND", "ImageNotPulled"), ("UNKNOWN", "ImageNotPulled"), (60, "RuntimeNotAnswering")],
)
def test_an_image_that_is_not_pulled(serve: Serve, answer: object, reason: str) -> None:
    with pytest.raises(RuntimeAnswerError) as caught:
        serve({**WELL, "PullImage": answer}).pull("a/b:1", 1.0)
    assert caught.value.reason == reason


def test_a_socket_that_accepts_and_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "cri.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(RuntimeAnswerError) as caught:
            Runtime(path, 0.5).health()
    assert caught.value.reason == "RuntimeNotAnswering"


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeAnswerError) as caught:
        Runtime(tmp_path / "none.sock", 0.5).busy()
    assert caught.value.reason == "RuntimeNotAnswering"


def test_a_child_that_hangs_is_ended_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an interpreter on a disk that hangs."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! >{tmp_path}/pid\nwait\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("registry_mirror.agent.cri._GRACE", 0.2)
    with pytest.raises(RuntimeAnswerError) as caught:
        Runtime(tmp_path / "none.sock", 0.3).busy()
    assert caught.value.reason == "RuntimeNotAnswering"
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while _alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    """Whether it runs; a dead one that nobody has asked after does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_child_is_told_no_secret_and_imports_nothing_from_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    monkeypatch.setenv("http_proxy", "http://user:secret@proxy.test")
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nenv >{tmp_path}/env\necho "$*" >{tmp_path}/argv\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(RuntimeAnswerError, match="could not be asked"):
        Runtime(tmp_path / "none.sock").busy()
    assert "secret" not in (tmp_path / "env").read_text()
    assert (tmp_path / "argv").read_text().startswith("-P -m registry_mirror.agent.cri_child ")


def test_grpc_is_not_in_the_agent_s_own_process() -> None:
    code = "import sys, registry_mirror.agent.cri, registry_mirror.agent.service\n"
    code += "print([name for name in ('grpc', 'google.protobuf', 'jeepney') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert answer.stdout == "[]\n", answer.stderr
