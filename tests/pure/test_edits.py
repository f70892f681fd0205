"""config.toml belongs to the node: settings are put into it, and everything else stays to the byte."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import tomllib
from typing import Any

import pytest
from hypothesis import event, given, settings, strategies as st
from msgspec.structs import replace

from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.bundle import seal
from registry_mirror.core.edits import Edit, EditError, HostConfig, apply, holds_secret, undo
from registry_mirror.core.layout import default_facts, layout
from registry_mirror.core.render import render
from tests.pure.builders import mirror, reasons

V2 = Edit(path="/etc/containerd/config.toml", config_schema=2, config_path="/etc/containerd/certs.d")
V3 = replace(V2, config_schema=3)
P2, P3 = 'plugins."io.containerd.grpc.v1.cri"', "plugins.'io.containerd.cri.v1.images'"
LINE = '  config_path = "/etc/containerd/certs.d"\n'
# As ``containerd config default`` of 1.7 and of 2.1 have it, cut short.
OLD = f"""# kept
version = 2

[plugins]
  [{P2}]
    sandbox_image = "pause:3.9"   # kept too
    [{P2}.registry]
      config_path = ""   # not set

      [{P2}.registry.auths]
      [{P2}.registry.mirrors]
    [{P2}.x509_key_pair_streaming]
      config_path = "not this one"
"""
NEW = f"""version = 3
[plugins]
  [{P3}]
    snapshotter = 'overlayfs'
    [{P3}.registry]
      config_path = ''
