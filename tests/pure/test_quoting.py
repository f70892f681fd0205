"""No value may end its string and start a line of its own: whatever it holds, TOML and YAML read it back the same."""

from __future__ import annotations

import tomllib
from typing import Any

import jinja2
import pytest
import yaml

from registry_mirror.core.render import quoting, render
from registry_mirror.core.resolve import Credentials
from tests.pure.builders import K3S, endpoint, file, mirror

NASTY = [
    "",
    " ",
    " leading and trailing ",
    '"',
    '""" + "',
    "'",
    "\\",
    "\\\\",
    "\\n",
    '\\"',
    "a\nb = 1",
    "a\r\nb",
    "a\tb",
    "#",
    "a: b # c",
    "${1} $1 {{ x }} {% x %}",
    "%",
    "null",
    "true",
    "1",
    "0x1F",
    "~",
    "*",
    "&a *a !!str |",
    "[host]",
    "ü ß 漢字",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\ufffe",
    "\uffff",
    "\ufffd",
    "\u00a0",
    "\u200b",
    "\u202e",
    "\U0001f600",
    "\U0010ffff",
    "e\u0301",
    *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))),
    "".join(map(chr, (*range(0x100), 0x2028, 0x2029, 0xFEFF))),
]


# What some reader takes for a break, strips or refuses, though the ones here take it: Go's are the ones that matter.
NEVER_RAW = {*map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF))}


def test_what_readers_disagree_about_never_stands_raw() -> None:
    assert not set(quoting.quoted("".join(NEVER_RAW))) & NEVER_RAW


LONG = ["x" * 100_000, " ".join(["words"] * 500), "\n" * 5000]


@pytest.mark.parametrize("value", NASTY, ids=lambda value: ascii(value)[:30])
def test_a_value_reads_back_as_itself(value: str) -> None:
    literal = quoting.quoted(value)

    assert "\n" not in literal
    assert tomllib.loads(f"{literal} = {literal}") == {value: value}
    assert yaml.safe_load(f"{literal}: {literal}") == {value: value}
    assert yaml.load(f"x: {literal}", Loader=quoting._Loader) == {"x": value}


@pytest.mark.parametrize("value", LONG, ids=["word", "words", "lines"])
def test_a_long_value_reads_back_as_itself(value: str) -> None:
    literal = quoting.quoted(value)

    assert tomllib.loads(f"x = {literal}") == yaml.safe_load(f"x: {literal}") == {"x": value}


@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_reads_back_as_itself(value: bool) -> None:
    literal = quoting.boolean(value)

    assert tomllib.loads(f"x = {literal}") == yaml.safe_load(f"x: {literal}") == {"x": value}


@pytest.fixture
def templates(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Templates of the test's own, in place of those of the package."""
    found: dict[str, str] = {}
    monkeypatch.setattr(quoting._environment(), "loader", jinja2.DictLoader(found))
    monkeypatch.setattr(quoting._environment(), "cache", None)
    return found


EXPECTED = {"a": {"x": "1"}, "b": {"y": ["2"]}}


@pytest.mark.parametrize(
    "text",
    [
        '[a]\nx = "1"\n[b]\ny = ["3"]',  # another value
        '[a]\nx = 1\n[b]\ny = ["2"]',  # another type
        '[a]\nx = "1"\n',  # something missing
        '[a]\nx = "1"\nz = "1"\n[b]\ny = ["2"]',  # something more
        '[b]\ny = ["2"]\n[a]\nx = "1"',  # another order of tables
        '[a]\nx = "1"\n[b]\ny = ["2", "2"]',
        "[a]\nx = canary",  # no TOML
        '[a]\nx = "1"\n[a]\nx = "1"\n[b]\ny = ["2"]',  # a table twice
    ],
)
def test_toml_that_reads_back_as_something_else_never_leaves(text: str, templates: dict[str, str]) -> None:
    templates["t"] = text

    with pytest.raises(quoting.RenderMismatch) as caught:
        quoting.toml_file("t", EXPECTED)
    assert str(caught.value) == "t does not read back as it was meant"


@pytest.mark.parametrize(
    "text",
    [
        'a: {x: "1"}\nb: {y: ["3"]}',
        'a: {x: 1}\nb: {y: ["2"]}',
        'a: {x: "1"}',
        'b: {y: ["2"]}\na: {x: "1"}',
        'a: {x: "1"\nb: canary',
        "a: &x canary\nb: *y",
        "a: !!python/object:canary {}",
    ],
)
def test_yaml_that_reads_back_as_something_else_never_leaves(text: str, templates: dict[str, str]) -> None:
    templates["t"] = text

    with pytest.raises(quoting.RenderMismatch) as caught:
        quoting.yaml_file("t", EXPECTED)
    assert str(caught.value) == "t does not read back as it was meant"
    assert caught.value.__cause__ is None


def test_what_reads_back_as_it_was_meant_is_given_as_it_is(templates: dict[str, str]) -> None:
    templates["toml"] = '[a]\nx = {{ value | q }}\n[b]\ny = ["2"]\n'
    templates["yaml"] = 'a: {x: {{ value | q }}}\nb: {y: ["2"]}\n'

    assert quoting.toml_file("toml", EXPECTED, value="1") == '[a]\nx = "1"\n[b]\ny = ["2"]\n'
    assert quoting.yaml_file("yaml", EXPECTED, value="1") == 'a: {x: "1"}\nb: {y: ["2"]}\n'


def test_a_template_that_asks_for_what_it_is_not_given_fails(templates: dict[str, str]) -> None:
    templates["t"] = "{{ missing }}"

    with pytest.raises(jinja2.UndefinedError):
        quoting.toml_file("t", EXPECTED)


def test_all_nasty_values_survive_in_all_places_of_the_real_files() -> None:
    rewrites: dict[str, Any] = {value: value for value in NASTY}
    user = Credentials(username="".join(NASTY[:40]), password="".join(LONG))
    rendered = render(K3S, [mirror("docker.io", endpoint("https://a.example", credentials=user), rewrites=rewrites)])

    document = yaml.safe_load(file(rendered, "registries.yaml").content)
    assert document["mirrors"]["docker.io"]["rewrite"] == rewrites
    assert document["configs"]["a.example"]["auth"] == {"username": user.username, "password": user.password}
    hosts = tomllib.loads(file(rendered, "docker.io/hosts.toml").content)["host"]
    assert hosts["https://a.example/v2"]["rewrite"] == rewrites
