"""The corpus at every entrance: what is taken arrives as it is and where it belongs, and what is refused is refused in
words that harm no terminal.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tomllib
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from registry_mirror.agent import state as memory
from registry_mirror.agent.apply import apply
from registry_mirror.agent.host import Host
from registry_mirror.api import parse
from registry_mirror.api.errors import InvalidError
from registry_mirror.api.models import RuntimeName
from registry_mirror.core.bundle import seal
from registry_mirror.core.layout import default_facts, layout
from registry_mirror.core.render import RENDERERS, render
from registry_mirror.core.resolve import ResolvedMirror, resolve, source
from registry_mirror.kube.rest import from_kubeconfig
from tests.harness.controlplane import ControlPlane
from tests.harness.pytest_support import require_assets
from tests.hostile.corpus import Case, cases
from tests.importing.tools import imported, printed

ROOT = Path(__file__).resolve().parents[2]
CASES = [case for case in cases() if len(case.value) < 2000]
HUGE = [case for case in cases() if len(case.value) >= 2000]
OBJECTS = [case for case in (*CASES, *HUGE) if case.field != "password"]


def document(case: Case, index: int = 0) -> dict[str, Any]:
    """An object with the value in it, and all else as it should be."""
    endpoint: dict[str, Any] = {"url": case.value if case.field == "url" else f"https://m{index}.example/v2/x"}
    if case.field == "password":
        endpoint["credentialsRef"] = {"name": "secret"}
    spec: dict[str, Any] = {"registry": f"r{index}.example", "endpoints": [endpoint]}
    if case.field == "registry":
        spec["registry"] = case.value
    if case.field in ("pattern", "replacement"):
        spec["rewrites"] = [{"pattern": "^(x)", "replacement": "y", case.field: case.value}]
    kind = {"apiVersion": "registrymirror.io/v1alpha1", "kind": "RegistryMirror"}
    return {**kind, "metadata": {"name": f"m{index}"}, "spec": spec}


def secret(value: str) -> dict[str, Any]:
    texts = {"username": "robot", "password": value}
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret"}, "data": data}


def mirror(case: Case, index: int = 0) -> ResolvedMirror:
    """The object as a node gets it. Raises InvalidError."""
    return resolve(parse.registry_mirror(document(case, index)), {("Secret", "secret"): source(secret(case.value))})


def harmless(text: str) -> None:
    """No control characters, nothing that is invisible or turns text around, no traceback, no end of lines."""
    odd = [char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") and char != "\n"]
    assert not odd, ascii(text[:300])
    assert "Traceback" not in text
    assert len(text) < 5000


def leaves(value: Any) -> Iterator[str]:
    """All strings in a document, keys included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield str(value)


def test_the_corpus_has_both_kinds() -> None:
    for field in ("registry", "url", "pattern", "replacement", "password"):
        verdicts = {case.taken for case in CASES if case.field == field}
        assert verdicts == ({False} if field == "registry" else {True, False})


@pytest.mark.parametrize("case", [*CASES, *HUGE], ids=str)
def test_it_is_taken_or_refused_as_listed(case: Case) -> None:
    if case.taken:
        assert mirror(case).name
        return
    with pytest.raises(InvalidError) as error:
        mirror(case)
    harmless(str(error.value))
    if case.field == "password":
        assert case.value not in str(error.value)


@pytest.mark.parametrize("runtime", sorted(RENDERERS))
def test_what_is_taken_arrives_as_it_is_and_where_it_belongs(runtime: RuntimeName) -> None:
    facts = default_facts(runtime)
    for case in (case for case in CASES if case.taken):
        found = render(facts, [mirror(case)])
        texts = [file.content for file in found.files]
        assert all(layout(facts).allows(file.path) for file in found.files), case
        if found.problems:
            assert all(problem.reason.isalnum() for problem in found.problems)
            for problem in found.problems:
                harmless(problem.message)
            continue
        parsed = [_parsed(file.path, file.content) for file in found.files if not file.path.endswith(".crt")]
        seen = {leaf for document in parsed for leaf in leaves(document)}
        wanted = {case.value, "Basic " + base64.b64encode(f"robot:{case.value}".encode()).decode()}
        wanted.add(case.value.removeprefix("https://"))
        assert wanted & seen, (case, texts)


def _parsed(path: str, text: str) -> Any:
    return tomllib.loads(text) if path.endswith((".toml", ".conf")) else yaml.safe_load(text)


