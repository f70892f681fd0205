"""``registry-mirror restore --local``: this node as it was before the first change."""

from __future__ import annotations

from pathlib import Path

import click

from .apply import done, planned
from .local import local_options, open_node, progress, show
from .main import EXIT_CODES


@click.command("restore", epilog=EXIT_CODES)
@local_options
def command(local: bool, root: Path, runtime: str, restart: str, deadline: float, dry_run: bool, output: str) -> None:
    """Put back on this node what was there before the operator came, and forget it.

    For the end: after the operator was uninstalled, or after `apply --local`. With nothing to put back it does nothing.

    \b
    Example: registry-mirror restore --local --dry-run
    """
    from ..agent.local import Plan, Result

    with open_node(root, runtime, dry_run=dry_run) as node:
        if node.untouched():
            if not dry_run:
                node.forget(Result((), (), ()))
            found = Plan((), (), ()) if dry_run else Result((), (), ())
            show(found, ["nothing to put back"], output)
            return
        wanted = node.nothing()
        if dry_run:
            plan = node.plan(wanted)
            show(plan, planned(plan), output)
        else:
            result = node.apply(wanted, restart=restart == "auto", deadline=deadline, report=progress())
            node.forget(result)
            show(result, done(result), output)
