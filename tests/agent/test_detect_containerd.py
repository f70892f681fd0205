"""What the agent takes a containerd of the node's own for: from its real configuration files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from registry_mirror.agent.detect import detect, find
from registry_mirror.agent.environment import Started
from registry_mirror.agent.host import Host
from registry_mirror.agent.live import SOCKETS, Live
from registry_mirror.api.errors import InvalidError
from registry_mirror.core.layout import default_facts, layout
from tests.agent import trees
from tests.agent.detect_starts import Start

CONTAINERD = default_facts("containerd")
TOML = "/etc/containerd/config.toml"
V2, V3 = 'plugins."io.containerd.grpc.v1.cri".registry', 'plugins."io.containerd.cri.v1.images".registry'
# As `config default` of containerd 2.4.2 prints it.
TWO = f"version = 3\n[{V3}]\nconfig_path = '/etc/containerd/certs.d:/etc/docker/certs.d'"


def _node(root: Path, files: Mapping[str, str]) -> Host:
    (root / "etc/containerd").mkdir(parents=True)
    for path, content in files.items():
        trees.put(root, path, content)
    return Host(root)


@pytest.mark.parametrize(
    ("text", "config_path", "schema"),
    [
        ("", "", 0),
        ("version = 3", "", 3),
        ("version = 2", "", 2),
        ("version = 4", "", 0),
        ("version = true", "", 0),
        ("version = 3\nplugins = 5", "", 0),
        (f'version = 2\n[{V2}]\nconfig_path = "/etc/containerd/certs.d"', "/etc/containerd/certs.d", 2),
        (f'version = 2\n[{V2}]\nconfig_path = "/etc/containerd/certs.d/"', "/etc/containerd/certs.d", 2),
        (f'version = 3\n[{V3}]\nconfig_path = "/certs"', "/certs", 3),
        (f'version = 4\n[{V3}]\nconfig_path = "/certs"', "/certs", 0),
        (f'version = 3\n[{V3}]\nconfig_path = ""', "", 3),
        (f'version = 3\n[{V2}]\nconfig_path = "/certs"', "", 3),
        (f'version = 2\n[{V3}]\nconfig_path = "/certs"', "", 2),
        (f'[{V2}]\nconfig_path = "/certs"', "", 0),
        ('[plugins.cri.registry]\nconfig_path = "/certs"', "/certs", 0),
        (f"version = 2\n[{V2}]\nmirrors = {{}}", "", 2),
        (f'version = 2\n[{V2}.configs."x".tls]\nca_file = "/ca"', "", 0),
        ('version = 2\nplugins = {"io.containerd.grpc.v1.cri" = {registry = {}}}', "", 0),
        # What is imported may have the last word.
        ("version = 3\nimports = []", "", 3),
        ('version = 3\nimports = ["/etc/containerd/conf.d/*.toml"]', "", 3),
        ('version = 3\nimports = ["/etc/containerd/other/*.toml"]', "", 0),
        ('version = 3\nimports = ["/etc/containerd/other/x.toml"]', "", 3),
        ('version = 3\nimports = ["/etc/containerd/../*.toml"]', "", 0),
        ('version = 3\nimports = ["/opt/*.toml"]', "", 0),
        ('version = 3\nimports = ["conf.d/*.toml"]', "", 0),
        ("version = 3\nimports = [1]", "", 0),
    ],
)
def test_containerd_config_path(tmp_path: Path, text: str, config_path: str, schema: int) -> None:
    files = {
        TOML: text,
        "/etc/containerd/conf.d/a.toml": 'version = 2\n[plugins."io.containerd.snapshotter.v1.x"]\na = 1',
        "/etc/containerd/other/a.toml": f"version = 2\n[{V2}]\na = 1",
    }
    expected = replace(CONTAINERD, config_path=config_path, config_schema=schema)
    assert detect(_node(tmp_path, files), None) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version =", "it is not TOML"),
        ("a = " + "[" * 5000, "it is not TOML"),
        (f'version = 2\n[{V2}]\nconfig_path = "/a:/b"', "set it to one directory"),
        (f'version = 2\n[{V2}]\nconfig_path = "certs.d"', "no plain absolute path"),
        (f'version = 3\n[{V3}]\nconfig_path = "/a/../b"', "no plain absolute path"),
        (f'version = 2\n[{V2}.mirrors."docker.io"]\nendpoint = ["https://m"]', "mirrors is set"),
        (f'version = 3\n[{V3}.mirrors."docker.io"]\nendpoint = ["https://m"]', "mirrors is set"),
    ],
)
def test_containerd_configurations_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidError, match=message) as error:
        detect(_node(tmp_path, {TOML: text}), None)
    assert error.value.reason == "RuntimeConfigInvalid"


@pytest.mark.parametrize(
    ("files", "schema"),
    [
        ({TOML: TWO}, 3),
        ({TOML: TWO, "/etc/containerd/certs.d/docker.io/hosts.toml": ""}, 3),
        ({TOML: TWO.replace("certs.d:", "certs.d/:")}, 3),
        ({TOML: f"version = 2\n[{V2}]\nconfig_path = '/etc/containerd/certs.d:/opt/certs'"}, 2),
    ],
)
def test_of_several_directories_the_first_is_to_be_set(tmp_path: Path, files: Mapping[str, str], schema: int) -> None:
    facts = detect(_node(tmp_path, files), None)
    assert facts == replace(CONTAINERD, config_path="", config_schema=schema)
    assert layout(facts).edits == (TOML,)
    assert layout(facts).config_path == "/etc/containerd/certs.d"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({TOML: TWO, "/etc/docker/certs.d/host/ca.crt": ""}, "move what is in /etc/docker/certs.d to /etc/containerd"),
        ({TOML: TWO.replace("/etc/docker", "/etc/../docker")}, "no plain absolute path"),
        ({TOML: TWO.replace("/etc/containerd/certs.d:", "/opt/certs:")}, "set it to one directory"),
        ({TOML: f"imports = ['/opt/x.toml']\n{TWO}"}, "set it to one directory"),
        ({TOML: TWO.replace("version = 3", "version = 4")}, "set it to one directory"),
    ],
)
def test_several_directories_that_are_refused(tmp_path: Path, files: Mapping[str, str], message: str) -> None:
    with pytest.raises(InvalidError, match=message) as error:
        detect(_node(tmp_path, files), None)
    assert error.value.reason == "RuntimeConfigInvalid"


@pytest.mark.parametrize("item", ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"])
def test_a_containerd_that_serves_no_kubelet_is_refused(tmp_path: Path, item: str) -> None:
    with pytest.raises(InvalidError, match="disabled_plugins has the service that the kubelet calls"):
        detect(_node(tmp_path, {TOML: f'disabled_plugins = ["{item}"]'}), None)


def test_other_plugins_may_be_disabled(tmp_path: Path) -> None:
    facts = detect(
        _node(tmp_path, {TOML: 'version = 2\ndisabled_plugins = ["io.containerd.snapshotter.v1.zfs"]'}), None
    )
    assert facts.config_schema == 2


def _live(**fields: object) -> Live:
    return Live(socket=SOCKETS["containerd"], name="containerd", **fields)  # type: ignore[arg-type]


OWN = "/etc/containerd/own.toml"
FILES = {TOML: "version = 2", OWN: "version = 3", "/opt/config.toml": "version = 2"}


@pytest.mark.parametrize(
    ("live", "started", "file", "schema"),
    [
        (_live(state="Listening", config_file=OWN), {}, OWN, 3),
        (_live(state="Listening", config_file="/opt//config.toml"), {}, "/opt/config.toml", 2),
        (_live(state="Listening", config_file=TOML), {"containerd.service": ("containerd", "-c", OWN)}, TOML, 2),
        (_live(state="Listening", config_file="/none.toml"), {}, "/none.toml", 0),
        # What does not run is asked for by its service.
        (_live(state="Dead"), {"containerd.service": ("containerd", "-c", OWN)}, OWN, 3),
        (_live(state="Dead"), {"containerd.service": ("containerd",)}, TOML, 2),
        (_live(state="Hidden"), {}, TOML, 2),
        (None, {"containerd.service": ("containerd", "--config", OWN)}, OWN, 3),
        (None, {"other.service": ("containerd", "--config", OWN)}, TOML, 2),
    ],
)
def test_the_file_that_containerd_was_started_with(
    tmp_path: Path, live: Live | None, started: Mapping[str, tuple[str, ...]], file: str, schema: int
) -> None:
    def service(name: str) -> Started | None:
        return Start(started[name]) if name in started else None

    facts, chosen = find(_node(tmp_path, FILES), (live,) if live is not None else (), None, service=service)
    assert (facts.config_file, facts.config_schema) == (file, schema)
    assert layout(facts).edits == ((file,) if schema else ())
    assert chosen == live


@pytest.mark.parametrize("file", ["own.toml", "/etc/../own.toml", "/a\nb"])
def test_a_file_that_is_no_plain_path_is_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(InvalidError, match=r"the arguments of containerd: .* is no plain absolute path"):
        find(_node(tmp_path, FILES), (_live(state="Listening", config_file=file),), None)
