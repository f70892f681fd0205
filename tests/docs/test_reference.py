"""The reference pages must name what the code has, all of it and nothing else."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from registry_mirror.cli import main
from registry_mirror.cli.main import COMMANDS
from registry_mirror.controller.metrics import Metrics

from . import runtimes_table

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "operator" / "registry_mirror"
REASON = re.compile(r"(?:[A-Z][a-z]+){2,}[A-Za-z]*|Applied|Paused|Conflicted|Repaired|Applying")
# CamelCase words of the code that are no reasons: conditions, kinds, and words of the API.
OTHER = {
    *("ConfigMap", "DoesNotExist", "HostError", "HostFile", "NodeRegistryConfig", "NotIn", "RegistryMirror"),
    *("RegistryMirrorPolicy", "RestartRequired", "WhenRequired", "DeleteOptions"),
    *("CronJob", "DaemonSet", "ReplicationController", "StatefulSet"),
    # What a restart is at, in the agent's own record, and how it ended, in status.restart.
    *("InProgress", "RollingBack", "RuntimeHealthy", "ServiceError"),
}
# D-Bus and the CRI have names of that form too.
FOREIGN = ("agent/service/bus.py", "agent/service/systemd.py", "agent/cri_child.py")
# Reasons of errors that end a command and never reach a condition, and of conditions that say that all is well.
NO_CONDITION = {
    "ImageNotPulled",
    "RestartUnfinished",
    "NoCluster",
    "WatchesEnded",
    "LeaseLost",
    "NotLeading",
    "DigestKeyInvalid",
    "InvalidFile",
    "ApiError",
    "ApiUnreachable",
    # Of a command that is run on a node.
    *("AgentNotReady", "ExecFailed", "ExitCode", "NoAgent", "TooLarge", "TooOld"),
}
ALL_IS_WELL = {"NoConflict", "NoDrift", "NotRequired"}


# What ``doctor`` finds is on a page of its own.
FINDINGS = ("core/diagnosis/*.py", "core/cluster_diagnosis/*.py", "agent/examine*.py", "cli/doctor*.py")
FINDING = re.compile(r"(?=.*[a-z])(?=.*[A-Z].*[A-Z])[A-Z][A-Za-z0-9]+|Unauthorized|Paused")
# Kinds of the API, and a runtime.
NO_FINDING = {
    *("ConfigMap", "CustomResourceDefinition", "DaemonSet", "MicroK8s", "RegistryMirror"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
}


def of_findings() -> set[Path]:
    return {path for pattern in FINDINGS for path in PACKAGE.glob(pattern)}


def literals() -> Iterator[str]:
    """Every string in the code that looks like a reason; docstrings are none."""
    for path in set(PACKAGE.rglob("*.py")) - {PACKAGE / name for name in FOREIGN} - of_findings():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and REASON.fullmatch(node.value):
                yield node.value
    for name in FOREIGN:
        yield from re.findall(r'ServiceError\(\s*"(\w+)"', (PACKAGE / name).read_text())


def test_every_reason_is_documented_and_none_that_does_not_exist() -> None:
    text = (ROOT / "docs" / "conditions.md").read_text()
    documented = {word for word in re.findall(r"`([A-Za-z]+)`", text) if REASON.fullmatch(word)}
    in_code = set(literals()) - OTHER - NO_CONDITION - ALL_IS_WELL
    assert documented - {"RegistryMirror"} == in_code | {"RestartRequired"}


def strings(path: Path) -> Iterator[str]:
    """Every string of a module that may be the reason of a finding."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and FINDING.fullmatch(node.value):
            yield node.value


def test_every_finding_is_documented_and_none_that_does_not_exist() -> None:
    pages = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("findings", "conditions")}
    known = set(re.findall(r"`([A-Za-z0-9]+)`", pages["conditions"]))
    rows = re.findall(r"^\| (`[^|]*`) \| ((?:error|warning)[^|]*) \|[^|]+\|[^|]+\|$", pages["findings"], re.MULTILINE)
    documented = {reason for row, _ in rows for reason in re.findall(r"`([A-Za-z0-9]+)`", row)}
    in_code = {word for path in of_findings() for word in strings(path)}
    assert documented <= in_code
    # The reasons of conditions that are passed on are explained where those are.
    assert in_code - documented - known - NO_FINDING == set()


def test_every_metric_is_documented_with_its_labels() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    documented = {
        row[0]: set(re.findall(r"`(\w+)`", row[1]))
        for row in re.findall(r"^\| `(\w+)` \|([^|]*)\|", text, re.MULTILINE)
    }
    in_code = {}
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            in_code[f"{family.name}_total" if family.type == "counter" else family.name] = set(metric._labelnames)
    assert documented == in_code


def test_the_table_of_runtimes_is_what_the_code_does() -> None:
    assert runtimes_table.written() == runtimes_table.table(), "run: python -m tests.docs.runtimes_table"


def test_every_command_of_the_program_has_a_summary() -> None:
    modules = [importlib.import_module(f"registry_mirror.cli.{path.stem}") for path in (PACKAGE / "cli").glob("*.py")]
    commands = {module.command.name for module in modules if hasattr(module, "command")}
    assert commands - {main.command.name} == set(COMMANDS)
