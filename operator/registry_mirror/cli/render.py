"""``registry-mirror render``: from documents to files, with the controller's own code and without a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import click

from ..api import parse
from ..api.errors import FieldError, InvalidError
from ..api.models import RegistryMirror, RuntimeName
from ..core.bundle import File, MirrorProblem, Rendered
from ..core.layout import default_facts
from ..core.render import RENDERERS, render
from ..core.resolve import Source, Sources, resolve, source
from ..core.select import select
from .main import EXIT_CODES

_PLANNED = ("microk8s",)


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
@click.option("--runtime", required=True, type=click.Choice([*RENDERERS, *_PLANNED]), help="The node's runtime.")
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
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the files at their host paths below this directory, instead of printing them.",
)
def command(
    files: tuple[str, ...], runtime: str, runtime_version: str, labels: tuple[str, ...], output_dir: Path | None
) -> None:
    """Render the files that a node would get.

    Secrets and ConfigMaps that the objects refer to are looked up in the given documents, by name. Nothing is written
    unless everything can be rendered. The output holds credentials where the objects have some.

    \b
    Example: registry-mirror render -f examples/dockerhub-through-harbor.yaml --runtime k3s
    """
    mirrors, sources = _load(files)
    rendered = _rendered(mirrors, sources, cast(RuntimeName, runtime), runtime_version, _labels(labels))
    if output_dir is None:
        for file in rendered.files:
            click.echo(f"# --- {file.path} (mode {file.mode:04o})")
            click.echo(file.content)
        return
    _write(output_dir, rendered.files)


def _rendered(
    mirrors: Mapping[str, RegistryMirror],
    sources: Sources,
    runtime: RuntimeName,
    version: str,
    labels: Mapping[str, str],
) -> Rendered:
    if runtime not in RENDERERS:
        found = FieldError("--runtime", repr(runtime), f"this version renders {', '.join(RENDERERS)}")
        raise InvalidError("render", (found,), "RuntimeUnsupported")
    resolved = _collect(lambda name: resolve(mirrors[name], sources), mirrors)
    selection = select(resolved, labels)
    chosen = {mirror.name for mirror in selection.mirrors}
    for name in mirrors:
        if name in selection.conflicts:
            click.echo(f"note: RegistryMirror {name}: {selection.conflicts[name]} takes precedence", err=True)
        elif name not in chosen:
            click.echo(f"note: RegistryMirror {name}: its nodeSelector does not match; see --node-label", err=True)
    rendered = render(default_facts(runtime, version), selection.mirrors)
    if rendered.problems:
        raise InvalidError("render", tuple(map(_problem, rendered.problems)), rendered.problems[0].reason)
    return rendered


def _problem(problem: MirrorProblem) -> FieldError:
    return FieldError(f"RegistryMirror {problem.mirror}", "", f"{problem.reason}: {problem.message}")


def _collect(make: Any, names: Iterable[str]) -> list[Any]:
    """Do something for each name, and raise all that went wrong as one error."""
    results, failures = [], []
    for name in names:
        try:
            results.append(make(name))
        except InvalidError as error:
            failures.append(error)
    _raise_all(failures)
    return results


def _raise_all(failures: list[InvalidError]) -> None:
    if len(failures) == 1:
        raise failures[0]
    if failures:
        errors = tuple(
            FieldError(f"{failure.subject}: {error.field}", error.found, error.expected)
            for failure in failures
            for error in failure.errors
        )
        raise InvalidError("render", errors, failures[0].reason)


def _load(files: tuple[str, ...]) -> tuple[dict[str, RegistryMirror], dict[Any, Source]]:
    mirrors: dict[str, RegistryMirror] = {}
    sources: dict[Any, Source] = {}
    failures: list[InvalidError] = []
    for name in files:
        for document in _documents(name):
            try:
                _take(name, document, mirrors, sources)
            except InvalidError as error:
                failures.append(InvalidError(f"{name}: {error.subject}", error.errors, error.reason))
    _raise_all(failures)
    if not mirrors:
        raise InvalidError(
            ", ".join(files), (FieldError("", "no RegistryMirror", "give at least one document of that kind"),)
        )
    return mirrors, sources


def _take(
    file: str, document: Mapping[str, Any], mirrors: dict[str, RegistryMirror], sources: dict[Any, Source]
) -> None:
    kind = document.get("kind")
    if kind == "RegistryMirror":
        mirror = parse.registry_mirror(document)
        if mirror.metadata.name in mirrors:
            found = FieldError("metadata.name", repr(mirror.metadata.name), "it was given before: names are unique")
            raise InvalidError(parse.subject_of(document), (found,))
        mirrors[mirror.metadata.name] = mirror
    elif kind in ("Secret", "ConfigMap"):
        item = source(document)
        sources[item.kind, item.name] = item
    elif kind != "Namespace":
        subject = parse.subject_of(document)
        click.echo(f"note: {file}: {subject} is not read by render", err=True)


def _documents(name: str) -> Iterator[Mapping[str, Any]]:
    import yaml

    subject = "standard input" if name == "-" else name
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
