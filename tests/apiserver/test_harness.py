"""The control plane that the other API server tests stand on: it is real, and it leaves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import controlplane
from tests.harness.binaries import Assets
from tests.harness.controlplane import ControlPlane
from tests.harness.kubectl import KubectlError
from tests.harness.processes import ProcessFailed
from tests.harness.pytest_support import require_assets

pytestmark = [
    pytest.mark.apiserver,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through Linux's /proc"),
]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def assets(pytestconfig: pytest.Config) -> Assets:
    return require_assets(pytestconfig)


@pytest.fixture(scope="module")
def control_plane(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), assets) as running:
        yield running


def listening(url: str) -> bool:
    port = int(url.rpartition(":")[2])
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    # What has ended stays in the list until its parent asks, and in a container that may be never.
    return state != "Z"


def gone_within(seconds: float, pids: list[int]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(exists(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def run_python(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *args], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_the_api_server_answers_with_its_version(control_plane: ControlPlane) -> None:
    program = subprocess.run(
        [control_plane.assets.kube_apiserver, "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(control_plane.kubectl("version", "--output=json"))
    assert f"Kubernetes {answer['serverVersion']['gitVersion']}" == program.stdout.strip()
    assert re.fullmatch(r"v1\.\d+\.\d+.*", answer["clientVersion"]["gitVersion"])


def test_a_service_account_has_only_the_rights_it_is_given(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "serviceaccount", "nobody", "--namespace=default")
    account = control_plane.service_account_kubeconfig("default", "nobody")
    whoami = control_plane.kubectl("auth", "whoami", "--output=json", kubeconfig=account)
    username = json.loads(whoami)["status"]["userInfo"]["username"]
    assert username == "system:serviceaccount:default:nobody"
    with pytest.raises(KubectlError, match="nodes is forbidden"):
        control_plane.kubectl("get", "nodes", kubeconfig=account)

    control_plane.kubectl("create", "clusterrole", "sees-nodes", "--verb=list", "--resource=nodes")
    control_plane.kubectl(
        "create",
        "clusterrolebinding",
        "sees-nodes",
        "--clusterrole=sees-nodes",
        "--serviceaccount=default:nobody",
    )
    deadline = time.monotonic() + 10
    while True:
        # The authorizer learns of a new binding by a watch, a moment later.
        try:
            control_plane.kubectl("get", "nodes", kubeconfig=account)
            break
        except KubectlError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_kubectl_takes_input_and_tells_errors(control_plane: ControlPlane) -> None:
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "from-input"}}
    created = control_plane.kubectl("create", "-f", "-", input=json.dumps(manifest))
    assert created == "namespace/from-input created\n"
    with pytest.raises(KubectlError, match="AlreadyExists") as raised:
        control_plane.kubectl("create", "-f", "-", input=json.dumps(manifest))
    assert raised.value.returncode == 1
    assert control_plane.kubectl("get", "namespace", "no-such", check=False) == ""


def test_two_control_planes_run_side_by_side(control_plane: ControlPlane, assets: Assets, tmp_path: Path) -> None:
    with ControlPlane(tmp_path, assets) as other:
        assert other.url != control_plane.url
        other.kubectl("create", "namespace", "only-here")
        with pytest.raises(KubectlError, match="NotFound"):
            control_plane.kubectl("get", "namespace", "only-here")
        # The one does not accept the other's admin, nor have its authority.
        with pytest.raises(KubectlError):
            control_plane.kubectl(f"--server={other.url}", "get", "namespaces", "--request-timeout=5s")


def test_stop_leaves_no_process_port_or_data(assets: Assets, tmp_path: Path) -> None:
    control_plane = ControlPlane(tmp_path, assets).start()
    url, pids = control_plane.url, [process.pid for process in control_plane.processes]
    assert listening(url)
    control_plane.stop()
    assert not listening(url)
    assert not any(exists(pid) for pid in pids)
    assert not (tmp_path / "etcd").exists()
    control_plane.stop()


def test_a_port_that_got_taken_is_replaced(assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = controlplane._free_port
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken: int = stranger.getsockname()[1]
        etcd, api = choose(), choose()
        choices = iter([taken, etcd, taken, api])
        monkeypatch.setattr(controlplane, "_free_port", lambda: next(choices))
        with ControlPlane(tmp_path, assets) as running:
            assert running.url == f"https://127.0.0.1:{api}"
            assert len(running.processes) == 2


def test_a_temporary_directory_is_removed(assets: Assets) -> None:
    with ControlPlane(assets=assets) as control_plane:
        work = control_plane.work
        assert work.is_dir()
    assert not work.exists()


def test_a_start_that_fails_shows_the_log_and_leaves_nothing(assets: Assets, tmp_path: Path) -> None:
    control_plane = ControlPlane(tmp_path, assets, apiserver_flags=["--no-such-flag"])
    with pytest.raises(ProcessFailed, match="unknown flag: --no-such-flag"):
        control_plane.start()
    assert control_plane.processes == []
    assert not (tmp_path / "etcd").exists()


def test_the_processes_die_with_python(assets: Assets, tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\n"
        "from tests.harness.controlplane import ControlPlane\n"
        "running = ControlPlane(pathlib.Path(sys.argv[1])).start()\n"
        "print(*(process.pid for process in running.processes), flush=True)\n"
        "time.sleep(60)\n"
    )
    with run_python(code, str(tmp_path)) as python:
        assert python.stdout is not None
        pids = [int(pid) for pid in python.stdout.readline().split()]
        assert len(pids) == 2
        python.kill()
    assert gone_within(10, pids)


def test_detached_processes_outlive_python(assets: Assets, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from tests.harness.controlplane import ControlPlane\n"
        "with ControlPlane(pathlib.Path(sys.argv[1]), detached=True) as running:\n"
        "    print(running.url)\n"
    )
    with run_python(code, str(tmp_path)) as python:
        url = python.communicate(timeout=120)[0].strip()
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    try:
        assert len(pids) == 2
        assert all(exists(pid) for pid in pids)
        assert listening(url)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            if not gone_within(15, [pid]):
                os.kill(pid, signal.SIGKILL)
    assert gone_within(10, pids)


def test_up_prints_a_kubeconfig_and_cleans_up(assets: Assets) -> None:
    argv = [sys.executable, "-m", "tests.harness", "up"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as python:
        assert python.stdout is not None
        line = python.stdout.readline()
        kubeconfig = Path(line.removeprefix("export KUBECONFIG=").strip())
        server = json.loads(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        assert listening(server)
        python.send_signal(signal.SIGTERM)
        assert python.wait(timeout=30) == 0
    assert not kubeconfig.exists()
    assert not listening(server)
