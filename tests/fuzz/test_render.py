"""Whatever users may write renders to files that are safe, the same every time, and never drops a mirror silently."""

from __future__ import annotations

import tomllib
from typing import Any

import yaml
from hypothesis import given, strategies as st

from registry_mirror.agent.edits import problems
from registry_mirror.api import parse
from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.bundle import PUBLIC_MODE, SECRET_MODE, Rendered, decode, encode, seal
from registry_mirror.core.edits import apply, undo
from registry_mirror.core.layout import Layout, layout
from registry_mirror.core.plan import Planner
from registry_mirror.core.render import render
from registry_mirror.core.render.quoting import quoted
from registry_mirror.core.resolve import Sources, resolve
from registry_mirror.core.select import select

from .strategies import TEXT, facts, mirrors, sources

KEY = b"k" * 32


@given(facts(), mirrors(), sources())
def test_files_are_safe_and_no_mirror_is_dropped_silently(
    node: RuntimeFacts, documents: list[dict[str, Any]], found: Sources
) -> None:
    valid = [document for document in documents if not _refused(document)]
    selection = select([resolve(parse.registry_mirror(document), found) for document in valid], {})
    rendered = render(node, selection.mirrors)
    again = render(node, tuple(reversed(selection.mirrors)))
    whole = (rendered.files, rendered.edits, rendered.start_settings)
    assert whole == (again.files, again.edits, again.start_settings), "whatever the order"

    allowed = layout(node)
    paths = [file.path for file in rendered.files]
    assert len(paths) == len(set(paths))
    for file in rendered.files:
        assert allowed.allows(file.path)
        assert ".." not in file.path.split("/")
        assert file.mode in (PUBLIC_MODE, SECRET_MODE)
        if "Authorization" in file.content or any(secret in file.content for secret in _secrets(found)):
            assert file.mode == SECRET_MODE

    edited = _edited(rendered, allowed)
    left_out = {problem.mirror for problem in rendered.problems}
    text = "\n".join([*(file.content for file in rendered.files), *edited])
    for mirror in selection.mirrors:
        if mirror.name not in left_out:
            for endpoint in mirror.endpoints:
                assert endpoint.url.partition("://")[2].partition("/")[0] in text
    bundle = seal(node.name, rendered, selection.mirrors, KEY)
    assert decode(encode(bundle)) == bundle
    plan = Planner(selection.mirrors, KEY).plan(node, {})
    assert plan.bundle is not None
    assert plan.in_force | plan.problems.keys() == {mirror.name for mirror in selection.mirrors}


@given(mirrors(), sources())
def test_credentials_show_in_no_text_but_the_files(documents: list[dict[str, Any]], found: Sources) -> None:
    for document in documents:
        if _refused(document):
            continue
        mirror = resolve(parse.registry_mirror(document), found)
        assert not any(secret in repr(mirror) for secret in _secrets(found))


@given(st.one_of(TEXT, st.text(st.characters(exclude_categories=["Cs"]), max_size=60)))
def test_a_quoted_value_is_read_back_by_toml_and_yaml(value: str) -> None:
    literal = quoted(value)
    assert tomllib.loads(f"a = {literal}") == {"a": value}
    assert yaml.safe_load(f"a: {literal}") == {"a": value}
    assert len(literal.splitlines()) == 1


def _edited(rendered: Rendered, allowed: Layout) -> list[str]:
    """The files that are edited: each takes the settings, is allowed to, and is itself again without them."""
    texts = []
    for edit in rendered.edits:
        before = f"version = {edit.config_schema}\n"
        text = apply(edit, before)
        assert edit.path in allowed.edits
        assert not list(problems(edit, allowed))
        assert undo(edit, text, before) == before
        texts.append(text)
    return texts


def _refused(document: dict[str, Any]) -> bool:
    """Two endpoints of the object may have turned out to be one, which the grammar refuses."""
    urls = [item["url"] for item in document["spec"]["endpoints"]]
    normal = {url.removesuffix("/v2").removesuffix("/") if url.count("/") <= 3 else url for url in urls}
    return len(normal) != len(urls)


def _secrets(found: Sources) -> list[str]:
    names = ("one", "two")
    return [found["Secret", name].data["password"].decode() for name in names]