"""


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (V2, OLD, OLD.replace('config_path = ""', 'config_path = "/etc/containerd/certs.d"')),
        (V3, NEW, NEW.replace("config_path = ''", 'config_path = "/etc/containerd/certs.d"')),
        (V2, "version = 2", f'version = 2\n\n[{P2}.registry]\n{LINE}'),
        (V2, "version = 2\n# end\n", f'version = 2\n# end\n\n[{P2}.registry]\n{LINE}'),
        (V2, f"version = 2\n[{P2}.registry]\n[a]\n", f"version = 2\n[{P2}.registry]\n{LINE}[a]\n"),
        (V2, f"version = 2\r\n[ {P2} . registry ] # x\r\na = 1\r\n",
         f"version = 2\r\n[ {P2} . registry ] # x\r\n{LINE[:-1]}\r\na = 1\r\n"),
        (V2, f'version = 2\n[{P2}.registry.configs."x".auth]\nusername = "u"\n',
         f'version = 2\n[{P2}.registry.configs."x".auth]\nusername = "u"\n\n[{P2}.registry]\n{LINE}'),
        (V2, f'version = 2\n[{P2}.registry]\nconfig_path = "/other"\n',
         f'version = 2\n[{P2}.registry]\nconfig_path = "/etc/containerd/certs.d"\n'),
        (V2, f'version = 2\na = """\n[{P2}.registry]\n"""\n', None),
        (V2, f"version = 2\n[{P2}.registry]\n[{P2}.x]\nconfig_path = ''\n",
         f"version = 2\n[{P2}.registry]\n{LINE}[{P2}.x]\nconfig_path = ''\n"),
        (V2, f'version = 2\n[{P2}]\nregistry = {{}}\n', None),
        (V2, f'version = 2\n[{P2}]\nregistry.x = 1\n', None),
        (V2, f'version = 2\n[{P2}.registry]\nconfig_path = """\n"""\n', None),
        (V2, f'version = 2\n[{P2}.registry]\n"config_path" = "/x"\n', None),
        (V2, "version = 2\nplugins = 5\n", None),
        (V2, f"version = 2\n[{P2}]\nregistry = 5\n", None),
        (V2, "version = 3\n", None),
        (V2, "", None),
        (V2, "version = 1\n", None),
        (V2, "version =\n", None),
        (V2, f'version = 2\n[{P2}.registry.mirrors."x"]\nendpoint = []\n', None),
        (V2, f'version = 2\n[{P2}.registry.configs."x".tls]\nca_file = "/a"\n', None),
    ],
)  # fmt: skip
def test_one_value_is_set_or_the_text_is_refused_and_undone_to_the_byte(
    edit: Edit, before: str, after: str | None
) -> None:
    if after is None:
        with pytest.raises(EditError):
            apply(edit, before)
        return
    assert apply(edit, before) == after
    assert apply(edit, after) == after
    assert undo(edit, after, before) == before
    assert undo(edit, before, before) == before


def test_what_others_changed_since_stays_and_our_value_goes() -> None:
    ours = apply(V2, OLD)
    changed = ours.replace("pause:3.9", "pause:3.10")
    assert undo(V2, changed, OLD) == OLD.replace("pause:3.9", "pause:3.10")
    assert undo(V2, f"{apply(V2, 'version = 2')}# more\n", "version = 2") == f"version = 2\n\n[{P2}.registry]\n# more\n"


def test_a_config_path_that_somebody_else_set_since_stays() -> None:
    theirs = apply(V2, OLD).replace("/etc/containerd/certs.d", "/mine")
    assert undo(V2, theirs, OLD) == theirs


def test_mirrors_added_beside_our_value_are_told_apart_from_it() -> None:
    both = f'{apply(V2, "version = 2")}\n[{P2}.registry.mirrors."x"]\nendpoint = []\n'
    assert "config_path" not in undo(V2, both, "version = 2")
    with pytest.raises(EditError):
        apply(V2, both)
    with pytest.raises(EditError):
        undo(V2, "version = ", "version = 2")


FACTS = replace(default_facts("containerd", "2.1.4"), config_path="", config_schema=3)
QUAY = mirror("quay.io", "https://mirror.example.com")


def test_a_containerd_without_config_path_gets_it_and_waits_for_a_start() -> None:
    rendered = render(FACTS, [QUAY, mirror("*", "https://m.example.com", rewrites={"^a": "b"})])
    assert [item.path for item in rendered.files] == ["/etc/containerd/certs.d/quay.io/hosts.toml"]
    assert rendered.edits == (V3,)
    assert {name: item.mirrors for name, item in rendered.start_settings.items()} == {
        "config_path of containerd": frozenset({"quay.io"})
    }
    assert reasons(rendered) == {"*": "RewriteUnsupported"}
    assert layout(FACTS).edits == ("/etc/containerd/config.toml",)
    assert not layout(FACTS).allows("/etc/containerd/config.toml")
    sealed, key = seal("containerd", rendered, (), b"k" * 32), b"k" * 32
    assert sealed.edits == rendered.edits
    assert seal("containerd", dataclasses.replace(rendered, edits=()), (), key).revision != sealed.revision


@pytest.mark.parametrize(
    "facts", [default_facts("containerd", "2.1.4"), replace(FACTS, config_path="/certs"), default_facts("k0s")]
)
def test_where_config_path_is_set_it_is_not_set_again(facts: RuntimeFacts) -> None:
    rendered = render(facts, [QUAY])
    assert (rendered.edits, rendered.start_settings, layout(facts).config_path) == ((), {}, "")


def test_without_a_mirror_nothing_is_edited() -> None:
    assert render(FACTS, [mirror("quay.io")]).edits == ()


# ---- tables of mirrors and hosts ------------------------------------------------------------------------------------

# As MicroK8s 1.22 has it, cut short.
TEMPLATE = f"""# Use config version 2 to enable new configuration fields.
version = 2
oom_score = 0

[{P2}]
  sandbox_image = "k8s.gcr.io/pause:3.1"   # "${{SNAP}}" stays

  # config related to the registry
  [{P2}.registry]

    # namespace to mirror mapping for all namespaces
    [{P2}.registry.mirrors]
      [{P2}.registry.mirrors."docker.io"]
        endpoint = ["https://registry-1.docker.io", ]
      [{P2}.registry.mirrors."localhost:32000"]
        endpoint = ["http://localhost:32000"]
