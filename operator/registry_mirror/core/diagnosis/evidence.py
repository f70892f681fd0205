"""What was found on a node, as the rules take it: texts and facts, nothing that has to be looked up any more."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ...api.models import RuntimeFacts, RuntimeName

SHOWN_NAMES: dict[str, str] = {"k3s": "K3s", "rke2": "RKE2", "microk8s": "MicroK8s", "crio": "CRI-O"}


class File(Struct, frozen=True, kw_only=True):
    """A path at which a file is, or is not.

    ``text`` is None if there is none, or if it cannot be read: then ``problem`` says why. ``unseen``: nothing of the
    node is mounted there, so nothing can be told. ``exposed``: others than its owner may read it, by its mode and those
    of all directories above. ``unsafe`` says why the agent would not write there (a link, or somebody's directory).
    ``modified`` is in nanoseconds since 1970.
    """

    path: str
    text: str | None = None
    problem: str = ""
    unseen: bool = False
    exposed: bool = False
    unsafe: str = ""
    modified: int = 0

    def __repr__(self) -> str:
        return f"File({self.path})"


class Folder(Struct, frozen=True, kw_only=True):
    """A directory of a registry in certs.d: the names in it, and its hosts.toml if there is one."""

    name: str
    names: tuple[str, ...] = ()
    hosts: File | None = None


class Certs(Struct, frozen=True, kw_only=True):
    """A directory with a directory a registry; ``files`` are the names of files that lie in it directly."""

    path: str
    folders: tuple[Folder, ...] = ()
    files: tuple[str, ...] = ()
    unsafe: str = ""


class Runs(Struct, frozen=True, kw_only=True):
    """What runs: the state of the socket (agent/live.py; Unknown where nothing tells), its service, and the runtime's
    own answers. ``started`` is when it made its socket, in nanoseconds since 1970; 0 if that is not known.
    """

    state: str = "Unknown"
    socket: str = ""
    unit: str = ""
    started: int = 0
    version: str = ""
    refused: str = ""
    ready: bool = True
    message: str = ""


class Record(Struct, frozen=True, kw_only=True):
    """What the agent, or ``apply --local``, has on record on the node (agent/state.py).

    ``waiting`` are settings that the runtime has not read yet; ``failed`` says how its last restart ended if the node
    went back; ``gone`` and ``foreign`` are files of ours that are not there any more, or are somebody else's now;
    ``unfinished``: a change was begun and not ended; ``left`` are temporary files; ``provisioner`` says who else writes
    the runtime's files; ``agent_gone`` says since when there is no agent for which the host keeps a way back.
    """

    ours: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    failed: str = ""
    gone: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    unfinished: bool = False
    left: tuple[str, ...] = ()
    provisioner: str = ""
    agent_gone: str = ""
    problem: tuple[str, str] | None = None


class Node(Struct, frozen=True, kw_only=True):
    """A node as it was found.

    ``name`` is the runtime's, and ``facts`` what the agent would make of it; where it refuses to, ``problem`` has the
    reason and the message. ``config`` is the configuration that containerd reads, and ``drop_ins`` what that imports,
    in order; ``beside`` are drop-ins that nothing imports. ``others`` are further files of the runtime, by path.
    ``tls`` are the files that TLS settings name, and ``mismatched`` the pairs of certificate and key that do not belong
    together. ``now`` is in seconds since 1970.
    """

    host: str = ""
    name: RuntimeName | None = None
    facts: RuntimeFacts | None = None
    problem: tuple[str, str] | None = None
    runs: Runs = Runs()
    config: File | None = None
    drop_ins: tuple[File, ...] = ()
    beside: tuple[File, ...] = ()
    certs: tuple[Certs, ...] = ()
    old_certs: tuple[Certs, ...] = ()
    others: dict[str, File] = msgspec.field(default_factory=dict)
    tls: dict[str, File] = msgspec.field(default_factory=dict)
    mismatched: tuple[tuple[str, str], ...] = ()
    record: Record = Record()
    notes: tuple[str, ...] = ()
    now: float = 0.0

    @property
    def containerd_version(self) -> str:
        """The version that containerd gave, empty if it was not asked or is none."""
        return self.runs.version if self.name != "crio" else ""


class Asked(Struct, frozen=True, kw_only=True):
    """What asking an endpoint came to. ``proxy`` is the one that the runtime would go through, as host:port; ``known``
    is False if that one cannot be used from here.
    """

    url: str
    reachable: bool = True
    reason: str = ""
    message: str = ""
    proxy: str = ""
    known: bool = True
