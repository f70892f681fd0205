"""Realistic files of each format, the examples of the vendors' documentation among them, and what becomes of them.

``GOLDEN_WRITE=1`` writes the expected files anew; read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from registry_mirror.core.importing.convert import Imported
from tests.importing.tools import imported, printed, resolved
from tests.pure.builders import pem

GOLDEN = Path(__file__).parent / "golden"
FILES = {f"/etc/rancher/certs/{name}": pem(name) for name in ("ca-one.crt", "client.crt", "client.key")}
INPUTS = sorted(path.name for path in GOLDEN.iterdir() if not path.name.endswith(".out.yaml"))


def content(path: Path) -> str | dict[str, dict[str, bytes]]:
    if path.is_dir():
        return {item.name: {"hosts.toml": (item / "hosts.toml").read_bytes()} for item in path.iterdir()}
    return path.read_text()


def import_of(name: str) -> Imported:
    return imported(content(GOLDEN / name), name, FILES)


@pytest.mark.parametrize("name", INPUTS)
def test_the_objects_are_the_expected_ones(name: str) -> None:
    text = printed(import_of(name))
    expected = GOLDEN / f"{name}.out.yaml"
    if os.environ.get("GOLDEN_WRITE"):
        expected.write_text(text)
    assert text == expected.read_text()


@pytest.mark.parametrize("name", INPUTS)
def test_the_objects_can_be_applied(name: str) -> None:
    found = import_of(name)
    if "is missing" not in printed(found):
        assert len(resolved(found)) == sum(item.body["kind"] == "RegistryMirror" for item in found.documents)
    assert [item for item in yaml.safe_load_all(printed(found)) if item] == [item.body for item in found.documents]


def test_there_is_an_input_of_every_format() -> None:
    assert len(INPUTS) == 7


def test_microk8s_mirrors_and_credentials_come_together(tmp_path: Path) -> None:
    """Since 1.23 mirrors are in certs.d, and credentials still in the template: two paths, one import."""
    from tests.importing.tools import run

    done = run("import", str(GOLDEN / "microk8s-certs.d"), str(GOLDEN / "microk8s-template.toml"), code=1)
    assert "it is in" in done.stderr
    template = tmp_path / "containerd-template.toml"
    template.write_text((GOLDEN / "microk8s-template.toml").read_text().replace("registry.mirrors", "registry.other"))
    done = run("import", str(GOLDEN / "microk8s-certs.d"), str(template))
    mirrors = [item for item in yaml.safe_load_all(done.stdout) if item and item["kind"] == "RegistryMirror"]
    (private,) = [item["spec"] for item in mirrors if item["spec"]["registry"] == "10.141.241.175:32000"]
    assert private["endpoints"] == [
        {"url": "http://10.141.241.175:32000", "credentialsRef": {"name": "10-141-241-175-32000-credentials"}}
    ]
