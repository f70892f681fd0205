"""What the agent takes K3s and RKE2 for where flags, variables and other files say more than the usual file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from registry_mirror.agent.detect import find
from registry_mirror.agent.host import Host, HostError
from registry_mirror.agent.live import RANCHER, Live
from registry_mirror.api.errors import InvalidError
from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.layout import DROP_IN, default_facts
from tests.agent import trees
from tests.agent.detect_starts import Start

K3S = default_facts("k3s")
CONFIG = "/etc/rancher/k3s/config.yaml"
OTHER = "/etc/other.yaml"
ENV = "/etc/systemd/system/k3s.service.env"


def _find(root: Path, start: Start, files: Mapping[str, str], **fields: object) -> RuntimeFacts:
    for path, content in files.items():
        trees.put(root, path, content)
    values = {"state": "Listening", "unit": "k3s.service", **fields}
    live = Live(name="k3s", socket=RANCHER, **values)  # type: ignore[arg-type]
    facts, chosen = find(Host(root), (live,), None, service={"k3s.service": start}.get)
    assert chosen == live
    return facts


def _k3s(*args: str, environment: tuple[str, ...] = (), files: tuple[str, ...] = ()) -> Start:
    return Start(("/usr/local/bin/k3s", "server", *args), environment, files)


def _data(path: str) -> RuntimeFacts:
    return replace(K3S, config_path=f"{path}/agent/etc/containerd/certs.d")


@pytest.mark.parametrize(
    ("start", "files", "expected"),
    [
        (_k3s(), {}, K3S),
        (_k3s("--data-dir", "/x"), {}, _data("/x")),
        (_k3s("--data-dir=/x"), {}, _data("/x")),
        (_k3s("-d", "/x", "--token", "secret"), {}, _data("/x")),
        (_k3s("-d=/x", "--data-dir", "/y"), {}, _data("/y")),
        (_k3s("--private-registry", "/r.yaml"), {}, replace(K3S, registries_file="/r.yaml")),
        (_k3s("--disable-default-registry-endpoint"), {}, replace(K3S, disable_default_endpoint=True)),
        (_k3s("--docker=false"), {}, K3S),
        # A flag counts more than the files, and these more than a variable.
        (_k3s("-d", "/x"), {CONFIG: "data-dir: /y"}, _data("/x")),
        (_k3s("--disable-default-registry-endpoint=false"), {CONFIG: "disable-default-registry-endpoint: true"}, K3S),
        (_k3s("--docker=false"), {CONFIG: "docker: true"}, K3S),
        (_k3s(environment=("K3S_DATA_DIR=/x",)), {}, _data("/x")),
        (_k3s(environment=("K3S_DATA_DIR=/x",)), {CONFIG: "data-dir: /y"}, _data("/y")),
        (_k3s(environment=("RKE2_DATA_DIR=/x",)), {}, K3S),
        # As the installer of K3s writes it; the file counts more than what is in the unit.
        (_k3s(environment=("K3S_DATA_DIR=/x",), files=(f"-{ENV}",)), {ENV: "K3S_DATA_DIR='/y'\n"}, _data("/y")),
        (_k3s(files=("/none",)), {}, K3S),
        # Another main file, with the directory beside that one.
        (_k3s("--config", OTHER), {CONFIG: "docker: true"}, replace(K3S, config_file=OTHER)),
        (
            _k3s("-c", OTHER),
            {
                OTHER: "data-dir: /y",
                f"{OTHER}.d/10.yaml": "private-registry: /r.yaml",
                f"{CONFIG}.d/1.yaml": "docker: true",
            },
            replace(_data("/y"), config_file=OTHER, registries_file="/r.yaml"),
        ),
        (_k3s("--config", OTHER), {f"{OTHER}.d/{DROP_IN}": "docker: true"}, replace(K3S, config_file=OTHER)),
        (
            _k3s("-c", "/none.yaml", environment=(f"K3S_CONFIG_FILE={OTHER}",)),
            {OTHER: "data-dir: /y"},
            replace(_data("/y"), config_file=OTHER),
        ),
        (_k3s("--config", CONFIG), {}, K3S),
    ],
)
def test_flags_files_and_variables(
    tmp_path: Path, start: Start, files: Mapping[str, str], expected: RuntimeFacts
) -> None:
    assert _find(tmp_path, start, files) == expected


def test_where_the_running_one_has_its_data_counts_most(tmp_path: Path) -> None:
    facts = _find(tmp_path, _k3s("-d", "/x"), {CONFIG: "data-dir: /y"}, data_dir="/data")
    assert facts == _data("/data")


def test_one_that_is_down_is_asked_for_by_its_usual_service(tmp_path: Path) -> None:
    (tmp_path / "etc/rancher/k3s").mkdir(parents=True)
    assert _find(tmp_path, _k3s("-d", "/x"), {}, state="Dead", unit="") == _data("/x")


@pytest.mark.parametrize(("state", "kept"), [("Dead", True), ("Hung", True), ("Listening", False), ("Hidden", False)])
def test_what_is_down_is_as_it_was_before(tmp_path: Path, state: str, kept: bool) -> None:
    (tmp_path / "etc/rancher/k3s").mkdir(parents=True)
    live = Live(name="k3s", socket=RANCHER, state=state)  # type: ignore[arg-type]
    before = _data("/x")
    assert find(Host(tmp_path), (live,), None, earlier=before) == (before if kept else K3S, live)
    assert find(Host(tmp_path), (live,), None, earlier=default_facts("rke2")) == (K3S, live)
    assert find(Host(tmp_path), (), None, earlier=before) == (K3S, None)


@pytest.mark.parametrize(
    ("start", "files", "text"),
    [
        (_k3s("--docker"), {}, "--docker: docker is set: then k3s configures no containerd"),
        (_k3s("--container-runtime-endpoint", "/run/x.sock"), {}, "--container-runtime-endpoint: .* is set"),
        (_k3s("--config=http://host/config.yaml"), {}, "another one is read from a URL"),
        (_k3s("--config=config.yaml"), {}, "the configuration file of k3s: .* no plain absolute path"),
        (_k3s("--data-dir=data"), {}, "--data-dir: .* no plain absolute path"),
        (_k3s("--private-registry=/a/../b"), {}, "--private-registry: .* no plain absolute path"),
        (_k3s(environment=("K3S_DATA_DIR=x",)), {}, "K3S_DATA_DIR: .* no plain absolute path"),
        (_k3s("-c", OTHER), {OTHER: "docker: true"}, "/etc/other.yaml: docker is set"),
    ],
)
def test_what_is_refused(tmp_path: Path, start: Start, files: Mapping[str, str], text: str) -> None:
    with pytest.raises(InvalidError, match=text) as error:
        _find(tmp_path, start, files)
    assert error.value.reason == "RuntimeConfigInvalid"


def test_no_secret_of_the_arguments_is_in_an_error(tmp_path: Path) -> None:
    start = _k3s("--token", "hunter2", "--docker", environment=("K3S_TOKEN=hunter2",))
    with pytest.raises(InvalidError) as error:
        _find(tmp_path, start, {})
    assert "hunter2" not in error.value.message


def test_the_service_that_it_runs_in_counts_whatever_its_name_is(tmp_path: Path) -> None:
    live = Live(name="k3s", socket=RANCHER, state="Listening", unit="k3s-one.service")
    services = {"k3s-one.service": _k3s("-d", "/x"), "k3s.service": _k3s("-d", "/y")}
    assert find(Host(tmp_path), (live,), None, service=services.get)[0] == _data("/x")


def test_rke2_has_its_own_variables(tmp_path: Path) -> None:
    live = Live(name="rke2", socket=RANCHER, state="Listening", unit="rke2-agent.service")
    start = Start(("rke2", "agent"), ("RKE2_DATA_DIR=/x", "K3S_DATA_DIR=/y"))
    facts, _ = find(Host(tmp_path), (live,), None, service={"rke2-agent.service": start}.get)
    assert facts.config_path == "/x/agent/etc/containerd/certs.d"


def test_a_link_in_place_of_the_variables_is_said(tmp_path: Path) -> None:
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / ENV[1:]).symlink_to("/elsewhere")
    with pytest.raises(HostError, match="symbolic link"):
        _find(tmp_path, _k3s(files=(ENV,)), {})
