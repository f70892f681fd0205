"""``registry-mirror``: the entry point. Commands are imported only when they run, so that each starts fast."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from .. import __version__
from ..api.errors import ProblemError

COMMANDS = {
    "status": "Show what is in force in a cluster, what goes on, and what is wrong.",
    "diff": "Show what an apply would change on which nodes, and whether it takes a restart.",
    "doctor": "Find what is wrong on a node or in a cluster, and say what to do about it.",
    "probe": "Follow an image through the mirrors as the runtime of a node would.",
    "seed": "Fill a private registry with the images that a cluster needs.",
    "render": "Render the files of a node from RegistryMirror objects, without a cluster.",
    "import": "Turn registries.yaml, hosts.toml and other existing files into RegistryMirror objects.",
    "apply": "Configure this node from RegistryMirror objects, without a cluster.",
    "restore": "Put back on this node what was there before.",
    "controller": "Run the controller (in its Deployment).",
    "agent": "Run the node agent (in its DaemonSet).",
    "completion": "Print the code by which a shell completes this command.",
}
# A command is in the module of its name, unless that is a word of Python's own.
_MODULES = {"import": "importing"}
EXIT_CODES = "Exit codes: 0 success, 1 the input is wrong or the work failed, 2 the command line is wrong."


class _Lazy(click.Group):
    """A group that knows its commands by name and summary, and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{_MODULES.get(cmd_name, cmd_name)}", __package__).command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Lazy,
    epilog=f"{EXIT_CODES} `status`, `diff`, `doctor`, `probe` and `seed` have more: see their help.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="registry-mirror")
def command() -> None:
    """One Kubernetes object instead of registries.yaml and hosts.toml on every node.

    \b
    Example: registry-mirror render -f mirrors.yaml --runtime k3s
    """


def called() -> str:
    """Give the name that the program was called by; kubectl runs a plugin by the name of its file."""
    plugin = sys.argv[0].endswith("kubectl-registry_mirror")
    return "kubectl registry-mirror" if plugin else "registry-mirror"


def main() -> None:
    """Run the command line; errors of the closed set end with exit code 1 and their text, never with a traceback."""
    try:
        command(prog_name=called(), standalone_mode=True)
    except ProblemError as error:
        for line in error.message.splitlines():
            # The name of a file is in it as well, and a terminal would act on it.
            shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
            click.echo(f"error: {shown}", err=True)
        sys.exit(1)


def log_level(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Set up logging for the long-running commands: one line an entry, to standard error."""
    import logging

    logging.basicConfig(
        level=value.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for noisy in ("kopf", "aiohttp", "urllib3"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(value.upper())))
    # It says at every start that it leaves signals alone, which is what it is told to do.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    return value


def log_level_option(function: Any) -> Any:
    """Add ``--log-level``."""
    levels = click.Choice(["debug", "info", "warning", "error"])
    return click.option(
        "--log-level", type=levels, default="info", show_default=True, callback=log_level, help="How much to log."
    )(function)


if __name__ == "__main__":
    main()
