"""How ``registry-mirror render --changes-from`` shows what a change would do to a node."""

from __future__ import annotations

import click
import msgspec

from ..core.compare import Comparison

MEANING = {
    "live": "the next pull uses it",
    "repeats": "for the next start; in force already",
    "restart": "waits for the next start",
}


def show_changes(found: Comparison, output: str) -> None:
    """Print a comparison: lines for a person (``text``), or an object for programs (``json``, ``yaml``)."""
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(msgspec.to_builtins(found), sort_keys=False, allow_unicode=True), nl=False)
    else:
        for item in found.differences:
            click.echo(f"{item.change:<8} {item.path}  ({MEANING[item.effect]})")
        click.echo(_verdict(found))


def _verdict(found: Comparison) -> str:
    if found.waiting:
        return f"a restart of the runtime is needed for: {', '.join(found.waiting)}"
    return "no restart is needed" if found.differences else "nothing changes"
