"""The README is followed to the letter, section by section, on a real API server with real agents."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import run_elsewhere
from tests.harness.cluster import REPOSITORY, Cluster

pytestmark = pytest.mark.apiserver

README = (REPOSITORY / "README.md").read_text()
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
# What takes a Docker daemon, or would run this very test again.
NOT_RUN = ("docker ", "make ", "DEMO_KEEP=1 make ", ".venv/bin/python -m pytest")


def section(title: str) -> str:
    """The text below a heading, down to the next one of the same or a higher level."""
    level, rest = re.split(rf"^(#+) {re.escape(title)}$", README, maxsplit=1, flags=re.MULTILINE)[1:]
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[str]:
    """The commands of all sh blocks, without comments."""
    for block in blocks(text, "sh"):
        yield from (line.split("    #")[0].strip() for line in block.splitlines() if line.strip())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: what the README refers to, and the CA that its reader has."""
    found = tmp_path_factory.mktemp("readme")
    for name in ("examples", "manifests", "crds"):
        (found / name).symlink_to(REPOSITORY / name)
    (found / ".venv" / "bin").mkdir(parents=True)
    script = found / ".venv" / "bin" / "registry-mirror"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m registry_mirror "$@"\n')
    script.chmod(0o755)
    (found / "mirrors.yaml").write_text(blocks(README, "yaml")[0])
    documents = yaml.safe_load_all((REPOSITORY / "examples" / "airgap-private-registry.yaml").read_text())
    (ca,) = [item["data"]["ca.crt"] for item in documents if item["kind"] == "ConfigMap"]
    (found / "ca.crt").write_text(ca)
    return found


def follow(cluster: Cluster, directory: Path, title: str) -> str:
    """Run the commands of a section in a shell, as its reader does; gives their output."""
    env = {
        **os.environ,
        "KUBECONFIG": str(cluster.plane.admin_kubeconfig),
        "KUBECACHEDIR": str(directory / "kubectl-cache"),
        "PATH": f"{directory / '.venv/bin'}:{cluster.plane.assets.kubectl.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY / "operator"),
    }
    output = ""
    for command in commands(section(title)):
        if command.startswith(NOT_RUN) or (command.startswith("registry-mirror ") and run_elsewhere(command)):
            continue
        command = command.replace("/tmp/node", str(directory / "node"))
        if "delete -k" in command:
            command += " --wait=false"  # no controller-manager runs here that would finish off the namespaces
        done = subprocess.run(
            ["bash", "-c", command], cwd=directory, env=env, capture_output=True, text=True, timeout=60
        )
        tells = command.startswith(("registry-mirror status", "registry-mirror diff"))
        assert done.returncode in ((0, 3, 4) if tells else (0,)), f"{command}\n{done.stdout}{done.stderr}"
        output += done.stdout
    return output


def test_the_readme_works_from_installation_to_uninstallation(bare_cluster: Cluster, directory: Path) -> None:
    cluster = bare_cluster
    assert "daemonset.apps/registry-mirror-agent" in follow(cluster, directory, "Install it in a cluster")
    cluster.add_node("pi-1", "k3s")
    cluster.add_node("worker-1", "containerd")
    before = {name: node.files() for name, node in cluster.nodes.items()}
    cluster.start_controller()
    for name in cluster.nodes:
        cluster.start_agent(name)

    for document in blocks(section("Examples"), "yaml"):
        cluster.kubectl("apply", "-f", "-", input=document)
    follow(cluster, directory, "An air-gapped registry with a CA of its own")
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=20s", "rmir/docker-hub", "rmir/everything")
    shown = follow(cluster, directory, "Read it back")
    assert "in force on 2 of 2 nodes" in shown

    follow(cluster, directory, "Uninstall")
    assert {name: node.files() for name, node in cluster.nodes.items()} == before
    cluster.until(lambda: cluster.kubectl("get", "crds", "-o", "name") == "", "the CRDs are gone")


def test_the_first_example_is_enough_of_an_object(directory: Path) -> None:
    (first, *_) = blocks(README, "yaml")
    done = subprocess.run(
        [directory / ".venv/bin/registry-mirror", "render", "-f", "-", "--runtime", "containerd"],
        input=first,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "operator")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "/etc/containerd/certs.d/docker.io/hosts.toml" in done.stdout


def test_the_examples_in_the_readme_say_what_the_files_say() -> None:
    inline = {}
    for block in blocks(section("Examples"), "yaml"):
        for item in yaml.safe_load_all(block):
            inline[item["kind"], item["metadata"]["name"]] = item
    for path in (REPOSITORY / "examples").glob("*.yaml"):
        for item in yaml.safe_load_all(path.read_text()):
            short = inline.get((item["kind"], item["metadata"]["name"]))
            if short is not None and path.name in section("Examples") and item["spec" if "spec" in item else "type"]:
                found = item.get("spec", item)
                wanted = short.get("spec", short)
                assert _part_of(wanted, found) or "embedded" in path.name, path.name


def _part_of(short: object, long: object) -> bool:
    """Whether everything in ``short`` is in ``long``, which may say more."""
    if isinstance(short, dict) and isinstance(long, dict):
        return all(key in long and _part_of(value, long[key]) for key, value in short.items())
    if isinstance(short, list) and isinstance(long, list):
        return len(short) == len(long) and all(map(_part_of, short, long))
    return short == long


def test_render_commands_work(bare_cluster: Cluster, directory: Path) -> None:
    output = follow(bare_cluster, directory, "Without a cluster")
    assert "/etc/rancher/k3s/registries.yaml" in output
    assert (directory / "node/etc/containerd/certs.d/_default/hosts.toml").exists()


def test_make_targets_exist() -> None:
    code = [line for block in blocks(README, "sh") for line in block.splitlines()]
    code += re.findall(r"`([^`\n]+)`", README)
    named = {match[1] for line in code if (match := re.match(r"(?:DEMO_KEEP=1 )?make ([a-z-]+)", line))}
    assert named == {"demo", "test", "demo-stop", "lint", "lock"}
    assert named <= MAKE_TARGETS
