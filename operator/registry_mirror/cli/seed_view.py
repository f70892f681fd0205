"""What `registry-mirror seed` shows: one live line on a terminal or a line an image elsewhere, and the summary."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

import click
from msgspec import Struct

from ..core.words import counted, some
from ..seed.work import Outcome, Watcher
from .screen import safe, table

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SHORT = 19  # of a digest: sha256: and twelve digits
_WORDS = {
    "Copied": "copied",
    "There": "there already",
    "Missing": "to copy",
    "Differs": "to replace",
    "Failed": "failed",
}
_COLOURS = {"there already": "green", "to replace": "yellow", "failed": "red"}


class Unresolved(Struct, frozen=True, rename="camel"):
    """An image that a node would not get there."""

    image: str
    url: str
    message: str


class Resolved(Struct, frozen=True, rename="camel"):
    """Through which endpoint how many images were asked for."""

    url: str
    asked: int


class Report(Struct, frozen=True, rename="camel"):
    """What was done, or would be; ``size`` counts blobs that images share once, as far as it is known."""

    images: tuple[Outcome, ...]
    size: int = 0
    endpoints: tuple[Resolved, ...] = ()
    unresolved: tuple[Unresolved, ...] = ()
    archive: str = ""
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether an image could not be had or copied."""
        return any(item.state == "Failed" for item in self.images)


def size_text(size: int) -> str:
    """Say how much, such as ``12.3 MiB``; ``-`` for what is not known."""
    if not size:
        return "-"
    number, unit = float(size), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.1f} {_UNITS[unit]}" if unit else f"{size} B"


class Progress(Watcher):
    """Tells on standard error how far it is."""

    def __init__(self) -> None:
        super().__init__()
        self._live = sys.stderr.isatty()
        self._what, self._count, self._done, self._size = "", 0, 0, 0

    def begin(self, what: str, count: int) -> None:
        """Say what begins, on a terminal by the next tick."""
        self._what, self._count, self._done, self._size = what, count, 0, 0
        if not self._live and count:
            click.echo(f"{what} {counted(count, 'image')}", err=True)

    def done(self, outcome: Outcome | None) -> None:
        """Count it; elsewhere than on a terminal, say it."""
        self._done += 1
        if outcome is None:
            return
        self._size += outcome.size if outcome.state == "Copied" else 0
        if not self._live:
            click.echo(f"{_WORDS[outcome.state]}: {outcome.image}", err=True)

    def tick(self) -> None:
        """Write the live line anew."""
        if not self._live:
            return
        size = f", {size_text(self._size)}" if self._size else ""
        names = some([safe(name) for name in list(self.active)], most=1)
        width = shutil.get_terminal_size().columns
        line = f"{self._what} {self._done} of {self._count}{size}: {names}" if names else ""
        click.echo(f"\r\x1b[K{line[: width - 1]}", nl=False, err=True)

    def end(self) -> None:
        """Clear the live line."""
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)


def planned(report: Report) -> Iterator[str]:
    """Give the lines of a dry run."""
    to = not report.archive
    rows = []
    for item in report.images:
        where = [item.destination] if to else []
        rows.append((item.image, item.digest[:_SHORT], *where, _WORDS[item.state], size_text(item.size)))
    header = ("IMAGE", "DIGEST", *(["DESTINATION"] if to else []), "STATE", "SIZE")
    yield from table(header, rows, _COLOURS)
    yield ""
    yield from _counts(report)


def summary(report: Report) -> Iterator[str]:
    """Give the lines of what was done."""
    yield from _counts(report)
    if report.archive:
        yield f"written to {report.archive}" if not report.failed else _unfinished(report)
    for endpoint in report.endpoints:
        missing = [item for item in report.unresolved if item.url == endpoint.url]
        yield f"{endpoint.asked - len(missing)} of {counted(endpoint.asked, 'image')} resolve through {endpoint.url}"
        for item in missing:
            yield f"  {click.style('not resolved', fg='red')}: {item.image}: {safe(item.message)}"


def _unfinished(report: Report) -> str:
    return f"{report.archive} is not written; what came is kept beside it, and the next run goes on"


def _counts(report: Report) -> Iterator[str]:
    if not report.images:
        yield "nothing to copy"
        return
    states = [_WORDS[item.state] for item in report.images]
    parts = [f"{states.count(word)} {word}" for word in _WORDS.values() if word in states]
    size = f" ({size_text(report.size)})" if report.size else ""
    yield f"{counted(len(report.images), 'image')}{size}: {', '.join(parts)}"
    for item in report.images:
        if item.message:
            yield f"  {click.style('failed', fg='red')}: {item.image}: {safe(item.message)}"
