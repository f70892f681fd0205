"""Real registries (distribution) on the nodes' bridge: open, with passwords, with tokens, with TLS, and hanging."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .authority import Authority, KeyPair, bcrypt
from .images import Image, make_image
from .nodebinaries import NodePrograms
from .processes import Process
from .tokens import ISSUER, TokenService
from .workplace import Workplace

START_TIMEOUT = 15.0
_POLL = 0.02
_QUIET = 0.05
# Apache's combined format, which distribution writes (registry/registry.go: gorilla's CombinedLoggingHandler).
_ACCESS = re.compile(
    r'^(?P<peer>\S+) - \S+ \[[^]]*\] "(?P<method>\S+) (?P<path>\S+) [^"]*" (?P<status>\d+) \d+ '
    r'"[^"]*" "(?P<agent>[^"]*)"',
    re.MULTILINE,
)


@dataclass(frozen=True)
class Request:
    """A request that a registry has answered, from its access log."""

    method: str
    path: str
    status: int
    agent: str
    peer: str


class Registry:
    """One registry with a storage and a port of its own, which it keeps when it is started again."""

    def __init__(
        self, directory: Path, host: str, program: Path, settings: Mapping[str, Any], tls: KeyPair | None = None
    ) -> None:
        self.name = directory.name
        self.host = host
        self.port = _free_port(host)
        self.tls = tls
        self.directory = directory
        self.storage = self.directory / "storage"
        self.storage.mkdir(parents=True)
        self._seen = 0
        self._write(settings)
        argv = [str(program), "serve", str(self.directory / "config.json")]
        env = {"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"}
        self._process = Process(f"registry {self.name}", argv, env, self.directory / "log")

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where nodes find it; `https` with TLS."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    def start(self) -> Registry:
        """Start it (again) and wait until it listens. Raises ProcessFailed."""
        self._process.start()
        deadline = time.monotonic() + START_TIMEOUT
        while not _listens(self.host, self.port):
            if not self._process.alive() or time.monotonic() > deadline:
                raise self._process.failure("does not listen")
            time.sleep(_POLL)
        return self

    def stop(self) -> None:
        """End it: connections are refused then. It can be started again."""
        self.resume()
        self._process.stop()

    def hang(self) -> None:
        """From now on it accepts connections and says nothing (the kernel accepts for a process that is stopped)."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `hang`."""
        self._process.send_signal(signal.SIGCONT)

    def push(self, repository: str, tag: str, image: Image | None = None) -> Image:
        """Have it offer an image, a new and unique one unless given; gives the image. No request is made for it."""
        found = make_image() if image is None else image
        found.store(self.storage, repository, tag)
        return found

    def requests(self, text: str = "") -> list[Request]:
        """What came since the start or `forget`, with ``text`` in the path; a layer's line may come after the pull's
        end, so this waits until the log is quiet."""
        size = -1
        while size != (size := self._size()):
            time.sleep(_QUIET)
        with self._process.log_path.open("rb") as log:
            log.seek(self._seen)
            found = [_request(match) for match in _ACCESS.finditer(log.read().decode(errors="replace"))]
        return [request for request in found if text in request.path]

    def forget(self) -> None:
        """Have `requests` begin here."""
        self.requests()
        self._seen = self._size()

    def _size(self) -> int:
        return self._process.log_path.stat().st_size

    def _write(self, settings: Mapping[str, Any]) -> None:
        http: dict[str, Any] = {"addr": self.address, "secret": "of-no-use", "headers": {}}
        if self.tls is not None:
            http["tls"] = {"certificate": str(self.tls.certificate), "key": str(self.tls.key)}
            if "clientcas" in settings:
                http["tls"]["clientcas"] = settings["clientcas"]
        content = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": http,
        }
        if "auth" in settings:
            content["auth"] = settings["auth"]
        # JSON, which is YAML too.
        (self.directory / "config.json").write_text(json.dumps(content))


class Registries:
    """Makes registries, all ended by `stop` or at the end of a `with` block.

    ``authority`` signs the TLS registries' certificates: ``authority.certificate`` is what a node has to trust.
    """

    def __init__(self, place: Workplace, programs: NodePrograms) -> None:
        self.place = place
        self.programs = programs
        self._directory = _fresh(place.directory, "registries")
        self.authority = Authority(self._directory / "authority")
        self._made: list[Registry] = []
        self._services: list[TokenService] = []

    def plain(self, name: str) -> Registry:
        """Open to all, over HTTP."""
        return self._start(name, {})

    def basic(self, name: str, passwords: Mapping[str, str]) -> Registry:
        """With Basic auth, over HTTP; `set_passwords` changes them."""
        registry = self._make(name, {"auth": {"htpasswd": {"realm": name, "path": str(self._htpasswd(name))}}})
        self.set_passwords(registry, passwords)
        return registry.start()

    def set_passwords(self, registry: Registry, passwords: Mapping[str, str]) -> None:
        """Have a Basic registry accept these from its next request on (it reads the file again when it is newer)."""
        lines = [f"{user}:{bcrypt(self.programs.bcrypt, password)}\n" for user, password in passwords.items()]
        final = self._htpasswd(registry.name)
        temporary = final.with_name("htpasswd.new")
        temporary.write_text("".join(lines))
        temporary.replace(final)

    def token(self, name: str, passwords: dict[str, set[str]]) -> tuple[Registry, TokenService]:
        """With token auth, over HTTP, and its token service, which knows the passwords."""
        authority = Authority(self._directory / f"{name}-authority")
        service = TokenService(self.place.host, authority, passwords).start()
        self._services.append(service)
        settings = {
            "realm": service.url,
            "service": name,
            "issuer": ISSUER,
            "rootcertbundle": str(authority.certificate),
        }
        return self._start(name, {"auth": {"token": settings}}), service

    def tls(self, name: str, *, clients: bool = False, passwords: Mapping[str, str] | None = None) -> Registry:
        """Over TLS, with a certificate of our authority; with ``clients``, only for those with one too; with
        ``passwords``, with Basic auth as well.
        """
        pair = self.authority.issue(f"{name}.test", self.place.host)
        settings: dict[str, Any] = {"clientcas": [str(self.authority.certificate)]} if clients else {}
        if passwords:
            settings["auth"] = {"htpasswd": {"realm": name, "path": str(self._htpasswd(name))}}
        registry = self._make(name, settings, pair)
        if passwords:
            self.set_passwords(registry, passwords)
        return registry.start()

    def stop(self) -> None:
        """End them all; calling it again does nothing."""
        while self._made:
            self._made.pop().stop()
        while self._services:
            self._services.pop().stop()

    def __enter__(self) -> Registries:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make(self, name: str, settings: Mapping[str, Any], tls: KeyPair | None = None) -> Registry:
        registry = Registry(self._directory / name, self.place.host, self.programs.registry, settings, tls)
        self._made.append(registry)
        return registry

    def _start(self, name: str, settings: Mapping[str, Any], tls: KeyPair | None = None) -> Registry:
        return self._make(name, settings, tls).start()

    def _htpasswd(self, name: str) -> Path:
        return self._directory / name / "htpasswd"


def _request(match: re.Match[str]) -> Request:
    found = match.groupdict()
    peer = found["peer"].rsplit(":", 1)[0]
    return Request(found["method"], found["path"], int(found["status"]), found["agent"], peer)


def _fresh(base: Path, name: str) -> Path:
    number = 0
    while (path := base / f"{name}-{number}").exists():
        number += 1
    path.mkdir(parents=True)
    return path


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
