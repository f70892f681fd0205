"""Whatever stands in a file: a correct result or a clear error, in bounded time, and no value of it in a message."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from registry_mirror.api.errors import InvalidError
from registry_mirror.core.importing.convert import Imported
from registry_mirror.core.importing.documents import Document
from registry_mirror.core.importing.emit import emit
from registry_mirror.core.importing.reading import MAX_BYTES
from tests.importing.tools import imported, printed, resolved, run, specs
from tests.pure.builders import pem

GOLDEN = Path(__file__).parent / "golden"
NAMES = {
    "k3s": "registries.yaml",
    "containerd": "schema-3.toml",
    "microk8s": "microk8s-template.toml",
    "crio": "registries.conf",
    "docker": "daemon.json",
}
SECRET = "swordfish-never-shown"


def attempt(content: Any, path: str, **options: Any) -> Imported | None:
    """Import; what comes of it must be applicable, or a clear error without control characters."""
    started = time.monotonic()
    message, found = "", None
    try:
        found = imported(content, path, **options)
    except InvalidError as error:
        message = str(error)
    if found is None:
        assert time.monotonic() - started < 10
        assert message
        assert all(char.isprintable() or char == "\n" for char in message), repr(message)
        assert SECRET not in message
        return None
    text = printed(found)
    if "is missing" not in text:
        resolved(found)
    assert time.monotonic() - started < 10
    return found


@pytest.mark.parametrize("runtime", [*NAMES, "auto"])
def test_random_bytes(runtime: str) -> None:
    source = random.Random(1)
    for size in (0, 1, 7, 100, 5000):
        for _ in range(20):
            attempt(source.randbytes(size), "file", runtime=runtime)


@pytest.mark.parametrize("runtime", NAMES)
def test_truncated_and_damaged_files(runtime: str) -> None:
    source = random.Random(2)
    raw = (GOLDEN / NAMES[runtime]).read_bytes()
    for end in range(0, len(raw), 7):
        attempt(raw[:end], NAMES[runtime], runtime=runtime)
    for _ in range(200):
        damaged = bytearray(raw)
        for _ in range(3):
            damaged[source.randrange(len(raw))] = source.choice(b"\"'[]{}:=.,#\n\\ \x00\xff*&!%@/")
        attempt(bytes(damaged), NAMES[runtime], runtime=runtime)


WRONG: tuple[Any, ...] = (
    None,
    True,
    5,
    -1.5,
    "",
    "text",
    "\n# evil: yes",
    [],
    [[]],
    [5, {}],
    {},
    {"": ""},
    {"a": {"b": []}},
)


def mutations(value: Any) -> list[Any]:
    """The same document with each of its parts in turn replaced by something of another type."""
    found: list[Any] = list(WRONG)
    if isinstance(value, dict):
        for key in value:
            found += [{**value, key: item} for item in mutations(value[key])]
    elif isinstance(value, list):
        for index, old in enumerate(value):
            found += [[*value[:index], item, *value[index + 1 :]] for item in mutations(old)]
    return found


def test_wrong_types_everywhere() -> None:
    documents = mutations(yaml.safe_load((GOLDEN / "registries.yaml").read_text()))
    assert len(documents) > 300
    for document in documents:
        attempt(yaml.safe_dump(document), "registries.yaml", runtime="k3s")
    for document in mutations(msgspec.json.decode((GOLDEN / "daemon.json").read_bytes())):
        attempt(msgspec.json.encode(document), "daemon.json", runtime="docker")


VALUES = (
    "5",
    "true",
    '"x"',
    '"\\n# evil"',
    "[]",
    "[[]]",
    "{}",
    '["a", 5]',
    "1979-05-27",
    "{a = {b = [1]}}",
    '[["a"], ["b", "c", "d"]]',
)
HOSTS_KEYS = (
    "server",
    "host",
    "capabilities",
    "ca",
    "client",
    "skip_verify",
    "header",
    "override_path",
    "dial_timeout",
    "rewrite",
)


@pytest.mark.parametrize("value", VALUES)
def test_wrong_types_in_toml(value: str) -> None:
    for key in HOSTS_KEYS:
        for text in (f"{key} = {value}\n", f'[host."https://a.example"]\n{key} = {value}\n'):
            attempt({"quay.io": {"hosts.toml": text.encode()}}, "certs.d")
    for key in ("registry", "unqualified-search-registries", "registries"):
        attempt(f"{key} = {value}\n", "registries.conf")
    for key in ("prefix", "location", "insecure", "blocked", "mirror"):
        attempt(
            '[[registry]]\nlocation = "quay.io"\n'.replace("location", "prefix") + f"{key} = {value}\n",
            "registries.conf",
        )
    for path in (
        "plugins",
        "plugins.cri",
        "plugins.cri.registry",
        "plugins.cri.registry.mirrors",
        "plugins.cri.registry.configs",
    ):
        attempt(f"{path} = {value}\n", "config.toml")
        attempt(f'[{path}]\n"a.example" = {value}\n', "config.toml")
        attempt(f'[{path}."a.example"]\nendpoint = {value}\nauth = {value}\n', "config.toml")


@pytest.mark.parametrize(
    "name", ["../../../../etc/ssh", "..", ".", "/", "a/../b", "a b", "x\ny", "[::", "a:b:c", "-a.b"]
)
def test_a_registry_that_is_a_path_is_refused_everywhere(name: str) -> None:
    with pytest.raises(InvalidError, match="host"):
        imported(yaml.safe_dump({"mirrors": {name: {"endpoint": ["https://a.example"]}}}), "registries.yaml")
    with pytest.raises(InvalidError, match="host"):
        imported(yaml.safe_dump({"configs": {name: {"tls": {"insecure_skip_verify": True}}}}), "registries.yaml")
    with pytest.raises(InvalidError, match="host"):
        imported({name: {"hosts.toml": b'[host."https://a.example"]'}}, "certs.d")
    quoted = msgspec.json.encode(name).decode()
    with pytest.raises(InvalidError, match="host"):
        imported(f'[plugins.cri.registry.mirrors.{quoted}]\nendpoint = ["https://a.example"]\n', "config.toml")


BOMBS = {
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "merges": "a: &a {x: {}}\n"
    + "".join(
        f"b{n}: &b{n} {{<<: [{', '.join([f'*{p}'] * 5)}]}}\n"
        for n, p in enumerate(["a", *(f"b{n}" for n in range(20))])
    )
    + "mirrors: *b20\n",
    "itself": "mirrors: &a {a.example: *a}\n",
    "depth": "mirrors: " + "[" * 50_000,
    "depth of maps": "mirrors: " + "{a: " * 50_000,
    "depth of lines": "".join(f"{' ' * n}a:\n" for n in range(1000)),
    "many keys": "mirrors:\n" + "".join(f"  r{n}.example:\n" for n in range(40_000)),
    "a thousand keys": "mirrors:\n" + "".join(f"  r{n}.example: {{endpoint: [a.example]}}\n" for n in range(1000)),
    "twice": "mirrors: {a.example: {}, a.example: {}}\n",
    "two documents": "mirrors: {}\n---\nmirrors: {}\n",
    "huge number": f"mirrors: {{a.example: {{endpoint: [{'9' * 5000}]}}}}\n",
}
TOML_BOMBS = {
    "dotted": "a." * 200_000 + "b = 1\n",
    "quoted and dotted": '"a".' * 200_000 + "b = 1\n",
    "long and dotted": f'"{"a" * 80}".' * 12_000 + "b = 1\n",
    "header": "[" + "a." * 200_000 + "b]\n",
    "lists": "a = " + "[" * 100_000,
    "tables": "a = " + "{a=" * 100_000,
    "number": "a = " + "9" * 100_000,
    "quotes": '"' * 500_000,
    "spaces": "a" + " " * 500_000,
    "words": "a" * 900_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_that_grows_without_bounds(name: str) -> None:
    attempt(BOMBS[name] + ("" if "mirrors" in BOMBS[name] else "mirrors: *h\n" if name == "aliases" else ""), "r.yaml")


@pytest.mark.parametrize("name", TOML_BOMBS)
def test_toml_that_takes_without_bounds(name: str) -> None:
    for path in ("config.toml", "registries.conf"):
        attempt(TOML_BOMBS[name], path)
    attempt({"quay.io": {"hosts.toml": TOML_BOMBS[name].encode()}}, "certs.d")


def test_json_of_great_depth() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"registry-mirrors": ' + "[" * 100_000):
        assert attempt(text, "daemon.json") is None


def test_a_huge_file_is_refused_by_its_size() -> None:
    with pytest.raises(InvalidError, match="at most"):
        imported(b"#" * (MAX_BYTES + 1), "registries.yaml")


@pytest.mark.parametrize(
    "text", ["a\nkind: Secret", "a\r- x", "a\u2028b", "a\u0085b", "\x1b[31mred", "\ufeff", "a" * 5000, "\ud800"]
)
def test_a_comment_never_breaks_out_of_its_line(text: str) -> None:
    body = {"kind": "RegistryMirror", "metadata": {"name": "a"}}
    result = emit([Document(body, (text,))], [text])
    assert list(yaml.safe_load_all(result)) == [None, body] or list(yaml.safe_load_all(result)) == [body]
    assert len(result.splitlines()) == 6
    result.encode()


@pytest.mark.parametrize(
    "value",
    [
        "1e3",
        "0o17",
        "0123",
        "on",
        "y",
        "null",
        "~",
        "=",
        "<<",
        "!x",
        "&a",
        "*a",
        "# b",
        "a: b",
        'q"\\',
        "ü ",
        "- a",
        "|",
    ],
)
def test_secrets_keep_every_character(value: str) -> None:
    entry = {"auth": {"username": value, "password": value}}
    text = yaml.safe_dump({"mirrors": {}, "configs": {"a.example": entry}}, default_style='"')
    found = imported(text, "registries.yaml")
    if ":" in value:
        assert specs(found) == {}
        assert any("colon" in note for note in found.all_notes())
        return
    (mirror,) = resolved(found)
    assert mirror.upstream_credentials is not None
    assert (mirror.upstream_credentials.username, mirror.upstream_credentials.password) == (value, value)
    assert f'"{value}"' in printed(found) or any(char in value for char in '"\\ü') or value.isalpha() is False


def test_yaml_scalars_stay_the_text_that_they_are() -> None:
    found = imported("configs: {a.example: {auth: {username: 007, password: 1_000}}}", "registries.yaml")
    (mirror,) = resolved(found)
    assert mirror.upstream_credentials is not None
    assert (mirror.upstream_credentials.username, mirror.upstream_credentials.password) == ("007", "1_000")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("registries.yaml", f"configs: {{a.example: {{auth: {{password: [{SECRET}]}}}}}}"),
        ("registries.yaml", f"mirrors: {{a.example: {{endpoint: ['https://me:{SECRET}@a.example']}}}}"),
        ("registries.yaml", f'configs: {{a.example: {{auth: "{SECRET}"}}}}'),
        ("registries.yaml", f'configs: {{a.example: {{auth: {{auth: "{SECRET}"}}}}}}'),
        ("registries.yaml", f'configs: {{a.example: {{auth: {{password: "{SECRET}'),
        ("config.toml", f'[plugins.cri.registry.configs."a.example".auth]\npassword = "{SECRET}'),
        ("daemon.json", f'{{"registry-mirrors": ["https://me:{SECRET}@a.example"]}}'),
        ("daemon.json", f'{{"registry-mirrors": {{"{SECRET}'),
    ],
)
def test_no_message_shows_a_secret(path: str, text: str) -> None:
    found = attempt(text, path)
    assert found is None or SECRET not in str(found.all_notes())


def test_a_damaged_ca_is_named_and_not_shown(tmp_path: Path) -> None:
    text = "configs: {a.example: {tls: {ca_file: /ca.crt}}}"
    (note,) = imported(text, "registries.yaml", {"/ca.crt": pem("ca-one.crt")[:200] + SECRET}).all_notes()
    assert "ConfigMap a-example-ca is missing" in note
    assert SECRET not in note


@pytest.mark.parametrize("arguments", [["/dev/zero"], ["/dev/null"], ["/nonexistent"], ["/proc/self/mem"], ["a\0b"]])
def test_paths_that_are_no_files(arguments: list[str]) -> None:
    if "\0" in arguments[0]:
        return
    done = run("import", *arguments, code=1)
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {arguments[0]}")
