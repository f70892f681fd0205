"""``registry-mirror import``: from the files that nodes have today to objects, on standard output."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ..api.errors import FieldError, InvalidError
from ..core.importing.convert import MAX_REGISTRIES, RUNTIMES, Given, convert
from ..core.importing.draft import Options, UnreadableError
from ..core.importing.emit import emit, line
from ..core.importing.reading import MAX_BYTES
from .k3s_options import started_options
from .main import EXIT_CODES

_BESIDE = (".crt", ".cert", ".key")


@click.command("import", epilog=EXIT_CODES)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="auto",
    show_default=True,
    help="Whose files they are; auto goes by name and content.",
)
@started_options
@click.option(
    "-n",
    "--namespace",
    default="registry-mirror-system",
    show_default=True,
    help="The namespace of the Secrets and ConfigMaps: that of the operator.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/"),
    show_default="/",
    help="Where CA, certificate and key files with absolute paths are looked up.",
)
def command(
    paths: tuple[str, ...], runtime: str, disable_default: bool, embedded: str, namespace: str, root: Path
) -> None:
    """Turn registries.yaml, a certs.d tree, config.toml, registries.conf or daemon.json into objects.

    A PATH is a file, a certs.d directory, or - for standard input. Objects go to standard output, with the credentials
    that the files hold. What cannot be expressed, or was changed, is said in comments and on standard error: read it.

    \b
    Example: registry-mirror import /etc/rancher/k3s/registries.yaml > mirrors.yaml
    """
    given = [_given(path) for path in paths]
    options = Options(runtime, disable_default, embedded)
    imported = convert(given, lambda path, folder: _named_file(root, path, folder), options, namespace)
    text = emit(imported.documents, imported.notes)
    for note in imported.all_notes():
        click.echo(f"note: {line(note)}", err=True)
    click.echo(text, nl=False)


def _given(path: str) -> Given:
    """Read what the command line names; raises InvalidError."""
    if path == "-":
        return Given("standard input", sys.stdin.buffer.read(MAX_BYTES + 1))
    try:
        found = Path(path)
        if found.is_dir():
            return Given(path.rstrip("/") or "/", dict(_tree(found)))
        if found.name == "hosts.toml":
            folder = found.absolute().parent
            return Given(str(folder.parent), {folder.name: _folder(folder)})
        return Given(path, _read(found, MAX_BYTES))
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or "it cannot be read"
        raise InvalidError(path, (FieldError("", text, "give a readable file or directory"),), "InvalidFile") from None


def _tree(tree: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The directories of a certs.d tree that have anything to say."""
    names = sorted(item.name for item in tree.iterdir() if item.is_dir())
    if len(names) > MAX_REGISTRIES:
        found = FieldError("", f"{len(names)} directories", f"give a certs.d directory with at most {MAX_REGISTRIES}")
        raise InvalidError(str(tree), (found,), "InvalidFile")
    for name in names:
        files = _folder(tree / name)
        if files:
            yield name, files


def _folder(folder: Path) -> dict[str, bytes]:
    """The hosts.toml of a directory, else the names of the files that count without one."""
    hosts = folder / "hosts.toml"
    if hosts.exists():
        return {"hosts.toml": _read(hosts, MAX_BYTES)}
    return {item.name: b"" for item in sorted(folder.iterdir()) if item.suffix in _BESIDE}


def _named_file(root: Path, path: str, folder: str) -> bytes:
    """Read a file that a configuration names, of a size that a certificate may have."""
    try:
        found = root / path.lstrip("/") if path.startswith("/") else Path(folder) / path
        return _read(found, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise UnreadableError(getattr(error, "strerror", None) or "it cannot be read") from None


def _read(path: Path, limit: int) -> bytes:
    """Read a regular file, but never more of it than one byte over the limit."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is not a regular file")
    with path.open("rb") as stream:
        return stream.read(limit + 1)
