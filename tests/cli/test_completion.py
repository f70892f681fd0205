"""Completion by a real bash and a real kubectl, with the names of a real cluster; and pages that only look at one."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click
import pytest
from click.shell_completion import ShellComplete

import registry_mirror
from registry_mirror.cli import completion
from registry_mirror.cli.main import COMMANDS, command
from registry_mirror.cli.options import complete_node
from tests.docs.markdown import blocks
from tests.docs.shell import lines
from tests.harness.cluster import REPOSITORY, Cluster, mirror
from tests.harness.pytest_support import require_assets

PACKAGE = Path(registry_mirror.__file__).resolve().parent
PATIENCE = 30.0  # this machine may be busy
DOCS = REPOSITORY / "docs"
# Commands of the pages below that take a node, a Pod or a runtime: the test that runs each.
ELSEWHERE = {
    "journalctl ": "tests/nodes/test_harness.py",
    "kubectl apply -k manifests/cleanup": "tests/apiserver/test_cleanup.py",
    "kubectl delete -k manifests/cleanup": "tests/apiserver/test_cleanup.py",
    "kubectl describe pod ": "tests/nodes/test_kubelet.py",
    "kubectl -n registry-mirror-cleanup rollout status ": "tests/apiserver/test_cleanup.py",
    "kubectl -n registry-mirror-system logs ": "tests/nodes/test_install.py",
    "kubectl wait ": "tests/apiserver/test_readme.py",
    "registry-mirror doctor": "tests/cli/test_doctor.py",
    "registry-mirror import ": "tests/importing/test_command.py",
    "registry-mirror probe ": "tests/nodes/test_probe_command.py",
    "registry-mirror render ": "tests/cli/test_render.py",
    "registry-mirror restore ": "tests/nodes/test_restart.py",
    "systemctl restart ": "tests/nodes/test_restart.py",
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the programs that the package installs."""
    found = tmp_path_factory.mktemp("bin")
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    for name, target in scripts.items():
        module, function = target.split(":")
        script = found / name
        script.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
        script.chmod(0o755)
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A cluster with three RegistryMirrors and a node."""
    require_assets(pytestconfig)
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.install()
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1"}}
        config = {**node, "apiVersion": "registrymirror.io/v1alpha1", "kind": "NodeRegistryConfig"}
        cluster.apply(*(mirror(name, f"{name}.test") for name in ("docker-hub", "quay", "quota")), node, config)
        yield cluster


def run(programs: Path, *argv: str, **env: str) -> str:
    """Run a program, which may say nothing on standard error; gives its output."""
    path = f"{programs}:{os.environ['PATH']}"
    done = subprocess.run(
        argv,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(PACKAGE.parent), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def by_bash(programs: Path, line: str, **env: str) -> list[str]:
    """Complete the last word of a line as bash does, by the code that the program prints."""
    words = line.split(" ")
    script = f"""
    source <(registry-mirror completion bash)
    COMP_WORDS=({" ".join(map(shlex.quote, words))}) COMP_CWORD={len(words) - 1}
    _registry_mirror_completion registry-mirror 2>&1
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return run(programs, "bash", "--norc", "-c", script, **env).split()


def test_bash_completes_commands_options_and_values(programs: Path) -> None:
    assert by_bash(programs, "registry-mirror re") == ["render", "restore"]
    assert "--runtime-version" in by_bash(programs, "registry-mirror render --run")
    assert by_bash(programs, "registry-mirror render --runtime k") == ["k3s", "k0s"]


def test_bash_registers_the_code_for_the_program(programs: Path) -> None:
    shown = run(programs, "bash", "--norc", "-c", "source <(registry-mirror completion bash); complete -p")
    assert shown == "complete -o nosort -F _registry_mirror_completion registry-mirror\n"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_ask_the_program_by_the_variable_that_it_looks_at(programs: Path, shell: str) -> None:
    assert f"_REGISTRY_MIRROR_COMPLETE={shell}_complete" in run(programs, "registry-mirror", "completion", shell)
    asked = {"_REGISTRY_MIRROR_COMPLETE": f"{shell}_complete", "COMP_WORDS": "registry-mirror rest"}
    shown = run(programs, "registry-mirror", **asked, COMP_CWORD="1" if shell == "zsh" else "rest")
    assert "restore" in shown
    assert COMMANDS["restore"] in shown


