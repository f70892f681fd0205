"""What the agent takes a node for: from real files, and never by guessing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from registry_mirror.agent.detect import detect
from registry_mirror.agent.host import Host, HostError
from registry_mirror.api.errors import InvalidError
from registry_mirror.api.models import EmbeddedRegistry, RuntimeFacts, RuntimeName
from registry_mirror.core.layout import DROP_IN, default_facts
from tests.agent import trees

CONFIG = "/etc/rancher/k3s/config.yaml"
K3S = default_facts("k3s")
CONTAINERD = default_facts("containerd")
TOML = "/etc/containerd/config.toml"
SPEGEL = 'server = "https://127.0.0.1:6443/v2"\nca = ["/ca.crt"]\nclient = [["/c.crt", "/c.key"]]\n'


def _node(root: Path, files: Mapping[str, str]) -> Host:
    for path, content in files.items():
        if path.endswith("/"):
            (root / path[1:]).mkdir(parents=True)
        else:
            trees.put(root, path, content)
    return Host(root)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/etc/rancher/k3s/", "k3s"),
        ("/var/lib/rancher/k3s/", "k3s"),
        ("/etc/rancher/rke2/", "rke2"),
        ("/var/snap/microk8s/", "microk8s"),
        ("/etc/k0s/", "k0s"),
        ("/etc/crio/", "crio"),
        ("/etc/containerd/", "containerd"),
    ],
)
def test_the_only_runtime_is_found(tmp_path: Path, path: str, name: RuntimeName) -> None:
    expected = default_facts(name) if name != "containerd" else replace(CONTAINERD, config_path="")
    host = _node(tmp_path, {path: ""})
    if name == "microk8s":
        (tmp_path / "var/snap/microk8s/current").symlink_to("7")
        expected = replace(expected, config_path="/var/snap/microk8s/7/args/certs.d")
    assert detect(host, None) == expected


def test_a_distribution_counts_more_than_a_containerd_beside_it(tmp_path: Path) -> None:
    assert detect(_node(tmp_path, {"/etc/containerd/": "", "/etc/rancher/k3s/": ""}), None) == K3S


@pytest.mark.parametrize(
    ("paths", "reason", "text"),
    [
        ((), "RuntimeNotFound", "no runtime that it knows"),
        (("/etc/rancher/k3s/", "/etc/rancher/rke2/"), "RuntimeAmbiguous", r"k3s .*, rke2 "),
        (("/etc/rancher/k3s/", "/etc/k0s/", "/etc/containerd/"), "RuntimeAmbiguous", r"k3s .*, k0s "),
    ],
)
def test_none_or_several_are_said(tmp_path: Path, paths: tuple[str, ...], reason: str, text: str) -> None:
    host = _node(tmp_path, dict.fromkeys(paths, ""))
    with pytest.raises(InvalidError, match=text) as error:
        detect(host, None)
    assert error.value.reason == reason
    assert detect(host, "k3s") == K3S


def _data(path: str) -> RuntimeFacts:
    return replace(K3S, config_path=f"{path}/agent/etc/containerd/certs.d")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({CONFIG: ""}, K3S),
        ({CONFIG: "# nothing\n"}, K3S),
        ({CONFIG: "data-dir: /data/k3s"}, _data("/data/k3s")),
        ({CONFIG: "data-dir: /data//k3s/"}, _data("/data/k3s")),
        ({CONFIG: "d: /data/k3s"}, _data("/data/k3s")),
        ({CONFIG: "data-dir: null"}, K3S),
        ({CONFIG: "data-dir+: /data/k3s"}, _data("/data/k3s")),
        ({CONFIG: "data-dir: [/one, /two]"}, _data("/two")),
        ({CONFIG: "private-registry: /etc/mirrors.yaml"}, replace(K3S, registries_file="/etc/mirrors.yaml")),
        ({CONFIG: "disable-default-registry-endpoint: true"}, replace(K3S, disable_default_endpoint=True)),
        ({CONFIG: 'disable-default-registry-endpoint: "true"'}, replace(K3S, disable_default_endpoint=True)),
        ({CONFIG: 'disable-default-registry-endpoint: "false"'}, K3S),
        ({CONFIG: "docker: false\ncontainer-runtime-endpoint: ''"}, K3S),
        ({CONFIG: "node-label: [a=b]\nnode-label+: [c=d]\n1: 2\n"}, K3S),
        # Later files win, in the order of their names; other names are none of K3s's, and directories neither.
        (
            {CONFIG: "data-dir: /a", f"{CONFIG}.d/20.yaml": "data-dir: /c", f"{CONFIG}.d/10.YML": "data-dir: /b"},
            _data("/c"),
        ),
        ({CONFIG: "data-dir: /a", f"{CONFIG}.d/20.YAML": "data-dir: /c"}, _data("/c")),
        ({CONFIG: "data-dir: /a", f"{CONFIG}.d/20.bak": "data-dir: /c", f"{CONFIG}.d/30.yaml/": ""}, _data("/a")),
        ({CONFIG: "data-dir: /a", f"{CONFIG}.d/20.yaml": "data-dir+: /c"}, _data("/c")),
        ({CONFIG: "", f"{CONFIG}.d/{DROP_IN}": "disable-default-registry-endpoint: true"}, K3S),
        ({CONFIG: "", f"{CONFIG}.d/.x.yaml.registry-mirror.tmp": "docker: true"}, K3S),
        (
            {trees.hosts("127.0.0.1:6443"): SPEGEL},
            replace(
                K3S,
                embedded_registry=EmbeddedRegistry(
                    address="127.0.0.1:6443", ca_file="/ca.crt", cert_file="/c.crt", key_file="/c.key"
                ),
            ),
        ),
        (
            {trees.hosts("127.0.0.1:6443"): 'client = "x"'},
            replace(K3S, embedded_registry=EmbeddedRegistry(address="127.0.0.1:6443")),
        ),
    ],
)
def test_k3s_settings(tmp_path: Path, files: Mapping[str, str], expected: RuntimeFacts) -> None:
    assert detect(_node(tmp_path, files), "k3s") == expected


def test_rke2_has_its_own_paths(tmp_path: Path) -> None:
    certs = default_facts("rke2").config_path
    files = {"/etc/rancher/rke2/config.yaml": "private-registry: /r.yaml", f"{certs}/127.0.0.1:9345/hosts.toml": ""}
    embedded = EmbeddedRegistry(address="127.0.0.1:9345")
    expected = replace(default_facts("rke2"), registries_file="/r.yaml", embedded_registry=embedded)
    assert detect(_node(tmp_path, files), None) == expected


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({CONFIG: "docker: true"}, "docker is set"),
        ({CONFIG: 'docker: "true"'}, "docker is set"),
        ({CONFIG: "container-runtime-endpoint: unix:///run/x.sock"}, "container-runtime-endpoint is set"),
        ({CONFIG: "", f"{CONFIG}.d/x.yaml": "docker: true"}, "docker is set"),
        ({CONFIG: "a: [1"}, "it is not YAML"),
        ({CONFIG: "a: 2024-13-01"}, "it is not YAML"),
        ({CONFIG: "? {a: b}\n: c"}, "it is not YAML"),
        ({CONFIG: "[" * 5000}, "it is not YAML"),
        ({CONFIG: "a: !!python/name:os.system"}, "it is not YAML"),
        ({CONFIG: "- a"}, "not a list of settings"),
        ({CONFIG: "data-dir: data"}, "no plain absolute path"),
        ({CONFIG: "data-dir: /data/../../etc"}, "no plain absolute path"),
        ({CONFIG: "private-registry: [/a, b]"}, "no plain absolute path"),
        ({CONFIG: r'private-registry: "/a\0b"'}, "no plain absolute path"),
        ({CONFIG: r'private-registry: "/a\ud800"'}, "no plain absolute path"),
        ({CONFIG: r'private-registry: "/a\nb"'}, "no plain absolute path"),
        ({CONFIG: f"private-registry: /{'a' * 1000}"}, "no plain absolute path"),
        ({trees.hosts("127.0.0.1:6443"): "= 1"}, "it is not TOML"),
    ],
)
def test_k3s_settings_that_are_refused(tmp_path: Path, files: Mapping[str, str], text: str) -> None:
    with pytest.raises(InvalidError, match=text) as error:
        detect(_node(tmp_path, files), "k3s")
    assert error.value.reason == "RuntimeConfigInvalid"
    error.value.message.encode()


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    for name, path in (("k3s", CONFIG), ("containerd", TOML)):
        host = _node(tmp_path, {path: ""})
        (tmp_path / path[1:]).write_bytes(b"a = '\xff'")
        with pytest.raises(InvalidError):
            detect(host, name)  # type: ignore[arg-type]


def test_a_link_in_place_of_the_configuration_is_not_followed(tmp_path: Path) -> None:
    where = trees.put(tmp_path, "/elsewhere", "docker: true")
    (tmp_path / "etc/rancher/k3s").mkdir(parents=True)
    (tmp_path / CONFIG[1:]).symlink_to(where)
    with pytest.raises(HostError, match="symbolic link"):
        detect(Host(tmp_path), "k3s")
