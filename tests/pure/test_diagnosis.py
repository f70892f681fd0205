"""Rules of ``doctor`` that depend on versions and times, and the readers that they stand on.

What containerd 2.4 and 1.7 make of each hosts.toml here was seen with their own readers (tests/oracles); which registry
settings containerd 2.4.2 and 1.6.20 read, with their pulls through a mirror.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registry_mirror.api.models import RuntimeName
from registry_mirror.core.certificates import certificates
from registry_mirror.core.diagnosis import certs, containerd, endpoints, hosts, registries, runtime
from registry_mirror.core.diagnosis.evidence import Asked, Certs, File, Folder, Node, Record, Runs
from registry_mirror.core.finding import Finding, ordered
from registry_mirror.core.layout import default_facts
from registry_mirror.core.probing import Target

TOML = "/etc/containerd/config.toml"
CERTS = "/etc/containerd/certs.d"
V2, V3 = 'plugins."io.containerd.grpc.v1.cri"', 'plugins."io.containerd.cri.v1.images"'
PATH = f'config_path = "{CERTS}"\n'
OLD, SIX, NEW, LAST = "1.7.29", "1.6.20~ds1", "2.1.4", "2.4.2"
M = '[host]\n[host."https://m.example"]\n'


def reasons(found: object) -> list[str]:
    assert isinstance(found, tuple | list)
    return [item.reason for item in found]


# ---- hosts.toml ------------------------------------------------------------------------------------------------------


def read(text: str, version: str = LAST, registry: str = "quay.io", *, fork: bool = False) -> hosts.Hosts:
    return hosts.read(File(path="/hosts.toml", text=text), registry, version, fork=fork)


# The text, what is found with containerd 2 and with 1, and the endpoints that are asked with 2 and with 1.
URL = "https://m.example/v2"
BOTH: dict[str, tuple[str, list[str], list[str], list[str], list[str]]] = {
    "as it should be": (M, [], [], [URL], [URL]),
    "empty": ("", [], [], [], []),
    "no table of hosts": ('server = "https://quay.io"\n', [], ["HostTableMissing"], [], []),
    "without the bare line": ('[host."https://m.example"]\n', [], [], [URL], [URL]),
    "single quotes": ("[host]\n[ host . 'https://m.example' ] # x\n", [], [], [URL], [URL]),
    "dotted": ('host."https://m.example".capabilities = ["pull"]\n', ["HostTableIgnored"], [], [], [URL]),
    "inline": ('[host]\n"https://m.example" = {skip_verify = true}\n', ["HostTableIgnored"], [], [], [URL]),
    "host is a text": ('host = "x"\n', ["HostsFileInvalid"], ["HostsFileInvalid"], [], []),
    "a host is a text": ('[host]\n"https://m.example" = "x"\n', ["HostsFileInvalid"], ["HostsFileInvalid"], [], []),
    "a list of hosts": ("[[host]]\n", ["HostsFileInvalid"], ["HostsFileInvalid"], [], []),
    "server is a number": (f"server = 5\n{M}", ["HostsFileInvalid"], ["HostsFileInvalid"], [], []),
    "capabilities in capitals": (f'{M}capabilities = ["Pull"]\n', [], [], [URL], [URL]),
    "capabilities are a text": (f'{M}capabilities = "pull"\n', ["HostsFileInvalid"], ["HostsFileInvalid"], [], []),
    "ca is a number": (f"{M}ca = 5\n", ["HostsFileInvalid"], ["HostsFileInvalid"], [], []),
    "three files": (f'{M}client = [["a", "b", "c"]]\n', ["HostsFileInvalid"], ["HostsFileInvalid"], [], []),
    "header is a text": (f'{M}header = "x"\n', ["HostsFileInvalid"], ["HostsFileInvalid"], [], []),
    "a header is a number": (f"{M}header.a = 5\n", ["HostsFileInvalid"], ["HostsFileInvalid"], [], []),
    "override_path is a text": (f'{M}override_path = "yes"\n', ["HostsFileInvalid"], ["HostsFileInvalid"], [], []),
    "a duration": (f'{M}dial_timeout = "1m0.5s"\n', [], ["SettingTooNew"], [URL], [URL]),
    "no duration": (f'{M}dial_timeout = "5 s"\n', ["HostsFileInvalid"], ["SettingTooNew"], [], [URL]),
    "brackets": ('[host]\n[host."http://[fd00::1]:5000"]\n', [], ["IPv6Unreadable"], ["http://[fd00::1]:5000/v2"], []),
    "no port": ('[host]\n[host."https://m.example:x"]\n', ["HostsFileInvalid"], ["HostsFileInvalid"], [], []),
    "looks like a scheme": ('[host]\n[host."httpbin.org"]\n', ["EndpointInvalid"], ["EndpointInvalid"], [], []),
    "no scheme": ('[host]\n[host."m.example"]\n', ["SchemeMissing"], ["SchemeMissing"], [URL], [URL]),
    "an unknown key": (f"servr = 1\n{M}foo = 1\n", ["HostsKeyUnknown"], ["HostsKeyUnknown"], [URL], [URL]),
    "a path": (
        M.replace("example", "example/v2/a"),
        ["EndpointPathWrong"],
        ["EndpointPathWrong"],
        [f"{URL}/a/v2"],
        [f"{URL}/a/v2"],
    ),
    "a path that is taken": (
        M.replace("example", "example/v2/a") + "override_path = true\n",
        [],
        [],
        [f"{URL}/a"],
        [f"{URL}/a"],
    ),
    "a path that ends well": (M.replace("example", "example/v2/"), [], [], [URL], [URL]),
    "another server": (
        f'server = "https://other.example"\n{M}',
        [],
        [],
        [URL, "https://other.example/v2"],
        [URL, "https://other.example/v2"],
    ),
}


@pytest.mark.parametrize("name", BOTH)
def test_a_hosts_toml_means_what_each_line_of_containerd_makes_of_it(name: str) -> None:
    text, new, old, asked_new, asked_old = BOTH[name]
    for version, expected, asked in ((LAST, new, asked_new), (OLD, old, asked_old)):
        found = read(text, version)
        assert reasons(found.findings) == expected, version
        assert [item.url for item in found.hosts] == asked, version


def test_the_fork_of_k3s_knows_rewrites() -> None:
    text = f'{M}[host."https://m.example".rewrite]\n"^a" = "b"\n'
    assert reasons(read(text).findings) == ["RewriteIgnored"]
    assert read(text, fork=True).findings == ()


def test_docker_hub_has_three_names_of_its_own() -> None:
    for name in ("docker.io", "registry-1.docker.io", "index.docker.io"):
        assert not read(f'server = "https://{name}"\n{M}', registry="docker.io").server
    assert read(f'server = "https://mirror.example"\n{M}', registry="docker.io").server


def test_credentials_are_read_from_a_basic_header_and_shown_nowhere() -> None:
    header = '[host."https://m.example".header]\nAuthorization = "Basic cm9ib3Q6c3dvcmRmaXNo"\n'
    found = read(M + header)
    assert found.hosts[0].credentials is not None
    assert (found.hosts[0].credentials.username, found.hosts[0].credentials.password) == ("robot", "swordfish")
    assert "swordfish" not in repr(found)
    assert "cm9ib" not in repr(found)
    broken = read(M + header + "x = \n")
    assert reasons(broken.findings) == ["HostsFileInvalid"]
    assert "cm9ib" not in repr(broken)


@pytest.mark.parametrize("line", ['[host."https://robot:swordfish@m.example"]', '[host."robot:swordfish@m.example"]'])
def test_a_user_in_a_url_is_neither_sent_nor_shown(line: str) -> None:
    found = read(f"[host]\n{line}\n")
    assert reasons(found.findings)[-1] == "CredentialsInURL"
    assert [item.url for item in found.hosts] == [URL]
    twice = read(f"[host]\n{line}\n{line}\n")
    assert reasons(twice.findings) == ["HostsFileInvalid"]
    inline = read(f"{line[1:-1]} = {{}}\n")
    assert reasons(inline.findings) == ["HostTableIgnored"]
    assert "swordfish" not in repr((found, twice, inline))


def test_the_default_directory_needs_a_version() -> None:
    folder = Folder(name="_default", names=("hosts.toml",), hosts=File(path=f"{CERTS}/_default/hosts.toml", text=M))
    for version, expected in ((LAST, []), ("1.6.16", ["DefaultUnknown"]), ("1.6.17", []), ("", [])):
        node = Node(name="containerd", runs=Runs(version=version), certs=(Certs(path=CERTS, folders=(folder,)),))
        assert reasons(certs.read(node).findings) == expected


# ---- config.toml -----------------------------------------------------------------------------------------------------


def config(version: str, text: str, count: int = 1, name: RuntimeName = "containerd", **drop_ins: str) -> list[str]:
    others = tuple(File(path=f"/etc/containerd/conf.d/{key}.toml", text=item) for key, item in drop_ins.items())
    node = Node(name=name, runs=Runs(version=version), config=File(path=TOML, text=text), drop_ins=others)
    return reasons(list(containerd.check(node, names_of_hosts=count)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # By version: 2.4.2, 2.1.4, 1.7.29, 1.6.20, and one that is not known.
        (f"version = 3\n[{V3}.registry]\n{PATH}", ("", "", "ConfigVersionTooNew PluginWrong", "PluginWrong", "")),
        (f"version = 3\n[{V2}.registry]\n{PATH}", ("", "PluginWrong", "ConfigVersionTooNew", "", "PluginWrong")),
        (f"version = 2\n[{V2}.registry]\n{PATH}", ("", "", "", "", "")),
        (f"version = 2\n[{V3}.registry]\n{PATH}", ("", "", "PluginWrong", "PluginWrong", "PluginWrong")),
        (f"[plugins.cri.registry]\n{PATH}", ("", "", "", "", "")),
        (f"[{V2}.registry]\n{PATH}", ("", "", "PluginWrong", "PluginWrong", "PluginWrong")),
        ("version = 2\n", ("ConfigPathMissing",) * 5),
        (
            f"version = 4\n[{V3}.registry]\n{PATH}",
            ("", "ConfigVersionTooNew", "ConfigVersionTooNew PluginWrong", "PluginWrong", ""),
        ),
        (f'version = 2\n[{V2}.registry]\nconfig_path = "/a:/b"\n', ("ConfigPathList",) * 5),
        (
            f'version = 2\n[{V2}.registry]\n{PATH}[{V2}.registry.configs.m.tls]\nca_file = "/x"\n',
            ("", "", "TLSBesideConfigPath", "TLSBesideConfigPath", "TLSBesideConfigPath"),
        ),
        (
            f'version = 2\n[{V2}.registry]\n{PATH}[{V2}.registry.mirrors.m]\nendpoint = ["https://m"]\n',
            ("MirrorsBesideConfigPath",) * 5,
        ),
        (f'version = 2\n[{V2}.registry.mirrors.m]\nendpoint = ["https://m"]\n', ("ConfigPathMissing",) * 5),
        (
            f"version = 3\n[{V3}]\nuse_local_image_pull = true\n",
            (
                "",
                "ConfigPathMissing",
                "ConfigVersionTooNew ConfigPathMissing",
                "ConfigPathMissing",
                "ConfigPathMissing",
            ),
        ),
    ],
)
def test_what_is_read_of_a_configuration_depends_on_the_version(text: str, found: tuple[str, ...]) -> None:
    for version, expected in zip((LAST, NEW, OLD, SIX, ""), found, strict=True):
        assert config(version, text) == expected.split(), version


def test_a_list_is_an_error_where_pulls_take_it_for_one_directory() -> None:
    text = f'version = 3\n[{V3}.registry]\nconfig_path = "/a:/b"\n'
    node = Node(name="containerd", runs=Runs(version=LAST), config=File(path=TOML, text=text))
    assert [item.severity for item in containerd.check(node, names_of_hosts=1)] == ["error"]
    local = f"{text}[{V3}]\nuse_local_image_pull = true\n"
    node = Node(name="containerd", runs=Runs(version=LAST), config=File(path=TOML, text=local))
    assert [item.severity for item in containerd.check(node, names_of_hosts=1)] == ["warning"]
    assert config(LAST, text, count=0) == []


def test_config_path_is_from_1_5_on() -> None:
    assert config("1.4.13", f"version = 2\n[{V2}.registry]\n{PATH}") == ["ConfigPathUnknown"]


def test_an_import_replaces_a_plugin_in_1_x_and_is_merged_in_2() -> None:
    main, other = f"version = 2\n[{V2}.registry]\n{PATH}", f"version = 2\n[{V2}]\nsandbox_image = 'x'\n"
    assert config(OLD, main, a=other) == ["DropInReplaces"]
    assert config(LAST, main, a=other) == []
    elsewhere = f'version = 3\n[{V3}.registry]\nconfig_path = "/opt"\n'
    assert config(LAST, main, a=elsewhere) == ["DropInOverrides"]
    found = containerd.settings([File(path=TOML, text=main), File(path="/a.toml", text=elsewhere)], LAST)
    assert (found.paths, found.file) == (("/opt",), "/a.toml")


# ---- the rest of K3s -------------------------------------------------------------------------------------------------


def test_templates_of_containerd_1_and_2() -> None:
    facts = default_facts("k3s")
    folder = facts.config_path.rpartition("/")[0]
    base = '{{ template "base" . }}\n'
    for version, new, old, expected in (
        ("2.0.5-k3s1", base, "", []),
        ("2.0.5-k3s1", "", base, []),
        ("2.0.5-k3s1", "x = 1", base, ["TemplateIgnored", "TemplateWithoutConfigPath"]),
        ("1.7.23-k3s2", base, "", ["TemplateIgnored"]),
        ("1.7.23-k3s2", "", "x = 1\n", ["TemplateWithoutConfigPath"]),
    ):
        texts = {f"{folder}/config-v3.toml.tmpl": new, f"{folder}/config.toml.tmpl": old}
        files = {path: File(path=path, text=text) for path, text in texts.items() if text}
        node = Node(name="k3s", facts=facts, runs=Runs(version=version), others=files)
        assert reasons(list(registries.templates(node))) == expected


def test_an_entry_that_is_not_rendered_yet_waits_for_a_start() -> None:
    facts = default_facts("k3s")
    text = "mirrors:\n  quay.io: {endpoint: [https://m.example]}\n  docker.io: {endpoint: [https://registry-1.docker.io]}\n"
    file = File(path=facts.registries_file, text=text)
    node = Node(name="k3s", facts=facts, others={file.path: file}, runs=Runs(started=5))
    (found,) = registries.not_rendered(node, registries.read(node))
    assert (found.reason, found.subject) == ("NotRendered", facts.registries_file)
    assert "endpoints of quay.io are" in found.evidence


# ---- certificates ----------------------------------------------------------------------------------------------------


def test_the_times_of_a_certificate_are_those_that_openssl_reads() -> None:
    for name in ("ca-one.crt", "ca-two.crt", "client.crt"):
        path = Path(__file__).parent / "data" / name
        argv = ["openssl", "x509", "-in", str(path), "-noout", "-dates", "-dateopt", "iso_8601"]
        lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\n")
        expected = [datetime.fromisoformat(line.partition("=")[2]).astimezone(UTC).timestamp() for line in lines[:2]]
        (found,) = certificates(path.read_text())
        assert [found.begins, found.ends] == expected


@pytest.mark.parametrize("text", ["", "AAAA", "MAA=", "MIIB", "MAIwAA==", "gICAgICAgIA="])
def test_what_is_no_certificate_has_no_times(text: str) -> None:
    assert certificates(f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n") == ()


# ---- the runtime, the record, endpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (Runs(state="Listening", version=LAST), []),
        (Runs(), []),
        (Runs(state="Missing"), ["RuntimeNotRunning"]),
        (Runs(state="Dead", socket="/run/x.sock", unit="x.service"), ["RuntimeNotRunning"]),
        (Runs(state="Hung", socket="/run/x.sock"), ["RuntimeNotAnswering"]),
        (Runs(state="Listening", refused="no answer within 5 s"), ["RuntimeNotAnswering"]),
        (Runs(state="Listening", ready=False, message="shutting down"), ["RuntimeNotReady"]),
    ],
)
def test_what_runs(runs: Runs, expected: list[str]) -> None:
    assert reasons(list(runtime.check(Node(runs=runs)))) == expected


def test_what_waits_for_a_start() -> None:
    file = File(path=TOML, text="", modified=10)
    node = Node(name="containerd", runs=Runs(started=5, unit="c.service"), config=file)
    assert reasons(list(runtime.restart(node))) == ["RestartNeeded"]
    ours = Record(ours=(TOML,), waiting=("config_path of containerd",))
    node = Node(name="containerd", runs=Runs(started=5), config=file, record=ours)
    assert list(runtime.restart(node)) == []
    assert reasons(list(runtime.record(node))) == ["RestartWaiting"]
    assert list(runtime.record(Node(name="containerd", record=ours))) == []


def test_every_result_of_a_probe_has_a_remedy() -> None:
    item = endpoints.Endpoint(target=Target(url="https://m.example"), where="/hosts.toml:3")
    for reason, remedy in endpoints._REMEDIES.items():
        asked = Asked(url="https://m.example", reachable=False, reason=reason, message="it fails: do something")
        (found,) = endpoints.check([item], {asked.url: asked})
        assert (found.reason, found.remedy, found.severity) == (reason, remedy, "error")
        assert found.evidence.startswith("/hosts.toml:3: it fails; ")


def test_findings_are_shown_once_errors_first() -> None:
    one = Finding(reason="B", severity="warning", subject="s", evidence="e", remedy="r")
    two = Finding(reason="C", severity="error", subject="s", evidence="e", remedy="r")
    assert ordered([one, two, one]) == (two, one)
