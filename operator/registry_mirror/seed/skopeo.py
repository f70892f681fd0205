"""skopeo, which does the copying: started with argument lists, and with files for whatever is secret.

Its options are those of 1.9.3 (Debian 12); its transports are described in containers-transports(5).
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..api.errors import ProblemError
from ..core.resolve import Credentials, ResolvedTLS

_INSTALL = (
    "skopeo is not on PATH: install it (Debian, Ubuntu: apt install skopeo; Fedora, RHEL: dnf install skopeo; Alpine: "
    "apk add skopeo; macOS: brew install skopeo)"
)
_RETRIES = 3
_ASK = "120s"
_GRACE = 5.0
_POLICIES = ("~/.config/containers/policy.json", "/etc/containers/policy.json")
# How logrus, which skopeo logs with, writes its last word.
_FATAL = re.compile(r'level=fatal msg=("(?:[^"\\]|\\.)*"|\S+)')
# What a registry redirects to may carry a signature that is as good as a password.
_QUERY = re.compile(r"\?[^\s\"']+")
_MISSING = ("manifest unknown", "name unknown", "repository name not known", "not found", "StatusCode: 404")
_OUT_OF_REACH = (
    *("x509:", "connection refused", "no such host", "server gave HTTP response to HTTPS client", "i/o timeout"),
    *("no route to host", "network is unreachable", "tls: ", "context deadline exceeded"),
)


class Failed(Exception):
    """skopeo did not do it; the message is its own, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def missing(self) -> bool:
        """Whether a registry answered, and has no such image."""
        return any(words in self.message for words in _MISSING)

    @property
    def out_of_reach(self) -> bool:
        """Whether no registry answered: the next image would fare no better."""
        return any(words in self.message for words in _OUT_OF_REACH)


@dataclass(frozen=True, slots=True)
class Access:
    """How a registry is spoken to: a file with credentials, a directory with certificates, and how strictly."""

    authfile: Path | None = None
    certificates: Path | None = None
    verify: bool = True

    def options(self, side: str = "") -> list[str]:
        """Give skopeo's options for it; ``side`` is ``src-``, ``dest-``, or empty where there is one registry only."""
        given = [f"--{side}authfile={self.authfile}"] if self.authfile is not None else []
        given += [f"--{side}cert-dir={self.certificates}"] if self.certificates is not None else []
        return given if self.verify else [*given, f"--{side}tls-verify=false"]


class Skopeo:
    """Runs skopeo, from any thread. Raises ProblemError if there is none."""

    def __init__(self, timeout: float) -> None:
        """Take how long one copy may take, in seconds."""
        program = shutil.which("skopeo")
        if program is None:
            raise ProblemError("", _INSTALL)
        # Whoever has a policy for signatures has it kept; a machine without one, where skopeo would refuse to work,
        # wants none.
        trusted = any(Path(path).expanduser().exists() for path in _POLICIES)
        self._base = [program] if trusted else [program, "--insecure-policy"]
        self._timeout = f"{max(1, round(timeout))}s"
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def manifest(self, name: str, access: Access) -> bytes:
        """Give the manifest or index of an image as its registry has it. Raises Failed."""
        options = ["inspect", "--raw", f"--retry-times={_RETRIES}", *access.options()]
        return self._run(_ASK, [*options, f"docker://{name}"])

    def copy(self, source: str, target: str, options: Sequence[str], *, whole: bool = True) -> None:
        """Copy from one transport to another, digests unchanged; ``whole`` with all that an index names.

        Raises Failed.
        """
        known = ["copy", "--quiet", "--preserve-digests", "--remove-signatures", f"--retry-times={_RETRIES}"]
        self._run(self._timeout, [*known, *(["--all"] if whole else []), *options, source, target])

    def knows(self, host: str, access: Access) -> bool:
        """Tell whether there are credentials for a registry in the usual places, credential helpers included."""
        try:
            authfile = Access(access.authfile).options()
            self._run(_ASK, ["login", "--get-login", *authfile, host])
        except Failed:
            return False
        return True

    def stop(self) -> None:
        """End what runs, and have nothing new start."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()

    def _run(self, timeout: str, arguments: Sequence[str]) -> bytes:
        argv = [*self._base, f"--command-timeout={timeout}", *arguments]
        with self._lock:
            if self._stopped:
                raise Failed("it was stopped")
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self._running.add(process)
        try:
            output, errors = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode != 0:
            raise Failed(_said(errors.decode(errors="replace"), process.returncode))
        return output


def _said(errors: str, status: int) -> str:
    """Give the last word of skopeo, without its time and quotes."""
    fatal = _FATAL.findall(errors)
    text = fatal[-1] if fatal else (errors.strip().splitlines() or [f"skopeo ends with status {status}"])[-1]
    if text.startswith('"'):
        try:
            text = json.loads(text)
        except ValueError:
            text = text.strip('"')
    return _QUERY.sub("?…", " ".join(text.split()))


def usual_authfile() -> Path | None:
    """Give the file of $DOCKER_CONFIG, which skopeo 1.9 does not look at; None where skopeo's own order is right."""
    given = os.environ.get("DOCKER_CONFIG", "")
    path = Path(given) / "config.json"
    return path if given and not os.environ.get("REGISTRY_AUTH_FILE") and path.is_file() else None


def usual_places() -> Iterator[Path]:
    """Give the files that may have credentials, in the order in which they count (containers-auth.json(5))."""
    given = os.environ.get("REGISTRY_AUTH_FILE")
    if given:
        yield Path(given)
        return
    runtime, docker = os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("DOCKER_CONFIG")
    if runtime:
        yield Path(runtime) / "containers/auth.json"
    yield Path("~/.config/containers/auth.json").expanduser()
    yield Path(docker or "~/.docker").expanduser() / "config.json"


def write_authfile(directory: Path, credentials: Mapping[str, Credentials]) -> Path:
    """Keep credentials in a private directory, in the form of docker's config.json; the keys are hosts, with a path
    where they are for what is below it only (containers-auth.json(5)).
    """
    return _private(
        directory / "auth.json", json.dumps({"auths": {key: _entry(item) for key, item in credentials.items()}})
    )


def _entry(credentials: Credentials) -> dict[str, str]:
    if credentials.identity_token:
        return {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": credentials.identity_token}
    return {"auth": credentials.basic().removeprefix("Basic ")}


def write_certificates(directory: Path, tls: ResolvedTLS) -> Path | None:
    """Keep certificates in a new private directory, as containers-certs.d(5) has them; None if there are none."""
    files = {"ca.crt": tls.ca, "client.cert": tls.certificate, "client.key": tls.key}
    if not any(files.values()):
        return None
    directory.mkdir(mode=0o700)
    for name, content in files.items():
        if content:
            _private(directory / name, content)
    return directory


def _private(path: Path, content: str) -> Path:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(content)
    return path
