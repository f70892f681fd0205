"""``registry-mirror render`` as a user runs it: a process, files, standard input, exit codes and what is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

MIRROR = """\
apiVersion: registrymirror.io/v1alpha1
kind: RegistryMirror
metadata: {name: quay}
spec:
  registry: quay.io
  endpoints: [{url: "https://mirror.example.com"}]
"""


def run(*args: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    command = [sys.executable, "-m", "registry_mirror", *args]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=env, cwd=cwd, timeout=30)


def render(*args: str, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run render and check its exit code, and that no traceback is shown."""
    done = run("render", *args, stdin=stdin)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    return done


def test_files_are_printed_with_a_header_line_each() -> None:
    done = render("-f", str(EXAMPLES / "dockerhub-through-harbor.yaml"), "--runtime", "k3s")
    headers = [line for line in done.stdout.splitlines() if line.startswith("# --- ")]
    assert headers == [
        "# --- /var/lib/rancher/k3s/agent/etc/containerd/certs.d/docker.io/hosts.toml (mode 0600)",
        "# --- /var/lib/rancher/k3s/agent/etc/containerd/certs.d/harbor.example.com/hosts.toml (mode 0600)",
        "# --- /etc/rancher/k3s/registries.yaml (mode 0600)",
    ]
    assert '[host."https://harbor.example.com/v2/dockerhub"]' in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("runtime", ["k3s", "rke2", "containerd"])
def test_files_are_written_at_their_host_paths(tmp_path: Path, runtime: str) -> None:
    done = render(
        "-f", str(EXAMPLES / "airgap-private-registry.yaml"), "--runtime", runtime, "--output-dir", str(tmp_path)
    )
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    if runtime == "containerd":
        certs, tls = "etc/containerd/certs.d", "etc/containerd/registry-mirror"
        wanted = {f"{certs}/_default/hosts.toml", f"{certs}/registry.k8s.io/hosts.toml"}
    else:
        certs, tls = f"var/lib/rancher/{runtime}/agent/etc/containerd/certs.d", f"etc/rancher/{runtime}/registry-mirror"
        names = ("_default", "registry.k8s.io", "registry.internal.example.com:5000")
        wanted = {f"{certs}/{name}/hosts.toml" for name in names}
        wanted |= {
            f"etc/rancher/{runtime}/registries.yaml",
            f"etc/rancher/{runtime}/config.yaml.d/90-registry-mirror.yaml",
        }
    assert {path for path in written if not path.startswith(tls)} == wanted
    (ca,) = (tmp_path / tls).iterdir()
    assert ca.read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert f"/{ca.relative_to(tmp_path)}" in (tmp_path / certs / "_default/hosts.toml").read_text()
    assert len(done.stdout.splitlines()) == len(written)


def test_documents_may_come_from_several_files_and_standard_input(tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: robot}\nstringData: {username: me, password: pass}\n"
    )
    mirror = MIRROR.replace('com"}', 'com", credentialsRef: {name: robot}}')
    done = render("-f", str(tmp_path / "secret.yaml"), "-f", "-", "--runtime", "containerd", stdin=mirror)
    assert 'Authorization = "Basic bWU6cGFzcw=="' in done.stdout


def test_a_list_is_read_as_its_items() -> None:
    listing = {"apiVersion": "v1", "kind": "List", "items": [yaml.safe_load(MIRROR)]}
    assert "quay.io/hosts.toml" in render("-f", "-", "--runtime", "containerd", stdin=json.dumps(listing)).stdout


