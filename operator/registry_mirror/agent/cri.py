"""The container runtime's own answers (CRI), asked for by a child process each time.

gRPC takes 22 MB of memory, more than all the rest of the agent, and is needed around restarts only. A child that hangs
with its runtime is ended at its deadline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from ..api.errors import TransientError
from .service.errors import plain

_TIMEOUT = 10.0
_GRACE = 5.0  # for the interpreter to start, and to say that the time is over
_CHILD = "registry_mirror.agent.cri_child"


class RuntimeAnswerError(TransientError):
    """The runtime does not answer, or refuses; the message has its words.

    The reason is RuntimeNotAnswering, or ImageNotPulled where a pull was answered with an error.
    """


class Health(Struct, frozen=True, kw_only=True):
    """What a runtime says of itself: its name and version, whether it is ready (Status, RuntimeReady) and else why not,
    and whether it lists its images.
    """

    name: str = ""
    version: str = ""
    ready: bool = False
    message: str = ""
    images: bool = False


class _Answer(Struct, frozen=True, kw_only=True):
    error: str = ""
    refused: bool = False
    health: Health | None = None
    busy: int = 0
    image: str = ""
    present: bool = False


class Runtime:
    """A runtime behind its CRI socket."""

    def __init__(self, socket: Path, timeout: float = _TIMEOUT) -> None:
        """Take the socket's path as this process sees it, and how long an answer may take, in seconds."""
        self._socket = socket
        self._timeout = timeout

    def health(self) -> Health:
        """Ask for Version, Status and ListImages (in containerd 2, images are a plugin of their own). Raises
        RuntimeAnswerError if the first of them is not answered.
        """
        found = self._ask("health").health
        assert found is not None  # else there was an error
        return found

    def busy(self) -> int:
        """Give how many containers were made in the last minute and have not been started yet. Raises
        RuntimeAnswerError.
        """
        return self._ask("busy").busy

    def pull(self, image: str, timeout: float) -> str:
        """Have an image pulled as for a pod without secrets; gives its id. Raises RuntimeAnswerError."""
        return self._ask("pull", image, timeout=timeout).image

    def has(self, image: str) -> bool:
        """Tell whether an image is there by its name. Raises RuntimeAnswerError."""
        return self._ask("has", image).present

    def _ask(self, *question: str, timeout: float | None = None) -> _Answer:
        limit = self._timeout if timeout is None else timeout
        argv = [sys.executable, "-P", "-m", _CHILD, os.fspath(self._socket), f"{limit:g}", *question]
        # Nothing of the agent's own environment: it may hold a token, and proxies must not stand before a socket.
        keep = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
        # -P: nothing is imported from the working directory. In a group of its own, so that all of it can be ended.
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=keep, start_new_session=True
        ) as child:
            try:
                output, _ = child.communicate(timeout=limit + _GRACE)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                raise RuntimeAnswerError("RuntimeNotAnswering", f"no answer within {limit:g} s") from None
        try:
            answer = msgspec.json.decode(output, type=_Answer)
        except msgspec.MsgspecError:
            text = f"the question could not be asked (exit code {child.returncode})"
            raise RuntimeAnswerError("RuntimeNotAnswering", text) from None
        if answer.error:
            reason = "ImageNotPulled" if answer.refused and question[0] == "pull" else "RuntimeNotAnswering"
            raise RuntimeAnswerError(reason, plain(answer.error))
        return answer
