"""The component for nodes with OpenRC, on top of an overlay: what the API server takes, and what it changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.controlplane import ControlPlane
from tests.harness.pytest_support import require_assets

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("openrc"), require_assets(pytestconfig)) as running:
        yield running


def test_the_agent_is_privileged_with_it_and_nothing_else_changes(cluster: ControlPlane, tmp_path: Path) -> None:
    for name in ("crds", "manifests"):
        shutil.copytree(ROOT / name, tmp_path / name)
    own = {"resources": ["../manifests/overlays/k3s"], "components": ["../manifests/components/openrc"]}
    (tmp_path / "own").mkdir()
    (tmp_path / "own/kustomization.yaml").write_text(json.dumps(own))
    plain, made = (
        _objects(cluster.kubectl("kustomize", str(tmp_path / path))) for path in ("manifests/overlays/k3s", "own")
    )
    context = made["DaemonSet registry-mirror-agent"]["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    before = plain["DaemonSet registry-mirror-agent"]["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    assert context["privileged"] is True
    # The API server refuses the one together with what the base says, and the other would say nothing.
    assert {"allowPrivilegeEscalation", "capabilities"}.isdisjoint(context)
    for name in ("privileged", "allowPrivilegeEscalation", "capabilities"):
        context.pop(name, None)
        before.pop(name, None)
    assert made == plain
    installed = cluster.kubectl("apply", f"--kustomize={tmp_path / 'own'}")
    assert "daemonset.apps/registry-mirror-agent created" in installed
    said = cluster.kubectl("apply", f"--kustomize={tmp_path / 'own'}", "--dry-run=server", "--warnings-as-errors")
    assert "daemonset.apps/registry-mirror-agent unchanged" in said


def _objects(text: str) -> dict[str, Any]:
    return {f"{body['kind']} {body['metadata']['name']}": body for body in yaml.safe_load_all(text) if body}
