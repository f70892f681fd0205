"""The desired files of a node, sealed into a revision: what travels from the controller to the agent.

A revision is a keyed hash of the content. It is shown in the API where many can read it, and the content may hold a
password that is easy to guess: without the key a guess cannot be checked against the digest.
"""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from ..api.errors import FieldError, InvalidError
from ..api.models import RuntimeName
from .edits import Edit
from .resolve import ResolvedMirror

PUBLIC_MODE = 0o644
SECRET_MODE = 0o600
_DIGEST_BYTES = 20
MAX_ENCODED = 1024 * 1024  # corev1.MaxSecretSize
_MAX_DECODED = 64 * 1024 * 1024
# A CA has up to 256 KiB: a dictionary of 1 MiB reaches the copy before, and is what an agent needs in memory.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1024 * 1024}]
_MAX_DICTIONARY = 8 * 1024 * 1024


class File(Struct, frozen=True, kw_only=True):
    """One file on the host. ``digest`` is keyed and is empty until the file is sealed."""

    path: str
    content: str
    mode: int = PUBLIC_MODE
    digest: str = ""

    def __repr__(self) -> str:
        return f"File({self.path}, {self.mode:04o}, {len(self.content)} characters)"


@dataclass(frozen=True, slots=True)
class MirrorProblem:
    """Why a mirror cannot be in force on a node; ``reason`` is CamelCase, ``message`` says what to do."""

    mirror: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class StartSetting:
    """A setting that only the next start of the runtime brings into force.

    ``value`` may be secret and never leaves the controller; ``mirrors`` are the names of the objects that want it.
    """

    value: str
    mirrors: frozenset[str]

    def __repr__(self) -> str:
        return f"StartSetting(***, {sorted(self.mirrors)})"


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a renderer gives: files in the order in which they must be written (what a file names comes before it).

    ``start_settings`` go by a name that a person understands; ``problems`` name the mirrors left out, and why;
    ``edits`` come after all files.
    """

    files: tuple[File, ...]
    start_settings: Mapping[str, StartSetting] = field(default_factory=dict)
    problems: tuple[MirrorProblem, ...] = ()
    edits: tuple[Edit, ...] = ()


class Bundle(Struct, frozen=True, kw_only=True):
    """A sealed set of files with its revision.

    ``start_settings`` holds keyed digests. ``sources`` are the mirrors that were rendered: they let the controller keep
    the last good state of an object whose Secret has vanished, even after it was itself restarted. They are no part of
    the revision.
    """

    revision: str
    runtime: RuntimeName
    files: tuple[File, ...]
    start_settings: dict[str, str] = msgspec.field(default_factory=dict)
    sources: tuple[ResolvedMirror, ...] = ()
    edits: tuple[Edit, ...] = ()

    @property
    def name(self) -> str:
        """The name of the Secret that carries it."""
        return f"bundle-{self.revision}"

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that is written, in the order in which that is done."""
        return (*(file.path for file in self.files), *(edit.path for edit in self.edits))


def seal(runtime: RuntimeName, rendered: Rendered, sources: tuple[ResolvedMirror, ...], key: bytes) -> Bundle:
    """Give the bundle of what was rendered. ``key`` (16 to 64 bytes) keys every digest in it."""
    files = tuple(
        msgspec.structs.replace(item, digest=digest(key, item.path, f"{item.mode:o}", item.content))
        for item in rendered.files
    )
    settings = {name: digest(key, name, item.value) for name, item in sorted(rendered.start_settings.items())}
    parts: list[str] = [runtime]
    for item in files:
        parts += [item.path, item.digest]
    for name, value in settings.items():
        parts += [name, value]
    for edit in rendered.edits:
        parts += [edit.path, msgspec.json.encode(edit, order="deterministic").decode()]
    return Bundle(
        revision=digest(key, *parts),
        runtime=runtime,
        files=files,
        start_settings=settings,
        sources=sources,
        edits=rendered.edits,
    )


def digest(key: bytes, *parts: str) -> str:
    """Give a keyed BLAKE2b digest (40 hex digits) of the parts; where one ends matters."""
    state = hashlib.blake2b(key=key, digest_size=_DIGEST_BYTES)
    for part in parts:
        raw = part.encode()
        state.update(len(raw).to_bytes(8, "big"))
        state.update(raw)
    return state.hexdigest()


def encode(bundle: Bundle) -> bytes:
    """Give the bytes that are stored in the Secret: compressed, and equal for equal bundles.

    Raises InvalidError (BundleTooLarge) if a Secret cannot hold them.
    """
    # xz and not gzip: the same CA may stand in hundreds of directories, and gzip looks back for 32 KB only.
    raw = lzma.compress(msgspec.json.encode(bundle), filters=_FILTERS)
    if len(raw) > MAX_ENCODED:
        problem = (
            f"the files of a node take {len(raw)} bytes, compressed, and a Secret holds {MAX_ENCODED}: most of it "
            "are CAs as a rule; name the few that the endpoints need, or have fewer objects select the node"
        )
        raise InvalidError("bundle", (FieldError("data", "", problem),), "BundleTooLarge")
    return raw


def decode(raw: bytes) -> Bundle:
    """Read what ``encode`` gave; raises InvalidError if it is anything else, or larger than 64 MiB."""
    try:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_DICTIONARY)
        text = stream.decompress(raw, _MAX_DECODED + 1)
        if len(text) > _MAX_DECODED or not stream.eof or stream.unused_data:
            raise ValueError("larger than 64 MiB, cut off, or more than a bundle")
        return msgspec.json.decode(text, type=Bundle)
    except (lzma.LZMAError, EOFError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        # Only the kind of failure: a validation message could quote the content.
        found = FieldError("data", "", f"it cannot be read ({type(error).__name__})")
        raise InvalidError("bundle", (found,), "BundleInvalid") from None
