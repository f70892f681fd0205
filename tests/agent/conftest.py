"""What several of the agent's tests need."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory, in memory if there is one: hundreds of fsyncs are slow."""
    shared = Path("/dev/shm")
    where = Path(tempfile.mkdtemp(prefix="registry-mirror-test-", dir=shared if os.access(shared, os.W_OK) else None))
    yield where
    shutil.rmtree(where)
