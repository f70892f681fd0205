"""Diffs say what changes and never what is secret, whatever form a file has."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from registry_mirror.core.masked import diff
from registry_mirror.core.render import render
from registry_mirror.core.resolve import Credentials
from tests.pure import builders

REGISTRIES = "/etc/rancher/k3s/registries.yaml"
HOSTS = "/etc/containerd/certs.d/docker.io/hosts.toml"
SECRET = "s3cr3t-value"


def test_what_changes_is_shown() -> None:
    old = "mirrors:\n  docker.io:\n    endpoint: [https://a.example]\n"
    new = old.replace("a.example", "b.example")
    assert [line for line in diff(REGISTRIES, old, new) if line[:1] in "+-"] == [
        f"--- {REGISTRIES}",
        f"+++ {REGISTRIES}",
        "-      - 'https://a.example'",
        "+      - 'https://b.example'",
    ]


def test_a_new_and_a_removed_file_are_shown_whole() -> None:
    assert diff(HOSTS, None, 'server = "https://x"\n')[:2] == ["--- /dev/null", f"+++ {HOSTS}"]
    assert diff(HOSTS, 'server = "https://x"\n', None)[:2] == [f"--- {HOSTS}", "+++ /dev/null"]
    assert diff(HOSTS, None, None) == []
    assert diff(HOSTS, "a = 1\n", "a = 1\n") == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (REGISTRIES, f"configs:\n  r:\n    auth:\n      username: u\n      password: {SECRET}\n"),
        (REGISTRIES, f"configs:\n  r:\n    auth: {{password: |\n  {SECRET}\n}}\n"),
        (REGISTRIES, f"configs:\n  r:\n    auth:\n      password: >-\n        {SECRET}\n"),
        (REGISTRIES, f"configs:\n  r:\n    auth:\n    - {SECRET}\n"),
        (REGISTRIES, f"configs:\n  r:\n    auth:\n      ? [1]\n      : {SECRET}\n"),
        (REGISTRIES, f"configs:\n  r:\n    Auth: {{IDENTITY_TOKEN: {SECRET}}}\n"),
        (REGISTRIES, f"configs: {{r: {{auth: {{auth: {SECRET}}}\n"),
        (REGISTRIES, SECRET),
        (HOSTS, f'[host."https://x".header]\n  Authorization = "Basic {SECRET}"\n  X-Any = ["{SECRET}"]\n'),
        (HOSTS, f'[header]\n  x = """\n{SECRET}"""\n'),
        (HOSTS, f'password = "{SECRET}\n'),
        ("/etc/containerd/config.toml", f"[a.registry.configs.r.auth]\nidentitytoken = '{SECRET}'\n"),
        ("/x/key.pem", f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n"),
    ],
)
def test_secrets_are_never_shown(path: str, text: str) -> None:
    for lines in (diff(path, None, text), diff(path, text, None), diff(path, text, text.replace(SECRET, "other"))):
        assert lines
        assert SECRET not in "\n".join(lines)


def test_a_change_of_a_credential_alone_is_said_to_be_one() -> None:
    text = "configs:\n  r:\n    auth:\n      password: {}\n"
    assert "credentials" in diff(REGISTRIES, text.format("a1"), text.format("b2"))[-1]


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))))
def test_a_rendered_password_is_never_shown(text: str) -> None:
    password = f"pw7Q-{text}"  # so that it is in nothing else by chance
    credentials = Credentials(username="robot", password=password)
    endpoint = builders.endpoint("https://m.example.com", credentials=credentials)
    for facts in (builders.K3S, builders.CONTAINERD):
        for file in render(facts, [builders.mirror("docker.io", endpoint)]).files:
            shown = "\n".join(diff("f.toml" if file.path.endswith(".toml") else "f.yaml", None, file.content))
            assert shown
            assert password not in shown
            assert credentials.basic().removeprefix("Basic ") not in shown
