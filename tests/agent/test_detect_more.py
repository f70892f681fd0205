"""What the agent takes MicroK8s, k0s and CRI-O for: from real files, and never through a link."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from registry_mirror.agent.detect import detect
from registry_mirror.agent.host import Host, HostError
from registry_mirror.api.errors import InvalidError
from registry_mirror.core.layout import default_facts
from tests.agent import trees

SNAP = "/var/snap/microk8s"
K0S = default_facts("k0s")
TOML, DROP_INS = "/etc/k0s/containerd.toml", "/etc/k0s/containerd.d"
V2, V3 = 'plugins."io.containerd.grpc.v1.cri".registry', 'plugins."io.containerd.cri.v1.images".registry'
OURS, OWN = "# k0s_managed=true\n", "# of my own\n"
CONF, CONF_D = "/etc/crio/crio.conf", "/etc/crio/crio.conf.d"
ON, OFF = "[crio.image]\nauto_reload_registries = true\n", "[crio.image]\nauto_reload_registries = false\n"


def _node(root: Path, files: Mapping[str, str]) -> Host:
    for path, content in files.items():
        trees.put(root, path, content)
    return Host(root)


@pytest.mark.parametrize(
    ("link", "revision"),
    [("7", "7"), ("x1", "x1"), (f"{SNAP}/8145", "8145")],
)
def test_microk8s_is_the_revision_that_the_link_names(tmp_path: Path, link: str, revision: str) -> None:
    (tmp_path / SNAP[1:]).mkdir(parents=True)
    (tmp_path / SNAP[1:] / "current").symlink_to(link)
    expected = replace(default_facts("microk8s"), config_path=f"{SNAP}/{revision}/args/certs.d")
    assert detect(Host(tmp_path), None) == expected


@pytest.mark.parametrize("link", ["..", "../../etc", "/etc/7", "common", "7/args", "", "7\n"])
def test_any_other_link_is_refused(tmp_path: Path, link: str) -> None:
    (tmp_path / SNAP[1:]).mkdir(parents=True)
    if link:
        (tmp_path / SNAP[1:] / "current").symlink_to(link)
    with pytest.raises(InvalidError, match="/var/snap/microk8s/current") as error:
        detect(Host(tmp_path), "microk8s")
    assert error.value.reason == "RuntimeConfigInvalid"


def test_a_directory_in_place_of_the_link_and_a_link_above_it_are_refused(tmp_path: Path) -> None:
    (tmp_path / SNAP[1:] / "current").mkdir(parents=True)
    with pytest.raises(InvalidError):
        detect(Host(tmp_path), "microk8s")
    (tmp_path / "other/microk8s").mkdir(parents=True)
    (tmp_path / "other/microk8s/current").symlink_to("7")
    (tmp_path / "link").mkdir()
    (tmp_path / "link/var").mkdir()
    (tmp_path / "link/var/snap").symlink_to(tmp_path / "other")
    with pytest.raises(HostError, match="symbolic link"):
        detect(Host(tmp_path / "link"), "microk8s")


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        ({"/etc/k0s/k0s.yaml": ""}, {}),
        ({TOML: f"{OURS}version = 2\n"}, {"config_schema": 2}),
        ({TOML: f"{OURS}version = 3\n"}, {"config_schema": 3}),
        ({TOML: "# k0s_managed=true\r\nversion = 3\r\n"}, {"config_schema": 3}),
        ({TOML: f"{OWN}version = 3\n"}, {"config_schema": 3, "config_managed": False}),
        ({TOML: f" {OURS}version = 3\n"}, {"config_schema": 3, "config_managed": False}),
        (
            {TOML: f'{OWN}version = 2\n[{V2}]\nconfig_path = "/c"'},
            {"config_schema": 2, "config_managed": False, "config_path": "/c"},
        ),
        # Our own drop-in is no fact of the node: what is rendered must not change what is rendered.
        ({f"{DROP_INS}/registry-mirror.toml": f'version = 3\n[{V3}]\nconfig_path = "/x"'}, {}),
        (
            {TOML: f"{OURS}version = 3\n", f"{DROP_INS}/a.toml": f'[{V3}]\nconfig_path = "/x"'},
            {"config_schema": 3, "config_path": "/x"},
        ),
        (
            {TOML: f"{OURS}version = 2\n", f"{DROP_INS}/a.toml": f'[{V2}]\nconfig_path = "/x"'},
            {"config_schema": 2, "config_path": "/x"},
        ),
        (
            {f"{DROP_INS}/a.toml": f'[{V3}]\nconfig_path = "/a"', f"{DROP_INS}/b.toml": f'[{V3}]\nconfig_path = "/b"'},
            {"config_path": "/b"},
        ),
        ({f"{DROP_INS}/a.conf": f'[{V3}]\nconfig_path = "/a"', f"{DROP_INS}/certs.d/x.toml": "="}, {}),
    ],
)
def test_k0s(tmp_path: Path, files: Mapping[str, str], fields: Mapping[str, object]) -> None:
    assert detect(_node(tmp_path, files), None) == replace(K0S, **fields)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({TOML: "version ="}, "it is not TOML"),
        ({f"{DROP_INS}/a.toml": "version ="}, "a.toml: it is not TOML"),
        ({f"{DROP_INS}/a.toml": f'[{V3}.mirrors."x"]\nendpoint = ["https://m"]'}, "mirrors is set"),
        ({f"{DROP_INS}/a.toml": f'[{V2}]\nconfig_path = "/a:/b"'}, "set it to one directory"),
    ],
)
def test_k0s_configurations_that_are_refused(tmp_path: Path, files: Mapping[str, str], text: str) -> None:
    with pytest.raises(InvalidError, match=text) as error:
        detect(_node(tmp_path, files), "k0s")
    assert error.value.reason == "RuntimeConfigInvalid"


@pytest.mark.parametrize(
    ("files", "reloads"),
    [
        ({CONF: ""}, False),
        ({CONF: ON}, True),
        ({CONF: ON, f"{CONF_D}/10.conf": OFF}, False),
        ({CONF: OFF, f"{CONF_D}/10.conf": ON, f"{CONF_D}/20.conf": "[crio.image]\n"}, True),
        ({CONF: ON.replace("true", '"true"')}, False),
        ({CONF: ON.replace("image", "runtime")}, False),
    ],
)
def test_crio_reloads_mirrors_if_its_configuration_says_so(
    tmp_path: Path, files: Mapping[str, str], reloads: bool
) -> None:
    assert detect(_node(tmp_path, files), None) == replace(default_facts("crio"), reloads_registries=reloads)


def test_a_configuration_of_crio_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"10\.conf: it is not TOML"):
        detect(_node(tmp_path, {f"{CONF_D}/10.conf": "="}), None)
