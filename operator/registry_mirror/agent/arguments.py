"""The command line of a program written in Go: which value a flag has, in all the ways in which it can be given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

# What Go's strconv.ParseBool takes for true.
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})


def last(argv: Sequence[str], *names: str) -> str:
    """Give the value of a flag that takes one, empty if it is not there; the last one counts, as in Go's flag package.

    ``-name v``, ``--name v``, ``-name=v`` and ``--name=v`` mean the same there.
    """
    found = ""
    for index, (name, value) in _flags(argv):
        if name in names:
            following = argv[index + 1] if index + 1 < len(argv) else ""
            found = following if value is None else value
    return found


def switch(argv: Sequence[str], name: str) -> bool | None:
    """Give a flag that is on or off, or None if it is not there; its value is given with ``=`` or not at all."""
    found: bool | None = None
    for _, (flag, value) in _flags(argv):
        if flag == name:
            found = value is None or is_true(value)
    return found


def is_true(value: str) -> bool:
    """Tell whether a program written in Go reads this as true."""
    return value in _TRUE


def _flags(argv: Iterable[str]) -> Iterator[tuple[int, tuple[str, str | None]]]:
    for index, argument in enumerate(argv):
        if argument.startswith("-"):
            name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
            yield index, (name, value if equals else None)
