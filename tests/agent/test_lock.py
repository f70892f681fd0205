"""Two agents on one node would write under the same temporary names: the second waits until the first is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from registry_mirror.agent.host import Host, HostError
from registry_mirror.agent.state import LOCK

HOLD = """
import sys, time
from pathlib import Path
from registry_mirror.agent.host import Host
from registry_mirror.agent.state import LOCK
with Host(Path(sys.argv[1])).alone(LOCK, lambda: print("waiting", flush=True)):
    print("alone", flush=True)
    time.sleep(60)
"""


def holder(root: Path) -> subprocess.Popen[str]:
    """A process that holds the lock as soon as it gets it."""
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "operator")}
    return subprocess.Popen([sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True, env=environment)


def test_a_second_agent_waits_until_the_first_has_died(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "alone\n"
        with holder(tmp_path) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waiting\n"
            first.kill()
            assert second.stdout.readline() == "alone\n"
            second.kill()


def test_the_lock_is_free_after_a_crash(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "alone\n"
        first.kill()
    waited: list[bool] = []
    with Host(tmp_path).alone(LOCK, lambda: waited.append(True)):
        assert waited == []


def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / LOCK.lstrip("/")
    lock.parent.mkdir(parents=True)
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="symbolic link"), Host(tmp_path).alone(LOCK, lambda: None):
        pass
    assert not (tmp_path / "elsewhere").exists()
