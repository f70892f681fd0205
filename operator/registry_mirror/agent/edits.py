"""Registry settings in a file that belongs to the node: what it is to be, and what it would be without us."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from ..api import grammar
from ..api.errors import FieldError, InvalidError
from ..core import edits
from ..core.edits import AUTH_KEYS, TLS_KEYS, Edit, EditError, HostConfig
from ..core.layout import Layout
from .host import Host, HostError, HostFile

_MAX_SIZE = 1024 * 1024  # of what is added; the file with it has to stay below what is read of a file
_FILES = TLS_KEYS[:3]


@dataclass(frozen=True, slots=True)
class Change:
    """A file of the node as it is to be, with the owner that it has."""

    path: str
    content: bytes
    mode: int
    owner: tuple[int, int]

    def __repr__(self) -> str:
        return f"Change({self.path}, {self.mode:04o}, {len(self.content)} bytes)"


def changes(host: Host, wanted: tuple[Edit, ...], modes: Mapping[str, int]) -> Iterator[Change]:
    """Give the files in which something has to be set.

    ``modes`` are those that files had before the agent came. A file keeps its mode, but for the time in which it holds
    a credential of ours. Raises InvalidError (RuntimeConfigInvalid) and HostError.
    """
    for edit in wanted:
        found = host.read(edit.path)
        try:
            if found is None:
                raise EditError("it is not there any more")
            before = found.content.decode()
            content = edits.apply(edit, before)
            mode = found.mode
            if edits.holds_secret(content, edit.config_schema):
                mode &= 0o600
            elif edits.holds_secret(before, edit.config_schema):
                mode = modes.get(edit.path, mode)
        except (EditError, UnicodeDecodeError) as error:
            raise InvalidError("node", (FieldError(edit.path, "", _said(error)),), "RuntimeConfigInvalid") from None
        if (content, mode) != (before, found.mode):
            yield Change(edit.path, content.encode(), mode, (found.uid, found.gid))


def without(edit: Edit, found: HostFile, original: bytes) -> bytes:
    """Give what a file would hold without us. Raises HostError (ConfigNotEditable) if that cannot be told."""
    try:
        return edits.undo(edit, found.content.decode(), original.decode()).encode()
    except (EditError, UnicodeDecodeError) as error:
        raise HostError("ConfigNotEditable", f"{edit.path}: {_said(error)}") from None


def holds_secret(edit: Edit, found: HostFile) -> bool:
    """Tell whether a credential of ours is in a file, so that its mode is ours as well."""
    try:
        return edits.holds_secret(found.content.decode(), edit.config_schema)
    except (EditError, UnicodeDecodeError):
        return False


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, EditError) else "it is not UTF-8 text"


def problems(edit: Edit, allowed: Layout) -> Iterator[str]:
    """Say what of an edit must not be made on this node; the agent trusts no bundle. No text quotes a value."""
    if edit.path not in allowed.edits:
        yield "it is no file that is edited on this node"
    if edit.config_path not in ("", allowed.config_path):
        yield "config_path is not to be that on this node"
    tls = any(item.tls for item in edit.configs.values())
    if allowed.certs and (edit.mirrors or tls):
        yield "mirrors and TLS settings have no place in it on this node"
    if len(msgspec.json.encode(edit)) > _MAX_SIZE:
        yield f"it is larger than {_MAX_SIZE} bytes"
    names = [*(name for name in edit.mirrors if name != "*"), *edit.configs]
    if any(len(name) > grammar.MAX_NAME or grammar.host_port_problem(name) for name in names):
        yield "a name in it is no host[:port]"
    if any(grammar.url_problem(url) for urls in edit.mirrors.values() for url in urls):
        yield "an endpoint in it is no URL"
    if not all(_is_plain(item, allowed) for item in edit.configs.values()):
        yield "it sets something else than TLS files of ours, or credentials without control characters"


def _is_plain(item: HostConfig, allowed: Layout) -> bool:
    files = [item.tls[key] for key in _FILES if key in item.tls]
    return (
        set(item.tls) <= set(TLS_KEYS)
        and all(isinstance(path, str) and _is_tls_file(path, allowed) for path in files)
        and isinstance(item.tls.get("insecure_skip_verify", True), bool)
        and set(item.auth) <= set(AUTH_KEYS)
        and not any(_has_control(value) for value in item.auth.values())
    )


def _is_tls_file(path: str, allowed: Layout) -> bool:
    return path.startswith(f"{allowed.tls}/") and allowed.allows(path) and not _has_control(path)


def _has_control(text: Iterable[str]) -> bool:
    return any(ord(char) < 0x20 or ord(char) == 0x7F for char in text)
