"""``make demo``: the operator on a real API server with three nodes, shown step by step.

The nodes are directories: a K3s, a containerd and an RKE2 node as the agent sees them below its host root. Everything
else is what a cluster runs. ``DEMO_KEEP=1`` leaves it running, and ``make demo-stop`` ends it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.syntax import Syntax

from registry_mirror.kube.resources import CONFIGS
from registry_mirror.kube.rest import Rest, from_kubeconfig

from .harness.binaries import NotObtainable, cache_directory
from .harness.cluster import REPOSITORY, Cluster
from .harness.processes import ProcessFailed

EXAMPLES = ("dockerhub-through-harbor.yaml", "airgap-private-registry.yaml")
MIRRORS = ("docker-hub", "everything", "registry-k8s-io")
NODES = {"pi-1": "k3s", "worker-1": "containerd", "server-1": "rke2"}
SHOWN = (
    ("pi-1", "/etc/rancher/k3s/registries.yaml", "yaml"),
    ("worker-1", "/etc/containerd/certs.d/docker.io/hosts.toml", "toml"),
)
_STOP_WAIT = 20.0

console = Console(highlight=False, soft_wrap=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show one step while it runs, and how long it took."""
    started = time.monotonic()
    with console.status(text):
        yield
    console.print(f"[green]✓[/] {text} [dim]({time.monotonic() - started:.1f} s)[/]")


def main() -> int:
    """Run the demo; gives the exit code."""
    keep = bool(os.environ.get("DEMO_KEEP"))
    work = Path(tempfile.mkdtemp(prefix="registry-mirror-demo-"))
    signal.signal(signal.SIGTERM, _interrupt)
    cluster = Cluster(work, detached=keep)
    kept = False
    try:
        _show(cluster)
        if keep:
            _keep(cluster)
            kept = True
        else:
            _next_steps()
    except (AssertionError, ProcessFailed, NotObtainable) as error:
        console.print(f"[red]The demo failed:[/] {error}", markup=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    finally:
        if not kept:
            cluster.stop()
            shutil.rmtree(work, ignore_errors=True)
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _show(cluster: Cluster) -> None:
    with step("start etcd and kube-apiserver"):
        cluster.plane.start()
    with step("install: kubectl apply -k manifests/base"):
        cluster.install()
    with step("start the controller, and an agent on each of three nodes"):
        for name, runtime in NODES.items():
            cluster.add_node(name, runtime)
        cluster.start_controller()
        for name in NODES:
            cluster.start_agent(name)
    with step(f"apply the examples: {', '.join(EXAMPLES)}"):
        for example in EXAMPLES:
            cluster.kubectl("apply", "-f", str(REPOSITORY / "examples" / example))
    with step("wait for the condition Ready"):
        cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", *(f"rmir/{name}" for name in MIRRORS))
    seconds = _time_of_a_change(cluster)
    _command(cluster, "get", "registrymirrors", "-o", "wide")
    _command(cluster, "get", "noderegistryconfigs")
    for node in cluster.nodes.values():
        console.print(Rule(f"{node.name} ({node.runtime}) has now", align="left"))
        for path in node.files():
            console.print(f"  {path}")
    for name, path, language in SHOWN:
        console.print(Rule(f"{name}: {path}", align="left"))
        console.print(Syntax(cluster.nodes[name].text(path) or "", language, background_color="default"))
    console.print(
        f"[bold]From the change of a spec to all {len(NODES)} agents applied: {seconds:.2f} s[/] "
        "(the start of kubectl included; no runtime was restarted)"
    )


def _time_of_a_change(cluster: Cluster) -> float:
    """Add an endpoint to docker-hub; gives the seconds until every agent reports the new revision."""
    rest = Rest(from_kubeconfig(cluster.plane.admin_kubeconfig))

    def applied() -> dict[str, str]:
        items = rest.list(CONFIGS)["items"]
        return {item["metadata"]["name"]: item.get("status", {}).get("appliedRevision", "") for item in items}

    before = applied()
    patch = '[{"op": "add", "path": "/spec/endpoints/-", "value": {"url": "https://mirror.example.com"}}]'
    started = time.monotonic()
    with step("change a spec: a second endpoint for docker-hub"):
        cluster.kubectl("patch", "registrymirror", "docker-hub", "--type=json", "-p", patch)
        _until(lambda: all(now != before[name] for name, now in applied().items()))
        seconds = time.monotonic() - started
        cluster.wait_settled("docker-hub")
    return seconds


def _until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError("the change did not reach every agent within 30 s")
        time.sleep(0.01)


def _command(cluster: Cluster, *args: str) -> None:
    console.print(Rule(f"$ kubectl {' '.join(args)}", align="left"))
    console.print(cluster.kubectl(*args).rstrip())


def _next_steps() -> None:
    console.print(Rule("try next", align="left"))
    console.print(
        "  DEMO_KEEP=1 make demo      the same, left running for you to play with\n"
        "  .venv/bin/registry-mirror render -f examples/dockerhub-through-harbor.yaml --runtime k3s\n"
        "                             the files of a node, without a cluster\n"
        "  README.md                  install it in a cluster"
    )


# ---- DEMO_KEEP -----------------------------------------------------------------------------------------------------


def _pointer() -> Path:
    return cache_directory() / "demo"


def _keep(cluster: Cluster) -> None:
    own = [process.pid for process in (*cluster.agents.values(), cluster.controller) if process is not None]
    plane = (cluster.work / "plane" / "pids").read_text().split()
    (cluster.work / "pids").write_text("\n".join([*map(str, own), *plane]) + "\n")
    _pointer().parent.mkdir(parents=True, exist_ok=True)
    _pointer().write_text(str(cluster.work))
    console.print(Rule("it keeps running", align="left"))
    console.print(
        f"  export KUBECONFIG={cluster.plane.admin_kubeconfig}\n"
        f"  alias kubectl={cluster.plane.assets.kubectl}\n"
        "  kubectl get registrymirrors --watch\n"
        "  kubectl apply -f examples/k3s-embedded-registry.yaml\n"
        "  kubectl explain registrymirror.spec.endpoints\n"
        f"  ls -R {cluster.work / 'hosts'}     # the nodes' files\n"
        f"  curl {cluster.http}/metrics\n"
        "  make demo-stop             ends it and removes everything"
    )


def stop() -> int:
    """End a demo that was left running; gives the exit code."""
    try:
        work = Path(_pointer().read_text())
        pids = [int(line) for line in (work / "pids").read_text().split()]
    except FileNotFoundError:
        console.print("no demo was left running")
        return 0
    for pid in pids:
        _end(pid, work)
    shutil.rmtree(work, ignore_errors=True)
    _pointer().unlink(missing_ok=True)
    return 0


def _end(pid: int, work: Path) -> None:
    """End one process if it still is the one that the demo started: its command line or directory names the demo's."""
    try:
        ours = str(work).encode() in Path(f"/proc/{pid}/cmdline").read_bytes() or Path(
            os.readlink(f"/proc/{pid}/cwd")
        ).is_relative_to(work)
    except OSError:
        return
    if not ours:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_WAIT
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(stop() if sys.argv[1:] == ["stop"] else main())
