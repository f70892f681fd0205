"""Nothing that anybody feeds to the program ends in a traceback: there is an answer, or an error that helps."""

from __future__ import annotations

import io
import sys
from typing import Any
from unittest.mock import patch

import msgspec
import yaml
from hypothesis import given, strategies as st

from registry_mirror.api import parse
from registry_mirror.api.errors import ProblemError
from registry_mirror.cli.render import command
from registry_mirror.core.bundle import decode
from registry_mirror.core.importing.convert import RUNTIMES, Given, convert
from registry_mirror.core.importing.draft import Options, UnreadableError
from registry_mirror.core.importing.emit import emit
from registry_mirror.core.render import RENDERERS
from registry_mirror.core.resolve import Source, resolve, source

from .strategies import DOCUMENTS, REGISTRIES, SCALARS, TEXT, mirrors

MAX_LINE = 2000


def tried(call: Any, *arguments: Any) -> ProblemError | None:
    """Call it: an error of the closed set is an answer too, if it is one that can be shown; any other is a failure."""
    try:
        call(*arguments)
    except ProblemError as error:
        shown = error
    else:
        return None
    assert shown.reason.isalnum()
    assert shown.message
    assert shown.message.replace("\n", "").isprintable()
    assert all(len(line) < MAX_LINE for line in shown.message.splitlines())
    return shown


@given(DOCUMENTS)
def test_any_document_is_parsed_or_refused(document: Any) -> None:
    for read in (parse.registry_mirror, parse.policy, parse.node_registry_config, source):
        tried(read, document)
        tried(read, {"metadata": {"name": "x"}, "spec": document})
        tried(read, {"metadata": {"name": "x"}, "spec": {"registry": "docker.io", "endpoints": document}})


@given(mirrors(), st.data())
def test_a_good_object_with_one_thing_changed_is_parsed_or_refused(
    documents: list[dict[str, Any]], data: st.DataObject
) -> None:
    document = documents[0]
    spec = document["spec"]
    key = data.draw(st.sampled_from([*spec, "nodeSelector", "other"]))
    spec[key] = data.draw(DOCUMENTS)
    tried(parse.registry_mirror, document)


_SECRET_KEYS = st.sampled_from([".dockerconfigjson", "username", "password", "token", "ca.crt", "tls.crt", "tls.key"])


@given(st.dictionaries(_SECRET_KEYS, st.one_of(st.binary(), TEXT.map(str.encode))))
def test_any_secret_is_read_or_refused(data: dict[str, bytes]) -> None:
    ref = {"name": "s"}
    tls = {"caRef": ref, "clientCertificateRef": ref}
    body = {
        "metadata": {"name": "x"},
        "spec": {"registry": "a.io", "endpoints": [{"url": "https://b.io", "tls": tls, "credentialsRef": ref}]},
    }
    found = {("Secret", "s"): Source(kind="Secret", name="s", data=data)}
    tried(resolve, parse.registry_mirror(body), found)


@given(st.one_of(st.binary(max_size=200), DOCUMENTS.map(lambda item: msgspec.json.encode(repr(item)))))
def test_any_bundle_is_read_or_refused(raw: bytes) -> None:
    error = tried(decode, raw)
    assert error is not None
    assert error.reason == "BundleInvalid"


def _dumped(document: Any) -> str:
    return str(yaml.safe_dump(document, allow_unicode=True))


_TEXTS = st.one_of(
    st.text(max_size=200),
    st.text("{}[]:-,&*!|>'\"%@`# \n\tab01", max_size=60),
    st.lists(st.one_of(DOCUMENTS, mirrors().map(lambda items: items[0]), SCALARS), max_size=3).map(
        lambda items: "---\n".join(map(_dumped, items))
    ),
)


@given(_TEXTS, st.sampled_from(sorted(RENDERERS)))
def test_any_yaml_is_rendered_or_refused(text: str, runtime: str) -> None:
    def run() -> None:
        command.main(["-f", "-", "--runtime", runtime], standalone_mode=False)

    with patch.object(sys, "stdin", io.StringIO(text)), patch.object(sys, "stdout", io.StringIO()):
        tried(run)


_REGISTRIES = st.fixed_dictionaries(
    {},
    optional={
        "mirrors": st.dictionaries(st.one_of(REGISTRIES, st.text(max_size=8)), DOCUMENTS, max_size=3),
        "configs": st.dictionaries(st.one_of(REGISTRIES, st.text(max_size=8)), DOCUMENTS, max_size=3),
        "registry": DOCUMENTS,
        "plugins": DOCUMENTS,
        "registry-mirrors": DOCUMENTS,
    },
)
_FILES = st.one_of(
    st.binary(max_size=200),
    _TEXTS.map(str.encode),
    _REGISTRIES.map(lambda item: _dumped(item).encode()),
    st.text("[]\"'=.#ab01\n ", max_size=80).map(str.encode),
)


@given(_FILES, st.sampled_from(RUNTIMES), st.booleans())
def test_any_file_is_imported_or_refused(raw: bytes, runtime: str, denied: bool) -> None:
    def no_file(path: str, folder: str) -> bytes:
        raise UnreadableError("there is none")

    def run() -> None:
        found = convert(
            [Given("registries.yaml", raw)], no_file, Options(runtime, denied, ""), "registry-mirror-system"
        )
        for document in yaml.safe_load_all(emit(found.documents, found.notes)):
            if document["kind"] == "RegistryMirror":
                parse.registry_mirror(document)

    tried(run)
