"""What every format is read into: registries with endpoints, and notes for the person who asked for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ...api import grammar
from ...api.errors import FieldError, InvalidError
from ...api.models import Capability
from ...api.parse import show
from ..material import Credentials, checked_pem, credentials
from ..render.k3s_hosts import Registries


class UnreadableError(Exception):
    """A file that a configuration names cannot be read; its text says why, in a few words."""


Read = Callable[[str, str], bytes]
"""Give the bytes of a file by its path and the folder that a relative path starts from; raises UnreadableError."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about the node that the files are from."""

    runtime: str = "auto"
    disable_default: bool = False
    embedded: str = ""


@dataclass(frozen=True, slots=True)
class Pem:
    """One CA, or one client certificate with its key; ``problem`` says why there are no texts."""

    texts: tuple[str, ...]
    origin: str
    problem: str = ""

    def __repr__(self) -> str:
        return f"Pem({self.origin})"


@dataclass(frozen=True, slots=True)
class TLS:
    """TLS settings with PEM texts."""

    ca: Pem | None = None
    client: Pem | None = None
    skip_verify: bool = False


@dataclass(slots=True)
class Endpoint:
    """One endpoint in the making."""

    url: str
    capabilities: tuple[Capability, ...] = ("Pull", "Resolve")
    tls: TLS | None = None
    credentials: Credentials | None = None
    dial_timeout: str | None = None


@dataclass(slots=True)
class Draft:
    """One RegistryMirror in the making; ``origin`` is the file and field that it comes from."""

    registry: str
    origin: str
    endpoints: list[Endpoint] = field(default_factory=list)
    rewrites: dict[str, str] = field(default_factory=dict)
    deny: bool = False
    tls: TLS | None = None
    credentials: Credentials | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What a configuration says about a host, whatever it is used for."""

    tls: TLS | None = None
    credentials: Credentials | None = None


@dataclass(slots=True)
class Drafts:
    """What one file or tree gives.

    ``hosts`` is what it says about hosts apart from registries; ``original`` is a registries.yaml as K3s reads it.
    """

    items: list[Draft] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hosts: dict[str, HostConfig] = field(default_factory=dict)
    original: Registries | None = None
    tls_of: dict[str, TLS] = field(default_factory=dict)


def wrong(subject: str, path: str, found: str, expected: str) -> InvalidError:
    """An error about one field of a file."""
    return InvalidError(subject, (FieldError(path, found, expected),), "InvalidFile")


def known_registry(subject: str, path: str, name: str, notes: list[str]) -> bool:
    """Tell whether a registry can be the subject of an object; notes why one that is no danger cannot.

    Raises InvalidError for what is no ``host[:port]`` at all, such as a path.
    """
    if name != "*" and grammar.host_port_problem(name):
        raise wrong(subject, path, show(name), grammar.REGISTRY_FORM)
    problem = grammar.registry_problem(name)
    if problem:
        notes.append(f"{path}: left out, no image is looked up under this name; {problem}")
    return problem is None


def checked_url(subject: str, path: str, url: str) -> str:
    """Give the URL, or raise InvalidError if it is none that an endpoint may have."""
    problem = grammar.url_problem(url)
    if problem:
        raise wrong(subject, path, _without_user(url), problem)
    return url


def _without_user(url: str) -> str:
    """A URL for an error message: what stands before an @ may be a password."""
    return "a URL with a user name" if "@" in url else show(url)


def pem(read: Read, folder: str, parts: list[tuple[str, str]]) -> Pem:
    """Read PEM files: pairs of path and block label (CERTIFICATE, PRIVATE KEY); what is wrong is in the result."""
    texts = []
    origin = " and ".join(dict.fromkeys(path for path, _ in parts))
    for path, label in parts:
        try:
            texts.append(checked_pem(read(path, folder), label))
        except (UnreadableError, ValueError) as error:
            return Pem((), origin, f"{path}: {error}")
    return Pem(tuple(texts), origin)


def ca_of(read: Read, folder: str, paths: list[str]) -> Pem | None:
    """Give the certificates of all these files as one CA; None without files."""
    if not paths:
        return None
    found = pem(read, folder, [(path, "CERTIFICATE") for path in paths])
    return Pem(("".join(dict.fromkeys(found.texts)),), found.origin) if found.texts else found


def usable(user: str, password: str, token: str, where: str, notes: list[str]) -> Credentials | None:
    """Give credentials as a Secret can hold them; None with a note if there is something that none can hold."""
    if user or password:
        data = {"username": user.encode(errors="replace"), "password": password.encode(errors="replace")}
    elif token:
        data = {"token": token.encode(errors="replace")}
    else:
        return None
    try:
        return credentials(data, "")
    except ValueError as error:
        notes.append(f"{where}: credentials left out, {error}")
        return None


def set_endpoint_tls(endpoint: Endpoint, tls: TLS | None, notes: list[str]) -> bool:
    """Give an endpoint its TLS settings, unless it is plain HTTP; tells whether there was nothing to leave out."""
    if tls is None or tls == TLS():
        return True
    if endpoint.url.startswith("http://"):
        notes.append(f"{endpoint.url}: TLS settings left out, the endpoint is plain HTTP")
        return False
    endpoint.tls = tls
    return True


def unknown_keys(keys: Iterator[str], known: tuple[str, ...], where: str, notes: list[str]) -> None:
    """Note the keys that are not read, but a bounded number of them."""
    extra = [key for key in keys if key not in known]
    for key in extra[:10]:
        notes.append(f"{where}{key[:80]}: not read")
    if len(extra) > 10:
        notes.append(f"{where or 'file: '}and {len(extra) - 10} more keys are not read")


def leave_out_empty(result: Drafts) -> None:
    """Leave out drafts that say nothing, with a note, unless "*" would hold for their registries then."""
    if any(draft.registry == "*" for draft in result.items):
        return
    said = [draft for draft in result.items if draft.endpoints or draft.tls or draft.credentials]
    for draft in result.items:
        if draft not in said:
            result.notes.append(f"{draft.registry}: left out, it says nothing but what holds without it")
            result.notes += (f"{draft.registry}: {note}" for note in draft.notes)
    result.items = said
