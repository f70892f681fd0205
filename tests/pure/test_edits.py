"""config.toml belongs to the node: one value is set in it, and everything else stays to the byte."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.bundle import seal
from registry_mirror.core.edits import ConfigPath, EditError, apply, undo
from registry_mirror.core.layout import default_facts, layout
from registry_mirror.core.render import render
from tests.pure.builders import mirror, reasons

V2 = ConfigPath(path="/etc/containerd/config.toml", config_schema=2, value="/etc/containerd/certs.d")
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
        (replace(V2, value='/x"\n'), "version = 2\n", None),
    ],
)  # fmt: skip
def test_one_value_is_set_or_the_text_is_refused_and_undone_to_the_byte(
    edit: ConfigPath, before: str, after: str | None
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
def test_where_config_path_is_set_nothing_is_edited(facts: RuntimeFacts) -> None:
    rendered = render(facts, [QUAY])
    assert (rendered.edits, rendered.start_settings, layout(facts).edits) == ((), {}, ())


def test_without_a_mirror_nothing_is_edited() -> None:
    assert render(FACTS, [mirror("quay.io")]).edits == ()
