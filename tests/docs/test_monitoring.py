"""What is installed for monitoring asks for metrics that exist, leads to pages that exist, and fires when it should.

promtool, Prometheus's own, checks the rules and evaluates each alert over made-up samples.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from registry_mirror.controller.metrics import Metrics
from tests.harness.promtool import PromtoolMissing, promtool

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "manifests" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
GROUPS = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
NAME = re.compile(r"\bregistry_mirror_\w+")
# What Grafana puts in for its variables.
VARIABLES = {"$mirror": ".*", "$__rate_interval": "2m"}


def metrics() -> set[str]:
    """Every metric by the name that it is documented under."""
    found = set()
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            found.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def named(queries: list[str]) -> set[str]:
    return {name.removesuffix("_bucket") for query in queries for name in NAME.findall(query)}


@pytest.fixture(scope="module")
def tool() -> Path:
    try:
        return promtool()
    except PromtoolMissing as error:
        if os.environ.get("CI") or os.environ.get("REQUIRE"):
            pytest.fail(f"{error}", pytrace=False)
        pytest.skip(f"PROMTOOL MISSING, NOTHING WAS TESTED HERE. {error}")


def run(tool: Path, *args: str) -> str:
    done = subprocess.run([tool, *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_dashboard_shows_every_metric_and_none_that_does_not_exist() -> None:
    assert named(queries()) == metrics()


def test_the_alerts_ask_for_metrics_that_exist() -> None:
    assert named([rule["expr"] for rule in RULES.values()]) <= metrics()


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in panels():
        assert panel["description"].endswith(".")
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "$datasource"}


def test_every_alert_says_what_happened_what_to_do_and_where_to_read_on() -> None:
    for name, rule in RULES.items():
        assert name.startswith("RegistryMirror")
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        notes = rule["annotations"]
        assert notes.keys() == {"summary", "description", "runbook_url"}, name
        assert notes["summary"].endswith("."), name
        assert notes["description"].endswith("."), name
        page, _, anchor = notes["runbook_url"].partition("#")
        headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, name


def test_every_alert_is_documented_with_its_severity() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE))
    assert documented == {name: rule["labels"]["severity"] for name, rule in RULES.items()}


def test_every_alert_has_a_runbook_that_says_more_than_the_alert() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(RULES)
    for name, rule in RULES.items():
        assert rule["annotations"]["runbook_url"] == f"docs/monitoring.md#{name.lower()}"
        assert len(sections[name].split()) > 30, name
        for page, _, anchor in re.findall(r"\]\(((\w+\.md)?#([\w-]+))\)", sections[name]):
            file = page.partition("#")[0] or "monitoring.md"
            headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / file).read_text(), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, page


def test_reasons_in_queries_are_documented() -> None:
    documented = (ROOT / "docs" / "conditions.md").read_text()
    reasons = {
        reason
        for query in (*queries(), *(rule["expr"] for rule in RULES.values()))
        for value in re.findall(r'\breason[!=]=?~?"([^"]*)"', query)
        for reason in value.split("|")
    }
    assert reasons
    assert {reason for reason in reasons if f"`{reason}`" not in documented} == set()


def test_prometheus_takes_the_rules(tool: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": GROUPS}))
    assert f"{len(RULES)} rules found" in run(tool, "check", "rules", "--lint=all", "--lint-fatal", str(file))


def condition(type_: str, reason: str, status: str = "True") -> str:
    return f'registry_mirror_condition{{mirror="m",pod="p",type="{type_}",status="{status}",reason="{reason}"}}'


PENDING = 'registry_mirror_nodes{mirror="m",pod="p",state="pending"}'
UNREACHABLE = 'registry_mirror_endpoint_nodes{mirror="m",url="https://a.example",state="unreachable"}'
LAG = 'registry_mirror_queue_lag_seconds{namespace="n",pod="p"}'
LEADS = 'registry_mirror_leader{pod="%s"}'
# For each alert: samples of two hours, one a minute, that set it off, and such that do not.
FIRES: dict[str, list[dict[str, str]]] = {
    "RegistryMirrorRolledBack": [{'registry_mirror_rolled_back_nodes{result="RolledBack"}': "1x120"}],
    "RegistryMirrorRollbackFailed": [{'registry_mirror_rolled_back_nodes{result="RollbackFailed"}': "1x120"}],
    "RegistryMirrorRolloutHalted": [{'registry_mirror_held_nodes{reason="RolloutHalted"}': "4x120"}],
    "RegistryMirrorStalled": [{condition("Stalled", "ReferenceInvalid"): "1x120"}],
    "RegistryMirrorNodesPending": [{PENDING: "3x120", condition("Reconciling", "WaitingForSlot"): "1x120"}],
    "RegistryMirrorAgentNotReporting": [{'registry_mirror_rollout_nodes{state="unreported"}': "1x120"}],
    "RegistryMirrorDrifted": [{'registry_mirror_nodes{mirror="m",state="drifted"}': "2x120"}],
    "RegistryMirrorEndpointUnreachable": [{UNREACHABLE: "1x120"}],
    "RegistryMirrorNoneReachable": [{condition("EndpointsReachable", "NoneReachable", "False"): "1x120"}],
    "RegistryMirrorControllerDown": [{}],
    "RegistryMirrorNoLeader": [{LEADS % "p": "0x120", LEADS % "q": "0x120"}],
    "RegistryMirrorControllerStuck": [{LAG: "0+60x120"}],
    "RegistryMirrorReconcileErrors": [{'registry_mirror_reconciles_total{kind="node",result="error"}': "0+6x120"}],
}
QUIET: dict[str, list[dict[str, str]]] = {
    "RegistryMirrorRolledBack": [{'registry_mirror_rolled_back_nodes{result="RolledBack"}': "1x60 0x60"}],
    "RegistryMirrorRollbackFailed": [{'registry_mirror_rolled_back_nodes{result="RolledBack"}': "1x120"}],
    "RegistryMirrorRolloutHalted": [{'registry_mirror_held_nodes{reason="Soaking"}': "4x120"}],
    "RegistryMirrorStalled": [
        {condition("Stalled", "RolloutHalted"): "1x120"},
        {condition("Stalled", "RolledBack"): "1x120"},
        {condition("Stalled", "Working", "False"): "1x120"},
    ],
    "RegistryMirrorNodesPending": [
        {PENDING: "3x120", condition("Reconciling", "Paused"): "1x120"},
        {PENDING: "3x120", condition("Reconciling", "OutsideWindow"): "1x120"},
        {PENDING: "3x120", condition("Reconciling", "RestartRequired"): "1x120"},
        {PENDING: "0x90 1x30"},
    ],
    "RegistryMirrorAgentNotReporting": [{'registry_mirror_rollout_nodes{state="current"}': "1x120"}],
    "RegistryMirrorDrifted": [{'registry_mirror_nodes{mirror="m",state="applied"}': "2x120"}],
    "RegistryMirrorEndpointUnreachable": [{UNREACHABLE.replace('"unr', '"r'): "1x120"}, {UNREACHABLE: "0x115 1x5"}],
    "RegistryMirrorNoneReachable": [{condition("EndpointsReachable", "SomeUnreachable", "False"): "1x120"}],
    "RegistryMirrorControllerDown": [{LAG: "0x120"}],
    "RegistryMirrorNoLeader": [
        {LEADS % "p": "0x120", LEADS % "q": "1x120"},
        {LEADS % "p": "1x119 0x1", LEADS % "q": "0x120"},
        {},
    ],
    "RegistryMirrorControllerStuck": [{LAG: "10x120"}],
    "RegistryMirrorReconcileErrors": [
        {'registry_mirror_reconciles_total{kind="node",result="ok"}': "0+600x120"},
        {'registry_mirror_reconciles_total{kind="node",result="error"}': "0x100 1x20"},
    ],
}


def case(alert: str, series: dict[str, str], fires: bool) -> dict[str, Any]:
    expr = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": expr, "eval_time": "2h", "exp_samples": [{"labels": "{}", "value": 1}] if fires else []}
        ],
    }


def test_each_alert_fires_when_it_should_and_only_then(tool: Path, tmp_path: Path) -> None:
    assert FIRES.keys() == QUIET.keys() == RULES.keys()
    rules, tests = tmp_path / "rules.yaml", tmp_path / "tests.yaml"
    rules.write_text(yaml.safe_dump({"groups": GROUPS}))
    cases = [case(alert, series, True) for alert, all_ in FIRES.items() for series in all_]
    cases += [case(alert, series, False) for alert, all_ in QUIET.items() for series in all_]
    tests.write_text(yaml.safe_dump({"rule_files": [rules.name], "evaluation_interval": "1m", "tests": cases}))
    assert "SUCCESS" in run(tool, "test", "rules", str(tests))


def test_prometheus_takes_the_queries_of_the_dashboard(tool: Path, tmp_path: Path) -> None:
    found = []
    for number, query in enumerate(queries()):
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        assert "$" not in query
        found.append({"record": f"dashboard:query:number{number}", "expr": query})
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": found}]}))
    assert f"{len(found)} rules found" in run(tool, "check", "rules", str(file))


def test_the_monitor_finds_the_pods_and_the_port_of_the_controller() -> None:
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())
    (deployment,) = [
        body
        for body in yaml.safe_load_all((ROOT / "manifests" / "base" / "controller.yaml").read_text())
        if body["kind"] == "Deployment"
    ]
    assert monitor["spec"]["selector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]
    assert monitor["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}
