"""What K3s's and MicroK8s's own pages describe works here: the examples of our pages about them, imported and rendered
again, are to K3s and to containerd what they were.

That the import prints what our pages show is for tests/apiserver/test_how_to.py.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from registry_mirror.api.models import EmbeddedRegistry, RuntimeFacts
from registry_mirror.core.layout import default_facts
from registry_mirror.core.render.k3s_hosts import Registries, host_files
from tests.docs.pages import DOCS, Block, blocks, commands
from tests.harness.oracles import Containerd
from tests.importing.test_k3s_conformance import credentials
from tests.importing.tools import by_path, imported, rendered
from tests.pure import registries_yaml
from tests.pure.builders import by_directory, pem
from tests.pure.test_k3s_conformance import ordered

K3S = DOCS / "how-to" / "from-the-k3s-docs.md"
MICROK8S = DOCS / "how-to" / "from-the-microk8s-docs.md"
SNAP = "/var/snap/microk8s/current/args/certs.d"
TLS = {f"/etc/rancher/k3s/tls/{name}": name for name in ("client.crt", "client.key")}
FILES = {path: pem(name) for path, name in TLS.items()} | {"/etc/rancher/k3s/tls/ca.crt": pem("ca-one.crt")}
CA = {f"{SNAP}/10.141.241.175:32000/ca.crt": pem("ca-one.crt")}


def examples(page: Path, language: str, name: str) -> Iterator[tuple[str, Block, list[str]]]:
    """The files of a page whose name ends so: each with the words of the first command that names it."""
    found = list(blocks(page))
    for block in found:
        path = block.text.partition("\n")[0].removeprefix("# ")
        if block.language == language and path.endswith(name):
            lines = [line for item in found for line in commands(item) if path.partition("/")[0] in line.split()]
            yield path, block, shlex.split(lines[0]) if lines else []


# `denied.yaml` is an object, and not a file of K3s.
REGISTRIES = [item for item in examples(K3S, "yaml", ".yaml") if "import" in item[2]]
HOSTS = list(examples(MICROK8S, "toml", "hosts.toml"))


def flag(words: list[str], name: str) -> str:
    """The value of an option; empty without it."""
    return words[words.index(name) + 1] if name in words else ""


def test_all_examples_are_looked_at() -> None:
    assert (len(REGISTRIES), len(HOSTS)) == (9, 3)


@pytest.mark.parametrize(("path", "block", "words"), REGISTRIES, ids=[item[0] for item in REGISTRIES])
def test_k3s_makes_of_the_objects_what_it_makes_of_the_file(path: str, block: Block, words: list[str]) -> None:
    disable, address = "--disable-default-registry-endpoint" in words, flag(words, "--embedded-registry")
    embedded = EmbeddedRegistry(address=address, ca_file="a", cert_file="b", key_file="c") if address else None
    facts = replace(default_facts("k3s"), disable_default_endpoint=disable, embedded_registry=embedded)
    found = imported(block.text, path, FILES, runtime="k3s", disable_default=disable, embedded=address)
    assert not found.all_notes()
    result = rendered(found, facts)
    theirs = registries_yaml.read(block.text)

    # Where the files of TLS are is our own.
    places = {text: path for path, text in FILES.items()}
    moved = {item.path: places[item.content] for item in result.files if item.content in places}

    def at_home(text: str) -> str:
        for own, old in moved.items():
            text = text.replace(own, old)
        return text

    # What the next pull reads, and what the next start makes of our registries.yaml.
    assert {name: ordered(at_home(text)) for name, text in by_directory(result).items()} == hosts(theirs, facts)
    ours = registries_yaml.read(at_home(by_path(result)[facts.registries_file]))
    assert hosts(ours, facts) == hosts(theirs, facts)
    assert credentials(ours) == credentials(theirs)


def hosts(registries: Registries, facts: RuntimeFacts) -> dict[str, Any]:
    """What K3s renders (held to its own code by 46 recorded cases), but for what is of the embedded registry alone."""
    embedded = facts.embedded_registry
    files = host_files(registries, facts.name, facts.disable_default_endpoint, embedded)
    own = embedded.address if embedded is not None else ""
    return {name: ordered(item.file("", name).content) for name, item in files.items() if name != own}


@pytest.mark.parametrize(("path", "block", "words"), HOSTS, ids=[item[0] for item in HOSTS])
def test_containerd_asks_with_the_objects_whom_it_asks_with_the_file(
    path: str, block: Block, words: list[str], containerd_1: Containerd, tmp_path: Path
) -> None:
    folder, registry = path.partition("/")[0], posixpath.basename(posixpath.dirname(path))
    found = imported({registry: {"hosts.toml": block.text.encode()}}, folder, CA, runtime="microk8s")
    result = rendered(found, default_facts("microk8s"))

    def asked(name: str, text: str, files: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
        """Whom containerd asks, and which CAs it trusts there; the same one twice in a row is one."""
        for where, content in files.items():
            below = tmp_path / name / where.lstrip("/")
            below.parent.mkdir(parents=True)
            below.write_text(content)
            text = text.replace(f'"{where}"', f'"{below}"')
        file = tmp_path / name / registry / "hosts.toml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
        return list(dict.fromkeys((host.url, host.cas) for host in containerd_1.hosts(tmp_path / name, registry)))

    (ours,) = by_directory(result).values()
    rest = {item.path: item.content for item in result.files if not item.path.endswith("hosts.toml")}
    assert asked("ours", ours, rest) == asked("theirs", block.text, CA)
