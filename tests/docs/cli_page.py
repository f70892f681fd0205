"""docs/reference/cli.md, from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc

import click

from registry_mirror.cli.main import COMMANDS, command

_INTRODUCTION = """\
# Command line

<!-- Generated from the commands by `python -m tests.docs.generate`. -->

`registry-mirror COMMAND --help` says the same. Where [it is installed as a plugin](../how-to/kubectl-plugin.md),
`kubectl registry-mirror COMMAND` works as well. Tables and colours are for people and may change; `-o json` and
`-o yaml`, where there are such options, and exit codes are for programs.
"""


_AS_IT_STANDS = "\b"  # click's mark of a paragraph that is not wrapped


def page() -> str:
    """The whole page."""
    lines = [_INTRODUCTION, "| command | what it does |\n| --- | --- |"]
    lines += [f"| [{name}](#{name}) | {_prose(text)} |" for name, text in COMMANDS.items()]
    with click.Context(command, info_name="registry-mirror") as context:
        for name in COMMANDS:
            found = command.get_command(context, name)
            assert found is not None
            with click.Context(found, info_name=name, parent=context) as inner:
                lines += ["", *_command(found, inner)]
    return "\n".join(lines).rstrip("\n") + "\n"


def examples(help_text: str) -> list[str]:
    """The command lines behind ``Example:``, and those in the lines below ``Examples:``."""
    found = []
    for paragraph in cleandoc(help_text).split("\n\n"):
        first, *more = paragraph.strip("\b\n ").splitlines() or [""]
        if paragraph.startswith(_AS_IT_STANDS) and first.startswith("Example"):
            found += [line.strip().removeprefix("Example:").strip() for line in (first, *more) if line != "Examples:"]
    return found


def _command(found: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join([context.command_path, *found.collect_usage_pieces(context)])
    yield f"## {found.name}\n\n```text\n{usage}\n```\n"
    for paragraph in cleandoc(found.help or "").split("\n\n"):
        if not paragraph.startswith(_AS_IT_STANDS):
            yield _prose(paragraph) + "\n"
        elif not examples(paragraph):
            yield "```text\n" + paragraph.strip("\b\n ") + "\n```\n"
    yield "```sh\n" + "".join(f"{line}\n" for line in examples(found.help or "")) + "```\n"
    options = [item for item in found.params if isinstance(item, click.Option) and not item.hidden]
    if options:
        yield "| option | default | what it does |\n| --- | --- | --- |"
        yield from (_option(item, context) for item in options)
        yield ""
    yield _prose(found.epilog or "")


def _option(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    takes = "" if option.is_flag or option.count else f" {_prose(option.make_metavar(context))}"
    if isinstance(option.type, click.Choice) and takes:
        takes = " " + " or ".join(f"`{value}`" for value in option.type.choices)
    elif isinstance(option.type, click.types.IntRange) and takes:
        takes = f" {option.type.min} to {option.type.max}"
    return f"| {names}{takes} | {_default(option)} | {_prose(option.help or '')} |"


def _default(option: click.Option) -> str:
    if option.required:
        found = "required"
    elif not option.show_default or option.is_flag or option.default in (None, "", ()):
        found = ""
    elif isinstance(option.show_default, str):  # in words
        found = option.show_default
    else:
        found = f"`{option.default:g}`" if isinstance(option.default, float) else f"`{option.default}`"
    variable = option.envvar
    return f"{found}; or `${variable}`" if variable and found else f"`${variable}`" if variable else found


def _prose(text: str) -> str:
    """A paragraph in one line; what stands in backticks stays as it is."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([*|<\[\]_\\])", r"\\\1", part) for part in parts)
