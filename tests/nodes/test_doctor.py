"""``registry-mirror doctor --local`` on a real node: what is planted is found, one fault after another, and a healthy
node has nothing wrong. The runtime's own answers, its restarts and its registries are what the trees of
tests/cli/test_doctor.py have not.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry_mirror.agent.examine import Examiner
from registry_mirror.core.diagnosis.whole import examined
from registry_mirror.core.finding import Examined
from tests.harness.cluster import mirror
from tests.harness.cri import CRI, CRIError
from tests.harness.node import Node
from tests.harness.registries import Registries, Registry
from tests.nodes import hosts
from tests.nodes.hosts import CONFIG, HOSTS, UPSTREAM

CERTS = "/etc/containerd/certs.d"
CA, CERTIFICATE, KEY = "/etc/doctor/ca.crt", "/etc/doctor/client.crt", "/etc/doctor/client.key"
DROP_IN, STATE = "/etc/containerd/conf.d/a.toml", "/var/lib/registry-mirror"
OTHER = f"{CERTS}/quay.io/hosts.toml"


@dataclass(frozen=True)
class Site:
    """A healthy node with a mirror that speaks TLS, which is in its one hosts.toml."""

    node: Node
    tls: Registry
    basic: Registry
    hung: Registry
    client: tuple[str, str]
    ca: str

    def mend(self) -> None:
        """Have the node's files as a healthy node has them."""
        self.node.run("rm", "-rf", CERTS, "/etc/containerd/conf.d", "/etc/doctor", "/var/lib/registry-mirror")
        self.node.write(CA, self.ca)
        self.node.write(CERTIFICATE, self.client[0])
        self.node.write(KEY, self.client[1], 0o600)
        hosts.use(self.node, UPSTREAM, self.tls.url, ca=CA, client=(CERTIFICATE, KEY))

    def look(self) -> Examined:
        """Examine the node as the agent does, from outside of it."""
        return examined(Examiner(self.node.root, "containerd", timeout=5.0))


@pytest.fixture(scope="module")
def site(new_node: Node, registries: Registries) -> Site:
    client = registries.authority.issue("doctor")
    made = Site(
        new_node,
        registries.tls("tls"),
        registries.basic("basic", {"robot": "right"}),
        registries.plain("hung"),
        (client.certificate.read_text(), client.key.read_text()),
        registries.authority.certificate.read_text(),
    )
    made.mend()
    return made


def command(node: Node, *words: str) -> tuple[int, str]:
    answer = node.run(sys.executable, "-m", "registry_mirror.cli.main", "doctor", "--local", *words, timeout=90.0)
    assert "Traceback" not in answer.stderr
    return answer.returncode, answer.stdout


def everything(node: Node) -> dict[str, tuple[int, int, int]]:
    """Every file below the directories that anything of ours could change, by inode, mode and time."""
    found = {}
    for top in ("/etc", "/var/lib/registry-mirror", "/run/containerd"):
        for folder, _, names in os.walk(node.path(top)):
            for name in names:
                info = Path(folder, name).lstat()
                found[f"{folder}/{name}"] = (info.st_ino, info.st_mode, info.st_mtime_ns)
    return found


def test_a_healthy_node_has_nothing_wrong_and_is_left_as_it_is(site: Site) -> None:
    before, pid = everything(site.node), site.node.runtime_pid
    code, text = command(site.node)
    assert (everything(site.node), site.node.runtime_pid) == (before, pid)
    name = site.node.read("/etc/hostname").strip()
    assert (code, text) == (
        0,
        f"{name}: containerd 2.4.2; 5 files read, 1 endpoint asked\nnothing is wrong\n",
    )


def test_a_node_configured_by_apply_has_nothing_wrong(site: Site) -> None:
    site.mend()
    site.node.write("/root/mirrors.yaml", json.dumps(mirror("test", "quay.io", site.hung.url)))
    words = ("apply", "--local", "-f", "/root/mirrors.yaml", "--restart", "never")
    assert site.node.run(sys.executable, "-m", "registry_mirror.cli.main", *words).returncode == 0
    found = site.look()
    assert found.findings == ()
    assert len(found.endpoints) == 2


