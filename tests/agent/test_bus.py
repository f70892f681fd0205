"""A service manager that is not there, hangs, or talks nonsense: said in time, and never waited for without end."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_mirror.agent.service import ServiceError, Unit, manager
from registry_mirror.agent.service.systemd import SOCKETS, Systemd
from tests.agent import trees

TIMEOUT = 0.3
OK = b"OK 0123456789abcdef0123456789abcdef\r\n"
Talk = Callable[[socket.socket], None]


def _log_in(client: socket.socket) -> None:
    """Answer the log-in; the first call may come with it."""
    data = b""
    while b"BEGIN\r\n" not in data:
        read = client.recv(4096)
        if not read:
            raise ConnectionResetError
        data += read
    client.sendall(OK)


def _hello_never_answered(client: socket.socket) -> None:
    _log_in(client)
    client.recv(4096)


def _answer(client: socket.socket, data: bytes) -> None:
    _log_in(client)
    client.recv(4096)
    client.sendall(data)


def _for_ever(client: socket.socket) -> None:
    """Signals without end, and never the answer."""
    from jeepney import DBusAddress, new_signal

    _log_in(client)
    signal = new_signal(DBusAddress("/a", interface="a.b"), "Said", "s", ("something",)).serialise(serial=1)
    while True:
        client.sendall(signal)


def _refuse(client: socket.socket) -> None:
    client.recv(4096)
    client.sendall(b"REJECTED EXTERNAL\r\n")


def _no_line(client: socket.socket) -> None:
    while True:
        client.sendall(b"x" * 1000)


def _silent(client: socket.socket) -> None:
    client.recv(1)


TALKS: dict[str, tuple[Talk, str]] = {
    "accepts and is silent": (_silent, "ServiceManagerTimeout"),
    "never answers the first call": (_hello_never_answered, "ServiceManagerTimeout"),
    "answers with signals only": (_for_ever, "ServiceManagerTimeout"),
    "refuses us": (_refuse, "ServiceManagerFailed"),
    "goes on without a line's end": (_no_line, "ServiceManagerFailed"),
    "hangs up": (lambda client: None, "ServiceManagerFailed"),
    "hangs up after the log-in": (_log_in, "ServiceManagerFailed"),
    "answers with no message": (lambda client: _answer(client, b"\xff" * 64), "ServiceManagerFailed"),
    "announces 4 GB": (
        lambda client: _answer(client, b"l\x02\x00\x01" + struct.pack("<III", 2**32 - 1, 1, 2**32 - 1)),
        "ServiceManagerFailed",
    ),
}

NOT_LET_IN = ("refuses us", "goes on without a line's end")


class Server:
    """Listens where systemd or D-Bus would, and treats every connection the same way."""

    def __init__(self, root: Path, name: str, talk: Talk) -> None:
        path = root / name
        path.parent.mkdir(parents=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._talk = talk
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._over.is_set():
            client, _ = self._listener.accept()
            with client:
                client.settimeout(5)
                try:
                    self._talk(client)
                    if self._talk in (_silent, _hello_never_answered):
                        self._over.wait(5)
                except OSError:
                    pass

    def stop(self) -> None:
        """End it."""
        self._over.set()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._listener.getsockname())
        self._thread.join()
        self._listener.close()


@pytest.mark.parametrize("talk", TALKS)
def test_a_bus_that_does_not_do_its_work(tmp_path: Path, talk: str) -> None:
    behaviour, reason = TALKS[talk]
    before = trees.descriptors()
    server = Server(tmp_path, SOCKETS[0][0], behaviour)
    try:
        for _ in range(3):
            with pytest.raises(ServiceError) as caught:
                Systemd(tmp_path, timeout=TIMEOUT).restart("containerd.service")
            assert caught.value.reason == reason
            assert ("does not let us in" in caught.value.message) == (talk in NOT_LET_IN)
    finally:
        server.stop()
    assert trees.descriptors() == before


def test_a_queue_that_is_full_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "run/systemd/private"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        with pytest.raises(ServiceError) as caught:
            Systemd(tmp_path, timeout=TIMEOUT).unit("x.service")
    assert caught.value.reason == "ServiceManagerTimeout"


def test_no_socket_and_nobody_behind_it(tmp_path: Path) -> None:
    assert manager(tmp_path) is None
    with pytest.raises(ServiceError) as caught:
        Systemd(tmp_path).unit("x.service")
    assert caught.value.reason == "ServiceManagerNotFound"
    path = tmp_path / SOCKETS[0][0]
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    found = manager(tmp_path)
    assert found is not None
    assert found.kind == "systemd"
    with pytest.raises(ServiceError) as caught:
        found.unit("x.service")
    assert caught.value.reason == "ServiceManagerFailed"


def test_d_bus_beside_openrc_is_no_systemd(tmp_path: Path) -> None:
    path = tmp_path / SOCKETS[0][0]
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    (tmp_path / "run/openrc").mkdir()
    assert manager(tmp_path) is None


def test_a_file_in_its_place_is_no_service_manager(tmp_path: Path) -> None:
    trees.put(tmp_path, f"/{SOCKETS[0][0]}", "a file")
    assert manager(tmp_path) is None


@pytest.mark.parametrize("name", ["a\0b.service", "\udc80.service"])
def test_a_name_that_cannot_be_sent(tmp_path: Path, name: str) -> None:
    server = Server(tmp_path, SOCKETS[1][0], _log_in)
    with pytest.raises(ServiceError):
        Systemd(tmp_path, timeout=TIMEOUT).restart(name)
    server.stop()


def test_a_unit_does_not_show_what_it_may_hold() -> None:
    unit = Unit(name="k3s.service", environment=("K3S_TOKEN=secret",), exec_start=("k3s", "--token", "secret"))
    assert "secret" not in repr(unit)
    assert "secret" not in f"{unit}"