def test_all_of_it_at_once_lands_on_a_node_where_it_belongs_and_goes_again(tmp_path: Path) -> None:
    facts = default_facts("k3s")
    taken = [case for case in CASES if case.taken]
    mirrors = [mirror(case, index) for index, case in enumerate(taken)]
    found = render(facts, mirrors)
    bundle = seal("k3s", found, tuple(mirrors), b"k" * 32)
    (tmp_path / "etc/rancher/k3s").mkdir(parents=True)
    host = Host(tmp_path)
    state, _ = apply(host, memory.load(host), bundle, facts)
    written = {f"/{path.relative_to(tmp_path)}": path for path in tmp_path.rglob("*") if path.is_file()}
    ours = {path: file.read_text() for path, file in written.items() if not path.startswith(memory.DIRECTORY)}
    assert ours == {file.path: file.content for file in bundle.files}
    assert all(layout(facts).allows(path) for path in ours)
    nothing = seal("k3s", render(facts, []), (), b"k" * 32)
    apply(host, state, nothing, facts)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and memory.DIRECTORY not in str(path)]
    assert left == []


# ---- import ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_import_gives_objects_that_are_taken_or_words(case: Case) -> None:
    url = case.value if case.field == "url" else "https://m.example"
    body: dict[str, Any] = {"endpoint": [url]}
    if case.field in ("pattern", "replacement"):
        body["rewrite"] = {case.value: "y"} if case.field == "pattern" else {"^(x)": case.value}
    text: dict[str, Any] = {"mirrors": {case.value if case.field == "registry" else "r.example": body}}
    if case.field == "password":
        text["configs"] = {"m.example": {"auth": {"username": "robot", "password": case.value}}}
    try:
        found = printed(imported(yaml.safe_dump(text), "registries.yaml", runtime="k3s"))
    except InvalidError as error:
        harmless(str(error))
        return
    documents = [item for item in yaml.safe_load_all(found) if item]
    materials = [source(item) for item in documents if item["kind"] != "RegistryMirror"]
    sources = {(item.kind, item.name): item for item in materials}
    for item in documents:
        if item["kind"] == "RegistryMirror":
            resolve(parse.registry_mirror(item), sources)
    comments = "\n".join(line for line in found.splitlines() if line.startswith("#"))
    harmless(comments)


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["render", "import"])
def test_an_error_of_the_command_line_does_nothing_to_a_terminal(tmp_path: Path, command: str) -> None:
    bad = tmp_path / "bad\x1b[31m\n\u202e.yaml"
    bad.write_text(json.dumps(document(Case("registry", "docker\x1b]0;x\x07\n.io", False))) + "\n---\n\x1b[31m: [")
    broken = tmp_path / "broken.yaml"
    broken.write_text(json.dumps(document(Case("url", "https://m\x1b[31m\u202e.example", False))))
    missing = tmp_path / "missing\x1b[31m.yaml"
    for path in (bad, broken, missing):
        words = [command, "--runtime", "k3s", "-f", str(path)] if command == "render" else [command, str(path)]
        env = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
        argv = [sys.executable, "-m", "registry_mirror", *words]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
        # To import, an object is a file that says nothing about registries.
        assert done.returncode == 1 or (command == "import" and path is broken)
        harmless(done.stdout + done.stderr)


# ---- the API server --------------------------------------------------------------------------------------------------


@pytest.mark.apiserver
def test_the_api_server_takes_and_refuses_the_same(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    with ControlPlane(tmp_path, require_assets(pytestconfig)) as plane:
        plane.kubectl("apply", "-k", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd/registrymirrors.registrymirror.io")
        access = from_kubeconfig(plane.admin_kubeconfig)
        context = urllib3.util.create_urllib3_context()
        context.load_verify_locations(cadata=access.ca)
        pool = urllib3.PoolManager(ssl_context=context, retries=False)
        url = f"{access.server}/apis/registrymirror.io/v1alpha1/registrymirrors?dryRun=All"
        headers = {"Authorization": f"Bearer {access.token}", "Content-Type": "application/json"}
        wrong = []
        for case in OBJECTS:
            answer = pool.request("POST", url, body=json.dumps(document(case)), headers=headers)
            body = json.loads(answer.data)
            if case.value == "x/${x}":
                continue  # CEL cannot count the groups of a pattern: the parser alone refuses it
            if (answer.status == 201) != case.taken:
                wrong.append((str(case), answer.status, body.get("message", "")[:200]))
            elif not case.taken:
                assert answer.status == 422, body
                harmless(body["message"])
        assert wrong == []
