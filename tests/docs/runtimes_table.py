"""The table of docs/runtimes.md, worked out by rendering: what the code does is what the page says.

python -m tests.docs.runtimes_table        writes it into the page
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from registry_mirror.api.models import RuntimeFacts, RuntimeName
from registry_mirror.core.layout import default_facts
from registry_mirror.core.plan import unsupported
from registry_mirror.core.render import render
from registry_mirror.core.resolve import Credentials, ResolvedMirror
from tests.pure.builders import TOKEN, USER, endpoint, mirror, pem, tls

PAGE = Path(__file__).resolve().parents[2] / "docs" / "runtimes.md"
_URL = "https://mirror.example.com"
_BLOCK = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- /table -->)", re.DOTALL)


def nodes() -> Mapping[str, RuntimeFacts]:
    """The runtimes that the table has a row for, with the versions between which something changes."""

    def facts(name: RuntimeName, version: str, containerd: str = "") -> RuntimeFacts:
        found = default_facts(name, version)
        if name in ("containerd", "microk8s"):  # as the agent finds the file that the package brings
            found = replace(found, config_schema=3 if version in ("2.0.3", "2.1.4") else 2, config_file="/x.toml")
        return replace(found, containerd_version=containerd) if containerd else found

    return {
        "K3s, RKE2 from v1.33 (containerd 2.1)": facts("k3s", "v1.33.4+k3s1", "2.1.4-k3s1"),
        "K3s, RKE2 v1.31.6, v1.32.2": facts("k3s", "v1.31.6+k3s1", "2.0.2-k3s2"),
        "K3s, RKE2 from v1.29.3 (containerd 1.7)": facts("k3s", "v1.30.10+k3s1", "1.7.23-k3s2"),
        "K3s, RKE2 v1.29.1": facts("k3s", "v1.29.1+k3s1", "1.7.11-k3s2"),
        "K3s, RKE2 before hosts.toml, from v1.22": facts("k3s", "v1.25.16+k3s4", "1.7.7-k3s1"),
        "containerd from 2.1": facts("containerd", "2.1.4"),
        "containerd 2.0": facts("containerd", "2.0.3"),
        "containerd 1.7": facts("containerd", "1.7.29"),
        "containerd 1.6 (Debian 12)": facts("containerd", "1.6.20"),
        "containerd 1.5": facts("containerd", "1.5.18"),
        "MicroK8s from 1.35": facts("microk8s", "v1.35.0"),
        "MicroK8s 1.30 to 1.34": facts("microk8s", "v1.34.1"),
        "MicroK8s 1.25 to 1.29": facts("microk8s", "v1.28.15"),
        "MicroK8s 1.23, 1.24": facts("microk8s", "v1.24.17"),
        "MicroK8s 1.22": facts("microk8s", "v1.22.17"),
        "MicroK8s 1.19 to 1.21": facts("microk8s", "v1.21.14"),
        "k0s from 1.27.1": facts("k0s", "v1.33.4+k0s.0"),
        "CRI-O": facts("crio", "v1.33.0"),
    }


def features() -> Mapping[str, ResolvedMirror]:
    """What the columns try."""

    def one(credentials: Credentials | None = None, **fields: object) -> ResolvedMirror:
        return mirror("quay.io", endpoint(_URL, credentials=credentials, **fields))

    return {
        "mirror": one(),
        'every registry (`"*"`)': mirror("*", _URL),
        "path in the URL": mirror("quay.io", f"{_URL}/v2/proxy"),
        "fallback denied": mirror("quay.io", _URL, deny_fallback=True),
        "rewrite by pattern": mirror("quay.io", _URL, rewrites={"^a/(.*)": "b/$1"}),
        "path before every name": mirror("quay.io", _URL, rewrites={"^(.*)$": "b/$1"}),
        "CA": one(tls=tls(ca=pem("ca-one.crt"))),
        "client certificate": one(tls=tls(certificate=pem("client.crt"), key=pem("client.key"))),
        "user and password": one(USER),
        "identity token": one(TOKEN),
        "dial timeout": one(dial_timeout="5s"),
        "Pull without Resolve": one(capabilities=("Pull",)),
    }


def table() -> str:
    """The table in Markdown, a runtime a row."""
    columns = features()
    lines = [f"| | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for name, facts in nodes().items():
        cells = " | ".join(_cell(facts, item) for item in columns.values())
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(facts: RuntimeFacts, item: ResolvedMirror) -> str:
    problem = unsupported(facts)
    if problem is not None:
        return f"no: `{problem[0]}`"
    rendered = render(facts, [item])
    if rendered.problems:
        return f"no: `{rendered.problems[0].reason}`"
    text = "".join(file.content for file in rendered.files)
    if any(endpoint.dial_timeout for endpoint in item.endpoints) and "dial_timeout" not in text:
        return "ignored"
    return "at the next start" if rendered.start_settings else "live"


def main() -> int:
    """Write the table into the page."""
    PAGE.write_text(_BLOCK.sub(lambda _: table(), PAGE.read_text()))
    return 0


def written() -> str:
    """The table as the page has it."""
    found = _BLOCK.search(PAGE.read_text())
    return found[0] if found else ""


if __name__ == "__main__":
    sys.exit(main())