def by_kubectl(cluster: Cluster, programs: Path, *words: str) -> list[str]:
    """Complete the last word as kubectl does for shells; gives the lines, the last of which is the directive."""
    kubectl = str(cluster.plane.assets.kubectl)
    path = f"{programs}:{os.environ['PATH']}"
    done = subprocess.run(
        [kubectl, "__complete", "registry-mirror", *words],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(PACKAGE.parent), "KUBECONFIG": "/dev/null"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.splitlines()


@pytest.mark.apiserver
def test_kubectl_completes_its_plugin(cluster: Cluster, programs: Path) -> None:
    assert by_kubectl(cluster, programs, "rest") == [f"restore\t{COMMANDS['restore']}", ":4"]
    assert by_kubectl(cluster, programs, "render", "--runtime", "k") == ["k3s", "k0s", ":4"]
    assert by_kubectl(cluster, programs, "render", "--runtime=k") == ["--runtime=k3s", "--runtime=k0s", ":4"]
    assert by_kubectl(cluster, programs, "status", "--kubeconfig", "") == [":0"]  # any file
    assert by_kubectl(cluster, programs, "render", "--output-dir", "") == [":16"]  # any directory


@pytest.mark.apiserver
def test_kubectl_runs_the_plugin_and_its_help_names_it(cluster: Cluster, programs: Path) -> None:
    kubectl = str(cluster.plane.assets.kubectl)
    shown = run(programs, kubectl, "registry-mirror", "status", "--help")
    assert shown.startswith("Usage: kubectl registry-mirror status [OPTIONS] [NAME]\n")


def asked() -> list[str]:
    """The commands of the pages that explain, each once."""
    pages = [DOCS / "troubleshooting.md", *(DOCS / "explanation").glob("*.md")]
    return sorted({line for page in pages for _, body in blocks(page.read_text(), "sh") for line in lines("sh", body)})


def follow(cluster: Cluster, home: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a shell of its own, with kubectl and whatever is in ~/bin in its path."""
    env = {
        "HOME": str(home),
        "PATH": f"{home}/bin:{cluster.plane.assets.kubectl.parent}:/usr/bin:/bin",
        "PYTHONPATH": str(PACKAGE.parent),
        "KUBECONFIG": str(cluster.plane.admin_kubeconfig),
    }
    argv = ["bash", "--norc", "-c", script]
    return subprocess.run(argv, env=env, cwd=home, capture_output=True, text=True, timeout=120)


@pytest.mark.apiserver
def test_what_explanations_and_troubleshooting_ask_of_a_cluster_is_answered(
    cluster: Cluster, programs: Path, tmp_path: Path
) -> None:
    found = [line for line in asked() if not line.startswith(tuple(ELSEWHERE))]
    assert len(found) > 8
    hub = mirror("docker-hub", "docker.io", "https://mirror.example.com")
    (tmp_path / "mirrors.yaml").write_text(json.dumps(hub))
    # Nothing runs there: status says that somebody has to do something, diff that nobody knows the nodes.
    script = "".join(f"{line} || {{ [ $? = 4 ] && [[ '{line}' = *status* ]]; }} || exit 1\n" for line in found)
    (tmp_path / "bin").symlink_to(programs)
    done = follow(cluster, tmp_path, f"set -x\n{script}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_run_elsewhere_is_named_and_used() -> None:
    assert [start for start in ELSEWHERE if not any(line.startswith(start) for line in asked())] == []
    assert [path for path in ELSEWHERE.values() if not (REPOSITORY / path).exists()] == []


@pytest.mark.apiserver
def test_the_page_of_the_plugin_is_followed(cluster: Cluster, programs: Path, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "how-to" / "kubectl-plugin.md").read_text()
    script = ["set -eo pipefail"]
    for language, body in blocks(page, "sh", "console"):
        if language == "sh":
            # Nothing runs in this cluster that would put the objects in force.
            script += [f"{line} || [ $? = 4 ]" if " status " in line else line for line in lines("sh", body)]
            continue
        (shown,) = lines("console", body)
        script.append(f"diff <({shown}) - <<'END'\n{body.partition(chr(10))[2]}END")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(programs)
    done = follow(cluster, tmp_path, "\n".join(script))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tmp_path}/.local/bin/kubectl-registry_mirror" in done.stdout
    assert "docker-hub" in done.stdout


def names(kubeconfig: Path, begun: str = "") -> list[str]:
    """What completes the argument of ``status``."""
    items = ShellComplete(command, {}, "registry-mirror", "").get_completions(
        ["status", "--kubeconfig", str(kubeconfig)], begun
    )
    return [item.value for item in items]


@pytest.mark.apiserver
def test_names_come_from_the_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_PATIENCE", PATIENCE)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    where = cluster.plane.admin_kubeconfig
    assert names(where, "qu") == ["quay", "quota"]
    node = click.Context(click.Command("probe"))
    node.params = {"kubeconfig": str(where)}
    assert [item.value for item in complete_node(node, click.Option(["--node"]), "")] == ["worker-1"]


def slow_login(directory: Path) -> tuple[Path, Path]:
    """A kubeconfig whose login takes for ever, and the file that has its process once it has begun."""
    where, begun = directory / "kubeconfig", directory / "pid"
    where.write_text(
        f"""apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:1"}}}}]
users:
- name: u
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      interactiveMode: Never
      command: sh
      args: [-c, "echo $$ > {begun}.new; mv {begun}.new {begun}; exec sleep 300"]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
current-context: c
"""
    )
    return where, begun


def test_a_cluster_that_takes_long_is_given_up(programs: Path, tmp_path: Path) -> None:
    where, _ = slow_login(tmp_path)
    assert by_bash(programs, "registry-mirror status ", KUBECONFIG=str(where)) == []


def test_what_was_given_up_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, begun = slow_login(tmp_path)

    def wait(*_: object, **__: object) -> NoReturn:
        for _attempt in range(600):
            if begun.exists():
                break
            time.sleep(0.1)
        raise subprocess.TimeoutExpired("", 1)

    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    monkeypatch.setattr(subprocess.Popen, "communicate", wait)
    assert names(where) == []
    process = Path(f"/proc/{begun.read_text().strip()}/cmdline")
    # Whoever reaps it may be slow; it is nothing but an entry then.
    assert not process.exists() or process.read_bytes() == b""


def test_why_there_are_no_names_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(completion, "_PATIENCE", PATIENCE)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    assert names(tmp_path / "none") == []
    assert capfd.readouterr() == ("", "")
