"""Values that somebody may write to do harm, in one list: every entrance of the program is tried with all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Field = Literal["registry", "url", "pattern", "replacement", "password"]

MEGABYTE = "a" * 1_000_000
# What breaks out of a line, a string, a path, a template or a terminal.
INJECTIONS = (
    "\n",
    "\r\nX-Evil: 1",
    "\x00",
    "\t",
    '"',
    "'",
    '"""',
    "'''",
    "\\",
    "\\u0000",
    "`id`",
    "[",
    "]",
    '"]\n[plugins."x"]\nx = "',
    "/../",
    "../../../../etc/cron.d/x",
    "..%2f",
    "%2e%2e/",
    "%00",
    "%0d%0a",
    "%",
    "%zz",
    "?x=y",
    "#x",
    "user:password@",
    " ",
    ": ",
    "- x",
    "&a",
    "*a",
    "!!python/object/apply:os.system [id]",
    "{{ x }}",
    "{% x %}",
    "${x}",
    "$(id)",
    "|",
    ">",
    "\x1b[31m",
    "\x1b]0;x\x07",
    "\x7f",
    "\x85",
    "\u2028",
    "\u200b",
    "\u202e",
    "\ufeff",
    "\u0435",  # looks like a Latin e
    "\uff0e",  # looks like a full stop
    "\u3002",  # some resolvers read it as one
    "\u0665",  # a digit, to Python
    "ü",
    "\U0001f600",
    MEGABYTE,
)
# Where a value is not refused, it has to arrive as it is: only these stand in a path of a URL for what they are.
_IN_URL = {"&a", "*a", "$(id)", "user:password@"}
_CONTROL = {"\n", "\r\nX-Evil: 1", "\x00", "\t", '"]\n[plugins."x"]\nx = "', "\x1b[31m", "\x1b]0;x\x07", "\x7f"}
# Neither ends a line for all who read one; a rewrite is a key of YAML, a password is not.
_ENDS = {"\x85", "\u2028", "\ufeff"}
_NOT_RE2 = {"\\", "\\u0000", "["}


@dataclass(frozen=True, slots=True)
class Case:
    """A value for a field, and whether it is taken."""

    field: Field
    value: str
    taken: bool

    def __str__(self) -> str:
        return f"{self.field} {ascii(self.value)[:50]}"


def cases() -> Iterator[Case]:
    """Give all of them."""
    for item in INJECTIONS:
        for value in (f"docker{item}.io", f"{item}docker.io", f"docker.io{item}"):
            yield Case("registry", value, value in ("adocker.io",))
        yield Case("url", f"https://m{item}.example/v2", False)
        yield Case("url", f"https://m.example/v2/{item}", item in _IN_URL)
        shown = item not in _CONTROL | _ENDS and item != MEGABYTE
        yield Case("pattern", f"^x{item}", shown and item not in _NOT_RE2)
        yield Case("replacement", f"x/{item}", shown and item != "${x}")
        yield Case("password", f"p{item}", item not in _CONTROL)