# What is written on the healthy node, the reason, and the file or endpoint. {tls}, {basic} and {hung} are URLs.
Files = Mapping[str, str]
TABLE = '[host]\n[host."{tls}"]\n  ca = "/etc/doctor/ca.crt"\n'
GOOD = 'version = 3\n[plugins."io.containerd.cri.v1.images".registry]\n  config_path = "/etc/containerd/certs.d"\n'
FAULTS: dict[str, tuple[Files, str, str]] = {
    "no TOML": ({HOSTS: "server = https://registry.test\n"}, "HostsFileInvalid", HOSTS),
    "a wrong type": ({HOSTS: f'{TABLE}  skip_verify = "no"\n'}, "HostsFileInvalid", HOSTS),
    "a wrong capability": ({HOSTS: f'{TABLE}  capabilities = ["get"]\n'}, "HostsFileInvalid", HOSTS),
    "an unknown key": ({HOSTS: f"{TABLE}  overide_path = true\n"}, "HostsKeyUnknown", HOSTS),
    "no scheme": ({HOSTS: f'server = "registry.test"\n{TABLE}'}, "SchemeMissing", HOSTS),
    "an inline table": ({HOSTS: '[host]\n"{tls}" = {{capabilities = ["pull"]}}\n'}, "HostTableIgnored", HOSTS),
    "a path": ({HOSTS: TABLE.replace("{tls}", "{tls}/v2/hub")}, "EndpointPathWrong", HOSTS),
    "a rewrite": ({HOSTS: TABLE + '  [host."{tls}".rewrite]\n  "a" = "b"\n'}, "RewriteIgnored", HOSTS),
    "a shadow": (
        {f"{CERTS}/q.io:443/hosts.toml": TABLE, f"{CERTS}/q.io_443_/hosts.toml": TABLE},
        "DirectoryShadowed",
        f"{CERTS}/q.io:443",
    ),
    "a hidden default": (
        {f"{CERTS}/_default/hosts.toml": TABLE, f"{CERTS}/ghcr.io/readme": ""},
        "DefaultHidden",
        f"{CERTS}/ghcr.io",
    ),
    "Docker Hub": (
        {f"{CERTS}/registry-1.docker.io/hosts.toml": TABLE},
        "DirectoryNeverRead",
        f"{CERTS}/registry-1.docker.io",
    ),
    "no CA": ({OTHER: TABLE.replace("ca.crt", "gone.crt")}, "CertificateFileMissing", "/etc/doctor/gone.crt"),
    "a CA that is none": ({CA: "nothing\n"}, "CertificateFileInvalid", CA),
    "the key of another": ({KEY: "{other}"}, "ClientKeyMismatch", KEY),
    "not trusted": ({HOSTS: '[host."{tls}"]\n'}, "CertificateNotTrusted", "{tls}"),
    "plain HTTP": ({OTHER: TABLE.replace("{tls}", "{plain}")}, "TLSFailed", "{plain}"),
    "no password": ({OTHER: '[host."{basic}"]\n'}, "CredentialsMissing", "{basic}"),
    "a wrong password": (
        {OTHER: '[host."{basic}"]\n[host."{basic}".header]\nAuthorization = "Basic cm9ib3Q6d3Jvbmc="\n'},
        "Unauthorized",
        "{basic}",
    ),
    "a wrong port": ({OTHER: '[host."http://{address}:1"]\n'}, "ConnectionRefused", "http://{address}:1"),
    "a wrong name": ({OTHER: '[host."http://mirror.invalid"]\n'}, "NameNotResolved", "http://mirror.invalid"),
    "a drop-in beside it": (
        {"/etc/containerd/conf.d/a.toml": GOOD},
        "DropInNotImported",
        "/etc/containerd/conf.d/a.toml",
    ),
    "a record that is damaged": (
        {"/var/lib/registry-mirror/state.json": "{{"},
        "StateDamaged",
        "/var/lib/registry-mirror",
    ),
}


