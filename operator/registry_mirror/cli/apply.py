"""``registry-mirror apply --local``: this node as the objects say, with the agent's own code and without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.bundle import Bundle, seal
from ..core.plan import unsupported
from .documents import Loaded, files_option, labels_of, labels_option, load, rendered
from .local import local_options, open_node, progress, show
from .main import EXIT_CODES

if TYPE_CHECKING:
    from ..agent.local import LocalNode, Plan, Result


@click.command("apply", epilog=EXIT_CODES)
@files_option
@labels_option
@local_options
def command(
    files: tuple[str, ...],
    labels: tuple[str, ...],
    local: bool,
    root: Path,
    runtime: str,
    restart: str,
    deadline: float,
    dry_run: bool,
    output: str,
) -> None:
    """Configure the container runtime of this node from RegistryMirror objects.

    For bootstrap, air gap and cloud-init: the agent's own engine, without a cluster. What was on the node before is
    kept, and `registry-mirror restore --local` puts it back. An agent that comes later takes over what it finds.

    \b
    Example: registry-mirror apply --local -f mirrors.yaml --dry-run
    """
    loaded = load(files)
    with open_node(root, runtime, dry_run=dry_run) as node:
        wanted = _bundle(node, loaded, labels_of(labels), node.key(keep=not dry_run))
        if dry_run:
            plan = node.plan(wanted)
            show(plan, planned(plan), output)
        else:
            result = node.apply(wanted, restart=restart == "auto", deadline=deadline, report=progress())
            show(result, done(result), output)


def _bundle(node: LocalNode, loaded: Loaded, labels: dict[str, str], key: bytes) -> Bundle:
    facts = node.facts()
    problem = unsupported(facts)
    if problem is not None:
        raise click.ClickException(f"{problem[1]} ({problem[0]})")
    found, sources = rendered(loaded, facts, labels)
    return seal(facts.name, found, sources, key)


def planned(plan: Plan) -> list[str]:
    """Say for a person what would be done."""
    if not plan.paths:
        return ["nothing changes", *_waiting(plan.waiting)]
    return [*plan.diff, "", *(_waiting(plan.waiting) or ["no restart is needed"])]


def done(result: Result) -> list[str]:
    """Say for a person what was done."""
    lines = [f"wrote {path}" for path in result.written]
    lines += [f"put back {path}" for path in result.restored]
    if result.restarted:
        lines.append(f"restarted {result.restarted}")
    return [*(lines or ["nothing to do"]), *_waiting(result.waiting)]


def _waiting(settings: tuple[str, ...]) -> list[str]:
    return [f"a restart of the runtime is needed for: {', '.join(settings)}"] if settings else []
