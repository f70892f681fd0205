"""A real etcd and kube-apiserver on loopback, for the life of a `with` block or of a demo.

RBAC, admission and validation are what an operator trips over in a cluster, so tests run against
the API server itself, with authorization on, and not against a stand-in.
"""

from __future__ import annotations

import http.client
import secrets
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from .binaries import Assets, resolve
from .credentials import new_signing_key, write_kubeconfig, write_private
from .kubectl import TIMEOUT, KubectlError, run_kubectl
from .processes import Process, ProcessFailed

READY_TIMEOUT = 90.0
SERVICE_CIDR = "10.96.0.0/16"
_PORT_ATTEMPTS = 5
_POLL = 0.05
_PORT_TAKEN = "address already in use"
_ETCD_SERVES = "ready to serve client requests"

_Ready = Callable[[Process, int], bool]


class ControlPlane:
    """etcd and kube-apiserver, started by `start` or `with` and ended by `stop`.

    Takes the directory for data, keys, logs and kubeconfigs (None: a temporary one, removed at
    the stop), the programs (None: `resolve()`), and more kube-apiserver flags, which win over
    ours. With `detached`, the processes go on when Python ends or the `with` block is left, and
    the file `pids` in the directory lists their ids, one a line, in the order in which to end
    them, until `stop` does.
    """

    def __init__(
        self,
        work: Path | None = None,
        assets: Assets | None = None,
        *,
        detached: bool = False,
        apiserver_flags: Sequence[str] = (),
    ) -> None:
        self._given = work
        self._assets = assets
        self._detached = detached
        self._apiserver_flags = tuple(apiserver_flags)
        self._work: Path | None = None
        self._admin_token = secrets.token_hex(16)
        self._url = ""
        self.processes: list[Process] = []

    @property
    def work(self) -> Path:
        """The directory with `log/`, `pki/`, `kubeconfig/`. Raises ProcessFailed if not started."""
        if self._work is None:
            raise ProcessFailed("the control plane is not running")
        return self._work

    @property
    def assets(self) -> Assets:
        """The programs in use; the first time they may have to be built. Raises NotObtainable."""
        if self._assets is None:
            self._assets = resolve()
        return self._assets

    @property
    def url(self) -> str:
        """The API server's address. Raises ProcessFailed when not started."""
        if not self._url:
            raise ProcessFailed("the control plane is not running")
        return self._url

    @property
    def ca_file(self) -> Path:
        """The certificate that the API server made for itself, with its authority."""
        return self.work / "pki" / "apiserver.crt"

    @property
    def admin_kubeconfig(self) -> Path:
        """The kubeconfig of a member of system:masters."""
        return self.work / "kubeconfig" / "admin"

    def start(self) -> ControlPlane:
        """Start both processes, wait until the API server is ready, and give this object.

        Raises NotObtainable if there are no programs, ProcessFailed, with the end of the log, if
        one of them ends or is not ready in time. Nothing is left running then.
        """
        if self.processes:
            raise ProcessFailed("the control plane is running already")
        assets = self.assets
        self._work = self._make_work()
        try:
            etcd = self._start_etcd(assets)
            self._url = self._start_apiserver(assets, etcd)
            self._write_kubeconfig(self.admin_kubeconfig, "admin", self._admin_token)
            if self._detached:
                pids = "".join(f"{process.pid}\n" for process in reversed(self.processes))
                (self.work / "pids").write_text(pids)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End both processes and remove etcd's data, and the directory if it is a temporary one.

        Logs and kubeconfigs stay in a directory that was given. Calling it again does nothing.
        """
        try:
            while self.processes:
                # The API server before etcd, or it would complain about the missing etcd.
                self.processes.pop().stop()
        finally:
            self._url = ""
            if self._work is not None:
                unwanted = self._work if self._given is None else self._work / "etcd"
                shutil.rmtree(unwanted, ignore_errors=True)
                (self._work / "pids").unlink(missing_ok=True)

    def kubectl(
        self,
        *args: str,
        input: str | None = None,
        check: bool = True,
        kubeconfig: Path | None = None,
        timeout: float = TIMEOUT,
    ) -> str:
        """Run kubectl, as the admin or with another kubeconfig, and give its standard output.

        `input` goes to its standard input. Raises KubectlError, which holds all of its answer, if
        it fails (unless `check` is false) or takes longer than `timeout` seconds.
        """
        identity = kubeconfig if kubeconfig is not None else self.admin_kubeconfig
        answer = run_kubectl(self.assets.kubectl, identity, args, input=input, timeout=timeout)
        if check and answer.returncode != 0:
            raise KubectlError(args, answer.returncode, answer.stdout, answer.stderr)
        return answer.stdout

    def service_account_kubeconfig(self, namespace: str, name: str, bound: tuple[str, str] | None = None) -> Path:
        """Give a new kubeconfig for a service account that exists, valid for a day.

        Its token is bound to the object with that kind (Pod or Node) and name, if one is given: it names the node, and
        ends with the object. Raises KubectlError if there is no such service account or object.
        """
        binding = [f"--bound-object-kind={bound[0]}", f"--bound-object-name={bound[1]}"] if bound else []
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", "--duration=24h", *binding)
        path = self.work / "kubeconfig" / ".".join((namespace, name, *(bound or ())))
        self._write_kubeconfig(path, f"{namespace}.{name}", token.strip())
        return path

    def __enter__(self) -> ControlPlane:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._detached:
            self.stop()

    def _make_work(self) -> Path:
        if self._given is None:
            return Path(tempfile.mkdtemp(prefix="registry-mirror-operator-"))
        self._given.mkdir(parents=True, exist_ok=True)
        return self._given.resolve()

    def _write_kubeconfig(self, path: Path, user: str, token: str) -> None:
        write_kubeconfig(path, self.url, self.ca_file.read_text(), user, token)

    def _start_etcd(self, assets: Assets) -> str:
        def command(port: int) -> list[str]:
            client = f"http://127.0.0.1:{port}"
            return [
                str(assets.etcd),
                f"--data-dir={self.work / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                "--listen-peer-urls=http://127.0.0.1:0",
                # Only a crash of the machine could lose data by it, and this data is for a test.
                "--unsafe-no-fsync",
            ]

        def serves(process: Process, port: int) -> bool:
            # Its own log, as another etcd may have been faster in taking the port.
            return _ETCD_SERVES in process.log_path.read_text(errors="replace")

        return f"http://127.0.0.1:{self._start_on_free_port('etcd', command, serves)}"

    def _start_apiserver(self, assets: Assets, etcd: str) -> str:
        pki = self.work / "pki"
        key, tokens = pki / "service-account.key", pki / "tokens.csv"
        write_private(key, new_signing_key())
        write_private(tokens, f'{self._admin_token},admin,admin,"system:masters"\n')

        def command(port: int) -> list[str]:
            return [
                str(assets.kube_apiserver),
                f"--etcd-servers={etcd}",
                f"--cert-dir={pki}",
                f"--secure-port={port}",
                "--bind-address=127.0.0.1",
                # Both: loopback must not, and need not, be the address of the service `kubernetes`.
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
                f"--service-cluster-ip-range={SERVICE_CIDR}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                f"--token-auth-file={tokens}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                *self._apiserver_flags,
            ]

        def ready(process: Process, port: int) -> bool:
            return _answers_ready(port, self.ca_file, self._admin_token)

        return f"https://127.0.0.1:{self._start_on_free_port('kube-apiserver', command, ready)}"

    def _start_on_free_port(self, name: str, command: Callable[[int], list[str]], ready: _Ready) -> int:
        """Start a server and wait until it is ready; on another port if somebody took the first."""
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.work)}
        log = self.work / "log" / f"{name}.log"
        attempts = _PORT_ATTEMPTS
        while True:
            attempts -= 1
            log.unlink(missing_ok=True)
            port = _free_port()
            process = Process(name, command(port), env, log, detached=self._detached)
            self.processes.append(process.start())
            if _wait_until_ready(process, port, ready):
                return port
            if attempts == 0 or _PORT_TAKEN not in process.tail(200):
                raise process.failure("ended while it was starting")
            self.processes.remove(process)
            process.stop()


def _wait_until_ready(process: Process, port: int, ready: _Ready) -> bool:
    """Whether it became ready, False if it ended; raises ProcessFailed when it takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT
    while process.alive():
        if ready(process, port):
            return process.alive()
        if time.monotonic() > deadline:
            raise process.failure(f"was not ready after {READY_TIMEOUT:g} s")
        time.sleep(_POLL)
    return False


def _answers_ready(port: int, ca_file: Path, token: str) -> bool:
    """Whether /readyz says so. http.client, as urllib would heed the user's proxy settings."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
        try:
            connection.request("GET", "/readyz", headers={"Authorization": f"Bearer {token}"})
            return connection.getresponse().status == http.HTTPStatus.OK
        finally:
            connection.close()
    except (OSError, http.client.HTTPException):
        # Not listening yet, or its certificate is not there, not whole, or a stale one.
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