"""
TABLES = Edit(
    path="/t.toml",
    config_schema=2,
    mirrors={"docker.io": ("https://m.example", "http://n.example:5000/x"), "*": ()},
    configs={
        "m.example": HostConfig(
            tls={"ca_file": "/ca.crt", "insecure_skip_verify": True}, auth={"username": "ü", "password": '"${SNAP}\\'}
        )
    },
)


def registry(text: str) -> dict[str, Any]:
    return dict(tomllib.loads(text)["plugins"]["io.containerd.grpc.v1.cri"]["registry"])


def test_tables_go_to_the_end_and_what_is_in_their_way_is_set_aside() -> None:
    after = apply(TABLES, TEMPLATE)
    aside = "# registry-mirror-operator set this aside: "
    expected = TEMPLATE
    for line in (
        f'      [{P2}.registry.mirrors."docker.io"]\n',
        '        endpoint = ["https://registry-1.docker.io", ]\n',
    ):
        expected = expected.replace(line, aside + line)
    assert after == expected + (
        "\n"
        "# registry-mirror-operator: begin. What stands from here to its end is overwritten.\n"
        f'[{P2}.registry.mirrors."*"]\n'
        "  endpoint = []\n"
        f'[{P2}.registry.mirrors."docker.io"]\n'
        '  endpoint = ["https://m.example", "http://n.example:5000/x"]\n'
        f'[{P2}.registry.configs."m.example".auth]\n'
        '  username = "ü"\n'
        '  password = "\\"\\u0024{SNAP}\\\\"\n'
        f'[{P2}.registry.configs."m.example".tls]\n'
        '  ca_file = "/ca.crt"\n'
        "  insecure_skip_verify = true\n"
        "# registry-mirror-operator: end.\n"
    )
    assert registry(after)["mirrors"]["localhost:32000"] == {"endpoint": ["http://localhost:32000"]}
    assert registry(after)["configs"]["m.example"]["auth"] == {"username": "ü", "password": '"${SNAP}\\'}
    assert apply(TABLES, after) == after
    assert undo(TABLES, after, TEMPLATE) == TEMPLATE
    assert "SNAP" not in repr(TABLES)


@pytest.mark.parametrize(
    "text",
    [TEMPLATE.rstrip("\n"), TEMPLATE + "\n\n", TEMPLATE.replace("\n", "\r\n"), "version = 2", "version = 2\n# end"],
)
def test_whatever_the_text_ends_with_it_is_itself_again(text: str) -> None:
    after = apply(TABLES, text)
    assert registry(after)["mirrors"]["*"] == {"endpoint": []}
    # With another original nothing can be put back whole: what is ours is taken out line by line.
    assert undo(TABLES, after, text) == undo(TABLES, after, "version = 2\n# another\n") == text


def test_what_is_wanted_no_longer_goes_and_what_it_had_set_aside_comes_back() -> None:
    other = replace(TABLES, mirrors={"quay.io": ("https://q.example",)}, configs={})
    after = apply(other, apply(TABLES, TEMPLATE))
    assert after == apply(other, TEMPLATE)
    assert registry(after)["mirrors"]["docker.io"] == {"endpoint": ["https://registry-1.docker.io"]}
    assert apply(replace(other, mirrors={}), after) == TEMPLATE


def test_what_is_said_already_is_left_to_whom_it_belongs() -> None:
    same = replace(TABLES, mirrors={"localhost:32000": ("http://localhost:32000",)}, configs={})
    assert apply(same, TEMPLATE) == TEMPLATE
    assert undo(same, TEMPLATE, TEMPLATE) == TEMPLATE


def test_others_may_write_around_our_tables() -> None:
    ours = apply(TABLES, TEMPLATE)
    changed = f"x = 1\n{ours}\n[mine]\n  y = 2\n".replace("pause:3.1", "pause:3.9")
    assert apply(TABLES, changed) == changed
    assert undo(TABLES, changed, TEMPLATE) == f"x = 1\n{TEMPLATE}\n[mine]\n  y = 2\n".replace("pause:3.1", "pause:3.9")
    again = apply(replace(TABLES, configs={}), changed)
    assert 'm.example".tls' not in again
    assert tomllib.loads(again)["mine"] == {"y": 2}


def test_what_others_change_between_our_marks_is_overwritten() -> None:
    ours = apply(TABLES, TEMPLATE)
    for old, new in (("http://n.example:5000/x", "http://evil.example"), ("  insecure_skip_verify = true\n", "")):
        assert apply(TABLES, ours.replace(old, new)) == ours
        assert undo(TABLES, ours.replace(old, new), TEMPLATE) == TEMPLATE


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("# registry-mirror-operator: end.\n", "", "do not pair"),
        ("# registry-mirror-operator: begin.", "# begin.", "do not pair"),
        ("# registry-mirror-operator: end.\n", "[mine]\n# registry-mirror-operator: end.\n", "move that out"),
        ("# registry-mirror-operator: end.\n", "# registry-mirror-operator: end.\nx = 1\n", "move that out"),
        ("# registry-mirror-operator set this aside:       [plugins", "# x: [plugins", "move that out"),
    ],
)  # fmt: skip
def test_marks_that_others_broke_are_said_and_nothing_is_guessed(old: str, new: str, text: str) -> None:
    broken = apply(TABLES, TEMPLATE).replace(old, new, 1)
    with pytest.raises(EditError, match=text) as applied:
        apply(TABLES, broken)
    with pytest.raises(EditError, match=text) as undone:
        undo(TABLES, broken, TEMPLATE)
    assert "SNAP" not in f"{applied.value} {undone.value}"


@pytest.mark.parametrize(
    ("edit", "before", "text"),
    [
        (TABLES, f'{TEMPLATE}[{P2}.registry.configs."m.example".auth]\nusername = "v"\n', '."m.example".auth is set'),
        (TABLES, f'{TEMPLATE}[{P2}.registry.configs."m.example"]\ntls = {{}}\n', '."m.example".tls is set'),
        (TABLES, f'version = 2\n[{P2}.registry]\nmirrors = {{}}\n', "by hand"),
        (TABLES, f'version = 2\n[{P2}.registry.mirrors]\n"docker.io" = {{endpoint = []}}\n', "by hand"),
        (TABLES, f'version = 2\n[{P2}.registry.mirrors."docker.io"]\nendpoint = [\n"a",\n\n["b"]]\n', "by hand"),
        (TABLES, f'version = 2\n[{P2}.registry.mirrors."docker.io".rewrite]\na = "b"\n', "by hand"),
        (TABLES, f'version = 2\n[{P2}.registry]\nmirrors = 5\n', "mirrors is no table"),
        (TABLES, f'version = 2\n[{P2}.registry]\nconfig_path = "/x"\n', "does not start with config_path"),
        (replace(TABLES, mirrors={}), f'version = 2\n[{P2}.registry]\nconfig_path = "/x"\n', "TLS settings"),
        (replace(TABLES, config_path="/x"), TEMPLATE, "does not start with config_path"),
        (TABLES, "version = 3\n", "neither 2 nor 3"),
        (replace(TABLES, config_schema=1), "version = 1\n", "neither 2 nor 3"),
    ],
)  # fmt: skip
def test_what_would_not_work_or_belongs_to_somebody_is_refused(edit: Edit, before: str, text: str) -> None:
    with pytest.raises(EditError) as refused:
        apply(edit, before)
    assert text in str(refused.value)
    assert "SNAP" not in str(refused.value)


def test_a_credential_of_ours_is_told_from_one_of_others() -> None:
    theirs = f'{TEMPLATE}[{P2}.registry.configs."x".auth]\nusername = "u"\n'
    assert not holds_secret(theirs, 2)
    assert holds_secret(apply(TABLES, theirs), 2)
    assert not holds_secret(apply(replace(TABLES, configs={}), theirs), 2)
    # Where the same stands there already, it is theirs.
    assert not holds_secret(apply(replace(TABLES, configs={"x": HostConfig(auth={"username": "u"})}), theirs), 2)


_KEYS = st.sampled_from(["version", "a b", "docker.io", "quay.io", '"', "mirrors", "configs", "config_path", "x"])
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_VALUES = st.one_of(_TEXT, st.integers(-9, 9), st.booleans(), st.lists(_TEXT, max_size=3))
_TABLE = st.dictionaries(_KEYS, _VALUES, max_size=3)
_URLS = st.lists(st.sampled_from(["https://m.example", "http://n.example:5000/x"]), max_size=2, unique=True)
_HOST_CONFIGS = st.builds(
    lambda ca, user: HostConfig(tls={"ca_file": ca} if ca else {}, auth={"username": user} if user else {}),
    _TEXT,
    _TEXT,
)
_EDITS = st.builds(
    lambda mirrors, configs: Edit(path="/t", config_schema=2, mirrors=mirrors, configs=configs),
    st.dictionaries(st.sampled_from(["docker.io", "quay.io", "*", "[::1]:5000"]), _URLS.map(tuple), max_size=3),
    st.dictionaries(st.sampled_from(["m.example", "n.example:5000"]), _HOST_CONFIGS, max_size=2),
)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A configuration in some form: headers and keys in any order, comments, blank lines, either line ending."""
    parts = [f"version = 2\n{draw(st.sampled_from(['', '# top', 'x = 1']))}\n"]
    names = ["plugins", P2, f"{P2}.registry", f"{P2}.registry.mirrors", "other", 'other."a b"', "[many]"]
    names += [f'{P2}.registry.mirrors."docker.io"', f"{P2}.registry.mirrors.'quay.io'"]
    names += [f'{P2}.registry.configs."m.example".auth', f'{P2}.registry.configs."x"']
    for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=7)):
        indent = draw(st.sampled_from(["", "  ", "\t"]))
        parts.append(f"{indent}[{name}] {draw(st.sampled_from(['', '# [plugins]']))}\n")
        table = {"endpoint": draw(_URLS)} if "mirrors." in name else draw(_TABLE)
        for key, value in table.items():
            literal = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            parts.append(f"{indent}  {json.dumps(key)} = {literal} {draw(st.sampled_from(['', '# said']))}\n")
            parts.append(draw(st.sampled_from(["", "\n", "# between\n"])))
    text = "".join(parts)
    return draw(st.sampled_from([text, text.replace("\n", "\r\n"), text.rstrip("\n")]))