@pytest.fixture(scope="module")
def words(site: Site, registries: Registries) -> dict[str, str]:
    return {
        "tls": site.tls.url,
        "basic": site.basic.url,
        "plain": site.hung.url.replace("http:", "https:"),
        "address": site.hung.host,
        "other": registries.authority.issue("another").key.read_text(),
    }


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(site: Site, words: Mapping[str, str], name: str) -> None:
    files, reason, subject = FAULTS[name]
    site.mend()
    for path, text in files.items():
        site.node.write(path, text.format_map(words), 0o600)
    found = site.look().findings
    assert [(item.reason, item.subject) for item in found] == [(reason, subject.format_map(words))], found


# ---- what only a runtime that runs can have --------------------------------------------------------------------------


def restart(node: Node) -> None:
    node.systemctl("reset-failed", node.flavour.unit)  # systemd counts starts
    node.systemctl("restart", node.flavour.unit)


@contextlib.contextmanager
def restarted(site: Site, config: str) -> Iterator[None]:
    """Have containerd run with another configuration."""
    before = site.node.read(CONFIG)
    site.mend()
    site.node.write(CONFIG, config)
    restart(site.node)
    try:
        yield
    finally:
        site.node.write(CONFIG, before)
        restart(site.node)
        CRI(site.node).wait()


def reasons(site: Site) -> list[str]:
    return [item.reason for item in site.look().findings]


def test_an_endpoint_that_hangs_and_a_registry_that_is_gone(site: Site) -> None:
    site.mend()
    hosts.use(site.node, "quay.io", site.hung.url)
    site.hung.hang()
    try:
        assert [(item.reason, item.subject) for item in site.look().findings] == [("TimedOut", site.hung.url)]
    finally:
        site.hung.resume()
    assert reasons(site) == []


def test_a_configuration_that_the_runtime_has_not_read(site: Site) -> None:
    site.mend()
    site.node.write(CONFIG, site.node.read(CONFIG))
    assert reasons(site) == ["RestartNeeded"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("", "ConfigPathMissing"), ('config_path = "/etc/containerd/certs.d:/etc/docker/certs.d"', "ConfigPathList")],
)
def test_a_configuration_with_which_no_pull_comes_through_the_mirror(site: Site, path: str, reason: str) -> None:
    site.tls.push("team/app", reason.lower())
    image = f"{UPSTREAM}/team/app:{reason.lower()}"
    with restarted(site, site.node.read(CONFIG).replace('config_path = "/etc/containerd/certs.d"', path)):
        CRI(site.node).wait()
        (found,) = site.look().findings
        assert (found.reason, found.severity) == (reason, "error")
        with pytest.raises(CRIError):
            CRI(site.node).pull(image)
    assert reasons(site) == []
    CRI(site.node).pull(image)


def test_mirrors_beside_config_path_and_a_runtime_that_is_stopped(site: Site) -> None:
    mirrors = '[plugins."io.containerd.cri.v1.images".registry.mirrors."a.example"]\nendpoint = ["https://b.example"]\n'
    with restarted(site, f"{site.node.read(CONFIG)}\n{mirrors}"):
        site.node.until(lambda: "unknown service" in str(site.look()), "its CRI plugin has not started", 30.0)
        assert reasons(site) == ["MirrorsBesideConfigPath", "RuntimeNotAnswering"]
        code, text = command(site.node)
        assert code == 4
        name = site.node.read("/etc/hostname").strip()
        assert text == GOLDEN.format(name=name, line=_line(site.node.read(CONFIG), "registry.mirrors"))
        site.node.systemctl("stop", site.node.flavour.unit)
        assert reasons(site) == ["MirrorsBesideConfigPath", "RuntimeNotRunning"]


def _line(text: str, word: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if word in line)


GOLDEN = """\
{name}: containerd; 5 files read, 1 endpoint asked
2 errors

error MirrorsBesideConfigPath /etc/containerd/config.toml
  line {line}: registry.mirrors is set beside config_path
  -> remove the mirrors, and write a hosts.toml for each: containerd's CRI plugin does not start with both

error RuntimeNotAnswering containerd.service
  it does not answer the calls of the kubelet: unimplemented: unknown service runtime.v1alpha2.RuntimeService
  -> its CRI plugin did not start: journalctl -u containerd.service has the reason, which is mostly in config.toml
"""
