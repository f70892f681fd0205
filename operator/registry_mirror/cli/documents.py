"""Documents that users hand to a command: RegistryMirrors with the Secrets and ConfigMaps that they refer to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click

from ..api import parse
from ..api.errors import FieldError, InvalidError, ManyErrors
from ..api.models import RegistryMirror, RuntimeFacts
from ..core.bundle import MirrorProblem, Rendered
from ..core.render import render
from ..core.resolve import ResolvedMirror, Source, SourceKind, resolve, source
from ..core.select import select
from .reading import shown, yaml_of

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

files_option = click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="YAML with RegistryMirror, Secret and ConfigMap documents; - for standard input. May be repeated.",
)
labels_option = click.option(
    "--node-label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="A label of the node, for nodeSelector. May be repeated.",
)


@dataclass(slots=True)
class Loaded:
    """The objects of all files; ``origin`` says for an error in which file a mirror is."""

    mirrors: dict[str, RegistryMirror] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    sources: dict[tuple[SourceKind, str], Source] = field(default_factory=dict)


def rendered(
    loaded: Loaded, facts: RuntimeFacts, labels: Mapping[str, str]
) -> tuple[Rendered, tuple[ResolvedMirror, ...]]:
    """Render what is in force on a node with those facts and labels; gives the files, and the mirrors in them.

    Says on standard error which objects are not in force there. Raises InvalidError and ManyErrors.
    """
    mirrors = _collect(
        loaded.mirrors, lambda name: _named(loaded.origin[name], lambda: resolve(loaded.mirrors[name], loaded.sources))
    )
    selection = select(mirrors, labels)
    chosen = {mirror.name for mirror in selection.mirrors}
    for name in loaded.mirrors:
        if name in selection.conflicts:
            click.echo(f"note: RegistryMirror {name}: {selection.conflicts[name]} takes precedence", err=True)
        elif name not in chosen:
            click.echo(f"note: RegistryMirror {name}: its nodeSelector does not match; see --node-label", err=True)
    result = render(facts, selection.mirrors)
    _raise_all([_problem(loaded.origin[problem.mirror], problem) for problem in result.problems])
    return result, selection.mirrors


def _problem(file: str, problem: MirrorProblem) -> InvalidError:
    subject = f"{file}: RegistryMirror {problem.mirror}"
    return InvalidError(subject, (FieldError("spec", "", f"{problem.message} ({problem.reason})"),), problem.reason)


def _collect(items: Iterable[_Item], make: Callable[[_Item], _Result]) -> list[_Result]:
    """Do something for each item, and raise all that went wrong as one error."""
    results, failures = [], []
    for item in items:
        try:
            results.append(make(item))
        except InvalidError as error:
            failures.append(error)
    _raise_all(failures)
    return results


def _named(file: str, make: Callable[[], _Result]) -> _Result:
    """Have errors about an object name the file that it is in."""
    try:
        return make()
    except InvalidError as error:
        raise InvalidError(f"{file}: {error.subject}", error.errors, error.reason) from None


def _raise_all(failures: list[InvalidError]) -> None:
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise ManyErrors(failures)


def load(files: tuple[str, ...]) -> Loaded:
    """Read all documents; raises InvalidError and ManyErrors, which name file and object."""
    loaded = Loaded()
    documents = [(shown(name), document) for name in files for document in _documents(name)]
    _collect(documents, lambda item: _named(item[0], lambda: _take(*item, loaded)))
    if not loaded.mirrors:
        found = FieldError("", "no RegistryMirror", "give at least one document of that kind")
        raise InvalidError(", ".join(map(shown, files)), (found,))
    return loaded


def _take(file: str, document: Mapping[str, Any], loaded: Loaded) -> None:
    kind = document.get("kind")
    if kind == "RegistryMirror":
        mirror = parse.registry_mirror(document)
        name = mirror.metadata.name
        if name in loaded.mirrors:
            found = FieldError("metadata.name", repr(name), f"it is in {loaded.origin[name]} already: names are unique")
            raise InvalidError(parse.subject_of(document), (found,))
        loaded.mirrors[name], loaded.origin[name] = mirror, file
    elif kind in ("Secret", "ConfigMap"):
        item = source(document)
        loaded.sources[item.kind, item.name] = item
    elif kind != "Namespace":
        click.echo(f"note: {file}: {parse.subject_of(document)} is not read", err=True)


def _documents(name: str) -> Iterator[Mapping[str, Any]]:
    subject, documents = shown(name), list(yaml_of(name, "YAML"))
    for index, document in enumerate(documents):
        if document is None:
            continue
        if not isinstance(document, dict):
            raise InvalidError(
                subject, (FieldError(f"document {index + 1}", parse.show(document), "write Kubernetes objects"),)
            )
        if document.get("kind") == "List" or str(document.get("kind", "")).endswith("List"):
            yield from (item for item in document.get("items") or () if isinstance(item, dict))
        else:
            yield document


def labels_of(values: tuple[str, ...]) -> dict[str, str]:
    """Read the values of --node-label; raises BadParameter."""
    labels = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r}: write KEY=VALUE", param_hint="--node-label")
        labels[key] = text
    return labels
