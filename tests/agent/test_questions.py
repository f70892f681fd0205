"""How often one pass asks systemd how the runtime is started: once, over a real socket, with the agent's own code."""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from jeepney import HeaderFields, Message, Parser, new_error, new_method_return

from registry_mirror.agent.build import proxies_of
from registry_mirror.agent.clock import BootClock
from registry_mirror.agent.engine import Engine, Pass
from registry_mirror.agent.host import Host
from registry_mirror.agent.live import SOCKETS as RUNTIME_SOCKETS, Live
from registry_mirror.agent.node import Node
from registry_mirror.agent.prober import Prober
from registry_mirror.agent.proxies import Proxies
from registry_mirror.agent.service.systemd import SOCKETS, Systemd
from registry_mirror.api.models import Metadata, NodeRegistryConfig, RuntimeName
from tests.agent import trees
from tests.agent.test_node import Store

FILE = "/etc/systemd/system/k3s.service.env"
TOML = "/etc/containerd/config.toml"
UNITS: dict[RuntimeName, str] = {"k3s": "k3s.service", "containerd": "containerd.service"}
OK = b"OK 0123456789abcdef0123456789abcdef\r\n"


class Bus:
    """A systemd that knows every service, each with the same file of variables; counts what it is asked for."""

    def __init__(self, root: Path) -> None:
        self.asked: collections.Counter[str] = collections.Counter()
        self.refuses = False
        path = root / SOCKETS[0][0]
        path.parent.mkdir(parents=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._over = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._over:
            client, _ = self._listener.accept()
            with client, contextlib.suppress(OSError):
                client.settimeout(30)
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        data = b""
        while b"BEGIN\r\n" not in data:
            if not (more := client.recv(4096)):
                return
            data += more
        client.sendall(OK)
        parser, serial = Parser(), 0
        parser.add_data(data.partition(b"BEGIN\r\n")[2])
        while True:
            while (message := parser.get_next_message()) is not None:
                serial += 1
                client.sendall(self._answer(message).serialise(serial=serial))
            if not (more := client.recv(4096)):
                return
            parser.add_data(more)

    def _answer(self, message: Message) -> Message:
        member = message.header.fields[HeaderFields.member]
        if member == "Hello":
            return new_method_return(message, "s", (":1.1",))
        if member == "LoadUnit":
            self.asked[message.body[0]] += 1
            if self.refuses:
                return new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "s", ("no",))
            return new_method_return(message, "o", ("/org/freedesktop/systemd1/unit/one",))
        assert member == "GetAll"
        if message.body[0].endswith(".Unit"):
            values: dict[str, tuple[str, object]] = {
                "LoadState": ("s", "loaded"),
                "ActiveState": ("s", "active"),
                "SubState": ("s", "running"),
                "ActiveEnterTimestamp": ("t", 1),
            }
        else:
            values = {"EnvironmentFiles": ("a(sb)", [(FILE, True)])}
        return new_method_return(message, "a{sv}", (values,))

    def stop(self) -> None:
        """End it."""
        self._over = True
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._listener.getsockname())
        self._thread.join()
        self._listener.close()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    """The bus of the node at tmp_path."""
    made = Bus(tmp_path)
    yield made
    made.stop()


def _passes(root: Path, runtime: RuntimeName, live: Live) -> Iterator[Proxies]:
    """The passes of one agent; gives the proxies that each finds."""
    host, found = Host(root), list[Proxies]()

    def proxies(done: Pass) -> Proxies:
        found.append(proxies_of(done, host))
        return found[-1]

    def refuse(*_: object) -> None:
        raise AssertionError("nothing is to be tested")

    service = Systemd(root)
    engine = Engine(host, runtime, BootClock(), lambda *_: None, lambda: (live,), service.unit)
    node = Node(engine, Store(), "bundles", Prober(refuse, lambda: None), proxies, lambda _: None)
    config = NodeRegistryConfig(metadata=Metadata(name="n", uid="u", generation=1))
    while True:
        _, problem = node.reconcile(config, "2024-01-01T00:00:00Z")
        if problem is not None:
            raise problem
        yield found.pop()
        assert found == []


def _live(runtime: RuntimeName, **fields: object) -> Live:
    values = {"state": "Listening", "unit": UNITS[runtime], **fields}
    return Live(name=runtime, socket=RUNTIME_SOCKETS[runtime], **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("runtime", "config_file"),
    [("k3s", ""), ("containerd", ""), ("containerd", TOML)],
    ids=["K3s", "containerd", "containerd whose arguments are known"],
)
def test_a_pass_asks_once_and_the_next_one_again(
    tmp_path: Path, bus: Bus, runtime: RuntimeName, config_file: str
) -> None:
    trees.put(tmp_path, TOML, "version = 3\n")
    passes = _passes(tmp_path, runtime, _live(runtime, config_file=config_file))
    for count, proxy in enumerate(("http://one", "http://two", ""), 1):
        trees.put(tmp_path, FILE, f"HTTPS_PROXY={proxy}\n")
        assert next(passes) == Proxies({"HTTPS_PROXY": proxy})
        assert bus.asked == {UNITS[runtime]: count}


def test_a_runtime_in_no_service_is_asked_for_by_its_usual_ones_alone(tmp_path: Path, bus: Bus) -> None:
    trees.put(tmp_path, "/etc/rancher/k3s/config.yaml")
    assert next(_passes(tmp_path, "k3s", _live("k3s", unit=""))) == Proxies({})
    assert bus.asked == {"k3s.service": 1}


def test_where_systemd_refuses_there_are_no_proxies(tmp_path: Path, bus: Bus) -> None:
    trees.put(tmp_path, TOML, "version = 3\n")
    bus.refuses = True
    assert next(_passes(tmp_path, "containerd", _live("containerd", config_file=TOML))) == Proxies({})
