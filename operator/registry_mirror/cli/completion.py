"""``registry-mirror completion``: completion for shells and for kubectl, and the names that a cluster has for it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from .main import EXIT_CODES, command as root

_PROGRAM = "registry-mirror"
_VARIABLE = "_REGISTRY_MIRROR_COMPLETE"  # as click makes it of the program's name
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,252}")
_PATIENCE = 1.0
# The directives of Cobra, by which kubectl's shell code works (spf13/cobra completions.go).
_FILES, _NOTHING_ELSE, _DIRECTORIES = 0, 4, 16


@click.command("completion", epilog=EXIT_CODES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the code by which a shell completes this command.

    Commands, options and values are completed, and names of RegistryMirrors and nodes if the cluster gives them within
    a second. Bash has to be 4.4 or later.

    \b
    bash: put `source <(registry-mirror completion bash)` into ~/.bashrc
    zsh:  put `source <(registry-mirror completion zsh)` into ~/.zshrc, after compinit
    fish: registry-mirror completion fish > ~/.config/fish/completions/registry-mirror.fish

    `kubectl registry-mirror` is completed by kubectl's own code, 1.26 and later, with nothing else to do.

    \b
    Example: registry-mirror completion bash
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click has these three"
    click.echo(kind(root, {}, _PROGRAM, _VARIABLE).source())


def kubectl() -> None:
    """Complete ``kubectl registry-mirror``: the program ``kubectl_complete-registry_mirror``.

    kubectl calls it with the words so far, the last of which is to be completed (k8s.io/kubectl v0.36
    pkg/cmd/plugin/plugin_completion.go). The answer is a value a line, with its help behind a tab, and a directive.
    """
    *words, last = sys.argv[1:] or [""]
    items = ShellComplete(root, {}, f"kubectl {_PROGRAM}", _VARIABLE).get_completions(words, last)
    kinds = {item.type for item in items}
    directive = _FILES if "file" in kinds else _DIRECTORIES if "dir" in kinds else _NOTHING_ELSE
    option, equals, _ = last.partition("=")
    before = f"{option}=" if equals and option.startswith("-") else ""
    for item in items:
        if item.type == "plain":
            click.echo(f"{before}{item.value}" + (f"\t{' '.join(item.help.split())}" if item.help else ""))
    click.echo(f":{directive}")


def named(plural: str, context: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    """Give the objects of one of our kinds whose names begin so; nothing if the cluster does not say at once.

    It is asked by a process of its own, which can be ended whatever it waits for: a name server, a login.
    """
    place = (str(context.params.get(option) or "") for option in ("kubeconfig", "context"))
    # -P: not from the directory in which somebody happens to be.
    argv = [sys.executable, "-P", "-m", __name__, plural, *place]
    asked = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        answer, _ = asked.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        answer = ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(asked.pid, signal.SIGKILL)
        asked.wait()
    return [CompletionItem(name) for name in answer.split() if name.startswith(incomplete)]


async def _names(plural: str, kubeconfig: str, context: str) -> list[str]:
    from ..kube.resources import CONFIGS, MIRRORS
    from .cluster import connect

    (resource,) = (item for item in (MIRRORS, CONFIGS) if item.plural == plural)
    async with await connect(kubeconfig, context) as api:
        items, _ = await api.list(resource, metadata_only=True)
    return [name for item in items if _NAME.fullmatch(name := str(item["metadata"].get("name")))]


if __name__ == "__main__":
    import asyncio

    print("\n".join(asyncio.run(_names(*sys.argv[1:]))))
