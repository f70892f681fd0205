"""What all commands have in common: help with an example and exit codes, and a start that loads little."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import registry_mirror
from registry_mirror.cli.main import COMMANDS, command
from tests.docs.cli_page import examples
from tests.docs.shell import commands
from tests.docs.test_commands_in_docs import wrong_with

PACKAGE = Path(registry_mirror.__file__).resolve().parent
# What takes a tenth of a second or more to load, and is needed by the work, not by the help.
HEAVY = {
    *("aiohttp", "grpc", "google.protobuf", "inotify_simple", "jeepney", "kopf", "kubernetes", "prometheus_client"),
    "urllib3",
}
SCRIPT = """
import json, sys
from registry_mirror.cli.main import main
sys.argv = ["registry-mirror", *sys.argv[1:]]
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def loaded(*argv: str) -> set[str]:
    """What is loaded when the program has run with these arguments."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *argv],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    modules: list[str] = json.loads(done.stderr)
    return set(modules)


def found_command(name: str) -> click.Command:
    found = command.get_command(click.Context(command), name)
    assert found is not None
    return found


def help_of(name: str) -> str:
    shown = CliRunner().invoke(command, [name, "--help"], prog_name="registry-mirror", terminal_width=200)
    assert shown.exit_code == 0, shown.output
    return shown.output


def test_the_help_of_the_program_loads_no_command_and_nothing_else() -> None:
    found = loaded("--help")
    ours = {name.removeprefix("registry_mirror") for name in found if name.startswith("registry_mirror")}
    assert ours == {"", ".api", ".api.errors", ".cli", ".cli.main"}
    assert found & {*HEAVY, "asyncio", "jinja2", "msgspec", "ssl", "yaml"} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_loads_nothing_heavy(name: str) -> None:
    assert loaded(name, "--help") & HEAVY == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_has_an_example_that_can_be_run(name: str) -> None:
    given = examples(found_command(name).help or "")
    found = [words for line in given for words in commands(line) if words[0] == "registry-mirror"]
    assert [(words[:2], wrong_with(words)) for words in found] == [(["registry-mirror", name], "")] * len(given)
    assert all(line in help_of(name) for line in given)
    assert given


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_ends_with_the_exit_codes(name: str) -> None:
    codes = " ".join(help_of(name).split()).partition("Exit codes: ")[2]
    assert re.match(r"0 [^,]+, 1 .+, 2 ", codes)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    parameters = found_command(name).params
    assert [item.name for item in parameters if isinstance(item, click.Option) and not item.help] == []


def test_a_command_that_does_not_exist_is_an_error_of_the_command_line() -> None:
    shown = CliRunner().invoke(command, ["frobnicate"])
    assert (shown.exit_code, "No such command 'frobnicate'" in shown.output) == (2, True)
