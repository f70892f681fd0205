"""``registry-mirror import`` as a user runs it, what docs/import.md shows, and ``render`` for nodes of all kinds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.importing.tools import ROOT, run
from tests.pure.builders import pem

GOLDEN = Path(__file__).parent / "golden"
DOCS = (ROOT / "docs" / "import.md").read_text()
MIRRORS = b"mirrors: {quay.io: {endpoint: [a.example]}}\n"


def objects(text: str) -> dict[tuple[str, str], dict[str, object]]:
    return {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(text) if item}


def test_objects_go_to_standard_output_and_notes_to_both(tmp_path: Path) -> None:
    done = run("import", str(GOLDEN / "registries.yaml"), "--root", str(tmp_path), "-n", "elsewhere")
    assert "# note: configs['*'].auth: left out" in done.stdout
    assert "note: configs['*'].auth: left out" in done.stderr
    secret = objects(done.stdout)["Secret", "registry-example-com-5000-credentials"]
    assert secret["metadata"] == {"name": "registry-example-com-5000-credentials", "namespace": "elsewhere"}
    assert "the namespace elsewhere" in done.stderr


def test_files_that_it_names_are_looked_up_below_the_root(tmp_path: Path) -> None:
    certs = tmp_path / "etc" / "rancher" / "certs"
    certs.mkdir(parents=True)
    for name in ("ca-one.crt", "client.crt", "client.key"):
        (certs / name).write_text(pem(name))
    done = run("import", str(GOLDEN / "registries.yaml"), "--root", str(tmp_path))
    config_map = objects(done.stdout)["ConfigMap", "registry-example-com-5000-ca"]
    assert config_map["data"] == {"ca.crt": pem("ca-one.crt")}
    assert done.stdout == (GOLDEN / "registries.yaml.out.yaml").read_text()


def test_a_tree_has_its_own_files_beside_it(tmp_path: Path) -> None:
    for name, text in (("quay.io", 'ca = "ca.crt"\n'), ("private.example.com", None), ("empty.example.com", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ca.crt").write_text(pem("ca-one.crt"))
        if text is not None:
            (tmp_path / name / "hosts.toml").write_text(text)
    expected = {
        ("ConfigMap", "private-example-com-ca"),
        ("RegistryMirror", "private-example-com"),
        ("RegistryMirror", "quay-io"),
    }
    done = run("import", str(tmp_path))
    assert set(objects(done.stdout)) == expected
    alone = run("import", str(tmp_path / "quay.io" / "hosts.toml"))
    assert set(objects(alone.stdout)) == {("ConfigMap", "quay-io-ca"), ("RegistryMirror", "quay-io")}


def test_standard_input_is_recognised_by_its_content() -> None:
    texts = [
        MIRRORS,
        b'{"registry-mirrors": ["https://a.example"]}',
        b'[[registry]]\nlocation="quay.io"\ninsecure=true',
    ]
    for text in texts:
        assert objects(run("import", "-", stdin=text).stdout)
    refused = run("import", "-", stdin=b"what is this", code=1)
    assert "say with --runtime" in refused.stderr


def test_an_error_names_file_and_field_and_nothing_is_printed(tmp_path: Path) -> None:
    wrong = tmp_path / "registries.yaml"
    wrong.write_text("mirrors: {quay.io: {endpoint: [{a: b}]}}\n")
    good = tmp_path / "daemon.json"
    good.write_text('{"registry-mirrors": ["https://a.example"]}')
    done = run("import", str(good), str(wrong), code=1)
    assert done.stdout == ""
    assert done.stderr == f"error: {wrong}: mirrors['quay.io'].endpoint[0]: found an object; write text (in quotes)\n"


def test_a_registry_in_two_files_is_an_error_that_names_both(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_bytes(MIRRORS)
    done = run("import", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), code=1)
    assert str(tmp_path / "a.yaml") in done.stderr
    assert str(tmp_path / "b.yaml") in done.stderr


def test_the_help_has_an_example_and_all_options() -> None:
    done = run("import", "--help")
    for text in ("Example: registry-mirror import", "--root", "--embedded-registry", "--runtime", "Exit codes: 0"):
        assert text in done.stdout
    assert "  import " in run("--help").stdout
    assert run("import", code=2).stdout == ""
    assert "the port is missing" in run("import", "-", "--embedded-registry", "127.0.0.1", code=2).stderr


def test_what_k3s_would_render_differently_is_said() -> None:
    text = b"configs: {quay.io: {auth: {username: a, password: b}}}\n"
    assert "differently" not in run("import", "-", "--runtime", "k3s", stdin=text).stderr
    done = run("import", "-", "--runtime", "k3s", "--embedded-registry", "127.0.0.1:6443", stdin=text)
    assert "note: certs.d/quay.io: K3s will render it differently" in done.stderr


def test_render_knows_how_the_node_was_started() -> None:
    text = run("import", "-", stdin=MIRRORS).stdout.encode()
    shared = run("render", "-f", "-", "--runtime", "k3s", "--embedded-registry", "127.0.0.1:6443", stdin=text).stdout
    assert shared.index("https://127.0.0.1:6443/v2") < shared.index("https://a.example/v2")
    assert 'ca = ["server-ca"]' in shared
    assert 'client = [["client-cert", "client-key"]]' in shared
    named = run(
        "render",
        "-f",
        "-",
        "--runtime",
        "rke2",
        "--embedded-registry",
        "127.0.0.1:9345",
        "--embedded-ca",
        "/ca",
        "--embedded-cert",
        "/cert",
        "--embedded-key",
        "/key",
        stdin=text,
    ).stdout
    assert 'client = [["/cert", "/key"]]' in named
    denied = run("render", "-f", "-", "--runtime", "k3s", "--disable-default-registry-endpoint", stdin=text).stdout
    assert "server =" not in denied
    assert '[host."https://quay.io/v2"]' in denied
    refused = run("render", "-f", "-", "--runtime", "containerd", "--embedded-registry", "a:1", stdin=text, code=2)
    assert "k3s and rke2" in refused.stderr


def test_the_worked_example_in_the_documentation_works(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    script = tmp_path / ".venv" / "bin" / "registry-mirror"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m registry_mirror "$@"\n')
    script.chmod(0o755)
    (tmp_path / "harbor.crt").write_text(pem("ca-one.crt"))
    example = DOCS.split("## A worked example", 1)[1].split("\n## ", 1)[0]
    output = ""
    for block in re.findall(r"^```sh\n(.*?)^```", example, re.MULTILINE | re.DOTALL):
        done = subprocess.run(
            ["bash", "-ec", block],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT / "operator")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        output += done.stdout + done.stderr
    for shown in re.findall(r"^```(?:yaml|text)\n(.*?)^```", example, re.MULTILINE | re.DOTALL):
        for line in shown.splitlines():
            assert line in output.splitlines(), line


@pytest.mark.parametrize("word", ["registries.yaml", "hosts.toml", "config.toml", "registries.conf", "daemon.json"])
def test_the_documentation_speaks_of_every_format(word: str) -> None:
    assert word in DOCS
