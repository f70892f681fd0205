"""Diffs say what changes and never what is secret, whatever form a file has."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
import yaml
from hypothesis import example, given, strategies as st

from registry_mirror.core.masked import MASK, diff, hide, secrets
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


# ---- what a program says ---------------------------------------------------------------------------------------------

PASSWORD = 'p"a/s&s <wörd>\\+'
PAIR = base64.b64encode(f"robot:{PASSWORD}".encode()).decode()


@pytest.mark.parametrize(
    "said",
    [
        PASSWORD,
        json.dumps(PASSWORD),
        json.dumps(PASSWORD, ensure_ascii=False),
        json.dumps({"msg": json.dumps(PASSWORD, ensure_ascii=False)}, ensure_ascii=False),
        json.dumps(PASSWORD, ensure_ascii=False)
        .replace("&", "\\u0026")
        .replace("<", "\\u003c")
        .replace(">", "\\u003e"),
        f"Authorization: Basic {PAIR}",
        PAIR.rstrip("="),
        base64.b64encode(PASSWORD.encode()).decode(),
        base64.b64encode(f"{PASSWORD}\n".encode()).decode(),
        base64.urlsafe_b64encode(f"robot:{PASSWORD}".encode()).decode(),
        quote(PASSWORD, safe=""),
        quote(PASSWORD),
        quote_plus(PASSWORD),
        PASSWORD.encode().hex(),
        PASSWORD[:9],
        PAIR[:20],
    ],
)
@pytest.mark.parametrize(
    ("path", "text"),
    [
        (REGISTRIES, yaml.safe_dump({"configs": {"r": {"auth": {"username": "robot", "password": PASSWORD}}}})),
        (REGISTRIES, yaml.safe_dump({"configs": {"r": {"auth": {"auth": PAIR}}}})),
        (HOSTS, f'[host."https://x".header]\n  Authorization = ["Basic {PAIR}"]\n'),
        ("/etc/containerd/config.toml", f'[a.auth]\nusername = "robot"\npassword = {json.dumps(PASSWORD)}\n'),
    ],
)
def test_what_a_file_keeps_secret_is_hidden_in_what_a_program_says_of_it(path: str, text: str, said: str) -> None:
    line = f"level=error msg=cannot read {path}: {said}"
    hidden = hide(line, secrets(path, text))
    assert said not in hidden
    assert hidden.startswith(f"level=error msg=cannot read {path}: ")
    assert PASSWORD[:9] not in hidden
    assert MASK in hidden


def test_only_secrets_are_hidden() -> None:
    text = "mirrors: {a: {endpoint: [https://mirror.example]}}\nconfigs: {r: {auth: {username: root, password: abc}}}"
    assert secrets(REGISTRIES, text) == {"root:abc"}
    line = "the root of docker.io is at https://mirror.example, abc"
    assert hide(line, secrets(REGISTRIES, text)) == line


def test_the_lines_of_a_key_are_hidden_and_those_of_a_certificate_are_not() -> None:
    key, certificate = builders.pem("client.key"), builders.pem("client.crt")
    for line in key.splitlines()[1:-1]:
        assert hide(f"failed: {line}", secrets("/x/client.key", key)) == f"failed: {MASK}"
    assert secrets("/x/client.crt", certificate) == set()


@pytest.mark.parametrize("path", [REGISTRIES, HOSTS])
def test_a_file_that_cannot_be_parsed_gives_what_looks_like_a_secret(path: str) -> None:
    assert SECRET in secrets(path, f"\t{{[\nauth:\n  password: {SECRET}\n")
    assert SECRET in secrets(path, f"= [\npassword = '{SECRET}'\n")


@given(password=st.text(st.characters(codec="utf-8"), min_size=4, max_size=30), around=st.text(max_size=5))
@example(password="-----BEGIN ", around="")
def test_no_password_gets_through(password: str, around: str) -> None:
    text = json.dumps({"configs": {"r": {"auth": {"username": "u", "password": password}}}})
    hidden = hide(f"{around}{password}", secrets(REGISTRIES, text))
    assert password not in hidden.replace(MASK, "")
