"""Setting one line in a file that belongs to the node, and telling what the file would be without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..api.errors import FieldError, InvalidError
from ..core import edits
from ..core.edits import ConfigPath, EditError
from .host import Host, HostError, HostFile


@dataclass(frozen=True, slots=True)
class Change:
    """A file of the node as it is to be, with the mode and owner that it has."""

    path: str
    content: bytes
    mode: int
    owner: tuple[int, int]


def changes(host: Host, wanted: tuple[ConfigPath, ...]) -> Iterator[Change]:
    """Give the files in which something has to be set. Raises InvalidError (RuntimeConfigInvalid) and HostError."""
    for edit in wanted:
        found = host.read(edit.path)
        try:
            if found is None:
                raise EditError("it is not there any more")
            content = edits.apply(edit, found.content.decode()).encode()
        except (EditError, UnicodeDecodeError) as error:
            text = str(error) if isinstance(error, EditError) else "it is not UTF-8 text"
            raise InvalidError("node", (FieldError(edit.path, "", text),), "RuntimeConfigInvalid") from None
        if content != found.content:
            yield Change(edit.path, content, found.mode, (found.uid, found.gid))


def without(edit: ConfigPath, found: HostFile, original: bytes) -> bytes:
    """Give what a file would hold without us. Raises HostError (ConfigNotEditable) if that cannot be told."""
    try:
        return edits.undo(edit, found.content.decode(), original.decode()).encode()
    except (EditError, UnicodeDecodeError) as error:
        text = str(error) if isinstance(error, EditError) else "it is not UTF-8 text"
        raise HostError("ConfigNotEditable", f"{edit.path}: {text}") from None
