"""Changes by others are told of at once, those in directories that came later too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_mirror.agent.watch import Watch

_SOON = 30.0


@pytest.fixture
def told() -> threading.Event:
    """Set when a change was told of."""
    return threading.Event()


@pytest.fixture
def watch(tmp_path: Path, told: threading.Event) -> Iterator[Watch]:
    """A watch on two directories, of which one exists."""
    (tmp_path / "etc").mkdir()
    found = Watch(tmp_path, told.set)
    found.set(["/etc", "/etc/later"])
    yield found
    found.close()


def test_every_kind_of_change_is_told_of(tmp_path: Path, watch: Watch, told: threading.Event) -> None:
    file = tmp_path / "etc/file"
    for change in (
        lambda: file.write_text("new"),
        lambda: file.write_text("other"),
        lambda: file.chmod(0o600),
        lambda: file.rename(tmp_path / "etc/moved"),
        lambda: (tmp_path / "etc/moved").unlink(),
    ):
        told.clear()
        change()
        assert told.wait(_SOON)


def test_a_directory_that_came_later_is_watched_once_it_is_said_again(
    tmp_path: Path, watch: Watch, told: threading.Event
) -> None:
    (tmp_path / "etc/later").mkdir()
    assert told.wait(_SOON)
    watch.set(["/etc/later"])
    told.clear()
    (tmp_path / "etc/later/file").write_text("x")
    assert told.wait(_SOON)


def test_a_directory_that_was_exchanged_is_watched_again(tmp_path: Path, watch: Watch, told: threading.Event) -> None:
    (tmp_path / "etc/later").mkdir()
    watch.set(["/etc/later"])
    (tmp_path / "etc/later").rename(tmp_path / "etc/away")
    (tmp_path / "etc/later").mkdir()
    watch.set(["/etc/later"])
    told.clear()
    (tmp_path / "etc/later/file").write_text("x")
    assert told.wait(_SOON)


def test_what_is_not_watched_any_more_is_not_told_of(tmp_path: Path, watch: Watch, told: threading.Event) -> None:
    (tmp_path / "etc/later").mkdir()
    watch.set(["/etc/later"])
    told.wait(0.5)
    told.clear()
    (tmp_path / "etc/file").write_text("x")
    assert not told.wait(0.7)
    (tmp_path / "etc/later/file").write_text("x")
    assert told.wait(_SOON)
