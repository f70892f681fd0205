"""One conversation with systemd over D-Bus, in which nothing is waited for without a limit.

jeepney's own connections wait without one for the answer to their first call.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ServiceError, plain

if TYPE_CHECKING:
    from jeepney import Message, Parser

NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
UNIT_EXISTS = "org.freedesktop.systemd1.UnitExists"
UNKNOWN_PROPERTIES = ("org.freedesktop.DBus.Error.PropertyReadOnly", "org.freedesktop.DBus.Error.UnknownProperty")

_Answer = TypeVar("_Answer")

_SYSTEMD = "org.freedesktop.systemd1"
_NO_SYSTEMD = ("org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner")
_NO_REPLY = ("org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.TimedOut")
_NO_AUTO_START = 2
_MAX_ANSWER = 16 * 1024 * 1024
_MAX_LINE = 8192
_CHUNK = 64 * 1024


class RefusedError(Exception):
    """systemd answered with an error; ``name`` is that of D-Bus, ``text`` is fit for a message."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


class Bus:
    """A connection, to be used as a context manager. Takes the socket, whether a bus is behind it (or systemd itself),
    and how many seconds each call may take. Every method raises ServiceError.
    """

    def __init__(self, path: Path, *, bus: bool, timeout: float) -> None:
        self._path = path
        self._bus = bus
        self._timeout = timeout
        self._deadline = 0.0
        self._serial = 0
        self._socket: socket.socket | None = None
        self._parser: Parser

    def __enter__(self) -> Bus:
        self._guarded(self._connect)
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def call(self, path: str, interface: str, member: str, signature: str = "", *body: object) -> tuple[Any, ...]:
        """Call a method of systemd and give what it returns. Raises RefusedError too."""
        try:
            return self._guarded(lambda: self._call(_SYSTEMD, path, interface, member, signature, body))
        except RefusedError as error:
            if error.name in _NO_SYSTEMD:
                raise ServiceError("ServiceManagerNotFound", "there is no systemd on the host's D-Bus") from None
            if error.name in _NO_REPLY:
                raise self._late() from None
            raise

    def _guarded(self, action: Callable[[], _Answer]) -> _Answer:
        """Do something within the time for one call, and close the connection if that fails."""
        self._deadline = time.monotonic() + self._timeout
        try:
            return action()
        except RefusedError:
            raise
        except BlockingIOError:  # what a socket with a time limit says when that is reached
            self.__exit__()
            raise self._late() from None
        except OSError as error:
            self.__exit__()
            reason = "ServiceManagerNotFound" if isinstance(error, FileNotFoundError) else "ServiceManagerFailed"
            raise ServiceError(reason, f"{self._path}: {error.strerror or type(error).__name__}") from None
        except (ValueError, TypeError, IndexError, KeyError, struct.error) as error:
            self.__exit__()
            text = f"{self._path}: what came or went is no message of D-Bus ({type(error).__name__})"
            raise ServiceError("ServiceManagerFailed", text) from None

    def _late(self) -> ServiceError:
        text = f"{self._path}: systemd did not answer within {self._timeout:g} s"
        return ServiceError("ServiceManagerTimeout", text)

    # ---- the socket ----------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        from jeepney import Parser

        self._parser = Parser()
        # By this name, because an address has 107 bytes at most (unix(7)).
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._limit(socket.SO_SNDTIMEO).connect(f"/proc/self/fd/{directory}/{self._path.name}")
        finally:
            os.close(directory)
        self._log_in()
        if self._bus:
            bus = "org.freedesktop.DBus"
            self._call(bus, "/org/freedesktop/DBus", bus, "Hello", "", ())

    def _log_in(self) -> None:
        """Say who we are, which the kernel confirms (D-Bus specification, EXTERNAL).

        All in one piece, as systemd's own clients do it: systemd 252 never looks at a first message that comes together
        with BEGIN, and so jeepney's way hangs now and then.
        """
        self._send(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\nBEGIN\r\n")
        answer = b""
        while b"\r\n" not in answer and len(answer) < _MAX_LINE:
            answer += self._receive()
        line, _, rest = answer.partition(b"\r\n")
        if not line.startswith(b"OK "):
            raise PermissionError(errno.EACCES, "D-Bus does not let us in: the agent has to run as root of the host")
        self._parser.add_data(rest)

    def _limit(self, option: int) -> socket.socket:
        left = max(self._deadline - time.monotonic(), 0.001)  # 0 would be no limit
        if self._socket is None:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        seconds = int(left)
        self._socket.setsockopt(
            socket.SOL_SOCKET, option, struct.pack("@ll", seconds, int((left - seconds) * 1_000_000))
        )
        return self._socket

    def _send(self, data: bytes) -> None:
        while data:
            self._check_time()
            data = data[self._limit(socket.SO_SNDTIMEO).send(data, socket.MSG_NOSIGNAL) :]

    def _receive(self) -> bytes:
        self._check_time()
        data = self._limit(socket.SO_RCVTIMEO).recv(_CHUNK)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return data

    def _check_time(self) -> None:
        if time.monotonic() >= self._deadline:
            raise BlockingIOError

    # ---- messages ------------------------------------------------------------------------------------------------

    def _call(
        self, destination: str, path: str, interface: str, member: str, signature: str, body: tuple[object, ...]
    ) -> tuple[Any, ...]:
        from jeepney import DBusAddress, HeaderFields, MessageFlag, MessageType, new_method_call

        address = DBusAddress(path, bus_name=destination, interface=interface)
        message = new_method_call(address, member, signature or None, body)
        # Else D-Bus would have systemd started where it is not what booted.
        message.header.flags = MessageFlag(_NO_AUTO_START)
        self._serial += 1
        self._send(message.serialise(serial=self._serial))
        answer = self._answer()
        if answer.header.message_type == MessageType.error:
            name = str(answer.header.fields.get(HeaderFields.error_name, ""))
            raise RefusedError(name, plain(str(answer.body[0]) if answer.body else name))
        return tuple(answer.body)

    def _answer(self) -> Message:
        """Wait for what answers our last message; anything else, such as signals, is dropped."""
        from jeepney import HeaderFields, MessageType

        read = 0
        while True:
            while (message := self._parser.get_next_message()) is not None:
                ours = message.header.fields.get(HeaderFields.reply_serial) == self._serial
                if ours and message.header.message_type in (MessageType.method_return, MessageType.error):
                    return message
            data = self._receive()
            read += len(data)
            if read > _MAX_ANSWER:
                raise ValueError("too long")
            self._parser.add_data(data)
