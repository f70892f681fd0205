"""``registry-mirror render``: from documents to files, with the controller's own code and without a cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import click
import msgspec

from ..api import parse
from ..api.errors import FieldError, InvalidError, ManyErrors
from ..api.models import RegistryMirror, RuntimeFacts, RuntimeName
from ..core.bundle import File, MirrorProblem, Rendered
from ..core.compare import compare
from ..core.layout import default_facts, layout
from ..core.render import RENDERERS, render
from ..core.resolve import Source, SourceKind, resolve, source
from ..core.select import select
from .changes import show_changes
from .k3s_options import file_options, started_facts, started_options
from .main import EXIT_CODES

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@click.command("render", epilog=EXIT_CODES)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    help="YAML with RegistryMirror, Secret and ConfigMap documents; - for standard input. May be repeated.",
)
@click.option("--runtime", required=True, type=click.Choice(list(RENDERERS)), help="The node's runtime.")
@click.option(
    "--runtime-version",
    default="",
    metavar="V",
    help="Its version, such as v1.31.4+k3s1, or 2.1.4 for containerd; without it, a recent one is assumed.",
)
@click.option(
    "--node-label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="A label of the node, for nodeSelector. May be repeated.",
)
@started_options
@file_options
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the files at their host paths below this directory, instead of printing them.",
)
@click.option(
    "--changes-from",
    "before",
    multiple=True,
    metavar="FILE",
    help="Print what differs from what these documents render to, and whether it takes a restart. May be repeated.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "yaml"]),
    default="text",
    show_default=True,
    help="How to print the files: as they are, or as a list of path, mode and content.",
)
def command(
    files: tuple[str, ...],
    runtime: str,
    runtime_version: str,
    labels: tuple[str, ...],
    disable_default: bool,
    embedded: str,
    embedded_ca: str,
    embedded_cert: str,
    embedded_key: str,
    output_dir: Path | None,
    before: tuple[str, ...],
    output: str,
) -> None:
    """Render the files that a node would get.

    Secrets and ConfigMaps that the objects refer to are looked up in the given documents, by name. Nothing is written
    unless everything can be rendered. The output holds credentials where the objects have some.

    \b
    Example: registry-mirror render -f examples/dockerhub-through-harbor.yaml --runtime k3s
    """
    if output_dir is not None and before:
        raise click.UsageError("--changes-from prints changes: leave out --output-dir")
    facts = default_facts(cast(RuntimeName, runtime), runtime_version)
    facts = started_facts(facts, disable_default, embedded, (embedded_ca, embedded_cert, embedded_key))
    rendered = _rendered(_load(files), facts, _labels(labels))
    if before:
        show_changes(compare(_rendered(_load(before), facts, _labels(labels)), rendered, layout(facts)), output)
    elif output_dir is not None:
        _write(output_dir, rendered.files)
    else:
        _print(rendered.files, output)


@dataclass(slots=True)
class _Loaded:
    """The objects of all files; ``origin`` says for an error in which file a mirror is."""

    mirrors: dict[str, RegistryMirror] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    sources: dict[tuple[SourceKind, str], Source] = field(default_factory=dict)


def _rendered(loaded: _Loaded, facts: RuntimeFacts, labels: Mapping[str, str]) -> Rendered:
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
    rendered = render(facts, selection.mirrors)
    _raise_all([_problem(loaded.origin[problem.mirror], problem) for problem in rendered.problems])
    return rendered


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


def _load(files: tuple[str, ...]) -> _Loaded:
    loaded = _Loaded()
    documents = [(_shown(name), document) for name in files for document in _documents(name)]
    _collect(documents, lambda item: _named(item[0], lambda: _take(*item, loaded)))
    if not loaded.mirrors:
        found = FieldError("", "no RegistryMirror", "give at least one document of that kind")
        raise InvalidError(", ".join(map(_shown, files)), (found,))
    return loaded


def _take(file: str, document: Mapping[str, Any], loaded: _Loaded) -> None:
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
        click.echo(f"note: {file}: {parse.subject_of(document)} is not read by render", err=True)


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name


def _documents(name: str) -> Iterator[Mapping[str, Any]]:
    import yaml

    subject = _shown(name)
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text()
        documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except OSError as error:
        raise InvalidError(subject, (FieldError("", error.strerror or "", "give a readable file"),)) from None
    except UnicodeDecodeError:
        raise InvalidError(subject, (FieldError("", "bytes that are not UTF-8", "give a YAML file"),)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise InvalidError(subject, (FieldError(where, "", f"write valid YAML ({problem})"),)) from None
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


def _labels(values: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r}: write KEY=VALUE", param_hint="--node-label")
        labels[key] = text
    return labels


def _print(files: tuple[File, ...], output: str) -> None:
    if output == "text":
        for file in files:
            click.echo(f"# --- {file.path} (mode {file.mode:04o})")
            click.echo(file.content)
        return
    listing = [{"path": file.path, "mode": f"{file.mode:04o}", "content": file.content} for file in files]
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(listing), indent=2).decode())
        return
    import yaml

    click.echo(yaml.safe_dump(listing, sort_keys=False, allow_unicode=True), nl=False)


def _write(directory: Path, files: tuple[File, ...]) -> None:
    """Stage every file before the first is put in place, as the agent does on a node."""
    from ..agent.host import Host, write_all

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = FieldError("--output-dir", str(directory), f"give a directory ({error.strerror})")
        raise InvalidError("render", (found,)) from None
    write_all(Host(directory), files)
    for file in files:
        click.echo(f"wrote {directory}{file.path}")
