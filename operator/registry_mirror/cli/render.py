"""``registry-mirror render``: from documents to files, with the controller's own code and without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click
import msgspec

from ..api.errors import FieldError, InvalidError
from ..api.models import RuntimeName
from ..core import edits
from ..core.bundle import Rendered
from ..core.compare import compare
from ..core.layout import default_facts, layout
from ..core.render import RENDERERS
from .changes import show_changes
from .documents import files_option, labels_of, labels_option, load, rendered
from .k3s_options import file_options, started_facts, started_options
from .main import EXIT_CODES
from .options import output_option


@click.command("render", epilog=EXIT_CODES)
@files_option
@click.option("--runtime", required=True, type=click.Choice(list(RENDERERS)), help="The node's runtime.")
@click.option(
    "--runtime-version",
    default="",
    metavar="V",
    help="Its version, such as v1.31.4+k3s1, or 2.1.4 for containerd; without it, a recent one is assumed.",
)
@labels_option
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
@output_option("How to print the files: as they are, or as a list of path, mode and content or settings.")
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
    wanted, _ = rendered(load(files), facts, labels_of(labels))
    if before:
        present, _ = rendered(load(before), facts, labels_of(labels))
        show_changes(compare(present, wanted, layout(facts)), output)
    elif output_dir is not None:
        _write(output_dir, wanted)
    else:
        _print(wanted, output)


def _settings(edit: edits.Edit) -> str:
    """What an edit puts into a file that has nothing of its own."""
    return edits.apply(edit, f"version = {edit.config_schema}\n")


def _print(found: Rendered, output: str) -> None:
    if output == "text":
        for file in found.files:
            click.echo(f"# --- {file.path} (mode {file.mode:04o})")
            click.echo(file.content)
        for edit in found.edits:
            click.echo(f"# --- {edit.path} (set in this file of the node, whose other settings stay)")
            click.echo(_settings(edit))
        return
    listing: list[dict[str, object]] = [
        {"path": file.path, "mode": f"{file.mode:04o}", "content": file.content} for file in found.files
    ]
    listing += [{"path": edit.path, "settings": _settings(edit)} for edit in found.edits]
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(listing), indent=2).decode())
        return
    import yaml

    click.echo(yaml.safe_dump(listing, sort_keys=False, allow_unicode=True), nl=False)


def _write(directory: Path, wanted: Rendered) -> None:
    """Stage every file before the first is put in place, as the agent does on a node."""
    from ..agent.host import Host, write_all

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = FieldError("--output-dir", str(directory), f"give a directory ({error.strerror})")
        raise InvalidError("render", (found,)) from None
    write_all(Host(directory), wanted.files)
    for file in wanted.files:
        click.echo(f"wrote {directory}{file.path}")
    for edit in wanted.edits:
        click.echo(f"note: {edit.path} is the node's own; without --output-dir, what to set in it is shown", err=True)
