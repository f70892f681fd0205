"""Which runtime the agent takes for the kubelet's: by what runs, then by what is installed, and never by guessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry_mirror.agent.detect_choice import choose
from registry_mirror.agent.host import Host
from registry_mirror.agent.live import RANCHER, SOCKETS, Live
from registry_mirror.api.errors import InvalidError
from registry_mirror.api.models import RuntimeName

K3S, RKE2, MICROK8S, K0S = "/etc/rancher/k3s", "/etc/rancher/rke2", "/var/snap/microk8s", "/etc/k0s"
CRIO, CONTAINERD = "/etc/crio", "/etc/containerd"
OWN = "/run/own/containerd.sock"


def _host(root: Path, *directories: str) -> Host:
    for path in directories:
        (root / path[1:]).mkdir(parents=True)
    return Host(root)


def _live(name: RuntimeName | None, socket: str = "", **fields: object) -> Live:
    values = {"state": "Listening", "pid": 7, "unit": f"{name}.service", **fields}
    return Live(name=name, socket=socket or SOCKETS[name or "containerd"], **values)  # type: ignore[arg-type]


def _dead(name: RuntimeName | None, socket: str = "", **fields: object) -> Live:
    return _live(name, socket, **{"state": "Dead", "pid": 0, "unit": "", **fields})


USED: dict[str, Any] = {"kubelet": True}


@pytest.mark.parametrize(
    ("installed", "live", "name", "chosen"),
    [
        # What the kubelet says counts most, whatever else runs or is installed.
        ([CRIO, CONTAINERD], [_live("containerd"), _live("crio", **USED)], "crio", 1),
        ([CRIO, CONTAINERD], [_live("containerd"), _dead("crio", **USED)], "crio", 1),
        ([], [_live("containerd"), _live("containerd", OWN, **USED)], "containerd", 1),
        ([], [_live("containerd", **USED), _live("crio")], "containerd", 0),
        ([], [_live("k3s", **USED)], "k3s", 0),
        ([K3S], [_dead(None, RANCHER, **USED)], "k3s", 0),
        # A distribution runs its containerd for its own kubelet.
        ([CONTAINERD], [_live("containerd"), _live("k3s")], "k3s", 1),
        ([CONTAINERD, K3S, K0S], [_live("containerd"), _dead("k3s"), _live("k0s")], "k0s", 2),
        ([], [_live("crio"), _live("microk8s", state="Hidden")], "microk8s", 1),
        ([], [_live("k3s", state="Hung")], "k3s", 0),
        ([CONTAINERD, RKE2], [_live("containerd"), _live(None, RANCHER, state="Hidden")], "rke2", 1),
        # What is installed, where nothing says what the kubelet uses.
        ([K3S], [], "k3s", None),
        ([K3S, CONTAINERD], [_live("containerd")], "k3s", None),
        ([K3S, CONTAINERD], [_live("containerd"), _dead("k3s")], "k3s", 1),
        ([RKE2], [_dead(None, RANCHER)], "rke2", 0),
        ([CONTAINERD], [_live("crio")], "crio", 0),
        ([CRIO, CONTAINERD], [_live("containerd"), _dead("crio")], "containerd", 0),
        ([], [_live("containerd")], "containerd", 0),
        ([CONTAINERD], [_live(None)], "containerd", None),
        ([CONTAINERD], [_dead("containerd")], "containerd", 0),
        ([CONTAINERD], [_live("containerd", state="Missing", kubelet=True, pid=0)], "containerd", None),
        ([CONTAINERD], [_dead(None, OWN, **USED), _live("containerd")], "containerd", 1),
    ],
)
def test_the_runtime(tmp_path: Path, installed: list[str], live: list[Live], name: str, chosen: int | None) -> None:
    found, item = choose(_host(tmp_path, *installed), live, None)
    assert found == name
    assert (item.socket if item is not None else None) == (live[chosen].socket if chosen is not None else None)


@pytest.mark.parametrize(
    ("installed", "live", "reason", "text"),
    [
        ([], [], "RuntimeNotFound", "found no runtime that it knows; say which with --runtime"),
        ([], [_live(None)], "RuntimeNotFound", "found something at /run/containerd/containerd.sock"),
        ([], [_dead("crio")], "RuntimeNotFound", "crio at /run/crio/crio.sock (nothing listens)"),
        (
            [],
            [_live("containerd", pid=11), _live("crio", pid=12, unit="")],
            "RuntimeAmbiguous",
            "containerd at /run/containerd/containerd.sock (process 11, containerd.service), "
            "crio at /run/crio/crio.sock (process 12, in no service)",
        ),
        ([], [_live("k3s"), _live("microk8s")], "RuntimeAmbiguous", "k3s.service), microk8s at /var/snap"),
        ([], [_live("crio", **USED), _live("containerd", OWN, **USED)], "RuntimeAmbiguous", "several runtimes: crio"),
        ([], [_live("k3s"), _live("containerd", **USED)], "RuntimeAmbiguous", "several runtimes: k3s"),
        (
            [],
            [_live("containerd", state="Hidden", pid=0), _live("crio", state="Hidden", pid=0)],
            "RuntimeAmbiguous",
            "its process cannot be seen: the agent's Pod needs hostPID",
        ),
        ([K3S, CRIO], [], "RuntimeAmbiguous", "k3s (/etc/rancher/k3s), crio (/etc/crio)"),
        ([K3S, CRIO], [_live("crio")], "RuntimeAmbiguous", "crio at /run/crio/crio.sock (process 7"),
        ([K3S, RKE2], [_dead(None, RANCHER)], "RuntimeAmbiguous", "k3s (/etc/rancher/k3s), rke2"),
        (
            [CONTAINERD],
            [_live("containerd"), _live(None, "/run/cri-dockerd.sock", argv=("/usr/bin/cri-dockerd",), **USED)],
            "RuntimeNotSupported",
            "the kubelet uses Docker through cri-dockerd",
        ),
        (
            [CONTAINERD],
            [_live("containerd"), _live(None, "/run/docker-cri.sock", argv=("/usr/bin/cri-dockerd",), **USED)],
            "RuntimeNotSupported",
            "the kubelet uses Docker through cri-dockerd",
        ),
        (
            [CONTAINERD],
            [_live("containerd"), _dead(None, "/run/cri-dockerd.sock", **USED)],
            "RuntimeNotSupported",
            "the kubelet uses Docker through cri-dockerd",
        ),
        (
            [CONTAINERD],
            [_live("containerd"), _live(None, "/run/x.sock", argv=("/bin/x",), unit="x.service", **USED)],
            "RuntimeNotSupported",
            "the kubelet uses x at /run/x.sock (process 7, x.service)",
        ),
    ],
)
def test_what_is_unclear_or_unknown_is_said(
    tmp_path: Path, installed: list[str], live: list[Live], reason: str, text: str
) -> None:
    with pytest.raises(InvalidError) as error:
        choose(_host(tmp_path, *installed), live, None)
    assert text in error.value.message
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("wanted", "live"),
    [
        ("k3s", [_live("containerd"), _live("k3s")]),
        ("k3s", [_live("k3s"), _live("microk8s")]),
        ("k3s", [_live("containerd")]),  # it is down, and Docker's containerd is not
        ("containerd", [_live("containerd", **USED), _live("crio")]),
        ("containerd", [_dead("containerd"), _live("crio")]),
        ("containerd", [_dead(None, OWN, **USED)]),
        ("crio", []),
    ],
)
def test_the_runtime_that_the_agent_was_told(tmp_path: Path, wanted: RuntimeName, live: list[Live]) -> None:
    found, item = choose(_host(tmp_path), live, wanted)
    assert found == wanted
    assert item is None or item.name == wanted


@pytest.mark.parametrize(
    ("wanted", "live", "text"),
    [
        ("containerd", [_live("containerd"), _live("k3s")], "containerd, but the kubelet uses k3s at /run/k3s"),
        ("k3s", [_live("rke2")], "k3s, but the kubelet uses rke2 at /run/k3s"),
        (
            "containerd",
            [_live("containerd"), _live("crio", **USED)],
            "containerd, but the kubelet uses crio at /run/crio",
        ),
        ("containerd", [_dead("crio", **USED)], "crio at /run/crio/crio.sock (nothing listens)"),
    ],
)
def test_another_runtime_behind_the_kubelet_is_said(
    tmp_path: Path, wanted: RuntimeName, live: list[Live], text: str
) -> None:
    with pytest.raises(InvalidError) as error:
        choose(_host(tmp_path), live, wanted)
    assert text in error.value.message
    assert error.value.reason == "RuntimeMismatch"


@pytest.mark.parametrize(
    ("installed", "live", "earlier", "name"),
    [
        ([CRIO, CONTAINERD], [_live("containerd"), _dead("crio")], "crio", "crio"),
        ([], [_live("containerd"), _dead("crio")], "crio", "crio"),
        ([CRIO, CONTAINERD], [_live("containerd")], "crio", "crio"),
        ([CRIO, CONTAINERD], [], "containerd", "containerd"),
        # What says more than that it was so before.
        ([CRIO], [_live("containerd", **USED), _dead("crio")], "crio", "containerd"),
        ([CONTAINERD], [_live("containerd"), _live("k3s")], "containerd", "k3s"),
        ([CONTAINERD], [_live("containerd")], "crio", "containerd"),
        ([CONTAINERD], [], None, "containerd"),
    ],
)
def test_what_was_found_before_stays_while_nothing_says_otherwise(
    tmp_path: Path, installed: list[str], live: list[Live], earlier: RuntimeName | None, name: str
) -> None:
    assert choose(_host(tmp_path, *installed), live, None, earlier)[0] == name


def test_docker_behind_the_kubelet_counts_more_than_what_the_agent_was_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="cri-dockerd"):
        choose(_host(tmp_path), [_live("containerd"), _dead(None, "/run/cri-dockerd.sock", **USED)], "containerd")
