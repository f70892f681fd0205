"""An agent that ends tells an uninstall from everything else that ends a Pod."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from registry_mirror.agent.leave import uninstalled
from registry_mirror.kube.rest import Connection, Rest
from tests.agent.server import Answer, Request, Server

THERE = 200, json.dumps({"metadata": {"name": "n"}}).encode()
GOING = 200, json.dumps({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}}).encode()
GONE, NO_ACCOUNT, NO_RIGHTS, BROKEN = ((status, b"{}") for status in (404, 401, 403, 500))


@contextmanager
def answers(*found: Answer) -> Iterator[Rest]:
    """An API server that gives those answers one after the other, and the last one for ever."""
    left = list(found)

    def answer(request: Request) -> Answer:
        assert request.path.endswith("/noderegistryconfigs/n")
        return left.pop(0) if len(left) > 1 else left[0]

    server = Server(answer)
    try:
        yield Rest(Connection(server=server.url, token="t"))
    finally:
        server.close()


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([GONE], True),
        ([GOING], True),
        ([NO_ACCOUNT], True),
        ([NO_RIGHTS], True),
        ([THERE, THERE, THERE, NO_RIGHTS, NO_ACCOUNT, GONE], True),
        ([THERE], False),
        ([BROKEN], False),
        ([NO_RIGHTS, NO_RIGHTS, THERE], False),
        ([GONE, BROKEN, GONE, THERE], False),
    ],
)
def test_it_is_an_uninstall_where_the_object_or_the_rights_are_gone(found: list[Answer], expected: bool) -> None:
    clock = Clock()
    with answers(*found) as rest:
        assert uninstalled(rest, "n", 10.0, lambda: clock.now, clock.sleep) is expected
    assert clock.now <= 13


def test_without_an_api_server_nothing_is_known() -> None:
    clock = Clock()
    rest = Rest(Connection(server="https://127.0.0.1:1", token="t"))

    assert not uninstalled(rest, "n", 3.0, lambda: clock.now, clock.sleep)


def test_what_begins_late_is_seen_to_its_end() -> None:
    clock = Clock()
    with answers(*[THERE] * 10, GONE) as rest:
        assert uninstalled(rest, "n", 10.0, lambda: clock.now, clock.sleep)
