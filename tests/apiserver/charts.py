"""What the tests of the Helm chart have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.cluster import REPOSITORY
from tests.harness.helm import Helm, HelmMissing, helm

NAME = "registry-mirror-operator"
CHART = REPOSITORY / "manifests" / "helm" / NAME
TEMPLATE = ("template", NAME, str(CHART))
HARBOR = "https://harbor.example.com/v2/dockerhub"

Object = dict[str, Any]


def require_helm(home: Path) -> Helm:
    """Give Helm, or end the calling test or fixture as `pytest_support.require_assets` does."""
    try:
        return Helm(helm(), home)
    except HelmMissing as error:
        if os.environ.get("CI") or os.environ.get("REQUIRE"):
            pytest.fail(f"{error}", pytrace=False)
        pytest.skip(f"HELM MISSING, NOTHING WAS TESTED HERE. {error}")


def bodies(text: str) -> list[Object]:
    """The objects of a text."""
    return [body for body in yaml.safe_load_all(text) if body]