def _set(document: dict[str, Any], edit: Edit) -> dict[str, Any]:
    """The model: the settings put into the document."""
    found = copy.deepcopy(document)
    values: dict[tuple[str, ...], Any] = {
        ("mirrors", name): {"endpoint": list(edit.mirrors[name])} for name in edit.mirrors
    }
    for host, item in edit.configs.items():
        values |= {("configs", host, name): section for name, section in item.sections().items()}
    for path, value in values.items():
        table = found
        for key in ("plugins", "io.containerd.grpc.v1.cri", "registry", *path[:-1]):
            table = table.setdefault(key, {})
        table[path[-1]] = value
    return found


@settings(deadline=None, database=None, max_examples=300)
@given(documents(), _EDITS, _EDITS)
def test_any_document_has_exactly_the_settings_afterwards_and_is_itself_again(
    text: str, first: Edit, second: Edit
) -> None:
    try:
        before = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    try:
        after = apply(first, text)
    except EditError:
        event("refused")
        return
    assert tomllib.loads(after) == _set(before, first)
    assert apply(first, after) == after
    assert undo(first, after, text) == text
    with contextlib.suppress(EditError):
        then = apply(second, after)
        assert then == apply(second, text)
        assert undo(second, then, text) == text
        # Others have added something: all that is ours goes, and nothing of theirs.
        more = f"{then}\n[added]\n"
        assert tomllib.loads(undo(second, more, text)) == {**before, "added": {}}
    event("changed" if after != text else "said already")