@pytest.mark.parametrize(("output", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_programs_get_a_list(output: str, load: object) -> None:
    assert callable(load)
    done = render("-f", "-", "--runtime", "containerd", "-o", output, stdin=MIRROR)
    (found,) = load(done.stdout)
    assert found["path"] == "/etc/containerd/certs.d/quay.io/hosts.toml"
    assert found["mode"] == "0644"
    assert found["content"].startswith("# Managed by")


def test_changes_say_what_is_live_and_what_takes_a_restart(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(MIRROR)
    (tmp_path / "new.yaml").write_text(MIRROR.replace("mirror.example", "other.example"))
    arguments = ["-f", str(tmp_path / "new.yaml"), "--changes-from", str(tmp_path / "old.yaml"), "--runtime", "k3s"]
    certs = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"
    assert render(*arguments).stdout.splitlines() == [
        "changed  /etc/rancher/k3s/registries.yaml  (for the next start; in force already)",
        f"changed  {certs}/quay.io/hosts.toml  (the next pull uses it)",
        "no restart is needed",
    ]
    found = json.loads(render(*arguments, "-o", "json").stdout)
    assert [item["effect"] for item in found["differences"]] == ["repeats", "live"]
    assert found["waiting"] == []
    assert yaml.safe_load(render(*arguments, "-o", "yaml").stdout) == found

    token = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: robot}\nstringData: {token: secret-token}\n"
    (tmp_path / "new.yaml").write_text(MIRROR.replace('com"}', 'com", credentialsRef: {name: robot}}') + token)
    done = render(*arguments)
    assert done.stdout.splitlines()[-1] == "a restart of the runtime is needed for: credentials for mirror.example.com"
    assert "secret-token" not in done.stdout
    (tmp_path / "new.yaml").write_text(MIRROR)
    assert render(*arguments).stdout == "nothing changes\n"


def test_node_labels_decide_what_is_selected() -> None:
    mirror = MIRROR + "  nodeSelector: {matchLabels: {zone: a}}\n"
    done = render("-f", "-", "--runtime", "containerd", stdin=mirror)
    assert done.stdout == ""
    assert "quay: its nodeSelector does not match; see --node-label" in done.stderr
    assert "quay.io" in render("-f", "-", "--runtime", "containerd", "--node-label", "zone=a", stdin=mirror).stdout


def test_the_version_decides_what_can_be_had() -> None:
    wildcard = MIRROR.replace("quay.io", '"*"')
    old = render("-f", "-", "--runtime", "containerd", "--runtime-version", "1.5.13", stdin=wildcard, code=1)
    assert (
        "error: standard input: RegistryMirror quay: spec: containerd 1.5.13 has no default for every registry"
        in old.stderr
    )
    assert (
        "_default" in render("-f", "-", "--runtime", "containerd", "--runtime-version", "1.7.29", stdin=wildcard).stdout
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (MIRROR.replace("quay.io", "../x"), ["spec.registry", "found '../x'", "write host[:port]"]),
        (
            MIRROR.replace("https:", "ftp:"),
            ["spec.endpoints[0].url", "'ftp://", "write http:// or https://"],
        ),
        (MIRROR.replace("url:", "uri:"), ["spec.endpoints[0].uri", "did you mean url?"]),
        (
            MIRROR.replace("v1alpha1", "v1"),
            ["apiVersion", "'registrymirror.io/v1'", "registrymirror.io/v1alpha1"],
        ),
        (MIRROR.replace('com"}', 'com", credentialsRef: {name: gone}}'), ["credentialsRef", "no Secret gone"]),
        (MIRROR.replace("{name: quay}", "{}"), ["metadata.name"]),
        ("a: [", ["write valid YAML"]),
        ("- just\n- a list\n", ["document 1", "write Kubernetes objects"]),
        ("kind: ConfigMap\nmetadata: {name: x}\n", ["no RegistryMirror"]),
        ("", ["no RegistryMirror"]),
        ("\0", ["write valid YAML"]),
        (MIRROR + "---\n" + MIRROR, ["metadata.name", "names are unique"]),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path: Path, text: str, wanted: list[str]) -> None:
    (tmp_path / "in.yaml").write_text(text)
    out = tmp_path / "out"
    done = render("-f", str(tmp_path / "in.yaml"), "--runtime", "k3s", "--output-dir", str(out), code=1)
    assert done.stdout == ""
    assert str(tmp_path / "in.yaml") in done.stderr
    for part in wanted:
        assert part in done.stderr
    assert not out.exists()


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MIRROR.replace("quay.io", "a b"))
    (tmp_path / "b.yaml").write_text(MIRROR.replace("https:", "ftp:"))
    done = render("-f", str(tmp_path / "a.yaml"), "-f", str(tmp_path / "b.yaml"), "--runtime", "k3s", code=1)
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        str(tmp_path / "a.yaml"),
        str(tmp_path / "b.yaml"),
    ]


def test_a_missing_file_and_an_unwritable_directory_are_said(tmp_path: Path) -> None:
    assert "No such file" in render("-f", "nowhere.yaml", "--runtime", "k3s", code=1).stderr
    (tmp_path / "file").write_text("")
    target = str(tmp_path / "file" / "below")
    assert "--output-dir" in render("-f", "-", "--runtime", "k3s", "--output-dir", target, stdin=MIRROR, code=1).stderr


def test_a_link_below_the_output_directory_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "etc").symlink_to(outside)
    done = render("-f", "-", "--runtime", "containerd", "--output-dir", str(tmp_path / "out"), stdin=MIRROR, code=1)
    assert "symbolic link" in done.stderr
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("runtime", "path"),
    [
        ("microk8s", "/var/snap/microk8s/current/args/certs.d/quay.io/hosts.toml"),
        ("k0s", "/etc/k0s/containerd.d/registry-mirror.toml"),
        ("crio", "/etc/containers/registries.conf.d/50-registry-mirror.conf"),
    ],
)
def test_every_runtime_is_rendered_at_its_own_paths(runtime: str, path: str) -> None:
    assert f"# --- {path} (mode 0644)" in render("-f", "-", "--runtime", runtime, stdin=MIRROR).stdout


def test_a_runtime_that_nobody_knows_is_refused() -> None:
    assert run("render", "-f", "-", "--runtime", "docker").returncode == 2


@pytest.mark.parametrize("command", [[], ["render"], ["controller"], ["agent"]])
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "Example: " in done.stdout
    assert "Exit codes: 0 success" in " ".join(done.stdout.split())


def test_the_package_directory_does_not_hide_the_standard_library() -> None:
    code = "import operator; print(operator.__file__); operator.itemgetter(0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("operator.py")
    assert str(ROOT) not in done.stdout
